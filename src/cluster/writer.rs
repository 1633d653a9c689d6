//! The records that this node appends to a bucket's log: one in flight, and the publications that wait for the next.
//!
//! A record is in flight until the node reads it back from the log; until then it is sent again, byte for byte. Since
//! only one record is in flight, the log needs no order among this node's records but that of their numbers, and a copy
//! that arrives late is void. Publications that arrive meanwhile travel together in the next record.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;

use super::record::{Entry, Record, VERSION};
use crate::limits::{CLUSTER_QUEUE_BYTES_MAX, CLUSTER_RECORD_BYTES, CLUSTER_RESEND_MS};

/// Bytes that an entry counts as besides its text.
const ENTRY_BYTES: usize = 64;

/// Pause before a record is sent again that the log could not take, in milliseconds.
const RETRY_MS: u64 = 250;

/// A publication that waits for a record.
#[derive(Debug)]
struct Item<T> {
    entry: Entry,
    ticket: T,
    bytes: usize,
    deadline_ms: u64,
}

/// The record in flight.
#[derive(Debug)]
struct InFlight<T> {
    number: u64,
    record: Bytes,
    /// Those who wait for its entries, in order; `None` if the wait was too long.
    tickets: Vec<Option<T>>,
    deadline_ms: u64,
    /// When to send it again.
    resend_ms: u64,
}

/// A bucket's writer. `T` is what a publisher waits with.
#[derive(Debug)]
pub(super) struct Writer<T> {
    id: u64,
    /// The number of its last record that was read back.
    number: u64,
    queue: VecDeque<Item<T>>,
    queue_bytes: usize,
    in_flight: Option<InFlight<T>>,
    /// How long a publisher waits.
    timeout_ms: u64,
}

impl<T> Writer<T> {
    /// A writer with a random `id` that nobody has had before.
    pub(super) fn new(id: u64, timeout_ms: u64) -> Writer<T> {
        Writer { id, number: 0, queue: VecDeque::new(), queue_bytes: 0, in_flight: None, timeout_ms }
    }

    /// Whether `record` is of this writer.
    pub(super) fn is_mine(&self, record: &Record) -> bool {
        record.writer == self.id
    }

    /// Bytes that wait for a record.
    pub(super) fn queue_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Queues an entry. Returns the ticket if there is no room.
    pub(super) fn push(&mut self, entry: Entry, ticket: T, now_ms: u64) -> Result<(), T> {
        let bytes = entry.encoded_len() + ENTRY_BYTES;
        if self.queue_bytes + bytes > CLUSTER_QUEUE_BYTES_MAX {
            return Err(ticket);
        }
        self.queue_bytes += bytes;
        self.queue.push_back(Item { entry, ticket, bytes, deadline_ms: now_ms + self.timeout_ms });
        Ok(())
    }

    /// The bytes to append now, if any: a new record, or the one in flight again. `seen` and `digest` are the place of
    /// the reader.
    pub(super) fn next(&mut self, seen: u64, digest: u64, now_ms: u64, unix_ms: u64) -> Option<Bytes> {
        match &mut self.in_flight {
            Some(in_flight) if now_ms < in_flight.resend_ms => None,
            Some(in_flight) => {
                in_flight.resend_ms = now_ms + CLUSTER_RESEND_MS;
                Some(in_flight.record.clone())
            }
            None if self.queue.is_empty() => None,
            None => Some(self.begin(seen, digest, now_ms, unix_ms)),
        }
    }

    /// Puts the next record in flight, also without entries.
    pub(super) fn begin(&mut self, seen: u64, digest: u64, now_ms: u64, unix_ms: u64) -> Bytes {
        assert!(self.in_flight.is_none(), "one record is in flight at most");
        let (mut entries, mut tickets, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut deadline_ms = now_ms + self.timeout_ms;
        // The first record has no entries: were it counted after its writer had been forgotten, it would count twice.
        let fits = |item: &Item<T>, bytes| bytes == 0 || bytes + item.bytes <= CLUSTER_RECORD_BYTES;
        while self.number > 0 && self.queue.front().is_some_and(|item| fits(item, bytes)) {
            let item = self.queue.pop_front().expect("there is a first one");
            bytes += item.bytes;
            deadline_ms = deadline_ms.min(item.deadline_ms);
            entries.push(item.entry);
            tickets.push(Some(item.ticket));
        }
        self.queue_bytes -= bytes;
        let number = self.number + 1;
        let record = Record {
            version: VERSION,
            writer: self.id,
            number,
            time_ms: unix_ms,
            is_reset: false,
            seen,
            digest,
            entries,
        };
        let record = Bytes::from(record.encode_to_vec());
        let resend_ms = now_ms + CLUSTER_RESEND_MS;
        self.in_flight = Some(InFlight { number, record: record.clone(), tickets, deadline_ms, resend_ms });
        record
    }

    /// Whether no record is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// The log could not take the record: it is sent again after a pause.
    pub(super) fn on_failed(&mut self, now_ms: u64) {
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.resend_ms = in_flight.resend_ms.min(now_ms + RETRY_MS);
        }
    }

    /// Record `number` of this writer has counted. Returns the tickets of its entries.
    pub(super) fn on_counted(&mut self, number: u64) -> Vec<Option<T>> {
        let in_flight = self.in_flight.take().expect("only the record in flight can count");
        assert_eq!(in_flight.number, number, "only the record in flight can count");
        self.number = number;
        in_flight.tickets
    }

    /// Record `number` of this writer was void. If it is the one in flight, none of its copies has counted or ever
    /// will: the writer goes on with a new `id`, and its entries travel again.
    pub(super) fn on_void(&mut self, number: u64, id: u64) {
        if self.in_flight.as_ref().is_some_and(|in_flight| in_flight.number == number) {
            self.renew(id);
        }
    }

    /// No copy of the record in flight has counted or ever will: the writer goes on with a new `id`, and the entries
    /// travel again.
    pub(super) fn renew(&mut self, id: u64) {
        (self.id, self.number) = (id, 0);
        let Some(in_flight) = self.in_flight.take() else { return };
        let record = Record::decode(in_flight.record).expect("it was encoded here");
        for (entry, ticket) in record.entries.into_iter().zip(in_flight.tickets).rev() {
            let Some(ticket) = ticket else { continue };
            let bytes = entry.encoded_len() + ENTRY_BYTES;
            self.queue_bytes += bytes;
            self.queue.push_front(Item { entry, ticket, bytes, deadline_ms: in_flight.deadline_ms });
        }
    }

    /// It can't be known whether the record in flight counts: the writer goes on with a new `id`. Returns the tickets.
    pub(super) fn abandon(&mut self, id: u64) -> Vec<T> {
        (self.id, self.number) = (id, 0);
        self.in_flight.take().into_iter().flat_map(|in_flight| in_flight.tickets).flatten().collect()
    }

    /// Takes the tickets whose wait is over: of entries that were never sent, and of entries that were.
    pub(super) fn take_overdue(&mut self, now_ms: u64) -> (Vec<T>, Vec<T>) {
        let mut unsent = Vec::new();
        while self.queue.front().is_some_and(|item| item.deadline_ms <= now_ms) {
            let item = self.queue.pop_front().expect("there is a first one");
            self.queue_bytes -= item.bytes;
            unsent.push(item.ticket);
        }
        let overdue = self.in_flight.as_mut().filter(|in_flight| in_flight.deadline_ms <= now_ms);
        let sent = overdue.into_iter().flat_map(|in_flight| &mut in_flight.tickets).filter_map(Option::take).collect();
        (unsent, sent)
    }

    /// Takes the tickets of all entries that were never sent.
    pub(super) fn take_unsent(&mut self) -> Vec<T> {
        self.queue_bytes = 0;
        self.queue.drain(..).map(|item| item.ticket).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(topic: &str, bytes: usize) -> Entry {
        Entry { topic: topic.to_owned(), payload: Bytes::from(vec![b'x'; bytes]), ..Entry::default() }
    }

    fn decode(bytes: Option<Bytes>) -> Record {
        Record::decode(bytes.expect("a record")).unwrap()
    }

    /// A writer whose first record has counted.
    fn started() -> Writer<u32> {
        let mut writer = Writer::new(7, 10_000);
        writer.begin(0, 0, 0, 0);
        writer.on_counted(1);
        writer
    }

    #[test]
    fn what_arrives_while_a_record_is_in_flight_travels_together() {
        let mut writer = Writer::new(7, 10_000);
        writer.push(entry("a", 1), 1, 0).unwrap();
        let first = decode(writer.next(3, 4, 0, 5));
        let expected = (7, 1, 5, 3, 4);
        assert_eq!((first.writer, first.number, first.time_ms, first.seen, first.digest), expected);
        assert!(first.entries.is_empty(), "the first record says hello");
        assert_eq!(writer.on_counted(1), []);
        let second = decode(writer.next(0, 0, 0, 0));
        assert_eq!((second.number, second.entries.len()), (2, 1));
        for ticket in 2..5 {
            writer.push(entry("a", 1), ticket, 0).unwrap();
        }
        assert_eq!(writer.next(0, 0, 0, 0), None);
        assert_eq!(writer.on_counted(2), [Some(1)]);
        assert_eq!(decode(writer.next(0, 0, 0, 0)).entries.len(), 3);
        assert_eq!(writer.on_counted(3), [Some(2), Some(3), Some(4)]);
        assert_eq!((writer.next(0, 0, 0, 0), writer.queue_bytes()), (None, 0));
    }

    #[test]
    fn a_record_is_sent_again_byte_for_byte() {
        let mut writer = started();
        writer.push(entry("a", 1), 1, 0).unwrap();
        let first = writer.next(1, 1, 0, 1).unwrap();
        assert_eq!(writer.next(2, 2, CLUSTER_RESEND_MS - 1, 2), None);
        assert_eq!(writer.next(2, 2, CLUSTER_RESEND_MS, 2), Some(first.clone()));
        writer.on_failed(CLUSTER_RESEND_MS);
        assert_eq!(writer.next(2, 2, CLUSTER_RESEND_MS + RETRY_MS, 2), Some(first));
    }

    #[test]
    fn a_record_has_so_many_bytes_or_one_entry() {
        let mut writer = started();
        for (ticket, bytes) in
            [CLUSTER_RECORD_BYTES * 2, CLUSTER_RECORD_BYTES / 2, 1, CLUSTER_RECORD_BYTES].iter().enumerate()
        {
            writer.push(entry("a", *bytes), ticket as u32, 0).unwrap();
        }
        let mut counts = Vec::new();
        while let Some(record) = writer.next(0, 0, 0, 0) {
            counts.push(decode(Some(record)).entries.len());
            writer.on_counted(counts.len() as u64 + 1);
        }
        assert_eq!(counts, [1, 2, 1]);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut writer = started();
        let count = (0..).take_while(|ticket| writer.push(entry("a", 1 << 20), *ticket, 0).is_ok()).count();
        assert_eq!(count, CLUSTER_QUEUE_BYTES_MAX / (1 << 20) - 1);
    }

    #[test]
    fn nobody_waits_longer_than_the_timeout_and_learns_whether_it_was_sent() {
        let mut writer = started();
        writer.push(entry("a", 1), 1, 0).unwrap();
        writer.next(0, 0, 0, 0);
        writer.push(entry("a", 1), 2, 5).unwrap();
        assert_eq!(writer.take_overdue(9_999), (vec![], vec![]));
        assert_eq!(writer.take_overdue(10_000), (vec![], vec![1]));
        assert_eq!(writer.take_overdue(10_005), (vec![2], vec![]));
        assert_eq!(writer.on_counted(2), [None], "the record stays in flight");
    }

    #[test]
    fn a_void_record_travels_again_under_a_new_name() {
        let mut writer = started();
        for ticket in [1, 2] {
            writer.push(entry("a", 1), ticket, 0).unwrap();
        }
        writer.next(0, 0, 0, 0);
        writer.push(entry("a", 1), 3, 0).unwrap();
        writer.on_void(1, 8);
        assert!(!writer.is_idle(), "a late copy of an earlier record");
        writer.on_void(2, 8);
        let hello = decode(writer.next(0, 0, 0, 0));
        assert_eq!((hello.writer, hello.number, hello.entries.len()), (8, 1, 0));
        writer.on_counted(1);
        assert_eq!(decode(writer.next(0, 0, 0, 0)).entries.len(), 3);
        assert_eq!(writer.abandon(9), [1, 2, 3]);
        writer.push(entry("a", 1), 4, 0).unwrap();
        assert_eq!(writer.take_unsent(), [4]);
    }
}
