//! An attack in a process of its own, which gets only CPU time that is otherwise idle.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::attacks;
use crate::support::http::{self, Response};
use crate::support::server::Server;

/// The first argument of an attacker's process.
pub(crate) const ARGUMENT: &str = "attack";

/// An attack on a server.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// Flags of the server.
    pub(crate) flags: &'static [&'static str],
    /// Number of threads that attack at the same time.
    pub(crate) threads: usize,
    /// Runs the attack once and returns its outcome.
    pub(crate) step: fn(&Target) -> String,
    /// The name of the load that runs in its place during the other half, if any.
    pub(crate) counterpart: Option<&'static str>,
}

/// The addresses of the attacked server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) data: SocketAddr,
    pub(crate) control: SocketAddr,
}

/// Sends a request with the key to the control port: `request` is a method and a path.
pub(crate) fn ask(control: SocketAddr, request: &str, body: &[u8]) -> Response {
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {control}\r\nX-API-Key: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        attacks::KEY,
        body.len()
    );
    http::exchange(control, &[head.as_bytes(), body].concat())
}

/// The number of times each outcome occurred.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<String, u64>);

/// A running attack. It ends when dropped or by [`stop`](Attackers::stop).
pub(crate) struct Attackers(Child);

impl Attackers {
    pub(crate) fn start(name: &str, server: &Server) -> Attackers {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe().expect("this program has a path"));
        command.args([ARGUMENT, name, &server.data.to_string(), &server.control.to_string()]);
        Attackers(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("chrt can be run"))
    }

    /// Ends the attack, and returns its outcomes.
    pub(crate) fn stop(mut self) -> Tally {
        // Closing its standard input ends it.
        drop(self.0.stdin.take());
        let output = BufReader::new(self.0.stdout.take().expect("it is piped"));
        let mut tally = Tally::default();
        for line in output.lines() {
            let line = line.expect("lines of text");
            let (what, count) = line.rsplit_once(' ').expect("an outcome and its count");
            *tally.0.entry(what.to_owned()).or_default() += count.parse::<u64>().expect("a number");
        }
        tally
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The attacker's process: repeats the named attack until standard input ends.
pub(crate) fn run(arguments: &[String]) {
    let [name, data, control] = arguments else { panic!("an attack, and two addresses") };
    let target = Target { data: data.parse().expect("an address"), control: control.parse().expect("an address") };
    let attack = attacks::find(name);
    let tally = Arc::new(Mutex::new(Tally::default()));
    for _ in 0..attack.threads {
        let tally = Arc::clone(&tally);
        thread::spawn(move || {
            loop {
                let outcome = (attack.step)(&target);
                *tally.lock().expect("no thread panics while it holds the lock").0.entry(outcome).or_default() += 1;
            }
        });
    }
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input can be read");
    for (what, count) in &tally.lock().expect("no thread panics while it holds the lock").0 {
        println!("{what} {count}");
    }
    // Ends the threads, too.
    std::process::exit(0);
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        other.0.into_iter().for_each(|(what, count)| *self.0.entry(what).or_default() += count);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        f.write_str(&parts.join(", "))
    }
}
