//! `ringfeed sub`: prints the messages of a feed as they come.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::backoff::Backoff;
use super::{Client, ClientError, Closed, Options, OwnedMessage, random};
use crate::proto::{CloseCode, MessageKind};

/// What to print.
#[derive(Clone, Debug)]
pub struct Sub {
    /// Of the feed, like `ws://127.0.0.1:8000/feed/demo`.
    pub url: String,
    /// How many messages to print before it ends.
    pub count: Option<u64>,
    /// Whether it ends with the connection, rather than connects again.
    pub once: bool,
}

/// Prints each message to `output` as a line: text as it is, binary as `base64:` and its payload in base64.
/// Connects again when the connection is lost or closed; what is published meanwhile is missed, and standard error
/// says when that was.
///
/// # Errors
/// What trying again would not help, and with `once` whatever ends the connection but a close frame.
pub async fn sub(sub: &Sub, output: &mut impl Write) -> Result<(), ClientError> {
    let mut left = sub.count;
    let mut backoff = Backoff::default();
    loop {
        let why = match follow(sub, &mut left, &mut backoff, output).await {
            Ok(Done::Counted) => return Ok(()),
            // Whoever read this has seen enough, as `head` does.
            Err(ClientError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Ok(Done::Closed(_)) if sub.once => return Ok(()),
            Ok(Done::Closed(closed)) => describe(&closed),
            Err(error) if sub.once || !error.is_passing() => return Err(error),
            Err(error) => error.to_string(),
        };
        let wait = backoff.failed(u32::from_ne_bytes(random()));
        eprintln!("{why}; connecting again in {:.1} s", wait.as_secs_f64());
        tokio::time::sleep(wait).await;
    }
}

/// Why one connection came to an end.
enum Done {
    /// As many messages as wanted were printed.
    Counted,
    /// The server closed.
    Closed(Closed),
}

/// Prints what comes by one connection, until `left` is down to 0.
async fn follow(
    sub: &Sub,
    left: &mut Option<u64>,
    backoff: &mut Backoff,
    output: &mut impl Write,
) -> Result<Done, ClientError> {
    let mut client = Client::connect(&sub.url, Options::default()).await?;
    backoff.succeeded();
    while *left != Some(0) {
        let Some(message) = client.next().await? else {
            let closed = client.closed().cloned();
            return Ok(Done::Closed(closed.expect("a connection ends without an error only by a close frame")));
        };
        print(&message, output).map_err(ClientError::Output)?;
        *left = left.map(|left| left - 1);
    }
    // All is printed: that the server may not answer the close frame changes nothing.
    let _ = client.close(CloseCode::NORMAL, "").await;
    Ok(Done::Counted)
}

/// Writes one line, at once: whoever reads along wants it now.
fn print(message: &OwnedMessage, output: &mut impl Write) -> io::Result<()> {
    match message.kind {
        MessageKind::Text => output.write_all(&message.payload)?,
        MessageKind::Binary => write!(output, "base64:{}", STANDARD.encode(&message.payload))?,
    }
    output.write_all(b"\n")?;
    output.flush()
}

fn describe(closed: &Closed) -> String {
    match closed {
        Closed { code: None, .. } => "closed by the server".to_owned(),
        Closed { code: Some(code), reason } if reason.is_empty() => format!("closed by the server with {code}"),
        Closed { code: Some(code), reason } => format!("closed by the server with {code}, {reason}"),
    }
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
        Sub { url: url.to_owned(), count, once }
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
        let result = tokio_uring::start(sub(&command("wss://127.0.0.1/", None, false), &mut Vec::new()));
        assert!(matches!(result, Err(ClientError::Url(_))), "{result:?}");
    }
}
