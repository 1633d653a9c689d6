//! Topic names, and the paths that contain them.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ringfeed::gateway::{Echo, Feed, RouteSet, Routes};
use ringfeed::limits::TOPIC_NAME_BYTES_MAX;
use ringfeed::topics::{Homes, TopicName};

/// Any bytes as a name and as a path: an accepted name is within the alphabet, contains no way up, is the same in every
/// encoding, and has one home shard.
pub(crate) fn names(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(name) = TopicName::new(text) {
        check_name(&name, text);
        let encoded = utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        assert_eq!(TopicName::from_path(&encoded).as_ref(), Ok(&name));
    }
    if let Ok(name) = TopicName::from_path(text) {
        check_name(&name, name.as_str());
        assert!(!text.contains(','), "a comma separates names");
    }
    check_route(text);
}

fn check_name(name: &TopicName, text: &str) {
    assert_eq!(name.as_str(), text);
    assert!((1..=TOPIC_NAME_BYTES_MAX).contains(&text.len()));
    let is_plain = |byte: u8| (b'!'..=b'~').contains(&byte) && !b"\"'%,;<>?[\\]^`{|}".contains(&byte);
    assert!(text.bytes().all(is_plain), "{text:?}");
    assert!(!format!("/{text}/").contains("/../") && !format!("/{text}/").contains("//"), "{text:?}");
    let homes: Vec<usize> = (1..=8).map(|shards| Homes::new(shards, [5, 7]).of(name)).collect();
    assert!(homes.iter().zip(1..).all(|(home, shards)| *home < shards), "{homes:?}");
    assert_eq!(homes[6], Homes::new(7, [5, 7]).of(&TopicName::new(text).expect("it is a valid name")));
}

/// A route matches only if its path is a prefix, and the longest match wins.
fn check_route(path: &str) {
    let mut routes = Routes::default();
    for (route, is_echo) in [("/feed/", false), ("/feed/private/", false), ("/echo", true)] {
        let added = if is_echo { routes.add(route, Echo) } else { routes.add(route, Feed::default()) };
        added.expect("three different routes");
    }
    let expected = match path {
        "/echo" => Some((2, "")),
        _ => path
            .strip_prefix("/feed/private/")
            .map(|rest| (1, rest))
            .or_else(|| path.strip_prefix("/feed/").map(|rest| (0, rest))),
    };
    assert_eq!(routes.find(path, RouteSet::ALL), expected);
}
