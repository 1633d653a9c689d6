//! One direction of a connection: bytes with the sender's kernel, and bytes with the receiver's.
//!
//! Both places are bounded, so a reader that stops stops the sender. Knows no time: who moves bytes decides when.

use std::collections::VecDeque;

/// One direction.
#[derive(Debug)]
pub(super) struct Stream {
    leaving: VecDeque<u8>,
    arrived: VecDeque<u8>,
    /// The sender says nothing after what is leaving.
    is_finished: bool,
    /// The receiver has been told so.
    end_has_arrived: bool,
    bytes_max: usize,
}

impl Stream {
    /// A stream that holds `bytes_max` at either end.
    pub(super) fn new(bytes_max: usize) -> Stream {
        let (leaving, arrived) = (VecDeque::new(), VecDeque::new());
        Stream { leaving, arrived, is_finished: false, end_has_arrived: false, bytes_max }
    }

    /// Bytes that the sender's side would take.
    pub(super) fn room(&self) -> usize {
        self.bytes_max - self.leaving.len()
    }

    /// Takes bytes from the sender: no more than there is room for.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room() && !self.is_finished, "the simulated kernel took too much");
        self.leaving.extend(bytes);
    }

    /// The sender's end of the stream.
    pub(super) fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Whether the sender has ended it.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether moving would move anything.
    pub(super) fn can_move(&self) -> bool {
        let has_room = self.arrived.len() < self.bytes_max;
        (!self.leaving.is_empty() && has_room) || self.must_tell_end()
    }

    /// Bytes that have not left the sender's kernel.
    pub(super) fn leaving(&self) -> usize {
        self.leaving.len()
    }

    fn must_tell_end(&self) -> bool {
        self.leaving.is_empty() && self.is_finished && !self.end_has_arrived
    }

    /// Carries up to `bytes_max` to the receiver's side, and then the end.
    pub(super) fn carry(&mut self, bytes_max: usize) {
        let count = self.leaving.len().min(bytes_max).min(self.bytes_max - self.arrived.len());
        self.arrived.extend(self.leaving.drain(..count));
        if self.must_tell_end() {
            self.end_has_arrived = true;
        }
    }

    /// Bytes for the receiver.
    pub(super) fn available(&self) -> usize {
        self.arrived.len()
    }

    /// Takes bytes to the receiver: no more than are available.
    pub(super) fn read(&mut self, count: usize) -> Vec<u8> {
        self.arrived.drain(..count).collect()
    }

    /// Whether the receiver has read everything up to the end.
    pub(super) fn is_at_end(&self) -> bool {
        self.arrived.is_empty() && self.end_has_arrived
    }

    /// Bytes in flight never arrive.
    pub(super) fn cut(&mut self) {
        self.leaving.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_stops_stops_the_sender() {
        let mut stream = Stream::new(4);
        stream.write(b"abcd");
        stream.carry(3);
        stream.write(b"efg");
        assert_eq!((stream.room(), stream.available()), (0, 3));
        stream.carry(100);
        assert!(!stream.can_move());
        assert_eq!(stream.read(4), b"abcd");
        stream.carry(100);
        assert_eq!(stream.read(3), b"efg");
    }

    #[test]
    fn the_end_comes_last() {
        let mut stream = Stream::new(4);
        stream.write(b"ab");
        stream.finish();
        stream.carry(1);
        assert!(stream.can_move());
        stream.carry(1);
        assert!(!stream.is_at_end());
        assert_eq!(stream.read(2), b"ab");
        assert!(stream.is_at_end());
    }
}
