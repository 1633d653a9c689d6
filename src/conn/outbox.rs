//! The backlog of a connection whose socket is behind.
//!
//! Replies leave in their order, and control frames before them. A push of a topic is marked, so that it can
//! be dropped or replaced by something newer for as long as it has not begun to leave.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::ops::Range;

use crate::buf::SharedFrame;
use crate::limits::OUTBOX_RUN_BYTES;

/// What a frame that waits is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueKey {
    /// Frames that are bounded together.
    pub namespace: u16,
    /// Frames that are about the same thing have the same topic and key.
    pub topic: u32,
    /// 0 where there is none.
    pub key: u64,
}

/// Frames in the order they must leave. Empty, and then without any memory, for every connection that keeps up.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Backlog>>);

#[derive(Debug, Default)]
struct Backlog {
    /// The frame that has begun to leave, and the number of its bytes that have left.
    begun: Option<(SharedFrame, usize)>,
    /// Control frames.
    urgent: VecDeque<SharedFrame>,
    /// By the order in which they came.
    frames: BTreeMap<u64, Frame>,
    next: u64,
    /// Where the newest frame with this mark is, of those that may be dropped or replaced.
    newest: HashMap<QueueKey, u64>,
    /// Where the last frame of a topic is, of those that came after the last reply.
    last: HashMap<u32, u64>,
    /// Bytes that have not left, in flight or not.
    bytes: usize,
    /// Bytes in flight.
    flight: usize,
    /// Since when the first frame of these has waited, if any began to leave with them.
    flight_since_ms: Option<u64>,
    /// Bytes of the past that were or will be put here on request and have not left, at most.
    catch_up: usize,
}

#[derive(Debug)]
struct Frame {
    bytes: SharedFrame,
    queue_key: Option<QueueKey>,
    /// Since when it, or what it has replaced, has waited.
    since_ms: u64,
}

/// Taking the frame as well would have passed the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxFull;

impl Outbox {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Bytes that wait, with those in flight.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |backlog| backlog.bytes)
    }

    /// Of these, the bytes that count towards the bounds: a client that catches up is not slow because of what it
    /// catches up on.
    pub fn counted_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |backlog| backlog.counted())
    }

    /// The connection will be sent `bytes` of the past at most, which the bounds do not count until as many have left.
    pub fn expect_catch_up(&mut self, bytes: usize) {
        if bytes > 0 {
            self.backlog().catch_up += bytes;
        }
    }

    /// Bytes of the past that have not left, at most.
    pub fn catch_up_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |backlog| backlog.catch_up)
    }

    /// Since when what leaves next has waited, in flight or control frames apart.
    pub fn first_ms(&self) -> Option<u64> {
        self.0.as_ref()?.first_ms()
    }

    /// Since when what has waited longest has. Looks at all that waits.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.0.as_ref()?.frames.values().map(|frame| frame.since_ms).min()
    }

    /// Puts `frame` last, whatever waits.
    pub fn push(&mut self, frame: SharedFrame, now_ms: u64) {
        self.backlog().push(frame, None, now_ms);
    }

    /// Puts a control frame before all that has not begun to leave.
    pub fn push_control(&mut self, frame: SharedFrame) {
        let backlog = self.backlog();
        backlog.bytes += frame.len();
        backlog.urgent.push_back(frame);
    }

    /// Puts `frame` last, unless more than `bytes_max` that [count](Self::counted_bytes) would wait then. Where nothing
    /// does, a frame of any size may.
    pub fn push_bounded(
        &mut self,
        frame: SharedFrame,
        queue_key: QueueKey,
        bytes_max: usize,
        now_ms: u64,
    ) -> Result<(), OutboxFull> {
        let counted = self.counted_bytes();
        if counted > 0 && counted + frame.len() > bytes_max {
            return Err(OutboxFull);
        }
        self.backlog().push(frame, Some(queue_key), now_ms);
        Ok(())
    }

    /// Puts `frame` last. Where more than `bytes_max` would wait then, the oldest of the same namespace are dropped,
    /// and also those that came before `since_ms`; but never the newest with its mark, which tells of those before it
    /// that are missing. Returns how many.
    pub fn push_dropping(
        &mut self,
        frame: SharedFrame,
        queue_key: QueueKey,
        bytes_max: usize,
        since_ms: u64,
        now_ms: u64,
    ) -> usize {
        let backlog = self.backlog();
        let mut dropped = 0;
        let excess = (backlog.counted() + frame.len()).saturating_sub(bytes_max);
        let is_of_namespace =
            |other: &Frame| other.queue_key.is_some_and(|other| other.namespace == queue_key.namespace);
        let newest = &backlog.newest;
        // This frame is newer than the newest with its own mark.
        let is_last_word = |place: &u64, other: &Frame| {
            other.queue_key.is_some_and(|other| other != queue_key && newest.get(&other) == Some(place))
        };
        let oldest =
            backlog.frames.iter().filter(|(place, other)| is_of_namespace(other) && !is_last_word(place, other));
        let mut freed = 0;
        let drop: Vec<u64> = oldest
            .take_while(|(_, other)| {
                let is_dropped = freed < excess || other.since_ms < since_ms;
                freed += other.bytes.len();
                is_dropped
            })
            .map(|(place, _)| *place)
            .collect();
        for place in drop {
            backlog.remove(place);
            dropped += 1;
        }
        backlog.newest.insert(queue_key, backlog.next);
        backlog.push(frame, Some(queue_key), now_ms);
        dropped
    }

    /// Puts `frame` into the place of the one with the same mark that waits, as long as which it has waited then; or
    /// last, where there is none, or where a reply or others of its topic came after that. Returns whether there was
    /// one.
    ///
    /// The bound still holds for what is about different things, and nothing may have waited since before `since_ms`:
    /// to drop the newest of a thing because it is old would be to tell nothing of that thing.
    pub fn push_replacing(
        &mut self,
        frame: SharedFrame,
        queue_key: QueueKey,
        bytes_max: usize,
        since_ms: u64,
        now_ms: u64,
    ) -> Result<bool, OutboxFull> {
        let backlog = self.backlog();
        let first_ms = backlog.first_ms();
        let replaced = backlog.newest.get(&queue_key).copied();
        // What changes often has its turn as well, and a topic still has one order, also with what is said about it.
        let place = replaced.filter(|place| backlog.last.get(&queue_key.topic) == Some(place)).unwrap_or(backlog.next);
        let replaced_ms = replaced.and_then(|place| backlog.remove(place));
        let is_old = |waits_since_ms| waits_since_ms < since_ms;
        if backlog.catch_up == 0 && [first_ms, replaced_ms].into_iter().flatten().any(is_old) {
            return Err(OutboxFull);
        }
        let counted = backlog.counted();
        if counted > 0 && counted + frame.len() > bytes_max {
            return Err(OutboxFull);
        }
        backlog.newest.insert(queue_key, place);
        backlog.put(place, Frame { bytes: frame, queue_key: Some(queue_key), since_ms: replaced_ms.unwrap_or(now_ms) });
        Ok(replaced.is_some())
    }

    /// Drops all that was pushed and has not begun to leave.
    pub fn drop_pushed(&mut self) {
        let Some(backlog) = &mut self.0 else { return };
        let is_pushed = |(place, frame): (&u64, &Frame)| frame.queue_key.is_some().then_some(*place);
        let pushed: Vec<u64> = backlog.frames.iter().filter_map(is_pushed).collect();
        for place in pushed {
            backlog.remove(place);
        }
        if backlog.bytes == 0 {
            self.0 = None;
        }
    }

    /// Puts what is left of `frame` after `skip` bytes first: the rest of a send that did not go whole.
    ///
    /// # Panics
    /// If something is in flight: then nothing else could have been sent.
    pub fn push_front(&mut self, frame: SharedFrame, skip: usize) {
        let backlog = self.backlog();
        assert!(backlog.flight == 0 && backlog.begun.is_none(), "one send at a time");
        backlog.bytes += frame.len() - skip;
        backlog.begun = Some((frame, skip));
    }

    /// The next bytes to send, at most `bytes_max`: several frames in one run where they are small. They are in flight
    /// until [`on_sent`](Self::on_sent). `None` if nothing waits; then all of the past has left.
    ///
    /// Returns the run and the range of these bytes; those before it have left already.
    pub fn next_run(&mut self, bytes_max: usize) -> Option<(SharedFrame, Range<usize>)> {
        let backlog = self.0.as_mut()?;
        if backlog.bytes == 0 {
            self.0 = None;
            return None;
        }
        assert!(backlog.flight == 0, "one run at a time");
        let begun = backlog.begun.take();
        let skip = begun.as_ref().map_or(0, |(_, skip)| *skip);
        let mut run: Vec<SharedFrame> = begun.into_iter().map(|(frame, _)| frame).collect();
        run.extend(backlog.urgent.drain(..));
        let mut run_bytes: usize = run.iter().map(|frame| frame.len()).sum();
        backlog.flight_since_ms = None;
        while let Some(first) = backlog.frames.first_entry() {
            run_bytes += first.get().bytes.len();
            if run_bytes > OUTBOX_RUN_BYTES && !run.is_empty() {
                break;
            }
            let place = *first.key();
            let since_ms = first.get().since_ms;
            backlog.flight_since_ms.get_or_insert(since_ms);
            run.extend(backlog.take(place).map(|frame| frame.bytes));
        }
        let run = SharedFrame::concat(&run);
        let end = run.len().min(skip.saturating_add(bytes_max));
        if end < run.len() {
            backlog.begun = Some((run.clone(), end));
        }
        backlog.flight = end - skip;
        Some((run, skip..end))
    }

    /// The run in flight has left whole. Returns since when the first frame of it has waited; `None` if it held only
    /// control frames and the rest of an earlier run.
    pub fn on_sent(&mut self) -> Option<u64> {
        let backlog = self.0.as_mut()?;
        let since_ms = backlog.flight_since_ms.take();
        let sent = std::mem::take(&mut backlog.flight);
        backlog.bytes -= sent;
        backlog.catch_up = backlog.catch_up.saturating_sub(sent);
        if backlog.bytes == 0 && backlog.catch_up == 0 {
            self.0 = None;
        }
        since_ms
    }

    fn backlog(&mut self) -> &mut Backlog {
        self.0.get_or_insert_default()
    }
}

impl Backlog {
    fn counted(&self) -> usize {
        self.bytes.saturating_sub(self.catch_up)
    }

    fn first_ms(&self) -> Option<u64> {
        self.frames.values().next().map(|frame| frame.since_ms)
    }

    fn push(&mut self, bytes: SharedFrame, queue_key: Option<QueueKey>, since_ms: u64) {
        self.put(self.next, Frame { bytes, queue_key, since_ms });
    }

    /// Puts a frame where none is.
    fn put(&mut self, place: u64, frame: Frame) {
        self.bytes += frame.bytes.len();
        self.next = self.next.max(place + 1);
        match frame.queue_key {
            Some(queue_key) => drop(self.last.insert(queue_key.topic, place)),
            None => self.last.clear(),
        }
        self.frames.insert(place, frame);
    }

    /// Takes a frame out that is to leave.
    fn take(&mut self, place: u64) -> Option<Frame> {
        let frame = self.frames.remove(&place)?;
        if let Some(queue_key) = frame.queue_key {
            remove_if(&mut self.newest, queue_key, place);
            remove_if(&mut self.last, queue_key.topic, place);
        }
        Some(frame)
    }

    /// Drops a frame that has not begun to leave; returns since when it has waited.
    fn remove(&mut self, place: u64) -> Option<u64> {
        let frame = self.take(place)?;
        self.bytes -= frame.bytes.len();
        Some(frame.since_ms)
    }
}

/// Takes `key` out if that place is where it is.
fn remove_if<K: Eq + Hash>(places: &mut HashMap<K, u64>, key: K, place: u64) {
    if places.get(&key) == Some(&place) {
        places.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_since_when_its_first_frame_has_waited() {
        let mut outbox = Outbox::default();
        outbox.push_front(frame(10), 4);
        outbox.push(frame(OUTBOX_RUN_BYTES), 5);
        outbox.push(frame(3), 7);
        let mut sent = || {
            outbox.next_run(usize::MAX).unwrap();
            outbox.on_sent()
        };
        assert_eq!([sent(), sent(), sent()], [None, Some(5), Some(7)], "the rest of a send has left in part before");
        outbox.push(frame(8), 9);
        outbox.push_control(frame(1));
        outbox.next_run(2).unwrap();
        assert_eq!(outbox.on_sent(), Some(9));
        outbox.next_run(7).unwrap();
        assert_eq!(outbox.on_sent(), None, "it counts once");
    }

    fn frame(len: usize) -> SharedFrame {
        SharedFrame::new((0..len).map(|n| n as u8).collect())
    }

    fn queue_key(namespace: u16, topic: u32, key: u64) -> QueueKey {
        QueueKey { namespace, topic, key }
    }

    /// All that leaves from now on, run by run.
    fn runs(outbox: &mut Outbox) -> Vec<Vec<u8>> {
        let run = || {
            let (run, bytes) = outbox.next_run(usize::MAX)?;
            outbox.on_sent();
            Some(run[bytes].to_vec())
        };
        std::iter::from_fn(run).collect()
    }

    fn text(bytes: &str) -> SharedFrame {
        SharedFrame::new(bytes.as_bytes().to_vec())
    }

    #[test]
    fn small_frames_leave_as_one_run() {
        let mut outbox = Outbox::default();
        assert!(outbox.next_run(usize::MAX).is_none());
        outbox.push(frame(3), 0);
        outbox.push(frame(2), 0);
        outbox.push_front(frame(4), 3);
        assert_eq!(outbox.bytes(), 6);
        let (run, bytes) = outbox.next_run(usize::MAX).unwrap();
        assert_eq!((&*run, bytes), (&[0, 1, 2, 3, 0, 1, 2, 0, 1][..], 3..9));
        outbox.push(frame(1), 0);
        assert_eq!(outbox.bytes(), 7, "what is in flight still counts");
        outbox.on_sent();
        assert_eq!(outbox.bytes(), 1);
        assert_eq!(outbox.next_run(usize::MAX).unwrap().0.len(), 1);
        outbox.on_sent();
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_large_frame_leaves_alone_and_is_not_copied() {
        let mut outbox = Outbox::default();
        let large = frame(OUTBOX_RUN_BYTES + 1);
        outbox.push(large.clone(), 0);
        outbox.push(frame(1), 0);
        assert_eq!(outbox.next_run(usize::MAX).unwrap().0.as_ptr(), large.as_ptr());
        outbox.on_sent();
        assert_eq!(outbox.next_run(usize::MAX).unwrap().0.len(), 1);
    }

    #[test]
    fn a_run_leaves_in_pieces_where_it_must() {
        let mut outbox = Outbox::default();
        outbox.push(frame(10), 0);
        let mut pieces = Vec::new();
        while let Some((run, bytes)) = outbox.next_run(4) {
            pieces.push(run[bytes].to_vec());
            if pieces.len() == 1 {
                outbox.push_control(text("ping"));
            }
            outbox.on_sent();
        }
        let expected: [&[u8]; 4] = [&[0, 1, 2, 3], &[4, 5, 6, 7], &[8, 9, b'p', b'i'], b"ng"];
        assert_eq!(pieces, expected, "what has begun to leave goes on before all else");
        assert!(outbox.is_empty());
    }

    #[test]
    fn control_frames_pass_by_what_has_not_begun_to_leave() {
        let mut outbox = Outbox::default();
        outbox.push(text("data"), 0);
        outbox.push_control(text("ping"));
        outbox.push_front(text("begun"), 2);
        outbox.push_control(text("pong"));
        assert_eq!(runs(&mut outbox), [b"gunpingpongdata"]);
    }

    #[test]
    fn the_bound_counts_all_that_waits() {
        let push = |outbox: &mut Outbox, len| outbox.push_bounded(frame(len), queue_key(0, 0, 0), 10, 0);
        assert_eq!(push(&mut Outbox::default(), 11), Ok(()), "whatever its size, the first may wait");
        let mut outbox = Outbox::default();
        assert_eq!(push(&mut outbox, 6), Ok(()));
        assert_eq!(push(&mut outbox, 5), Err(OutboxFull));
        assert_eq!(push(&mut outbox, 4), Ok(()));
        assert_eq!(outbox.bytes(), 10);
    }

    #[test]
    fn what_a_client_catches_up_on_does_not_count_until_it_has_left() {
        let push = |outbox: &mut Outbox, len| outbox.push_bounded(frame(len), queue_key(0, 0, 0), 10, 0);
        let mut outbox = Outbox::default();
        outbox.expect_catch_up(100);
        assert!(outbox.is_empty(), "a send need not queue for what is only expected");
        outbox.push(frame(100), 0);
        assert_eq!((outbox.bytes(), outbox.counted_bytes()), (100, 0));
        assert_eq!(
            (push(&mut outbox, 6), push(&mut outbox, 5), push(&mut outbox, 4)),
            (Ok(()), Err(OutboxFull), Ok(()))
        );
        assert_eq!(outbox.push_dropping(frame(10), queue_key(0, 0, 0), 10, 0, 0), 2, "of the pushes, not of the past");
        assert_eq!(outbox.push_replacing(frame(2), queue_key(0, 1, 0), 10, 0, 0), Err(OutboxFull));
        assert_eq!((outbox.next_run(usize::MAX).unwrap().0.len(), outbox.catch_up_bytes()), (110, 100));
        outbox.on_sent();
        assert_eq!((outbox.catch_up_bytes(), outbox.is_empty()), (0, true));
        push(&mut outbox, 6).unwrap();
        assert_eq!(push(&mut outbox, 5), Err(OutboxFull), "it counts again");
    }

    #[test]
    fn what_left_at_once_is_not_expected_any_more() {
        let mut outbox = Outbox::default();
        outbox.expect_catch_up(100);
        outbox.expect_catch_up(50);
        assert_eq!(outbox.catch_up_bytes(), 150);
        assert!(outbox.next_run(usize::MAX).is_none());
        assert_eq!(outbox.catch_up_bytes(), 0);
    }

    #[test]
    fn the_oldest_of_a_namespace_are_dropped() {
        let mut outbox = Outbox::default();
        outbox.push(text("reply"), 0);
        assert_eq!(outbox.push_dropping(text("a1"), queue_key(1, 0, 0), 11, 0, 1), 0);
        assert_eq!(outbox.push_dropping(text("b1"), queue_key(2, 0, 0), 11, 0, 2), 0);
        assert_eq!(outbox.push_dropping(text("a2"), queue_key(1, 0, 0), 11, 0, 3), 0);
        assert_eq!(outbox.push_dropping(text("a3"), queue_key(1, 0, 0), 11, 0, 4), 1);
        assert_eq!(outbox.bytes(), 11);
        assert_eq!(outbox.push_dropping(text("b2"), queue_key(2, 0, 0), 100, 3, 5), 1, "older than 3");
        assert_eq!(outbox.push_dropping(text("long"), queue_key(1, 0, 0), 1, 0, 6), 2, "it gets in whatever its size");
        assert_eq!(runs(&mut outbox), [b"replyb2long"]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_newest_of_a_topic_is_not_dropped_for_another() {
        let mut outbox = Outbox::default();
        let push =
            |outbox: &mut Outbox, bytes, topic| outbox.push_dropping(text(bytes), queue_key(1, topic, 0), 6, 0, 0);
        assert_eq!(push(&mut outbox, "q1", 1), 0);
        assert_eq!(push(&mut outbox, "q2", 1), 0);
        for bytes in ["b1", "b2", "b3", "b4"] {
            push(&mut outbox, bytes, 2);
        }
        assert_eq!(runs(&mut outbox), [b"q2b3b4"], "q2 tells that q1 is missing, and q is quiet from then on");
    }

    #[test]
    fn what_was_pushed_can_be_dropped_at_once() {
        let mut outbox = Outbox::default();
        outbox.push_bounded(text("a1"), queue_key(0, 1, 0), 10, 0).unwrap();
        outbox.push(text("reply"), 0);
        outbox.push_replacing(text("b1"), queue_key(0, 2, 0), 10, 0, 0).unwrap();
        outbox.push_control(text("ping"));
        outbox.drop_pushed();
        assert_eq!(outbox.bytes(), 9);
        assert_eq!(runs(&mut outbox), [b"pingreply"]);
        outbox.push_bounded(text("a2"), queue_key(0, 1, 0), 10, 0).unwrap();
        outbox.drop_pushed();
        assert!(outbox.is_empty());
        outbox.drop_pushed();
    }

    #[test]
    fn the_newest_of_each_thing_replaces_the_one_before() {
        let mut outbox = Outbox::default();
        outbox.push(text("reply"), 0);
        let push = |outbox: &mut Outbox, bytes, topic, key| {
            outbox.push_replacing(text(bytes), queue_key(0, topic, key), 12, 0, 0)
        };
        assert_eq!(push(&mut outbox, "a1", 1, 0), Ok(false));
        assert_eq!(push(&mut outbox, "b1", 2, 0), Ok(false));
        assert_eq!(push(&mut outbox, "k1", 2, 7), Ok(false));
        assert_eq!(push(&mut outbox, "a2", 1, 0), Ok(true));
        assert_eq!(push(&mut outbox, "c1", 3, 0), Err(OutboxFull));
        assert_eq!(push(&mut outbox, "k2", 2, 7), Ok(true));
        let (run, _) = outbox.next_run(usize::MAX).unwrap();
        assert_eq!(&*run, b"replya2b1k2");
        assert_eq!(push(&mut outbox, "a", 1, 0), Ok(false), "what is in flight can't be replaced");
        outbox.on_sent();
        for _ in 0..1000 {
            push(&mut outbox, "a", 1, 0).unwrap();
        }
        assert_eq!(outbox.bytes(), 1);
        assert_eq!(runs(&mut outbox), [b"a"]);
    }

    #[test]
    fn what_replaces_another_keeps_its_place_unless_its_topic_went_on() {
        let mut outbox = Outbox::default();
        let mut push =
            |bytes, topic, key| outbox.push_replacing(text(bytes), queue_key(0, topic, key), 100, 0, 0).unwrap();
        assert!(!push("a1", 1, 0) && !push("b1", 2, 0) && !push("c1", 3, 0));
        // It changes all the time, and its turn comes all the same.
        (0..9).for_each(|_| assert!(push("aX", 1, 0)));
        assert!(!push("b2", 2, 7));
        assert!(push("b3", 2, 0), "now it comes after b2");
        assert!(push("c2", 3, 0));
        outbox.push(text("reply"), 0);
        let mut push =
            |bytes, topic, key| outbox.push_replacing(text(bytes), queue_key(0, topic, key), 100, 0, 0).unwrap();
        assert!(push("b4", 2, 0), "the reply may be that it has subscribed");
        assert_eq!(runs(&mut outbox), [b"aXc2b2replyb4"]);
    }

    #[test]
    fn what_replaces_another_has_waited_as_long() {
        let mut outbox = Outbox::default();
        let push = |outbox: &mut Outbox, topic, since_ms, now_ms| {
            outbox.push_replacing(text("x"), queue_key(0, topic, 0), 100, since_ms, now_ms)
        };
        assert_eq!(push(&mut outbox, 1, 0, 10), Ok(false));
        assert_eq!(push(&mut outbox, 2, 0, 20), Ok(false));
        assert_eq!(push(&mut outbox, 2, 10, 30), Ok(true));
        assert_eq!(push(&mut outbox, 1, 10, 30), Ok(true));
        assert_eq!((outbox.first_ms(), outbox.oldest_ms()), (Some(10), Some(10)));
        assert_eq!(push(&mut outbox, 2, 11, 40), Err(OutboxFull), "nothing has left since 10");
    }
}
