//! A server under test: started on its own CPU, reached at the addresses it prints, killed when dropped.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::{Afterwards, CLIENT_CPU};
use crate::plan::ServerPlan;

/// The CPU that servers run on.
pub(crate) const SERVER_CPU: &str = "0";

/// Longest time until a server listens.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server that is ready.
pub(crate) struct Server {
    child: Child,
    addresses: Addresses,
}

/// The addresses that a server prints.
#[derive(Debug, Default, PartialEq, Eq)]
struct Addresses {
    /// `ws://host:port` or `wss://host:port`.
    listening: Option<String>,
    /// `http://host:port`.
    control: Option<String>,
}

impl Server {
    /// Starts the server and waits until it is ready.
    ///
    /// # Errors
    /// If it can't be started, or ends before it is ready.
    pub(crate) fn start(plan: &ServerPlan) -> Result<Server, Box<dyn Error>> {
        // taskset executes the program in its own process, so its process id is the server's.
        let mut child = Command::new("taskset")
            .args(["-c", SERVER_CPU])
            .args(&plan.command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("can't start taskset: {error}"))?;
        let output = BufReader::new(child.stdout.take().ok_or("no output to read")?);
        let mut server = Server { child, addresses: Addresses::default() };
        server.addresses =
            read_addresses(output).ok_or_else(|| format!("{} ended before it was ready", plan.command.join(" ")))?;
        server.wait_until_reached()?;
        if plan.control_apart {
            server.move_control_plane()?;
        }
        Ok(server)
    }

    /// Moves all threads but the shards to the load generator's CPU.
    fn move_control_plane(&self) -> Result<(), Box<dyn Error>> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let thread = thread?;
            if fs::read_to_string(thread.path().join("comm"))?.starts_with("shard-") {
                continue;
            }
            let moving = ["-p", "-c", CLIENT_CPU].map(OsString::from).into_iter().chain([thread.file_name()]);
            let output = Command::new("taskset").args(moving).output()?;
            if !output.status.success() {
                return Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr)).into());
            }
        }
        Ok(())
    }

    /// Some servers print their address before they listen there.
    fn wait_until_reached(&self) -> Result<(), Box<dyn Error>> {
        let listening = self.listening()?;
        let (_, address) = listening.split_once("://").ok_or("the address has no scheme")?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = TcpStream::connect(address) {
            if Instant::now() > deadline {
                return Err(format!("can't connect to {listening}: {error}").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The process id of the server.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The state after a run.
    ///
    /// # Errors
    /// If the server has ended, or is not Ringfeed.
    pub(crate) fn afterwards(&self) -> Result<Afterwards, Box<dyn Error>> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let metrics = self.metrics()?;
        Ok(Afterwards {
            peak_bytes: peak_bytes(&status).ok_or("/proc has no peak of the server's memory")?,
            closed: total(&metrics, "ringfeed_connections_closed_total", "slow_consumer"),
            dropped: total(&metrics, "ringfeed_publications_dropped_total", ""),
            conflated: total(&metrics, "ringfeed_publications_conflated_total", ""),
        })
    }

    fn metrics(&self) -> Result<String, Box<dyn Error>> {
        let address = self.control()?.strip_prefix("http://").ok_or("the address does not begin with http://")?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// `ws://host:port` or `wss://host:port`.
    pub(crate) fn listening(&self) -> Result<&str, Box<dyn Error>> {
        Ok(self.addresses.listening.as_deref().ok_or("the server printed no address to connect to")?)
    }

    /// `http://host:port`.
    pub(crate) fn control(&self) -> Result<&str, Box<dyn Error>> {
        Ok(self.addresses.control.as_deref().ok_or("the server printed no address to publish at")?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peak of resident memory, from `/proc/PID/status`.
fn peak_bytes(status: &str) -> Option<u64> {
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(kilobytes.parse::<u64>().ok()? * 1024)
}

/// The sum over all rows of the metric `name` that contain `label`.
fn total(metrics: &str, name: &str, label: &str) -> u64 {
    let rows = metrics.lines().filter(|row| row.starts_with(&format!("{name}{{")) && row.contains(label));
    rows.filter_map(|row| row.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Reads the output up to the line `ready`; `None` if that line is missing.
fn read_addresses(output: impl BufRead) -> Option<Addresses> {
    let mut addresses = Addresses::default();
    for line in output.lines() {
        let line = line.ok()?;
        if line == "ready" {
            return Some(addresses);
        }
        match line.split_once(" on ") {
            Some(("listening", address)) => addresses.listening = Some(address.to_owned()),
            Some(("control", address)) => addresses.control = Some(address.to_owned()),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_after_a_run_is_parsed() {
        assert_eq!(peak_bytes("VmPeak:\t  9 kB\nVmHWM:\t   12 kB\n"), Some(12 * 1024));
        assert_eq!(peak_bytes("VmPeak:\t  9 kB\n"), None);
        let metrics = "a_total{shard=\"0\",reason=\"x\"} 3\na_total{shard=\"0\",reason=\"y\"} 4\nab_total{} 5\n";
        assert_eq!((total(metrics, "a_total", ""), total(metrics, "a_total", "\"y\"")), (7, 4));
    }

    #[test]
    fn addresses_are_read_up_to_ready() {
        let output = "a banner\nlistening on ws://127.0.0.1:1\ncontrol on http://127.0.0.1:2\nready\nlistening on x\n";
        let expected = Addresses {
            listening: Some("ws://127.0.0.1:1".to_owned()),
            control: Some("http://127.0.0.1:2".to_owned()),
        };
        assert_eq!(read_addresses(output.as_bytes()), Some(expected));
        assert_eq!(read_addresses(&b"listening on ws://127.0.0.1:1\n"[..]), None);
    }
}
