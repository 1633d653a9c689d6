//! The result of one check.

use std::fmt;

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it is as it should be.
    Good,
    /// It works, and would work better.
    Recommended,
    /// The host does not carry the requested number of connections.
    Required,
    /// It can't be told.
    Unknown,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The subject of the check.
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    /// The present state.
    pub(super) found: String,
    /// The required state, and why.
    pub(super) needed: String,
    /// How to get there; empty where no command does.
    pub(super) command: String,
}

impl Finding {
    /// A finding with all its parts.
    pub(super) fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl fmt::Display,
        needed: impl fmt::Display,
        command: impl fmt::Display,
    ) -> Finding {
        let (found, needed, command) = (found.to_string(), needed.to_string(), command.to_string());
        Finding { name, verdict, found, needed, command }
    }

    /// All is well.
    pub(super) fn good(name: &'static str, found: impl fmt::Display) -> Finding {
        Finding::new(name, Verdict::Good, found, "", "")
    }

    /// It can't be told, since `path` can't be read.
    pub(super) fn unknown(name: &'static str, path: &str) -> Finding {
        Finding::new(name, Verdict::Unknown, format_args!("/{path} can't be read"), "", "")
    }

    /// A number that should be at least `needed`: well if it is, and otherwise `verdict`, with `why` and what to do.
    pub(super) fn at_least(
        name: &'static str,
        verdict: Verdict,
        (found, needed): (u64, u64),
        why: &str,
        command: impl fmt::Display,
    ) -> Finding {
        match found >= needed {
            true => Finding::good(name, format_args!("{} of {} needed", number(found), number(needed))),
            false => Finding::new(name, verdict, number(found), format_args!("{}: {why}", number(needed)), command),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { name, verdict, found, needed, command } = self;
        let mark = match verdict {
            Verdict::Good => "ok    ",
            Verdict::Recommended => "better",
            Verdict::Required => "CHANGE",
            Verdict::Unknown => "?     ",
        };
        write!(f, "{mark} {name}: {found}")?;
        if !needed.is_empty() {
            write!(f, "; needed: {needed}")?;
        }
        if !command.is_empty() {
            write!(f, "; do: {command}")?;
        }
        Ok(())
    }
}

/// A number with its thousands apart; one that stands for "no limit" by that name.
pub(super) fn number(number: u64) -> String {
    if number == u64::MAX {
        return "unlimited".to_owned();
    }
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as people say them.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{} MB", number(bytes.div_ceil(1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_what_is_needed_and_what_to_do() {
        let finding = Finding::at_least("files", Verdict::Required, (1024, 1_000_000), "one each", "ulimit -n 1000000");
        assert_eq!(finding.to_string(), "CHANGE files: 1,024; needed: 1,000,000: one each; do: ulimit -n 1000000");
        let finding = Finding::at_least("files", Verdict::Required, (u64::MAX, 5), "one each", "");
        assert_eq!(finding.to_string(), "ok     files: unlimited of 5 needed");
        assert_eq!(Finding::unknown("files", "proc/x").to_string(), "?      files: /proc/x can't be read");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(["0", "999", "1,000", "12,345,678"], [0, 999, 1000, 12_345_678].map(number)[..]);
        assert_eq!(megabytes(4_300_000_001), "4,301 MB");
    }
}
