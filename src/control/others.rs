//! The other nodes of the cluster, for the server API. A server without a cluster has none.

use super::State;
#[cfg(feature = "cluster")]
use crate::bridge::{NodeAnswer, Peers, Question};
#[cfg(feature = "cluster")]
use crate::cluster::Figures;
use crate::gateway::UserCommand;
use crate::server::{ConnectionsQuery, Disconnection, PublishError, disconnect_all};
use crate::topics::TopicName;

/// The way to the other nodes.
#[derive(Clone, Default)]
pub struct Others {
    #[cfg(feature = "cluster")]
    peers: Option<Peers>,
}

/// A node, as `info` lists it.
pub(super) struct OtherNode {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) connections: u64,
    pub(super) subscriptions: u64,
    pub(super) topics: u64,
    pub(super) uptime_s: u64,
}

#[cfg(feature = "cluster")]
impl Others {
    /// The other nodes of a cluster, if there is one.
    pub fn new(peers: Option<Peers>) -> Others {
        Others { peers }
    }

    /// The state of this node, if there is a cluster.
    pub(super) fn figures(&self) -> Option<Figures> {
        self.peers.as_ref().map(|peers| peers.status().get())
    }

    /// Why the node should receive no clients now, if it should not. A node that has lost its broker still serves those
    /// that it has.
    pub(super) fn unready(&self) -> Option<&'static str> {
        let figures = self.figures()?;
        if figures.buckets.iter().any(|bucket| bucket.is_outdated) {
            Some("a newer version writes to the cluster's log: upgrade this node")
        } else if !figures.is_ready {
            Some("joining the cluster")
        } else {
            None
        }
    }

    /// The configured name of this node, if there is a cluster.
    pub(super) fn name(&self) -> Option<&str> {
        self.peers.as_ref().map(Peers::name)
    }

    /// Publishes the figures of this node to the operators at all nodes.
    pub(super) fn share_figures(&self, node: &str, text: &[u8]) {
        if let Some(peers) = &self.peers {
            peers.share_figures(node, text.to_vec().into());
        }
    }

    /// The answers of all other nodes.
    async fn ask(&self, question: Question) -> Result<Vec<NodeAnswer>, PublishError> {
        let Some(peers) = &self.peers else { return Ok(Vec::new()) };
        let answers = peers.ask(question).await.map_err(|_| PublishError::Stopping)?;
        for answer in answers.iter().filter(|answer| !answer.has_answered) {
            tracing::warn!(node = answer.node, "the node has not answered");
        }
        // A part of the answer would look like all of it.
        if answers.iter().all(|answer| answer.has_answered) { Ok(answers) } else { Err(PublishError::Busy) }
    }

    async fn order(&self, command: UserCommand) -> Result<(), PublishError> {
        self.ask(Question::Command(command)).await.map(drop)
    }

    /// Whether there is no cluster.
    pub(super) fn are_none(&self) -> bool {
        self.peers.is_none()
    }

    async fn topics(&self) -> Result<Vec<(TopicName, u64)>, PublishError> {
        Ok(self.ask(Question::Topics).await?.into_iter().flat_map(|answer| answer.topics).collect())
    }

    async fn disconnect(&self, query: &ConnectionsQuery, how: &Disconnection) -> Result<usize, PublishError> {
        let question = Question::Disconnect(query.clone(), how.clone());
        Ok(self.ask(question).await?.into_iter().map(|answer| answer.disconnected).sum())
    }

    async fn nodes(&self) -> Result<Vec<OtherNode>, PublishError> {
        let node = |answer: NodeAnswer| OtherNode {
            uid: answer.info.uid,
            name: answer.node,
            version: answer.info.version,
            connections: answer.info.connections,
            subscriptions: answer.info.subscriptions,
            topics: answer.info.topics,
            uptime_s: answer.info.uptime_s,
        };
        Ok(self.ask(Question::Info).await?.into_iter().map(node).collect())
    }
}

#[cfg(not(feature = "cluster"))]
impl Others {
    pub(super) fn unready(&self) -> Option<&'static str> {
        None
    }

    pub(super) fn name(&self) -> Option<&str> {
        None
    }

    pub(super) fn share_figures(&self, _: &str, _: &[u8]) {}

    async fn order(&self, _: UserCommand) -> Result<(), PublishError> {
        Ok(())
    }

    pub(super) fn are_none(&self) -> bool {
        true
    }

    async fn topics(&self) -> Result<Vec<(TopicName, u64)>, PublishError> {
        Ok(Vec::new())
    }

    async fn disconnect(&self, _: &ConnectionsQuery, _: &Disconnection) -> Result<usize, PublishError> {
        Ok(0)
    }

    async fn nodes(&self) -> Result<Vec<OtherNode>, PublishError> {
        Ok(Vec::new())
    }
}

impl State {
    /// Has the shards of all nodes carry out an order. It succeeds when all nodes have it; orders do no harm twice.
    pub(super) async fn order_everywhere(&self, order: UserCommand) -> Result<(), PublishError> {
        self.order(order.clone())?;
        self.others.order(order).await
    }

    /// Whether this server is not one of several.
    pub(super) fn is_alone(&self) -> bool {
        self.others.are_none()
    }

    /// These topics of this node and those of all others, each once and sorted, with the number of subscribers.
    pub(super) async fn topics_everywhere(
        &self,
        mut topics: Vec<(TopicName, u64)>,
    ) -> Result<Vec<(TopicName, u64)>, PublishError> {
        topics.extend(self.others.topics().await?);
        topics.sort();
        topics.dedup_by(|next, first| {
            let is_same = next.0 == first.0;
            first.1 += if is_same { next.1 } else { 0 };
            is_same
        });
        Ok(topics)
    }

    /// Closes the connections of all nodes that `query` describes. Returns how many were open.
    pub(super) async fn disconnect_everywhere(
        &self,
        query: &ConnectionsQuery,
        how: &Disconnection,
    ) -> Result<usize, PublishError> {
        let here = disconnect_all(self, query, how).await?;
        Ok(here + self.others.disconnect(query, how).await?)
    }

    /// All other nodes.
    pub(super) async fn other_nodes(&self) -> Result<Vec<OtherNode>, PublishError> {
        self.others.nodes().await
    }
}
