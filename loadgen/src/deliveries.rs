//! Who has got which publication, and what was wrong.
//!
//! Every subscriber gets the same bytes, so checking a delivery is one comparison with the publication that this
//! subscriber waits for. Only when they differ the payload's stamp is read, to name the fault. Where a publication came
//! in a frame of its own, its bytes are kept: who gets exactly these in its place got the right message, and nobody
//! need decode them again. They may come in pieces; only if a later piece differs all are decoded after all.

use std::sync::Arc;
use std::time::Duration;

use crate::cli::Tolerance;
use crate::clients::Known;
use crate::faults::Faults;
use crate::feed::TOPIC_SHIFT;
use crate::payload::{self, Stamp};
use crate::recorder::{Recorder, Times};
use crate::topics::Topics;
use crate::window::{Settled, Window};

/// What was published, who got it, and what was wrong.
pub(crate) struct Deliveries {
    topics: Arc<Topics>,
    /// By number of the topic.
    audiences: Vec<TopicAudience>,
    /// By number of the client.
    subscribers: Vec<Subscriber>,
    /// On all topics.
    totals: Totals,
    /// Deliveries to each subscriber in the measured part.
    pub(crate) counts: Vec<u64>,
    pub(crate) recorder: Recorder,
    pub(crate) faults: Faults,
    /// With deliveries awaited and none coming for so long, they are given up.
    patience: Duration,
    /// When the last delivery or publication was made.
    last_progress_ns: u64,
}

/// Sums over topics.
#[derive(Default)]
struct Totals {
    /// Subscribers that are there.
    subscribers: u32,
    /// Publications that somebody waits for.
    under_way: usize,
    /// Deliveries of them that have not come.
    awaited: u64,
}

impl Totals {
    /// Changes one of the windows.
    fn change<T>(&mut self, window: &mut Window, change: impl FnOnce(&mut Window) -> T) -> T {
        let (under_way, awaited) = (window.len(), window.awaited());
        let result = change(window);
        self.under_way = self.under_way + window.len() - under_way;
        self.awaited = self.awaited + window.awaited() - awaited;
        result
    }
}

/// What is under way on a topic, and to how many.
struct TopicAudience {
    window: Window,
    subscribers: u32,
}

/// A client that may be there or not.
#[derive(Clone, Copy, Default)]
struct Subscriber {
    /// Position that it gets next; `None` while it is not there.
    next: Option<u64>,
    /// Publications with a lower sequence number were under way when it came: it may get them or not.
    joined: u64,
    /// Bytes that it has got of the known frame of what it gets next.
    begun: u32,
}

impl Deliveries {
    /// Nobody is there yet.
    pub(crate) fn new(
        topics: Arc<Topics>,
        subscribers: u32,
        one_publisher: bool,
        recorder: Recorder,
        tolerance: Tolerance,
    ) -> Deliveries {
        let sink = |_| TopicAudience { window: Window::new(one_publisher), subscribers: 0 };
        Deliveries {
            audiences: (0..topics.count()).map(sink).collect(),
            topics,
            subscribers: vec![Subscriber::default(); subscribers as usize],
            totals: Totals::default(),
            counts: vec![0; subscribers as usize],
            recorder,
            faults: Faults::new(tolerance.late),
            patience: tolerance.patience,
            last_progress_ns: 0,
        }
    }

    /// Forgets what the warm-up counted, but not its faults.
    pub(crate) fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.recorder.start_measuring();
    }

    /// Something has come; the time.
    pub(crate) fn woken(&mut self) -> u64 {
        let now_ns = self.recorder.now_ns();
        self.recorder.woken(now_ns);
        now_ns
    }

    /// How many subscribers are there.
    pub(crate) fn subscribers(&self) -> u32 {
        self.totals.subscribers
    }

    /// How many publications somebody waits for.
    pub(crate) fn under_way(&self) -> usize {
        self.totals.under_way
    }

    /// On how many subscribers messages are awaited, at least: some publication is awaited by as many as each is on
    /// average.
    pub(crate) fn awaited(&self) -> u64 {
        self.totals.awaited / self.totals.under_way.max(1) as u64
    }

    /// Sequence number, within `topic`, that its next publication gets.
    pub(crate) fn next_sequence(&self, topic: u32) -> u64 {
        self.audiences[topic as usize].window.next_sequence()
    }

    /// `subscriber` has subscribed: it must get all that is published from now on. Where several publish, the server
    /// gives the order, and nobody may join while something is under way.
    pub(crate) fn join(&mut self, subscriber: u32) {
        let sink = &mut self.audiences[self.topics.of(subscriber) as usize];
        sink.subscribers += 1;
        self.totals.subscribers += 1;
        let joined = sink.window.next_sequence();
        self.subscribers[subscriber as usize] = Subscriber { next: Some(joined), joined, begun: 0 };
    }

    /// `subscriber` has left because it wanted to, and misses nothing.
    pub(crate) fn leave(&mut self, subscriber: u32) {
        self.abandon(subscriber);
    }

    /// `payload` is about to be published on `topic`. With nobody there, nobody will get it.
    pub(crate) fn publish(&mut self, topic: u32, payload: &[u8], times: Times) {
        if self.totals.under_way == 0 {
            self.last_progress_ns = self.recorder.now_ns();
        }
        let subscribers = self.audiences[topic as usize].subscribers;
        if subscribers > 0 {
            self.change(topic, |window| window.push(payload, times, subscribers));
        }
    }

    /// A message came to `subscriber`, in this `frame` if it had one for itself.
    pub(crate) fn on_message(&mut self, subscriber: u32, payload: &[u8], frame: Option<&[u8]>, now_ns: u64) {
        let Some(next) = self.subscribers[subscriber as usize].next else { return };
        let topic = self.topics.of(subscriber);
        let window = &mut self.audiences[topic as usize].window;
        if window.matches(next, payload) {
            frame.into_iter().for_each(|frame| window.learn_frame(next, frame));
            self.deliver(subscriber, topic, next, now_ns);
        } else {
            self.on_unexpected(subscriber, topic, next, payload, now_ns);
        }
    }

    /// Takes from the front of what came to `subscriber`, which begins with a frame or goes on with one that was taken
    /// so far, those that are known to carry what it waits for.
    pub(crate) fn take_known(&mut self, subscriber: u32, bytes: &[u8], now_ns: u64) -> Known<'_> {
        let Deliveries { topics, audiences, subscribers, totals, counts, recorder, faults, .. } = self;
        let Subscriber { next: Some(next), begun, .. } = &mut subscribers[subscriber as usize] else {
            return Known::default();
        };
        let window = &mut audiences[topics.of(subscriber) as usize].window;
        let settled = totals.change(window, |window| {
            window.settle_frames(*next, *begun as usize, bytes, |times| {
                recorder.received(times, now_ns);
                faults.took(subscriber, now_ns.saturating_sub(times.actual_ns));
            })
        });
        let Settled { count, len, begun: begun_by_now } = settled;
        *next += count;
        counts[subscriber as usize] += count;
        if count > 0 {
            self.last_progress_ns = now_ns;
        }
        if len == bytes.len() {
            *begun = begun_by_now as u32;
            return Known { len, taken_back: &[] };
        }
        *begun = 0;
        let taken_back = if begun_by_now > 0 { window.frame_front(*next, begun_by_now) } else { &[] };
        Known { len, taken_back }
    }

    fn deliver(&mut self, subscriber: u32, topic: u32, position: u64, now_ns: u64) {
        let times = self.change(topic, |window| window.settle(position));
        self.recorder.received(times, now_ns);
        self.faults.took(subscriber, now_ns.saturating_sub(times.actual_ns));
        self.counts[subscriber as usize] += 1;
        self.subscribers[subscriber as usize].next = Some(position + 1);
        self.last_progress_ns = now_ns;
    }

    /// A message that had been taken for missing has come after all. Only its intended time is still known.
    fn deliver_behind(&mut self, subscriber: u32, times: Times, now_ns: u64) {
        self.recorder.received(times, now_ns);
        self.faults.took(subscriber, now_ns.saturating_sub(times.intended_ns));
        self.counts[subscriber as usize] += 1;
        self.last_progress_ns = now_ns;
    }

    /// Names what came instead of what is at position `next`.
    fn on_unexpected(&mut self, subscriber: u32, topic: u32, next: u64, payload: &[u8], now_ns: u64) {
        let found = self.audiences[topic as usize].window.find(payload);
        match (self.read_stamp(topic, payload), found) {
            (_, Some(position)) if position >= next => {
                for skipped in next..position {
                    let sequence = self.audiences[topic as usize].window.sequence_at(skipped);
                    self.faults.skip(subscriber, sequence);
                    self.change(topic, |window| window.settle(skipped));
                }
                self.deliver(subscriber, topic, position, now_ns);
            }
            (Some(Stamp { sequence, .. }), _) if sequence < self.subscribers[subscriber as usize].joined => {}
            (Some(Stamp { sequence, time_ns }), _) => {
                if self.faults.behind(subscriber, sequence) {
                    self.deliver_behind(subscriber, Times::now(time_ns), now_ns);
                }
            }
            (None, _) => {
                self.faults.corrupt(subscriber, payload);
                // If nothing is awaited, it came out of nowhere.
                if self.change(topic, |window| window.settle_unknown(next)) {
                    self.subscribers[subscriber as usize].next = Some(next + 1);
                }
            }
        }
    }

    /// The stamp of a message that was published on `topic`, numbered within it.
    fn read_stamp(&self, topic: u32, payload: &[u8]) -> Option<Stamp> {
        let stamp = payload::read(payload)?;
        let sequence = stamp.sequence.checked_sub(u64::from(topic) << TOPIC_SHIFT)?;
        (sequence < self.next_sequence(topic)).then_some(Stamp { sequence, ..stamp })
    }

    pub(crate) fn on_closed(&mut self, subscriber: u32, reason: &str) {
        self.faults.closed(subscriber, reason);
        self.dismiss(subscriber);
    }

    /// `subscriber` was told to go: what it has not got by now it has lost.
    pub(crate) fn dismiss(&mut self, subscriber: u32) {
        let missing = self.abandon(subscriber);
        if missing > 0 {
            self.faults.given_up(subscriber, missing);
        }
    }

    /// A turn of the loop is over.
    pub(crate) fn turn_over(&mut self) {
        self.recorder.turn_over(self.subscribers().into(), self.faults.sum());
    }

    /// Whether nothing is awaited any more, nor may come behind later messages.
    pub(crate) fn is_close_received(&mut self) -> bool {
        if self.faults.awaits_skipped() && self.is_idle_for_long() {
            self.faults.give_up_skipped();
        }
        self.totals.under_way == 0 && !self.faults.awaits_skipped()
    }

    /// Whether deliveries are awaited and none has come for a long time.
    pub(crate) fn is_stalled(&self) -> bool {
        self.totals.under_way > 0 && self.is_idle_for_long()
    }

    fn is_idle_for_long(&self) -> bool {
        let idle_ns = self.recorder.now_ns().saturating_sub(self.last_progress_ns);
        Duration::from_nanos(idle_ns) > self.patience
    }

    /// Counts all that is awaited as missing. If it was awaited for too long, those who wait are stalled.
    pub(crate) fn give_up(&mut self) {
        let count = if self.is_stalled() { Faults::stalled } else { Faults::given_up };
        for subscriber in 0..self.subscribers.len() as u32 {
            let missing = self.abandon(subscriber);
            if missing > 0 {
                count(&mut self.faults, subscriber, missing);
            }
        }
    }

    /// Waits no more for what `subscriber` has not got; how much that is.
    fn abandon(&mut self, subscriber: u32) -> u64 {
        let Some(next) = self.subscribers[subscriber as usize].next.take() else { return 0 };
        let topic = self.topics.of(subscriber);
        self.audiences[topic as usize].subscribers -= 1;
        self.totals.subscribers -= 1;
        self.change(topic, |window| window.abandon(next))
    }

    /// Changes the window of `topic`.
    fn change<T>(&mut self, topic: u32, change: impl FnOnce(&mut Window) -> T) -> T {
        self.totals.change(&mut self.audiences[topic as usize].window, change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Counts;
    use crate::timeline::Timeline;

    /// Messages that take more than 500 ns are late.
    const TOLERANCE: Tolerance = Tolerance { late: Duration::from_nanos(500), patience: Duration::from_secs(5) };

    fn deliveries(tolerance: Tolerance) -> Deliveries {
        let timeline = Arc::new(Timeline::start(Duration::from_secs(1)));
        let topics = Arc::new(Topics::one("t", 3));
        let mut deliveries = Deliveries::new(topics, 3, true, Recorder::new(timeline), tolerance);
        (0..2).for_each(|subscriber| deliveries.join(subscriber));
        deliveries
    }

    fn message(sequence: u64) -> Vec<u8> {
        let mut payload = vec![0; 64];
        payload::write(&mut payload, Stamp { sequence, time_ns: sequence * 10 });
        payload
    }

    /// Two subscribers, `published` publications under way; subscriber 0 gets `received`.
    fn receive(published: u64, received: &[Vec<u8>]) -> Deliveries {
        let mut deliveries = deliveries(TOLERANCE);
        (0..published).for_each(|sequence| deliveries.publish(0, &message(sequence), Times::now(sequence * 10)));
        received.iter().for_each(|payload| deliveries.on_message(0, payload, None, 500));
        deliveries
    }

    #[test]
    fn in_order_and_once_is_right() {
        let mut deliveries = receive(3, &[message(0), message(1), message(2)]);
        assert_eq!((deliveries.under_way(), deliveries.counts[0]), (3, 3));
        (0..3).for_each(|sequence| deliveries.on_message(1, &message(sequence), None, 500));
        assert!(deliveries.under_way() == 0 && deliveries.faults.sum() == 0);
    }

    #[test]
    fn each_fault_gets_its_name() {
        let mut corrupt = message(0);
        corrupt[50] ^= 1;
        // name, received of three published; missing, duplicate, reordered, corrupt
        let table = [
            ("gap", vec![message(0), message(2)], [1, 0, 0, 0]),
            ("again", vec![message(0), message(0), message(1)], [0, 1, 0, 0]),
            ("swapped", vec![message(1), message(0), message(2)], [0, 0, 1, 0]),
            ("changed", vec![corrupt, message(1)], [0, 0, 0, 1]),
            ("not published yet", vec![message(0), message(3)], [0, 0, 0, 1]),
            ("cut", vec![message(0)[..20].to_vec(), message(1)], [0, 0, 0, 1]),
        ];
        for (name, received, expected) in table {
            let Counts { missing, duplicate, reordered, corrupt, late, .. } = receive(3, &received).faults.counts();
            assert_eq!(([missing, duplicate, reordered, corrupt], late), (expected, 0), "{name}");
        }
    }

    #[test]
    fn frames_that_one_has_got_are_known_to_the_others_in_their_place() {
        let mut deliveries = receive(4, &[]);
        let frame = |sequence| [b"<", &message(sequence)[..], b">"].concat();
        let known = |deliveries: &mut Deliveries, subscriber, bytes: &[u8]| {
            let Known { len, taken_back } = deliveries.take_known(subscriber, bytes, 500);
            (len, String::from_utf8_lossy(taken_back).into_owned())
        };
        let nothing = (0, String::new());
        assert_eq!(known(&mut deliveries, 0, &frame(0)), nothing, "nobody has got it");
        (0..2).for_each(|sequence| deliveries.on_message(0, &message(sequence), Some(&frame(sequence)), 500));
        deliveries.on_message(0, &message(2), None, 500);
        assert_eq!(known(&mut deliveries, 1, &frame(1)), nothing, "it is not what comes next");
        let both = [frame(0), frame(1)].concat();
        let three = [&both[..], &frame(2)].concat();
        assert_eq!(known(&mut deliveries, 1, &three), (both.len(), String::new()), "the third is unknown");
        assert_eq!((deliveries.counts[1], deliveries.faults.sum()), (2, 0));
        deliveries.on_closed(1, "reset");
        assert_eq!(known(&mut deliveries, 1, &frame(3)), nothing, "it is not there any more");
    }

    #[test]
    fn a_known_frame_may_come_in_pieces_and_all_of_it_is_given_back_if_it_goes_on_otherwise() {
        let frames = [[b"<", &message(0)[..], b">"].concat(), [b"<", &message(1)[..], b">"].concat()];
        let stream = frames.concat();
        for cut in 0..stream.len() {
            for changed in [None, Some(cut)] {
                let mut deliveries = receive(2, &[]);
                for (sequence, frame) in (0..).zip(&frames) {
                    deliveries.on_message(0, &message(sequence), Some(frame), 500);
                }
                let mut came = stream.clone();
                changed.into_iter().for_each(|index| came[index] ^= 1);
                let (front, back) = came.split_at(cut);
                assert_eq!(deliveries.take_known(1, front, 500), Known { len: cut, taken_back: &[] }, "{cut}");
                let known = deliveries.take_known(1, back, 500);
                let whole = cut / frames[0].len() * frames[0].len();
                let expected = match changed {
                    None => Known { len: back.len(), taken_back: &[] },
                    Some(_) => Known { len: 0, taken_back: &stream[whole..cut] },
                };
                assert_eq!(known, expected, "{cut}");
                let count = if changed.is_some() { cut / frames[0].len() } else { 2 };
                assert_eq!((deliveries.counts[1], deliveries.faults.sum()), (count as u64, 0), "{cut}");
            }
        }
    }

    #[test]
    fn a_changed_byte_makes_a_frame_unknown() {
        let mut deliveries = receive(1, &[]);
        deliveries.on_message(0, &message(0), Some(&message(0)), 500);
        for index in 0..64 {
            let mut changed = message(0);
            changed[index] ^= 1;
            assert_eq!(deliveries.take_known(1, &changed, 500), Known::default());
        }
        assert_eq!(deliveries.take_known(1, &message(0), 500), Known { len: 64, taken_back: &[] });
    }

    #[test]
    fn what_is_awaited_is_told_for_one_publication() {
        let mut deliveries = receive(2, &[]);
        assert_eq!(deliveries.awaited(), 2);
        (0..2).for_each(|sequence| deliveries.on_message(0, &message(sequence), None, 500));
        assert_eq!(deliveries.awaited(), 1);
        deliveries.give_up();
        assert_eq!(deliveries.awaited(), 0);
    }

    #[test]
    fn what_a_closed_subscriber_has_not_got_is_missing_and_nobody_waits_for_it() {
        let mut deliveries = receive(3, &[message(0)]);
        deliveries.on_closed(0, "reset");
        assert_eq!(
            (deliveries.faults.counts().text(), deliveries.subscribers()),
            ("2 missing, 1 closed".to_owned(), 1)
        );
        (0..3).for_each(|sequence| deliveries.on_message(1, &message(sequence), None, 500));
        assert_eq!(deliveries.under_way(), 0);
        deliveries.publish(0, &message(3), Times::now(30));
        deliveries.on_message(1, &message(3), None, 500);
        assert_eq!(deliveries.under_way(), 0);
    }

    #[test]
    fn giving_up_empties_the_window() {
        let mut deliveries = receive(2, &[message(0)]);
        deliveries.give_up();
        assert_eq!(deliveries.under_way(), 0);
        assert_eq!(deliveries.faults.counts().text(), "3 missing");
    }

    #[test]
    fn whoever_waits_for_longer_than_our_patience_is_stalled() {
        let mut deliveries = deliveries(Tolerance { patience: Duration::ZERO, ..TOLERANCE });
        assert!(!deliveries.is_stalled(), "nothing is awaited");
        deliveries.publish(0, &message(0), Times::now(0));
        deliveries.on_message(0, &message(0), None, 500);
        while !deliveries.is_stalled() {}
        deliveries.give_up();
        assert_eq!(deliveries.faults.counts().text(), "1 missing, 1 stalled");
    }

    #[test]
    fn late_is_what_took_too_long_after_it_was_sent_in_order_or_behind() {
        let mut deliveries = receive(2, &[]);
        deliveries.on_message(0, &message(1), None, 510);
        deliveries.on_message(0, &message(0), None, 510);
        deliveries.publish(0, &message(2), Times { intended_ns: 20, actual_ns: 400 });
        deliveries.on_message(0, &message(2), None, 900);
        deliveries.turn_over();
        assert_eq!(deliveries.faults.counts().text(), "1 reordered, 1 late");
        assert_eq!((deliveries.counts[0], deliveries.recorder.recorded.corrected.count()), (3, 3));
    }

    #[test]
    fn who_joins_must_get_what_is_published_after_and_may_get_what_was_under_way() {
        for early in [vec![], vec![message(1)]] {
            let mut deliveries = receive(2, &[message(0), message(1)]);
            deliveries.join(2);
            deliveries.publish(0, &message(2), Times::now(20));
            early.iter().for_each(|payload| deliveries.on_message(2, payload, None, 500));
            deliveries.on_message(2, &message(2), None, 500);
            assert_eq!((deliveries.counts[2], deliveries.faults.sum()), (1, 0));
            deliveries.publish(0, &message(3), Times::now(30));
            deliveries.publish(0, &message(4), Times::now(40));
            deliveries.on_message(2, &message(4), None, 500);
            assert_eq!(deliveries.faults.counts().text(), "1 missing");
        }
    }

    #[test]
    fn who_leaves_misses_nothing_and_may_come_back() {
        let mut deliveries = receive(3, &[message(0)]);
        deliveries.leave(0);
        assert_eq!((deliveries.subscribers(), deliveries.faults.sum()), (1, 0));
        deliveries.on_message(0, &message(1), None, 500);
        deliveries.join(0);
        deliveries.publish(0, &message(3), Times::now(30));
        deliveries.on_message(0, &message(3), None, 500);
        (0..4).for_each(|sequence| deliveries.on_message(1, &message(sequence), None, 500));
        assert_eq!((deliveries.under_way(), deliveries.faults.sum(), deliveries.counts[0]), (0, 0, 2));
    }

    #[test]
    fn a_message_of_another_topic_is_not_as_sent() {
        let timeline = Arc::new(Timeline::start(Duration::from_secs(1)));
        let topics = Arc::new(Topics::several("t", 2, 2, 0.0));
        let on_second = topics.of(1) == 1;
        let mut deliveries = Deliveries::new(topics, 2, true, Recorder::new(timeline), TOLERANCE);
        (0..2).for_each(|subscriber| deliveries.join(subscriber));
        let mut second = vec![0; 64];
        payload::write(&mut second, Stamp { sequence: 1 << TOPIC_SHIFT, time_ns: 0 });
        deliveries.publish(0, &message(0), Times::now(0));
        deliveries.publish(1, &second, Times::now(0));
        let (of_first, of_second) = if on_second { (0, 1) } else { (1, 0) };
        deliveries.on_message(of_first, &message(0), None, 500);
        deliveries.on_message(of_second, &message(0), None, 500);
        assert_eq!((deliveries.faults.counts().text(), deliveries.under_way()), ("1 corrupt".to_owned(), 0));
    }
}
