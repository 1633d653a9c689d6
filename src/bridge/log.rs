//! The seam to a broker: ordered logs and messages between nodes. Another broker fits in behind it.

use std::future::Future;

use bytes::Bytes;

use crate::cluster::Event;

/// A broker. Nothing waits: outcomes, live copies of records, messages and cuts of the connection arrive by
/// [`next`](Self::next).
pub(super) trait Log {
    /// Appends a record to the bucket's log: [`Event::Appended`] or [`Event::AppendFailed`] follows.
    fn append(&mut self, bucket: u16, record: Bytes);

    /// Fetches records of the bucket's log behind the sequence `after`, some or all: [`Event::Record`]s with this
    /// number, in order, and then [`Event::Fetched`].
    fn fetch(&mut self, bucket: u16, after: u64, fetch: u64);

    /// Sends a message to all nodes. It may be lost.
    fn broadcast(&mut self, message: Bytes);

    /// Sends a message to a node. It may be lost.
    fn send(&mut self, to: u64, message: Bytes);

    /// The next event.
    fn next(&mut self) -> impl Future<Output = Event>;

    /// An event that has already arrived.
    fn try_next(&mut self) -> Option<Event>;

    /// Sends everything, before the process ends.
    fn flush(&mut self) -> impl Future<Output = ()>;
}
