//! Names of topics.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::limits::TOPIC_NAME_BYTES_MAX;

/// A valid topic name: 1 to 255 bytes of ASCII letters, digits and `-._~:@$!*#&+=()/`, where `/` separates segments
/// that are not empty, `.` or `..`.
///
/// Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// The prefix of a private topic's name.
const PRIVATE_PREFIX: char = '$';

/// The namespace of the server's own topics, which no configuration names.
pub const SYSTEM_NAMESPACE: &str = "$sys";

/// Precedes the users that a topic is limited to.
const USER_BOUNDARY: char = '#';

/// Why a text is not a topic name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty.
    Empty,
    /// The text is longer than [`TOPIC_NAME_BYTES_MAX`].
    TooLong,
    /// The text contains a character that names may not contain.
    Character,
    /// A segment between slashes is empty, `.` or `..`.
    Segment,
}

impl TopicName {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn new(text: &str) -> Result<TopicName, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > TOPIC_NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        if !text.bytes().all(is_allowed) {
            return Err(NameError::Character);
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(NameError::Segment);
        }
        Ok(TopicName(text.into()))
    }

    /// Decodes and checks a percent-encoded name from a URL's path.
    ///
    /// # Errors
    /// [`NameError`]; invalid UTF-8 is [`NameError::Character`].
    pub fn from_path(path: &str) -> Result<TopicName, NameError> {
        TopicName::new(&percent_decode_str(path).decode_utf8().map_err(|_| NameError::Character)?)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a client of `user` may use the name without a token; anonymous clients have the empty user. The rules
    /// are Centrifugo's channel boundaries: `$` begins a private name, which requires a token, and the last `#`
    /// precedes the users that a name is limited to, separated by commas.
    pub fn admits(&self, user: &str) -> bool {
        if self.0.starts_with(PRIVATE_PREFIX) {
            return false;
        }
        match self.0.rsplit_once(USER_BOUNDARY) {
            Some((_, users)) => !user.is_empty() && users.split(',').any(|listed| listed == user),
            None => true,
        }
    }

    /// Whether the name requires a token, or is limited to users.
    pub fn is_limited(&self) -> bool {
        self.0.starts_with(PRIVATE_PREFIX) || self.0.contains(USER_BOUNDARY)
    }

    /// Whether the topic is one of the server's own, `$sys:…`: only operators read them, and only the server publishes
    /// to them.
    pub fn is_system(&self) -> bool {
        self.0.strip_prefix(SYSTEM_NAMESPACE).is_some_and(|rest| rest.starts_with(':'))
    }

    /// The part of the name before the first colon, without the `$` of a private name; `None` without a colon.
    /// [`SYSTEM_NAMESPACE`] keeps its `$`.
    pub fn namespace(&self) -> Option<&str> {
        if self.is_system() {
            return Some(SYSTEM_NAMESPACE);
        }
        let name = self.0.strip_prefix(PRIVATE_PREFIX).unwrap_or(&self.0);
        name.split_once(':').map(|(namespace, _)| namespace)
    }
}

/// Maps each topic to its home shard, which orders its publications.
///
/// The key makes the choice unpredictable, so that an attacker can't choose names with the same home. It must be
/// secret, and the same on all shards.
#[derive(Clone, Copy, Debug)]
pub struct Homes {
    shards: u64,
    key: [u64; 2],
}

impl Homes {
    /// The homes on `shards` shards, at least one. The key should be random.
    pub fn new(shards: usize, key: [u64; 2]) -> Homes {
        Homes { shards: shards as u64, key }
    }

    /// The home of a topic.
    pub fn of(&self, topic: &TopicName) -> usize {
        let mut hasher = DefaultHasher::new();
        // After a secret prefix, only a holder of the key can compute the state of SipHash.
        self.key.hash(&mut hasher);
        topic.hash(&mut hasher);
        (hasher.finish() % self.shards) as usize
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:@$!*#&+=()/".contains(&byte)
}

/// Maps with names as keys are searched by text.
impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::Empty => "the topic name is missing",
            NameError::TooLong => "a topic name must have at most 255 bytes",
            NameError::Character => "a topic name must consist of ASCII letters, digits and -._~:@$!*#&+=()/",
            NameError::Segment => "a topic name must not have a segment that is empty, '.' or '..'",
        })
    }
}

impl std::error::Error for NameError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = "x".repeat(TOPIC_NAME_BYTES_MAX + 1);
        let rows = [
            ("prices", Ok(())),
            ("prices/EUR:USD", Ok(())),
            ("user#42", Ok(())),
            (&long[1..], Ok(())),
            ("", Err(NameError::Empty)),
            (&long, Err(NameError::TooLong)),
            ("a,b", Err(NameError::Character)),
            ("a b", Err(NameError::Character)),
            ("a\0", Err(NameError::Character)),
            ("é", Err(NameError::Character)),
            ("/a", Err(NameError::Segment)),
            ("a/", Err(NameError::Segment)),
            ("a//b", Err(NameError::Segment)),
            ("../etc", Err(NameError::Segment)),
            ("a/./b", Err(NameError::Segment)),
        ];
        for (text, expected) in rows {
            assert_eq!(TopicName::new(text).map(drop), expected, "{text:?}");
        }
    }

    #[test]
    fn a_name_admits_its_users() {
        let rows: [(&str, &str, bool); 18] = [
            ("news", "", true),
            ("news", "42", true),
            ("dialog#42", "42", true),
            ("dialog#42", "4", false),
            ("dialog#42", "", false),
            ("#42", "42", true),
            ("#42", "", false),
            ("dialog#7#42", "42", true),
            ("dialog#7#42", "7", false),
            ("dialog#", "", false),
            ("dialog#", "42", false),
            ("chat:dialog#42", "42", true),
            ("chat:dialog#42", "43", false),
            ("$secret", "", false),
            ("$secret", "42", false),
            ("$secret#42", "42", false),
            ("a$", "", true),
            ("a/$b", "", true),
        ];
        for (name, user, expected) in rows {
            assert_eq!(TopicName::new(name).unwrap().admits(user), expected, "{name} for {user:?}");
        }
    }

    #[test]
    fn the_namespace_of_a_private_name_follows_its_prefix() {
        let rows = [
            ("a", None),
            ("chat:a", Some("chat")),
            ("$chat:a:b", Some("chat")),
            ("$a", None),
            ("$$a:b", Some("$a")),
            ("sys:a", Some("sys")),
            ("$system:a", Some("system")),
            ("$sys:a", Some("$sys")),
        ];
        for (name, namespace) in rows {
            assert_eq!(TopicName::new(name).unwrap().namespace(), namespace, "{name}");
        }
    }

    #[test]
    fn paths_are_decoded_before_they_are_checked() {
        assert_eq!(TopicName::from_path("user%2342").unwrap().as_str(), "user#42");
        assert_eq!(TopicName::from_path("%2e%2e/etc"), Err(NameError::Segment));
        assert_eq!(TopicName::from_path("a%2Cb"), Err(NameError::Character));
        assert_eq!(TopicName::from_path("%ff"), Err(NameError::Character));
    }

    /// The homes of a thousand topics on four shards.
    fn thousand_homes(key: [u64; 2]) -> Vec<usize> {
        let homes = Homes::new(4, key);
        (0..1000).map(|n| homes.of(&TopicName::new(&format!("t{n}")).unwrap())).collect()
    }

    #[test]
    fn all_shards_agree_on_homes_and_homes_are_spread() {
        let homes = thousand_homes([1, 2]);
        assert_eq!(homes, thousand_homes([1, 2]));
        for shard in 0..4 {
            let count = homes.iter().filter(|home| **home == shard).count();
            assert!((150..350).contains(&count), "shard {shard} has {count} of 1000");
        }
    }

    #[test]
    fn another_key_spreads_names_that_had_the_same_home() {
        let chosen: Vec<usize> = {
            let homes = thousand_homes([1, 2]);
            (0..1000).filter(|index| homes[*index] == 3).collect()
        };
        for key in [[1, 3], [2, 2], [0, 0]] {
            let homes = thousand_homes(key);
            let count = chosen.iter().filter(|index| homes[**index] == 3).count();
            assert!(count < chosen.len() / 2, "{count} of {} names still have one home", chosen.len());
        }
    }
}
