//! Decides whether a run measured the server, or the load generator itself.
//!
//! Three signs show that this program was the bottleneck: a worker that hardly ever slept, a schedule that was not
//! kept, and received messages that waited in this program for a large part of the reported latency. The check ignores
//! the server: that it is saturated, too, does not make the figures of a saturated client valid.

use serde::{Deserialize, Serialize};

use crate::report::latency::Latencies;
use crate::report::recorder::Recorded;

/// A worker that runs or is ready to run for more than this share of the time is saturated.
const BUSY_SHARE_MAX: f64 = 0.9;

/// Largest share of the p99 latency that may be lateness of this program.
const LATENESS_SHARE_MAX: f64 = 0.1;
/// Largest share of the p99 latency that may be backlog in this program.
const BACKLOG_SHARE_MAX: f64 = 0.5;

/// Lateness and backlog up to this are allowed: any program has timer slack and scheduling delays.
const ALWAYS_ALLOWED_US: f64 = 1000.0;

/// The result of the check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SelfCheck {
    /// The load generator was the bottleneck: rate and latency do not describe the server.
    pub(crate) client_bound: bool,
    /// The reasons, in words.
    pub(crate) reasons: Vec<String>,
    /// The share of time in which the busiest worker ran on a CPU or was ready to run.
    pub(crate) busy_share: f64,
    /// Delay of publications against the schedule.
    pub(crate) lateness_p99_us: f64,
    pub(crate) lateness_max_us: f64,
    /// Time that received messages waited until a worker processed them.
    pub(crate) backlog_p99_us: f64,
    pub(crate) backlog_max_us: f64,
}

impl SelfCheck {
    /// Checks the recorded figures of a run.
    pub(crate) fn of(recorded: &Recorded) -> SelfCheck {
        let Recorded { corrected, lateness, backlog, busy_share, .. } = recorded;
        let p99_us = corrected.quantile_us(0.99);
        let mut reasons = Vec::new();
        if *busy_share > BUSY_SHARE_MAX {
            reasons.push(format!("a worker was busy {:.0} % of the time", busy_share * 100.0));
        }
        if exceeds(lateness, p99_us * LATENESS_SHARE_MAX) {
            let late_us = lateness.quantile_us(0.99);
            reasons.push(format!("it published {:.1} ms behind schedule (p99)", late_us / 1e3));
        }
        if exceeds(backlog, p99_us * BACKLOG_SHARE_MAX) {
            let waited_us = backlog.quantile_us(0.99);
            reasons.push(format!("received messages waited {:.1} ms in it (p99)", waited_us / 1e3));
        }
        SelfCheck {
            client_bound: !reasons.is_empty(),
            reasons,
            busy_share: *busy_share,
            lateness_p99_us: lateness.quantile_us(0.99),
            lateness_max_us: lateness.quantile_us(1.0),
            backlog_p99_us: backlog.quantile_us(0.99),
            backlog_max_us: backlog.quantile_us(1.0),
        }
    }
}

fn exceeds(own: &Latencies, allowed_us: f64) -> bool {
    own.quantile_us(0.99) > allowed_us.max(ALWAYS_ALLOWED_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check of a run with one message of these figures.
    fn check(latency_us: u64, lateness_us: u64, backlog_us: u64, busy_share: f64) -> SelfCheck {
        let mut recorded = Recorded { busy_share, ..Recorded::new() };
        recorded.corrected.record(latency_us * 1000);
        recorded.lateness.record(lateness_us * 1000);
        recorded.backlog.record(backlog_us * 1000);
        SelfCheck::of(&recorded)
    }

    #[test]
    fn each_sign_is_reported_alone() {
        // latency, lateness, backlog, busy share; a word of the reason
        let table = [
            (5_000, 0, 0, 0.95, "busy 95 %"),
            (5_000, 1_500, 0, 0.5, "1.5 ms behind schedule"),
            (5_000, 0, 3_000, 0.5, "waited 3.0 ms"),
        ];
        for (latency, lateness, backlog, busy, word) in table {
            let SelfCheck { client_bound, reasons, .. } = check(latency, lateness, backlog, busy);
            assert!(client_bound && reasons.len() == 1 && reasons[0].contains(word), "{word}: {reasons:?}");
        }
    }

    #[test]
    fn small_lateness_and_backlog_are_allowed() {
        for (latency, lateness, backlog, busy) in [(100, 900, 900, 0.5), (50_000, 4_000, 20_000, 0.89), (0, 0, 0, 0.0)]
        {
            let checked = check(latency, lateness, backlog, busy);
            assert!(!checked.client_bound, "{checked:?}");
        }
    }
}
