//! All topics that somebody on this shard subscribed to, and what is to go out to them in this turn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use slab::Slab;
use smallvec::SmallVec;

use super::{Publication, Subscribers, TopicName, Variant};
use crate::buf::SharedFrame;

/// A topic that has subscribers on this shard, for as long as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicId(u32);

#[derive(Debug)]
struct Topic {
    name: TopicName,
    /// By variant; none of them is empty. Nearly always one or two.
    subscribers: SmallVec<[(Variant, Subscribers); 1]>,
    /// Publications of this turn, in order.
    staged: SmallVec<[Publication; 1]>,
}

/// All that one turn brought for a topic: one run of bytes, the same for all its subscribers of one variant.
#[derive(Debug)]
pub struct Run {
    /// The topic.
    pub topic: TopicId,
    /// Whom of its subscribers it is for.
    pub variant: Variant,
    /// Its frames, one after the other.
    pub bytes: SharedFrame,
    /// How many messages that is.
    pub messages: usize,
}

/// The topics of one shard.
#[derive(Debug, Default)]
pub struct Topics {
    ids: HashMap<TopicName, TopicId>,
    topics: Slab<Topic>,
    /// Topics with staged frames, in the order of their first.
    staged: Vec<TopicId>,
}

impl Topics {
    /// Subscribes `slot`, which is sent `variant` of each publication. `None` if it had subscribed.
    pub fn subscribe(&mut self, name: &TopicName, slot: u32, variant: Variant) -> Option<TopicId> {
        let id = match self.ids.entry(name.clone()) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let topic = Topic { name: name.clone(), subscribers: SmallVec::new(), staged: SmallVec::new() };
                *entry.insert(TopicId(self.topics.insert(topic) as u32))
            }
        };
        self.topic_mut(id).subscribers_mut(variant).insert(slot).then_some(id)
    }

    /// Ends the subscription of `slot`, which was for `variant`; a topic without any is forgotten, with what was staged
    /// for it.
    pub fn unsubscribe(&mut self, id: TopicId, slot: u32, variant: Variant) {
        let topic = self.topic_mut(id);
        topic.subscribers_mut(variant).remove(slot);
        topic.subscribers.retain(|(_, subscribers)| !subscribers.is_empty());
        if topic.subscribers.is_empty() {
            let topic = self.topics.remove(id.0 as usize);
            self.ids.remove(&topic.name);
            if !topic.staged.is_empty() {
                self.staged.retain(|staged| *staged != id);
            }
        }
    }

    /// The id of a topic that has subscribers here.
    pub fn find(&self, name: &TopicName) -> Option<TopicId> {
        self.ids.get(name).copied()
    }

    /// Puts a publication up for its subscribers on this shard, if there are any.
    pub fn stage(&mut self, publication: &Publication) {
        let Some(id) = self.find(&publication.topic) else { return };
        let topic = self.topic_mut(id);
        topic.staged.push(publication.clone());
        if topic.staged.len() == 1 {
            self.staged.push(id);
        }
    }

    /// What was staged since the last call: for each topic one run for each variant that it has subscribers of.
    /// `encode` gives the frame of a publication in a variant.
    pub fn take_runs(&mut self, mut encode: impl FnMut(&Publication, Variant) -> SharedFrame) -> Vec<Run> {
        let mut runs = Vec::new();
        for id in std::mem::take(&mut self.staged) {
            let topic = &mut self.topics[id.0 as usize];
            let staged = std::mem::take(&mut topic.staged);
            for (variant, _) in &topic.subscribers {
                let frames = staged.iter().map(|publication| encode(publication, *variant));
                let bytes = SharedFrame::join(&frames.collect::<SmallVec<[_; 1]>>());
                runs.push(Run { topic: id, variant: *variant, bytes, messages: staged.len() });
            }
        }
        runs
    }

    /// The subscribers of a topic that are sent `variant`, in slot order.
    pub fn subscribers(&self, id: TopicId, variant: Variant) -> impl Iterator<Item = u32> {
        let subscribers = &self.topics[id.0 as usize].subscribers;
        let of_variant = subscribers.iter().filter(move |(other, _)| *other == variant);
        of_variant.flat_map(|(_, subscribers)| subscribers.iter())
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
    use super::super::{Epoch, Position};
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn stage(topics: &mut Topics, topic: &str, bytes: &[u8]) {
        let position = Position { epoch: Epoch::new(1), offset: 1 };
        let frame = SharedFrame::new(bytes.to_vec());
        topics.stage(&Publication { topic: name(topic), position, frame, lazy_frames: None });
    }

    /// The plain frames.
    fn take_runs(topics: &mut Topics) -> Vec<Run> {
        topics.take_runs(|publication, variant| {
            assert_eq!(variant, PLAIN);
            publication.frame.clone()
        })
    }

    fn slots(topics: &Topics, id: TopicId, variant: Variant) -> Vec<u32> {
        topics.subscribers(id, variant).collect()
    }

    const PLAIN: Variant = Variant::PLAIN;

    #[test]
    fn publications_of_a_turn_leave_as_one_run_per_topic() {
        let mut topics = Topics::default();
        let a = topics.subscribe(&name("a"), 9, PLAIN).unwrap();
        assert_eq!(topics.subscribe(&name("a"), 3, PLAIN), Some(a));
        assert_eq!(topics.subscribe(&name("a"), 3, PLAIN), None);
        let b = topics.subscribe(&name("b"), 3, PLAIN).unwrap();
        stage(&mut topics, "a", b"1");
        stage(&mut topics, "b", b"x");
        stage(&mut topics, "a", b"2");
        stage(&mut topics, "nobody", b"y");
        let runs = take_runs(&mut topics);
        let seen: Vec<_> = runs.iter().map(|run| (run.topic, &*run.bytes, run.messages)).collect();
        assert_eq!(seen, [(a, &b"12"[..], 2), (b, b"x", 1)]);
        assert_eq!(slots(&topics, a, PLAIN), [3, 9]);
        assert!(take_runs(&mut topics).is_empty());
    }

    #[test]
    fn each_variant_is_a_run_for_those_who_want_it() {
        const LOUD: Variant = Variant(7);
        let mut topics = Topics::default();
        let id = topics.subscribe(&name("a"), 1, PLAIN).unwrap();
        for slot in [5, 4, 3] {
            assert_eq!(topics.subscribe(&name("a"), slot, LOUD), Some(id));
        }
        stage(&mut topics, "a", b"x");
        stage(&mut topics, "a", b"y");
        let loud = |publication: &Publication, variant: Variant| match variant {
            PLAIN => publication.frame.clone(),
            LOUD => SharedFrame::new(publication.frame.to_ascii_uppercase()),
            other => panic!("nobody wants {other:?}"),
        };
        let runs = topics.take_runs(loud);
        let seen: Vec<_> = runs.iter().map(|run| (run.variant, &*run.bytes, run.messages)).collect();
        assert_eq!(seen, [(PLAIN, &b"xy"[..], 2), (LOUD, b"XY", 2)]);
        assert_eq!((slots(&topics, id, PLAIN), slots(&topics, id, LOUD)), (vec![1], vec![3, 4, 5]));
        topics.unsubscribe(id, 1, PLAIN);
        stage(&mut topics, "a", b"z");
        let variants: Vec<_> = topics.take_runs(loud).iter().map(|run| run.variant).collect();
        assert_eq!(variants, [LOUD], "nothing is encoded that nobody is sent");
    }

    #[test]
    fn a_topic_without_subscribers_is_forgotten_with_what_it_staged() {
        let mut topics = Topics::default();
        let id = topics.subscribe(&name("a"), 1, PLAIN).unwrap();
        stage(&mut topics, "a", b"1");
        topics.unsubscribe(id, 1, PLAIN);
        assert!(topics.is_empty());
        assert!(take_runs(&mut topics).is_empty());
        let again = topics.subscribe(&name("a"), 2, PLAIN).unwrap();
        assert!(take_runs(&mut topics).is_empty());
        assert_eq!(slots(&topics, again, PLAIN), [2]);
    }
}
