//! MQTT 3.1.1 over WebSocket: packets in binary messages, split and joined arbitrarily (§6). Publishes and subscribes
//! with quality of service 0, which has no acknowledgements.

use ringfeed::proto::{Message, MessageKind};

use super::{Driver, Outgoing, Seen};

/// A broker with a WebSocket listener: mosquitto, EMQX, VerneMQ and others.
pub(crate) struct Mqtt;

/// The packet types used here, in the upper half of the first byte (§2.2.1).
const CONNECT: u8 = 1;
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const SUBACK: u8 = 9;
const PINGREQ: u8 = 12;
const PINGRESP: u8 = 13;

/// Protocol name and level, the clean session flag, and the longest keep-alive, 18 hours, so that no run needs pings. 0
/// would turn keep-alive off, which some brokers reject (§3.1.2).
const CONNECT_HEADER: &[u8] = b"\x00\x04MQTT\x04\x02\xff\xff";

/// Lets the broker choose a client identifier (§3.1.3.1).
const NO_IDENTIFIER: &[u8] = b"\x00\x00";

/// The identifier of the subscription, the only packet that has one.
const SUBSCRIPTION: &[u8] = b"\x00\x01";

/// The flag of a publication retained from before the subscription (§3.3.1.3), in the first byte.
const RETAIN: u8 = 1;

/// The quality of service of a publication (§3.3.1.2), in the first byte.
const QUALITY: u8 = 0b110;

/// A packet from the server: first byte, and the bytes after the length.
type Packet<'a> = (u8, &'a [u8]);

impl Driver for Mqtt {
    fn payload_kind(&self) -> MessageKind {
        MessageKind::Binary
    }

    fn subprotocol(&self) -> Option<&str> {
        Some("mqtt")
    }

    /// A client need not wait for the response to CONNECT (§3.1.4). A subscriber is ready after SUBACK, a publisher
    /// after the response to a ping.
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

/// Reports all whole packets in `bytes`. Returns their length.
fn read_packets(bytes: &[u8], seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize, String> {
    let mut used = 0;
    while let Some((packet, len)) = next_packet(&bytes[used..])? {
        read_packet(packet, seen)?;
        used += len;
    }
    Ok(used)
}

/// The packet at the front, and its length; `None` if it is incomplete.
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
            // A retained publication is not of this run.
            if first & RETAIN == 0 {
                seen(Seen::Payload(Message::binary(payload)));
            }
        }
        (kind, body) => {
            let front = &body[..body.len().min(8)];
            return Err(format!("unexpected packet: type {kind}, {}", front.escape_ascii()));
        }
    }
    Ok(())
}

/// The payload of a publication, which follows the topic name.
fn payload(body: &[u8]) -> Option<&[u8]> {
    let (topic_len, rest) = body.split_first_chunk()?;
    rest.get(usize::from(u16::from_be_bytes(*topic_len))..)
}

/// Why a broker rejects the connection (§3.2.2.3).
fn refusal(code: u8) -> String {
    match code {
        1 => "the broker does not support MQTT 3.1.1".to_owned(),
        2 => "the broker requires a client identifier".to_owned(),
        3 => "the broker is not available".to_owned(),
        4 => "bad user name or password".to_owned(),
        5 => "not authorized".to_owned(),
        code => format!("code {code}"),
    }
}

/// Decodes seven bits per byte, the lowest first (§2.2.3). Returns the number and its length in bytes; `None` if it is
/// incomplete.
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

/// Appends a packet with this first byte. `parts` are the bytes after its length.
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

/// A string with its length in front (§1.5.3).
fn string(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("a topic name has at most 65,535 bytes");
    [&len.to_be_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::super::seen_in;
    use super::*;

    /// A packet from the server.
    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        encode(&mut packet, first, &[body]);
        packet
    }

    fn publication(payload: &[u8]) -> Vec<u8> {
        packet(PUBLISH << 4, &[b"\x00\x03a/b", payload].concat())
    }

    #[test]
    fn packets_may_be_split_anywhere_and_joined() {
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
    fn rejections_and_invalid_packets_are_errors() {
        // name, packet, words
        let table = [
            ("CONNACK", packet(CONNACK << 4, b"\x00\x05"), "not authorized"),
            ("CONNACK of a later version", packet(CONNACK << 4, b"\x00\x87"), "code 135"),
            ("CONNACK, cut", packet(CONNACK << 4, b"\x00"), "type 2"),
            ("SUBACK", packet(SUBACK << 4, b"\x00\x01\x80"), "no subscription"),
            ("SUBACK of another quality of service", packet(SUBACK << 4, b"\x00\x01\x01"), "type 9"),
            ("PUBLISH of another quality of service", packet(PUBLISH << 4 | 2, b"\x00\x01a\x00\x01x"), "type 3"),
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
    fn retained_publications_are_ignored() {
        let kept = packet(PUBLISH << 4 | RETAIN, b"\x00\x01aold");
        assert_eq!(seen_in(&Mqtt, &[&kept, &publication(b"new")]).unwrap(), ["payload new"]);
    }

    #[test]
    fn subscribers_and_publishers_send_their_greeting() {
        let connect = b"\x10\x0c\x00\x04MQTT\x04\x02\xff\xff\x00\x00";
        let subscriber = [&connect[..], b"\x82\x08\x00\x01\x00\x03a/b\x00"].concat();
        assert_eq!(Mqtt.greeting(Some("a/b")), [(MessageKind::Binary, subscriber)]);
        assert_eq!(Mqtt.greeting(None), [(MessageKind::Binary, [&connect[..], b"\xc0\x00"].concat())]);
        assert_eq!(Mqtt.publish("t", b"hello"), (MessageKind::Binary, b"\x30\x08\x00\x01thello".to_vec()));
    }

    #[test]
    fn lengths_are_encoded_in_as_few_bytes_as_possible() {
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
