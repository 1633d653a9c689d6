//! What topics have in common by the first part of their name: how much is kept, who may do what, and what becomes of
//! slow subscribers.
//!
//! The namespace of `chat:lobby` is `chat`, and so is that of the private `$chat:lobby`; a topic without a colon is in
//! the default one.

use serde::{Deserialize, Serialize};

use super::TopicName;
use crate::limits::{HISTORY_BYTES_MAX, OUTBOX_BYTES_MAX};

/// What becomes of publications for a subscriber that has [`Namespace::outbox_bytes_max`] waiting, or something older
/// than [`Namespace::outbox_age_ms`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowConsumer {
    /// It is disconnected, and comes back when it can.
    #[default]
    Close,
    /// The oldest of this namespace that wait are dropped, except the newest of each topic: by its offset the
    /// subscriber can tell that some are missing.
    DropOldest,
    /// Of what waits, each publication replaces the one before it with the same key, or of the same topic where it has
    /// no key: the subscriber reads the newest at its own pace. It is disconnected where so many different things wait,
    /// or one of them for so long in whatever version: to drop the newest of a thing would be to tell nothing of it.
    Conflate,
}

/// Who may do a thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allowed {
    /// Nobody but the server API.
    #[default]
    Nobody,
    /// Who has subscribed to the topic.
    Subscribers,
    /// Every client that has said who it is, and that the topic's name [admits](TopicName::admits).
    Users,
    /// Every client that the topic's name [admits](TopicName::admits).
    Anyone,
}

impl Allowed {
    /// Whether a client of `user`, empty for an anonymous one, is among those allowed something with `topic`. What the
    /// name does not admit is open to those who have subscribed to it all the same, by a token or the server's will.
    pub fn includes(self, topic: &TopicName, user: &str, is_subscribed: bool) -> bool {
        match self {
            Allowed::Nobody => false,
            Allowed::Subscribers => is_subscribed,
            Allowed::Users => !user.is_empty() && (is_subscribed || topic.admits(user)),
            Allowed::Anyone => is_subscribed || topic.admits(user),
        }
    }
}

/// The settings of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Namespace {
    /// Publications that each topic keeps; 0 keeps none.
    pub history_size: usize,
    /// How long each is kept, in milliseconds; 0 is without end.
    pub history_ttl_ms: u64,
    /// Payload bytes that each topic keeps.
    pub history_bytes_max: usize,
    /// Whether it is kept who has subscribed.
    pub presence: bool,
    /// Whether subscribers that want to are told who comes and goes.
    pub join_leave: bool,
    /// Whether all subscribers are told that, also those that did not ask.
    pub force_join_leave: bool,
    /// Who may subscribe, besides those whose token says so: [`Allowed::Users`] or [`Allowed::Anyone`].
    pub subscribe: Allowed,
    /// Who may publish over a client's connection.
    pub publish: Allowed,
    /// Who may read the history.
    pub history: Allowed,
    /// Who may ask who has subscribed.
    pub presence_read: Allowed,
    /// What becomes of slow subscribers.
    pub slow_consumer: SlowConsumer,
    /// Bytes that may wait for a subscriber before it is slow. As many more may wait of what it has missed, of all its
    /// topics together: what would pass that is lost to it, and it is told.
    pub outbox_bytes_max: usize,
    /// How long publications may wait for a subscriber before it is slow, in milliseconds; 0 is without end. One that
    /// has replaced another has waited as long as that. Time alone does nothing: the next publication looks.
    pub outbox_age_ms: u64,
    /// How long publications may wait to leave together with others for the same connection, in milliseconds: those of
    /// all its topics leave at the same multiples of it. 0 is not at all.
    pub coalesce_ms: u64,
    /// Whether publications are compressed for connections that have agreed on it.
    pub deflate: bool,
}

impl Namespace {
    /// Whether the home of a topic must know each subscriber by name.
    pub fn remembers_subscribers(&self) -> bool {
        self.presence || self.join_leave
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace {
            history_size: 0,
            history_ttl_ms: 0,
            history_bytes_max: HISTORY_BYTES_MAX,
            presence: false,
            join_leave: false,
            force_join_leave: false,
            subscribe: Allowed::Anyone,
            publish: Allowed::Nobody,
            history: Allowed::Nobody,
            presence_read: Allowed::Nobody,
            slow_consumer: SlowConsumer::Close,
            outbox_bytes_max: OUTBOX_BYTES_MAX,
            outbox_age_ms: 0,
            coalesce_ms: 0,
            deflate: true,
        }
    }
}

impl Namespace {
    /// Until when something that is pushed at `now_ms` may wait for more; 0 if it may not.
    pub fn due_ms(&self, now_ms: u64) -> u64 {
        match self.coalesce_ms {
            0 => 0,
            coalesce_ms => (now_ms / coalesce_ms + 1) * coalesce_ms,
        }
    }
}

/// Which namespace a topic is in: a place in the list of [`Namespaces`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NamespaceId(u16);

impl NamespaceId {
    /// Its place in the list.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// All namespaces of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// The default one first, without a name; the others by name, sorted.
    list: Vec<(String, Namespace)>,
    /// Whether topics of namespaces that are not listed are refused; else they are in the default one.
    is_strict: bool,
}

/// The topic's namespace is not listed, and others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownNamespace;

impl Namespaces {
    /// `default` for topics without a colon, and the others by name. Where there are others, topics of any that is not
    /// among them are refused.
    pub fn new(default: Namespace, mut others: Vec<(String, Namespace)>) -> Namespaces {
        others.sort_by(|(a, _), (b, _)| a.cmp(b));
        let is_strict = !others.is_empty();
        others.insert(0, (String::new(), default));
        Namespaces { list: others, is_strict }
    }

    /// The namespace of a topic.
    ///
    /// # Errors
    /// [`UnknownNamespace`]: there is a list, and the topic's is not on it.
    pub fn find(&self, topic: &TopicName) -> Result<NamespaceId, UnknownNamespace> {
        let Some(name) = topic.namespace().filter(|_| self.is_strict) else {
            return Ok(NamespaceId(0));
        };
        let index = self.list[1..].binary_search_by(|(other, _)| other.as_str().cmp(name));
        index.map(|index| NamespaceId(index as u16 + 1)).map_err(|_| UnknownNamespace)
    }

    /// The settings of a namespace.
    pub fn get(&self, id: NamespaceId) -> &Namespace {
        &self.list[usize::from(id.0)].1
    }

    /// All, the default one first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        self.list.iter().map(|(name, namespace)| (name.as_str(), namespace))
    }
}

impl Default for Namespaces {
    fn default() -> Self {
        Namespaces::new(Namespace::default(), Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(namespaces: &Namespaces, topic: &str) -> Result<usize, UnknownNamespace> {
        let id = namespaces.find(&TopicName::new(topic).unwrap())?;
        Ok(namespaces.get(id).history_size)
    }

    #[test]
    fn the_first_part_of_a_name_tells_the_namespace() {
        let sized = |history_size| Namespace { history_size, ..Namespace::default() };
        let others = vec![("news".to_owned(), sized(2)), ("chat".to_owned(), sized(1))];
        let namespaces = Namespaces::new(sized(0), others);
        assert_eq!(find(&namespaces, "chat:lobby"), Ok(1));
        assert_eq!(find(&namespaces, "news:a:b"), Ok(2));
        assert_eq!(find(&namespaces, "$chat:lobby"), Ok(1));
        assert_eq!(find(&namespaces, "chat:lobby#42"), Ok(1));
        assert_eq!(find(&namespaces, "lobby"), Ok(0));
        assert_eq!(find(&namespaces, "other:lobby"), Err(UnknownNamespace));
        assert_eq!(find(&namespaces, ":lobby"), Err(UnknownNamespace));
    }

    #[test]
    fn permissions_hold_for_those_whom_the_name_admits() {
        use Allowed::{Anyone, Nobody, Subscribers, Users};
        let rows = [
            (Nobody, "a", "42", true, false),
            (Subscribers, "a", "42", false, false),
            (Subscribers, "$a", "", true, true),
            (Users, "a", "", true, false),
            (Users, "a", "42", false, true),
            (Users, "a#42", "42", false, true),
            (Users, "a#42", "43", false, false),
            (Users, "a#42", "43", true, true),
            (Users, "$a", "42", false, false),
            (Anyone, "a", "", false, true),
            (Anyone, "a#42", "", false, false),
            (Anyone, "a#42", "42", false, true),
            (Anyone, "$a", "42", false, false),
            (Anyone, "$a", "", true, true),
        ];
        for (allowed, topic, user, is_subscribed, expected) in rows {
            let includes = allowed.includes(&TopicName::new(topic).unwrap(), user, is_subscribed);
            assert_eq!(includes, expected, "{allowed:?} {topic} {user:?} {is_subscribed}");
        }
    }

    #[test]
    fn without_a_list_all_are_in_the_default_one() {
        let namespaces = Namespaces::new(Namespace { history_size: 7, ..Namespace::default() }, Vec::new());
        assert_eq!(find(&namespaces, "chat:lobby"), Ok(7));
    }
}
