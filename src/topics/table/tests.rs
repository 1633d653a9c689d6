//! Tests of the table: examples, and a model that only counts.

use proptest::prelude::*;

use super::super::testing::publication;
use super::super::{Encoding, Epoch, Namespaces, Position, TagTest};
use super::*;
use crate::buf::SharedFrame;

const RAW: Variant = Variant::RAW;
const LOUD: Variant = Variant { encoding: Encoding::PER_CONNECTION, window: 0, join_leave: false, label: 0 };

fn name(text: &str) -> TopicName {
    TopicName::new(text).unwrap()
}

fn subscribe(topics: &mut Topics, topic: &str, slot: u32, variant: Variant) -> TopicId {
    let namespace = Namespaces::default().find(&name(topic)).unwrap();
    let (id, _) = topics.find_or_make(&name(topic), namespace);
    assert!(topics.subscribe(id, SlotId(slot), variant));
    id
}

fn stage_until(topics: &mut Topics, topic: &str, bytes: &[u8], due_ms: u64) {
    let position = Position { epoch: Epoch::new(1), offset: 1 };
    topics.stage(&name(topic), Push::Publication(publication(topic, position, bytes)), 0, |_| due_ms);
}

fn stage(topics: &mut Topics, topic: &str, bytes: &[u8]) {
    stage_until(topics, topic, bytes, 0);
}

/// Frames as they are; in capitals for the variant `LOUD`.
fn encode(_: &TopicName, push: &Push, variant: Variant) -> Option<SharedFrame> {
    let Push::Publication(publication) = push else { return None };
    match variant {
        RAW => Some(publication.body.frame.clone()),
        LOUD => Some(SharedFrame::new(publication.body.frame.to_ascii_uppercase())),
        other => panic!("no subscriber has {other:?}"),
    }
}

/// The sends of one batch of a lane, with their slots: runs are joined by a space.
fn send_on(topics: &mut Topics, lane: Lane, slots: usize) -> Vec<(String, u32)> {
    let mut batch = Batch::default();
    topics.gather(lane, slots, &mut batch, &mut encode);
    let text = |visit| batch.runs(visit).map(|run| String::from_utf8(run.bytes.to_vec()).unwrap()).collect::<Vec<_>>();
    batch.visits().iter().map(|visit| (text(*visit).join(" "), visit.slot.0)).collect()
}

fn send(topics: &mut Topics, slots: usize) -> Vec<(String, u32)> {
    Lane::ALL.into_iter().flat_map(|lane| send_on(topics, lane, slots)).collect()
}

fn sent(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
    expected.iter().map(|(text, slot)| (text.to_string(), *slot)).collect()
}

#[test]
fn the_number_of_topics_has_a_limit_and_their_subscribers_do_not() {
    let mut topics = Topics::default();
    for number in 0..SHARD_TOPICS_MAX {
        let name = name(&number.to_string());
        assert!(topics.has_room_for(&name));
        topics.find_or_make(&name, NamespaceId::default());
    }
    assert!(!topics.has_room_for(&name("new")) && topics.has_room_for(&name("7")));
    let id = topics.find(&name("7")).unwrap();
    assert!(topics.subscribe(id, SlotId(0), RAW) && topics.unsubscribe(id, SlotId(0), RAW));
    assert!(topics.has_room_for(&name("new")));
}

#[test]
fn all_due_pushes_of_a_connection_leave_in_one_visit() {
    let mut topics = Topics::default();
    let a = subscribe(&mut topics, "a", 9, RAW);
    assert_eq!(subscribe(&mut topics, "a", 3, RAW), a);
    assert!(!topics.subscribe(a, SlotId(3), RAW));
    subscribe(&mut topics, "b", 3, RAW);
    stage(&mut topics, "a", b"1");
    stage(&mut topics, "b", b"x");
    stage(&mut topics, "a", b"2");
    stage(&mut topics, "nobody", b"y");
    assert_eq!(send(&mut topics, 100), sent(&[("12 x", 3), ("12", 9)]));
    assert!(send(&mut topics, 100).is_empty() && topics.is_quiet());
}

#[test]
fn each_variant_is_a_run_for_its_subscribers() {
    let mut topics = Topics::default();
    let id = subscribe(&mut topics, "a", 1, RAW);
    for slot in [5, 4] {
        subscribe(&mut topics, "a", slot, LOUD);
    }
    stage(&mut topics, "a", b"x");
    stage(&mut topics, "a", b"y");
    assert_eq!(send(&mut topics, 100), sent(&[("xy", 1), ("XY", 4), ("XY", 5)]));
    assert!(!topics.unsubscribe(id, SlotId(1), RAW));
    stage(&mut topics, "a", b"z");
    assert_eq!(send(&mut topics, 100), sent(&[("Z", 4), ("Z", 5)]));
}

/// Subscribes with a filter: the tag "t" is `value`.
fn subscribe_filtered(topics: &mut Topics, slot: u32, value: &str) -> Option<Variant> {
    let (id, _) = topics.find_or_make(&name("a"), NamespaceId::default());
    let filter = Arc::new(TagsFilter::Tag("t".into(), TagTest::Equals(value.into())));
    let label = topics.filter_label(id, &filter)?;
    let variant = Variant { encoding: Encoding::RAW.filtered(), label, ..RAW };
    assert!(topics.subscribe(id, SlotId(slot), variant));
    Some(variant)
}

fn stage_tagged(topics: &mut Topics, bytes: &[u8], value: &str) {
    let mut publication = publication("a", Position { epoch: Epoch::new(1), offset: 1 }, bytes);
    let tags = [("t".to_owned(), value.to_owned())];
    Arc::get_mut(&mut publication.body).unwrap().tags = Some(tags.into());
    topics.stage(&name("a"), Push::Publication(publication), 0, |_| 0);
}

#[test]
fn subscribers_receive_what_their_filter_matches() {
    let mut topics = Topics::default();
    let first = subscribe_filtered(&mut topics, 1, "x").unwrap();
    assert_eq!(subscribe_filtered(&mut topics, 2, "x"), Some(first), "equal filters share their runs");
    subscribe_filtered(&mut topics, 3, "y");
    subscribe(&mut topics, "a", 4, RAW);
    for (bytes, value) in [("1", "x"), ("2", "y"), ("3", "x"), ("4", "z")] {
        stage_tagged(&mut topics, bytes.as_bytes(), value);
    }
    stage(&mut topics, "a", b"5");
    assert_eq!(send(&mut topics, 100), sent(&[("13", 1), ("13", 2), ("2", 3), ("12345", 4)]));
    stage_tagged(&mut topics, b"6", "z");
    assert_eq!(send(&mut topics, 100), sent(&[("6", 4)]));
}

#[test]
fn the_number_of_filters_has_a_limit_and_unused_ones_make_room() {
    let mut topics = Topics::default();
    let variants: Vec<Variant> =
        (0..TOPIC_FILTERS_MAX as u32).map(|n| subscribe_filtered(&mut topics, n, &n.to_string()).unwrap()).collect();
    assert_eq!(subscribe_filtered(&mut topics, 900, "new"), None);
    assert_eq!(subscribe_filtered(&mut topics, 901, "7"), Some(variants[7]));
    let id = topics.find(&name("a")).unwrap();
    assert!(!topics.unsubscribe(id, SlotId(7), variants[7]));
    assert_eq!(subscribe_filtered(&mut topics, 902, "new"), None, "another has the filter");
    assert!(!topics.unsubscribe(id, SlotId(901), variants[7]));
    assert_eq!(subscribe_filtered(&mut topics, 903, "new"), Some(variants[7]));
    stage_tagged(&mut topics, b"1", "new");
    assert_eq!(send(&mut topics, 1000), sent(&[("1", 903)]));
    stage_tagged(&mut topics, b"2", "7");
    assert_eq!(send(&mut topics, 1000), sent(&[]));
}

#[test]
fn a_push_during_a_round_joins_it() {
    let mut topics = Topics::new(0);
    let large = (0..6).map(|slot| subscribe(&mut topics, "large", slot, RAW)).last().unwrap();
    stage(&mut topics, "large", b"1");
    assert_eq!(send(&mut topics, 2), sent(&[("1", 0), ("1", 1)]));
    stage(&mut topics, "large", b"2");
    subscribe(&mut topics, "a", 4, RAW);
    stage(&mut topics, "a", b"x");
    // A new subscriber receives no earlier pushes, and one that has left receives none.
    subscribe(&mut topics, "large", 20, RAW);
    topics.unsubscribe(large, SlotId(3), RAW);
    assert_eq!(send(&mut topics, 3), sent(&[("12", 2), ("12 x", 4), ("12", 5)]));
    stage(&mut topics, "large", b"3");
    assert_eq!(send(&mut topics, 1), sent(&[("3", 20)]));
    assert_eq!(send(&mut topics, 2), sent(&[("23", 0), ("23", 1)]));
    assert!(topics.has_work());
    assert_eq!(send(&mut topics, 100), sent(&[("3", 2), ("3", 4), ("3", 5)]));
    assert!(topics.is_quiet());
}

#[test]
fn a_publication_departs_with_the_batch_of_its_last_subscribers() {
    let mut topics = Topics::new(0);
    for slot in 0..6 {
        subscribe(&mut topics, "a", slot, RAW);
    }
    let stage_at = |topics: &mut Topics, us: u64| {
        let position = Position { epoch: Epoch::new(1), offset: 1 };
        topics.stage(&name("a"), Push::Publication(publication("a", position, b"x")), us, |_| 0);
        topics.stage(&name("a"), Push::Left(Default::default()), us, |_| 0);
    };
    let departed = |topics: &mut Topics| {
        let mut batch = Batch::default();
        topics.gather(Lane::Crowds, 2, &mut batch, &mut encode);
        batch.departed_us().to_vec()
    };
    stage_at(&mut topics, 7);
    assert_eq!(departed(&mut topics), [0; 0]);
    stage_at(&mut topics, 9);
    assert_eq!(departed(&mut topics), [0; 0]);
    assert_eq!(departed(&mut topics), [7], "joins and leaves do not count");
    assert_eq!(departed(&mut topics), [9]);
    assert!(topics.is_quiet());
}

#[test]
fn a_resubscription_of_the_same_slot_receives_no_earlier_pushes() {
    let mut topics = Topics::new(0);
    let id = subscribe(&mut topics, "a", 1, RAW);
    subscribe(&mut topics, "a", 2, RAW);
    stage(&mut topics, "a", b"1");
    topics.unsubscribe(id, SlotId(1), RAW);
    subscribe(&mut topics, "a", 1, RAW);
    stage(&mut topics, "a", b"2");
    assert_eq!(send(&mut topics, 100), sent(&[("2", 1), ("12", 2)]));
}

#[test]
fn a_small_topic_does_not_wait_for_a_large_one() {
    let mut topics = Topics::new(2);
    for slot in 0..10 {
        subscribe(&mut topics, "large", slot, RAW);
    }
    subscribe(&mut topics, "small", 9, RAW);
    stage(&mut topics, "large", b"1");
    stage(&mut topics, "small", b"x");
    assert_eq!(send_on(&mut topics, Lane::Express, 1), sent(&[("x", 9)]));
    assert_eq!(send_on(&mut topics, Lane::Crowds, 1), sent(&[("1", 0)]));
}

#[test]
fn a_topic_changes_lanes_when_its_pushes_have_left() {
    let mut topics = Topics::new(1);
    subscribe(&mut topics, "a", 0, RAW);
    stage(&mut topics, "a", b"1");
    for slot in 1..6 {
        subscribe(&mut topics, "a", slot, RAW);
    }
    stage(&mut topics, "a", b"2");
    assert!(send_on(&mut topics, Lane::Crowds, 100).is_empty(), "1 is on the other lane");
    assert_eq!(send_on(&mut topics, Lane::Express, 100), sent(&[("1", 0)]));
    assert_eq!(send_on(&mut topics, Lane::Crowds, 100).len(), 6);
    assert!(topics.is_quiet());
}

#[test]
fn waiting_pushes_leave_together_when_they_are_due() {
    let mut topics = Topics::default();
    subscribe(&mut topics, "a", 1, RAW);
    subscribe(&mut topics, "b", 1, RAW);
    stage_until(&mut topics, "a", b"1", 20);
    stage_until(&mut topics, "b", b"x", 20);
    stage_until(&mut topics, "a", b"2", 40);
    topics.board_due(19);
    assert!(!topics.has_work() && !topics.is_quiet() && topics.next_due_ms() == Some(20));
    subscribe(&mut topics, "a", 2, RAW);
    topics.board_due(20);
    assert_eq!(send(&mut topics, 100), sent(&[("12 x", 1)]), "the new subscriber's position includes 2");
    assert!(topics.is_quiet());
    stage_until(&mut topics, "a", &vec![b'3'; COALESCE_BYTES_MAX + 1], 60);
    assert!(topics.has_work(), "a large push does not wait");
}

#[test]
fn a_topic_without_subscribers_is_forgotten_with_its_pushes() {
    let mut topics = Topics::new(0);
    let id = subscribe(&mut topics, "a", 1, RAW);
    subscribe(&mut topics, "a", 2, RAW);
    stage(&mut topics, "a", b"1");
    assert_eq!(send(&mut topics, 1), sent(&[("1", 1)]));
    stage_until(&mut topics, "a", b"2", 20);
    assert!(!topics.unsubscribe(id, SlotId(1), RAW));
    assert!(topics.unsubscribe(id, SlotId(2), RAW));
    assert!(topics.is_empty() && topics.is_quiet());
    subscribe(&mut topics, "a", 2, RAW);
    topics.board_due(20);
    assert!(send(&mut topics, 100).is_empty());
}

#[test]
fn pushes_for_earlier_subscribers_do_not_reach_new_ones() {
    let mut topics = Topics::default();
    let before = subscribe(&mut topics, "a", 1, RAW);
    for _ in 0..2 {
        assert!(topics.unsubscribe(before, SlotId(1), RAW));
        topics.begin_disinterest(&name("a"));
        assert_eq!(subscribe(&mut topics, "a", 1, RAW), before);
    }
    stage(&mut topics, "a", b"1");
    topics.end_disinterest(&name("a"));
    stage(&mut topics, "a", b"2");
    topics.end_disinterest(&name("a"));
    stage(&mut topics, "a", b"4");
    assert_eq!(send(&mut topics, 100), sent(&[("4", 1)]));
}

#[test]
fn a_topic_stays_while_a_subscribe_request_is_pending() {
    let mut topics = Topics::default();
    let id = subscribe(&mut topics, "a", 1, RAW);
    topics.begin_subscribe(id);
    assert!(!topics.unsubscribe(id, SlotId(1), RAW));
    stage(&mut topics, "a", b"1");
    assert!(topics.is_quiet(), "the topic has no subscribers");
    assert!(topics.end_subscribe(id) && topics.is_empty());
}

#[test]
fn newcomers_without_earlier_pushes_are_forgotten() {
    let mut topics = Topics::new(0);
    let mut batch = Batch::default();
    for slot in 0..1000 {
        subscribe(&mut topics, "a", slot, RAW);
    }
    let id = topics.find(&name("a")).unwrap();
    for round in 0..50 {
        stage(&mut topics, "a", b"1");
        for slot in 1000 + round * 20..1020 + round * 20 {
            subscribe(&mut topics, "a", slot, RAW);
            topics.unsubscribe(id, SlotId(slot - 1000), RAW);
        }
        // Stop before the end, so that the queue is never empty.
        topics.gather(Lane::Crowds, 450, &mut batch, &mut encode);
    }
    let queue = topics.topics[id.0 as usize].queue.as_ref().unwrap();
    assert!(queue.newcomers() <= 200, "the queue remembers {} of 1000", queue.newcomers());
}

/// A step of the model.
#[derive(Clone, Debug)]
enum Step {
    Publish(usize, u64),
    Join(u32, usize, bool),
    Leave(u32, usize),
    /// A connection ends: all its subscriptions end, and another connection gets its slot.
    End(u32),
    Send(Lane, usize),
    Clock(u64),
}

const TOPICS: usize = 4;
const SLOTS: u32 = 12;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..TOPICS, prop_oneof![3 => Just(0), 1 => 1u64..9]).prop_map(|(topic, ms)| Step::Publish(topic, ms)),
        4 => (0..SLOTS, 0..TOPICS, any::<bool>()).prop_map(|(slot, topic, loud)| Step::Join(slot, topic, loud)),
        2 => (0..SLOTS, 0..TOPICS).prop_map(|(slot, topic)| Step::Leave(slot, topic)),
        1 => (0..SLOTS).prop_map(Step::End),
        8 => (prop::sample::select(Lane::ALL.to_vec()), 1usize..5).prop_map(|(lane, slots)| Step::Send(lane, slots)),
        1 => (0u64..5).prop_map(Step::Clock),
    ];
    prop::collection::vec(step, 1..300)
}

/// Topics, and for each subscription the number of its next publication.
struct Model {
    topics: Topics,
    batch: Batch,
    published: [u64; TOPICS],
    next: HashMap<(u32, usize), (Variant, u64)>,
    now_ms: u64,
}

impl Model {
    fn new(express_max: usize) -> Model {
        let (topics, batch) = (Topics::new(express_max), Batch::default());
        Model { topics, batch, published: [0; TOPICS], next: HashMap::new(), now_ms: 0 }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Publish(topic, wait_ms) => {
                let due_ms = if wait_ms == 0 { 0 } else { self.now_ms + wait_ms };
                let payload = format!("{} ", self.published[topic]);
                stage_until(&mut self.topics, &topic.to_string(), payload.as_bytes(), due_ms);
                self.published[topic] += 1;
            }
            Step::Join(slot, topic, is_loud) => {
                let variant = if is_loud { LOUD } else { RAW };
                if !self.next.contains_key(&(slot, topic)) {
                    subscribe(&mut self.topics, &topic.to_string(), slot, variant);
                    self.next.insert((slot, topic), (variant, self.published[topic]));
                }
            }
            Step::Leave(slot, topic) => {
                if let Some((variant, _)) = self.next.remove(&(slot, topic)) {
                    let id = self.topics.find(&name(&topic.to_string())).unwrap();
                    self.topics.unsubscribe(id, SlotId(slot), variant);
                }
            }
            Step::End(slot) => (0..TOPICS).for_each(|topic| self.take(Step::Leave(slot, topic))),
            Step::Send(lane, slots) => {
                self.send(lane, slots);
            }
            Step::Clock(ms) => {
                self.now_ms += ms;
                self.topics.board_due(self.now_ms);
            }
        }
    }

    /// Sends a batch and checks that each subscription receives its next publications. Returns the number of slots.
    fn send(&mut self, lane: Lane, slots: usize) -> usize {
        self.topics.gather(lane, slots, &mut self.batch, &mut encode);
        let mut seen = Vec::new();
        for visit in self.batch.visits() {
            seen.push(visit.slot.0);
            for run in self.batch.runs(*visit) {
                let topic: usize = self.topics.name(run.topic).as_str().parse().unwrap();
                let (variant, next) = self.next.get_mut(&(visit.slot.0, topic)).expect("the slot has subscribed");
                assert_eq!(run.variant, *variant);
                for number in std::str::from_utf8(&run.bytes).unwrap().split_whitespace() {
                    assert_eq!(number.parse(), Ok(*next), "slot {} on topic {topic}", visit.slot.0);
                    *next += 1;
                }
            }
        }
        seen.sort_unstable();
        assert!(seen.windows(2).all(|pair| pair[0] != pair[1]), "a slot was visited twice in a batch: {seen:?}");
        seen.len()
    }

    /// Sends the rest and checks that every subscriber has received all.
    fn finish(mut self) {
        self.topics.board_due(u64::MAX);
        while self.topics.has_work() {
            for lane in Lane::ALL {
                self.send(lane, 3);
            }
        }
        assert!(self.topics.is_quiet());
        for ((slot, topic), (_, next)) in &self.next {
            assert_eq!(*next, self.published[*topic], "slot {slot} on topic {topic}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn each_subscriber_receives_each_publication_once_in_order(steps in steps(), express_max in 0usize..5) {
        let mut model = Model::new(express_max);
        steps.into_iter().for_each(|step| model.take(step));
        model.finish();
    }

    #[test]
    fn a_publication_leaves_within_one_round(steps in steps(), express_max in 0usize..5) {
        let mut model = Model::new(express_max);
        steps.into_iter().for_each(|step| model.take(step));
        model.topics.board_due(u64::MAX);
        // Pushes that have outgrown the express lane board the other one when the express lane has none of the topic.
        for lane in [Lane::Express, Lane::Crowds] {
            let mut visits = 0;
            while model.topics.has_work_on(lane) {
                visits += model.send(lane, 1);
                prop_assert!(visits <= 2 * SLOTS as usize);
            }
        }
        prop_assert!(!model.topics.has_work());
    }
}

#[test]
fn a_subscriber_whose_variant_changes_receives_each_push_once() {
    let mut topics = Topics::default();
    let slots: Vec<u32> = (0..9).collect();
    let id = slots.iter().map(|slot| subscribe(&mut topics, "a", *slot, RAW)).last().unwrap();
    for changed in slots {
        stage(&mut topics, "a", b"x");
        // A part of the subscribers has received it when one of them changes.
        let mut sends = send(&mut topics, 4);
        topics.change_variant(id, SlotId(changed), RAW, LOUD);
        stage(&mut topics, "a", b"y");
        while topics.has_work() {
            sends.extend(send(&mut topics, 4));
        }
        for slot in 0..9 {
            let text: String = sends.iter().filter(|(_, to)| *to == slot).map(|(text, _)| text.as_str()).collect();
            assert_eq!(text.to_ascii_lowercase(), "xy", "slot {slot} after {changed} has changed");
            let is_loud = slot <= changed;
            assert_eq!(text.ends_with('Y'), is_loud, "slot {slot} after {changed} has changed: {text}");
        }
    }
    assert!(topics.unsubscribe(id, SlotId(0), LOUD) || topics.find(&name("a")).is_some());
}
