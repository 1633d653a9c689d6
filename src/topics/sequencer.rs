//! The order of the topics whose home is this shard.

use std::collections::HashMap;
use std::fmt;

use super::TopicName;
use crate::limits::HOME_TOPICS_MAX;

/// One life of a sequence of offsets. It changes when the server starts anew, so that nobody mistakes an offset of
/// before for one of now. Written as 13 characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(u64);

/// The place of a publication in its topic: offsets count 1, 2, 3 … within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which sequence.
    pub epoch: Epoch,
    /// The place in it.
    pub offset: u64,
}

/// More topics than a shard keeps the order of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTopics;

/// Gives each publication of a topic the next offset. This is the only place that does.
#[derive(Debug)]
pub struct Sequencer {
    epoch: Epoch,
    offsets: HashMap<TopicName, u64>,
}

impl Epoch {
    /// An epoch from random bits.
    pub fn new(random: u64) -> Epoch {
        Epoch(random)
    }
}

impl Sequencer {
    /// A sequencer that has not seen any topic.
    pub fn new(epoch: Epoch) -> Sequencer {
        Sequencer { epoch, offsets: HashMap::new() }
    }

    /// The position of the topic's next publication.
    ///
    /// # Errors
    /// [`TooManyTopics`] if the topic is new and [`HOME_TOPICS_MAX`] are kept.
    pub fn next(&mut self, topic: &TopicName) -> Result<Position, TooManyTopics> {
        if let Some(offset) = self.offsets.get_mut(topic) {
            *offset += 1;
            return Ok(Position { epoch: self.epoch, offset: *offset });
        }
        if self.offsets.len() == HOME_TOPICS_MAX {
            return Err(TooManyTopics);
        }
        self.offsets.insert(topic.clone(), 1);
        Ok(Position { epoch: self.epoch, offset: 1 })
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Thirteen digits of five bits hold the 64.
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        for place in (0..13).rev() {
            write!(f, "{}", DIGITS[(self.0 >> (place * 5)) as usize & 31] as char)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_from_one_for_each_topic() {
        let mut sequencer = Sequencer::new(Epoch::new(5));
        let [a, b] = ["a", "b"].map(|name| TopicName::new(name).unwrap());
        let offsets = [&a, &a, &b, &a].map(|topic| sequencer.next(topic).unwrap().offset);
        assert_eq!(offsets, [1, 2, 1, 3]);
    }

    #[test]
    fn epochs_are_written_with_thirteen_characters() {
        assert_eq!(Epoch::new(0).to_string(), "0000000000000");
        assert_eq!(Epoch::new(33).to_string(), "0000000000011");
        assert_eq!(Epoch::new(u64::MAX).to_string(), "fzzzzzzzzzzzz");
    }
}
