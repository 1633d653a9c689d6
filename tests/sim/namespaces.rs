//! The names of topics, and the settings of their namespaces.

use ringfeed::limits::HISTORY_BYTES_MAX;
use ringfeed::ring::sim::Rng;
use ringfeed::topics::{Namespace, Namespaces, SlowConsumer};

/// The namespaces besides the default.
const NAMES: [&str; 2] = ["a", "b"];

/// The number of the first keyed topic.
pub(crate) const KEYED: usize = 1000;

/// The namespace of keyed topics.
pub(crate) const KEYED_NAMESPACE: &str = "k";

/// The name of a topic: a third of the topics that are not keyed in each namespace.
pub(crate) fn topic_name(topic: usize) -> String {
    if topic >= KEYED {
        return format!("{KEYED_NAMESPACE}:{topic}");
    }
    match topic % (NAMES.len() + 1) {
        0 => format!("t/{topic}"),
        other => format!("{}:{topic}", NAMES[other - 1]),
    }
}

/// The inverse of [`topic_name`].
pub(crate) fn topic_number(name: &str) -> usize {
    let number = name.rsplit(['/', ':']).next().and_then(|number| number.parse().ok());
    number.filter(|number| topic_name(*number) == name).unwrap_or_else(|| panic!("unknown topic: {name}"))
}

/// The settings of all namespaces.
pub(crate) fn namespaces(rng: &mut Rng) -> Namespaces {
    let default = namespace(rng);
    Namespaces::new(default, NAMES.iter().map(|name| (name.to_string(), namespace(rng))).collect())
}

fn namespace(rng: &mut Rng) -> Namespace {
    let slow_consumer = match rng.below(10) {
        0..6 => SlowConsumer::Close,
        6..8 => SlowConsumer::DropOldest,
        _ => SlowConsumer::Conflate,
    };
    // The checks tell slow subscribers by bytes where the server closes them, so only drop-oldest may age.
    let may_age = slow_consumer == SlowConsumer::DropOldest;
    Namespace {
        history_size: rng.choose(&[0, 3, 30, 1000, 1000]),
        history_ttl_ms: rng.choose(&[0, 0, 50, 2_000]),
        history_bytes_max: rng.choose(&[2_000, HISTORY_BYTES_MAX, HISTORY_BYTES_MAX]),
        outbox_bytes_max: rng.choose(&[500, 5_000, 60_000, 1024 * 1024]),
        outbox_age_ms: if may_age { rng.choose(&[0, 0, 30]) } else { 0 },
        coalesce_ms: rng.choose(&[0, 0, 0, 1, 20]),
        presence: rng.chance(500),
        join_leave: rng.chance(400),
        force_join_leave: rng.chance(300),
        deflate: rng.chance(800),
        slow_consumer,
        ..Namespace::default()
    }
}
