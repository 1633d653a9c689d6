//! All topics that somebody on this shard subscribed to, and what is to go out to them in this turn.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use slab::Slab;
use smallvec::SmallVec;

use super::{Publication, Subscribers, TopicName};
use crate::buf::SharedFrame;

/// A topic that has subscribers on this shard, for as long as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicId(u32);

#[derive(Debug)]
struct Topic {
    name: TopicName,
    subscribers: Subscribers,
    /// Frames of this turn, in order.
    staged: SmallVec<[SharedFrame; 1]>,
}

/// All that one turn brought for a topic: one run of bytes, the same for all its subscribers.
#[derive(Debug)]
pub struct Run {
    /// The topic.
    pub topic: TopicId,
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
    /// Subscribes `slot`. `None` if it had subscribed.
    pub fn subscribe(&mut self, name: &TopicName, slot: u32) -> Option<TopicId> {
        let id = match self.ids.entry(name.clone()) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let topic = Topic { name: name.clone(), subscribers: Subscribers::new(), staged: SmallVec::new() };
                *entry.insert(TopicId(self.topics.insert(topic) as u32))
            }
        };
        self.topic_mut(id).subscribers.insert(slot).then_some(id)
    }

    /// Ends the subscription of `slot`; a topic without any is forgotten, with what was staged for it.
    pub fn unsubscribe(&mut self, id: TopicId, slot: u32) {
        let topic = self.topic_mut(id);
        topic.subscribers.remove(slot);
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
        topic.staged.push(publication.frame.clone());
        if topic.staged.len() == 1 {
            self.staged.push(id);
        }
    }

    /// What was staged since the last call: for each topic one run.
    pub fn take_runs(&mut self) -> Vec<Run> {
        let staged = std::mem::take(&mut self.staged);
        staged.into_iter().map(|id| self.take_run(id)).collect()
    }

    fn take_run(&mut self, id: TopicId) -> Run {
        let frames = std::mem::take(&mut self.topic_mut(id).staged);
        Run { topic: id, bytes: SharedFrame::join(&frames), messages: frames.len() }
    }

    /// The subscribers of a topic.
    pub fn subscribers(&self, id: TopicId) -> &Subscribers {
        &self.topics[id.0 as usize].subscribers
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

#[cfg(test)]
mod tests {
    use super::super::{Epoch, Position};
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    fn stage(topics: &mut Topics, topic: &str, bytes: &[u8]) {
        let position = Position { epoch: Epoch::new(1), offset: 1 };
        topics.stage(&Publication { topic: name(topic), position, frame: SharedFrame::new(bytes.to_vec()) });
    }

    fn slots(topics: &Topics, id: TopicId) -> Vec<u32> {
        topics.subscribers(id).iter().collect()
    }

    #[test]
    fn publications_of_a_turn_leave_as_one_run_per_topic() {
        let mut topics = Topics::default();
        let a = topics.subscribe(&name("a"), 9).unwrap();
        assert_eq!(topics.subscribe(&name("a"), 3), Some(a));
        assert_eq!(topics.subscribe(&name("a"), 3), None);
        let b = topics.subscribe(&name("b"), 3).unwrap();
        stage(&mut topics, "a", b"1");
        stage(&mut topics, "b", b"x");
        stage(&mut topics, "a", b"2");
        stage(&mut topics, "nobody", b"y");
        let runs = topics.take_runs();
        let seen: Vec<_> = runs.iter().map(|run| (run.topic, &*run.bytes, run.messages)).collect();
        assert_eq!(seen, [(a, &b"12"[..], 2), (b, b"x", 1)]);
        assert_eq!(slots(&topics, a), [3, 9]);
        assert!(topics.take_runs().is_empty());
    }

    #[test]
    fn a_topic_without_subscribers_is_forgotten_with_what_it_staged() {
        let mut topics = Topics::default();
        let id = topics.subscribe(&name("a"), 1).unwrap();
        stage(&mut topics, "a", b"1");
        topics.unsubscribe(id, 1);
        assert!(topics.is_empty());
        assert!(topics.take_runs().is_empty());
        let again = topics.subscribe(&name("a"), 2).unwrap();
        assert!(topics.take_runs().is_empty());
        assert_eq!(slots(&topics, again), [2]);
    }
}
