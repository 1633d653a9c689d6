//! The topics of a run, and the topic of each subscriber.

use crate::masking_keys::MaskingKeys;

/// Topics by number, the largest audience first.
#[derive(Debug)]
pub(crate) struct Topics {
    names: Vec<String>,
    /// The topic of each subscriber.
    of: Vec<u32>,
}

impl Topics {
    /// One topic for all subscribers.
    pub(crate) fn one(name: &str, subscribers: u32) -> Topics {
        Topics { names: vec![name.to_owned()], of: vec![0; subscribers as usize] }
    }

    /// One topic for the `first` subscribers, and another for the `others` after them.
    pub(crate) fn split(name: &str, first: u32, others: u32) -> Topics {
        let of = [vec![0; first as usize], vec![1; others as usize]].concat();
        Topics { names: (0..2).map(|topic| format!("{name}-{topic}")).collect(), of }
    }

    /// `count` topics, at most one per subscriber; each subscriber subscribes to one. The audience of topic number `k`,
    /// from 1, is proportional to `1 / k^skew` (Zipf's law): 0 makes all equal, 1 is typical of popularity. Subscribers
    /// with neighbouring numbers have different topics.
    pub(crate) fn several(name: &str, subscribers: u32, count: u32, skew: f64) -> Topics {
        let sizes = audiences(subscribers, count, skew);
        let mut of: Vec<u32> = (0..).zip(sizes).flat_map(|(topic, size)| vec![topic; size as usize]).collect();
        shuffle(&mut of);
        Topics { names: (0..count).map(|topic| format!("{name}-{topic}")).collect(), of }
    }

    /// Number of topics.
    pub(crate) fn count(&self) -> u32 {
        self.names.len() as u32
    }

    pub(crate) fn name(&self, topic: u32) -> &str {
        &self.names[topic as usize]
    }

    /// The topic of `subscriber`.
    pub(crate) fn of(&self, subscriber: u32) -> u32 {
        self.of[subscriber as usize]
    }
}

/// Number of subscribers per topic: proportional to its weight, but at least one.
fn audiences(subscribers: u32, count: u32, skew: f64) -> Vec<u32> {
    let weights: Vec<f64> = (1..=count).map(|rank| f64::from(rank).powf(-skew)).collect();
    let total: f64 = weights.iter().sum();
    let shared = f64::from(subscribers - count);
    let mut sizes: Vec<u32> = weights.iter().map(|weight| 1 + (shared * weight / total) as u32).collect();
    let rounded_off = subscribers - sizes.iter().sum::<u32>();
    sizes[..rounded_off as usize].iter_mut().for_each(|size| *size += 1);
    sizes
}

/// Shuffles, in the same order in every run.
fn shuffle(numbers: &mut [u32]) {
    let mut keys = MaskingKeys::new();
    for last in (1..numbers.len()).rev() {
        let other = u32::from_ne_bytes(keys.next()) as usize % (last + 1);
        numbers.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(topics: &Topics, subscribers: u32) -> Vec<usize> {
        let of = |topic| (0..subscribers).filter(|subscriber| topics.of(*subscriber) == topic).count();
        (0..topics.count()).map(of).collect()
    }

    #[test]
    fn without_skew_all_audiences_are_equal() {
        let topics = Topics::several("t", 100, 4, 0.0);
        assert_eq!(sizes(&topics, 100), [25; 4]);
        assert_eq!(sizes(&Topics::split("t", 3, 5), 8), [3, 5]);
        assert_eq!((topics.name(3), Topics::one("t", 5).name(0)), ("t-3", "t"));
    }

    #[test]
    fn with_skew_the_first_are_large_and_none_is_empty() {
        let sizes = sizes(&Topics::several("t", 1000, 100, 1.0), 1000);
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[99] >= 1, "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 1000);
        assert!(
            (170..200).contains(&sizes[0]),
            "of a hundred topics the first has 1 / 5.19 of the shared subscribers: {sizes:?}"
        );
        assert_eq!(audiences(5, 5, 2.0), [1; 5]);
    }

    #[test]
    fn neighbours_are_of_different_topics() {
        let topics = Topics::several("t", 1000, 2, 0.0);
        let changes = (1..1000).filter(|subscriber| topics.of(*subscriber) != topics.of(subscriber - 1)).count();
        assert!((400..600).contains(&changes), "{changes}");
    }
}
