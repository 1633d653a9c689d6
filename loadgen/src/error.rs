//! Why nothing could be measured: one line for whoever started the run.

use std::fmt;

/// A sentence that names what failed and, where there is one, the remedy.
#[derive(Debug)]
pub(crate) struct Error(String);

impl Error {
    /// From a finished sentence.
    pub(crate) fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
