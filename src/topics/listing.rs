//! Lists of a home's topics, page by page: each page is a bounded part of a turn, however many topics there are.

use std::fmt;

use super::{Position, TopicName};
use crate::limits::TOPIC_PATTERN_BYTES_MAX;

/// Which topics of a home to list.
#[derive(Clone, Debug, Default)]
pub struct TopicsQuery {
    /// Where to begin: 0, or [`TopicsPage::next`] of the page before.
    pub from: usize,
    /// Maximum number of topics.
    pub limit: usize,
    /// Only topics with such a name; `None` is any.
    pub pattern: Option<TopicPattern>,
}

/// A part of the list of a home's topics: those with subscribers or a history, but none of the server's own.
///
/// A topic that exists while all pages are read is in exactly one of them.
#[derive(Clone, Debug, Default)]
pub struct TopicsPage {
    /// The topics, in no order.
    pub topics: Vec<TopicSummary>,
    /// Where the next page begins; `None` if this one is the last.
    pub next: Option<usize>,
}

/// A topic, as its home knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSummary {
    /// Its name.
    pub name: TopicName,
    /// Its current position.
    pub position: Position,
    /// The time of its last publication in milliseconds of Unix time; 0 if there is none, or in a cluster.
    pub published_ms: u64,
    /// Number of publications in its history.
    pub history_len: usize,
    /// Bytes of these.
    pub history_bytes: usize,
    /// Number of values, if it is keyed.
    pub keys: usize,
    /// Number of present clients, where its namespace remembers subscribers.
    pub present: usize,
    /// Whether a shard has subscribers.
    pub has_subscribers: bool,
}

/// A pattern of names, where `*` stands for any characters and `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern(Box<str>);

/// The pattern is longer than [`TOPIC_PATTERN_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternTooLong;

/// Steps of a comparison that cost as much as a visit of a topic.
const STEPS_PER_VISIT: usize = 64;

impl TopicPattern {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`PatternTooLong`].
    pub fn new(text: &str) -> Result<TopicPattern, PatternTooLong> {
        if text.len() > TOPIC_PATTERN_BYTES_MAX { Err(PatternTooLong) } else { Ok(TopicPattern(text.into())) }
    }

    /// Whether a name matches.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }

    /// The cost of a comparison with a name, in visits of a topic: a star may try each place in the name.
    pub(super) fn visits(&self, name: &TopicName) -> usize {
        self.0.len() * name.as_str().len() / STEPS_PER_VISIT
    }
}

/// The last star takes one character more wherever the rest does not fit.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut index, mut star) = (0, 0, None);
    while index < text.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                at += 1;
                star = Some((at, index));
            }
            (Some(wanted), _) if *wanted == b'?' || *wanted == text[index] => (at, index) = (at + 1, index + 1),
            (_, Some((after_star, taken))) => {
                (at, index) = (after_star, taken + 1);
                star = Some((at, index));
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

impl fmt::Display for PatternTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a pattern of topics must have at most {TOPIC_PATTERN_BYTES_MAX} bytes")
    }
}

impl std::error::Error for PatternTooLong {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_names() {
        let rows = [
            ("*", "", true),
            ("*", "a:b", true),
            ("a:*", "a:b", true),
            ("a:*", "b:a:b", false),
            ("*:b", "a:b:b", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("", "a", false),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(TopicPattern::new(pattern).unwrap().matches(text), expected, "{pattern:?} and {text:?}");
        }
        assert_eq!(TopicPattern::new(&"x".repeat(TOPIC_PATTERN_BYTES_MAX + 1)), Err(PatternTooLong));
    }
}
