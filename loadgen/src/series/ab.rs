//! Compares two servers in alternating runs: pairs of runs that follow each other see the same state of the machine, so
//! the ratio within a pair says more than two medians.

use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

use crate::cli::{AbOptions, Arguments};
use crate::error::Error;
use crate::report::text::three_digits;
use crate::report::{Report, Verdict};
use crate::series::child::{self, COMPARED, Compared};
use crate::series::statistics::{interval, median};

/// Longest time until a server accepts connections, and until it has ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between looks whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// One of the two servers.
struct Side {
    name: &'static str,
    /// Starts the server; `None` if it runs already.
    start: Option<String>,
    /// The arguments of the run.
    arguments: Vec<String>,
    /// Where the server listens.
    address: std::net::SocketAddr,
}

/// Runs all rounds and prints the table.
///
/// # Errors
/// If a server does not start, or a run has faults or can't be measured.
pub(crate) fn run(options: &AbOptions) -> Result<(), Error> {
    let sides = [
        Side::new("A", options.start_a.as_ref(), &options.only_a, &options.scenario)?,
        Side::new("B", options.start_b.as_ref(), &options.only_b, &options.scenario)?,
    ];
    let mut pairs: Vec<[Report; 2]> = Vec::new();
    for round in 0..options.rounds {
        // The order alternates, too: what the first run leaves behind meets each side as often.
        let first = (round % 2) as usize;
        let one = sides[first].run()?;
        let other = sides[1 - first].run()?;
        let pair = if first == 0 { [one, other] } else { [other, one] };
        eprintln!("round {} of {}: {}", round + 1, options.rounds, words(&pair));
        pairs.push(pair);
    }
    print!("{}", table(&pairs));
    Ok(())
}

impl Side {
    fn new(name: &'static str, start: Option<&String>, only: &str, scenario: &[String]) -> Result<Side, Error> {
        let more = only.split_whitespace().map(str::to_owned);
        let arguments: Vec<String> = scenario.iter().cloned().chain(more).collect();
        let all = ["loadgen".to_owned()].into_iter().chain(arguments.iter().cloned());
        let wrong = |error: String| Error::new(format!("the run of {name}: {error}"));
        let task = Arguments::try_parse_from(all).map_err(|error| wrong(crate::usage_error(&error)))?.task;
        let common = task.common().ok_or_else(|| wrong("it is no scenario".to_owned()))?;
        let address = common.url.resolve()?;
        Ok(Side { name, start: start.cloned(), arguments, address })
    }

    /// One run, with a server of its own if this side starts one.
    fn run(&self) -> Result<Report, Error> {
        let Some(start) = &self.start else { return child::run(&self.arguments) };
        let server = Server::start(start, self.address).map_err(|why| Error::new(format!("{}: {why}", self.name)))?;
        let pid = ["--server-pid".to_owned(), server.0.id().to_string()];
        child::run(&[&self.arguments[..], &pid].concat())
    }
}

/// A running server. It gets SIGTERM in the end.
struct Server(Child);

impl Server {
    /// Starts the command and waits until something listens at `address`.
    fn start(command: &str, address: std::net::SocketAddr) -> Result<Server, String> {
        if TcpStream::connect(address).is_ok() {
            return Err(format!("another program listens at {address} already"));
        }
        // exec, so that the process is the server and not the shell.
        let child = Command::new("sh").args(["-c", &format!("exec {command}")]).spawn();
        let mut server = Server(child.map_err(|error| format!("can't start {command}: {error}"))?);
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = server.0.try_wait() {
                return Err(format!("{command} ended with {status} before it listened at {address}"));
            }
            if Instant::now() > end {
                return Err(format!("{command} does not listen at {address} after {} s", PATIENCE.as_secs()));
            }
            std::thread::sleep(LOOK);
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(LOOK);
        }
        // It has ended, or does not heed SIGTERM.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The figures of a round, as ratios.
fn words(pair: &[Report; 2]) -> String {
    let ratios = COMPARED.iter().filter_map(|figure| Some((figure.name, ratio(figure, pair)?)));
    ratios.map(|(name, ratio)| format!("{name} {}", three_digits(ratio))).collect::<Vec<_>>().join(", ")
}

/// The ratio of B to A; `None` if one of them does not have the figure.
fn ratio(figure: &Compared, [a, b]: &[Report; 2]) -> Option<f64> {
    let (a, b) = ((figure.value)(a)?, (figure.value)(b)?);
    (a > 0.0).then(|| b / a)
}

fn table(pairs: &[[Report; 2]]) -> String {
    let mut lines = vec![format!(
        "  {:<14} {:>12} {:>12} {:>8}   {:<17} {}",
        "", "A (median)", "B (median)", "B / A", "95 % interval", ""
    )];
    for figure in &COMPARED {
        let ratios: Vec<f64> = pairs.iter().filter_map(|pair| ratio(figure, pair)).collect();
        if ratios.len() < pairs.len() {
            continue;
        }
        let of = |side: usize| pairs.iter().filter_map(|pair| (figure.value)(&pair[side])).collect::<Vec<_>>();
        let [a, b] = [median(&of(0)), median(&of(1))].map(figure.write);
        let [low, high] = interval(&ratios);
        let verdict = match () {
            () if low > 1.0 => "B is higher",
            () if high < 1.0 => "B is lower",
            () => "no difference",
        };
        let (name, middle) = (figure.name, median(&ratios));
        lines.push(format!("  {name:<14} {a:>12} {b:>12} {middle:>8.3}   {low:.3} to {high:.3}    {verdict}"));
    }
    let bound = pairs.iter().flatten().filter(|report| report.verdict == Verdict::ClientBound).count();
    if bound > 0 {
        let all = 2 * pairs.len();
        lines.push(format!(
            "client-bound in {bound} of {all} runs: rates and latencies there are loadgen's own; the server's CPU time is valid"
        ));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::outcome;

    /// A pair in which B needs `factor` times as much CPU time.
    fn pair(factor: f64) -> [Report; 2] {
        let mut b = Report::new(outcome());
        b.server.as_mut().unwrap().cpu_ns_each *= factor;
        [Report::new(outcome()), b]
    }

    #[test]
    fn a_difference_is_told_only_where_the_interval_does_not_span_one() {
        let factors = [1.08, 1.04, 1.05, 1.06, 1.05, 1.03, 1.07];
        let text = table(&factors.map(pair));
        let expected = "  cpu_ns_each         1.00 ms      1.05 ms    1.050   1.030 to 1.080    B is higher\n";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("  p99                 1.89 ms      1.89 ms    1.000   1.000 to 1.000    no difference\n"),
            "{text}"
        );
        assert!(!text.contains("client-bound"));
        let text = table(&[0.98, 1.04, 1.05, 1.06, 1.05, 1.03, 1.07].map(pair));
        assert!(text.contains("1.050   0.980 to 1.070    no difference"), "{text}");
        let lower = table(&[0.9; 7].map(pair));
        assert!(lower.contains("0.900   0.900 to 0.900    B is lower"), "{lower}");
    }

    #[test]
    fn a_server_that_does_not_start_is_named() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Server::start("false", address).err().unwrap();
        assert!(error.contains("false ended with") && error.contains(&address.to_string()), "{error}");
    }
}
