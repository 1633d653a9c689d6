//! Server-Sent Events with the payload as data. The topic, if any, is part of the address.

use ringfeed::proto::{Message, MessageKind};

use super::{Driver, Outgoing, Seen};

/// nchan, Ringfeed's `/sse/<topic>`.
pub(crate) struct Sse;

impl Driver for Sse {
    fn is_event_stream(&self) -> bool {
        true
    }

    fn greeting(&self, _topic: Option<&str>) -> Vec<Outgoing> {
        Vec::new()
    }

    fn read(&self, message: Message<'_>, _partial: &mut Vec<u8>, seen: &mut dyn FnMut(Seen<'_>)) -> Result<(), String> {
        seen(Seen::Payload(message));
        Ok(())
    }

    fn publish(&self, _topic: &str, payload: &[u8]) -> Outgoing {
        (MessageKind::Text, payload.to_vec())
    }
}
