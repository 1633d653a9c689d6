//! From shard to shard, and from the control plane to shards.
//!
//! Each pair has a queue of its own, so what one sends another arrives in order. A shard that sleeps is woken by a
//! doorbell: at most one for a target and turn, and none while the target is awake.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::slowest::SlowConnection;
use super::subscribe::Joining;
use crate::buf::{Asleep, ConnId, Consumer, Producer, queue};
use crate::gateway::Order;
use crate::limits::{
    MESH_BACKLOG_PARCELS_MAX, MESH_PARCELS_PER_TURN, MESH_QUEUE_PARCELS, MESH_QUEUE_PARCELS_MIN, MESH_RETRY_MS,
    MESH_SHARD_PARCELS,
};
use crate::ring::{Event, Op, Ring, Token};
use crate::topics::{Answer, CatchUp, Draft, Position, Presence, PublishError, Push, Query, TopicName};

/// What travels between shards.
#[derive(Debug)]
pub(super) enum Parcel {
    /// To a topic's home shard: give it the next place in the topic's order.
    Publish(Box<Publish>),
    /// To a topic's home shard: the shard of this number has subscribers from now on.
    Interest(TopicName, u16),
    /// To a topic's home shard: the shard of this number has none any more.
    Disinterest(TopicName, u16),
    /// To a topic's home shard: somebody subscribes who wants to know where the topic is.
    Join(Box<Join>),
    /// To a topic's home shard: the subscription that this join began has ended.
    Depart(TopicName, Presence),
    /// To a topic's home shard: a question.
    Ask(Box<Ask>),
    /// To a shard: the topics with subscribers whose home it is are wanted.
    ListTopics(oneshot::Sender<ActiveTopics>),
    /// To a shard: the connections that have the most waiting are wanted, so many at most.
    ListSlowest(usize, oneshot::Sender<Vec<SlowConnection>>),
    /// From a topic's home shard: for the subscribers there.
    Deliver(TopicName, Push),
    /// From a topic's home shard: it has heard of the disinterest, and what it sent before was for those who are gone.
    Disinterested(TopicName),
    /// To the shard of a connection: it has joined a topic, or may not.
    Joined(Box<Joined>),
    /// To the shard of a connection: what it has asked for.
    Answer(Box<ToConn>, Box<Answer>),
    /// From the control plane: for the connections of a user.
    Order(Arc<Order>),
    /// From the control plane: leave gracefully.
    Drain,
}

/// Topics with subscribers, and how many are present in each, where that is kept.
pub type ActiveTopics = Vec<(TopicName, usize)>;

impl Parcel {
    /// Whether it tells a home who subscribes. These go before publications.
    fn is_interest(&self) -> bool {
        matches!(self, Parcel::Interest(..) | Parcel::Disinterest(..) | Parcel::Join(_) | Parcel::Depart(..))
    }
}

/// A connection that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToConn {
    pub(super) shard: u16,
    pub(super) id: ConnId,
    pub(super) ticket: u32,
}

/// Where an answer is wanted.
#[derive(Debug)]
pub(super) enum ReplyTo<T> {
    Nobody,
    Conn(ToConn),
    Control(oneshot::Sender<T>),
}

/// A message on its way to its topic's home shard.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) draft: Draft,
    pub(super) reply: ReplyTo<Result<Position, PublishError>>,
}

impl Publish {
    /// Whether it comes from outside the shards, where its publisher waits.
    pub(super) fn is_from_control(&self) -> bool {
        matches!(self.reply, ReplyTo::Control(_))
    }
}

/// A subscriber on its way to its topic's home shard.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) topic: TopicName,
    pub(super) catch_up: CatchUp,
    pub(super) joining: Joining,
    pub(super) reply: ToConn,
}

/// A join that was answered, on its way back.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) to: ToConn,
    pub(super) joining: Joining,
    pub(super) answer: Answer,
}

/// A question on its way to its topic's home shard.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) topic: TopicName,
    pub(super) query: Query,
    pub(super) reply: ReplyTo<Answer>,
}

/// The way to another shard.
struct Link<A> {
    queue: Producer<Parcel>,
    /// What found the queue full, in order.
    backlog: VecDeque<Parcel>,
    asleep: Asleep,
    address: A,
    /// Something was sent in this turn.
    sent: bool,
}

/// A shard's end of the mesh. `A` is how rings reach each other.
pub(super) struct Mesh<A> {
    shard: usize,
    /// By shard; none to itself.
    links: Vec<Option<Link<A>>>,
    /// From the control plane, then from each other shard.
    incoming: Vec<Consumer<Parcel>>,
    /// Parcels that are taken from each of these in a turn.
    turn_parcels: usize,
    /// What came while the others were looked at again.
    kept: Vec<Parcel>,
    asleep: Asleep,
}

/// The control plane's end of the mesh: how messages are published from outside the shards.
pub struct Publisher {
    shards: Vec<(Producer<Parcel>, Asleep, Event)>,
    /// How many of them, from the first on, were told to leave.
    told: usize,
}

/// How much travels between shards at once.
#[derive(Clone, Copy, Debug)]
pub struct MeshSizes {
    /// Parcels that a queue from shard to shard holds. Those from the control plane hold as many, or
    /// [`MESH_QUEUE_PARCELS_MIN`].
    pub queue_parcels: usize,
    /// Parcels that a shard takes from one queue in a turn.
    pub turn_parcels: usize,
}

impl MeshSizes {
    /// What suits so many shards.
    pub fn of(shards: usize) -> MeshSizes {
        let queue_parcels = (MESH_SHARD_PARCELS / shards).clamp(MESH_QUEUE_PARCELS_MIN, MESH_QUEUE_PARCELS);
        MeshSizes { queue_parcels, turn_parcels: MESH_PARCELS_PER_TURN }
    }
}

/// Joins shards with `addresses` to each other and to a control plane, which wakes them by `events`.
pub(super) fn join<A: Clone>(addresses: &[A], events: &[Event], sizes: MeshSizes) -> (Publisher, Vec<Mesh<A>>) {
    let MeshSizes { queue_parcels, turn_parcels } = sizes;
    let asleep: Vec<Asleep> = addresses.iter().map(|_| Asleep::default()).collect();
    let mut incoming: Vec<Vec<Consumer<Parcel>>> = Vec::new();
    let mut shards = Vec::new();
    for (asleep, event) in asleep.iter().zip(events) {
        let (producer, consumer) = queue(queue_parcels.max(MESH_QUEUE_PARCELS_MIN));
        incoming.push(vec![consumer]);
        shards.push((producer, asleep.clone(), event.clone()));
    }
    let mut link = |from: usize, to: usize| {
        if from == to {
            return None;
        }
        let (queue, consumer) = queue(queue_parcels);
        incoming[to].push(consumer);
        let (asleep, address) = (asleep[to].clone(), addresses[to].clone());
        Some(Link { queue, backlog: VecDeque::new(), asleep, address, sent: false })
    };
    let count = addresses.len();
    let links: Vec<Vec<_>> = (0..count).map(|from| (0..count).map(|to| link(from, to)).collect()).collect();
    let ends = links.into_iter().zip(incoming).zip(asleep).enumerate();
    let meshes = ends
        .map(|(shard, ((links, incoming), asleep))| Mesh {
            shard,
            links,
            incoming,
            turn_parcels,
            kept: Vec::new(),
            asleep,
        })
        .collect();
    (Publisher { shards, told: 0 }, meshes)
}

impl<A> Mesh<A> {
    /// How many shards there are.
    pub(super) fn shard_count(&self) -> usize {
        self.links.len()
    }

    /// Which of them this is.
    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Sends `parcel` to another shard. It leaves with [`flush`](Self::flush).
    pub(super) fn send(&mut self, to: usize, parcel: Parcel) {
        let link = self.links[to].as_mut().expect("a shard does not send to itself");
        link.sent = true;
        link.backlog.push_back(parcel);
        link.push_backlog();
    }

    /// Whether a shard is so far behind that not all that was sent to it is in its queue.
    pub(super) fn is_behind(&self, shard: usize) -> bool {
        self.links[shard].as_ref().is_some_and(|link| !link.backlog.is_empty())
    }

    /// Whether some shard is so far behind that nothing more should be published.
    pub(super) fn is_congested(&self) -> bool {
        self.links.iter().flatten().any(|link| link.backlog.len() >= MESH_BACKLOG_PARCELS_MAX)
    }

    /// Appends what has arrived, at most [so many](MeshSizes::turn_parcels) from each, in each one's order; except that
    /// what tells of new subscribers comes first.
    ///
    /// A client that has been told that it is subscribed may publish at once, or have somebody else do it, through a
    /// queue that is looked at before the one in which its subscription lies. So where publications have come, all
    /// queues are looked at once more for subscriptions: the one that was there first is there now.
    pub(super) fn receive(&mut self, parcels: &mut Vec<Parcel>) {
        let start = parcels.len();
        parcels.append(&mut self.kept);
        for queue in &mut self.incoming {
            parcels.extend(std::iter::from_fn(|| queue.pop()).take(self.turn_parcels));
        }
        if !parcels[start..].iter().any(|parcel| matches!(parcel, Parcel::Publish(_))) {
            return;
        }
        for queue in &mut self.incoming {
            for parcel in std::iter::from_fn(|| queue.pop()).take(MESH_QUEUE_PARCELS) {
                if parcel.is_interest() {
                    parcels.push(parcel);
                } else {
                    self.kept.push(parcel);
                }
            }
        }
        // Stable: each queue's order is kept among either kind.
        parcels[start..].sort_by_key(|parcel| !parcel.is_interest());
    }

    /// At the end of a turn: wakes the sleepers among those that were sent something.
    pub(super) fn flush<R: Ring<Address = A>>(&mut self, ring: &mut R) {
        for link in self.links.iter_mut().flatten() {
            link.push_backlog();
            if std::mem::take(&mut link.sent) && link.asleep.take() {
                ring.submit_doorbell(&link.address, Token::new(Op::Doorbell, 0, self.shard as u32));
            }
        }
    }

    /// Whether something has come that was not received.
    pub(super) fn has_incoming(&self) -> bool {
        !self.kept.is_empty() || !self.incoming.iter().all(Consumer::is_empty)
    }

    /// Before waiting: how long the shard may sleep unless it is woken. Call [`woke`](Self::woke) afterwards.
    pub(super) fn sleep_max(&self) -> Duration {
        self.asleep.fall_asleep();
        if self.has_incoming() {
            Duration::ZERO
        } else if self.links.iter().flatten().any(|link| !link.backlog.is_empty()) {
            // Nobody tells when there is room, and the shard that is behind may need this very CPU.
            Duration::from_millis(MESH_RETRY_MS)
        } else {
            Duration::MAX
        }
    }

    /// After waiting: nobody needs to wake this shard now.
    pub(super) fn woke(&self) {
        self.asleep.woke();
    }
}

impl<A> Link<A> {
    /// Moves into the queue what fits.
    fn push_backlog(&mut self) {
        while let Some(parcel) = self.backlog.pop_front() {
            if let Err(parcel) = self.queue.push(parcel) {
                self.backlog.push_front(parcel);
                return;
            }
            self.sent = true;
        }
    }
}

impl Publisher {
    /// Publishes. Text must be valid UTF-8; subscribers are sent it as it is.
    ///
    /// The receiver yields the publication's place in the topic's order, once it has one.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`] here or from the receiver, and the others from the
    /// receiver. A receiver that fails means that the shard has stopped.
    pub fn publish(&mut self, draft: Draft) -> Result<oneshot::Receiver<Result<Position, PublishError>>, PublishError> {
        let (reply, outcome) = oneshot::channel();
        let home = self.home(&draft.topic)?;
        self.send(home, Parcel::Publish(Box::new(Publish { draft, reply: ReplyTo::Control(reply) })))?;
        Ok(outcome)
    }

    /// Asks about a topic.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`]. A receiver that fails means that the shard has stopped.
    pub fn ask(&mut self, topic: TopicName, query: Query) -> Result<oneshot::Receiver<Answer>, PublishError> {
        let (reply, answer) = oneshot::channel();
        let home = self.home(&topic)?;
        self.send(home, Parcel::Ask(Box::new(Ask { topic, query, reply: ReplyTo::Control(reply) })))?;
        Ok(answer)
    }

    /// Asks each shard for the topics with subscribers whose home it is, and how many are present where that is kept.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`]. A receiver that fails means that its shard has stopped.
    pub fn topics(&mut self) -> Result<Vec<oneshot::Receiver<ActiveTopics>>, PublishError> {
        let count = self.shards.len();
        let ask = |shard| {
            let (reply, topics) = oneshot::channel();
            self.send(shard, Parcel::ListTopics(reply)).map(|()| topics)
        };
        (0..count).map(ask).collect()
    }

    /// Asks each shard for the `count` connections that have the most waiting for them, those first that have more.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`]. A receiver that fails means that its shard has stopped.
    pub fn slowest(&mut self, count: usize) -> Result<Vec<oneshot::Receiver<Vec<SlowConnection>>>, PublishError> {
        let shards = self.shards.len();
        let ask = |shard| {
            let (reply, slowest) = oneshot::channel();
            self.send(shard, Parcel::ListSlowest(count, reply)).map(|()| slowest)
        };
        (0..shards).map(ask).collect()
    }

    /// Has `order` carried out for the connections that it names, on all shards.
    ///
    /// # Errors
    /// [`PublishError::Busy`]: some shards may have it already; carrying it out again does no harm.
    pub fn order(&mut self, order: Order) -> Result<(), PublishError> {
        let order = Arc::new(order);
        (0..self.shards.len()).try_for_each(|shard| self.send(shard, Parcel::Order(order.clone())))
    }

    /// The home of a topic, if it still takes parcels: a shard that has left takes nothing out of its queue, and would
    /// never answer.
    fn home(&self, topic: &TopicName) -> Result<usize, PublishError> {
        let home = topic.home(self.shards.len());
        if home < self.told { Err(PublishError::Stopping) } else { Ok(home) }
    }

    /// Tells all shards to leave gracefully: accept nobody, close everybody with 1001, and end.
    ///
    /// # Errors
    /// [`PublishError::Busy`]: some queue was full; call again.
    pub fn drain(&mut self) -> Result<(), PublishError> {
        // Each is told once: who was told may have left, and its queue would fill up.
        while self.told < self.shards.len() {
            self.send(self.told, Parcel::Drain)?;
            self.told += 1;
        }
        Ok(())
    }

    fn send(&mut self, shard: usize, parcel: Parcel) -> Result<(), PublishError> {
        let (queue, asleep, event) = &mut self.shards[shard];
        queue.push(parcel).map_err(|_| PublishError::Busy)?;
        if asleep.take() {
            event.notify();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::topics::JoinId;

    fn draft(payload: &'static str) -> Draft {
        Draft::new(TopicName::new("a").unwrap(), true, Bytes::from(payload))
    }

    fn publish(publisher: &mut Publisher, payload: &'static str) -> Result<(), PublishError> {
        publisher.publish(draft(payload)).map(drop)
    }

    fn payloads(mesh: &mut Mesh<()>) -> Vec<Bytes> {
        let mut parcels = Vec::new();
        mesh.receive(&mut parcels);
        let payload = |parcel| match parcel {
            Parcel::Publish(publish) => publish.draft.payload,
            other => panic!("{other:?}"),
        };
        parcels.into_iter().map(payload).collect()
    }

    fn message(payload: &'static str) -> Parcel {
        Parcel::Publish(Box::new(Publish { draft: draft(payload), reply: ReplyTo::Nobody }))
    }

    #[test]
    fn everybody_reaches_everybody_in_order() {
        let events: Vec<Event> = (0..3).map(|_| Event::new().unwrap()).collect();
        let (mut publisher, mut meshes) = join(&[(); 3], &events, MeshSizes::of(1));
        publish(&mut publisher, "from control").unwrap();
        let home = TopicName::new("a").unwrap().home(3);
        for from in (0..3).filter(|from| *from != home) {
            meshes[from].send(home, message("1"));
            meshes[from].send(home, message("2"));
        }
        assert_eq!(payloads(&mut meshes[home]), ["from control", "1", "2", "1", "2"]);
    }

    #[test]
    fn who_subscribes_comes_before_what_is_published_and_in_order() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (mut publisher, mut meshes) = join(&[(); 2], &events, MeshSizes::of(1));
        let topic = TopicName::new("a").unwrap();
        let home = topic.home(2);
        let presence = Presence { join: JoinId::new(0, 1), info: Arc::default() };
        let other = &mut meshes[1 - home];
        other.send(home, message("from a shard"));
        other.send(home, Parcel::Interest(topic.clone(), 1));
        other.send(home, Parcel::Depart(topic.clone(), presence));
        other.send(home, Parcel::Disinterest(topic, 1));
        publish(&mut publisher, "from control").unwrap();
        let mut parcels = Vec::new();
        meshes[home].receive(&mut parcels);
        let kind = |parcel: &Parcel| match parcel {
            Parcel::Interest(..) => "interest",
            Parcel::Depart(..) => "depart",
            Parcel::Disinterest(..) => "disinterest",
            Parcel::Publish(_) => "publish",
            other => panic!("{other:?}"),
        };
        let kinds: Vec<_> = parcels.iter().map(kind).collect();
        assert_eq!(kinds, ["interest", "depart", "disinterest", "publish", "publish"]);
    }

    #[test]
    fn a_full_queue_keeps_the_order_and_says_so() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (_, mut meshes) = join(&[(); 2], &events, MeshSizes::of(1));
        for _ in 0..MESH_QUEUE_PARCELS + MESH_BACKLOG_PARCELS_MAX {
            meshes[0].send(1, message("early"));
        }
        assert!(meshes[0].is_congested() && meshes[0].is_behind(1) && !meshes[0].is_behind(0));
        assert_eq!(meshes[0].sleep_max(), Duration::from_millis(MESH_RETRY_MS), "what waits for room is tried again");
        meshes[0].send(1, message("last"));
        let mut received = Vec::new();
        while received.last().is_none_or(|payload| payload != "last") {
            received.append(&mut payloads(&mut meshes[1]));
            meshes[0].links[1].as_mut().unwrap().push_backlog();
        }
        assert_eq!(received.len(), MESH_QUEUE_PARCELS + MESH_BACKLOG_PARCELS_MAX + 1);
        assert_eq!((meshes[0].sleep_max(), meshes[0].is_behind(1)), (Duration::MAX, false));
    }

    #[test]
    fn a_sleeper_is_woken_once_and_whoever_is_awake_is_not() {
        let events = [Event::new().unwrap()];
        let (mut publisher, meshes) = join(&[()], &events, MeshSizes::of(1));
        publish(&mut publisher, "awake").unwrap();
        assert_eq!(meshes[0].sleep_max(), Duration::ZERO, "something has arrived");
        assert!(publisher.shards[0].1.take(), "the first sender wakes it");
        assert!(!publisher.shards[0].1.take(), "the second need not");
        assert_eq!(meshes[0].sleep_max(), Duration::ZERO);
        meshes[0].woke();
        assert!(!publisher.shards[0].1.take());
    }

    #[test]
    fn each_shard_is_told_to_leave_once_and_is_asked_nothing_afterwards() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (mut publisher, mut meshes) = join(&[(); 2], &events, MeshSizes::of(1));
        while publisher.send(1, message("early")).is_ok() {}
        for _ in 0..2 * MESH_QUEUE_PARCELS {
            assert_eq!(publisher.drain(), Err(PublishError::Busy));
        }
        let mut parcels = Vec::new();
        meshes[0].receive(&mut parcels);
        assert!(matches!(parcels[..], [Parcel::Drain]), "{} parcels", parcels.len());
        meshes[1].receive(&mut parcels);
        assert_eq!(publisher.drain(), Ok(()));
        assert_eq!(publish(&mut publisher, "late"), Err(PublishError::Stopping));
    }
}
