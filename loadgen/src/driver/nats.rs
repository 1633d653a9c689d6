//! NATS over WebSocket: the text protocol in binary messages, split arbitrarily.

use ringfeed::proto::{Message, MessageKind};

use super::{Driver, Outgoing, Seen};

/// The CONNECT command.
const CONNECT: &str = r#"CONNECT {"verbose":false,"pedantic":false,"lang":"loadgen","version":"1","protocol":1}"#;

/// Longest line in bytes. The longest real one is the server's INFO.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A NATS server with a `websocket` listener.
pub(crate) struct Nats;

/// The next operation in a stream of bytes.
enum Operation<'a> {
    Publication(&'a [u8]),
    Ping,
    Pong,
    /// INFO and the like.
    Other,
}

impl Driver for Nats {
    fn payload_kind(&self) -> MessageKind {
        MessageKind::Binary
    }

    fn greeting(&self, topic: Option<&str>) -> Vec<Outgoing> {
        let subscribe = topic.map_or(String::new(), |topic| format!("SUB {topic} 1\r\n"));
        vec![(MessageKind::Binary, format!("{CONNECT}\r\n{subscribe}PING\r\n").into_bytes())]
    }

    fn read(&self, message: Message<'_>, partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        if partial.is_empty() {
            let used = read_operations(message.payload, seen)?;
            partial.extend_from_slice(&message.payload[used..]);
        } else {
            partial.extend_from_slice(message.payload);
            let used = read_operations(partial, seen)?;
            partial.drain(..used);
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing {
        let mut message = format!("PUB {topic} {}\r\n", payload.len()).into_bytes();
        message.extend_from_slice(payload);
        message.extend_from_slice(b"\r\n");
        (MessageKind::Binary, message)
    }
}

/// Reports all whole operations in `bytes`. Returns their length.
fn read_operations(bytes: &[u8], seen: &mut dyn FnMut(Seen<'_>)) -> Result<usize, String> {
    let mut used = 0;
    while let Some((operation, len)) = next_operation(&bytes[used..])? {
        match operation {
            Operation::Publication(payload) => seen(Seen::Payload(Message::binary(payload))),
            Operation::Ping => seen(Seen::Answer(Message::binary(b"PONG\r\n"))),
            Operation::Pong => seen(Seen::Ready),
            Operation::Other => {}
        }
        used += len;
    }
    Ok(used)
}

/// The operation at the front, and its length; `None` if it is incomplete.
fn next_operation(bytes: &[u8]) -> Result<Option<(Operation<'_>, usize)>, String> {
    let Some(line_len) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > LINE_BYTES_MAX { Err("a line without an end".to_owned()) } else { Ok(None) };
    };
    let (line, line_len) = (&bytes[..line_len], line_len + 2);
    let operation = match line {
        b"PING" => Operation::Ping,
        b"PONG" => Operation::Pong,
        _ if line.starts_with(b"MSG ") => {
            let payload_len = payload_len(line).ok_or_else(|| format!("no message: {}", line.escape_ascii()))?;
            let end = line_len + payload_len;
            return Ok(bytes
                .get(line_len..end + 2)
                .map(|body| (Operation::Publication(&body[..payload_len]), end + 2)));
        }
        _ if line.starts_with(b"-ERR") => return Err(format!("refused: {}", line.escape_ascii())),
        _ => Operation::Other,
    };
    Ok(Some((operation, line_len)))
}

/// The number at the end of `MSG topic sid [reply] length`.
fn payload_len(line: &[u8]) -> Option<usize> {
    let number = line.rsplit(|byte| *byte == b' ').next()?;
    str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::seen;
    use super::*;

    #[test]
    fn operations_may_be_split_anywhere() {
        let stream = "INFO {\"a\":1}\r\nPONG\r\nMSG t 1 5\r\nhe\r\no\r\nPING\r\nMSG t 1 0\r\n\r\n";
        let whole = ["ready", "payload he\r\no", "answer PONG\r\n", "payload "];
        for cut in 0..stream.len() {
            assert_eq!(seen(&Nats, &[&stream[..cut], &stream[cut..]]).unwrap(), whole, "{cut}");
        }
    }

    #[test]
    fn rejections_and_invalid_operations_are_errors() {
        assert!(seen(&Nats, &["-ERR 'no'\r\n"]).unwrap_err().contains("no"));
        assert!(seen(&Nats, &["MSG t 1 x\r\n"]).unwrap_err().contains("no message"));
        assert!(seen(&Nats, &[&"x".repeat(LINE_BYTES_MAX + 1)]).is_err());
    }

    #[test]
    fn subscribers_and_publishers_send_their_greeting() {
        let text = |topic| String::from_utf8(Nats.greeting(topic).remove(0).1).unwrap();
        assert!(text(Some("a.b")).ends_with("}\r\nSUB a.b 1\r\nPING\r\n"));
        assert!(text(None).ends_with("}\r\nPING\r\n"));
        assert_eq!(Nats.publish("t", b"hello"), (MessageKind::Binary, b"PUB t 5\r\nhello\r\n".to_vec()));
    }
}
