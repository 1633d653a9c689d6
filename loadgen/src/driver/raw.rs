//! Each message is a payload. The topic, if any, is part of the address.

use ringfeed::proto::{Message, MessageKind};

use super::{Driver, Outgoing, Seen};

/// Ringfeed's `/feed/<topic>`, and any server that broadcasts each message it receives.
pub(crate) struct Raw;

impl Driver for Raw {
    fn is_stateless(&self) -> bool {
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
