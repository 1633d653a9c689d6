//! One to four nodes on a simulated log, with a simulated network between them: what must hold is checked at each step.
//!
//! The log delays, refuses, stores without an acknowledgement, has no leader for a while, publishes no live copy,
//! loses its acknowledged end, and drops its oldest records. Links are cut and healed. Nodes die, start
//! again, and stand still.
//! `RINGFEED_MODEL_SEEDS` runs so many seeds, and a failure names its seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use bytes::Bytes;

use super::base::Reach;
use super::node::{Config, Event, Node, Output, Work};
use crate::topics::{Draft, Epoch, Position, PublishError, TopicName, bucket_of, mix};

const BUCKETS: u16 = 2;
const TOPICS: u64 = 5;
const UNIX_MS: u64 = 1_750_000_000_000;
const TICK_MS: u64 = 50;
/// How long histories keep publications: a node that joins has all of them, as far as the log does.
const HISTORY_MS: u64 = 10_000;
/// How long faults happen, and how long the world is calm afterwards.
const FAULTS_MS: u64 = 60_000;
const CALM_MS: u64 = 60_000;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// An attempt to publish. Attempts with the same `message` have the same idempotency key.
#[derive(Clone, Debug)]
struct Attempt {
    message: u64,
    topic: TopicName,
    has_key: bool,
    /// The node's incarnation that it was sent to.
    tries_left: u64,
}

/// What a node's shards know.
#[derive(Default)]
struct View {
    /// By bucket: whether its positions are known, and whether they are those of the log's end.
    rebased: [bool; BUCKETS as usize],
    settled: [bool; BUCKETS as usize],
    positions: HashMap<TopicName, Position>,
    /// By topic: the position before the first publication that a history here could have.
    begins: HashMap<TopicName, Position>,
    /// By bucket: the last sequence in the log when the present positions came.
    ends: [u64; BUCKETS as usize],
}

struct Machine {
    node: Node<u64>,
    view: View,
    incarnation: u64,
    is_linked: bool,
    /// Until then it stands still.
    frozen_ms: u64,
    /// Messages arrive in the order in which they are sent.
    last_ms: u64,
    skew_ms: u64,
    waiting: HashSet<u64>,
}

enum Step {
    Tick(usize, u64),
    Deliver(usize, u64, Event),
    Append(usize, u64, u16, Bytes),
    Fetch(usize, u64, u16, u64, u64),
    Message(usize, u64, Option<u64>, Bytes),
    Publish,
    Fault,
    Start(usize),
}

#[derive(Default)]
struct Log {
    /// The sequence of the first record.
    first: u64,
    records: Vec<Bytes>,
    leaderless_ms: u64,
}

impl Log {
    fn last(&self) -> u64 {
        self.first + self.records.len() as u64 - 1
    }
}

/// A log has lost the records behind `end`.
struct Loss {
    bucket: u16,
    end: u64,
    /// The incarnations that know of these records.
    knowing: HashSet<u64>,
}

struct World {
    rng: Rng,
    now_ms: u64,
    steps: BinaryHeap<Reverse<(u64, u64)>>,
    pending: HashMap<u64, Step>,
    count: u64,
    machines: Vec<Option<Machine>>,
    incarnations: u64,
    logs: Vec<Log>,
    attempts: HashMap<u64, Attempt>,
    next_attempt: u64,
    /// By topic, epoch and offset: the attempt.
    places: HashMap<(TopicName, Epoch, u64), u64>,
    /// By the same: its log time.
    times: HashMap<(TopicName, Epoch, u64), u64>,
    /// By message and epoch: where it is.
    found: HashMap<(u64, Epoch), u64>,
    refused: HashSet<u64>,
    /// Epochs in which nodes have disagreed, since a log has lost records that some had read. They must end.
    torn: HashSet<Epoch>,
    /// Logs that have lost records, until they are reset.
    losses: Vec<Loss>,
    /// The resets that nodes have read.
    generations: HashSet<u64>,
    /// Epochs with lost records of which no living node knows: nobody can end them.
    excused: HashSet<Epoch>,
    published: u64,
    is_calm: bool,
    /// Whether faults may end epochs.
    is_wild: bool,
}

fn name(number: u64) -> TopicName {
    TopicName::new(&format!("topic/{number}")).unwrap()
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng(mix(seed));
        let nodes = 1 + rng.below(4) as usize;
        let is_wild = rng.one_in(2);
        let logs = (0..BUCKETS).map(|_| Log { first: 1, ..Log::default() }).collect();
        let mut world = World {
            rng,
            now_ms: 0,
            steps: BinaryHeap::new(),
            pending: HashMap::new(),
            count: 0,
            machines: (0..nodes).map(|_| None).collect(),
            incarnations: 0,
            logs,
            attempts: HashMap::new(),
            next_attempt: 0,
            places: HashMap::new(),
            times: HashMap::new(),
            found: HashMap::new(),
            refused: HashSet::new(),
            torn: HashSet::new(),
            losses: Vec::new(),
            generations: HashSet::new(),
            excused: HashSet::new(),
            published: 0,
            is_calm: false,
            is_wild,
        };
        for index in 0..nodes {
            let at_ms = world.rng.below(3000);
            world.at(at_ms, Step::Start(index));
        }
        world.at(1000, Step::Publish);
        world.at(10_000, Step::Fault);
        world
    }

    fn at(&mut self, at_ms: u64, step: Step) {
        self.count += 1;
        self.steps.push(Reverse((at_ms, self.count)));
        self.pending.insert(self.count, step);
    }

    fn run_until(&mut self, end_ms: u64) {
        while let Some(Reverse((at_ms, id))) = self.steps.peek().copied() {
            if at_ms > end_ms {
                break;
            }
            self.steps.pop();
            self.now_ms = self.now_ms.max(at_ms);
            if let Some(frozen_ms) = self.frozen_until(&self.pending[&id]) {
                // Under the same number, so that events keep their order.
                self.steps.push(Reverse((frozen_ms, id)));
                continue;
            }
            let step = self.pending.remove(&id).unwrap();
            self.step(step);
        }
        self.now_ms = end_ms;
    }

    /// When the machine of an event can take it, if it stands still now.
    fn frozen_until(&self, step: &Step) -> Option<u64> {
        match step {
            Step::Deliver(index, incarnation, _) if self.is_there(*index, *incarnation) => self.frozen_ms(*index),
            _ => None,
        }
    }

    /// Whether the machine is the same as when the step was made.
    fn is_there(&self, index: usize, incarnation: u64) -> bool {
        self.machines[index].as_ref().is_some_and(|machine| machine.incarnation == incarnation)
    }

    fn frozen_ms(&self, index: usize) -> Option<u64> {
        self.machines[index].as_ref().map(|machine| machine.frozen_ms).filter(|frozen_ms| *frozen_ms > self.now_ms)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Start(index) => self.start(index),
            Step::Tick(index, incarnation) if self.is_there(index, incarnation) => {
                self.act(index, |node, now_ms, unix_ms| node.on_time(now_ms, unix_ms));
                let next_ms = self.frozen_ms(index).unwrap_or(self.now_ms + TICK_MS);
                self.at(next_ms, Step::Tick(index, incarnation));
            }
            Step::Deliver(index, incarnation, event) if self.is_there(index, incarnation) => {
                self.act(index, |node, now_ms, unix_ms| node.on_event(event, now_ms, unix_ms));
            }
            Step::Tick(..) | Step::Deliver(..) => {}
            Step::Append(index, incarnation, bucket, record) => self.append(index, incarnation, bucket, record),
            Step::Fetch(index, incarnation, bucket, after, fetch) => {
                self.fetch(index, incarnation, bucket, after, fetch);
            }
            Step::Message(from, incarnation, to, bytes) => self.message(from, incarnation, to, bytes),
            Step::Publish => self.publish(),
            Step::Fault => self.fault(),
        }
    }

    fn start(&mut self, index: usize) {
        if self.machines[index].is_some() {
            return;
        }
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let config = Config {
            node: self.rng.next(),
            name: format!("node-{index}"),
            buckets: BUCKETS,
            settings: 0,
            publish_timeout_ms: 10_000,
            start_wait_ms: 5000,
            reach: Reach { history_ms: HISTORY_MS, log_age_ms: u64::MAX, log_bytes: u64::MAX },
        };
        let node = Node::new(config, self.rng.next(), self.now_ms);
        let machine = Machine {
            node,
            view: View::default(),
            incarnation,
            is_linked: true,
            frozen_ms: 0,
            last_ms: self.now_ms,
            skew_ms: self.rng.below(3000),
            waiting: HashSet::new(),
        };
        self.machines[index] = Some(machine);
        self.at(self.now_ms, Step::Tick(index, incarnation));
        self.deliver(index, Event::Connected);
    }

    /// Has an event arrive at a machine, behind all earlier ones.
    fn deliver(&mut self, index: usize, event: Event) {
        let delay_ms = self.rng.below(if self.is_calm { 5 } else { 30 });
        let Some(machine) = &mut self.machines[index] else { return };
        machine.last_ms = machine.last_ms.max(self.now_ms + delay_ms);
        let (at_ms, incarnation) = (machine.last_ms, machine.incarnation);
        self.at(at_ms, Step::Deliver(index, incarnation, event));
    }

    fn act(&mut self, index: usize, act: impl FnOnce(&mut Node<u64>, u64, u64)) {
        let Some(machine) = &mut self.machines[index] else { return };
        act(&mut machine.node, self.now_ms, UNIX_MS + self.now_ms + machine.skew_ms);
        let (outputs, incarnation) = (machine.node.take_outputs(), machine.incarnation);
        let is_linked = machine.is_linked;
        for output in outputs {
            let at_ms = self.now_ms + self.rng.below(10);
            match output {
                Output::Append { bucket, record } if is_linked => {
                    self.at(at_ms, Step::Append(index, incarnation, bucket, record));
                }
                Output::Fetch { bucket, after, fetch } if is_linked => {
                    self.at(at_ms, Step::Fetch(index, incarnation, bucket, after, fetch));
                }
                Output::Broadcast(bytes) if is_linked => self.at(at_ms, Step::Message(index, incarnation, None, bytes)),
                Output::Send { to, message } if is_linked => {
                    self.at(at_ms, Step::Message(index, incarnation, Some(to), message));
                }
                Output::Append { .. } | Output::Fetch { .. } | Output::Broadcast(_) | Output::Send { .. } => {}
                other => self.check(index, other),
            }
        }
    }

    /// The broker has received a record.
    fn append(&mut self, index: usize, incarnation: u64, bucket: u16, record: Bytes) {
        let is_faulty = !self.is_calm;
        let log = &mut self.logs[usize::from(bucket)];
        if log.leaderless_ms > self.now_ms || is_faulty && self.rng.one_in(30) {
            if self.is_there(index, incarnation) && self.rng.one_in(2) {
                self.deliver(index, Event::AppendFailed { bucket });
            }
            return;
        }
        log.records.push(record.clone());
        let sequence = log.last();
        if !(is_faulty && self.rng.one_in(20)) && self.is_there(index, incarnation) {
            self.deliver_if_linked(index, Event::Appended { bucket, sequence });
        }
        if is_faulty && self.rng.one_in(15) {
            return;
        }
        for other in 0..self.machines.len() {
            if is_faulty && self.rng.one_in(40) {
                continue;
            }
            let event = Event::Record { bucket, sequence, bytes: record.clone(), fetch: None };
            self.deliver_if_linked(other, event);
        }
    }

    fn deliver_if_linked(&mut self, index: usize, event: Event) {
        if self.machines[index].as_ref().is_some_and(|machine| machine.is_linked) {
            self.deliver(index, event);
        }
    }

    fn fetch(&mut self, index: usize, incarnation: u64, bucket: u16, after: u64, fetch: u64) {
        if !self.is_there(index, incarnation) {
            return;
        }
        let log = &self.logs[usize::from(bucket)];
        if log.leaderless_ms > self.now_ms || !self.is_calm && self.rng.one_in(20) {
            return self.deliver_if_linked(index, Event::Fetched { bucket, fetch, range: None });
        }
        let log = &self.logs[usize::from(bucket)];
        let (first, last) = (log.first, log.last());
        let count = 1 + self.rng.below(20);
        for sequence in (after + 1).max(first)..=last.min(after + count) {
            let bytes = self.logs[usize::from(bucket)].records[(sequence - first) as usize].clone();
            self.deliver_if_linked(index, Event::Record { bucket, sequence, bytes, fetch: Some(fetch) });
        }
        self.deliver_if_linked(index, Event::Fetched { bucket, fetch, range: Some((first, last)) });
    }

    fn message(&mut self, from: usize, incarnation: u64, to: Option<u64>, bytes: Bytes) {
        if !self.is_there(from, incarnation) {
            return;
        }
        for other in 0..self.machines.len() {
            let is_meant = |machine: &Machine| to.is_none_or(|to| machine.node.id() == to);
            if self.machines[other].as_ref().is_some_and(is_meant) && (self.is_calm || !self.rng.one_in(20)) {
                self.deliver_if_linked(other, Event::Message(bytes.clone()));
            }
        }
    }

    fn publish(&mut self) {
        let count = 1 + self.rng.below(4);
        for _ in 0..count {
            self.next_attempt += 1;
            let attempt = Attempt {
                message: self.next_attempt,
                topic: name(self.rng.below(TOPICS)),
                has_key: !self.rng.one_in(3),
                tries_left: 5,
            };
            self.try_publish(attempt);
        }
        let pause_ms = if self.is_calm { 2000 } else { self.rng.below(200) };
        self.at(self.now_ms + pause_ms, Step::Publish);
    }

    fn try_publish(&mut self, attempt: Attempt) {
        let index = self.rng.below(self.machines.len() as u64) as usize;
        let is_frozen = self.frozen_ms(index).is_some();
        let Some(machine) = self.machines[index].as_mut().filter(|_| !is_frozen) else { return };
        self.next_attempt += 1;
        let id = self.next_attempt;
        let key = attempt.has_key.then(|| attempt.message.to_string().into_boxed_str());
        let payload = Bytes::from(id.to_string());
        let draft = Draft { idempotency_key: key, ..Draft::new(attempt.topic.clone(), true, payload) };
        machine.waiting.insert(id);
        self.attempts.insert(id, attempt);
        self.act(index, |node, now_ms, unix_ms| node.submit(Work::Publish(draft), id, now_ms, unix_ms));
    }

    /// A publisher with a key tries again.
    fn retry(&mut self, id: u64) {
        let attempt = self.attempts[&id].clone();
        if attempt.has_key && attempt.tries_left > 0 {
            self.try_publish(Attempt { tries_left: attempt.tries_left - 1, ..attempt });
        }
    }

    fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let index = self.rng.below(self.machines.len() as u64) as usize;
        let bucket = self.rng.below(BUCKETS.into()) as usize;
        match self.rng.below(if self.is_wild { 9 } else { 6 }) {
            0 => {
                if let Some(machine) = &mut self.machines[index] {
                    machine.is_linked = !machine.is_linked;
                    let is_linked = machine.is_linked;
                    self.deliver(index, if is_linked { Event::Connected } else { Event::Disconnected });
                }
            }
            1 => self.logs[bucket].leaderless_ms = self.now_ms + self.rng.below(9000),
            2 => {
                let frozen_ms = self.now_ms + self.rng.below(if self.is_wild { 30_000 } else { 4000 });
                if let Some(machine) = &mut self.machines[index] {
                    machine.frozen_ms = machine.frozen_ms.max(frozen_ms);
                }
            }
            // Somebody must be left who knows the positions.
            3..=5 if self.is_wild || self.has_others_that_follow(index) => self.kill(index),
            3..=5 => {}
            6 => {
                let log = &mut self.logs[bucket];
                let lost = (1 + self.rng.below(5)).min(log.records.len() as u64);
                log.records.truncate(log.records.len() - lost as usize);
                self.note_loss(bucket);
            }
            7 => {
                let log = &mut self.logs[bucket];
                let dropped = self.rng.below(log.records.len() as u64 + 1);
                log.records.drain(..dropped as usize);
                log.first += dropped;
            }
            _ => {
                self.logs[bucket] = Log { first: 1, ..Log::default() };
                self.note_loss(bucket);
            }
        }
        let pause_ms = 500 + self.rng.below(8000);
        self.at(self.now_ms + pause_ms, Step::Fault);
    }

    /// Records at the end of a log are lost.
    fn note_loss(&mut self, bucket: usize) {
        let (bucket, end) = (bucket as u16, self.logs[bucket].last());
        let knows = |machine: &&Machine| machine.node.bucket(bucket).known() > end;
        let knowing = self.machines.iter().flatten().filter(knows).map(|machine| machine.incarnation).collect();
        self.losses.push(Loss { bucket, end, knowing });
        self.excuse();
    }

    /// Where every node that knew of lost records has died, nobody can notice.
    fn excuse(&mut self) {
        let unknown = self.losses.extract_if(.., |loss| loss.knowing.is_empty());
        let buckets: Vec<u16> = unknown.map(|loss| loss.bucket).collect();
        let epochs = self.places.keys().filter(|(topic, ..)| buckets.contains(&bucket_of(topic, BUCKETS)));
        self.excused.extend(epochs.map(|(_, epoch, _)| *epoch));
    }

    fn has_others_that_follow(&self, index: usize) -> bool {
        let others = self.machines.iter().enumerate().filter(|(other, _)| *other != index);
        let mut others = others.filter_map(|(_, machine)| machine.as_ref());
        others.any(|machine| machine.is_linked && machine.frozen_ms <= self.now_ms && machine.node.is_ready())
    }

    fn kill(&mut self, index: usize) {
        let Some(machine) = self.machines[index].take() else { return };
        self.losses.iter_mut().for_each(|loss| {
            loss.knowing.remove(&machine.incarnation);
        });
        self.excuse();
        let mut waiting: Vec<u64> = machine.waiting.into_iter().collect();
        waiting.sort_unstable();
        let start_ms = self.now_ms + self.rng.below(6000);
        self.at(start_ms, Step::Start(index));
        waiting.into_iter().for_each(|id| self.retry(id));
    }

    /// Checks what a node hands to its shards and publishers.
    fn check(&mut self, index: usize, output: Output<u64>) {
        let machine = self.machines[index].as_mut().unwrap();
        match output {
            Output::Published { draft, position, ticket, time_ms } => {
                let bucket = usize::from(bucket_of(&draft.topic, BUCKETS));
                assert!(machine.view.rebased[bucket], "a publication in a bucket whose positions are unknown");
                let before = machine.view.positions.insert(draft.topic.clone(), position);
                let expected =
                    before.filter(|before| before.epoch == position.epoch).map_or(1, |before| before.offset + 1);
                assert_eq!(position.offset, expected, "node {index} has a gap in {} at {}", draft.topic, self.now_ms);
                let id: u64 = std::str::from_utf8(&draft.payload).unwrap().parse().unwrap();
                if let Some(ticket) = ticket {
                    assert_eq!(ticket, id, "the publisher of another message");
                    assert!(machine.waiting.remove(&id), "answered twice");
                }
                let place = (draft.topic, position.epoch, position.offset);
                self.times.insert(place.clone(), time_ms);
                let other = *self.places.entry(place).or_insert(id);
                self.expect(position.epoch, other == id, "two messages in one place");
                let is_refused = self.refused.contains(&id);
                self.expect(position.epoch, !is_refused, "published, though its publisher knows that it was not");
                let attempt = &self.attempts[&id];
                let message = if attempt.has_key { attempt.message } else { id };
                let found = *self.found.entry((message, position.epoch)).or_insert(position.offset);
                self.expect(position.epoch, found == position.offset, "one message in two places");
                self.published += 1;
            }
            Output::Answered { ticket, result } => {
                assert!(machine.waiting.remove(&ticket), "answered twice");
                let attempt = self.attempts[&ticket].clone();
                match result {
                    Ok(position) => {
                        let place = (attempt.topic, position.epoch, position.offset);
                        let id = self.places.get(&place).expect("a place that nothing has");
                        let is_same = self.attempts[id].message == attempt.message;
                        self.expect(position.epoch, is_same, "the place of another message");
                    }
                    Err(PublishError::Unconfirmed) => self.retry(ticket),
                    Err(_) => {
                        self.refused.insert(ticket);
                        let found = self.places.iter().find(|(_, id)| **id == ticket).map(|((_, epoch, _), _)| *epoch);
                        if let Some(epoch) = found {
                            self.expect(epoch, false, "its publisher learns that it was not published, and it was");
                        }
                        self.retry(ticket);
                    }
                }
            }
            Output::Unsettled { bucket } => {
                machine.view.rebased[usize::from(bucket)] = false;
                machine.view.settled[usize::from(bucket)] = false;
            }
            Output::Rebased { bucket, positions, .. } => {
                machine.view.rebased[usize::from(bucket)] = true;
                machine.view.positions.retain(|topic, _| bucket_of(topic, BUCKETS) != bucket);
                machine.view.positions.extend(positions);
                machine.view.begins.retain(|topic, _| bucket_of(topic, BUCKETS) != bucket);
                let begins = machine.view.positions.iter().filter(|(topic, _)| bucket_of(topic, BUCKETS) == bucket);
                machine.view.begins.extend(begins.map(|(topic, position)| (topic.clone(), *position)));
                machine.view.ends[usize::from(bucket)] = self.logs[usize::from(bucket)].last();
                let (node, incarnation) = (machine.node.bucket(bucket), machine.incarnation);
                let (known, generation) = (node.known(), node.announce().generation);
                if self.generations.insert(generation) {
                    self.losses.retain(|loss| loss.bucket != bucket);
                }
                for loss in self.losses.iter_mut().filter(|loss| loss.bucket == bucket && known > loss.end) {
                    loss.knowing.insert(incarnation);
                }
            }
            Output::Settled { bucket } => {
                let view = &mut machine.view;
                assert!(view.rebased[usize::from(bucket)], "settled, though the positions are unknown");
                assert!(!std::mem::replace(&mut view.settled[usize::from(bucket)], true), "settled twice");
                self.check_settled(index, bucket);
            }
            other => panic!("{other:?}"),
        }
    }

    /// Clients may subscribe now: the positions are those of the log's end, and histories are complete.
    fn check_settled(&self, index: usize, bucket: u16) {
        let machine = self.machines[index].as_ref().expect("it runs");
        let (applied, ledger) = machine.node.bucket(bucket).ledger().expect("it follows");
        if self.is_wild {
            return;
        }
        let end = machine.view.ends[usize::from(bucket)];
        assert!(applied >= end, "node {index} settles at {applied} of a log that ended at {end} before");
        let since_ms = ledger.log_ms() - HISTORY_MS;
        for ((topic, epoch, offset), time_ms) in self.times.iter().filter(|(_, time_ms)| **time_ms > since_ms) {
            let begin = machine.view.begins.get(topic).filter(|begin| begin.epoch == *epoch);
            let is_here = bucket_of(topic, BUCKETS) == bucket
                && machine.view.positions.get(topic).is_some_and(|position| position.epoch == *epoch);
            assert!(
                !is_here || begin.is_none_or(|begin| begin.offset < *offset),
                "node {index} has no history of {topic} at {offset}, published at {time_ms}: it begins behind {begin:?}"
            );
        }
    }

    /// What may be wrong only where a log has lost records, and only until the epoch has ended.
    fn expect(&mut self, epoch: Epoch, is_right: bool, what: &str) {
        assert!(is_right || self.is_wild, "{what}");
        if !is_right {
            self.torn.insert(epoch);
        }
    }

    fn calm_down(&mut self) {
        self.is_calm = true;
        for log in &mut self.logs {
            log.leaderless_ms = 0;
        }
        for index in 0..self.machines.len() {
            if let Some(machine) = &mut self.machines[index]
                && !std::mem::replace(&mut machine.is_linked, true)
            {
                self.deliver(index, Event::Connected);
            }
        }
    }

    /// Everybody knows the same.
    fn check_end(&self) {
        let machines: Vec<&Machine> = self.machines.iter().map(|machine| machine.as_ref().expect("it runs")).collect();
        let figures: Vec<_> = machines.iter().map(|machine| machine.node.figures(self.now_ms)).collect();
        assert!(figures.iter().all(|figures| figures.is_ready && figures.is_connected), "{figures:#?}");
        assert!(figures.iter().all(|figures| figures.peers.len() == machines.len() - 1), "{figures:#?}");
        for (figures, machine) in figures.iter().zip(&machines).skip(1) {
            let state = |figures: &super::status::Figures| {
                let bucket = |bucket: &super::status::BucketStatus| (bucket.applied, bucket.generation, bucket.digest);
                figures.buckets.iter().map(bucket).collect::<Vec<_>>()
            };
            assert_eq!(state(figures), state(&self.machines[0].as_ref().unwrap().node.figures(self.now_ms)));
            assert_eq!(machine.view.positions, machines[0].view.positions);
        }
        let mut positions = machines[0].view.positions.values();
        assert!(
            positions.all(|position| !self.torn.contains(&position.epoch) || self.excused.contains(&position.epoch)),
            "nodes disagree, and nobody learns of it"
        );
        for bucket in 0..BUCKETS {
            let (_, ledger) = machines[0].node.bucket(bucket).ledger().expect("it follows");
            for (topic, position) in ledger.positions() {
                assert_eq!(machines[0].view.positions[&topic], position);
            }
        }
        let resets = figures.iter().map(|figures| figures.counts.resets).max().unwrap_or(0);
        let lost: u64 = figures.iter().map(|figures| figures.counts.lost).sum();
        assert!(self.is_wild || lost == 0, "a log was taken for rewritten");
        // Nodes that start while all others are cut off begin new epochs, too.
        assert!(self.is_wild || resets <= 6 * u64::from(BUCKETS), "{resets} resets");
    }
}

fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    world.run_until(FAULTS_MS);
    world.calm_down();
    world.run_until(FAULTS_MS + CALM_MS);
    // Nothing is on its way any more when publishing has ended for a while.
    world.pending.values_mut().for_each(|step| {
        if matches!(step, Step::Publish) {
            *step = Step::Fault;
        }
    });
    world.run_until(FAULTS_MS + CALM_MS + 15_000);
    world.check_end();
    let waiting: usize = world.machines.iter().flatten().map(|machine| machine.waiting.len()).sum();
    assert_eq!(waiting, 0, "somebody waits for an answer");
    world.published
}

#[test]
fn the_promises_hold_whatever_the_log_does() {
    let seeds = std::env::var("RINGFEED_MODEL_SEEDS").map_or(40, |text| text.parse().expect("a number"));
    let from = std::env::var("RINGFEED_MODEL_FROM").map_or(0, |text| text.parse().expect("a number"));
    let mut published = 0;
    for seed in from..from + seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        published +=
            result.unwrap_or_else(|_| panic!("seed {seed}: RINGFEED_MODEL_FROM={seed} RINGFEED_MODEL_SEEDS=1"));
    }
    assert!(published > 500 * seeds, "{published} publications in {seeds} seeds");
}
