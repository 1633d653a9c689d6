//! STOMP 1.2 over WebSocket: Ringfeed's `/stomp`, RabbitMQ's Web-STOMP, ActiveMQ. The broker has to send receipts.
//!
//! Frames may be split over messages, and several may be in one. Topic `x` is the destination `/topic/x`.

use ringfeed::proto::{Message, MessageKind};

use super::{Driver, Outgoing, Seen};

/// Most bytes before the body of a frame.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of a body.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The receipt that the last frame of a greeting asks for.
const READY: &str = "ready";

/// Connects without heart-beats.
const CONNECT: &str = "CONNECT\naccept-version:1.2\nhost:loadgen\nheart-beat:0,0\n\n\0";

/// Brokers with STOMP over WebSocket.
pub(crate) struct Stomp;

/// A frame from the broker.
struct Frame<'a> {
    command: &'a str,
    head: &'a str,
    body: &'a [u8],
}

impl Driver for Stomp {
    fn subprotocol(&self) -> Option<&str> {
        Some("v12.stomp")
    }

    /// A publisher has nothing to ask for: it begins a transaction and gives it up.
    fn greeting(&self, topic: Option<&str>) -> Vec<Outgoing> {
        let next = match topic {
            Some(topic) => {
                format!("SUBSCRIBE\nid:0\ndestination:{}\nreceipt:{READY}\n\n\0", escaped(&format!("/topic/{topic}")))
            }
            None => format!("BEGIN\ntransaction:t\nreceipt:{READY}\n\n\0ABORT\ntransaction:t\n\n\0"),
        };
        let frames = next.split_inclusive('\0').map(|frame| (MessageKind::Text, frame.as_bytes().to_vec()));
        [(MessageKind::Text, CONNECT.as_bytes().to_vec())].into_iter().chain(frames).collect()
    }

    fn read(&self, message: Message<'_>, partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        if partial.is_empty() {
            let used = read_frames(message.kind, message.payload, seen)?;
            partial.extend_from_slice(&message.payload[used..]);
        } else {
            partial.extend_from_slice(message.payload);
            let used = read_frames(message.kind, partial, seen)?;
            partial.drain(..used);
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing {
        let destination = escaped(&format!("/topic/{topic}"));
        let head = format!("SEND\ndestination:{destination}\ncontent-length:{}\n\n", payload.len());
        (MessageKind::Text, [head.as_bytes(), payload, b"\0"].concat())
    }
}

/// Reports all whole frames in `bytes`. Returns their length.
fn read_frames(kind: MessageKind, bytes: &[u8], seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize, String> {
    let mut used = 0;
    loop {
        // Heart-beats, and the ends of lines that may follow a frame.
        used += bytes[used..].iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        let Some((frame, len)) = next_frame(&bytes[used..])? else { return Ok(used) };
        used += len;
        match frame.command {
            "CONNECTED" => {}
            "RECEIPT" if field(frame.head, "receipt-id") == Some(READY) => seen(Seen::Ready),
            "MESSAGE" => seen(Seen::Payload(Message { kind, payload: frame.body })),
            "ERROR" => return Err(format!("refused: {}", why(&frame))),
            command => return Err(format!("unexpected frame: {}", command.escape_debug())),
        }
    }
}

/// The `message` of an ERROR frame, and the front of its body.
fn why(frame: &Frame<'_>) -> String {
    let body = frame.body[..frame.body.len().min(200)].escape_ascii();
    format!("{} {body}", field(frame.head, "message").unwrap_or("no reason")).trim_end().to_owned()
}

/// The frame at the front, and its length; `None` if it is incomplete.
fn next_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let ends = |end: &[u8]| bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len());
    let head_len = match (ends(b"\n\n"), ends(b"\n\r\n")) {
        (Some(one), Some(other)) => one.min(other),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) if bytes.len() > HEAD_BYTES_MAX => return Err("a frame without a body".to_owned()),
        (None, None) => return Ok(None),
    };
    let head = str::from_utf8(&bytes[..head_len]).map_err(|_| "a frame whose header is not UTF-8".to_owned())?;
    let (command, head) = head.split_once('\n').unwrap_or((head, ""));
    let rest = &bytes[head_len..];
    let body_len = match field(head, "content-length") {
        Some(len) => len.parse().map_err(|_| format!("no frame: content-length:{}", len.escape_debug()))?,
        None => match rest.iter().position(|byte| *byte == 0) {
            Some(len) => len,
            None if rest.len() > BODY_BYTES_MAX => return Err(format!("a body of more than {BODY_BYTES_MAX} bytes")),
            None => return Ok(None),
        },
    };
    if body_len > BODY_BYTES_MAX {
        return Err(format!("a body of more than {BODY_BYTES_MAX} bytes"));
    }
    let Some(end) = rest.get(body_len) else { return Ok(None) };
    if *end != 0 {
        return Err("a body that does not end at its content-length".to_owned());
    }
    let frame = Frame { command: command.trim_end_matches('\r'), head, body: &rest[..body_len] };
    Ok(Some((frame, head_len + body_len + 1)))
}

/// The first value of a header field, as it was sent.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(is, _)| *is == name).map(|(_, value)| value)
}

/// As a value of a header field.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\r', "\\r").replace('\n', "\\n").replace(':', "\\c")
}

#[cfg(test)]
mod tests {
    use super::super::seen;
    use super::*;

    #[test]
    fn frames_may_be_split_anywhere_and_joined() {
        let stream = "CONNECTED\nversion:1.2\n\n\0\n\nRECEIPT\r\nreceipt-id:ready\r\n\r\n\0MESSAGE\nsubscription:0\n\
                      message-id:1\ndestination:/topic/t\n\nhe\nllo\0\r\nMESSAGE\ncontent-length:3\n\na\0b\0";
        let whole = ["ready", "payload he\nllo", "payload a\0b"];
        for cut in 0..=stream.len() {
            assert_eq!(seen(&Stomp, &[&stream[..cut], &stream[cut..]]).unwrap(), whole, "{cut}");
        }
    }

    #[test]
    fn rejections_and_invalid_frames_are_errors() {
        let table = [
            ("ERROR\nmessage:no such user\n\ngo away\0", "refused: no such user go away"),
            ("ERROR\n\n\0", "refused: no reason"),
            ("MESSAGE\ncontent-length:2\n\nabc\0", "does not end at its content-length"),
            ("MESSAGE\ncontent-length:99999999\n\n", "more than 67108864 bytes"),
            ("MESSAGE\ncontent-length:-1\n\nabc\0", "no frame: content-length:-1"),
            ("HELLO\n\n\0", "unexpected frame: HELLO"),
            ("RECEIPT\nreceipt-id:other\n\n\0", "unexpected frame: RECEIPT"),
        ];
        for (text, words) in table {
            let error = seen(&Stomp, &[text]).unwrap_err();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        assert!(seen(&Stomp, &[&"x".repeat(HEAD_BYTES_MAX + 1)]).unwrap_err().contains("without a body"));
    }

    #[test]
    fn subscribers_and_publishers_send_their_greeting() {
        let text = |topic| Stomp.greeting(topic).into_iter().map(|(_, frame)| String::from_utf8(frame).unwrap());
        let subscriber: Vec<String> = text(Some("a:b")).collect();
        assert_eq!(subscriber, [CONNECT, "SUBSCRIBE\nid:0\ndestination:/topic/a\\cb\nreceipt:ready\n\n\0"]);
        let publisher: Vec<String> = text(None).collect();
        assert_eq!(publisher[1..], ["BEGIN\ntransaction:t\nreceipt:ready\n\n\0", "ABORT\ntransaction:t\n\n\0"]);
        let (kind, frame) = Stomp.publish("t", b"hello");
        assert_eq!(
            (kind, &frame[..]),
            (MessageKind::Text, &b"SEND\ndestination:/topic/t\ncontent-length:5\n\nhello\0"[..])
        );
    }
}
