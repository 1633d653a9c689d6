//! The progress line: figures of the last tick, rewritten in place on standard error during a run.
//!
//! Only on a terminal; a log file gets no lines. It runs on a thread of its own, which mostly sleeps.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::report::text::{count, microseconds};
use crate::report::timeline::{Tick, Timeline};

/// Shortest time between updates.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// Returns to the start of the line and clears it.
const CLEAR: &str = "\r\x1b[K";

/// The thread and the channel that ends it. `None` without a terminal.
#[derive(Debug)]
pub(crate) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// Shows the latest tick of `timeline` until stopped. `unit` is the unit of the count.
    pub(crate) fn start(timeline: Arc<Timeline>, unit: &'static str) -> Progress {
        if !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let (stop, stopped) = channel();
        let interval = timeline.tick().max(INTERVAL_MIN);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                if let Some((tick, faults, measured)) = timeline.latest() {
                    show(&line(&tick, faults, measured, unit));
                }
            }
            show("");
        });
        Progress(Some((stop, thread)))
    }

    /// Stops the thread and clears the line.
    pub(crate) fn stop(self) {
        if let Some((stop, thread)) = self.0 {
            drop(stop);
            // The thread can only panic on a failed write, which need not fail the run.
            let _ = thread.join();
        }
    }
}

/// Ignores write errors: a lost terminal need not end the run.
fn show(line: &str) {
    let mut terminal = std::io::stderr();
    let _ = write!(terminal, "{CLEAR}{line}").and_then(|()| terminal.flush());
}

fn line(tick: &Tick, faults: u64, measured: bool, unit: &str) -> String {
    let phase = if measured { "measuring" } else { "warming up" };
    let (rate, connections) = (count(tick.per_second as u64), count(tick.connections));
    let (p50, p99) = (microseconds(tick.p50_us), microseconds(tick.p99_us));
    let (at_s, faults, cpus) = (tick.at_s, count(faults), tick.client_cpus);
    [
        format!("{at_s:>6.1} s  {phase}  {rate} {unit}/s  {connections} connections  "),
        format!("p50 {p50}  p99 {p99}  {faults} faults  client CPU {cpus:.2}"),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_all_figures_of_a_tick() {
        let tick = Tick {
            at_s: 3.25,
            per_second: 114_154.4,
            p50_us: 5947.0,
            p99_us: 11_141.0,
            connections: 1000,
            faults: 2,
            client_cpus: 0.934,
        };
        assert_eq!(
            line(&tick, 12, true, "deliveries"),
            "   3.2 s  measuring  114,154 deliveries/s  1,000 connections  p50 5.95 ms  p99 11.1 ms  12 faults  \
             client CPU 0.93"
        );
    }
}
