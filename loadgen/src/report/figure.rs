//! A figure that only some scenarios report: name, value and unit.

use serde::{Deserialize, Serialize};

/// One line of a report, in addition to the lines that all scenarios share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// In words, and the same in every run of a scenario: `compare` matches figures by name.
    pub(crate) name: String,
    pub(crate) value: f64,
    /// For example `us`, `B` or `/s`; empty for a plain number.
    pub(crate) unit: String,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: impl Into<String>) -> Figure {
        Figure { name: name.into(), value, unit: unit.into() }
    }
}
