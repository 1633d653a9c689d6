//! MESSAGE frames of publications.
//!
//! A MESSAGE names the client's subscription. Clients number theirs (`sub-0`, `sub-1` … or `0`, `1` …), so the shard
//! makes the frame of a publication once for all subscribers with the same number: a [label](LabelledEncoding). Other
//! ids, and connections with several subscriptions to one topic, have frames of their own.

use std::sync::LazyLock;

use super::broker::Receiver;
use super::frame::{Version, encode};
use super::queue::Item;
use super::session::{Session, Subscription};
use crate::gateway::{Encoder, register};
use crate::proto::{self, Message, MessageKind};
use crate::topics::{Body, Encoding, LabelledEncoding, Position, TopicName};

/// Approximate bytes of a MESSAGE frame besides its payload, names and tags.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// The header fields of MESSAGE that are not the publisher's.
const OWN: [&str; 5] = ["subscription", "message-id", "destination", "content-length", "ack"];

/// Numbers of subscriptions that have a label: the first ones, once as `sub-N` and once as `N`.
const NUMBERS: u8 = 127;

const PREFIX: &str = "sub-";

/// MESSAGE frames for subscriptions with a label.
struct Labelled {
    version: Version,
    is_websocket: bool,
}

static ON_WEBSOCKETS: LazyLock<[Encoding; 2]> = LazyLock::new(|| encodings(true));
static ON_TCP: LazyLock<[Encoding; 2]> = LazyLock::new(|| encodings(false));

/// For STOMP 1.1 and 1.2: their escapes differ.
fn encodings(is_websocket: bool) -> [Encoding; 2] {
    [Version::V11, Version::V12].map(|version| register(Labelled { version, is_websocket }))
}

impl Encoder for Labelled {
    fn name(&self) -> &'static str {
        "STOMP"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        self.encode_labelled(out, body, label_of("0").expect("it is a number"));
    }

    fn encode_labelled(&self, out: &mut Vec<u8>, body: &Body, label: u8) {
        let destination = destination(&body.topic);
        let mut frame = Vec::with_capacity(MESSAGE_OVERHEAD_BYTES + body.payload().len());
        encode_publication(&mut frame, body, (&id_of(label), &destination, false), self.version);
        match self.is_websocket {
            true => proto::encode_message(out, Message { kind: kind(body), payload: &frame }, None),
            false => out.extend_from_slice(&frame),
        }
    }
}

/// Appends the MESSAGE of a publication for a subscription: its id, its destination, and whether the client
/// acknowledges.
pub(super) fn encode_publication(
    out: &mut Vec<u8>,
    body: &Body,
    (subscription, destination, has_acks): (&str, &str, bool),
    version: Version,
) {
    let (id, length) = (message_id(body.position), body.payload().len().to_string());
    let own = [
        ("subscription", subscription),
        ("message-id", &id),
        ("destination", destination),
        ("content-length", &length),
    ];
    let ack = has_acks.then_some(("ack", id.as_str()));
    let tags = body.tags.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()));
    let headers = own.into_iter().chain(ack).chain(tags.filter(|(name, _)| !OWN.contains(name)));
    encode(out, "MESSAGE", headers, body.payload(), version);
}

/// The MESSAGE of an application for one subscription: without a position, with header fields and a body.
pub(super) fn encode_direct(
    subscription: &Subscription,
    id: &str,
    (headers, body): (&[(String, String)], &[u8]),
    version: Version,
) -> Vec<u8> {
    let length = body.len().to_string();
    let own = [
        ("subscription", &*subscription.id),
        ("message-id", id),
        ("destination", &*subscription.destination),
        ("content-length", &length),
    ];
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut out = Vec::with_capacity(MESSAGE_OVERHEAD_BYTES + body.len());
    encode(&mut out, "MESSAGE", own.into_iter().chain(headers.filter(|(name, _)| !OWN.contains(name))), body, version);
    out
}

/// The MESSAGE of a queue: `id` names the delivery, for acknowledgements.
pub(super) fn encode_delivery(receiver: &Receiver, id: &str, item: &Item) -> Vec<u8> {
    let body = &item.draft.payload;
    let length = body.len().to_string();
    let own = [
        ("subscription", &*receiver.id),
        ("message-id", id),
        ("destination", &*receiver.destination),
        ("content-length", &length),
    ];
    let ack = receiver.has_acks.then_some(("ack", id));
    let redelivered = item.is_redelivered.then_some(("redelivered", "true"));
    let tags = item.draft.tags.iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()));
    let tags = tags.filter(|(name, _)| !OWN.contains(name) && *name != "redelivered");
    let mut out = Vec::with_capacity(MESSAGE_OVERHEAD_BYTES + body.len());
    encode(&mut out, "MESSAGE", own.into_iter().chain(ack).chain(redelivered).chain(tags), body, receiver.version);
    out
}

/// Text or binary. A text message must be UTF-8, body included.
pub(super) fn kind(body: &Body) -> MessageKind {
    if body.is_text { MessageKind::Text } else { MessageKind::Binary }
}

/// The `message-id` of a publication.
pub(super) fn message_id(position: Position) -> String {
    format!("{}-{}", position.epoch, position.offset)
}

/// The encoding of a topic's publications for a connection: shared with others if it has one subscription to the topic,
/// with a usual id.
pub(super) fn encoding(session: &Session, topic: &TopicName) -> Option<LabelledEncoding> {
    let mut subscriptions = session.of_topic(topic);
    let (subscription, None) = (subscriptions.next()?, subscriptions.next()) else { return None };
    let Subscription { id, destination: written, has_acks, .. } = subscription;
    if *has_acks || **written != *destination(topic) {
        return None;
    }
    let encodings = if session.is_websocket { &*ON_WEBSOCKETS } else { &*ON_TCP };
    let encoding = match session.version {
        Version::V10 => return None,
        Version::V11 => encodings[0],
        Version::V12 => encodings[1],
    };
    Some(LabelledEncoding { encoding, label: label_of(id)? })
}

/// The usual destination of a topic.
fn destination(topic: &TopicName) -> String {
    format!("/topic/{topic}")
}

/// The label of a subscription's id.
fn label_of(id: &str) -> Option<u8> {
    let (digits, first) = match id.strip_prefix(PREFIX) {
        Some(digits) => (digits, 1 + NUMBERS),
        None => (id, 1),
    };
    let number: u8 = digits.parse().ok().filter(|number| *number < NUMBERS)?;
    let label = first + number;
    // Not `+7` or `007`.
    (*id_of(label) == *id).then_some(label)
}

/// The id with this label.
fn id_of(label: u8) -> String {
    match label.checked_sub(1 + NUMBERS) {
        Some(number) => format!("{PREFIX}{number}"),
        None => (label - 1).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::{Epoch, testing};

    #[test]
    fn usual_ids_have_labels_of_their_own() {
        let ids: Vec<String> = (0..NUMBERS).flat_map(|number| [number.to_string(), format!("sub-{number}")]).collect();
        let mut labels: Vec<u8> = ids.iter().map(|id| label_of(id).unwrap()).collect();
        for (id, label) in ids.iter().zip(&labels) {
            assert_eq!((id_of(*label), *label > 0), (id.clone(), true));
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), ids.len());
        for other in ["", "127", "sub-127", "sub-", "007", "+7", "sub-07", "sub-+1", "sub-1 ", "SUB-1", "-1", "a"] {
            assert_eq!(label_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_shared_frame_is_the_one_that_a_connection_would_have() {
        let position = Position { epoch: Epoch::new(7), offset: 3 };
        let body = testing::body("prices/EUR", position, 0, b"1.09");
        let mut shared = Vec::new();
        Labelled { version: Version::V12, is_websocket: false }.encode_labelled(
            &mut shared,
            &body,
            label_of("sub-9").unwrap(),
        );
        let mut own = Vec::new();
        encode_publication(&mut own, &body, ("sub-9", "/topic/prices/EUR", false), Version::V12);
        assert_eq!(String::from_utf8_lossy(&shared), String::from_utf8_lossy(&own));
        let mut message = Vec::new();
        Labelled { version: Version::V12, is_websocket: true }.encode_labelled(
            &mut message,
            &body,
            label_of("sub-9").unwrap(),
        );
        assert!(message.ends_with(&own) && message.len() > own.len());
    }
}
