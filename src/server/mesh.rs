//! Queues between shards, and from the control plane to shards.
//!
//! Each pair of shards has two queues, one for subscriptions and one for all else. Each queue keeps its order. A
//! doorbell wakes a sleeping shard: at most one per target and turn, and none while the target is awake.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::oneshot;

#[cfg(feature = "product")]
use super::ServerConfig;
use super::lists::Listing;
use super::order::{Order, Placement, Target};
use super::slowest::SlowConnection;
use super::subscribe::PendingSubscribe;
use super::variant::nanoseconds;
use crate::buf::{ConnId, Consumer, Producer, WakeFlag, queue};
#[cfg(feature = "centrifuge")]
use crate::gateway::UserCommand;
use crate::gateway::{Courier, Letter, Origin};
use crate::limits::{
    MESH_BACKLOG_PARCELS_MAX, MESH_LINK_BYTES_MAX, MESH_PARCELS_PER_TURN, MESH_QUEUE_PARCELS, MESH_QUEUE_PARCELS_MIN,
    MESH_REQUESTS_MAX, MESH_RETRY_MS, MESH_SHARD_PARCELS,
};
use crate::ring::{Errno, Event, Op, Ring, Token};
use crate::topics::{Answer, Draft, Homes, Position, Presence, PublishError, Push, Query, TopicName};

/// A message between shards.
#[derive(Debug)]
pub(super) enum Parcel {
    /// To a topic's home shard: assign the publication its offset and deliver it.
    Publish(Box<Publish>),
    /// To a topic's home shard: this shard now has subscribers.
    Interest(TopicName, u16),
    /// To a topic's home shard: this shard has no subscribers left.
    Disinterest(TopicName, u16),
    /// To a topic's home shard: a client subscribes and requests the topic's position.
    Subscribe(Box<SubscribeRequest>),
    /// To a topic's home shard: the subscription that this join began has ended.
    Leave(TopicName, Presence),
    /// To a topic's home shard: a query.
    Query(Box<TopicQuery>),
    /// To a shard: what an operator wants of its topics or connections.
    List(Box<Listing>),
    /// To a shard: list this many connections with the largest backlogs.
    ListSlowest(usize, oneshot::Sender<Vec<SlowConnection>>),
    /// From a topic's home shard: a push for the subscribers there.
    Deliver(TopicName, Push),
    /// From a topic's home shard: it has handled the disinterest. Earlier pushes were for subscriptions that have
    /// ended.
    Disinterested(TopicName),
    /// To the shard of a connection: the home has accepted or rejected its subscribe request.
    Subscribed(Box<SubscribeReply>),
    /// To the shard of a connection: the answer to a request.
    Answer(Box<ToConn>, Box<Answer>),
    /// From the control plane: a command for a user's connections.
    #[cfg(feature = "centrifuge")]
    UserCommand(Arc<UserCommand>),
    /// From the order: what it has decided.
    Placement(Box<Placement>),
    /// From a topic's home shard: subscribers there may have missed publications of these topics.
    Gap(Box<[TopicName]>),
    /// From a handle: for this connection.
    Letter(ConnId, Letter),
    /// From the control plane: serve with this configuration.
    #[cfg(feature = "product")]
    Reconfigure(Arc<ServerConfig>),
    /// From the control plane: drain.
    Drain,
}

impl Parcel {
    /// Whether it belongs in the queue of subscriptions, which each turn empties before it publishes.
    fn is_interest(&self) -> bool {
        matches!(self, Parcel::Interest(..) | Parcel::Disinterest(..) | Parcel::Subscribe(_) | Parcel::Leave(..))
    }

    /// Whether another shard answers it to a connection of this one.
    fn is_request(&self) -> bool {
        match self {
            Parcel::Publish(publish) => matches!(publish.reply, ReplyTo::Conn(_)),
            Parcel::Query(query) => matches!(query.reply, ReplyTo::Conn(_)),
            Parcel::Subscribe(_) => true,
            _ => false,
        }
    }

    /// Whether it answers such a request.
    fn is_answer(&self) -> bool {
        matches!(self, Parcel::Subscribed(_) | Parcel::Answer(..))
    }

    /// Approximate memory that it holds, in bytes.
    fn bytes(&self) -> usize {
        let held = match self {
            Parcel::Publish(publish) => publish.draft.bytes(),
            Parcel::Deliver(_, Push::Publication(publication)) => publication.body.frame.len(),
            Parcel::Deliver(_, Push::Joined(info) | Push::Left(info)) => info.bytes(),
            Parcel::Subscribe(_) => size_of::<SubscribeRequest>(),
            Parcel::Leave(_, presence) => presence.info.bytes(),
            Parcel::Subscribed(joined) => joined.answer.bytes(),
            Parcel::Answer(_, answer) => answer.bytes(),
            Parcel::Letter(_, letter) => letter.bytes(),
            Parcel::Placement(placement) => placement.bytes(),
            _ => 0,
        };
        size_of::<Parcel>() + held
    }
}

/// A connection that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToConn {
    pub(super) shard: u16,
    pub(super) id: ConnId,
    pub(super) request_id: u32,
}

/// The receiver of an answer.
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
    /// When it was requested, on the clock of the ring.
    pub(super) requested_us: u64,
}

impl Publish {
    /// Whether the control plane sent it; its publisher waits there.
    pub(super) fn is_from_control(&self) -> bool {
        matches!(self.reply, ReplyTo::Control(_))
    }
}

/// A subscribe request on its way to its topic's home shard.
#[derive(Debug)]
pub(super) struct SubscribeRequest {
    pub(super) topic: TopicName,
    pub(super) joining: PendingSubscribe,
    pub(super) reply: ToConn,
}

/// The answer to a subscribe request, on its way back.
#[derive(Debug)]
pub(super) struct SubscribeReply {
    pub(super) to: ToConn,
    pub(super) joining: PendingSubscribe,
    pub(super) answer: Answer,
}

/// A query on its way to its topic's home shard.
#[derive(Debug)]
pub(super) struct TopicQuery {
    pub(super) topic: TopicName,
    pub(super) query: Query,
    pub(super) reply: ReplyTo<Answer>,
}

/// Bytes in a queue that its consumer has not taken.
#[derive(Debug, Default)]
struct Load {
    /// Size of each parcel at the last look, the oldest first.
    sizes: VecDeque<u32>,
    bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.sizes.push_back(bytes);
        self.bytes += bytes as usize;
    }

    /// Removes the taken parcels: all but the last `left`.
    fn settle(&mut self, left: usize) {
        let taken = self.sizes.len().saturating_sub(left);
        self.bytes -= self.sizes.drain(..taken).map(|bytes| bytes as usize).sum::<usize>();
    }
}

/// A queue to another shard.
struct Lane {
    queue: Producer<Parcel>,
    /// Parcels that found the queue full, in order.
    backlog: VecDeque<Parcel>,
    load: Load,
}

/// The connection to another shard.
struct Link<A> {
    /// The queue of subscriptions.
    interests: Lane,
    others: Lane,
    asleep: WakeFlag,
    address: A,
    /// The shard has sent a parcel in this turn.
    sent: bool,
    /// When to retry a failed doorbell.
    ring_ms: Option<u64>,
    /// Lasts as long as the other shard's end of the mesh.
    life: Weak<()>,
}

/// A shard's end of the mesh. `A` is how rings reach each other.
///
/// # Rejected parcels, and why the others are bounded
///
/// While a link holds [`MESH_BACKLOG_PARCELS_MAX`] parcels or [`MESH_LINK_BYTES_MAX`] bytes, the source rejects
/// publications, queries and joins. The home rejects them as well, and sends smaller answers. The shard closes plain
/// subscribers as soon as their interest would have to wait. Each parcel that must not be rejected follows from one
/// that was admitted before:
///
/// - an answer, from one of at most [`MESH_REQUESTS_MAX`] requests; a rejection replaces a large one;
/// - a leave, from a join, and a disinterest, from the end of a topic's last subscription, so no more than there were
///   subscriptions when the link filled up; the home's confirmation of a disinterest, from that; and a leave push, from
///   a client that was present;
/// - commands and queries of the control plane, from a queue that is bounded itself.
pub(super) struct Mesh<A> {
    shard: usize,
    homes: Homes,
    /// By shard; none to itself.
    links: Vec<Option<Link<A>>>,
    /// Subscriptions, from each other shard.
    interests: Vec<Consumer<Parcel>>,
    /// All other parcels, from the control plane, then from each other shard.
    incoming: Vec<Consumer<Parcel>>,
    /// Parcels that are taken from each of `incoming` in a turn.
    turn_parcels: usize,
    /// Scratch space of `receive`, which appends these parcels behind the interests.
    taken: Vec<Parcel>,
    /// Unanswered requests of this shard's connections.
    requests: usize,
    /// Parcels for shards that have left.
    returned: Vec<Parcel>,
    asleep: WakeFlag,
    /// Gives publications their positions, if the homes do not.
    order: Option<Arc<dyn Order>>,
    /// The way to all shards from outside.
    ports: Arc<Ports>,
    /// Dropped with the mesh: other shards then see that nobody takes their parcels.
    _life: Arc<()>,
}

/// Publishes messages from outside the shards. Clones publish through the same queues; each call takes a lock of one
/// shard's queue for some nanoseconds, and never waits for the shard.
#[derive(Clone)]
pub struct Publisher(Arc<Ports>);

/// The way to all shards from outside: of publishers, and of handles on connections.
struct Ports {
    shards: Vec<Mutex<Port>>,
    homes: Homes,
}

/// The control plane's way to a shard.
struct Port {
    queue: Producer<Parcel>,
    load: Load,
    asleep: WakeFlag,
    event: Event,
    /// The shard has received the drain parcel.
    is_drained: bool,
}

/// Capacities of the queues between shards.
#[derive(Clone, Copy, Debug)]
pub struct MeshSizes {
    /// Capacity of a queue from shard to shard, in parcels. A queue from the control plane has the same, or
    /// [`MESH_QUEUE_PARCELS_MIN`].
    pub queue_parcels: usize,
    /// Parcels that a shard takes from one queue in a turn.
    pub turn_parcels: usize,
}

impl MeshSizes {
    /// The sizes for this number of shards.
    pub fn of(shards: usize) -> MeshSizes {
        let queue_parcels = (MESH_SHARD_PARCELS / shards).clamp(MESH_QUEUE_PARCELS_MIN, MESH_QUEUE_PARCELS);
        MeshSizes { queue_parcels, turn_parcels: MESH_PARCELS_PER_TURN }
    }
}

/// Connects shards with `addresses` to each other and to a control plane, which wakes them by `events`. `home_key`
/// decides the home of each topic. Homes assign offsets unless `order` does.
pub(super) fn connect<A: Clone>(
    addresses: &[A],
    events: &[Event],
    sizes: MeshSizes,
    home_key: [u64; 2],
    order: Option<Arc<dyn Order>>,
) -> (Publisher, Vec<Mesh<A>>) {
    let homes = Homes::new(addresses.len(), home_key);
    let MeshSizes { queue_parcels, turn_parcels } = sizes;
    let asleep: Vec<WakeFlag> = addresses.iter().map(|_| WakeFlag::default()).collect();
    let lives: Vec<Arc<()>> = addresses.iter().map(|_| Arc::default()).collect();
    let mut incoming: Vec<Vec<Consumer<Parcel>>> = Vec::new();
    let mut interests: Vec<Vec<Consumer<Parcel>>> = addresses.iter().map(|_| Vec::new()).collect();
    let mut shards = Vec::new();
    for (asleep, event) in asleep.iter().zip(events) {
        let (queue, consumer) = queue(queue_parcels.max(MESH_QUEUE_PARCELS_MIN));
        incoming.push(vec![consumer]);
        let (asleep, event) = (asleep.clone(), event.clone());
        shards.push(Mutex::new(Port { queue, load: Load::default(), asleep, event, is_drained: false }));
    }
    let mut link = |from: usize, to: usize| {
        if from == to {
            return None;
        }
        // A turn takes all of these, whatever its length.
        let interests = lane(queue_parcels.min(MESH_PARCELS_PER_TURN), &mut interests[to]);
        let others = lane(queue_parcels, &mut incoming[to]);
        let (asleep, address, life) = (asleep[to].clone(), addresses[to].clone(), Arc::downgrade(&lives[to]));
        Some(Link { interests, others, asleep, address, sent: false, ring_ms: None, life })
    };
    let ports = Arc::new(Ports { shards, homes });
    let count = addresses.len();
    let links: Vec<Vec<_>> = (0..count).map(|from| (0..count).map(|to| link(from, to)).collect()).collect();
    let ends = links.into_iter().zip(interests).zip(incoming).zip(asleep).zip(lives).enumerate();
    let meshes = ends
        .map(|(shard, ((((links, interests), incoming), asleep), life))| Mesh {
            shard,
            homes,
            links,
            interests,
            incoming,
            turn_parcels,
            taken: Vec::new(),
            requests: 0,
            returned: Vec::new(),
            asleep,
            order: order.clone(),
            ports: ports.clone(),
            _life: life,
        })
        .collect();
    (Publisher(ports), meshes)
}

impl<A> Mesh<A> {
    /// Which shard is the home of a topic.
    pub(super) fn home(&self, topic: &TopicName) -> usize {
        self.homes.of(topic)
    }

    /// Who gives publications their positions, if the homes do not.
    pub(super) fn order(&self) -> Option<&Arc<dyn Order>> {
        self.order.as_ref()
    }

    /// The giver of positions to the publications of a topic, if its home gives none. The server's own topics are those
    /// of this process.
    pub(super) fn order_of(&self, topic: &TopicName) -> Option<&Arc<dyn Order>> {
        self.order.as_ref().filter(|_| !topic.is_system())
    }

    /// This shard, for handles.
    pub(super) fn origin(&self) -> Origin {
        Origin { courier: self.ports.clone(), shard: self.shard as u16 }
    }

    /// This shard's number.
    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Sends `parcel` to another shard. It leaves with [`flush`](Self::flush).
    pub(super) fn send(&mut self, to: usize, parcel: Parcel) {
        let link = self.links[to].as_mut().expect("a shard does not send to itself");
        self.requests += usize::from(parcel.is_request());
        if link.has_left() {
            return self.returned.push(parcel);
        }
        let lane = if parcel.is_interest() { &mut link.interests } else { &mut link.others };
        lane.send(parcel);
        link.sent = true;
    }

    /// Whether `shard` has room for another interest. Without room, the home would learn too late of the subscriber.
    pub(super) fn has_room(&self, shard: usize) -> bool {
        let has_room =
            |link: &Link<A>| !link.has_left() && link.interests.backlog.is_empty() && !link.interests.queue.is_full();
        self.links[shard].as_ref().is_none_or(has_room)
    }

    /// Whether the link to some shard is too full for more publications.
    pub(super) fn is_congested(&mut self) -> bool {
        self.links.iter_mut().flatten().any(Link::is_congested)
    }

    /// Whether the link to `shard` is too full for large parcels.
    pub(super) fn is_congested_to(&mut self, shard: u16) -> bool {
        self.links[usize::from(shard)].as_mut().is_some_and(Link::is_congested)
    }

    /// The error that rejects a connection's request to the shard `to`, if any.
    pub(super) fn refusal(&mut self, to: usize) -> Option<PublishError> {
        if self.links[to].as_ref().is_some_and(Link::has_left) {
            Some(PublishError::Stopping)
        } else if self.requests >= MESH_REQUESTS_MAX || self.is_congested() {
            Some(PublishError::Busy)
        } else {
            None
        }
    }

    /// Appends the arrived parcels: all subscriptions, then at most [`turn_parcels`](MeshSizes::turn_parcels) others
    /// from each queue, in the order of each.
    ///
    /// A client that knows of its subscription may publish at once, or another client on its behalf. Its interest was
    /// queued before that publication, so taking the interests last finds it. The shard handles them first.
    pub(super) fn receive(&mut self, parcels: &mut Vec<Parcel>) {
        let mut taken = std::mem::take(&mut self.taken);
        // A placement can't be refused: it waits in its queue, and then outside.
        let is_held = self.order.is_some() && self.is_congested();
        for queue in self.incoming.iter_mut().skip(usize::from(is_held)) {
            taken.extend(std::iter::from_fn(|| queue.pop()).take(self.turn_parcels));
        }
        for queue in &mut self.interests {
            parcels.extend(std::iter::from_fn(|| queue.pop()).take(MESH_PARCELS_PER_TURN));
        }
        self.requests -= taken.iter().filter(|parcel| parcel.is_answer()).count();
        parcels.append(&mut taken);
        self.taken = taken;
    }

    /// Takes the parcels for shards that have left.
    pub(super) fn take_returned(&mut self) -> Vec<Parcel> {
        self.requests -= self.returned.iter().filter(|parcel| parcel.is_request()).count();
        std::mem::take(&mut self.returned)
    }

    /// At the end of a turn: wakes the sleeping shards that this turn has sent to.
    pub(super) fn flush<R: Ring<Address = A>>(&mut self, ring: &mut R, now_ms: u64) {
        for (to, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            link.push_backlog(&mut self.returned);
            let is_due = link.ring_ms.take_if(|ring_ms| *ring_ms <= now_ms).is_some();
            let is_asleep = std::mem::take(&mut link.sent) && link.asleep.take();
            // A failed doorbell had taken the flag, so no other shard rings.
            if is_asleep || is_due {
                ring.submit_doorbell(&link.address, Token::new(Op::Doorbell, to as u32, self.shard as u32));
            }
        }
    }

    /// Schedules a retry of a failed doorbell. Returns `false` if the target's ring is gone.
    pub(super) fn ring_again(&mut self, to: usize, error: Errno, now_ms: u64) -> bool {
        let link = self.links[to].as_mut().filter(|_| !error.is_ring_gone());
        link.map(|link| link.ring_ms = Some(now_ms + MESH_RETRY_MS)).is_some()
    }

    /// Whether a parcel has arrived that was not received.
    pub(super) fn has_incoming(&self) -> bool {
        !self.interests.iter().chain(&self.incoming).all(Consumer::is_empty)
    }

    /// Whether a parcel waits for room in a queue.
    pub(super) fn has_backlog(&self) -> bool {
        self.links.iter().flatten().any(Link::has_backlog)
    }

    /// Whether a shard that has not left has yet to take something: it may sleep, and a doorbell may have failed.
    pub(super) fn has_untaken(&self) -> bool {
        self.links.iter().flatten().any(|link| !link.has_left() && link.has_untaken())
    }

    /// Bytes that other shards had not taken at the end of the turn.
    pub(super) fn bytes(&self) -> usize {
        self.links.iter().flatten().map(Link::bytes).sum()
    }

    /// Before waiting: how long the shard may sleep unless it is woken. Call [`woke`](Self::woke) afterwards.
    pub(super) fn sleep_max(&self) -> Duration {
        self.asleep.fall_asleep();
        if self.has_incoming() || !self.returned.is_empty() {
            Duration::ZERO
        } else if self.has_backlog() || self.links.iter().flatten().any(|link| link.ring_ms.is_some()) {
            // No event announces room, and the slow shard may need this very CPU.
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
    /// Whether the other shard has ended.
    fn has_left(&self) -> bool {
        self.life.strong_count() == 0
    }

    fn has_backlog(&self) -> bool {
        !self.interests.backlog.is_empty() || !self.others.backlog.is_empty()
    }

    fn has_untaken(&self) -> bool {
        let lanes = [&self.interests, &self.others];
        lanes.iter().any(|lane| !lane.backlog.is_empty() || !lane.queue.is_empty())
    }

    fn bytes(&self) -> usize {
        self.interests.load.bytes + self.others.load.bytes
    }

    fn is_congested(&mut self) -> bool {
        if self.bytes() >= MESH_LINK_BYTES_MAX {
            // The other shard may have taken parcels in this turn.
            self.settle();
        }
        self.bytes() >= MESH_LINK_BYTES_MAX
            || self.interests.backlog.len() + self.others.backlog.len() >= MESH_BACKLOG_PARCELS_MAX
    }

    fn settle(&mut self) {
        self.interests.settle();
        self.others.settle();
    }

    /// Moves the backlogs into the queues as far as they fit, or into `returned` if the other shard has left.
    fn push_backlog(&mut self, returned: &mut Vec<Parcel>) {
        if self.has_left() {
            returned.extend(self.interests.backlog.drain(..).chain(self.others.backlog.drain(..)));
            // Nobody takes the queued parcels either.
            (self.interests.load, self.others.load) = (Load::default(), Load::default());
            return;
        }
        // `|`, not `||`: push both.
        self.sent |= self.interests.push_backlog() | self.others.push_backlog();
        self.settle();
    }
}

fn lane(parcels: usize, consumers: &mut Vec<Consumer<Parcel>>) -> Lane {
    let (queue, consumer) = queue(parcels);
    consumers.push(consumer);
    Lane { queue, backlog: VecDeque::new(), load: Load::default() }
}

impl Lane {
    fn send(&mut self, parcel: Parcel) {
        self.load.add(parcel.bytes());
        self.backlog.push_back(parcel);
        self.push_backlog();
    }

    /// Moves the backlog into the queue as far as it fits. Returns whether any parcel moved.
    fn push_backlog(&mut self) -> bool {
        let before = self.backlog.len();
        while let Some(parcel) = self.backlog.pop_front() {
            if let Err(parcel) = self.queue.push(parcel) {
                self.backlog.push_front(parcel);
                break;
            }
        }
        self.backlog.len() < before
    }

    fn settle(&mut self) {
        self.load.settle(self.queue.len() + self.backlog.len());
    }
}

impl Publisher {
    /// Publishes a message. Text must be valid UTF-8; subscribers receive it unchanged.
    ///
    /// The receiver yields the publication's position in the topic.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`] here or from the receiver, and the others from the
    /// receiver. A receiver that fails means that the shard has stopped.
    pub fn publish(&self, draft: Draft) -> Result<oneshot::Receiver<Result<Position, PublishError>>, PublishError> {
        let (reply, outcome) = oneshot::channel();
        let home = self.0.homes.of(&draft.topic);
        let publish = Publish { draft, reply: ReplyTo::Control(reply), requested_us: nanoseconds() / 1000 };
        self.0.send_bounded(home, Parcel::Publish(Box::new(publish)))?;
        Ok(outcome)
    }

    /// Sends a query about a topic to its home shard.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`]. A receiver that fails means that the shard has stopped.
    pub fn ask(&self, topic: TopicName, query: Query) -> Result<oneshot::Receiver<Answer>, PublishError> {
        let (reply, answer) = oneshot::channel();
        let home = self.0.homes.of(&topic);
        self.0
            .send_bounded(home, Parcel::Query(Box::new(TopicQuery { topic, query, reply: ReplyTo::Control(reply) })))?;
        Ok(answer)
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.0.shards.len()
    }

    /// Sends a parcel that the shard can't refuse.
    pub(super) fn send(&self, shard: usize, parcel: Parcel) -> Result<(), PublishError> {
        self.0.send(shard, parcel)
    }

    /// Requests from each shard the `count` connections with the largest backlogs, the largest first.
    ///
    /// # Errors
    /// [`PublishError::Busy`] and [`PublishError::Stopping`]. A receiver that fails means that its shard has stopped.
    pub fn slowest(&self, count: usize) -> Result<Vec<oneshot::Receiver<Vec<SlowConnection>>>, PublishError> {
        let shards = self.0.shards.len();
        let list = |shard| {
            let (reply, slowest) = oneshot::channel();
            self.0.send(shard, Parcel::ListSlowest(count, reply)).map(|()| slowest)
        };
        (0..shards).map(list).collect()
    }

    #[cfg(feature = "centrifuge")]
    /// Sends `order` to all shards, for the connections that it names.
    ///
    /// # Errors
    /// [`PublishError::Busy`]: some shards may have it already; call again, since a repeated command does no harm.
    pub fn order(&self, order: UserCommand) -> Result<(), PublishError> {
        let order = Arc::new(order);
        (0..self.0.shards.len()).try_for_each(|shard| self.0.send(shard, Parcel::UserCommand(order.clone())))
    }

    /// Changes the configuration of all shards, in what they do not build on when they start.
    ///
    /// # Errors
    /// [`PublishError::Busy`]: some shards may have it already; call again, since a repeated change does no harm.
    #[cfg(feature = "product")]
    pub(crate) fn reconfigure(&self, config: &Arc<ServerConfig>) -> Result<(), PublishError> {
        (0..self.0.shards.len()).try_for_each(|shard| self.0.send(shard, Parcel::Reconfigure(config.clone())))
    }

    /// Hands what an [`Order`] has decided to the shards that it concerns.
    ///
    /// # Errors
    /// The placement: a shard has no room. Hand it in again, before any other.
    pub fn place(&self, placement: Box<Placement>) -> Result<(), Box<Placement>> {
        let shard = match placement.target() {
            Target::HomeOf(topic) => self.0.homes.of(topic),
            Target::Shard(shard) => usize::from(shard),
            Target::All => {
                // A shard that has it already receives it twice, which changes nothing.
                let is_placed = |shard| placement.copy().is_none_or(|copy| self.0.place(shard, Box::new(copy)).is_ok());
                return if (0..self.0.shards.len()).all(is_placed) { Ok(()) } else { Err(placement) };
            }
        };
        self.0.place(shard, placement)
    }

    /// Drains all shards: they accept no connection, close each with 1001, and end.
    ///
    /// # Errors
    /// [`PublishError::Busy`]: some queue was full; call again.
    pub fn drain(&self) -> Result<(), PublishError> {
        self.0.shards.iter().try_for_each(|port| {
            let mut port = lock(port);
            // Each shard receives the parcel once: a shard may have left since, and its queue would fill up.
            if !port.is_drained {
                port.send(Parcel::Drain)?;
                port.is_drained = true;
            }
            Ok(())
        })
    }
}

impl Ports {
    /// Sends a parcel that holds much, unless the shard has much to take, or has left: it would never answer.
    fn send_bounded(&self, shard: usize, parcel: Parcel) -> Result<(), PublishError> {
        let mut port = lock(&self.shards[shard]);
        let Port { queue, load, .. } = &mut *port;
        load.settle(queue.len());
        if port.is_drained {
            Err(PublishError::Stopping)
        } else if port.load.bytes >= MESH_LINK_BYTES_MAX {
            Err(PublishError::Busy)
        } else {
            port.send(parcel)
        }
    }

    /// Sends a placement, unless the shard has much to take. A shard that has left needs none.
    fn place(&self, shard: usize, placement: Box<Placement>) -> Result<(), Box<Placement>> {
        let mut port = lock(&self.shards[shard]);
        let Port { queue, load, .. } = &mut *port;
        load.settle(queue.len());
        if port.load.bytes >= MESH_LINK_BYTES_MAX || port.queue.is_full() {
            return Err(placement);
        }
        let sent = port.send(Parcel::Placement(placement));
        assert_eq!(sent, Ok(()), "the queue has room");
        Ok(())
    }

    fn send(&self, shard: usize, parcel: Parcel) -> Result<(), PublishError> {
        lock(&self.shards[shard]).send(parcel)
    }
}

impl Courier for Ports {
    fn deliver(&self, shard: u16, id: ConnId, letter: Letter) -> bool {
        self.send_bounded(usize::from(shard), Parcel::Letter(id, letter)).is_ok()
    }
}

impl Port {
    fn send(&mut self, parcel: Parcel) -> Result<(), PublishError> {
        let Port { queue, load, asleep, event, .. } = self;
        let bytes = parcel.bytes();
        queue.push(parcel).map_err(|_| PublishError::Busy)?;
        load.add(bytes);
        load.settle(queue.len());
        if asleep.take() {
            event.notify();
        }
        Ok(())
    }
}

fn lock(port: &Mutex<Port>) -> MutexGuard<'_, Port> {
    port.lock().expect("nobody panics with the lock")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::buf::SlotId;
    use crate::topics::JoinId;

    const HOME_KEY: [u64; 2] = [1, 2];

    fn draft(payload: &'static str) -> Draft {
        Draft::new(TopicName::new("a").unwrap(), true, Bytes::from(payload))
    }

    fn publish(publisher: &Publisher, payload: &'static str) -> Result<(), PublishError> {
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
        Parcel::Publish(Box::new(Publish { draft: draft(payload), reply: ReplyTo::Nobody, requested_us: 0 }))
    }

    #[test]
    fn everybody_reaches_everybody_in_order() {
        let events: Vec<Event> = (0..3).map(|_| Event::new().unwrap()).collect();
        let (publisher, mut meshes) = connect(&[(); 3], &events, MeshSizes::of(1), HOME_KEY, None);
        publish(&publisher, "from control").unwrap();
        let home = meshes[0].home(&TopicName::new("a").unwrap());
        for from in (0..3).filter(|from| *from != home) {
            meshes[from].send(home, message("1"));
            meshes[from].send(home, message("2"));
        }
        assert_eq!(payloads(&mut meshes[home]), ["from control", "1", "2", "1", "2"]);
    }

    #[test]
    fn who_subscribes_comes_before_what_is_published_and_in_order() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (publisher, mut meshes) = connect(&[(); 2], &events, MeshSizes::of(1), HOME_KEY, None);
        let topic = TopicName::new("a").unwrap();
        let home = meshes[0].home(&topic);
        let presence = Presence { join: JoinId::new(0, 1), info: Arc::default() };
        let other = &mut meshes[1 - home];
        other.send(home, message("from a shard"));
        other.send(home, Parcel::Interest(topic.clone(), 1));
        other.send(home, Parcel::Leave(topic.clone(), presence));
        other.send(home, Parcel::Disinterest(topic, 1));
        publish(&publisher, "from control").unwrap();
        let mut parcels = Vec::new();
        meshes[home].receive(&mut parcels);
        let kind = |parcel: &Parcel| match parcel {
            Parcel::Interest(..) => "interest",
            Parcel::Leave(..) => "remove_presence",
            Parcel::Disinterest(..) => "disinterest",
            Parcel::Publish(_) => "publish",
            other => panic!("{other:?}"),
        };
        let kinds: Vec<_> = parcels.iter().map(kind).collect();
        assert_eq!(kinds, ["interest", "remove_presence", "disinterest", "publish", "publish"]);
    }

    #[test]
    fn a_full_queue_keeps_the_order_and_says_so() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (_, mut meshes) = connect(&[(); 2], &events, MeshSizes::of(1), HOME_KEY, None);
        for _ in 0..MESH_QUEUE_PARCELS + MESH_BACKLOG_PARCELS_MAX {
            assert!(!meshes[0].is_congested());
            meshes[0].send(1, message("early"));
        }
        assert!(meshes[0].is_congested() && meshes[0].is_congested_to(1) && !meshes[0].is_congested_to(0));
        assert_eq!((meshes[0].refusal(1), meshes[1].refusal(0)), (Some(PublishError::Busy), None));
        assert_eq!(meshes[0].sleep_max(), Duration::from_millis(MESH_RETRY_MS), "what waits for room is tried again");
        meshes[0].send(1, message("last"));
        let mut received = Vec::new();
        while received.last().is_none_or(|payload| payload != "last") {
            received.append(&mut payloads(&mut meshes[1]));
            flush(&mut meshes[0]);
        }
        assert_eq!(received.len(), MESH_QUEUE_PARCELS + MESH_BACKLOG_PARCELS_MAX + 1);
        assert_eq!((meshes[0].sleep_max(), meshes[0].bytes()), (Duration::MAX, 0));
    }

    /// Pushes the backlogs without doorbells.
    fn flush(mesh: &mut Mesh<()>) {
        let Mesh { links, returned, .. } = mesh;
        links.iter_mut().flatten().for_each(|link| link.push_backlog(returned));
    }

    fn large() -> Parcel {
        let draft = Draft::new(TopicName::new("a").unwrap(), true, Bytes::from(vec![b'x'; 1 << 20]));
        Parcel::Publish(Box::new(Publish { draft, reply: ReplyTo::Nobody, requested_us: 0 }))
    }

    #[test]
    fn what_nobody_takes_is_bounded_in_bytes() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (publisher, mut meshes) = connect(&[(); 2], &events, MeshSizes::of(1), HOME_KEY, None);
        let mut sent = 0;
        while !meshes[0].is_congested() {
            meshes[0].send(1, large());
            sent += 1;
        }
        assert_eq!(sent, MESH_LINK_BYTES_MAX >> 20, "far fewer parcels than a queue holds");
        assert_eq!((meshes[0].refusal(1), meshes[1].refusal(0)), (Some(PublishError::Busy), None));
        meshes[1].receive(&mut Vec::new());
        assert_eq!((meshes[0].is_congested(), meshes[0].bytes()), (false, 0));
        let large = || Draft::new(TopicName::new("a").unwrap(), true, Bytes::from(vec![b'x'; 1 << 20]));
        let published = std::iter::from_fn(|| publisher.publish(large()).ok().map(drop)).count();
        assert_eq!(published, MESH_LINK_BYTES_MAX >> 20);
        assert!(matches!(publisher.publish(large()), Err(PublishError::Busy)));
        let home = meshes[0].home(&TopicName::new("a").unwrap());
        meshes[home].receive(&mut Vec::new());
        assert!(publisher.publish(large()).is_ok());
    }

    fn query() -> Parcel {
        let to = ToConn { shard: 0, id: ConnId { slot: SlotId(0), generation: 0 }, request_id: 0 };
        let (topic, query) = (TopicName::new("a").unwrap(), Query::Presence);
        Parcel::Query(Box::new(TopicQuery { topic, query, reply: ReplyTo::Conn(to) }))
    }

    #[test]
    fn requests_that_nobody_answers_are_bounded_though_they_are_taken() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (_, mut meshes) = connect(&[(); 2], &events, MeshSizes::of(1), HOME_KEY, None);
        let mut received = Vec::new();
        while meshes[0].refusal(1).is_none() {
            meshes[0].send(1, query());
            meshes[1].receive(&mut received);
        }
        assert_eq!(received.len(), MESH_REQUESTS_MAX);
        let Parcel::Query(query) = received.remove(0) else { panic!() };
        let ReplyTo::Conn(to) = query.reply else { panic!() };
        meshes[1].send(0, Parcel::Answer(Box::new(to), Box::new(Answer::HistoryRemoved)));
        meshes[0].receive(&mut Vec::new());
        assert_eq!(meshes[0].refusal(1), None);
    }

    #[test]
    fn a_turn_takes_so_many_and_all_who_subscribe() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (_, mut meshes) =
            connect(&[(); 2], &events, MeshSizes { queue_parcels: 64, turn_parcels: 3 }, HOME_KEY, None);
        let topic = TopicName::new("a").unwrap();
        for _ in 0..64 {
            assert!(meshes[0].has_room(1));
            meshes[0].send(1, message("x"));
            meshes[0].send(1, Parcel::Interest(topic.clone(), 0));
        }
        assert!(!meshes[0].has_room(1) && meshes[0].has_room(0));
        for others in [3, 3] {
            let mut parcels = Vec::new();
            meshes[1].receive(&mut parcels);
            let interests = parcels.iter().take_while(|parcel| parcel.is_interest()).count();
            assert_eq!((interests, parcels.len()), (64, 64 + others), "none is kept back in between");
            (0..64).for_each(|_| meshes[0].send(1, Parcel::Interest(topic.clone(), 0)));
        }
    }

    #[test]
    fn what_is_for_a_shard_that_has_left_comes_back() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (_, mut meshes) =
            connect(&[(); 2], &events, MeshSizes { queue_parcels: 2, turn_parcels: 2 }, HOME_KEY, None);
        (0..5).for_each(|_| meshes[0].send(1, query()));
        assert!(meshes[0].has_backlog());
        meshes.pop();
        flush(&mut meshes[0]);
        meshes[0].send(1, message("late"));
        assert!(!meshes[0].has_backlog() && !meshes[0].has_room(1));
        assert_eq!(meshes[0].sleep_max(), Duration::ZERO);
        assert_eq!(meshes[0].take_returned().len(), 4, "and two are in its queue");
        assert_eq!((meshes[0].sleep_max(), meshes[0].bytes()), (Duration::MAX, 0), "nobody is waited for");
        assert_eq!(meshes[0].refusal(1), Some(PublishError::Stopping));
    }

    #[test]
    fn a_sleeping_shard_is_woken_once_and_an_awake_one_never() {
        let events = [Event::new().unwrap()];
        let (publisher, meshes) = connect(&[()], &events, MeshSizes::of(1), HOME_KEY, None);
        publish(&publisher, "awake").unwrap();
        assert_eq!(meshes[0].sleep_max(), Duration::ZERO, "something has arrived");
        assert!(lock(&publisher.0.shards[0]).asleep.take(), "the first sender wakes it");
        assert!(!lock(&publisher.0.shards[0]).asleep.take(), "the second need not");
        assert_eq!(meshes[0].sleep_max(), Duration::ZERO);
        meshes[0].woke();
        assert!(!lock(&publisher.0.shards[0]).asleep.take());
    }

    #[test]
    fn each_shard_receives_one_drain_and_no_query_afterwards() {
        let events: Vec<Event> = (0..2).map(|_| Event::new().unwrap()).collect();
        let (publisher, mut meshes) = connect(&[(); 2], &events, MeshSizes::of(1), HOME_KEY, None);
        while publisher.0.send(1, message("early")).is_ok() {}
        for _ in 0..2 * MESH_QUEUE_PARCELS {
            assert_eq!(publisher.drain(), Err(PublishError::Busy));
        }
        let mut parcels = Vec::new();
        meshes[0].receive(&mut parcels);
        assert!(matches!(parcels[..], [Parcel::Drain]), "{} parcels", parcels.len());
        meshes[1].receive(&mut parcels);
        assert_eq!(publisher.drain(), Ok(()));
        assert_eq!(publish(&publisher, "late"), Err(PublishError::Stopping));
    }
}
