//! MQTT 3.1.1 over WebSocket: packets in binary messages, cut and joined wherever the server likes (§6). Published and
//! subscribed to with quality of service 0, which nobody acknowledges.

use ringfeed::proto::{Message, MessageKind};

use super::{Driver, Outgoing, Seen};

/// A broker with a WebSocket listener: mosquitto, EMQX, VerneMQ and others.
pub(crate) struct Mqtt;

/// The types of packets that come or go here, as they stand in the upper half of the first byte (§2.2.1).
const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;

/// Name and level of the protocol, the flag of a clean session, and the longest keep-alive there is, 18 hours: no run
/// needs to ping. 0 would be none at all, which some brokers refuse (§3.1.2).
const CONNECT_HEADER: &[u8] = b"\x00\x04MQTT\x04\x02\xff\xff";

/// The broker shall choose a client identifier (§3.1.3.1).
const NO_IDENTIFIER: &[u8] = b"\x00\x00";

/// The identifier of the only packet that has one: a subscription.
const SUBSCRIPTION: &[u8] = b"\x00\x01";

/// Set in the first byte of a publication that was kept from before its receiver came (§3.3.1.3).
const RETAIN: u8 = 1;

/// The quality of service in the first byte of a publication (§3.3.1.2).
const QUALITY: u8 = 0b110;

/// A packet of the server's: first byte, and what follows the length.
type Packet<'a> = (u8, &'a [u8]);

impl Driver for Mqtt {
    fn subprotocol(&self) -> Option<&str> {
        Some("mqtt")
    }

    /// Nobody need wait for the answer to CONNECT (§3.1.4). A subscriber is ready with the answer to SUBSCRIBE, a
    /// publisher with that to a ping.
    fn greeting(&self, topic: Option<&str>) -> Vec<Outgoing> {
        let mut greeting = Vec::new();
        encode(&mut greeting, CONNECT << 4, &[CONNECT_HEADER, NO_IDENTIFIER]);
        match topic {
            // Bit 1 is reserved and must be set (§3.8.1); 0 is the quality of service.
            Some(topic) => encode(&mut greeting, SUBSCRIBE << 4 | 2, &[SUBSCRIPTION, &string(topic), b"\x00"]),
            None => encode(&mut greeting, PINGREQ << 4, &[]),
        }
        vec![(MessageKind::Binary, greeting)]
    }

    fn read(&self, message: Message<'_>, partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        if partial.is_empty() {
            let used = read_packets(message.payload, seen)?;
            partial.extend_from_slice(&message.payload[used..]);
        } else {
            partial.extend_from_slice(message.payload);
            let used = read_packets(partial, seen)?;
            partial.drain(..used);
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing {
        let mut message = Vec::new();
        encode(&mut message, PUBLISH << 4, &[&string(topic), payload]);
        (MessageKind::Binary, message)
    }
}

/// Tells of all that is whole in `bytes`; how much that was.
fn read_packets(bytes: &[u8], seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize, String> {
    let mut used = 0;
    while let Some((packet, len)) = next_packet(&bytes[used..])? {
        read_packet(packet, seen)?;
        used += len;
    }
    Ok(used)
}

/// The packet at the front, and its length; `None` if it is not whole.
fn next_packet(bytes: &[u8]) -> Result<Option<(Packet<'_>, usize)>, String> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((body_len, len_bytes)) = decode_length(rest)? else { return Ok(None) };
    Ok(rest.get(len_bytes..len_bytes + body_len).map(|body| ((*first, body), 1 + len_bytes + body_len)))
}

fn read_packet((first, body): Packet<'_>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
    match (first >> 4, body) {
        (CONNACK, [_, 0]) => {}
        (CONNACK, [_, code]) => return Err(format!("refused: {}", refusal(*code))),
        (SUBACK, [_, _, 0]) | (PINGRESP, []) => seen(Seen::Ready),
        (SUBACK, [_, _, 0x80]) => return Err("refused: no subscription to this topic".to_owned()),
        (PUBLISH, body) if first & QUALITY == 0 => {
            let payload = payload(body).ok_or("a publication shorter than its topic")?;
            // What was kept is not of this run.
            if first & RETAIN == 0 {
                seen(Seen::Payload(Message::binary(payload)));
            }
        }
        (kind, body) => {
            let front = &body[..body.len().min(8)];
            return Err(format!("nobody asked for this packet: type {kind}, {}", front.escape_ascii()));
        }
    }
    Ok(())
}

/// What is published, after the name of its topic.
fn payload(body: &[u8]) -> Option<&[u8]> {
    let (topic_len, rest) = body.split_first_chunk()?;
    rest.get(usize::from(u16::from_be_bytes(*topic_len))..)
}

/// Why a broker does not take us in (§3.2.2.3).
fn refusal(code: u8) -> String {
    match code {
        1 => "it does not speak MQTT 3.1.1".to_owned(),
        2 => "it wants a client identifier".to_owned(),
        3 => "it is not available".to_owned(),
        4 => "bad user name or password".to_owned(),
        5 => "not authorized".to_owned(),
        code => format!("code {code}"),
    }
}

/// Seven bits to a byte, the lowest first (§2.2.3): the number, and how many bytes it takes. `None` if it is not whole.
fn decode_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((length, index + 1)));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err("no packet: a length of more than four bytes".to_owned()) }
}

/// Appends a packet with this first byte. What follows its length is in `parts`.
fn encode(out: &mut Vec<u8>, first: u8, parts: &[&[u8]]) {
    out.push(first);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    while length > 0x7f {
        out.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    out.push(length as u8);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A text with its length before it (§1.5.3).
fn string(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("the name of a topic is short");
    [&len.to_be_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::seen_in;
    use super::*;

    /// One packet of the server's.
    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        encode(&mut packet, first, &[body]);
        packet
    }

    fn publication(payload: &[u8]) -> Vec<u8> {
        packet(PUBLISH << 4, &[b"\x00\x03a/b", payload].concat())
    }

    #[test]
    fn packets_may_be_cut_anywhere_and_follow_each_other() {
        let long = "x".repeat(200);
        let stream = [
            packet(CONNACK << 4, b"\x00\x00"),
            packet(SUBACK << 4, b"\x00\x01\x00"),
            publication(b"one"),
            packet(PINGRESP << 4, b""),
            publication(long.as_bytes()),
            publication(b""),
        ]
        .concat();
        let whole = ["ready", "payload one", "ready", &format!("payload {long}"), "payload "];
        for cut in 0..=stream.len() {
            assert_eq!(seen_in(&Mqtt, &[&stream[..cut], &stream[cut..]]).unwrap(), whole, "{cut}");
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(seen_in(&Mqtt, &bytes).unwrap(), whole, "byte by byte");
    }

    #[test]
    fn what_is_refused_or_cannot_be_is_told() {
        // name, packet, words
        let table = [
            ("CONNACK", packet(CONNACK << 4, b"\x00\x05"), "not authorized"),
            ("CONNACK of a later version", packet(CONNACK << 4, b"\x00\x87"), "code 135"),
            ("CONNACK, cut", packet(CONNACK << 4, b"\x00"), "type 2"),
            ("SUBACK", packet(SUBACK << 4, b"\x00\x01\x80"), "no subscription"),
            ("SUBACK of a quality not asked for", packet(SUBACK << 4, b"\x00\x01\x01"), "type 9"),
            ("PUBLISH of a quality not asked for", packet(PUBLISH << 4 | 2, b"\x00\x01a\x00\x01x"), "type 3"),
            ("PUBLISH without a topic", packet(PUBLISH << 4, b"\x00"), "shorter than its topic"),
            ("PUBLISH with half a topic", packet(PUBLISH << 4, b"\x00\x02a"), "shorter than its topic"),
            ("PINGREQ", packet(PINGREQ << 4, b""), "type 12"),
            ("a length without an end", b"\x30\xff\xff\xff\xff\x01".to_vec(), "more than four"),
        ];
        for (name, packet, words) in table {
            for cut in 0..=packet.len() {
                let error = seen_in(&Mqtt, &[&packet[..cut], &packet[cut..]]).expect_err(name);
                assert!(error.contains(words), "{name}: {error}");
            }
        }
    }

    #[test]
    fn what_was_kept_from_before_is_not_of_this_run() {
        let kept = packet(PUBLISH << 4 | RETAIN, b"\x00\x01aold");
        assert_eq!(seen_in(&Mqtt, &[&kept, &publication(b"new")]).unwrap(), ["payload new"]);
    }

    #[test]
    fn a_subscriber_and_a_publisher_introduce_themselves() {
        let connect = b"\x10\x0c\x00\x04MQTT\x04\x02\xff\xff\x00\x00";
        let subscriber = [&connect[..], b"\x82\x08\x00\x01\x00\x03a/b\x00"].concat();
        assert_eq!(Mqtt.greeting(Some("a/b")), [(MessageKind::Binary, subscriber)]);
        assert_eq!(Mqtt.greeting(None), [(MessageKind::Binary, [&connect[..], b"\xc0\x00"].concat())]);
        assert_eq!(Mqtt.publish("t", b"hello"), (MessageKind::Binary, b"\x30\x08\x00\x01thello".to_vec()));
    }

    #[test]
    fn lengths_are_written_and_read_in_as_few_bytes_as_they_need() {
        // From the table in §2.2.3.
        let table = [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (2_097_151, 3), (2_097_152, 4)];
        for (len, len_bytes) in table {
            let packet = packet(PUBLISH << 4, &vec![0; len]);
            assert_eq!(packet.len(), 1 + len_bytes + len);
            assert_eq!(decode_length(&packet[1..]), Ok(Some((len, len_bytes))));
            assert_eq!(decode_length(&packet[1..len_bytes]), Ok(None), "not whole");
        }
    }
}
