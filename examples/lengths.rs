//! A protocol of its own on TCP: four bytes with the length (big-endian), then JSON. `{"subscribe": "news"}`
//! subscribes, `{"publish": "news", "data": …}` publishes, and each publication arrives as its data. Subscribers share
//! the frames of a publication, and slow ones fall under the policy of the topic's namespace.
//!
//! ```text
//! cargo run --example lengths
//! printf '\0\0\0\x15{"subscribe":"news"}\n' | nc 127.0.0.1 8000
//! ```

use std::net::IpAddr;
use std::sync::LazyLock;

use ringfeed::gateway::Protocol;
use ringfeed::proto::{Framed, Framing, FramingError};
use ringfeed::server::ListenerConfig;
use ringfeed::{Accept, CloseCode, Context, Handler, Message, Refusal, Server, ServerConfig, TopicName};
use serde_json::Value;

struct Lengths;

impl Framing for Lengths {
    fn decode(&self, input: &[u8]) -> Result<Option<Framed>, FramingError> {
        let Some((length, payload)) = input.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        Ok((payload.len() >= length).then(|| Framed::text(4..4 + length)))
    }

    fn encode(&self, out: &mut Vec<u8>, message: Message<'_>) {
        out.extend_from_slice(&(message.payload.len() as u32).to_be_bytes());
        out.extend_from_slice(message.payload);
    }
}

static LENGTHS: LazyLock<Protocol> = LazyLock::new(|| Protocol::new(Lengths));

struct Commands;

impl Handler for Commands {
    type State = ();

    fn on_connect(&mut self, _: &mut Context<'_>, _: Option<IpAddr>) -> Result<Accept, Refusal> {
        Ok(Accept::default().message_bytes_max(64 * 1024))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        let command: Value = serde_json::from_slice(message.payload).unwrap_or_default();
        let topic = |key: &str| TopicName::new(command[key].as_str()?).ok();
        let is_done = match (topic("subscribe"), topic("publish")) {
            (Some(topic), _) => conn.subscribe(topic).is_ok(),
            (None, Some(topic)) => {
                conn.publish(topic, Message::text(&command["data"].to_string()));
                true
            }
            (None, None) => false,
        };
        if !is_done {
            conn.send(Message::text("send {\"subscribe\": TOPIC} or {\"publish\": TOPIC, \"data\": …}"));
            conn.close(CloseCode::POLICY_VIOLATION, "");
        }
    }
}

/// A configuration with one listener that speaks the protocol.
fn config(address: &str) -> ServerConfig {
    let address = address.parse().expect("an IP address and a port");
    let listener = ListenerConfig { protocol: "lengths".to_owned(), ..ListenerConfig::new(address) };
    ServerConfig { listeners: vec![listener], ..ServerConfig::default() }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder(config("127.0.0.1:8000")).protocol("lengths", &LENGTHS, || Commands).start()?;
    println!("listening on {}", server.address());
    server.wait();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn send(peer: &mut TcpStream, text: &str) {
        let mut bytes = Vec::new();
        Lengths.encode(&mut bytes, Message::text(text));
        peer.write_all(&bytes).unwrap();
    }

    fn receive(peer: &mut TcpStream) -> String {
        let mut length = [0; 4];
        peer.read_exact(&mut length).unwrap();
        let mut payload = vec![0; u32::from_be_bytes(length) as usize];
        peer.read_exact(&mut payload).unwrap();
        String::from_utf8(payload).unwrap()
    }

    #[test]
    fn subscribers_receive_what_others_publish() {
        let server = Server::builder(config("127.0.0.1:0")).protocol("lengths", &LENGTHS, || Commands).start().unwrap();
        let connect = || TcpStream::connect(server.address()).unwrap();
        let (mut reader, mut writer) = (connect(), connect());
        send(&mut reader, r#"{"subscribe":"news"}"#);
        // The first publication of one's own is the answer to the subscription.
        send(&mut reader, r#"{"publish":"news","data":1}"#);
        assert_eq!(receive(&mut reader), "1");
        send(&mut writer, r#"{"publish":"news","data":{"price":2}}"#);
        assert_eq!(receive(&mut reader), r#"{"price":2}"#);
        send(&mut writer, "nonsense");
        assert!(receive(&mut writer).starts_with("send {"));
        assert_eq!(writer.read(&mut [0]).unwrap(), 0, "the server closes");
        server.shutdown();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the server closes");
    }
}
