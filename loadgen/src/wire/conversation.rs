//! The protocol of one connection: handshake, greeting, then messages.
//!
//! ```text
//!   opened ──► Handshake ──► Greeted ──► ready: messages
//!                  └──────────────────────┘ if the driver has no greeting
//! ```
//!
//! A publisher by POST has no handshake. Bytes in, bytes out: independent of sockets.

use std::sync::Arc;
use std::time::Instant;

use ringfeed::proto::{
    ClientHandshake, CloseCode, Decoder, DeflateOffer, DeflateParams, Message, MessageKind, Opcode, encode_close,
    encode_frame, encode_message,
};

use crate::driver::{Driver, Seen};
use crate::wire::event_stream::{self, EventStream};
use crate::wire::frames::{self, FrameCache};
use crate::wire::masking_keys::MaskingKeys;
use crate::wire::publisher::HttpPublisher;

/// State shared by all conversations of a worker.
pub(crate) struct Tools {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) frames: FrameCache,
}

/// A conversation, or none.
#[derive(Default)]
pub(crate) enum Conversation {
    #[default]
    None,
    /// Not ready yet.
    Opening(Box<Opening>),
    Ready(Link),
    /// Publishes by POST.
    Publishing(Box<HttpPublisher>),
}

const _: () = assert!(size_of::<Conversation>() <= 32, "a million conversations must fit in little memory");

/// A conversation that is not ready yet.
pub(crate) struct Opening {
    pub(crate) since: Instant,
    /// The topic of a subscriber; publishers have none.
    topic: Option<String>,
    stage: Stage,
}

enum Stage {
    /// The request is sent, and these bytes of the response have arrived.
    WebSocket(ClientHandshake, Vec<u8>),
    EventStream(Vec<u8>),
    /// The driver's greeting is sent.
    Greeted {
        link: Link,
        params: Option<DeflateParams>,
        is_ready: bool,
    },
}

/// How messages arrive.
pub(crate) enum Link {
    Frames { decoder: Decoder, partial: Option<Box<Partial>> },
    Events(Box<EventStream>),
}

/// An incomplete message that a driver continues with the next.
pub(crate) struct Partial {
    bytes: Vec<u8>,
}

/// The parameters of an opening handshake.
pub(crate) struct Request<'a> {
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) deflate: bool,
    /// `None` for a publisher.
    pub(crate) topic: Option<&'a str>,
}

impl Opening {
    /// Appends the request to `out`. A publisher uses a WebSocket even if subscribers use event streams.
    pub(crate) fn begin(request: &Request<'_>, tools: &mut Tools, out: &mut Vec<u8>) -> Opening {
        let Request { authority, path, headers, deflate, topic } = *request;
        let stage = if topic.is_some() && tools.driver.is_event_stream() {
            let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n{more}\r\n");
            out.extend_from_slice(head.as_bytes());
            Stage::EventStream(Vec::new())
        } else {
            let mut handshake = ClientHandshake::new(tools.frames.keys.handshake_key());
            if deflate {
                handshake = handshake.with_deflate(DeflateOffer::default());
            }
            let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            handshake.encode_request(out, authority, path, tools.driver.subprotocol().as_slice(), &headers);
            Stage::WebSocket(handshake, Vec::new())
        };
        Opening { since: Instant::now(), topic: topic.map(ToOwned::to_owned), stage }
    }

    /// Whether the handshake is complete, so that received bytes are messages.
    pub(crate) fn has_greeted(&self) -> bool {
        matches!(self.stage, Stage::Greeted { .. })
    }

    /// Takes received bytes of the handshake response. Once it is complete, appends the greeting to `out` and returns
    /// the bytes after the response.
    ///
    /// # Errors
    /// If the server refused the handshake or its response is invalid.
    pub(crate) fn shake_hands(
        &mut self,
        bytes: &[u8],
        deflate: bool,
        tools: &mut Tools,
        out: &mut Vec<u8>,
    ) -> Result<Vec<u8>, String> {
        let (link, params, early) = match &mut self.stage {
            Stage::Greeted { .. } => unreachable!("the handshake is over"),
            Stage::WebSocket(handshake, answer) => {
                answer.extend_from_slice(bytes);
                let refused = |error| format!("the server refused the upgrade: {error}");
                let Some((accepted, len)) = handshake.decode_response(answer).map_err(refused)? else {
                    return Ok(Vec::new());
                };
                if deflate && accepted.deflate.is_none() {
                    return Err("the server does not accept compression: enable it there, or drop --deflate".to_owned());
                }
                let link = Link::Frames { decoder: frames::decoder(accepted.deflate.is_some()), partial: None };
                (link, accepted.deflate, answer.split_off(len))
            }
            Stage::EventStream(answer) => {
                answer.extend_from_slice(bytes);
                let Some((is_chunked, len)) = event_stream::decode_head(answer)? else { return Ok(Vec::new()) };
                (Link::Events(Box::new(EventStream::new(is_chunked))), None, answer.split_off(len))
            }
        };
        let greeting = tools.driver.greeting(self.topic.as_deref());
        let is_ready = greeting.is_empty();
        for (kind, payload) in greeting {
            encode_message(out, Message { kind, payload: &payload }, Some(tools.frames.keys.next()));
        }
        self.stage = Stage::Greeted { link, params, is_ready };
        Ok(early)
    }

    /// Whether the client is ready.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Greeted { is_ready: true, .. })
    }

    /// The link, once the greeting is sent.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match &mut self.stage {
            Stage::Greeted { link, .. } => Some(link),
            Stage::WebSocket(..) | Stage::EventStream(..) => None,
        }
    }

    /// The compression agreed on, if any.
    pub(crate) fn deflate(&self) -> Option<DeflateParams> {
        match &self.stage {
            Stage::Greeted { params, .. } => *params,
            Stage::WebSocket(..) | Stage::EventStream(..) => None,
        }
    }

    /// The link of a ready conversation.
    ///
    /// # Panics
    /// If the greeting is not sent.
    pub(crate) fn into_link(self) -> Link {
        match self.stage {
            Stage::Greeted { link, .. } => link,
            Stage::WebSocket(..) | Stage::EventStream(..) => unreachable!("a client is ready only after its greeting"),
        }
    }
}

impl Link {
    /// Whether the next bytes begin a frame that carries a whole payload.
    pub(crate) fn is_between_payloads(&self, tools: &Tools) -> bool {
        match self {
            Link::Frames { decoder, .. } => tools.driver.is_stateless() && decoder.held_bytes() == 0,
            Link::Events(_) => false,
        }
    }

    /// Decodes received bytes. Answers pings, as frames or through the driver. `copy` is a copy of `bytes` if the
    /// caller needs the frame of each payload, otherwise empty.
    ///
    /// # Errors
    /// The reason why the conversation has ended.
    pub(crate) fn read(
        &mut self,
        tools: &mut Tools,
        bytes: &mut [u8],
        copy: &[u8],
        out: &mut Vec<u8>,
        mut on_seen: impl FnMut(Seen<'_>, Option<&[u8]>, &mut Vec<u8>, &mut MaskingKeys),
    ) -> Result<(), String> {
        let Tools { driver, frames } = tools;
        match self {
            Link::Frames { decoder, partial } => {
                frames::read(decoder, frames, bytes, copy, out, |message, frame, out, keys| {
                    let frame = frame.filter(|_| driver.carries_one(message));
                    let mut rest = partial.take().map_or(Vec::new(), |partial| partial.bytes);
                    driver.read(message, &mut rest, &mut |seen| match seen {
                        Seen::Answer(message) => encode_message(out, message, Some(keys.next())),
                        Seen::Ready | Seen::Payload(_) => on_seen(seen, frame, out, keys),
                    })?;
                    if !rest.is_empty() {
                        *partial = Some(Box::new(Partial { bytes: rest }));
                    }
                    Ok(())
                })
            }
            Link::Events(stream) => stream.read(bytes, |data| {
                let message = Message { kind: MessageKind::Text, payload: data };
                driver.read(message, &mut Vec::new(), &mut |seen| on_seen(seen, None, out, &mut frames.keys))
            }),
        }
    }

    /// Sends a ping, if the protocol has one. Returns whether it has.
    pub(crate) fn ping(&self, tools: &mut Tools, out: &mut Vec<u8>) -> bool {
        let has_pings = matches!(self, Link::Frames { .. });
        if has_pings {
            encode_frame(out, Opcode::Ping, b"", Some(tools.frames.keys.next()));
        }
        has_pings
    }

    /// Sends a closing message, if the protocol has one.
    pub(crate) fn close(&self, tools: &mut Tools, out: &mut Vec<u8>) {
        if let Link::Frames { .. } = self {
            encode_close(out, Some(CloseCode::NORMAL), "", Some(tools.frames.keys.next()));
        }
    }
}
