//! Who subscribes to what, and what is published there: from the flags of `fanout`, or from a plan.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::check::topics::Topics;
use crate::cli::CommonOptions;
use crate::error::Error;
use crate::options::PublishOptions;
use crate::scenario::crowd::{Crowd, Part};
use crate::scenario::curve::Curve;
use crate::scenario::feed::Stream;
use crate::scenario::pace::Pace;

/// The load of a run.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The name of the scenario in the report.
    pub(crate) scenario: &'static str,
    pub(crate) groups: Vec<Group>,
    /// The share of each group that is connected, in the measured part.
    pub(crate) connected: Curve,
    pub(crate) workers: u32,
    /// The load, in words.
    pub(crate) words: String,
}

/// Subscribers of the same topics, and what is published to them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Appended to the name of the run's topic; may be empty.
    pub(crate) name: String,
    pub(crate) topics: u32,
    /// Topics of each subscriber.
    pub(crate) each: u32,
    pub(crate) skew: f64,
    /// The most at a time.
    pub(crate) subscribers: u32,
    pub(crate) publishers: u32,
    pub(crate) pace: Pace,
    /// The rate of the measured part, if it differs from that of the warm-up.
    pub(crate) stages: Option<Curve>,
    /// Payload bytes of the publications, in rotation.
    pub(crate) sizes: Vec<u32>,
    /// The latency is reported apart, and the deliveries are not counted.
    pub(crate) is_watched: bool,
}

impl Group {
    /// Subscribers of one topic with one publisher.
    pub(crate) fn new(name: String, subscribers: u32, pace: Pace, size: u32) -> Group {
        Group {
            name,
            topics: 1,
            each: 1,
            skew: 0.0,
            subscribers,
            publishers: 1,
            pace,
            stages: None,
            sizes: vec![size],
            is_watched: false,
        }
    }

    fn of_topics(&self, topic: &str) -> Topics {
        let name = if self.name.is_empty() { topic.to_owned() } else { format!("{topic}-{}", self.name) };
        match self.topics {
            1 => Topics::one(&name, self.subscribers),
            several => Topics::several(&name, self.subscribers, several, self.each, self.skew),
        }
    }
}

impl Load {
    /// Number of subscribers.
    pub(crate) fn subscribers(&self) -> u32 {
        self.groups.iter().map(|group| group.subscribers).sum()
    }

    /// Number of subscribers whose deliveries count: all but the watchers, who are the last.
    pub(crate) fn counted(&self) -> u32 {
        self.groups.iter().filter(|group| !group.is_watched).map(|group| group.subscribers).sum()
    }

    /// Number of publishing connections.
    pub(crate) fn publishers(&self) -> u32 {
        self.groups.iter().map(|group| group.publishers).sum()
    }

    /// Whether all publications have a schedule.
    pub(crate) fn is_open_loop(&self) -> bool {
        self.groups.iter().all(|group| group.pace.is_open_loop())
    }

    /// Checks that this many agents can take a part of this load.
    ///
    /// # Errors
    /// If not, with the remedy.
    pub(crate) fn check_agents(&self, agents: u32) -> Result<(), Error> {
        let (needed, subscribers) = ((agents + 1) * self.workers, self.subscribers());
        if needed > subscribers {
            return Err(Error::new(format!("{agents} agents need at least {needed} connections, not {subscribers}")));
        }
        if self.groups.iter().any(|group| group.publishers > 1) {
            return Err(Error::new("the order of several publishers is unknown to agents: use one publisher"));
        }
        if !self.groups.iter().all(|group| group.pace.is_client_driven()) {
            return Err(Error::new("agents need a schedule: give --rate, and not --in-flight"));
        }
        Ok(())
    }

    /// Checks that this many workers, the driver and the addresses can carry this load.
    ///
    /// # Errors
    /// If not, with the remedy.
    pub(crate) fn check(&self, common: &CommonOptions, publishing: &PublishOptions) -> Result<(), Error> {
        let (workers, subscribers) = (self.workers, self.subscribers());
        if workers > subscribers {
            return Err(Error::new(format!(
                "{workers} workers need at least {workers} connections, not {subscribers}"
            )));
        }
        if workers > 1 && self.groups.iter().any(|group| group.publishers > 1) {
            return Err(Error::new(
                "the order of several publishers is checked by one worker only: use --workers 1 or --publishers 1",
            ));
        }
        let (connect, publish) = (&common.connect, &publishing.publish);
        if self.groups.iter().any(|group| group.each > 1) && !connect.takes_several_topics() {
            return Err(Error::new("several topics on a connection need --driver raw, --driver sse or a --script"));
        }
        if self.groups.iter().map(|group| group.topics).sum::<u32>() > 1 {
            if connect.needs_topic_in_address() && !common.url.has_topic() {
                return Err(Error::new(format!("{}: several topics need {{topic}} in the address", common.url)));
            }
            if connect.needs_topic_in_publish_address() && (publish.is_web_socket() || !publish.has_topic()) {
                return Err(Error::new(format!(
                    "{publish}: publishing on several topics needs an address that begins with http and has {{topic}}, \
                     or a --script"
                )));
            }
        }
        Ok(())
    }

    /// The topics of all groups, one group after the other.
    pub(crate) fn topics(&self, topic: &str) -> Topics {
        let all = self.groups.iter().map(|group| group.of_topics(topic));
        all.reduce(Topics::and).expect("a load has a group")
    }

    /// The publications of all groups.
    pub(crate) fn streams(&self) -> Vec<Stream> {
        let (mut topics, mut publishers) = (0, 0);
        let mut stream = |group: &Group| {
            let (first, publisher) = (topics, publishers);
            topics += group.topics;
            publishers += group.publishers;
            let stream = Stream::new(group.pace.clone(), first..topics, publisher..publishers, &group.sizes);
            let stream = stream.over(group.stages.clone());
            if group.is_watched { stream.watched() } else { stream }
        };
        self.groups.iter().map(&mut stream).collect()
    }

    /// The subscribers of a worker: those with these numbers in the run.
    pub(crate) fn crowd(&self, range: &Range<u32>) -> Crowd {
        let mut end = 0;
        let mut part = |group: &Group| {
            let begin = end;
            end += group.subscribers;
            let common = begin.max(range.start)..end.min(range.end);
            (!common.is_empty()).then(|| Part {
                first: common.start - range.start,
                of_group: common.start - begin..common.end - begin,
                group: group.subscribers,
                connected: self.connected.clone(),
                open: 0,
            })
        };
        Crowd::new(self.groups.iter().filter_map(&mut part).collect())
    }
}
