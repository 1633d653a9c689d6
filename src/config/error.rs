//! What is wrong with a file, for whoever has written it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a configuration file can't be used. Its text has one line for each problem.
#[derive(Debug)]
pub struct ConfigError {
    path: PathBuf,
    problems: Vec<Problem>,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, counted from 1; `None` if it is nowhere in particular.
    pub line: Option<usize>,
    /// What, and what to do about it.
    pub text: String,
}

impl ConfigError {
    /// These problems of the file at `path`.
    pub fn new(path: &Path, problems: Vec<Problem>) -> ConfigError {
        ConfigError { path: path.to_owned(), problems }
    }

    /// The file cannot be read.
    pub fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
        ConfigError::new(path, vec![Problem { line: None, text: format!("cannot be read: {error}") }])
    }
}

impl Problem {
    /// Something wrong where the file has this byte.
    pub(super) fn at(file: &str, byte: usize, text: String) -> Problem {
        let line = file.as_bytes()[..byte.min(file.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        Problem { line: Some(line), text }
    }

    /// What the TOML parser says of the file, in one line.
    pub(super) fn of_toml(file: &str, error: &toml::de::Error) -> Problem {
        let text = error.message().lines().collect::<Vec<_>>().join(", ");
        match error.span() {
            Some(span) => Problem::at(file, span.start, text),
            None => Problem { line: None, text },
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { line, text }) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.path.display())?;
            if let Some(line) = line {
                write!(f, ":{line}")?;
            }
            write!(f, ": {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
