//! Settings of topics by the first part of their name: history, permissions, and the policy for slow subscribers.
//!
//! The namespace of `chat:lobby` and of the private `$chat:lobby` is `chat`; a topic without a colon is in the default
//! namespace.

use super::{SYSTEM_NAMESPACE, TopicName};
use crate::limits::{
    HISTORY_BYTES_MAX, OUTBOX_BYTES_MAX, STATE_BYTES_MAX, STATE_KEYS_MAX, STATE_VALUE_BYTES_MAX, STATS_HISTORY_SIZE,
    STATS_HISTORY_TTL_MS,
};

/// The policy for a slow subscriber: one with a backlog of [`Namespace::outbox_bytes_max`], or older than
/// [`Namespace::outbox_age_ms`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SlowConsumer {
    /// Close its connection; the client reconnects when it can.
    #[default]
    Close,
    /// Drop the oldest publications of this namespace from its backlog, but keep the newest of each topic: its offset
    /// shows the client that some are missing.
    DropOldest,
    /// Replace each queued publication with a newer one of the same key, or of the same topic if it has no key: the
    /// client reads the newest at its own pace. The server closes the connection if the backlog still exceeds the limit
    /// with distinct keys, or if one key has been queued too long in any version: to drop the newest publication of a
    /// key would lose its state.
    Conflate,
}

/// The clients with a permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Allowed {
    /// None: only the server API.
    #[default]
    Nobody,
    /// Subscribers of the topic.
    Subscribers,
    /// Authenticated clients that the topic's name [admits](TopicName::admits).
    Users,
    /// All clients that the topic's name [admits](TopicName::admits).
    Anyone,
    /// Clients that the application behind the server permits; for a subscription of a name that is limited to users,
    /// these.
    Backend,
}

impl Allowed {
    /// Whether a client of `user` (empty if anonymous) has the permission for `topic`. A client that a token or the
    /// server API has subscribed needs no admission by the name.
    pub fn includes(self, topic: &TopicName, user: &str, is_subscribed: bool) -> bool {
        match self {
            Allowed::Nobody => false,
            Allowed::Subscribers => is_subscribed,
            Allowed::Users => !user.is_empty() && (is_subscribed || topic.admits(user)),
            Allowed::Anyone => is_subscribed || topic.admits(user),
            Allowed::Backend => topic.is_limited() && topic.admits(user),
        }
    }
}

/// The settings of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
pub struct Namespace {
    /// Publications in each topic's history; 0 disables the history.
    pub history_size: usize,
    /// Maximum age of a publication in the history, in milliseconds; 0 is no limit.
    pub history_ttl_ms: u64,
    /// Maximum payload bytes of each topic's history.
    pub history_bytes_max: usize,
    /// Whether clients can list the present clients of a topic.
    pub presence: bool,
    /// Whether subscribers that request it receive joins and leaves.
    pub join_leave: bool,
    /// Whether all subscribers receive joins and leaves, without a request.
    pub force_join_leave: bool,
    /// Whether Centrifugo's clients that recover receive the newest publication alone, and not all that they missed.
    pub cache_recovery: bool,
    /// Clients that may subscribe without a token: all but [`Allowed::Subscribers`].
    pub subscribe: Allowed,
    /// Clients that may publish.
    pub publish: Allowed,
    /// Clients that may read the history.
    pub history: Allowed,
    /// Clients that may list the present clients.
    pub presence_read: Allowed,
    /// The policy for slow subscribers.
    pub slow_consumer: SlowConsumer,
    /// Maximum backlog of a subscriber, in bytes; it is slow above that. Missed publications have a backlog of the same
    /// size, for all topics of the connection together: the subscriber's recovery fails if they exceed it.
    pub outbox_bytes_max: usize,
    /// Maximum age of a subscriber's backlog, in milliseconds; it is slow above that. 0 is no limit. A replacing
    /// publication inherits the age of the replaced one. The server checks the age at each further publication, not by
    /// a timer.
    pub outbox_age_ms: u64,
    /// Time for which publications wait to leave together with others for the same connection, in milliseconds: those
    /// of all topics leave at the same multiples of it. 0 sends at once.
    pub coalesce_ms: u64,
    /// Whether to compress publications for connections that have negotiated compression.
    pub deflate: bool,
    /// Whether subscribers that request it receive publications as deltas to the ones before. Not for keyed topics.
    pub delta: bool,
    /// Whether subscribers may filter publications by their tags. Not for keyed topics.
    pub tags_filter: bool,
    /// Whether its topics are keyed: the server keeps the newest value of each key, which new subscribers receive
    /// first. Each publication has a key then.
    pub keyed: bool,
    /// Maximum keys of a keyed topic.
    pub keys_max: usize,
    /// Maximum bytes of a value of a keyed topic.
    pub value_bytes_max: usize,
    /// Maximum bytes of all values of a keyed topic, with [`STATE_ENTRY_BYTES`](crate::limits::STATE_ENTRY_BYTES) for
    /// each.
    pub state_bytes_max: usize,
    /// Time after which the server removes a key of a keyed topic that nobody has set again, in milliseconds; 0 is
    /// never.
    pub value_ttl_ms: u64,
}

impl Namespace {
    /// Whether a topic's home shard remembers each subscriber.
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
            cache_recovery: false,
            subscribe: Allowed::Anyone,
            publish: Allowed::Nobody,
            history: Allowed::Nobody,
            presence_read: Allowed::Nobody,
            slow_consumer: SlowConsumer::Close,
            outbox_bytes_max: OUTBOX_BYTES_MAX,
            outbox_age_ms: 0,
            coalesce_ms: 0,
            deflate: true,
            delta: false,
            tags_filter: false,
            keyed: false,
            keys_max: STATE_KEYS_MAX,
            value_bytes_max: STATE_VALUE_BYTES_MAX,
            state_bytes_max: STATE_BYTES_MAX,
            value_ttl_ms: 0,
        }
    }
}

impl Namespace {
    /// How long a history keeps publications, in milliseconds: 0 without a history, `u64::MAX` without a limit.
    pub fn history_ms(&self) -> u64 {
        match (self.history_size, self.history_ttl_ms) {
            (0, _) => 0,
            (_, 0) => u64::MAX,
            (_, ttl_ms) => ttl_ms,
        }
    }

    /// The settings of the server's own topics. No client may do anything there; operators are no clients.
    fn system() -> Namespace {
        Namespace {
            history_size: STATS_HISTORY_SIZE,
            history_ttl_ms: STATS_HISTORY_TTL_MS,
            subscribe: Allowed::Nobody,
            slow_consumer: SlowConsumer::Conflate,
            ..Namespace::default()
        }
    }

    /// The time until which a push at `now_ms` may wait for others; 0 sends it at once.
    pub fn due_ms(&self, now_ms: u64) -> u64 {
        match self.coalesce_ms {
            0 => 0,
            coalesce_ms => (now_ms / coalesce_ms + 1) * coalesce_ms,
        }
    }
}

/// A namespace: its index in the list of [`Namespaces`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NamespaceId(u16);

impl NamespaceId {
    /// The index in the list.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// All namespaces of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaces {
    /// The default namespace first, without a name; then the others, sorted by name: [`SYSTEM_NAMESPACE`] among them.
    list: Vec<(String, Namespace)>,
    /// Whether to reject topics of unlisted namespaces; otherwise they are in the default namespace.
    is_strict: bool,
}

/// The topic's namespace is not listed, but others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownNamespace;

impl Namespaces {
    /// `default` applies to topics without a colon, and `others` by name. If `others` is not empty, topics of other
    /// namespaces are rejected.
    pub fn new(default: Namespace, mut others: Vec<(String, Namespace)>) -> Namespaces {
        let is_strict = !others.is_empty();
        others.push((SYSTEM_NAMESPACE.to_owned(), Namespace::system()));
        others.sort_by(|(a, _), (b, _)| a.cmp(b));
        others.insert(0, (String::new(), default));
        Namespaces { list: others, is_strict }
    }

    /// Adds the namespaces that are not listed. Topics of other namespaces are rejected or not as before.
    pub fn with(mut self, more: Vec<(String, Namespace)>) -> Namespaces {
        for (name, namespace) in more {
            if let Err(index) = self.list[1..].binary_search_by(|(other, _)| other.cmp(&name)) {
                self.list.insert(index + 1, (name, namespace));
            }
        }
        self
    }

    /// The namespace of a topic.
    ///
    /// # Errors
    /// [`UnknownNamespace`]: there is a list, and the topic's namespace is not in it.
    pub fn find(&self, topic: &TopicName) -> Result<NamespaceId, UnknownNamespace> {
        let Some(name) = topic.namespace() else { return Ok(NamespaceId(0)) };
        let index = self.list[1..].binary_search_by(|(other, _)| other.as_str().cmp(name));
        match index {
            Ok(index) => Ok(NamespaceId(index as u16 + 1)),
            Err(_) if self.is_strict => Err(UnknownNamespace),
            Err(_) => Ok(NamespaceId(0)),
        }
    }

    /// The settings of a namespace.
    pub fn get(&self, id: NamespaceId) -> &Namespace {
        &self.list[usize::from(id.0)].1
    }

    /// Whether keyed topics can keep their promise; `in_cluster`: an order outside of the process gives the offsets.
    ///
    /// # Errors
    /// A text that names the namespace and the remedy.
    pub fn check(&self, in_cluster: bool) -> Result<(), String> {
        for (name, namespace) in self.iter().filter(|(_, namespace)| namespace.keyed) {
            let name = if name.is_empty() { "default" } else { name };
            if in_cluster {
                return Err(format!(
                    "[namespaces.{name}] is keyed, but a node that joins a cluster would not know the values that were \
                     set before: remove keyed, or serve its topics from a server that is not in a cluster"
                ));
            }
            let for_others = [("delta", namespace.delta), ("tags_filter", namespace.tags_filter)];
            if let Some((key, _)) = for_others.into_iter().find(|(_, is_set)| *is_set) {
                return Err(format!(
                    "[namespaces.{name}] is keyed, but {key} = true is for topics that are not: remove one of them"
                ));
            }
            if namespace.slow_consumer == SlowConsumer::DropOldest {
                return Err(format!(
                    "[namespaces.{name}] is keyed, but slow_consumer = \"drop-oldest\" would drop the newest value of \
                     a key: use \"conflate\" or \"close\""
                ));
            }
        }
        Ok(())
    }

    /// Whether a topic is keyed.
    pub fn is_keyed(&self, topic: &TopicName) -> bool {
        self.find(topic).is_ok_and(|id| self.get(id).keyed)
    }

    /// All namespaces, the default one first.
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
    fn the_first_part_of_a_name_is_the_namespace() {
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
    fn added_namespaces_replace_none_and_reject_no_topic() {
        let sized = |history_size| Namespace { history_size, ..Namespace::default() };
        let more = || vec![("chat".to_owned(), sized(8)), ("demo".to_owned(), sized(9))];
        let open = Namespaces::new(sized(0), Vec::new()).with(more());
        let found = ["chat:a", "demo:a", "other:a", "a"].map(|topic| find(&open, topic));
        assert_eq!(found, [Ok(8), Ok(9), Ok(0), Ok(0)]);
        let listed = Namespaces::new(sized(0), vec![("chat".to_owned(), sized(1))]).with(more());
        let found = ["chat:a", "demo:a", "other:a", "a"].map(|topic| find(&listed, topic));
        assert_eq!(found, [Ok(1), Ok(9), Err(UnknownNamespace), Ok(0)]);
    }

    #[test]
    fn permissions_require_admission_by_the_name() {
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
    fn keyed_topics_are_neither_dropped_from_nor_in_a_cluster() {
        let with = |keyed, slow_consumer| {
            let chat = Namespace { keyed, slow_consumer, ..Namespace::default() };
            Namespaces::new(Namespace::default(), vec![("chat".to_owned(), chat)])
        };
        for slow_consumer in [SlowConsumer::Close, SlowConsumer::Conflate] {
            assert_eq!(with(true, slow_consumer).check(false), Ok(()));
        }
        assert_eq!(with(false, SlowConsumer::DropOldest).check(true), Ok(()));
        let refused = with(true, SlowConsumer::DropOldest).check(false).unwrap_err();
        assert!(refused.contains("[namespaces.chat]") && refused.contains("conflate"), "{refused}");
        assert!(with(true, SlowConsumer::Close).check(true).unwrap_err().contains("cluster"));
    }

    #[test]
    fn without_a_list_all_topics_are_in_the_default_namespace() {
        let namespaces = Namespaces::new(Namespace { history_size: 7, ..Namespace::default() }, Vec::new());
        assert_eq!(find(&namespaces, "chat:lobby"), Ok(7));
    }

    #[test]
    fn the_servers_own_topics_have_a_namespace_of_their_own() {
        for others in [Vec::new(), vec![("chat".to_owned(), Namespace::default())]] {
            let namespaces = Namespaces::new(Namespace::default(), others);
            let id = namespaces.find(&TopicName::new("$sys:stats").unwrap()).unwrap();
            let namespace = namespaces.get(id);
            assert_eq!((namespace.subscribe, namespace.publish), (Allowed::Nobody, Allowed::Nobody));
            assert_eq!((namespace.history, namespace.history_size), (Allowed::Nobody, STATS_HISTORY_SIZE));
        }
    }
}
