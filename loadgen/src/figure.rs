//! A figure that only some scenarios have: what it is called, its value and its unit.

use serde::{Deserialize, Serialize};

/// One line of a report beside what every scenario tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// In words, the same in every run of a scenario: reports are compared by it.
    pub(crate) name: String,
    pub(crate) value: f64,
    /// Such as `us`, `B`, `/s`; empty for a plain number.
    pub(crate) unit: String,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: impl Into<String>) -> Figure {
        Figure { name: name.into(), value, unit: unit.into() }
    }
}
