//! How servers are spoken to: what a subscriber says and hears, and how a message is published. One file each.
//!
//! A driver keeps no state of a connection. What a load generator sends as payload is JSON, in ASCII and on one
//! line, so every protocol can carry it as it is.

mod centrifugo;
mod mercure;
mod mqtt;
mod nats;
mod raw;
mod script;
mod sse;

use std::path::Path;
use std::sync::Arc;

use ringfeed::proto::{Message, MessageKind};

use crate::error::Error;
use crate::target::Target;

/// What a message from the server means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen<'a> {
    /// What was asked for in the greeting is granted: from now on publications come.
    Ready,
    /// A publication.
    Payload(Message<'a>),
    /// This must be answered.
    Answer(Message<'a>),
}

/// A message of the client's, whole.
pub(crate) type Outgoing = (MessageKind, Vec<u8>);

/// How one kind of server is spoken to.
pub(crate) trait Driver: Send + Sync {
    /// What subscribers get over, instead of a WebSocket: a Server-Sent Events stream, each event one message.
    fn is_event_stream(&self) -> bool {
        false
    }

    /// Whether each message can be read by itself, so that the same bytes mean the same wherever they come.
    fn is_stateless(&self) -> bool {
        false
    }

    /// Whether there is one thing at most in a message.
    fn carries_one(&self, _message: Message<'_>) -> bool {
        true
    }

    /// What the opening handshake asks for.
    fn subprotocol(&self) -> Option<&str> {
        None
    }

    /// What a client says once it is connected: a subscriber of `topic`, or with `None` a publisher. If that is
    /// nothing, it is ready at once; otherwise when [`Seen::Ready`] comes.
    fn greeting(&self, topic: Option<&str>) -> Vec<Outgoing>;

    /// Reads one message from the server. `partial` is the connection's own, empty at first, for what ends only with a
    /// later message.
    ///
    /// # Errors
    /// Says what the server refused, or what in its message cannot be.
    fn read(&self, message: Message<'_>, partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String>;

    /// The message that publishes `payload` over a WebSocket.
    fn publish(&self, topic: &str, payload: &[u8]) -> Outgoing;

    /// The body that publishes `payload` by POST, and its content type.
    fn post(&self, _topic: &str, payload: &[u8]) -> (&'static str, Vec<u8>) {
        ("text/plain", payload.to_vec())
    }

    /// Looks into the body of an answer of success.
    ///
    /// # Errors
    /// If it says, in the protocol's own words, that the publication was refused.
    fn check_answer(&self, _body: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// The drivers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DriverName {
    /// Each message is a payload: Ringfeed's raw feed, and any server that repeats what one client sends
    Raw,
    /// Centrifugo's JSON protocol
    Centrifugo,
    /// NATS over WebSocket
    Nats,
    /// MQTT 3.1.1 over WebSocket: mosquitto and other brokers
    Mqtt,
    /// Server-Sent Events, and a POST of the payload: nchan, Ringfeed's /sse
    Sse,
    /// Mercure: Server-Sent Events, and a POST of a form
    Mercure,
}

/// The driver that was asked for; a script goes before a name.
///
/// # Errors
/// If the script can't be read, or the driver does not speak what the address begins with.
pub(crate) fn choose(name: DriverName, script: Option<&Path>, url: &Target) -> Result<Arc<dyn Driver>, Error> {
    let driver: Arc<dyn Driver> = match (script, name) {
        (Some(path), _) => Arc::new(script::Script::read(path)?),
        (None, DriverName::Raw) => Arc::new(raw::Raw),
        (None, DriverName::Centrifugo) => Arc::new(centrifugo::Centrifugo),
        (None, DriverName::Nats) => Arc::new(nats::Nats),
        (None, DriverName::Mqtt) => Arc::new(mqtt::Mqtt),
        (None, DriverName::Sse) => Arc::new(sse::Sse),
        (None, DriverName::Mercure) => Arc::new(mercure::Mercure),
    };
    match (driver.is_event_stream(), url.is_web_socket()) {
        (true, true) => Err(Error::new(format!("{url}: this driver needs an address that begins with http"))),
        (false, false) => Err(Error::new(format!("{url}: this driver needs an address that begins with ws"))),
        (true, false) | (false, true) => Ok(driver),
    }
}

/// A payload as text, which it is.
fn text(payload: &[u8]) -> &str {
    str::from_utf8(payload).expect("payloads are ASCII")
}

/// What a test sees in `messages`, as text.
#[cfg(test)]
fn seen(driver: &dyn Driver, messages: &[&str]) -> Result<Vec<String>, String> {
    let messages: Vec<&[u8]> = messages.iter().map(|message| message.as_bytes()).collect();
    seen_in(driver, &messages)
}

/// The same, of a protocol that is not text.
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
    fn a_driver_needs_its_own_kind_of_address() {
        let (ws, http) = ("ws://a:1/".parse().unwrap(), "http://a:1/".parse().unwrap());
        assert!(choose(DriverName::Raw, None, &ws).is_ok() && choose(DriverName::Sse, None, &http).is_ok());
        for (name, url, word) in [(DriverName::Nats, &http, "ws"), (DriverName::Mercure, &ws, "http")] {
            let error = choose(name, None, url).err().unwrap().to_string();
            assert!(error.ends_with(&format!("begins with {word}")), "{error}");
        }
    }
}
