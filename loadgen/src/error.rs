//! Why a run could not be measured: one line for the user.

use std::fmt;

/// A sentence that names the failure and, if there is one, the remedy.
#[derive(Debug)]
pub(crate) struct Error(String);

impl Error {
    /// Creates an error from a complete sentence.
    pub(crate) fn new(text: impl Into<String>) -> Error {
        Error(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
