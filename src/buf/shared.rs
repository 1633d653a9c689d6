//! Encoded frames that many connections send from the same bytes.

use std::ops::Deref;
use std::sync::Arc;

/// Immutable bytes ready for the wire: one frame, or several in a row.
///
/// Cloning counts one more owner and copies nothing. The count is atomic since a publication crosses shards, but it is
/// touched once per shard and publication, and beyond that only for connections that are behind.
#[derive(Clone, Debug)]
pub struct SharedFrame(Arc<Vec<u8>>);

impl SharedFrame {
    /// Takes encoded bytes over without copying them.
    pub fn new(bytes: Vec<u8>) -> SharedFrame {
        SharedFrame(Arc::new(bytes))
    }

    /// One run of bytes for `frames`, in order. A single frame stays the memory it is.
    pub fn join(frames: &[SharedFrame]) -> SharedFrame {
        match frames {
            [only] => only.clone(),
            _ => {
                let mut run = Vec::with_capacity(frames.iter().map(|frame| frame.len()).sum());
                frames.iter().for_each(|frame| run.extend_from_slice(frame));
                SharedFrame::new(run)
            }
        }
    }
}

impl Deref for SharedFrame {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_frame_is_not_copied() {
        let frame = SharedFrame::new(vec![1, 2, 3]);
        assert_eq!(SharedFrame::join(std::slice::from_ref(&frame)).as_ptr(), frame.as_ptr());
    }

    #[test]
    fn frames_join_in_order() {
        let frames = [SharedFrame::new(vec![1]), SharedFrame::new(vec![]), SharedFrame::new(vec![2, 3])];
        assert_eq!(&*SharedFrame::join(&frames), [1, 2, 3]);
    }
}
