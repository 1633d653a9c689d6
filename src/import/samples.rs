//! The messages of a service that are kept: with secrets masked, bounded in number and bytes.

use serde_json::Value;

use super::mask::mask;
use crate::limits::{IMPORT_SAMPLE_BYTES_MAX, IMPORT_SAMPLES_MAX};

/// Messages that are kept.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    values: Vec<Value>,
    bytes: usize,
    /// Messages that were only counted, for a bound was reached.
    pub left_out: u64,
}

impl Samples {
    /// Keeps a message of this many bytes.
    pub fn push(&mut self, mut value: Value, bytes: usize) {
        if self.values.len() >= IMPORT_SAMPLES_MAX || self.bytes + bytes > IMPORT_SAMPLE_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        mask(&mut value);
        self.bytes += bytes;
        self.values.push(value);
    }

    /// Those that are kept.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// One a line.
    pub fn lines(&self) -> String {
        self.values.iter().map(|value| format!("{value}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn samples_are_bounded_and_masked() {
        let mut samples = Samples::default();
        samples.push(json!({"token": "a"}), 10);
        samples.push(json!(1), IMPORT_SAMPLE_BYTES_MAX);
        assert_eq!((samples.lines().as_str(), samples.left_out), ("{\"token\":\"***\"}\n", 1));
        (0..IMPORT_SAMPLES_MAX).for_each(|n| samples.push(json!(n), 1));
        assert_eq!((samples.values().len(), samples.left_out), (IMPORT_SAMPLES_MAX, 2));
    }
}
