//! Publications for tests of several modules.

use std::sync::Arc;

use super::{Body, Effect, Frames, Position, Publication, TopicName};
use crate::buf::SharedFrame;

/// A publication with a frame that is just the payload.
pub(crate) fn body(topic: &str, position: Position, time_ms: u64, payload: &[u8]) -> Arc<Body> {
    Arc::new(Body {
        topic: TopicName::new(topic).unwrap(),
        position,
        time_ms,
        frame: SharedFrame::new(payload.to_vec()),
        header_len: 0,
        is_text: true,
        key: None,
        tags: None,
        info: None,
        effect: Effect::None,
    })
}

/// A publication ready to send.
pub(crate) fn publication(topic: &str, position: Position, payload: &[u8]) -> Publication {
    Publication { body: body(topic, position, 0, payload), frames: Frames::default() }
}
