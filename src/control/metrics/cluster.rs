//! The numbers of a node of a cluster. A server without a cluster has none.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::encode_counter;
use crate::cluster::{BucketStatus, Counts, Figures};

/// A number of all buckets together: its name, what it is, and where it is found.
type Row<T> = (&'static str, &'static str, fn(&T) -> u64);

const GAUGES: [Row<Figures>; 8] = [
    ("ringfeed_cluster_connected", "Whether the cluster's log can be reached", |node| node.is_connected.into()),
    ("ringfeed_cluster_ready", "Whether the positions of all topics are known", |node| node.is_ready.into()),
    ("ringfeed_cluster_peers", "Other nodes", |node| node.peers.len() as u64),
    ("ringfeed_cluster_peers_with_other_settings", "Other nodes with other namespaces", |node| {
        node.peers.iter().filter(|peer| peer.has_other_settings).count() as u64
    }),
    ("ringfeed_cluster_behind_records", "Records in the logs that were not read", |node| sum(node, |b| b.behind)),
    ("ringfeed_cluster_queue_bytes", "Bytes of publications that wait for a record", |node| {
        sum(node, |bucket| bucket.queue_bytes as u64)
    }),
    ("ringfeed_cluster_members", "Clients of other nodes whose leaves are announced", |node| node.members as u64),
    ("ringfeed_cluster_topics", "Topics with publications", |node| sum(node, |bucket| bucket.topics as u64)),
];

const COUNTERS: [Row<Counts>; 13] = [
    ("ringfeed_cluster_appended_records", "Records appended, also again", |counts| counts.appended),
    ("ringfeed_cluster_append_failures", "Appends without an acknowledgement", |counts| counts.append_failures),
    ("ringfeed_cluster_applied_entries", "Publications that counted", |counts| counts.applied),
    ("ringfeed_cluster_void_records", "Records that did not count", |counts| counts.void),
    ("ringfeed_cluster_fetched_records", "Records fetched since no live copy came", |counts| counts.fetched),
    ("ringfeed_cluster_resets", "Resets of a log: new epochs", |counts| counts.resets),
    ("ringfeed_cluster_state_transfers", "Positions of a log taken from another node", |counts| counts.transfers),
    ("ringfeed_cluster_lost_logs", "Times that a log was rewritten, or had left the node behind", |counts| counts.lost),
    ("ringfeed_cluster_connects", "Connections to the broker", |counts| counts.connects),
    ("ringfeed_cluster_members_left_out", "Joins that other nodes do not learn of", |counts| counts.members_left_out),
    ("ringfeed_cluster_members_requests", "Requests for all clients of a node", |counts| counts.members_requested),
    ("ringfeed_cluster_figures_rejected", "Figures of nodes that are too large", |counts| counts.figures_rejected),
    ("ringfeed_cluster_rejections", "Rejections by the broker: see the log", |counts| counts.rejections),
];

fn sum(node: &Figures, number: fn(&BucketStatus) -> u64) -> u64 {
    node.buckets.iter().map(number).sum()
}

/// The state of a node.
#[derive(Debug)]
pub(super) struct ClusterNumbers {
    /// `None` without a cluster.
    pub(super) node: Option<Figures>,
    /// Subscribe requests that were ahead of the node.
    pub(super) requests_ahead: u64,
}

impl Collector for ClusterNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(node) = &self.node else { return Ok(()) };
        for (name, help, number) in GAUGES {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&number(node))?;
        }
        for (name, help, number) in COUNTERS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            encode_counter(&mut metric, number(&node.counts))?;
        }
        let (name, help) = ("ringfeed_cluster_requests_ahead", "Subscriptions that waited for what others had read");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_counter(&mut metric, self.requests_ahead)?;
        let (name, help) = ("ringfeed_cluster_clock_skew_seconds", "The clock of another node less this node's");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for peer in &node.peers {
            let skew = peer.skew_ms as f64 / 1000.0;
            family.encode_family(&[("node", peer.name.as_str())])?.encode_gauge(&skew)?;
        }
        Ok(())
    }
}
