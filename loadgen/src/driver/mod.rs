//! Protocols of servers: the messages of a subscriber, and how to publish. One file per protocol.
//!
//! A driver keeps no state of a connection. Payloads of the load generator are JSON, in ASCII and on one line, so every
//! protocol can carry them unchanged.

mod centrifugo;
mod mercure;
mod mqtt;
mod nats;
mod raw;
mod script;
mod sse;
mod stomp;

use std::path::Path;
use std::sync::Arc;

use ringfeed::proto::{Message, MessageKind};

use crate::error::Error;
use crate::wire::target::Target;

/// The meaning of a message from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// The request in the greeting was granted: publications follow.
    Ready,
    /// A publication.
    Payload(Message<'a>),
    /// A reply to send to the server.
    Answer(Message<'a>),
}

/// A whole message of the client.
pub(crate) type Outgoing = (MessageKind, Vec<u8>);

/// The protocol of one kind of server.
pub(crate) trait Driver: Send + Sync {
    /// Whether subscribers use a Server-Sent Events stream instead of a WebSocket, where each event is one message.
    fn is_event_stream(&self) -> bool {
        false
    }

    /// Whether each message is decoded by itself, so that equal bytes have equal meaning wherever they appear.
    fn is_stateless(&self) -> bool {
        false
    }

    /// The kind of messages in which payloads arrive.
    fn payload_kind(&self) -> MessageKind {
        MessageKind::Text
    }

    /// Whether the message contains at most one item.
    fn carries_one(&self, _message: Message<'_>) -> bool {
        true
    }

    /// The subprotocol requested in the opening handshake.
    fn subprotocol(&self) -> Option<&str> {
        None
    }

    /// The messages of a client after it has connected: a subscriber of `topic`, or a publisher if `None`. If there are
    /// none, the client is ready at once; otherwise when [`Seen::Ready`] is reported.
    fn greeting(&self, topic: Option<&str>) -> Vec<Outgoing>;

    /// Decodes one message from the server. `partial` belongs to the connection and is empty at first; it holds items
    /// that continue in a later message.
    ///
    /// # Errors
    /// If the server rejected a request, or the message is invalid.
    fn read(&self, message: Message<'_>, partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String>;

    /// The message that publishes `payload` over a WebSocket.
    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing;

    /// The body that publishes `payload` by POST, and its content type.
    fn post(&self, _topic: &str, payload: &[u8]) -> (&'static str, Vec<u8>) {
        ("text/plain", payload.to_vec())
    }

    /// Checks the body of a successful response.
    ///
    /// # Errors
    /// If the body says that the publication was rejected.
    fn check_answer(&self, _body: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// The drivers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
pub(crate) enum DriverName {
    /// Each message is a payload: Ringfeed's raw feed, and any server that broadcasts each message it receives
    Raw,
    /// Centrifugo's JSON protocol
    Centrifugo,
    /// NATS over WebSocket
    Nats,
    /// MQTT 3.1.1 over WebSocket: mosquitto and other brokers
    Mqtt,
    /// Server-Sent Events, and a POST with the payload: nchan, Ringfeed's /sse
    Sse,
    /// Mercure: Server-Sent Events, and a POST with a form
    Mercure,
    /// STOMP 1.2 over WebSocket, topics below /topic/: Ringfeed's /stomp, RabbitMQ and other brokers with receipts
    Stomp,
}

/// The driver for these options; a script has precedence over a name.
///
/// # Errors
/// If the script can't be read, or the driver does not support the scheme of the address.
pub(crate) fn choose(name: DriverName, script: Option<&Path>, url: &Target) -> Result<Arc<dyn Driver>, Error> {
    let driver: Arc<dyn Driver> = match (script, name) {
        (Some(path), _) => Arc::new(script::Script::read(path)?),
        (None, DriverName::Raw) => Arc::new(raw::Raw),
        (None, DriverName::Centrifugo) => Arc::new(centrifugo::Centrifugo),
        (None, DriverName::Nats) => Arc::new(nats::Nats),
        (None, DriverName::Mqtt) => Arc::new(mqtt::Mqtt),
        (None, DriverName::Sse) => Arc::new(sse::Sse),
        (None, DriverName::Mercure) => Arc::new(mercure::Mercure),
        (None, DriverName::Stomp) => Arc::new(stomp::Stomp),
    };
    match (driver.is_event_stream(), url.is_web_socket()) {
        (true, true) => Err(Error::new(format!("{url}: this driver needs an address that begins with http"))),
        (false, false) => Err(Error::new(format!("{url}: this driver needs an address that begins with ws"))),
        (true, false) | (false, true) => Ok(driver),
    }
}

/// The payload as text.
fn text(payload: &[u8]) -> &str {
    str::from_utf8(payload).expect("payloads are ASCII")
}

/// The items that a driver decodes from text `messages`.
#[cfg(test)]
fn seen(driver: &dyn Driver, messages: &[&str]) -> Result<Vec<String>, String> {
    let messages: Vec<&[u8]> = messages.iter().map(|message| message.as_bytes()).collect();
    seen_in(driver, &messages)
}

/// The same for binary messages.
#[cfg(test)]
fn seen_in(driver: &dyn Driver, messages: &[&[u8]]) -> Result<Vec<String>, String> {
    let (mut told, mut partial) = (Vec::new(), Vec::new());
    for message in messages {
        driver.read(Message::binary(message), &mut partial, &mut |seen| {
            let text = |message: Message<'_>| String::from_utf8_lossy(message.payload).into_owned();
            told.push(match seen {
                Seen::Ready => "ready".to_owned(),
                Seen::Payload(message) => format!("payload {}", text(message)),
                Seen::Answer(message) => format!("answer {}", text(message)),
            });
        })?;
    }
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_rejects_addresses_of_another_scheme() {
        let (ws, http) = ("ws://a:1/".parse().unwrap(), "http://a:1/".parse().unwrap());
        assert!(choose(DriverName::Raw, None, &ws).is_ok() && choose(DriverName::Sse, None, &http).is_ok());
        for (name, url, word) in [(DriverName::Nats, &http, "ws"), (DriverName::Mercure, &ws, "http")] {
            let error = choose(name, None, url).err().unwrap().to_string();
            assert!(error.ends_with(&format!("begins with {word}")), "{error}");
        }
    }
}
