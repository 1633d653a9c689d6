//! What was published, as far as anybody knows: publishers were told each place, and subscribers see them.
//!
//! Whoever learns the place of a publication writes it down here, and whoever learns it again must find the same.

use std::sync::Mutex;

use ringfeed::topics::{Namespace, Namespaces, SlowConsumer};

/// Topics of each kind.
const TOPICS_OF_KIND: usize = 6;

/// A place: epoch and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: [u8; 13],
    pub(crate) offset: u64,
}

/// Who published a publication, and as the how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub(crate) publisher: u64,
    pub(crate) number: u64,
}

/// What topics of a namespace promise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Slow subscribers may find some missing, by the offsets.
    pub(crate) may_skip: bool,
    /// Who has missed no more than so many must get them.
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
    /// By offset, the first has 1: whose it is, and whether its publisher was told.
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
        found.unwrap_or_else(|| panic!("no such topic: {name}"))
    }

    /// A subscriber has seen this publication at this place.
    pub(crate) fn saw(&self, topic: usize, place: Place, id: Id) {
        self.note(topic, place, id, false);
    }

    /// A publisher was told that its publication has this place.
    pub(crate) fn was_told(&self, topic: usize, place: Place, id: Id) {
        self.note(topic, place, id, true);
    }

    fn note(&self, topic: usize, place: Place, id: Id, is_told: bool) {
        let mut published = self.topics[topic].published.lock().expect("nobody has panicked");
        let epoch = *published.epoch.get_or_insert(place.epoch);
        assert_eq!(epoch, place.epoch, "the epoch of {} has changed", self.name(topic));
        let index = place.offset.checked_sub(1).expect("offsets begin with 1") as usize;
        if index >= published.order.len() {
            published.order.resize(index + 1, None);
        }
        let (known, was_told) = *published.order[index].get_or_insert((id, false));
        assert_eq!(known, id, "two publications at {place:?} of {}", self.name(topic));
        assert!(!(is_told && was_told), "the place {place:?} of {} was given twice", self.name(topic));
        published.order[index] = Some((id, was_told || is_told));
    }

    /// The last offset of a topic, once nothing is published any more.
    pub(crate) fn top(&self, topic: usize) -> u64 {
        self.topics[topic].published.lock().expect("nobody has panicked").order.len() as u64
    }

    /// Every place was told to exactly one publisher, and each one's publications stand in its order. Returns how many
    /// there are.
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
            let (id, was_told) = entry.unwrap_or_else(|| panic!("nobody published {offset} of {name}"));
            assert!(was_told, "nobody was told of {offset} of {name}, which subscribers have seen");
            let before = std::mem::replace(&mut last[id.publisher as usize], id.number);
            assert!(before < id.number, "{before} of {name} is followed by {id:?}");
        }
        published.order.len() as u64
    }
}
