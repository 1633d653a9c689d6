//! The known publications: publishers learn each position from their answers, subscribers from their messages.
//!
//! Each position is recorded once; every later report of it must agree.

use std::sync::Mutex;

use ringfeed::topics::{Namespace, Namespaces, SlowConsumer};

/// Topics of each kind.
const TOPICS_OF_KIND: usize = 6;

/// A position: epoch and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: [u8; 13],
    pub(crate) offset: u64,
}

/// A publication: its publisher, and its number among that publisher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) publisher: u64,
    pub(crate) number: u64,
}

/// The guarantees of a namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Slow subscribers may miss publications, as the offsets show.
    pub(crate) may_skip: bool,
    /// A subscriber that missed at most this many must recover them.
    pub(crate) recoverable: u64,
}

const KINDS: [Kind; 5] = [
    Kind { name: "long", may_skip: false, recoverable: 300 },
    Kind { name: "short", may_skip: false, recoverable: 5 },
    Kind { name: "brief", may_skip: false, recoverable: 0 },
    Kind { name: "lossy", may_skip: true, recoverable: 0 },
    Kind { name: "newest", may_skip: true, recoverable: 10 },
];

fn namespace(kind: &Kind) -> Namespace {
    let default = Namespace::default();
    match kind.name {
        "long" => Namespace { history_size: 1000, ..default },
        "short" => Namespace { history_size: 5, outbox_bytes_max: 20_000, ..default },
        "brief" => Namespace { history_size: 300, history_ttl_ms: 30, ..default },
        "lossy" => {
            Namespace { history_size: 50, slow_consumer: SlowConsumer::DropOldest, outbox_bytes_max: 16_000, ..default }
        }
        _ => Namespace { history_size: 10, slow_consumer: SlowConsumer::Conflate, outbox_bytes_max: 64_000, ..default },
    }
}

#[derive(Debug, Default)]
struct Published {
    epoch: Option<[u8; 13]>,
    /// By offset, from 1: the publication, and whether its publisher has received the position.
    order: Vec<Option<(Id, bool)>>,
}

#[derive(Debug)]
struct Topic {
    name: String,
    kind: Kind,
    published: Mutex<Published>,
}

/// All topics.
#[derive(Debug)]
pub(crate) struct Truth {
    topics: Vec<Topic>,
}

impl Truth {
    pub(crate) fn new() -> Truth {
        let topics_of = |kind: Kind| {
            (0..TOPICS_OF_KIND).map(move |number| Topic {
                name: format!("{}:{number}", kind.name),
                kind,
                published: Mutex::default(),
            })
        };
        Truth { topics: KINDS.into_iter().flat_map(topics_of).collect() }
    }

    pub(crate) fn namespaces(&self) -> Namespaces {
        Namespaces::new(
            Namespace::default(),
            KINDS.iter().map(|kind| (kind.name.to_owned(), namespace(kind))).collect(),
        )
    }

    pub(crate) fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub(crate) fn name(&self, topic: usize) -> &str {
        &self.topics[topic].name
    }

    pub(crate) fn kind(&self, topic: usize) -> Kind {
        self.topics[topic].kind
    }

    pub(crate) fn find(&self, name: &str) -> usize {
        let found = self.topics.iter().position(|topic| topic.name == name);
        found.unwrap_or_else(|| panic!("unknown topic: {name}"))
    }

    /// A subscriber has received this publication with this position.
    pub(crate) fn saw(&self, topic: usize, place: Place, id: Id) {
        self.note(topic, place, id, false);
    }

    /// A publisher has received the position of its publication.
    pub(crate) fn confirm(&self, topic: usize, place: Place, id: Id) {
        self.note(topic, place, id, true);
    }

    fn note(&self, topic: usize, place: Place, id: Id, is_answer: bool) {
        let mut published = self.topics[topic].published.lock().expect("nobody has panicked");
        let epoch = *published.epoch.get_or_insert(place.epoch);
        assert_eq!(epoch, place.epoch, "the epoch of {} has changed", self.name(topic));
        let index = place.offset.checked_sub(1).expect("offsets begin with 1") as usize;
        if index >= published.order.len() {
            published.order.resize(index + 1, None);
        }
        let (known, is_confirmed) = *published.order[index].get_or_insert((id, false));
        assert_eq!(known, id, "two publications at {place:?} of {}", self.name(topic));
        assert!(!(is_answer && is_confirmed), "two publishers received the position {place:?} of {}", self.name(topic));
        published.order[index] = Some((id, is_confirmed || is_answer));
    }

    /// The last offset of a topic, once all publications are made.
    pub(crate) fn top(&self, topic: usize) -> u64 {
        self.topics[topic].published.lock().expect("nobody has panicked").order.len() as u64
    }

    /// Checks that each position belongs to exactly one publication, and that each publisher's are in its order.
    /// Returns their number.
    pub(crate) fn check_whole(&self) -> u64 {
        self.topics.iter().map(Topic::check_whole).sum()
    }
}

impl Topic {
    fn check_whole(&self) -> u64 {
        let published = self.published.lock().expect("nobody has panicked");
        let mut last = [0; 8];
        for (index, entry) in published.order.iter().enumerate() {
            let (name, offset) = (&self.name, index + 1);
            let (id, is_confirmed) = entry.unwrap_or_else(|| panic!("offset {offset} of {name} has no publication"));
            assert!(is_confirmed, "no publisher received offset {offset} of {name}, but subscribers have");
            let before = std::mem::replace(&mut last[id.publisher as usize], id.number);
            assert!(before < id.number, "{before} of {name} is followed by {id:?}");
        }
        published.order.len() as u64
    }
}
