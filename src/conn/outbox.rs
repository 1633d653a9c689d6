//! What waits to be sent on a connection whose socket is behind.

use std::collections::VecDeque;

use crate::buf::SharedFrame;
use crate::limits::OUTBOX_RUN_BYTES;

/// Frames in the order they must leave. Empty, and then without any memory, for every connection that keeps up.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<SharedFrame>,
    /// Bytes of the first frame that have left already.
    skip: usize,
    /// Bytes that have not left, in flight or not.
    bytes: usize,
    /// The run in flight: frames it was made of.
    run_frames: usize,
}

/// Taking the frame as well would have passed the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxFull;

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Bytes that wait, with those in flight.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// Puts `frame` last, whatever waits.
    pub fn push(&mut self, frame: SharedFrame) {
        let waiting = self.0.get_or_insert_default();
        waiting.bytes += frame.len();
        waiting.frames.push_back(frame);
    }

    /// Puts `frame` last, unless more than `bytes_max` would wait then. Where nothing waits, a frame of any size may.
    pub fn push_bounded(&mut self, frame: SharedFrame, bytes_max: usize) -> Result<(), OutboxFull> {
        if !self.is_empty() && self.bytes() + frame.len() > bytes_max {
            return Err(OutboxFull);
        }
        self.push(frame);
        Ok(())
    }

    /// Puts what is left of `frame` after `skip` bytes first: the rest of a send that did not go whole.
    ///
    /// # Panics
    /// If a run is in flight: then nothing else could have been sent.
    pub fn push_front(&mut self, frame: SharedFrame, skip: usize) {
        let waiting = self.0.get_or_insert_default();
        assert!(waiting.run_frames == 0 && waiting.skip == 0, "one send at a time");
        waiting.bytes += frame.len() - skip;
        waiting.skip = skip;
        waiting.frames.push_front(frame);
    }

    /// The next bytes to send: several frames in one run where they are small. They are in flight until
    /// [`on_sent`](Self::on_sent). `None` if nothing waits.
    ///
    /// Returns the run and how many of its first bytes have left already.
    pub fn next_run(&mut self) -> Option<(SharedFrame, usize)> {
        let waiting = self.0.as_mut()?;
        assert!(waiting.run_frames == 0, "one run at a time");
        let mut run_bytes = 0;
        let fits = |frame: &&SharedFrame| {
            run_bytes += frame.len();
            run_bytes <= OUTBOX_RUN_BYTES
        };
        waiting.run_frames = waiting.frames.iter().take_while(fits).count().max(1);
        let frames = &waiting.frames.make_contiguous()[..waiting.run_frames];
        Some((SharedFrame::join(frames), waiting.skip))
    }

    /// The run in flight has left whole.
    pub fn on_sent(&mut self) {
        let Some(waiting) = &mut self.0 else { return };
        let sent: usize = waiting.frames.drain(..waiting.run_frames).map(|frame| frame.len()).sum();
        waiting.bytes -= sent - waiting.skip;
        waiting.skip = 0;
        waiting.run_frames = 0;
        if waiting.frames.is_empty() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> SharedFrame {
        SharedFrame::new((0..len).map(|n| n as u8).collect())
    }

    #[test]
    fn small_frames_leave_as_one_run() {
        let mut outbox = Outbox::default();
        assert!(outbox.next_run().is_none());
        outbox.push(frame(3));
        outbox.push(frame(2));
        outbox.push_front(frame(4), 3);
        assert_eq!(outbox.bytes(), 6);
        let (run, skip) = outbox.next_run().unwrap();
        assert_eq!((&*run, skip), (&[0, 1, 2, 3, 0, 1, 2, 0, 1][..], 3));
        outbox.push(frame(1));
        assert_eq!(outbox.bytes(), 7, "what is in flight still counts");
        outbox.on_sent();
        assert_eq!(outbox.bytes(), 1);
        assert_eq!(outbox.next_run().unwrap().0.len(), 1);
        outbox.on_sent();
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_large_frame_leaves_alone_and_is_not_copied() {
        let mut outbox = Outbox::default();
        let large = frame(OUTBOX_RUN_BYTES + 1);
        outbox.push(large.clone());
        outbox.push(frame(1));
        assert_eq!(outbox.next_run().unwrap().0.as_ptr(), large.as_ptr());
        outbox.on_sent();
        assert_eq!(outbox.next_run().unwrap().0.len(), 1);
    }

    #[test]
    fn the_bound_counts_all_that_waits() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push_bounded(frame(11), 10), Ok(()), "whatever its size, the first may wait");
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push_bounded(frame(6), 10), Ok(()));
        assert_eq!(outbox.push_bounded(frame(5), 10), Err(OutboxFull));
        assert_eq!(outbox.push_bounded(frame(4), 10), Ok(()));
        assert_eq!(outbox.bytes(), 10);
    }
}
