//! The agents of a run, as its report shows them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::agents::coordinator::offset_words;
use crate::check::faults::Counts;
use crate::report::text;

/// One agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AgentReport {
    pub(crate) address: String,
    /// Its clock is ahead of the coordinator's, by so much as known.
    pub(crate) ahead_us: f64,
    /// The true value differs from that by at most this.
    pub(crate) uncertain_us: f64,
    /// Whether that is little enough for its latencies; otherwise the run has none.
    pub(crate) tells_latency: bool,
    pub(crate) connections: u32,
    /// Messages received.
    pub(crate) count: u64,
    pub(crate) faults: Counts,
}

impl fmt::Display for AgentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AgentReport { address, ahead_us, uncertain_us, connections, count, faults, .. } = self;
        let faults = if faults.sum() == 0 { "no faults".to_owned() } else { faults.text() };
        let [connections, count] = [u64::from(*connections), *count].map(text::count);
        let offset = offset_words(*ahead_us, *uncertain_us);
        write!(f, "{address}: {connections} connections, {count} messages, {faults}; {offset}")
    }
}
