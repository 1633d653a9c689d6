//! All topics that somebody on this shard subscribed to, and what is to go out to them.
//!
//! What a turn brings for a topic is one run for each variant that it has subscribers of. A run is sent in pieces where
//! it has many subscribers, so it takes along whom it is for: who subscribes later is not among them, and who has
//! unsubscribed no longer is. Runs of a topic are sent one after the other; topics take turns.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use slab::Slab;
use smallvec::SmallVec;

use super::{NamespaceId, Push, Subscribers, TopicName, Variant};
use crate::buf::SharedFrame;
use crate::limits::SHARD_TOPICS_MAX;

/// A topic that has subscribers on this shard, for as long as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicId(u32);

#[derive(Debug)]
struct Topic {
    name: TopicName,
    namespace: NamespaceId,
    /// By variant; none of them is empty. Nearly always one or two.
    subscribers: SmallVec<[(Variant, Subscribers); 1]>,
    /// Who has asked to subscribe, and waits for what it has missed.
    joining: u32,
    /// What came since its last runs began, in order.
    staged: SmallVec<[Push; 1]>,
    /// Runs that have not been sent to all, in order.
    runs: VecDeque<Unfinished>,
}

/// One push of a run, as it is sent alone.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its place among [`Run::pushes`].
    pub push: usize,
    /// Its bytes.
    pub frame: SharedFrame,
}

/// All that one turn brought for a topic: one run of bytes, the same for all its subscribers of one variant.
#[derive(Debug)]
pub struct Run {
    /// The topic.
    pub topic: TopicId,
    /// The topic's namespace.
    pub namespace: NamespaceId,
    /// Whom of its subscribers it is for.
    pub variant: Variant,
    /// What was pushed, for all variants.
    pub pushes: Rc<[Push]>,
    /// The frames of those that this variant is sent, in order.
    pub parts: SmallVec<[Part; 1]>,
    /// These frames, one after the other.
    pub bytes: SharedFrame,
}

impl Run {
    /// Where it is cut when its first `sent` bytes have left: the part that has begun to leave, with how many of its
    /// bytes have, unless the cut is between two; and those of which nothing has.
    pub fn cut(&self, sent: usize) -> (Option<(&Part, usize)>, &[Part]) {
        let mut start = 0;
        for (index, part) in self.parts.iter().enumerate() {
            let end = start + part.frame.len();
            if sent <= start {
                return (None, &self.parts[index..]);
            }
            if sent < end {
                return (Some((part, sent - start)), &self.parts[index + 1..]);
            }
            start = end;
        }
        (None, &[])
    }
}

/// A run on its way.
#[derive(Debug)]
struct Unfinished {
    run: Rc<Run>,
    /// Who has not been sent it.
    remaining: Subscribers,
}

/// The topics of one shard.
#[derive(Debug, Default)]
pub struct Topics {
    ids: HashMap<TopicName, TopicId>,
    topics: Slab<Topic>,
    /// Topics with something staged, in the order of their first.
    staged: Vec<TopicId>,
    /// Topics with runs that have not been sent to all; the first is next.
    sending: VecDeque<TopicId>,
    /// Topics that were forgotten without their homes having heard of it, and how many times. What comes from there is
    /// for those who were here before: whoever subscribes meanwhile would see that, and then not what the home does not
    /// send because it has heard.
    parting: HashMap<TopicName, u32>,
}

impl TopicId {
    /// A number that no other topic of this shard has as long as this one is here.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Topics {
    /// Whether there is room for subscribers of `name`.
    pub fn has_room_for(&self, name: &TopicName) -> bool {
        self.topics.len() < SHARD_TOPICS_MAX || self.ids.contains_key(name)
    }

    /// The id of `name`, which is in `namespace`; and whether it is new here, so that its home must be told. Unless
    /// somebody subscribes or [begins to](Self::begin_join), forget it again.
    pub fn find_or_make(&mut self, name: &TopicName, namespace: NamespaceId) -> (TopicId, bool) {
        match self.ids.entry(name.clone()) {
            Entry::Occupied(entry) => (*entry.get(), false),
            Entry::Vacant(entry) => {
                let topic = Topic {
                    name: name.clone(),
                    namespace,
                    subscribers: SmallVec::new(),
                    joining: 0,
                    staged: SmallVec::new(),
                    runs: VecDeque::new(),
                };
                (*entry.insert(TopicId(self.topics.insert(topic) as u32)), true)
            }
        }
    }

    /// Subscribes `slot`, which is sent `variant` of each push from now on. `false` if it had subscribed so.
    ///
    /// What is [staged](Self::has_staged) would be sent to it, too: [begin](Self::begin_runs_of) it first.
    pub fn subscribe(&mut self, id: TopicId, slot: u32, variant: Variant) -> bool {
        self.topic_mut(id).subscribers_mut(variant).insert(slot)
    }

    /// Ends the subscription of `slot`, which was for `variant`. `true` if the topic was forgotten: its home must be
    /// told.
    pub fn unsubscribe(&mut self, id: TopicId, slot: u32, variant: Variant) -> bool {
        let topic = self.topic_mut(id);
        topic.subscribers_mut(variant).remove(slot);
        topic.subscribers.retain(|(_, subscribers)| !subscribers.is_empty());
        for other in topic.runs.iter_mut().filter(|other| other.run.variant == variant) {
            other.remaining.remove(slot);
        }
        self.forget_if_unused(id)
    }

    /// Somebody waits for what it has missed, and subscribes then.
    pub fn begin_join(&mut self, id: TopicId) {
        self.topic_mut(id).joining += 1;
    }

    /// It no longer waits: it has subscribed, or will not. `true` if the topic was forgotten: its home must be told.
    pub fn end_join(&mut self, id: TopicId) -> bool {
        self.topic_mut(id).joining -= 1;
        self.forget_if_unused(id)
    }

    fn forget_if_unused(&mut self, id: TopicId) -> bool {
        let topic = &self.topics[id.0 as usize];
        if topic.joining > 0 || !topic.subscribers.is_empty() {
            return false;
        }
        let topic = self.topics.remove(id.0 as usize);
        self.ids.remove(&topic.name);
        if !topic.staged.is_empty() {
            self.staged.retain(|staged| *staged != id);
        }
        if !topic.runs.is_empty() {
            self.sending.retain(|sending| *sending != id);
        }
        true
    }

    /// A topic was forgotten, and its home is being told.
    pub fn begin_parting(&mut self, name: &TopicName) {
        *self.parting.entry(name.clone()).or_default() += 1;
    }

    /// The home has heard.
    pub fn end_parting(&mut self, name: &TopicName) {
        let Some(times) = self.parting.get_mut(name) else { return };
        *times -= 1;
        if *times == 0 {
            self.parting.remove(name);
        }
        if self.parting.is_empty() {
            self.parting = HashMap::new();
        }
    }

    /// The id of a topic that has subscribers here.
    pub fn find(&self, name: &TopicName) -> Option<TopicId> {
        self.ids.get(name).copied()
    }

    /// The name of a topic.
    pub fn name(&self, id: TopicId) -> &TopicName {
        &self.topics[id.0 as usize].name
    }

    /// The namespace of a topic.
    pub fn namespace(&self, id: TopicId) -> NamespaceId {
        self.topics[id.0 as usize].namespace
    }

    /// Puts something up for the subscribers of a topic on this shard, if there are any that it is for.
    pub fn stage(&mut self, name: &TopicName, push: Push) {
        if !self.parting.is_empty() && self.parting.contains_key(name) {
            return;
        }
        let Some(id) = self.find(name) else { return };
        let topic = self.topic_mut(id);
        topic.staged.push(push);
        if topic.staged.len() == 1 {
            self.staged.push(id);
        }
    }

    /// Whether something is put up that has not begun to be sent.
    pub fn has_staged(&self, id: TopicId) -> bool {
        !self.topics[id.0 as usize].staged.is_empty()
    }

    /// Whether there is anything to send now. What waits for the end of unfinished runs of its topic does not count,
    /// since those do.
    pub fn has_work(&self) -> bool {
        !self.staged.is_empty() || !self.sending.is_empty()
    }

    /// Makes runs of what was staged, except for topics whose last ones are not finished: more may come for these.
    /// `encode` gives the frame of a push in a variant, or `None` where it is not for such subscribers.
    pub fn begin_runs(&mut self, mut encode: impl FnMut(&TopicName, &Push, Variant) -> Option<SharedFrame>) {
        for id in std::mem::take(&mut self.staged) {
            if self.topics[id.0 as usize].runs.is_empty() {
                self.make_runs(id, &mut encode);
            } else {
                self.staged.push(id);
            }
        }
    }

    /// Makes runs of what was staged for one topic: for those who have subscribed until now.
    pub fn begin_runs_of(
        &mut self,
        id: TopicId,
        mut encode: impl FnMut(&TopicName, &Push, Variant) -> Option<SharedFrame>,
    ) {
        self.staged.retain(|staged| *staged != id);
        self.make_runs(id, &mut encode);
    }

    fn make_runs(&mut self, id: TopicId, encode: &mut impl FnMut(&TopicName, &Push, Variant) -> Option<SharedFrame>) {
        let topic = &mut self.topics[id.0 as usize];
        let was_sending = !topic.runs.is_empty();
        let pushes: Rc<[Push]> = std::mem::take(&mut topic.staged).into_iter().collect();
        for (variant, subscribers) in &topic.subscribers {
            let encoded = pushes.iter().map(|push| encode(&topic.name, push, *variant)).enumerate();
            let parts: SmallVec<[Part; 1]> =
                encoded.filter_map(|(push, frame)| Some(Part { push, frame: frame? })).collect();
            if parts.is_empty() {
                continue;
            }
            let frames: SmallVec<[SharedFrame; 1]> = parts.iter().map(|part| part.frame.clone()).collect();
            let run = Run {
                topic: id,
                namespace: topic.namespace,
                variant: *variant,
                pushes: pushes.clone(),
                parts,
                bytes: SharedFrame::join(&frames),
            };
            topic.runs.push_back(Unfinished { run: Rc::new(run), remaining: subscribers.clone() });
        }
        if !was_sending && !topic.runs.is_empty() {
            self.sending.push_back(id);
        }
    }

    /// Takes whom to send what next: at most `count_max` subscribers, in slot order within a run. They are appended to
    /// `targets`, each with the place of its run among those returned.
    pub fn take_batch(&mut self, count_max: usize, targets: &mut Vec<(u32, u32)>) -> Vec<Rc<Run>> {
        let mut runs = Vec::new();
        while targets.len() < count_max {
            let Some(id) = self.sending.pop_front() else { break };
            let topic = &mut self.topics[id.0 as usize];
            while let Some(first) = topic.runs.front_mut().filter(|_| targets.len() < count_max) {
                let index = runs.len() as u32;
                runs.push(first.run.clone());
                first.remaining.take(count_max - targets.len(), |slot| targets.push((index, slot)));
                if first.remaining.is_empty() {
                    topic.runs.pop_front();
                }
            }
            if !topic.runs.is_empty() {
                // Behind the others, so that a large topic does not keep small ones waiting.
                self.sending.push_back(id);
            }
        }
        runs
    }

    /// How many topics have subscribers here.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether no topic has subscribers here.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    fn topic_mut(&mut self, id: TopicId) -> &mut Topic {
        &mut self.topics[id.0 as usize]
    }
}

impl Topic {
    fn subscribers_mut(&mut self, variant: Variant) -> &mut Subscribers {
        let index = self.subscribers.iter().position(|(other, _)| *other == variant).unwrap_or_else(|| {
            self.subscribers.push((variant, Subscribers::new()));
            self.subscribers.len() - 1
        });
        &mut self.subscribers[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::publication;
    use super::super::{Encoding, Epoch, Namespaces, Position};
    use super::*;

    const RAW: Variant = Variant::RAW;
    const LOUD: Variant = Variant { encoding: Encoding::Sse, window: 0, join_leave: false };

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn subscribe(topics: &mut Topics, topic: &str, slot: u32, variant: Variant) -> TopicId {
        let namespace = Namespaces::default().find(&name(topic)).unwrap();
        let (id, _) = topics.find_or_make(&name(topic), namespace);
        assert!(topics.subscribe(id, slot, variant));
        id
    }

    fn stage(topics: &mut Topics, topic: &str, bytes: &[u8]) {
        let position = Position { epoch: Epoch::new(1), offset: 1 };
        topics.stage(&name(topic), Push::Publication(publication(topic, position, bytes)));
    }

    #[test]
    fn there_is_a_last_topic_and_those_before_it_take_more_subscribers() {
        let mut topics = Topics::default();
        for number in 0..SHARD_TOPICS_MAX {
            let name = name(&number.to_string());
            assert!(topics.has_room_for(&name));
            topics.find_or_make(&name, NamespaceId::default());
        }
        assert!(!topics.has_room_for(&name("new")) && topics.has_room_for(&name("7")));
        let id = topics.find(&name("7")).unwrap();
        assert!(topics.subscribe(id, 0, RAW) && topics.unsubscribe(id, 0, RAW));
        assert!(topics.has_room_for(&name("new")));
    }

    /// Plain frames; in capitals for the loud.
    fn encode(_: &TopicName, push: &Push, variant: Variant) -> Option<SharedFrame> {
        let Push::Publication(publication) = push else { return None };
        match variant {
            RAW => Some(publication.body.frame.clone()),
            LOUD => Some(SharedFrame::new(publication.body.frame.to_ascii_uppercase())),
            other => panic!("nobody wants {other:?}"),
        }
    }

    /// What is sent to whom in a turn that sends to `count_max`.
    fn send(topics: &mut Topics, count_max: usize) -> Vec<(String, u32)> {
        topics.begin_runs(encode);
        let mut targets = Vec::new();
        let runs = topics.take_batch(count_max, &mut targets);
        let text = |index: u32| String::from_utf8(runs[index as usize].bytes.to_vec()).unwrap();
        targets.into_iter().map(|(index, slot)| (text(index), slot)).collect()
    }

    fn sent(expected: &[(&str, u32)]) -> Vec<(String, u32)> {
        expected.iter().map(|(text, slot)| (text.to_string(), *slot)).collect()
    }

    #[test]
    fn publications_of_a_turn_leave_as_one_run_per_topic() {
        let mut topics = Topics::default();
        let a = subscribe(&mut topics, "a", 9, RAW);
        assert_eq!(subscribe(&mut topics, "a", 3, RAW), a);
        assert!(!topics.subscribe(a, 3, RAW));
        subscribe(&mut topics, "b", 3, RAW);
        stage(&mut topics, "a", b"1");
        stage(&mut topics, "b", b"x");
        stage(&mut topics, "a", b"2");
        stage(&mut topics, "nobody", b"y");
        assert_eq!(send(&mut topics, 100), sent(&[("12", 3), ("12", 9), ("x", 3)]));
        assert!(send(&mut topics, 100).is_empty() && !topics.has_work());
    }

    #[test]
    fn each_variant_is_a_run_for_those_who_want_it() {
        let mut topics = Topics::default();
        let id = subscribe(&mut topics, "a", 1, RAW);
        for slot in [5, 4] {
            subscribe(&mut topics, "a", slot, LOUD);
        }
        stage(&mut topics, "a", b"x");
        stage(&mut topics, "a", b"y");
        assert_eq!(send(&mut topics, 100), sent(&[("xy", 1), ("XY", 4), ("XY", 5)]));
        assert!(!topics.unsubscribe(id, 1, RAW));
        stage(&mut topics, "a", b"z");
        assert_eq!(send(&mut topics, 100), sent(&[("Z", 4), ("Z", 5)]));
    }

    #[test]
    fn a_run_is_cut_between_its_parts_or_within_one() {
        let mut topics = Topics::default();
        subscribe(&mut topics, "a", 1, RAW);
        for bytes in [&b"one"[..], b"two!"] {
            stage(&mut topics, "a", bytes);
        }
        topics.begin_runs(encode);
        let run = topics.take_batch(1, &mut Vec::new()).remove(0);
        let rows = [
            (0, None, &[3, 4][..]),
            (1, Some((3, 1)), &[4]),
            (3, None, &[4]),
            (5, Some((4, 2)), &[]),
            (6, Some((4, 3)), &[]),
            (7, None, &[]),
        ];
        for (sent, begun, rest) in rows {
            let (part, parts) = run.cut(sent);
            let lens: Vec<usize> = parts.iter().map(|part| part.frame.len()).collect();
            assert_eq!((part.map(|(part, skip)| (part.frame.len(), skip)), &lens[..]), (begun, rest), "after {sent}");
        }
    }

    #[test]
    fn a_run_that_is_for_many_goes_on_and_lets_others_pass() {
        let mut topics = Topics::default();
        let crowd = (0..10).map(|slot| subscribe(&mut topics, "crowd", slot, RAW)).last().unwrap();
        subscribe(&mut topics, "a", 3, RAW);
        stage(&mut topics, "crowd", b"1");
        assert_eq!(send(&mut topics, 4), sent(&[("1", 0), ("1", 1), ("1", 2), ("1", 3)]));
        stage(&mut topics, "crowd", b"2");
        stage(&mut topics, "crowd", b"3");
        stage(&mut topics, "a", b"x");
        // Who subscribes now comes after what is being sent, and who leaves is not sent the rest of it.
        subscribe(&mut topics, "crowd", 20, RAW);
        topics.unsubscribe(crowd, 5, RAW);
        assert_eq!(send(&mut topics, 3), sent(&[("1", 4), ("1", 6), ("1", 7)]));
        assert_eq!(send(&mut topics, 3), sent(&[("x", 3), ("1", 8), ("1", 9)]));
        assert!(topics.has_work());
        let rest = send(&mut topics, 100);
        assert_eq!(rest.len(), 10);
        assert!(rest.iter().all(|(text, _)| text == "23") && rest.last().unwrap().1 == 20);
        assert!(!topics.has_work());
    }

    #[test]
    fn who_subscribes_while_something_is_put_up_is_not_sent_it() {
        let mut topics = Topics::default();
        let id = subscribe(&mut topics, "a", 1, RAW);
        subscribe(&mut topics, "a", 2, RAW);
        stage(&mut topics, "a", b"1");
        assert_eq!(send(&mut topics, 1), sent(&[("1", 1)]));
        stage(&mut topics, "a", b"2");
        assert!(topics.has_staged(id));
        topics.begin_runs_of(id, encode);
        assert!(!topics.has_staged(id));
        subscribe(&mut topics, "a", 0, RAW);
        stage(&mut topics, "a", b"3");
        assert_eq!(send(&mut topics, 100), sent(&[("1", 2), ("2", 1), ("2", 2)]), "one after the other");
        assert_eq!(send(&mut topics, 100), sent(&[("3", 0), ("3", 1), ("3", 2)]));
    }

    #[test]
    fn a_topic_without_subscribers_is_forgotten_with_what_it_had_to_send() {
        let mut topics = Topics::default();
        let id = subscribe(&mut topics, "a", 1, RAW);
        subscribe(&mut topics, "a", 2, RAW);
        stage(&mut topics, "a", b"1");
        assert_eq!(send(&mut topics, 1), sent(&[("1", 1)]));
        stage(&mut topics, "a", b"2");
        assert!(!topics.unsubscribe(id, 1, RAW));
        assert!(topics.unsubscribe(id, 2, RAW));
        assert!(topics.is_empty() && !topics.has_work());
        subscribe(&mut topics, "a", 2, RAW);
        assert!(send(&mut topics, 100).is_empty());
    }

    #[test]
    fn what_was_for_those_before_is_not_for_those_who_come() {
        let mut topics = Topics::default();
        let before = subscribe(&mut topics, "a", 1, RAW);
        for _ in 0..2 {
            assert!(topics.unsubscribe(before, 1, RAW));
            topics.begin_parting(&name("a"));
            assert_eq!(subscribe(&mut topics, "a", 1, RAW), before);
        }
        stage(&mut topics, "a", b"1");
        topics.end_parting(&name("a"));
        stage(&mut topics, "a", b"2");
        topics.end_parting(&name("a"));
        stage(&mut topics, "a", b"4");
        assert_eq!(send(&mut topics, 100), sent(&[("4", 1)]));
    }

    #[test]
    fn a_topic_stays_while_somebody_joins() {
        let mut topics = Topics::default();
        let id = subscribe(&mut topics, "a", 1, RAW);
        topics.begin_join(id);
        assert!(!topics.unsubscribe(id, 1, RAW));
        assert!(topics.end_join(id) && topics.is_empty());
    }
}
