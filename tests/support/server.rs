//! The real `ringfeed` binary, on ports the system chooses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::LazyLock;

use super::process::Process;
use super::{PATIENCE, target_dir};

/// A running server. Dropping it ends it.
pub(crate) struct Server {
    process: Process,
    /// Where WebSockets are served: the first listener.
    pub data: SocketAddr,
    /// All listeners, as they are printed.
    pub listeners: Vec<String>,
    /// Where publications are posted and metrics read.
    pub control: SocketAddr,
    /// The first listener speaks TLS.
    is_secure: bool,
}

impl Server {
    /// Starts `ringfeed serve` with two shards, free ports and `flags`; returns once it has said `ready`.
    ///
    /// # Panics
    /// When the server ends first or says nothing for [`PATIENCE`].
    pub(crate) fn start(flags: &[&str]) -> Server {
        Server::start_as(ringfeed(), flags)
    }

    /// The same for a server that may have no more than `files` files open.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub(crate) fn start_with_files(files: usize, flags: &[&str]) -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_ringfeed")]);
        Server::start_as(command, flags)
    }

    /// The same for a server that can't write what it logs.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub(crate) fn start_with_full_log() -> Server {
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 2>/dev/full", env!("CARGO_BIN_EXE_ringfeed")]);
        Server::start_as(command, &[])
    }

    /// The same for a server whose listeners are those of the configuration file at `config`, the first on IP.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub(crate) fn start_with_config(config: &Path, flags: &[&str]) -> Server {
        let config = config.to_str().expect("a path of UTF-8");
        Server::start_at(ringfeed(), &["--config", config], flags)
    }

    /// The same for a server whose first listener speaks TLS, with [`certificate`].
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub(crate) fn start_secure(flags: &[&str]) -> Server {
        Server::start_with_config(&certificate().with_file_name("tls.toml"), flags)
    }

    /// The same for the binary as `command` runs it, with these flags.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub(crate) fn start_as(command: Command, flags: &[&str]) -> Server {
        Server::start_at(command, &["--listen", "127.0.0.1:0"], flags)
    }

    fn start_at(mut command: Command, listeners: &[&str], flags: &[&str]) -> Server {
        command.arg("serve").args(listeners).args(["--control", "127.0.0.1:0", "--shards", "2"]);
        // The first ping comes at any time within the interval: only those get one who wait for it.
        command.args(["--ping-interval-ms", "0"]);
        command.args(flags);
        let process = Process::start("ringfeed", command);
        let (mut listeners, mut control) = (Vec::new(), None);
        loop {
            let Some(line) = process.next_line(PATIENCE) else {
                panic!("the server ended before it was ready");
            };
            if let Some(listener) = line.strip_prefix("listening on ") {
                listeners.push(listener.to_owned());
            } else if let Some(address) =
                line.strip_prefix("control on http://").or_else(|| line.strip_prefix("control on https://"))
            {
                control = Some(address.parse().expect("an address after control on http://"));
            } else if line == "ready" {
                let data: &String = listeners.first().expect("the data address is printed before ready");
                let (scheme, address) = data.split_once("://").expect("a URL");
                let (data, is_secure) = (address.parse().expect("an address"), scheme == "wss");
                let control = control.expect("the control address is printed before ready");
                return Server { process, data, listeners, control, is_secure };
            }
        }
    }

    /// The WebSocket URL of `path`, which starts with a slash.
    pub(crate) fn ws_url(&self, path: &str) -> String {
        match self.is_secure {
            true => format!("wss://localhost:{}{path}", self.data.port()),
            false => format!("ws://{}{path}", self.data),
        }
    }

    /// The URL of `path` on the control port.
    pub(crate) fn control_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.control)
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGTERM; the server goes on until its connections are closed.
    pub(crate) fn terminate(&self) {
        self.process.terminate();
    }

    /// Stops the server and returns all that it wrote to standard error.
    pub(crate) fn stop(mut self) -> String {
        self.terminate();
        self.process.wait(PATIENCE);
        self.process.all_errors(PATIENCE)
    }

    /// Waits for the end of a server that drains, and returns all that it wrote to standard error.
    pub(crate) fn wait_for_errors(mut self) -> String {
        self.process.wait(PATIENCE);
        self.process.all_errors(PATIENCE)
    }

    /// Waits for the end of a server that received a signal.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.wait(PATIENCE)
    }
}

/// The file of a certificate for `localhost`, made by the binary itself; beside it are its key and `tls.toml`.
pub(crate) fn certificate() -> &'static Path {
    static CERTIFICATE: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = target_dir("tls").join(std::process::id().to_string());
        let made = ringfeed().args(["cert", "--self-signed", "--out"]).arg(&dir).output().expect("the binary starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = String::from_utf8(made.stdout).expect("text").replace(":8443", ":0");
        std::fs::write(dir.join("tls.toml"), config).expect("the target directory can be written to");
        dir.join("cert.pem")
    });
    &CERTIFICATE
}

/// The binary under test, without arguments yet.
pub(crate) fn ringfeed() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringfeed"))
}
