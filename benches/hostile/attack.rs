//! An attack as a process of its own, which gets only the CPU time that nobody else wants.

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

/// What is done to a server.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// Flags of the server.
    pub(crate) flags: &'static [&'static str],
    /// How many do it at once.
    pub(crate) threads: usize,
    /// Does it once, and says what came of it.
    pub(crate) step: fn(&Target) -> String,
    /// What goes on in its place while there is no attack, if anything.
    pub(crate) counterpart: Option<&'static str>,
}

/// Whom it is done to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) data: SocketAddr,
    pub(crate) control: SocketAddr,
}

/// Asks the control port something, with the key: `request` is a method and a path.
pub(crate) fn ask(control: SocketAddr, request: &str, body: &[u8]) -> Response {
    let head = format!(
        "{request} HTTP/1.1\r\nHost: {control}\r\nX-API-Key: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        attacks::KEY,
        body.len()
    );
    http::exchange(control, &[head.as_bytes(), body].concat())
}

/// How often what came of it.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<String, u64>);

/// A running attack. Dropping this ends it, as does [`stop`](Attackers::stop).
pub(crate) struct Attackers(Child);

impl Attackers {
    pub(crate) fn start(name: &str, server: &Server) -> Attackers {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(std::env::current_exe().expect("this program has a path"));
        command.args([ARGUMENT, name, &server.data.to_string(), &server.control.to_string()]);
        Attackers(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("chrt can be run"))
    }

    /// Ends the attack; what came of it.
    pub(crate) fn stop(mut self) -> Tally {
        // Its standard input ends, and then it does.
        drop(self.0.stdin.take());
        let output = BufReader::new(self.0.stdout.take().expect("it is piped"));
        let mut tally = Tally::default();
        for line in output.lines() {
            let line = line.expect("lines of text");
            let (what, count) = line.rsplit_once(' ').expect("what, and how often");
            *tally.0.entry(what.to_owned()).or_default() += count.parse::<u64>().expect("a number");
        }
        tally
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An attacker's process: does the attack that is named over and over, until standard input ends.
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
                *tally.lock().expect("nobody panics with it").0.entry(outcome).or_default() += 1;
            }
        });
    }
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input can be read");
    for (what, count) in &tally.lock().expect("nobody panics with it").0 {
        println!("{what} {count}");
    }
    // Whatever the threads do.
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
