//! The topics of a run, and the topics of each subscriber.

use std::borrow::Cow;
use std::ops::Range;

use crate::wire::masking_keys::MaskingKeys;

/// Topics by number, the largest audience first.
#[derive(Debug)]
pub(crate) struct Topics {
    names: Vec<String>,
    /// The topics of all subscribers, one subscriber after the other. A *seat* is an index here: one subscription.
    seats: Vec<u32>,
    /// The first seat of each subscriber, and at the end the number of seats.
    firsts: Vec<u32>,
}

impl Topics {
    /// One topic for all subscribers.
    pub(crate) fn one(name: &str, subscribers: u32) -> Topics {
        Topics::of_one_each(vec![name.to_owned()], vec![0; subscribers as usize])
    }

    /// One topic for the `first` subscribers, and another for the `others` after them.
    pub(crate) fn split(name: &str, first: u32, others: u32) -> Topics {
        let of = [vec![0; first as usize], vec![1; others as usize]].concat();
        Topics::of_one_each(numbered(name, 2), of)
    }

    /// `count` topics. Each subscriber subscribes to `each` different ones, at most `count`, and each topic has at
    /// least one subscriber: there must be as many subscriptions as topics. The audience of topic number `k`, from 1,
    /// is proportional to `1 / k^skew` (Zipf's law) up to all subscribers: 0 makes all equal, 1 is typical of
    /// popularity. The choice is random, and the same in every run.
    pub(crate) fn several(name: &str, subscribers: u32, count: u32, each: u32, skew: f64) -> Topics {
        let sizes = audiences(subscribers, count, each, skew);
        // In this order a topic's seats are closer together than the number of subscribers, so the rounds below give no
        // subscriber the same topic twice, except where a topic continues in the next round.
        let mut by_size: Vec<u32> = (0..).zip(sizes).flat_map(|(topic, size)| vec![topic; size as usize]).collect();
        let mut lists = vec![Vec::with_capacity(each as usize); subscribers as usize];
        let mut random = MaskingKeys::new();
        for round in by_size.chunks_mut(subscribers as usize) {
            shuffle(round, &mut random);
            part_repeats(round, &lists, &mut random);
            lists.iter_mut().zip(&*round).for_each(|(list, topic)| list.push(*topic));
        }
        // Ascending, for binary search.
        lists.iter_mut().for_each(|list| list.sort_unstable());
        let firsts = (0..=subscribers).map(|subscriber| subscriber * each).collect();
        Topics { names: numbered(name, count), seats: lists.concat(), firsts }
    }

    /// The same, and after them the topics and subscribers of `other`.
    pub(crate) fn and(mut self, other: Topics) -> Topics {
        let (topics, seats) = (self.count(), self.seats.len() as u32);
        self.names.extend(other.names);
        self.seats.extend(other.seats.iter().map(|topic| topics + topic));
        self.firsts.extend(other.firsts[1..].iter().map(|first| seats + first));
        self
    }

    /// The same topics, with only these subscribers.
    pub(crate) fn part(&self, subscribers: Range<u32>) -> Topics {
        let firsts = &self.firsts[subscribers.start as usize..=subscribers.end as usize];
        let seats = self.seats[firsts[0] as usize..firsts[firsts.len() - 1] as usize].to_vec();
        Topics { names: self.names.clone(), seats, firsts: firsts.iter().map(|first| first - firsts[0]).collect() }
    }

    fn of_one_each(names: Vec<String>, seats: Vec<u32>) -> Topics {
        let firsts = (0..=seats.len() as u32).collect();
        Topics { names, seats, firsts }
    }

    /// Number of topics.
    pub(crate) fn count(&self) -> u32 {
        self.names.len() as u32
    }

    pub(crate) fn name(&self, topic: u32) -> &str {
        &self.names[topic as usize]
    }

    /// The name of `topic` if there are several.
    pub(crate) fn name_among_several(&self, topic: u32) -> Option<&str> {
        (self.names.len() > 1).then(|| self.name(topic))
    }

    /// The seats of `subscriber`, by ascending topic.
    pub(crate) fn seats(&self, subscriber: u32) -> Range<usize> {
        let [first, end] = [subscriber, subscriber + 1].map(|index| self.firsts[index as usize] as usize);
        first..end
    }

    /// Number of seats of the first `subscribers` subscribers.
    pub(crate) fn seats_of_first(&self, subscribers: u32) -> usize {
        self.firsts[subscribers as usize] as usize
    }

    /// The topic of a seat.
    pub(crate) fn topic_at(&self, seat: usize) -> u32 {
        self.seats[seat]
    }

    /// The seat of `subscriber` in `topic`, if it has subscribed to it.
    pub(crate) fn seat_in(&self, subscriber: u32, topic: u32) -> Option<usize> {
        let seats = self.seats(subscriber);
        let index = self.seats[seats.clone()].binary_search(&topic).ok()?;
        Some(seats.start + index)
    }

    /// The names of the topics of `subscriber`, separated by commas.
    pub(crate) fn names_of(&self, subscriber: u32) -> Cow<'_, str> {
        match &self.seats[self.seats(subscriber)] {
            [topic] => Cow::Borrowed(self.name(*topic)),
            topics => topics.iter().map(|topic| self.name(*topic)).collect::<Vec<_>>().join(",").into(),
        }
    }
}

fn numbered(name: &str, count: u32) -> Vec<String> {
    (0..count).map(|topic| format!("{name}-{topic}")).collect()
}

/// Number of subscribers per topic, in descending order: proportional to its weight, but at least one and at most all.
fn audiences(subscribers: u32, count: u32, each: u32, skew: f64) -> Vec<u32> {
    let weights: Vec<f64> = (1..=count).map(|rank| f64::from(rank).powf(-skew)).collect();
    let mut weight_left: f64 = weights.iter().sum();
    let mut seats_left = u64::from(subscribers) * u64::from(each) - u64::from(count);
    let size = |weight: f64| {
        // The following topics share the excess over all subscribers, and the rounding error.
        let share = (seats_left as f64 * weight / weight_left).ceil() as u64;
        let more = share.min(seats_left).min(u64::from(subscribers) - 1);
        seats_left -= more;
        weight_left -= weight;
        1 + more as u32
    };
    weights.into_iter().map(size).collect()
}

/// Shuffles, in the same order in every run.
fn shuffle(numbers: &mut [u32], random: &mut MaskingKeys) {
    for last in (1..numbers.len()).rev() {
        numbers.swap(last, below(last + 1, random));
    }
}

/// Exchanges topics of a round that their subscribers already have. `round` and `lists` are by subscriber.
fn part_repeats(round: &mut [u32], lists: &[Vec<u32>], random: &mut MaskingKeys) {
    let has = |subscriber: usize, topic: u32| lists[subscriber].contains(&topic);
    for subscriber in 0..round.len() {
        while has(subscriber, round[subscriber]) {
            let other = below(round.len(), random);
            if !has(subscriber, round[other]) && !has(other, round[subscriber]) {
                round.swap(subscriber, other);
            }
        }
    }
}

fn below(bound: usize, random: &mut MaskingKeys) -> usize {
    u32::from_ne_bytes(random.next()) as usize % bound
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(topics: &Topics) -> Vec<usize> {
        let of = |topic| topics.seats.iter().filter(|seat| **seat == topic).count();
        (0..topics.count()).map(of).collect()
    }

    #[test]
    fn without_skew_all_audiences_are_equal() {
        let topics = Topics::several("t", 100, 4, 1, 0.0);
        assert_eq!(sizes(&topics), [25; 4]);
        assert_eq!(sizes(&Topics::split("t", 3, 5)), [3, 5]);
        assert_eq!((topics.name(3), Topics::one("t", 5).name(0)), ("t-3", "t"));
    }

    #[test]
    fn with_skew_the_first_are_large_and_none_is_empty() {
        let sizes = sizes(&Topics::several("t", 1000, 100, 1, 1.0));
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes[99] >= 1, "{sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 1000);
        assert!(
            (170..200).contains(&sizes[0]),
            "of a hundred topics the first has 1 / 5.19 of the shared subscribers: {sizes:?}"
        );
        assert_eq!(audiences(5, 5, 1, 2.0), [1; 5]);
    }

    #[test]
    fn neighbours_are_of_different_topics() {
        let topics = Topics::several("t", 1000, 2, 1, 0.0);
        let changes = topics.seats.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!((400..600).contains(&changes), "{changes}");
    }

    #[test]
    fn every_subscriber_has_as_many_different_topics() {
        for (subscribers, count, each, skew) in
            [(50, 20, 7, 0.0), (50, 20, 20, 1.0), (1000, 100, 10, 1.0), (3, 9, 3, 2.0), (2, 3, 2, 5.0), (1, 4, 4, 1.0)]
        {
            let topics = Topics::several("t", subscribers, count, each, skew);
            for subscriber in 0..subscribers {
                let list = &topics.seats[topics.seats(subscriber)];
                assert!(list.len() == each as usize && list.is_sorted_by(|a, b| a < b), "{list:?}");
            }
            let sizes = sizes(&topics);
            let is_in_range = |size: &usize| (1..=subscribers as usize).contains(size);
            assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes.iter().all(is_in_range), "{sizes:?}");
        }
    }

    #[test]
    fn popular_topics_are_those_of_most_subscribers() {
        let sizes = sizes(&Topics::several("t", 10_000, 1000, 10, 1.0));
        assert_eq!(sizes[0], 10_000, "its share would be more than all");
        assert!((6_500..7_500).contains(&sizes[1]) && (8..=20).contains(&sizes[999]), "{sizes:?}");
    }

    #[test]
    fn a_part_has_the_seats_of_its_subscribers() {
        let topics = Topics::several("t", 4, 3, 2, 0.0).and(Topics::one("w", 2));
        let part = topics.part(2..5);
        assert_eq!((part.count(), part.seats_of_first(3), part.names_of(2)), (4, 5, "w".into()));
        assert_eq!([part.names_of(0), part.names_of(1)], [topics.names_of(2), topics.names_of(3)]);
        assert_eq!(topics.part(0..6).seats, topics.seats);
    }

    #[test]
    fn topics_are_listed_and_found_by_subscriber() {
        let topics = Topics::several("t", 4, 3, 3, 0.0).and(Topics::one("w", 2));
        assert_eq!([2, 5].map(|subscriber| topics.names_of(subscriber).into_owned()), ["t-0,t-1,t-2", "w"]);
        assert_eq!([2, 3].map(|topic| topics.seat_in(1, topic)), [Some(5), None]);
        assert_eq!((topics.seats(4), topics.seat_in(5, 3), topics.topic_at(13)), (12..13, Some(13), 3));
        assert_eq!((topics.count(), topics.seats_of_first(4), topics.seats_of_first(6)), (4, 12, 14));
        assert_eq!((topics.name_among_several(3), Topics::one("t", 2).name_among_several(0)), (Some("w"), None));
    }
}
