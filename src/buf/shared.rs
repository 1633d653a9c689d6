//! Encoded frames that many connections send from the same bytes.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

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
    pub fn concat(frames: &[SharedFrame]) -> SharedFrame {
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

/// A frame that is made at its first use, once for all that share it.
#[derive(Debug, Default)]
pub struct LazyFrame(OnceLock<Option<SharedFrame>>);

impl LazyFrame {
    /// The frame, made by `make` at the first call; `None` if `make` returned `None` then. Concurrent callers wait,
    /// since they could only make the same.
    pub fn get_or_make(&self, make: impl FnOnce() -> Option<SharedFrame>) -> Option<&SharedFrame> {
        self.0.get_or_init(make).as_ref()
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
        assert_eq!(SharedFrame::concat(std::slice::from_ref(&frame)).as_ptr(), frame.as_ptr());
    }

    #[test]
    fn a_lazy_frame_is_made_once() {
        let (made, not_worth_it) = (LazyFrame::default(), LazyFrame::default());
        let again = || panic!("it was made already");
        let first = made.get_or_make(|| Some(SharedFrame::new(vec![1]))).unwrap().as_ptr();
        assert_eq!(made.get_or_make(again).unwrap().as_ptr(), first);
        assert!(not_worth_it.get_or_make(|| None).is_none());
        assert!(not_worth_it.get_or_make(again).is_none());
    }

    #[test]
    fn frames_join_in_order() {
        let frames = [SharedFrame::new(vec![1]), SharedFrame::new(vec![]), SharedFrame::new(vec![2, 3])];
        assert_eq!(&*SharedFrame::concat(&frames), [1, 2, 3]);
    }
}
