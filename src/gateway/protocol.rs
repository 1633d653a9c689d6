//! Protocols that run on a listener of their own, without HTTP and WebSocket.

use std::fmt;
use std::sync::Arc;

use super::{Encoder, register};
use crate::proto::{Framing, Message, MessageKind};
use crate::topics::{Body, Encoding};

/// A protocol on byte streams: a [`Framing`], and the encoding of publications that follows from it. A process makes
/// each protocol once, since it registers an [`Encoder`]: keep it in a [`LazyLock`](std::sync::LazyLock).
///
/// Pass it to [`ServerBuilder::protocol`](crate::server::ServerBuilder::protocol); `examples/lengths.rs` is a whole
/// server.
#[derive(Clone)]
pub struct Protocol {
    pub(crate) framing: Arc<dyn Framing>,
    /// The payload of each publication, in the framing.
    pub(crate) encoding: Encoding,
}

/// Encodes publications as messages of a framing.
struct Payloads(Arc<dyn Framing>);

impl Protocol {
    /// The protocol with this framing.
    ///
    /// # Panics
    /// As [`register`].
    pub fn new(framing: impl Framing) -> Protocol {
        let framing: Arc<dyn Framing> = Arc::new(framing);
        let encoding = register(Payloads(framing.clone()));
        Protocol { framing, encoding }
    }
}

impl Encoder for Payloads {
    fn name(&self) -> &'static str {
        "framed"
    }

    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
        let kind = if body.is_text { MessageKind::Text } else { MessageKind::Binary };
        self.0.encode(out, Message { kind, payload: body.payload() });
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Protocol").field("encoding", &self.encoding).finish_non_exhaustive()
    }
}
