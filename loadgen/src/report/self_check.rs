//! Decides whether a run measured the server, or the load generator itself.
//!
//! Four signs show that this program was the bottleneck: a worker that hardly ever slept, a schedule that was not kept,
//! received messages that waited in this program for a large part of the reported latency, and time in which it was
//! kept from running at all. The check ignores the server: that it is saturated, too, does not make the figures of a
//! saturated client valid.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::heartbeat::Pauses;
use crate::host::meter::Cost;
use crate::report::latency::Latencies;
use crate::report::ratio;
use crate::report::recorder::Recorded;

/// A worker that runs or is ready to run for more than this share of the time is saturated.
const BUSY_SHARE_MAX: f64 = 0.9;

/// Largest share of the p99 latency that may be lateness of this program.
const LATENESS_SHARE_MAX: f64 = 0.1;
/// Largest share of the p99 latency that may be backlog in this program.
const BACKLOG_SHARE_MAX: f64 = 0.5;

/// Lateness and backlog up to this are allowed: any program has timer slack and scheduling delays.
const ALWAYS_ALLOWED_US: f64 = 1000.0;

/// Largest share of the time in which this program may have been kept from running.
const PAUSED_SHARE_MAX: f64 = 0.05;

/// Largest share of the longest latency that may be a pause of this program.
const PAUSE_SHARE_MAX: f64 = 0.5;

/// Pauses up to the first are allowed, and none beyond the second.
const PAUSE_ALLOWED_US: f64 = 25_000.0;
const PAUSE_MAX_US: f64 = 100_000.0;

/// Largest share of the time that a hypervisor may have taken.
const STOLEN_SHARE_MAX: f64 = 0.1;

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
    /// The longest time for which this program was kept from running.
    #[serde(default)]
    pub(crate) pause_max_us: f64,
    /// The share of the time in which it was kept from running.
    #[serde(default)]
    pub(crate) paused_share: f64,
    /// How often the CPU quota of its control group was used up.
    #[serde(default)]
    pub(crate) throttled: u64,
    /// The share of the time that a hypervisor took.
    #[serde(default)]
    pub(crate) stolen_share: f64,
}

impl SelfCheck {
    /// Checks the recorded figures of a run.
    pub(crate) fn of(recorded: &Recorded, pauses: Pauses, cost: &Cost) -> SelfCheck {
        let Recorded { corrected, uncorrected, lateness, backlog, busy_share, .. } = recorded;
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
        let share = |part: Duration| ratio(part.as_secs_f64(), cost.elapsed.as_secs_f64());
        let pause_max_us = pauses.longest.as_secs_f64() * 1e6;
        let throttled = match cost.starvation.throttled {
            0 => String::new(),
            times => format!(", its CPU quota was used up {times} times"),
        };
        let max_us = corrected.quantile_us(1.0).max(uncorrected.quantile_us(1.0));
        if share(pauses.total) > PAUSED_SHARE_MAX {
            let percent = share(pauses.total).min(1.0) * 100.0;
            reasons.push(format!("it was kept from running {percent:.0} % of the time{throttled}"));
        } else if pause_max_us > (max_us * PAUSE_SHARE_MAX).clamp(PAUSE_ALLOWED_US, PAUSE_MAX_US) {
            reasons.push(format!("it was kept from running for {:.0} ms{throttled}", pause_max_us / 1e3));
        }
        let stolen_share = share(cost.starvation.stolen);
        if stolen_share > STOLEN_SHARE_MAX {
            reasons.push(format!("a hypervisor took {:.0} % of the CPU time", stolen_share * 100.0));
        }
        SelfCheck {
            client_bound: !reasons.is_empty(),
            reasons,
            busy_share: *busy_share,
            lateness_p99_us: lateness.quantile_us(0.99),
            lateness_max_us: lateness.quantile_us(1.0),
            backlog_p99_us: backlog.quantile_us(0.99),
            backlog_max_us: backlog.quantile_us(1.0),
            pause_max_us,
            paused_share: share(pauses.total),
            throttled: cost.starvation.throttled,
            stolen_share,
        }
    }
}

fn exceeds(own: &Latencies, allowed_us: f64) -> bool {
    own.quantile_us(0.99) > allowed_us.max(ALWAYS_ALLOWED_US)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::starvation::Starvation;

    /// A run of ten seconds with one message of these figures, in milliseconds.
    #[derive(Clone, Copy, Default)]
    struct Case {
        latency: u64,
        lateness: u64,
        backlog: u64,
        busy_share: f64,
        longest: u64,
        paused: u64,
        throttled: u64,
        stolen: u64,
    }

    fn check(case: Case) -> SelfCheck {
        let mut recorded = Recorded { busy_share: case.busy_share, ..Recorded::new() };
        recorded.corrected.record(case.latency * 1_000_000);
        recorded.lateness.record(case.lateness * 1_000_000);
        recorded.backlog.record(case.backlog * 1_000_000);
        let ms = Duration::from_millis;
        let pauses = Pauses { longest: ms(case.longest), total: ms(case.paused) };
        let starvation = Starvation { throttled: case.throttled, stolen: ms(case.stolen) };
        let cost = Cost { elapsed: ms(10_000), client_cpu: Duration::ZERO, server: None, starvation };
        SelfCheck::of(&recorded, pauses, &cost)
    }

    #[test]
    fn each_sign_is_reported_alone() {
        let usual = Case { latency: 5, busy_share: 0.5, ..Case::default() };
        // A word of the reason.
        let table = [
            (Case { busy_share: 0.95, ..usual }, "busy 95 %"),
            (Case { lateness: 2, ..usual }, "2.0 ms behind schedule"),
            (Case { backlog: 3, ..usual }, "waited 3.0 ms"),
            (Case { longest: 30, paused: 30, ..usual }, "from running for 30 ms"),
            (Case { latency: 900, longest: 101, paused: 101, ..usual }, "from running for 101 ms"),
            (
                Case { longest: 7, paused: 600, throttled: 9, ..usual },
                "6 % of the time, its CPU quota was used up 9 times",
            ),
            (Case { stolen: 1200, ..usual }, "a hypervisor took 12 %"),
        ];
        for (case, word) in table {
            let SelfCheck { client_bound, reasons, .. } = check(case);
            assert!(client_bound && reasons.len() == 1 && reasons[0].contains(word), "{word}: {reasons:?}");
        }
    }

    #[test]
    fn small_delays_are_allowed() {
        let table = [
            Case { latency: 20, lateness: 1, backlog: 1, busy_share: 0.5, ..Case::default() },
            Case { latency: 50, lateness: 4, backlog: 20, busy_share: 0.89, ..Case::default() },
            Case { latency: 5, longest: 20, paused: 200, throttled: 1, stolen: 900, ..Case::default() },
            Case { latency: 200, longest: 90, paused: 90, ..Case::default() },
            Case::default(),
        ];
        for case in table {
            let checked = check(case);
            assert!(!checked.client_bound, "{checked:?}");
        }
    }
}
