//! Tracks which subscriber has received which publication, and the faults.
//!
//! All subscribers of a topic receive the same bytes, so checking a delivery is one comparison with the publication
//! that the subscriber expects next. If it has several topics, the front of the stamp tells which. Only on a difference
//! is the whole stamp read, to name the fault. If a publication arrived in a frame of its own, the bytes of the frame
//! are kept: a subscriber that receives the same bytes in the same position has the right message, without decoding.
//! The bytes may arrive in pieces; if a later piece differs, all pieces are decoded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ringfeed::proto::{Message, MessageKind};

use crate::check::board::{Group, Notice, Posting, Share};
use crate::check::faults::{Faults, Label};
use crate::check::payload::{self, Stamp};
use crate::check::topics::Topics;
use crate::check::window::{Settled, Window};
use crate::cli::Tolerance;
use crate::report::recorder::{Recorder, Times};
use crate::scenario::feed::TOPIC_SHIFT;
use crate::wire::clients::Known;

/// Interval of checks for stalled subscribers, as a share of the timeout.
const LOOKS_PER_PATIENCE: u32 = 10;

/// The publications, their deliveries and the faults.
pub(crate) struct Deliveries {
    /// What all workers share.
    share: Share,
    /// The kind of messages that carry payloads.
    kind: MessageKind,
    topics: Arc<Topics>,
    /// By topic number.
    audiences: Vec<TopicAudience>,
    /// By client number.
    subscribers: Vec<Subscriber>,
    /// By seat.
    subscriptions: Vec<Subscription>,
    /// The topic with a latency record of its own.
    watched: Option<u32>,
    /// Where the payload begins in a frame, as far as known. Only a hint: frames are compared as a whole.
    payload_at: Option<usize>,
    /// Over all topics.
    totals: Totals,
    /// Deliveries to each subscriber in the measured part.
    pub(crate) counts: Vec<u64>,
    pub(crate) recorder: Recorder,
    pub(crate) faults: Faults,
    /// A subscriber that receives nothing for this long no longer expects the messages due by then.
    patience: Duration,
    next_look_ns: u64,
    /// Time of the last delivery, publication or acknowledgement.
    last_progress_ns: u64,
    /// The front of a frame that a subscriber received before it gave up the publication, by subscriber.
    fronts: HashMap<u32, Vec<u8>>,
    /// The front passed to the decoder last.
    front: Vec<u8>,
}

/// Sums over all topics.
#[derive(Default)]
struct Totals {
    /// Number of joined subscribers.
    subscribers: u32,
    /// Publications with outstanding deliveries.
    under_way: usize,
    /// Outstanding deliveries.
    awaited: u64,
}

impl Totals {
    /// Changes one window and updates the sums.
    fn change<T>(&mut self, window: &mut Window, change: impl FnOnce(&mut Window) -> T) -> T {
        let (under_way, awaited) = (window.len(), window.awaited());
        let result = change(window);
        self.under_way = self.under_way + window.len() - under_way;
        self.awaited = self.awaited + window.awaited() - awaited;
        result
    }
}

/// The outstanding publications of a topic, and the number of its subscribers.
struct TopicAudience {
    window: Window,
    subscribers: u32,
}

/// A client that may have joined or not.
#[derive(Clone, Copy, Default)]
struct Subscriber {
    has_joined: bool,
    /// It has received nothing since it counted as stalled.
    is_stalled: bool,
    /// Time of its last message, in milliseconds.
    heard_ms: u32,
    /// Bytes received so far of a known frame.
    begun: u32,
    /// The seat of that frame's topic.
    begun_seat: u32,
}

/// The progress of a subscriber in one of its topics.
#[derive(Clone, Copy, Default)]
struct Subscription {
    /// The position that it receives next.
    next: u64,
    /// Publications with a lower number were in flight when it joined: it may receive them or not.
    joined: u64,
}

impl Deliveries {
    /// Creates the state without joined subscribers. Payloads arrive in messages of this kind.
    pub(crate) fn new(
        share: Share,
        kind: MessageKind,
        topics: Arc<Topics>,
        subscribers: u32,
        one_publisher: bool,
        recorder: Recorder,
        tolerance: Tolerance,
    ) -> Deliveries {
        let sink = |_| TopicAudience { window: Window::new(one_publisher), subscribers: 0 };
        Deliveries {
            share,
            kind,
            audiences: (0..topics.count()).map(sink).collect(),
            subscribers: vec![Subscriber::default(); subscribers as usize],
            subscriptions: vec![Subscription::default(); topics.seats_of_first(subscribers)],
            topics,
            watched: None,
            payload_at: None,
            totals: Totals::default(),
            counts: vec![0; subscribers as usize],
            recorder,
            faults: Faults::new(tolerance.late),
            patience: tolerance.patience,
            next_look_ns: 0,
            last_progress_ns: 0,
            fronts: HashMap::new(),
            front: Vec::new(),
        }
    }

    /// Records the latency of `topic`, which has one publisher, apart from the others.
    pub(crate) fn watch(&mut self, topic: u32) {
        self.watched = Some(topic);
        self.audiences[topic as usize].window = Window::new(true);
    }

    /// The server gives the messages of `topic` their order, since it has several publishers.
    pub(crate) fn follow_order_of_server(&mut self, topic: u32) {
        self.audiences[topic as usize].window = Window::new(false);
    }

    /// Resets the counts of the warm-up, but not its faults.
    pub(crate) fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.recorder.start_measuring();
    }

    /// Data has arrived. Returns the time.
    pub(crate) fn woken(&mut self) -> u64 {
        self.read_mail();
        let now_ns = self.recorder.now_ns();
        self.recorder.woken(now_ns);
        now_ns
    }

    /// Takes over what the publishing worker has done.
    fn read_mail(&mut self) {
        for notice in self.share.board.take_mail(self.share.worker) {
            match notice {
                Notice::Published(posting) => self.expect(posting),
                Notice::Refused(topic, number) => self.excuse(topic, number),
            }
        }
    }

    /// Number of joined subscribers of all workers.
    pub(crate) fn subscribers(&self) -> u32 {
        self.share.board.subscribers()
    }

    /// Whether the run can't go on.
    pub(crate) fn has_ended(&self) -> bool {
        self.share.board.has_ended()
    }

    /// Number of publications with outstanding deliveries at any worker, without those of the watched topic.
    pub(crate) fn under_way(&self) -> usize {
        self.share.board.under_way(Group::InRotation)
    }

    /// A lower bound for the number of subscribers that expect messages: the average number of outstanding deliveries
    /// per publication.
    pub(crate) fn awaited(&self) -> u64 {
        self.totals.awaited / self.totals.under_way.max(1) as u64
    }

    /// The sequence number of the next publication on `topic`.
    pub(crate) fn next_sequence(&self, topic: u32) -> u64 {
        self.audiences[topic as usize].window.next_sequence()
    }

    /// `subscriber` has subscribed and must receive all later publications. With several publishers the server
    /// determines the order, so no subscriber may join while publications are in flight.
    pub(crate) fn join(&mut self, subscriber: u32) {
        for seat in self.topics.seats(subscriber) {
            let sink = &mut self.audiences[self.topics.topic_at(seat) as usize];
            sink.subscribers += 1;
            let joined = sink.window.next_sequence();
            self.subscriptions[seat] = Subscription { next: joined, joined };
        }
        self.count_subscribers(self.totals.subscribers + 1);
        let heard_ms = milliseconds(self.recorder.now_ns());
        self.subscribers[subscriber as usize] = Subscriber { has_joined: true, heard_ms, ..Subscriber::default() };
    }

    /// `subscriber` has left on its own: its outstanding messages are not faults.
    pub(crate) fn leave(&mut self, subscriber: u32) {
        self.abandon(subscriber);
    }

    fn count_subscribers(&mut self, count: u32) {
        self.totals.subscribers = count;
        self.share.board.set_subscribers(self.share.worker, count);
    }

    /// Records that `payload` is about to be published as the next message of `topic`, at this worker and all others.
    /// Without subscribers no delivery is expected.
    pub(crate) fn publish(&mut self, topic: u32, payload: &[u8], times: Times) {
        self.last_progress_ns = self.last_progress_ns.max(times.actual_ns);
        let group = if self.watched == Some(topic) { Group::Watched } else { Group::InRotation };
        let posting = self.share.board.publish((topic, self.next_sequence(topic)), payload, times, group);
        self.expect(posting);
    }

    fn expect(&mut self, posting: Posting) {
        let (topic, subscribers) = (posting.topic, self.audiences[posting.topic as usize].subscribers);
        self.change(topic, |window| window.push(posting, subscribers));
    }

    /// The server refused message `number` of `topic`, for this `reason`. Subscribers need not receive it.
    pub(crate) fn on_refused(&mut self, topic: u32, number: u64, reason: &str) {
        self.faults.refused(reason);
        self.share.board.refuse(topic, number);
        self.excuse(topic, number);
        self.last_progress_ns = self.recorder.now_ns();
    }

    /// No subscriber has to receive message `number` of `topic`.
    fn excuse(&mut self, topic: u32, number: u64) {
        self.faults.excuse(label(&self.topics, topic, number).sequence);
        self.change(topic, |window| window.refuse(number));
    }

    /// The server acknowledged a publication at `now_ns`, after `latency_ns`.
    pub(crate) fn on_acknowledged(&mut self, latency_ns: u64, now_ns: u64) {
        self.recorder.acknowledged(latency_ns);
        self.last_progress_ns = now_ns;
    }

    /// Time of the last delivery, publication or acknowledgement, of all workers.
    pub(crate) fn last_progress_ns(&self) -> u64 {
        self.last_progress_ns.max(self.share.board.last_progress_ns())
    }

    /// The same, of this worker.
    pub(crate) fn own_progress_ns(&self) -> u64 {
        self.last_progress_ns
    }

    /// `subscriber` received a message, with its `frame` if the message had a frame to itself.
    pub(crate) fn on_message(&mut self, subscriber: u32, message: Message<'_>, frame: Option<&[u8]>, now_ns: u64) {
        let payload = message.payload;
        if !self.subscribers[subscriber as usize].has_joined {
            return;
        }
        if message.kind != self.kind {
            return self.on_wrong_kind(subscriber, message);
        }
        let Some(seat) = seat_of(&self.topics, subscriber, payload) else {
            return self.on_stray(subscriber, payload);
        };
        let (topic, next) = (self.topics.topic_at(seat), self.subscriptions[seat].next);
        let window = &mut self.audiences[topic as usize].window;
        if window.matches(next, payload) {
            if let Some(frame) = frame {
                window.learn_frame(next, frame);
                self.payload_at = self.payload_at.or_else(|| position_in(frame, payload));
            }
            self.deliver(subscriber, seat, next, now_ns);
        } else {
            self.on_unexpected(subscriber, seat, payload, now_ns);
        }
    }

    /// Takes the frames that are known to carry the next publications from the front of `bytes`. `bytes` begin with a
    /// frame, or continue one that the last call took in part.
    pub(crate) fn take_known(&mut self, subscriber: u32, bytes: &[u8], now_ns: u64) -> Known<'_> {
        let state = self.subscribers[subscriber as usize];
        if !state.has_joined {
            return Known::default();
        }
        if let Some(front) = self.take_front(subscriber) {
            self.front = front;
            return Known { len: 0, taken_back: &self.front };
        }
        let (mut len, mut begun, mut seat) = (0, state.begun as usize, state.begun_seat as usize);
        self.subscribers[subscriber as usize].begun = 0;
        loop {
            if begun == 0 {
                match self.next_seat(subscriber, &bytes[len..]) {
                    Some(next) => seat = next,
                    None => return Known { len, taken_back: &[] },
                }
            }
            let settled = self.settle_frames(subscriber, seat, begun, &bytes[len..], now_ns);
            len += settled.len;
            if len == bytes.len() {
                let state = &mut self.subscribers[subscriber as usize];
                (state.begun, state.begun_seat) = (settled.begun as u32, seat as u32);
                return Known { len, taken_back: &[] };
            }
            if settled.begun > 0 {
                let (topic, next) = (self.topics.topic_at(seat), self.subscriptions[seat].next);
                let taken_back = self.audiences[topic as usize].window.frame_front(next, settled.begun);
                return Known { len, taken_back };
            }
            if settled.count == 0 {
                return Known { len, taken_back: &[] };
            }
            begun = 0;
        }
    }

    /// The seat of the topic that the frame at the front of `bytes` belongs to, as far as is known without decoding.
    fn next_seat(&self, subscriber: u32, bytes: &[u8]) -> Option<usize> {
        match self.topics.seats(subscriber) {
            seats if seats.len() == 1 => Some(seats.start),
            _ => seat_of(&self.topics, subscriber, bytes.get(self.payload_at?..)?),
        }
    }

    /// Settles the known frames of one topic at the front of `bytes`.
    fn settle_frames(&mut self, subscriber: u32, seat: usize, begun: usize, bytes: &[u8], now_ns: u64) -> Settled {
        let Deliveries {
            share,
            topics,
            audiences,
            subscribers,
            subscriptions,
            totals,
            counts,
            recorder,
            faults,
            watched,
            ..
        } = self;
        let number = share.first + subscriber;
        let (topic, next) = (topics.topic_at(seat), &mut subscriptions[seat].next);
        let receive = receiver(*watched == Some(topic));
        let window = &mut audiences[topic as usize].window;
        let settled = totals.change(window, |window| {
            window.settle_frames(*next, begun, bytes, |times| {
                receive(recorder, times, now_ns);
                faults.took(number, now_ns.saturating_sub(times.actual_ns));
            })
        });
        *next += settled.count;
        counts[subscriber as usize] += settled.count;
        if settled.count > 0 {
            subscribers[subscriber as usize].hear(now_ns);
            self.last_progress_ns = now_ns;
        }
        settled
    }

    fn deliver(&mut self, subscriber: u32, seat: usize, position: u64, now_ns: u64) {
        let topic = self.topics.topic_at(seat);
        let times = self.change(topic, |window| window.settle(position));
        self.subscriptions[seat].next = position + 1;
        self.faults.took(self.number(subscriber), now_ns.saturating_sub(times.actual_ns));
        self.count(subscriber, topic, times, now_ns);
    }

    /// A message counted as missing has arrived. Only its scheduled time is still known.
    fn deliver_behind(&mut self, subscriber: u32, topic: u32, times: Times, now_ns: u64) {
        self.faults.took(self.number(subscriber), now_ns.saturating_sub(times.intended_ns));
        self.count(subscriber, topic, times, now_ns);
    }

    fn count(&mut self, subscriber: u32, topic: u32, times: Times, now_ns: u64) {
        receiver(self.watched == Some(topic))(&mut self.recorder, times, now_ns);
        self.counts[subscriber as usize] += 1;
        self.subscribers[subscriber as usize].hear(now_ns);
        self.last_progress_ns = now_ns;
    }

    /// Names the fault: `payload` arrived instead of the next publication of this topic.
    fn on_unexpected(&mut self, subscriber: u32, seat: usize, payload: &[u8], now_ns: u64) {
        let topic = self.topics.topic_at(seat);
        let Subscription { next, joined } = self.subscriptions[seat];
        let found = self.audiences[topic as usize].window.find(payload);
        match (self.read_stamp(payload), found) {
            (_, Some(position)) if position >= next => {
                for skipped in next..position {
                    let window = &self.audiences[topic as usize].window;
                    if !window.is_refused(skipped) {
                        let number = window.sequence_at(skipped);
                        self.faults.skip(self.number(subscriber), label(&self.topics, topic, number));
                        self.share.board.expect_skipped(self.share.worker, true);
                    }
                    self.change(topic, |window| window.settle(skipped));
                }
                self.deliver(subscriber, seat, position, now_ns);
            }
            (Some((stamped, _)), _) if stamped != topic => self.on_stray(subscriber, payload),
            (Some((_, Stamp { sequence, .. })), _) if sequence < joined => {}
            (Some((_, Stamp { sequence, time_ns, .. })), _) => {
                if self.faults.behind(self.number(subscriber), label(&self.topics, topic, sequence)) {
                    self.deliver_behind(subscriber, topic, Times::now(time_ns), now_ns);
                }
            }
            (None, _) if self.is_of_another_run(payload) => self.faults.of_another_run(self.number(subscriber)),
            (None, _) => {
                self.faults.corrupt(self.number(subscriber), payload);
                self.replace_next(subscriber, seat);
            }
        }
    }

    /// Names the fault: `payload` belongs to no topic of `subscriber`.
    fn on_stray(&mut self, subscriber: u32, payload: &[u8]) {
        match self.read_stamp(payload) {
            Some((topic, Stamp { sequence, .. })) => {
                self.faults.misrouted(self.number(subscriber), label(&self.topics, topic, sequence));
            }
            None if self.is_of_another_run(payload) => self.faults.of_another_run(self.number(subscriber)),
            None => self.faults.corrupt(self.number(subscriber), payload),
        }
    }

    /// A text message came as binary, or the other way round. If it is otherwise the next one, it replaces it.
    fn on_wrong_kind(&mut self, subscriber: u32, message: Message<'_>) {
        self.faults.wrong_kind(self.number(subscriber), message.kind == MessageKind::Binary);
        if let Some(seat) = seat_of(&self.topics, subscriber, message.payload) {
            self.replace_next(subscriber, seat);
        }
    }

    /// Something else arrived instead of the next publication, if one is expected. Otherwise it belongs to none.
    fn replace_next(&mut self, subscriber: u32, seat: usize) {
        let (topic, next) = (self.topics.topic_at(seat), self.subscriptions[seat].next);
        if let Some(number) = self.change(topic, |window| window.settle_unknown(next)) {
            self.subscriptions[seat].next = next + 1;
            self.faults.replace(self.number(subscriber), label(&self.topics, topic, number).sequence);
        }
    }

    /// The number of `subscriber` in the run, which faults name.
    fn number(&self, subscriber: u32) -> u32 {
        self.share.first + subscriber
    }

    fn is_of_another_run(&self, payload: &[u8]) -> bool {
        payload::read(payload).is_some_and(|stamp| stamp.run != self.share.board.run)
    }

    /// The topic of a message that was published in this run, and its stamp, with its number within the topic.
    fn read_stamp(&self, payload: &[u8]) -> Option<(u32, Stamp)> {
        let stamp = payload::read(payload).filter(|stamp| stamp.run == self.share.board.run)?;
        let topic = u32::try_from(stamp.sequence >> TOPIC_SHIFT).ok()?;
        let sequence = stamp.sequence - (u64::from(topic) << TOPIC_SHIFT);
        let window = &self.audiences.get(topic as usize)?.window;
        (sequence < window.next_sequence()).then_some((topic, Stamp { sequence, ..stamp }))
    }

    pub(crate) fn on_closed(&mut self, subscriber: u32, reason: &str) {
        self.faults.closed(self.number(subscriber), reason);
        self.dismiss(subscriber);
    }

    /// `subscriber` was closed by the server: its outstanding messages are missing.
    pub(crate) fn dismiss(&mut self, subscriber: u32) {
        let missing = self.abandon(subscriber);
        if missing > 0 {
            self.faults.given_up(self.number(subscriber), missing);
        }
    }

    /// Ends a turn of the loop.
    pub(crate) fn turn_over(&mut self) {
        self.read_mail();
        self.give_up_stalled();
        if self.faults.expects_skipped() && self.is_idle_for_long() {
            self.faults.give_up_skipped();
        }
        self.share.board.expect_skipped(self.share.worker, self.faults.expects_skipped());
        self.share.board.set_progress(self.share.worker, self.last_progress_ns);
        self.recorder.turn_over(self.totals.subscribers.into(), self.faults.counts());
    }

    /// Whether no deliveries are outstanding and no skipped message may still arrive, at any worker.
    pub(crate) fn is_close_received(&self) -> bool {
        let board = &self.share.board;
        board.under_way(Group::InRotation) + board.under_way(Group::Watched) == 0 && !board.expects_skipped()
    }

    /// Whether nothing was published, received or acknowledged within the timeout.
    pub(crate) fn is_idle_for_long(&self) -> bool {
        let idle_ns = self.recorder.now_ns().saturating_sub(self.last_progress_ns());
        Duration::from_nanos(idle_ns) > self.patience
    }

    /// Gives up what stalled subscribers should have received: messages published before the timeout, at subscribers
    /// that have received nothing since. They keep their subscriptions. This bounds the publications in memory.
    fn give_up_stalled(&mut self) {
        let now_ns = self.recorder.now_ns();
        if now_ns < self.next_look_ns {
            return;
        }
        self.next_look_ns = now_ns + (self.patience / LOOKS_PER_PATIENCE).as_nanos() as u64;
        let Some(until_ns) = now_ns.checked_sub(self.patience.as_nanos() as u64) else { return };
        let is_overdue = |audience: &TopicAudience| audience.window.oldest_ns().is_some_and(|ns| ns < until_ns);
        if self.totals.under_way == 0 || !self.audiences.iter().any(is_overdue) {
            return;
        }
        let until_ms = milliseconds(until_ns);
        for subscriber in 0..self.subscribers.len() as u32 {
            let Subscriber { has_joined, heard_ms, .. } = self.subscribers[subscriber as usize];
            if has_joined && heard_ms < until_ms {
                self.give_up(subscriber, until_ns);
            }
        }
    }

    /// `subscriber` no longer expects what was published before `until_ns`.
    fn give_up(&mut self, subscriber: u32, until_ns: u64) {
        let mut count = 0;
        for seat in self.topics.seats(subscriber) {
            let (topic, next) = (self.topics.topic_at(seat), self.subscriptions[seat].next);
            let state = &mut self.subscribers[subscriber as usize];
            if state.begun > 0 && state.begun_seat as usize == seat {
                // The decoder has not seen the front of the frame.
                let begun = std::mem::take(&mut state.begun) as usize;
                let front = self.audiences[topic as usize].window.frame_front(next, begun).to_vec();
                self.fronts.insert(subscriber, front);
            }
            let (given_up, next) = self.change(topic, |window| window.give_up(next, until_ns));
            let joined = self.audiences[topic as usize].window.sequence_from(next);
            if given_up > 0 {
                self.subscriptions[seat] = Subscription { next, joined };
            }
            count += given_up;
        }
        if count > 0 {
            let begins = !std::mem::replace(&mut self.subscribers[subscriber as usize].is_stalled, true);
            self.faults.stalled(self.number(subscriber), count, begins);
        }
    }

    /// Takes the front of a given-up frame, which the decoder needs before the bytes that follow.
    fn take_front(&mut self, subscriber: u32) -> Option<Vec<u8>> {
        if self.fronts.is_empty() { None } else { self.fronts.remove(&subscriber) }
    }

    /// Counts all outstanding deliveries as missing, since the run ends.
    pub(crate) fn give_up_all(&mut self) {
        for subscriber in 0..self.subscribers.len() as u32 {
            self.dismiss(subscriber);
        }
    }

    /// Gives up the outstanding deliveries of `subscriber`. Returns their number.
    fn abandon(&mut self, subscriber: u32) -> u64 {
        if !std::mem::take(&mut self.subscribers[subscriber as usize]).has_joined {
            return 0;
        }
        self.take_front(subscriber);
        self.count_subscribers(self.totals.subscribers - 1);
        let mut count = 0;
        for seat in self.topics.seats(subscriber) {
            let (topic, next) = (self.topics.topic_at(seat), self.subscriptions[seat].next);
            self.audiences[topic as usize].subscribers -= 1;
            count += self.change(topic, |window| window.abandon(next));
        }
        count
    }

    /// Changes the window of `topic` and updates the sums.
    fn change<T>(&mut self, topic: u32, change: impl FnOnce(&mut Window) -> T) -> T {
        self.totals.change(&mut self.audiences[topic as usize].window, change)
    }
}

impl Subscriber {
    /// It has received a message.
    fn hear(&mut self, now_ns: u64) {
        (self.heard_ms, self.is_stalled) = (milliseconds(now_ns), false);
    }
}

fn milliseconds(ns: u64) -> u32 {
    u32::try_from(ns / 1_000_000).unwrap_or(u32::MAX)
}

/// The seat of the topic that `payload` claims to belong to. A subscriber of one topic expects no other.
fn seat_of(topics: &Topics, subscriber: u32, payload: &[u8]) -> Option<usize> {
    let seats = topics.seats(subscriber);
    if seats.len() == 1 {
        return Some(seats.start);
    }
    let topic = payload::peek_sequence(payload)? >> TOPIC_SHIFT;
    topics.seat_in(subscriber, u32::try_from(topic).ok()?)
}

/// Where to record the latency of a message.
fn receiver(is_watched: bool) -> fn(&mut Recorder, Times, u64) {
    if is_watched { Recorder::received_watched } else { Recorder::received }
}

/// The name of message `number` of `topic`.
fn label(topics: &Topics, topic: u32, number: u64) -> Label<'_> {
    let sequence = u64::from(topic) << TOPIC_SHIFT | number;
    Label { sequence, number, topic: topics.name_among_several(topic) }
}

/// Where `payload` begins in `frame`.
fn position_in(frame: &[u8], payload: &[u8]) -> Option<usize> {
    frame.windows(payload.len()).position(|window| window == payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::board::Board;
    use crate::check::faults::Counts;
    use crate::report::timeline::Timeline;

    /// Messages that take more than 500 ns are late.
    const TOLERANCE: Tolerance = Tolerance { late: Duration::from_nanos(500), patience: Duration::from_secs(5) };

    fn deliveries(tolerance: Tolerance) -> Deliveries {
        let timeline = Arc::new(Timeline::start(Duration::from_secs(1), false));
        let topics = Arc::new(Topics::one("t", 3));
        let mut deliveries =
            Deliveries::new(share(), MessageKind::Text, topics, 3, true, Recorder::new(timeline), tolerance);
        (0..2).for_each(|subscriber| deliveries.join(subscriber));
        deliveries
    }

    /// The only worker of a run with the name 0.
    fn share() -> Share {
        Share { board: Board::named(0), worker: 0, first: 0 }
    }

    fn text(payload: &[u8]) -> Message<'_> {
        Message { kind: MessageKind::Text, payload }
    }

    fn message(sequence: u64) -> Vec<u8> {
        let mut payload = vec![0; 64];
        payload::write(&mut payload, Stamp { run: 0, sequence, time_ns: sequence * 10 });
        payload
    }

    /// Two subscribers and `published` publications in flight; subscriber 0 receives `received`.
    fn receive(published: u64, received: &[Vec<u8>]) -> Deliveries {
        let mut deliveries = deliveries(TOLERANCE);
        (0..published).for_each(|sequence| deliveries.publish(0, &message(sequence), Times::now(sequence * 10)));
        received.iter().for_each(|payload| deliveries.on_message(0, text(payload), None, 500));
        deliveries
    }

    #[test]
    fn in_order_and_once_is_right() {
        let mut deliveries = receive(3, &[message(0), message(1), message(2)]);
        assert_eq!((deliveries.under_way(), deliveries.counts[0]), (3, 3));
        (0..3).for_each(|sequence| deliveries.on_message(1, text(&message(sequence)), None, 500));
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
    fn a_frame_received_by_one_subscriber_is_known_for_the_others_in_order() {
        let mut deliveries = receive(4, &[]);
        let frame = |sequence| [b"<", &message(sequence)[..], b">"].concat();
        let known = |deliveries: &mut Deliveries, subscriber, bytes: &[u8]| {
            let Known { len, taken_back } = deliveries.take_known(subscriber, bytes, 500);
            (len, String::from_utf8_lossy(taken_back).into_owned())
        };
        let nothing = (0, String::new());
        assert_eq!(known(&mut deliveries, 0, &frame(0)), nothing, "no subscriber has received it");
        (0..2).for_each(|sequence| deliveries.on_message(0, text(&message(sequence)), Some(&frame(sequence)), 500));
        deliveries.on_message(0, text(&message(2)), None, 500);
        assert_eq!(known(&mut deliveries, 1, &frame(1)), nothing, "it is not the next publication");
        let both = [frame(0), frame(1)].concat();
        let three = [&both[..], &frame(2)].concat();
        assert_eq!(known(&mut deliveries, 1, &three), (both.len(), String::new()), "the third is unknown");
        assert_eq!((deliveries.counts[1], deliveries.faults.sum()), (2, 0));
        deliveries.on_closed(1, "reset");
        assert_eq!(known(&mut deliveries, 1, &frame(3)), nothing, "its publication has been delivered");
    }

    #[test]
    fn a_known_frame_may_arrive_in_pieces_and_is_taken_back_if_it_differs() {
        let frames = [[b"<", &message(0)[..], b">"].concat(), [b"<", &message(1)[..], b">"].concat()];
        let stream = frames.concat();
        for cut in 0..stream.len() {
            for changed in [None, Some(cut)] {
                let mut deliveries = receive(2, &[]);
                for (sequence, frame) in (0..).zip(&frames) {
                    deliveries.on_message(0, text(&message(sequence)), Some(frame), 500);
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
        deliveries.on_message(0, text(&message(0)), Some(&message(0)), 500);
        for index in 0..64 {
            let mut changed = message(0);
            changed[index] ^= 1;
            assert_eq!(deliveries.take_known(1, &changed, 500), Known::default());
        }
        assert_eq!(deliveries.take_known(1, &message(0), 500), Known { len: 64, taken_back: &[] });
    }

    #[test]
    fn the_expected_deliveries_are_an_average_per_publication() {
        let mut deliveries = receive(2, &[]);
        assert_eq!(deliveries.awaited(), 2);
        (0..2).for_each(|sequence| deliveries.on_message(0, text(&message(sequence)), None, 500));
        assert_eq!(deliveries.awaited(), 1);
        deliveries.give_up_all();
        assert_eq!(deliveries.awaited(), 0);
    }

    #[test]
    fn outstanding_messages_of_a_closed_subscriber_are_missing() {
        let mut deliveries = receive(3, &[message(0)]);
        deliveries.on_closed(0, "reset");
        assert_eq!(
            (deliveries.faults.counts().text(), deliveries.subscribers()),
            ("2 missing, 1 closed".to_owned(), 1)
        );
        (0..3).for_each(|sequence| deliveries.on_message(1, text(&message(sequence)), None, 500));
        assert_eq!(deliveries.under_way(), 0);
        deliveries.publish(0, &message(3), Times::now(30));
        deliveries.on_message(1, text(&message(3)), None, 500);
        assert_eq!(deliveries.under_way(), 0);
    }

    #[test]
    fn giving_up_all_empties_the_window() {
        let mut deliveries = receive(2, &[message(0)]);
        deliveries.give_up_all();
        assert_eq!(deliveries.under_way(), 0);
        assert_eq!(deliveries.faults.counts().text(), "3 missing");
    }

    #[test]
    fn a_subscriber_without_messages_until_the_timeout_is_stalled_once_and_keeps_its_subscription() {
        let mut deliveries = deliveries(Tolerance { patience: Duration::ZERO, ..TOLERANCE });
        deliveries.turn_over();
        for sequence in 0..3 {
            deliveries.publish(0, &message(sequence), Times::now(sequence));
            deliveries.on_message(0, text(&message(sequence)), None, u64::MAX >> 1);
            while deliveries.under_way() > 0 {
                deliveries.turn_over();
            }
        }
        assert_eq!(deliveries.faults.counts().text(), "3 missing, 3 late, 1 stalled");
        deliveries.publish(0, &message(3), Times::now(u64::MAX >> 1));
        let given_up = deliveries.faults.sum();
        (0..4).for_each(|sequence| deliveries.on_message(1, text(&message(sequence)), None, u64::MAX >> 1));
        assert_eq!((deliveries.counts[1], deliveries.faults.sum()), (1, given_up), "the others came too late");
    }

    #[test]
    fn a_stalled_subscriber_may_have_the_front_of_a_frame() {
        let mut deliveries = deliveries(Tolerance { patience: Duration::ZERO, ..TOLERANCE });
        deliveries.publish(0, &message(0), Times::now(0));
        let frame = [b"<", &message(0)[..]].concat();
        deliveries.on_message(0, text(&message(0)), Some(&frame), u64::MAX >> 1);
        assert_eq!(deliveries.take_known(1, &frame[..20], 0), Known { len: 20, taken_back: &[] });
        while deliveries.under_way() > 0 {
            deliveries.turn_over();
        }
        assert_eq!(deliveries.take_known(1, &frame[20..], 0), Known { len: 0, taken_back: &frame[..20] });
        assert_eq!(deliveries.take_known(1, &frame[20..], 0), Known::default());
    }

    #[test]
    fn a_message_of_the_wrong_kind_is_corrupt_and_replaces_the_right_one() {
        let mut deliveries = receive(2, &[]);
        deliveries.on_message(0, Message::binary(&message(0)), Some(b"frame"), 500);
        deliveries.on_message(0, text(&message(1)), None, 500);
        assert_eq!((deliveries.faults.counts().text(), deliveries.counts[0]), ("1 corrupt".to_owned(), 1));
        assert_eq!(deliveries.faults.report().examples, ["connection 0: a binary message instead of a text"]);
        let mut deliveries = receive(2, &[b"news".to_vec(), message(0), message(1)]);
        assert_eq!((deliveries.faults.counts().text(), deliveries.counts[0]), ("1 corrupt".to_owned(), 2));
        deliveries.on_message(0, text(&message(0)), None, 500);
        assert_eq!(deliveries.faults.counts().text(), "1 duplicate, 1 corrupt");
    }

    #[test]
    fn a_message_of_another_run_is_foreign_and_replaces_nothing() {
        let mut deliveries = receive(2, &[message(0)]);
        let mut other = message(1);
        payload::write_stamp(&mut other, Stamp { run: 1, sequence: 1, time_ns: 10 });
        deliveries.on_message(0, text(&other), None, 500);
        deliveries.on_message(0, text(&message(1)), None, 500);
        assert_eq!((deliveries.faults.counts().text(), deliveries.counts[0]), ("1 foreign".to_owned(), 2));
    }

    #[test]
    fn a_refused_publication_may_be_missing_or_arrive() {
        let mut deliveries = receive(3, &[message(0)]);
        deliveries.on_message(0, text(&message(2)), None, 500);
        deliveries.on_refused(0, 1, "refused with 500");
        (0..3).for_each(|sequence| deliveries.on_message(1, text(&message(sequence)), None, 500));
        assert_eq!((deliveries.faults.counts().text(), deliveries.under_way()), ("1 refused".to_owned(), 0));
    }

    #[test]
    fn a_message_is_late_by_its_time_since_publishing_in_order_or_not() {
        let mut deliveries = receive(2, &[]);
        deliveries.on_message(0, text(&message(1)), None, 510);
        deliveries.on_message(0, text(&message(0)), None, 510);
        deliveries.publish(0, &message(2), Times { intended_ns: 20, actual_ns: 400 });
        deliveries.on_message(0, text(&message(2)), None, 900);
        deliveries.turn_over();
        assert_eq!(deliveries.faults.counts().text(), "1 reordered, 1 late");
        assert_eq!((deliveries.counts[0], deliveries.recorder.recorded.corrected.count()), (3, 3));
    }

    #[test]
    fn a_joining_subscriber_must_get_later_publications_and_may_get_earlier() {
        for early in [vec![], vec![message(1)]] {
            let mut deliveries = receive(2, &[message(0), message(1)]);
            deliveries.join(2);
            deliveries.publish(0, &message(2), Times::now(20));
            early.iter().for_each(|payload| deliveries.on_message(2, text(payload), None, 500));
            deliveries.on_message(2, text(&message(2)), None, 500);
            assert_eq!((deliveries.counts[2], deliveries.faults.sum()), (1, 0));
            deliveries.publish(0, &message(3), Times::now(30));
            deliveries.publish(0, &message(4), Times::now(40));
            deliveries.on_message(2, text(&message(4)), None, 500);
            assert_eq!(deliveries.faults.counts().text(), "1 missing");
        }
    }

    #[test]
    fn a_subscriber_that_left_misses_nothing_and_may_return() {
        let mut deliveries = receive(3, &[message(0)]);
        deliveries.leave(0);
        assert_eq!((deliveries.subscribers(), deliveries.faults.sum()), (1, 0));
        deliveries.on_message(0, text(&message(1)), None, 500);
        deliveries.join(0);
        deliveries.publish(0, &message(3), Times::now(30));
        deliveries.on_message(0, text(&message(3)), None, 500);
        (0..4).for_each(|sequence| deliveries.on_message(1, text(&message(sequence)), None, 500));
        assert_eq!((deliveries.under_way(), deliveries.faults.sum(), deliveries.counts[0]), (0, 0, 2));
    }

    /// A run of several topics, with all subscribers joined, and `published` publications of each topic in flight.
    fn of_several(topics: Topics, subscribers: u32, published: u64) -> Deliveries {
        let timeline = Arc::new(Timeline::start(Duration::from_secs(1), false));
        let count = topics.count();
        let (kind, recorder) = (MessageKind::Text, Recorder::new(timeline));
        let mut deliveries = Deliveries::new(share(), kind, Arc::new(topics), subscribers, true, recorder, TOLERANCE);
        (0..subscribers).for_each(|subscriber| deliveries.join(subscriber));
        for number in 0..published {
            (0..count).for_each(|topic| deliveries.publish(topic, &message_of(topic, number), Times::now(number * 10)));
        }
        deliveries
    }

    fn message_of(topic: u32, number: u64) -> Vec<u8> {
        let mut payload = vec![0; 64];
        let sequence = u64::from(topic) << TOPIC_SHIFT | number;
        payload::write(&mut payload, Stamp { run: 0, sequence, time_ns: number * 10 });
        payload
    }

    #[test]
    fn a_message_of_another_topic_is_foreign() {
        let mut deliveries = of_several(Topics::split("t", 1, 1), 2, 1);
        deliveries.on_message(0, text(&message_of(0, 0)), None, 500);
        deliveries.on_message(1, text(&message_of(0, 0)), None, 500);
        assert_eq!((deliveries.faults.counts().text(), deliveries.under_way()), ("1 foreign".to_owned(), 1));
        let report = deliveries.faults.report();
        assert_eq!(report.examples, ["connection 1: message 0 of topic t-0, without a subscription"]);
        deliveries.on_message(1, text(&message_of(1, 0)), None, 500);
        assert_eq!((deliveries.faults.sum(), deliveries.under_way()), (1, 0));
    }

    #[test]
    fn topics_of_one_subscriber_may_overtake_each_other_but_each_is_in_order_and_once() {
        let receive = |received: &[(u32, u64)]| {
            let topics = Topics::several("t", 2, 3, 3, 0.0).and(Topics::one("other", 1));
            let mut deliveries = of_several(topics, 3, 3);
            for (topic, number) in received {
                deliveries.on_message(0, text(&message_of(*topic, *number)), None, 500);
            }
            deliveries
        };
        let right = [(2, 0), (0, 0), (2, 1), (1, 0), (0, 1), (0, 2), (2, 2), (1, 1), (1, 2)];
        let deliveries = receive(&right);
        assert_eq!((deliveries.counts[0], deliveries.faults.sum(), deliveries.under_way()), (9, 0, 12));
        // received as topic and number; counts, words
        type Case<'a> = (&'a [(u32, u64)], &'a str, &'a str);
        let wrong: [Case<'_>; 5] = [
            (&[(2, 0), (0, 0), (2, 2), (0, 1)], "1 missing", "message 1 of topic t-2 is missing"),
            (&[(2, 0), (0, 0), (1, 0), (2, 0)], "1 duplicate", "message 0 of topic t-2 came again"),
            (&[(1, 1), (0, 0), (1, 0), (1, 2)], "1 reordered", "message 0 of topic t-1 came after"),
            (&[(2, 0), (3, 0), (2, 1)], "1 foreign", "message 0 of topic other, without a subscription"),
            (&[(2, 0), (7, 0), (2, 1), (2, 3)], "2 corrupt", "64 bytes, not as sent: "),
        ];
        for (received, counts, words) in wrong {
            let faults = receive(received).faults;
            assert_eq!(faults.counts().text(), counts, "{received:?}");
            assert!(faults.report().examples[0].contains(words), "{:?}", faults.report().examples);
        }
    }

    #[test]
    fn outstanding_messages_of_all_topics_of_a_closed_subscriber_are_missing() {
        let mut deliveries = of_several(Topics::several("t", 2, 3, 3, 0.0), 2, 2);
        deliveries.on_message(0, text(&message_of(1, 0)), None, 500);
        deliveries.on_closed(0, "reset");
        assert_eq!(deliveries.faults.counts().text(), "5 missing, 1 closed");
        for topic in 0..3 {
            (0..2).for_each(|number| deliveries.on_message(1, text(&message_of(topic, number)), None, 500));
        }
        assert_eq!((deliveries.under_way(), deliveries.subscribers()), (0, 1));
    }

    #[test]
    fn known_frames_of_several_topics_may_be_cut_anywhere() {
        let frame = |(topic, number): (u32, u64)| [b"<", &message_of(topic, number)[..], b">"].concat();
        let order = [(1, 0), (0, 0), (0, 1), (2, 0), (1, 1), (2, 1)];
        let stream: Vec<u8> = order.into_iter().flat_map(frame).collect();
        for cut in 0..=stream.len() {
            let mut deliveries = of_several(Topics::several("t", 2, 3, 3, 0.0), 2, 2);
            for (topic, number) in order {
                deliveries.on_message(0, text(&message_of(topic, number)), Some(&frame((topic, number))), 500);
            }
            let known = deliveries.take_known(1, &stream[..cut], 500);
            assert!(known.taken_back.is_empty() && known.len <= cut, "{cut}");
            // Without its stamp, the front of a frame is unknown unless it continues a topic.
            assert!(cut - known.len < 1 + 18, "{cut}: {known:?}");
            let from = known.len;
            let Known { len, taken_back } = deliveries.take_known(1, &stream[from..], 500);
            if taken_back.is_empty() {
                assert_eq!((from + len, deliveries.counts[1]), (stream.len(), 6), "{cut}");
            } else {
                assert!(stream[..from].ends_with(taken_back), "{cut}");
            }
            assert_eq!(deliveries.faults.sum(), 0);
        }
    }

    #[test]
    fn workers_share_publications_and_name_their_own_subscribers() {
        let board = Board::of_two();
        let worker = |worker: usize| {
            let timeline = Arc::new(Timeline::start(Duration::from_secs(1), false));
            let share = Share { board: Arc::clone(&board), worker, first: 100 * worker as u32 };
            let (kind, recorder, topics) = (MessageKind::Text, Recorder::new(timeline), Arc::new(Topics::one("t", 1)));
            let mut deliveries = Deliveries::new(share, kind, topics, 1, true, recorder, TOLERANCE);
            deliveries.join(0);
            deliveries
        };
        let (mut publishing, mut other) = (worker(0), worker(1));
        assert_eq!(publishing.subscribers(), 2);
        (0..3).for_each(|sequence| publishing.publish(0, &message(sequence), Times::now(sequence * 10)));
        (0..3).for_each(|sequence| publishing.on_message(0, text(&message(sequence)), None, 500));
        assert_eq!((publishing.under_way(), publishing.is_close_received()), (3, false), "the other has none");
        other.woken();
        other.on_message(0, text(&message(0)), None, 500);
        other.on_message(0, text(&message(2)), None, 500);
        assert_eq!((publishing.under_way(), publishing.is_close_received()), (0, false), "one may still arrive");
        other.on_message(0, text(&message(1)), None, 500);
        other.turn_over();
        assert!(publishing.is_close_received());
        assert_eq!(other.faults.report().examples, ["connection 100: message 1 came after a later one"]);
        publishing.publish(0, &message(3), Times::now(30));
        publishing.on_message(0, text(&message(3)), None, 500);
        publishing.on_refused(0, 3, "503");
        other.turn_over();
        assert!(publishing.is_close_received() && other.faults.counts().text() == "1 reordered");
    }

    #[test]
    fn the_latency_of_a_watched_topic_is_recorded_apart() {
        let topics = Topics::one("t", 1).and(Topics::one("w", 1));
        let mut deliveries = of_several(topics, 2, 0);
        deliveries.watch(1);
        (0..2).for_each(|topic| deliveries.publish(topic, &message_of(topic, 0), Times::now(0)));
        assert_eq!(deliveries.under_way(), 1);
        deliveries.on_message(0, text(&message_of(0, 0)), None, 300);
        deliveries.on_message(1, text(&message_of(1, 0)), None, 400);
        deliveries.turn_over();
        let recorded = &deliveries.recorder.recorded;
        assert_eq!((recorded.corrected.count(), recorded.watched.count()), (1, 1));
        assert_eq!(recorded.watched.quantile_us(1.0), 0.4);
        assert!(deliveries.is_close_received());
    }
}
