//! Child processes that cannot outlive their test: ended by id on drop, waited for with a deadline. When a test
//! fails, what its processes wrote to standard error is shown.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A running program whose standard output is read line by line and whose standard error is kept.
pub(crate) struct Process {
    child: Child,
    name: String,
    lines: Receiver<String>,
    errors: Arc<Mutex<String>>,
    /// Disconnected once standard error is closed and all of it is in `errors`.
    errors_open: Receiver<()>,
}

impl Process {
    /// Starts `command`; `name` is what messages call it.
    ///
    /// # Panics
    /// When the program cannot be started, naming it and the reason.
    pub(crate) fn start(name: &str, mut command: Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: cannot start {:?}: {error}", command.get_program()));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&errors);
        let (open, errors_open) = channel();
        thread::spawn(move || {
            keep_text(stderr, &kept);
            drop(open);
        });
        Process { child, name: name.to_owned(), lines, errors, errors_open }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output; `None` once the program has closed it.
    ///
    /// # Panics
    /// When no line comes within `patience`.
    pub(crate) fn next_line(&self, patience: Duration) -> Option<String> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{}: no line on standard output within {patience:?}", self.name)
            }
        }
    }

    /// All that came on standard error, of a program that has ended.
    ///
    /// # Panics
    /// When something it started holds standard error open for `patience`.
    pub(crate) fn all_errors(&self, patience: Duration) -> String {
        let closed = self.errors_open.recv_timeout(patience);
        assert_eq!(closed, Err(RecvTimeoutError::Disconnected), "{}: standard error is still open", self.name);
        self.errors_so_far()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().expect("kill can be run");
        assert!(status.success(), "{}: no process {id} to end", self.name);
    }

    /// Whether the program has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Waits for the program to end by itself.
    ///
    /// # Panics
    /// When it still runs after `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "{}: still running after {patience:?}", self.name);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the program to succeed and returns what is left of its standard output.
    ///
    /// # Panics
    /// When it fails or takes longer than `patience`; the message carries what it printed.
    pub(crate) fn succeed(mut self, patience: Duration) -> String {
        let deadline = Instant::now() + patience;
        let mut output = String::new();
        while let Some(line) = self.next_line_before(deadline, &output) {
            output.push_str(&line);
            output.push('\n');
        }
        let status = self.wait(deadline.saturating_duration_since(Instant::now()));
        assert!(status.success(), "{} failed: {status}\n{output}", self.name);
        output
    }

    fn next_line_before(&self, deadline: Instant, output: &str) -> Option<String> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{} takes too long\n{output}", self.name)
            }
        }
    }

    fn errors_so_far(&self) -> String {
        self.errors.lock().expect("no reader panics").clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the program has ended already, which is all this is for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            // It has ended; only what it started could keep this open, and is not worth waiting for.
            let _ = self.errors_open.recv_timeout(Duration::from_secs(1));
            eprintln!("--- standard error of {}:\n{}", self.name, self.errors_so_far());
        }
    }
}

fn keep_text(mut source: impl Read, kept: &Mutex<String>) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = source.read(&mut chunk) {
        kept.lock().expect("no reader panics").push_str(&String::from_utf8_lossy(&chunk[..count]));
    }
}
