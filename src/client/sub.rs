//! `ringfeed sub`: prints the messages of a feed as they come.

use std::io::{self, Write};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::feed::{ENVELOPE, Envelope, Feed, Start};
use super::{Client, ClientError, Network, Options, OwnedMessage, random};
use crate::limits::CLIENT_SETTLED_MS;
use crate::proto::{CloseCode, MessageKind};

/// What to print.
#[derive(Clone, Debug, Default)]
pub struct Sub {
    /// Of the feed, like `ws://127.0.0.1:8000/feed/demo`.
    pub url: String,
    /// Header fields to send with each handshake, by name and value.
    pub headers: Vec<(String, String)>,
    /// The position to begin after, `<epoch>:<offset>` for each topic, separated by commas.
    pub since: Option<String>,
    /// How many of the newest publications of each topic to begin with.
    pub history: Option<u32>,
    /// How many messages to print before it ends.
    pub count: Option<u64>,
    /// Whether it ends with the connection, rather than connects again.
    pub once: bool,
    /// Whether each line is a JSON object, with the topic and the position.
    pub json: bool,
    /// How to reach the server.
    pub network: Network,
    /// Writes the present time, with which each line then states when the message was received.
    pub clock: Option<fn() -> String>,
}

/// Prints each message to `output` as a line: text as it is, binary as `base64:` and its payload in base64. With `json`
/// the line is an object with `text` or `base64`, and with `topic`, `epoch`, `offset`, `time` (milliseconds of Unix
/// time), `key` and `tags` as far as the server states them. The line of a keyed topic begins with `put` or `remove`
/// and the key.
///
/// Reconnects when the connection is lost or closed, and receives the messages that it missed, where the server still
/// has them. Standard error says when that was, and which topics have lost messages.
///
/// # Errors
/// What reconnecting would not help. With `once` also a lost connection, and a position that is no longer kept.
pub async fn sub(sub: &Sub, output: &mut impl Write) -> Result<(), ClientError> {
    let since = sub.since.clone().map(|since| Start::CatchUp("since", since));
    let history = sub.history.map(|count| Start::CatchUp("history", count.to_string()));
    let mut run =
        Run { sub, feed: Feed::new(&sub.url, since.or(history)), left: sub.count, backoff: Backoff::default(), output };
    loop {
        let Err(error) = run.follow().await else { return Ok(()) };
        match &error {
            // The reader of the output has seen enough, as `head` does.
            ClientError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            ClientError::Closed(closed) if sub.once && error.is_passing() => {
                eprintln!("{closed}");
                return Ok(());
            }
            _ if sub.once || !error.is_passing() => return Err(error),
            _ => {}
        }
        let wait = run.backoff.failed(u32::from_ne_bytes(random()));
        eprintln!("{error}; connecting again in {:.1} s", wait.as_secs_f64());
        tokio::time::sleep(wait).await;
    }
}

/// A `sub` under way.
struct Run<'a, W> {
    sub: &'a Sub,
    feed: Feed,
    /// Messages that are still to be printed.
    left: Option<u64>,
    backoff: Backoff,
    output: &'a mut W,
}

impl<W: Write> Run<'_, W> {
    /// Prints what comes by one connection, until as many messages as wanted were printed.
    async fn follow(&mut self) -> Result<(), ClientError> {
        let options = Options {
            subprotocols: vec![ENVELOPE.to_owned()],
            headers: self.sub.headers.clone(),
            network: self.sub.network.clone(),
            ..Options::default()
        };
        let mut client = Client::connect(&self.feed.url(), options).await?;
        let connected = Instant::now();
        eprintln!("connected to {}", self.feed.url());
        let ended = self.print_all(&mut client).await;
        // A server that accepts and closes at once would otherwise see a reconnect every moment.
        if connected.elapsed() >= Duration::from_millis(CLIENT_SETTLED_MS) {
            self.settled(&client);
        }
        ended?;
        // All is printed: an unanswered Close frame changes nothing.
        let _ = client.close(CloseCode::NORMAL, "").await;
        Ok(())
    }

    async fn print_all(&mut self, client: &mut Client) -> Result<(), ClientError> {
        while self.left != Some(0) {
            let Some(message) = client.next().await? else {
                let closed = client.closed().cloned();
                return Err(ClientError::Closed(closed.expect("a connection ends in order only by a Close frame")));
            };
            if self.on_message(client, &message)? {
                self.settled(client);
                self.left = self.left.map(|left| left - 1);
            }
        }
        Ok(())
    }

    /// The connection is good.
    fn settled(&mut self, client: &Client) {
        self.backoff.succeeded();
        if client.subprotocol().is_none() {
            self.feed.forget_start();
        }
    }

    /// Prints a message. Returns whether it was a publication.
    fn on_message(&mut self, client: &Client, message: &OwnedMessage) -> Result<bool, ClientError> {
        let envelope = client.subprotocol().and_then(|_| self.feed.read(&message.payload));
        let (head, payload) = match envelope {
            Some(Envelope::Publication(head, payload)) => (head, payload),
            None => (Map::new(), &message.payload[..]),
            Some(Envelope::Subscribed) => return Ok(false),
            Some(Envelope::Snapshot(topic)) => {
                eprintln!("the values of '{topic}' follow");
                return Ok(false);
            }
            Some(Envelope::Lost(topic)) if self.sub.once => return Err(ClientError::HistoryLost { topic }),
            Some(Envelope::Lost(topic)) => {
                eprintln!("messages of '{topic}' were missed and are no longer kept; new ones follow");
                return Ok(false);
            }
        };
        self.print(head, message.kind, payload).map_err(ClientError::Output)?;
        Ok(true)
    }

    /// Writes one line, at once, for a reader who wants it now.
    fn print(&mut self, head: Map<String, Value>, kind: MessageKind, payload: &[u8]) -> io::Result<()> {
        let received = self.sub.clock.map(|clock| clock());
        let output = &mut *self.output;
        if self.sub.json {
            serde_json::to_writer(&mut *output, &object(head, kind, payload, received))?;
        } else {
            received.map_or(Ok(()), |received| write!(output, "{received} "))?;
            let text = |name: &str| head.get(name).and_then(Value::as_str);
            if let (Some(state), Some(key)) = (text("state"), text("key")) {
                write!(output, "{state} {key}{}", if state == "put" { " " } else { "" })?;
            }
            match kind {
                MessageKind::Text => output.write_all(payload)?,
                MessageKind::Binary => write!(output, "base64:{}", STANDARD.encode(payload))?,
            }
        }
        output.write_all(b"\n")?;
        output.flush()
    }
}

/// A message as JSON.
fn object(
    mut head: Map<String, Value>,
    kind: MessageKind,
    payload: &[u8],
    received: Option<String>,
) -> Map<String, Value> {
    let (name, text) = match kind {
        MessageKind::Text => ("text", String::from_utf8_lossy(payload).into_owned()),
        MessageKind::Binary => ("base64", STANDARD.encode(payload)),
    };
    head.insert(name.to_owned(), text.into());
    head.extend(received.map(|received| ("received".to_owned(), received.into())));
    head
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::client::fake::{Peer, run};
    use crate::proto::{Message, encode_close, encode_message};

    fn frames(messages: &[Message<'_>], close: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| encode_message(&mut bytes, *message, None));
        if close {
            encode_close(&mut bytes, Some(CloseCode::GOING_AWAY), "restart", None);
        }
        bytes
    }

    fn command(url: &str, count: Option<u64>, once: bool) -> Sub {
        Sub { url: url.to_owned(), count, once, ..Sub::default() }
    }

    #[test]
    fn messages_are_printed_across_connections_up_to_the_count() {
        let server = async |listener: TcpListener| {
            let mut peer = Peer::accept(&listener, None).await;
            peer.write(&frames(&[Message::text("one"), Message::binary(b"\0\xff")], true)).await;
            peer.finish(true).await;
            let mut peer = Peer::accept(&listener, None).await;
            peer.write(&frames(&[Message::text("three"), Message::text("four")], false)).await;
            peer.finish(false).await
        };
        let (output, received) = run(server, async |url: &str| {
            let mut output = Vec::new();
            sub(&command(url, Some(3), false), &mut output).await.unwrap();
            String::from_utf8(output).unwrap()
        });
        assert_eq!(output, "one\nbase64:AP8=\nthree\n");
        assert_eq!(received.len(), 1, "a close frame, for the count was reached: {received:?}");
    }

    #[test]
    fn once_ends_with_the_connection() {
        let server = async |listener: TcpListener| {
            let mut peer = Peer::accept(&listener, None).await;
            peer.write(&frames(&[Message::text("one")], true)).await;
            peer.finish(true).await;
        };
        let (output, ()) = run(server, async |url: &str| {
            let mut output = Vec::new();
            sub(&command(url, None, true), &mut output).await.unwrap();
            output
        });
        assert_eq!(output, b"one\n");

        let server = async |listener: TcpListener| drop(Peer::accept(&listener, None).await);
        let (result, ()) = run(server, async |url: &str| sub(&command(url, None, true), &mut Vec::new()).await);
        assert!(matches!(result, Err(ClientError::Lost(_))), "{result:?}");
    }

    #[test]
    fn a_reader_who_has_seen_enough_ends_it() {
        struct Head;
        impl Write for Head {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let server = async |listener: TcpListener| {
            let mut peer = Peer::accept(&listener, None).await;
            peer.write(&frames(&[Message::text("one")], false)).await;
            peer.finish(false).await;
        };
        let (result, ()) = run(server, async |url: &str| sub(&command(url, None, false), &mut Head).await);
        result.unwrap();
    }

    #[test]
    fn what_cannot_get_better_is_not_tried_again() {
        let result = tokio_uring::start(sub(&command("ftp://127.0.0.1/", None, false), &mut Vec::new()));
        assert!(matches!(result, Err(ClientError::Url(_))), "{result:?}");
    }

    /// A subscribe reply of the subprotocol, then publications, then a Close frame.
    fn envelopes(reply: &str, offsets: &[u64]) -> Vec<u8> {
        let reply = format!("{{\"subscribed\":true,\"topic\":\"a\",\"epoch\":\"e\",{reply}}}\n");
        let head = |offset| format!("{{\"topic\":\"a\",\"epoch\":\"e\",\"offset\":{offset}}}\nm{offset}");
        let messages: Vec<String> = [reply].into_iter().chain(offsets.iter().map(head)).collect();
        frames(&messages.iter().map(|text| Message::text(text)).collect::<Vec<_>>(), true)
    }

    /// Prints up to `count` messages of `ws://…/feed/a` from a server that sends each of these on a connection of its
    /// own. Returns the output and the targets of the requests.
    fn sub_to(connections: Vec<Vec<u8>>, command: Sub) -> (Result<(), ClientError>, String, Vec<String>) {
        let server = async |listener: TcpListener| {
            let mut targets = Vec::new();
            for bytes in connections {
                let mut peer = Peer::accept(&listener, Some(ENVELOPE)).await;
                targets.push(peer.target.clone());
                peer.write(&bytes).await;
                peer.finish(true).await;
            }
            targets
        };
        let ((result, output), targets) = run(server, async |url: &str| {
            let mut output = Vec::new();
            let result = sub(&Sub { url: format!("{url}/a{}", command.url), ..command }, &mut output).await;
            (result, String::from_utf8(output).unwrap())
        });
        (result, output, targets)
    }

    #[test]
    fn a_reconnect_begins_after_the_last_message() {
        let connections =
            vec![envelopes("\"offset\":4", &[5, 6]), envelopes("\"offset\":8,\"recovered\":true", &[7, 8])];
        let command = Sub { url: "?token=t".to_owned(), count: Some(4), ..Sub::default() };
        let (result, output, targets) = sub_to(connections, command);
        result.unwrap();
        assert_eq!(output, "m5\nm6\nm7\nm8\n");
        assert_eq!(targets, ["/feed/a?token=t", "/feed/a?token=t&since=e:6"]);
    }

    #[test]
    fn a_position_that_is_no_longer_kept_is_sent_once() {
        let lost = || envelopes("\"offset\":8,\"recovered\":false", &[]);
        let live = envelopes("\"offset\":8,\"recovered\":true", &[9]);
        let command = Sub { since: Some("old:3".to_owned()), count: Some(1), json: true, ..Sub::default() };
        let (result, output, targets) = sub_to(vec![lost(), live], command.clone());
        result.unwrap();
        assert_eq!(output, "{\"epoch\":\"e\",\"offset\":9,\"text\":\"m9\",\"topic\":\"a\"}\n");
        assert_eq!(targets, ["/feed/a?since=old:3", "/feed/a?since=e:8"]);

        let (result, ..) = sub_to(vec![lost()], Sub { once: true, ..command });
        assert!(matches!(&result, Err(ClientError::HistoryLost { topic }) if topic == "a"), "{result:?}");
    }

    #[test]
    fn a_close_that_reconnecting_would_meet_again_is_an_error() {
        for (code, once) in [(3010, false), (3010, true), (3500, false), (1008, false)] {
            let mut close = Vec::new();
            encode_close(&mut close, Some(CloseCode(code)), "because", None);
            let (result, ..) = sub_to(vec![close], Sub { once, ..Sub::default() });
            let Err(error @ ClientError::Closed(_)) = result else { panic!("{code}: {result:?}") };
            assert_eq!(error.to_string(), format!("the server closed the connection with {code}: because"));
        }
    }

    #[test]
    fn lines_may_have_the_time_and_all_that_is_known() {
        let noon: fn() -> String = || "noon".to_owned();
        let mut output = Vec::new();
        let run = |sub: &Sub, output: &mut Vec<u8>| {
            let feed = Feed::new(&sub.url, None);
            let mut run = Run { sub, feed, left: None, backoff: Backoff::default(), output };
            run.print(Map::new(), MessageKind::Binary, b"\xff").unwrap();
        };
        run(&Sub { clock: Some(noon), ..Sub::default() }, &mut output);
        run(&Sub { clock: Some(noon), json: true, ..Sub::default() }, &mut output);
        let text = String::from_utf8(output).unwrap();
        let (plain, json) = text.trim_end().split_once('\n').unwrap();
        assert_eq!(plain, "noon base64:/w==");
        let json: Value = serde_json::from_str(json).unwrap();
        assert_eq!(json, serde_json::json!({"received": "noon", "base64": "/w=="}));
    }
}
