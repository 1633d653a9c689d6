//! Commands for streams: a client that reads an HTTP response sends its commands by requests of their own.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use prost::Message as _;
use serde::Deserialize;

use crate::gateway::{Accept, Context, Get, Handle, Handler, Page, Refusal, Request, Response, SendError};
use crate::limits::EMULATION_BYTES_MAX;
use crate::proto::Message;

/// The streams of a server, by the random names of their sessions. Clones share them.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<HashMap<u128, Handle>>>);

/// Commands for a stream.
#[derive(Debug)]
pub(super) struct Emulated(pub(super) Bytes);

/// Serves `/emulation`: passes the commands in the body of a POST request on to the stream whose session it names.
#[derive(Debug)]
pub struct Emulation(Sessions);

/// The body of a request.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
struct EmulationRequest {
    #[prost(string, tag = "2")]
    session: String,
    /// Commands, as in a message of a WebSocket.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(deserialize_with = "text")]
    data: Bytes,
}

/// In JSON, `data` is text that is JSON itself.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    String::deserialize(deserializer).map(Bytes::from)
}

impl Sessions {
    pub(super) fn insert(&self, session: u128, handle: Handle) {
        self.lock().insert(session, handle);
    }

    pub(super) fn remove(&self, session: u128) {
        self.lock().remove(&session);
    }

    fn find(&self, session: &str) -> Option<Handle> {
        let session = u128::from_str_radix(session, 16).ok()?;
        self.lock().get(&session).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Handle>> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

impl Emulation {
    /// A handler for one shard.
    pub fn new(sessions: Sessions) -> Emulation {
        Emulation(sessions)
    }
}

impl Handler for Emulation {
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Err(Refusal::new(400, "post commands here; WebSockets are at /connection/websocket"))
    }

    fn on_get(&mut self, _: &mut Context<'_>, _: &Get<'_>) -> Result<Response, Refusal> {
        Err(Refusal::new(405, "use POST"))
    }

    fn body_bytes_max(&self) -> Option<usize> {
        // The JSON in the JSON is escaped.
        Some(2 * EMULATION_BYTES_MAX)
    }

    fn on_post(&mut self, _: &mut Context<'_>, request: &Get<'_>, body: &[u8]) -> Result<Response, Refusal> {
        let is_protobuf = request.header("Content-Type") == Some("application/octet-stream");
        let emulated = match is_protobuf {
            true => EmulationRequest::decode(body).ok(),
            false => serde_json::from_slice(body).ok(),
        };
        let malformed = || Refusal::new(400, "the body must have a session and data");
        let EmulationRequest { session, data } = emulated.ok_or_else(malformed)?;
        let bytes = data.len();
        if bytes > EMULATION_BYTES_MAX {
            return Err(Refusal::new(413, format!("at most {EMULATION_BYTES_MAX} bytes of commands in one request")));
        }
        let gone = || Refusal::new(404, "there is no such session: connect again");
        let handle = self.0.find(&session).ok_or_else(gone)?;
        match handle.reply(0, Arc::new(Emulated(data)), bytes) {
            Ok(()) => Ok(Page::empty().into()),
            Err(SendError::Closed) => Err(gone()),
            Err(SendError::Full) => Err(Refusal::new(503, "the shards are overloaded: try again later")),
        }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sessions", self.lock().len())
    }
}
