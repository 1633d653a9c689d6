//! What one client has to say to a server and to hear from it: handshake, greeting, then messages.
//!
//! ```text
//!   opened ──► Handshake ──► Greeted ──► ready: messages, or answers to what was posted
//!                  └──────────────────────┘ where the driver greets nobody
//! ```
//!
//! Bytes in, bytes out; knows nothing of sockets.

use std::sync::Arc;
use std::time::Instant;

use ringfeed::proto::{
    ClientHandshake, CloseCode, Decoder, DeflateOffer, DeflateParams, Message, MessageKind, encode_close,
    encode_message,
};

use crate::driver::{Driver, Seen};
use crate::event_stream::{self, EventStream};
use crate::frames::{self, FrameCache};
use crate::masking_keys::MaskingKeys;
use crate::publisher::HttpPublisher;

/// What conversations share.
pub(crate) struct Tools {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) hands: FrameCache,
}

/// A conversation, or that there is none.
#[derive(Default)]
pub(crate) enum Conversation {
    #[default]
    None,
    /// Not ready yet.
    Opening(Box<Opening>),
    Ready(Link),
}

const _: () = assert!(size_of::<Conversation>() <= 32, "a million of them must be cheap");

/// A conversation that is not ready yet.
pub(crate) struct Opening {
    pub(crate) since: Instant,
    /// What subscribers wait for; publishers have none.
    topic: Option<String>,
    stage: Stage,
}

enum Stage {
    /// The request is out, and so much of the answer has come.
    WebSocket(ClientHandshake, Vec<u8>),
    EventStream(Vec<u8>),
    /// What the driver says at the beginning is out.
    Greeted {
        link: Link,
        params: Option<DeflateParams>,
        is_ready: bool,
    },
}

/// How messages come.
pub(crate) enum Link {
    Frames {
        decoder: Decoder,
        partial: Option<Box<Partial>>,
    },
    Events(Box<EventStream>),
    /// Answers to what was posted.
    Answers(Box<HttpPublisher>),
}

/// What a driver keeps until a later message ends it.
pub(crate) struct Partial {
    bytes: Vec<u8>,
}

/// How a conversation begins.
pub(crate) struct Request<'a> {
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(String, String)],
    pub(crate) deflate: bool,
    /// `None` for a publisher.
    pub(crate) topic: Option<&'a str>,
}

impl Opening {
    /// Puts the request into `out`. A publisher talks over a WebSocket even where subscribers don't.
    pub(crate) fn begin(request: &Request<'_>, tools: &mut Tools, out: &mut Vec<u8>) -> Opening {
        let Request { authority, path, headers, deflate, topic } = *request;
        let stage = if topic.is_some() && tools.driver.is_event_stream() {
            let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/event-stream\r\n{more}\r\n");
            out.extend_from_slice(head.as_bytes());
            Stage::EventStream(Vec::new())
        } else {
            let mut handshake = ClientHandshake::new(tools.hands.keys.handshake_key());
            if deflate {
                handshake = handshake.with_deflate(DeflateOffer::default());
            }
            let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
            handshake.encode_request(out, authority, path, tools.driver.subprotocol().as_slice(), &headers);
            Stage::WebSocket(handshake, Vec::new())
        };
        Opening { since: Instant::now(), topic: topic.map(ToOwned::to_owned), stage }
    }

    /// Whether the handshake is over, and what comes are messages.
    pub(crate) fn has_greeted(&self) -> bool {
        matches!(self.stage, Stage::Greeted { .. })
    }

    /// Takes what came of the answer to the handshake. Once that is whole, puts the greeting into `out` and returns
    /// what came after it.
    ///
    /// # Errors
    /// Says what the server refused or got wrong.
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
                    return Err("the server does not compress: switch it on there".to_owned());
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
            encode_message(out, Message { kind, payload: &payload }, Some(tools.hands.keys.next()));
        }
        self.stage = Stage::Greeted { link, params, is_ready };
        Ok(early)
    }

    /// Whether nothing is awaited any more.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Greeted { is_ready: true, .. })
    }

    /// The link, once the greeting is out.
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        match &mut self.stage {
            Stage::Greeted { link, .. } => Some(link),
            Stage::WebSocket(..) | Stage::EventStream(..) => None,
        }
    }

    /// How messages may be compressed, if that was agreed on.
    pub(crate) fn deflate(&self) -> Option<DeflateParams> {
        match &self.stage {
            Stage::Greeted { params, .. } => *params,
            Stage::WebSocket(..) | Stage::EventStream(..) => None,
        }
    }

    /// The link of a conversation that is ready.
    ///
    /// # Panics
    /// If it has not greeted.
    pub(crate) fn into_link(self) -> Link {
        match self.stage {
            Stage::Greeted { link, .. } => link,
            Stage::WebSocket(..) | Stage::EventStream(..) => unreachable!("nobody is ready before greeting"),
        }
    }
}

impl Link {
    /// Whether what comes next begins with a frame that carries a whole payload, or the beginning of one.
    pub(crate) fn is_between_payloads(&self, tools: &Tools) -> bool {
        match self {
            Link::Frames { decoder, .. } => tools.driver.is_stateless() && decoder.held_bytes() == 0,
            Link::Events(_) | Link::Answers(_) => false,
        }
    }

    /// Shows what came. Pings are answered, by frame or by the driver. `copy` is one of `bytes` if it is of interest in
    /// which of them a payload came, or empty.
    ///
    /// # Errors
    /// Says why the conversation has ended.
    pub(crate) fn read(
        &mut self,
        tools: &mut Tools,
        bytes: &mut [u8],
        copy: &[u8],
        out: &mut Vec<u8>,
        mut on_seen: impl FnMut(Seen<'_>, Option<&[u8]>, &mut Vec<u8>, &mut MaskingKeys),
    ) -> Result<(), String> {
        let Tools { driver, hands } = tools;
        match self {
            Link::Frames { decoder, partial } => {
                frames::read(decoder, hands, bytes, copy, out, |message, frame, out, keys| {
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
                driver.read(message, &mut Vec::new(), &mut |seen| on_seen(seen, None, out, &mut hands.keys))
            }),
            Link::Answers(publisher) => publisher.on_bytes(bytes),
        }
    }

    /// Says goodbye, where there is a way to.
    pub(crate) fn close(&self, tools: &mut Tools, out: &mut Vec<u8>) {
        if let Link::Frames { .. } = self {
            encode_close(out, Some(CloseCode::NORMAL), "", Some(tools.hands.keys.next()));
        }
    }
}
