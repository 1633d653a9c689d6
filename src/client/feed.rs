//! What `sub` knows of a feed: its URL in parts, and the position in each topic, from which it resumes.
//!
//! Messages of the subprotocol `ringfeed.envelope` begin with a line of JSON that holds topic and position.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// The subprotocol with positions.
pub(super) const ENVELOPE: &str = "ringfeed.envelope";

/// Where a feed begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With the next publication.
    Live,
    /// After a position, or with the newest publications: the query's parameter and its value.
    CatchUp(&'static str, String),
}

/// A feed and where the next connection to it begins.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    /// Up to the query.
    address: String,
    /// The parameters of the query, without those of the start.
    parameters: Vec<String>,
    /// The topics of the path, in its order; empty if it is no feed's.
    topics: Vec<String>,
    start: Start,
    positions: BTreeMap<String, Position>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    epoch: String,
    offset: u64,
}

/// What a message of the subprotocol is.
#[derive(Debug, PartialEq)]
pub(super) enum Envelope<'a> {
    /// A publication: what the server says of it, and the payload.
    Publication(Map<String, Value>, &'a [u8]),
    /// A subscription has begun, and all messages since the start follow.
    Subscribed,
    /// A snapshot of this keyed topic begins: what was known of it is void.
    Snapshot(String),
    /// A subscription of this topic has begun, and messages since the start are no longer kept.
    Lost(String),
}

impl Feed {
    /// The feed of a URL. Its query may have a start; `start` wins over it.
    pub(super) fn new(url: &str, start: Option<Start>) -> Feed {
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut found = Start::Live;
        let mut parameters = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("since", value)) => found = Start::CatchUp("since", value.to_owned()),
                Some(("history", value)) => found = Start::CatchUp("history", value.to_owned()),
                _ => parameters.push(pair.to_owned()),
            }
        }
        let topics = address.split_once("/feed/").map_or("", |(_, topics)| topics);
        let topics = topics.split(',').filter(|topic| !topic.is_empty());
        let topics = topics.map(|topic| percent_decode_str(topic).decode_utf8_lossy().into_owned()).collect();
        let start = start.unwrap_or(found);
        Feed { address: address.to_owned(), parameters, topics, start, positions: BTreeMap::new() }
    }

    /// The URL of the next connection.
    pub(super) fn url(&self) -> String {
        let start = match &self.start {
            Start::Live => None,
            Start::CatchUp(name, value) => Some(format!("{name}={value}")),
        };
        let query: Vec<String> = self.parameters.iter().cloned().chain(start).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{mark}{}", self.address, query.join("&"))
    }

    /// Reads a message and notes the position that it states. `None`: it is none of the subprotocol.
    pub(super) fn read<'a>(&mut self, message: &'a [u8]) -> Option<Envelope<'a>> {
        let end = message.iter().position(|byte| *byte == b'\n')?;
        let head: Map<String, Value> = serde_json::from_slice(&message[..end]).ok()?;
        let topic = head.get("topic")?.as_str()?.to_owned();
        let (epoch, offset) = (head.get("epoch")?.as_str()?.to_owned(), head.get("offset")?.as_u64()?);
        let is = |name: &str| head.get(name).and_then(Value::as_bool);
        let (is_subscribed, is_recovered) = (is("subscribed") == Some(true), is("recovered"));
        // The messages that were missed follow, each with its position: only they move it.
        if !(is_subscribed && is_recovered == Some(true)) {
            self.positions.insert(topic.clone(), Position { epoch, offset });
            self.resume();
        }
        if head.get("state").and_then(Value::as_str) == Some("snapshot") {
            return Some(Envelope::Snapshot(topic));
        }
        match (is_subscribed, is_recovered) {
            (false, _) => Some(Envelope::Publication(head, &message[end + 1..])),
            (true, Some(false)) => Some(Envelope::Lost(topic)),
            (true, _) => Some(Envelope::Subscribed),
        }
    }

    /// A feed without positions has begun: the next connection can only begin live.
    pub(super) fn forget_start(&mut self) {
        self.start = Start::Live;
    }

    /// Has the next connection begin after the positions, once each topic has one.
    fn resume(&mut self) {
        let position = |topic| {
            let Position { epoch, offset } = self.positions.get(topic)?;
            Some(format!("{epoch}:{offset}"))
        };
        let positions: Option<Vec<String>> = self.topics.iter().map(position).collect();
        if let Some(positions) = positions.filter(|positions| !positions.is_empty()) {
            self.start = Start::CatchUp("since", positions.join(","));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(topic: &str, offset: u64) -> Vec<u8> {
        format!("{{\"topic\":\"{topic}\",\"epoch\":\"e\",\"offset\":{offset},\"time\":5}}\nhi\nyou").into_bytes()
    }

    fn subscribed(topic: &str, offset: u64, more: &str) -> Vec<u8> {
        format!("{{\"subscribed\":true,\"topic\":\"{topic}\",\"epoch\":\"e\",\"offset\":{offset}{more}}}\n")
            .into_bytes()
    }

    #[test]
    fn the_start_is_one_of_the_parameters() {
        let since = |value: &str| Some(Start::CatchUp("since", value.to_owned()));
        let rows = [
            ("ws://a/feed/x", None, "ws://a/feed/x"),
            ("ws://a/feed/x?since=e:1&token=t#f", None, "ws://a/feed/x?token=t&since=e:1"),
            ("ws://a/feed/x?history=3", since("e:2"), "ws://a/feed/x?since=e:2"),
            ("ws://a/feed/x?token=t", since("e:2"), "ws://a/feed/x?token=t&since=e:2"),
        ];
        for (url, start, expected) in rows {
            assert_eq!(Feed::new(url, start).url(), expected);
        }
    }

    #[test]
    fn the_next_connection_begins_after_the_last_message_of_each_topic() {
        let mut feed = Feed::new("ws://a/feed/chat%3Ax,b?history=2", None);
        assert_eq!(feed.read(&subscribed("chat:x", 7, ",\"recovered\":true")), Some(Envelope::Subscribed));
        assert_eq!(feed.read(&subscribed("b", 3, ",\"recovered\":true")), Some(Envelope::Subscribed));
        assert!(feed.url().ends_with("?history=2"), "the missed messages have not come yet: {}", feed.url());
        let message = publication("b", 3);
        let Some(Envelope::Publication(head, payload)) = feed.read(&message) else { panic!("a publication") };
        assert_eq!((head["topic"].as_str(), head["offset"].as_u64(), payload), (Some("b"), Some(3), &b"hi\nyou"[..]));
        assert!(feed.url().ends_with("?history=2"), "{}", feed.url());
        feed.read(&publication("chat:x", 7));
        assert_eq!(feed.url(), "ws://a/feed/chat%3Ax,b?since=e:7,e:3");
        // A connection that ends while missed messages come is resumed in their midst.
        feed.read(&subscribed("b", 9, ",\"recovered\":true"));
        feed.read(&publication("b", 4));
        assert_eq!(feed.url(), "ws://a/feed/chat%3Ax,b?since=e:7,e:4");
    }

    #[test]
    fn a_snapshot_is_resumed_in_its_midst() {
        let mut feed = Feed::new("ws://a/feed/b", None);
        let snapshot = b"{\"state\":\"snapshot\",\"topic\":\"b\",\"epoch\":\"e\",\"offset\":0}\n";
        assert_eq!(feed.read(snapshot), Some(Envelope::Snapshot("b".to_owned())));
        assert_eq!(feed.url(), "ws://a/feed/b?since=e:0");
        let value = b"{\"state\":\"put\",\"key\":\"k\",\"topic\":\"b\",\"epoch\":\"e\",\"offset\":4}\nhi";
        assert!(matches!(feed.read(value), Some(Envelope::Publication(_, b"hi"))));
        assert_eq!(feed.url(), "ws://a/feed/b?since=e:4");
        assert_eq!(feed.read(&subscribed("b", 9, "")), Some(Envelope::Subscribed));
        assert_eq!(feed.url(), "ws://a/feed/b?since=e:9");
    }

    #[test]
    fn a_lost_position_is_replaced() {
        let mut feed = Feed::new("ws://a/feed/b?since=old:3", None);
        assert_eq!(feed.read(&subscribed("b", 9, ",\"recovered\":false")), Some(Envelope::Lost("b".to_owned())));
        assert_eq!(feed.url(), "ws://a/feed/b?since=e:9");
    }

    #[test]
    fn other_messages_are_none_of_it() {
        let mut feed = Feed::new("ws://a/feed/b", None);
        for message in [&b""[..], b"hi", b"{}\n", b"{\"topic\":1}\nhi", b"\n"] {
            assert_eq!(feed.read(message), None, "{}", message.escape_ascii());
        }
        assert_eq!(feed.url(), "ws://a/feed/b");
    }
}
