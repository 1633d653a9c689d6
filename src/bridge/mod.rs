//! The bridge between the shards and the log of a cluster: a thread that runs the [`Node`].
//!
//! Shards hand it publications ([`Order`]); it appends them to the log, reads the log, and hands everything that the
//! log holds back to the shards ([`Publisher::place`]). It has a thread and a runtime of its own: HTTP must not wait
//! behind the feed, nor the feed behind HTTP.

mod config;
mod connect;
mod examine;
mod log;
mod nats;
mod questions;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub use config::{ClusterConfig, Storage};
pub use examine::{Change, Check, examine};
use log::Log;
use nats::Nats;
use questions::{Asker, Questions};
pub use questions::{NodeAnswer, Question};

use crate::cluster::{ClusterStatus, Config, Member, Node, Output, Reach, Work};
use crate::limits::{CLUSTER_FIGURES_BYTES_MAX, CLUSTER_INTAKE_BYTES_MAX};
use crate::server::{Order, OrderRequest, Placement, Publisher, Status, Waiter};
use crate::topics::{ClientInfo, Draft, PublishError, TopicName};

/// How often the node looks at the time.
const TICK: Duration = Duration::from_millis(50);

/// Requests and events of one turn.
const TURN_MAX: usize = 1024;

/// Pause before a full shard's queue is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// Why a node could not start. Its text names the remedy.
#[derive(Debug)]
pub struct BridgeError(String);

impl fmt::Display for BridgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[cluster]: {}", self.0)
    }
}

impl std::error::Error for BridgeError {}

/// What the bridge receives from this process.
enum Request {
    /// From a shard.
    Order(OrderRequest, Waiter),
    /// From a shard: a client has joined or left.
    Member(Member),
    /// From the control plane: send these figures to all other nodes.
    Figures(Bytes),
    /// From the control plane: ask all other nodes.
    Ask(Question, oneshot::Sender<Vec<NodeAnswer>>),
    /// Leave the cluster.
    Leave,
}

/// The way to the bridge's thread.
#[derive(Clone)]
struct Intake {
    requests: mpsc::UnboundedSender<Request>,
    /// Bytes of publications, joins and leaves that the bridge has not taken.
    bytes: Arc<AtomicUsize>,
    /// Joins for which there was no room.
    members_left_out: Arc<AtomicU64>,
    buckets: u16,
}

impl Order for Intake {
    fn buckets(&self) -> u16 {
        self.buckets
    }

    fn submit(&self, request: OrderRequest, waiter: Waiter) -> Result<(), (Waiter, PublishError)> {
        let bytes = size(&request);
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > CLUSTER_INTAKE_BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err((waiter, PublishError::Busy));
        }
        match self.requests.send(Request::Order(request, waiter)) {
            Err(mpsc::error::SendError(Request::Order(_, waiter))) => Err((waiter, PublishError::Stopping)),
            _ => Ok(()),
        }
    }

    fn on_member(&self, topic: &TopicName, client: &Arc<ClientInfo>, has_joined: bool) {
        let member = Member { topic: topic.clone(), info: client.clone(), has_joined };
        let bytes = member_bytes(&member);
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if has_joined && held > CLUSTER_INTAKE_BYTES_MAX {
            // Its leave is no news then. Each other leave follows from a join that had room.
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.members_left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Without a bridge nobody waits for it.
        let _ = self.requests.send(Request::Member(member));
    }
}

fn member_bytes(member: &Member) -> usize {
    size_of::<Member>() + member.topic.as_str().len() + member.info.bytes()
}

fn size(request: &OrderRequest) -> usize {
    match request {
        OrderRequest::Publish(draft) => draft.bytes(),
        OrderRequest::RemoveHistory(topic) | OrderRequest::Presence(topic) => {
            size_of::<OrderRequest>() + topic.as_str().len()
        }
    }
}

/// A bridge that has reached the broker, and waits for the shards.
pub struct Bridge {
    intake: Intake,
    start: oneshot::Sender<(Publisher, Status)>,
    thread: JoinHandle<()>,
    status: ClusterStatus,
    name: Arc<str>,
}

/// A running bridge.
pub struct Cluster {
    intake: Intake,
    publisher: Publisher,
    thread: JoinHandle<()>,
    status: ClusterStatus,
    name: Arc<str>,
}

/// The way of the control plane to the other nodes. Clones lead to the same bridge.
#[derive(Clone)]
pub struct Peers {
    intake: Intake,
    publisher: Publisher,
    status: ClusterStatus,
    name: Arc<str>,
}

/// The topic with the figures of all nodes.
const FIGURES_TOPIC: &str = "$sys:nodes";

/// The publication of a node's figures. A slow subscriber gets the last ones of each node.
fn figures_of(node: &str, text: Bytes) -> Draft {
    let topic = TopicName::new(FIGURES_TOPIC).expect("the topic's name is valid");
    Draft { key: Some(node.into()), skip_history: true, ..Draft::new(topic, true, text) }
}

impl Bridge {
    /// Reaches the broker, and makes the logs that are not there. `settings` is a hash of what all nodes should have
    /// alike. `history_ms` is how long the longest history keeps publications, 0 where none does.
    ///
    /// # Errors
    /// [`BridgeError`]: what is wrong, and the remedy.
    pub fn connect(config: &ClusterConfig, settings: u64, history_ms: u64) -> Result<Bridge, BridgeError> {
        let status = ClusterStatus::default();
        let (requests, intake) = mpsc::unbounded_channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let (start, started) = oneshot::channel::<(Publisher, Status)>();
        let (ready, connected) = std::sync::mpsc::channel();
        let node = config::random();
        let name: Arc<str> = config.node_name().into();
        let node_config = Config {
            node,
            name: config.node_name(),
            buckets: config.buckets,
            settings,
            publish_timeout_ms: config.publish_timeout_ms,
            start_wait_ms: config.start_wait_ms,
            reach: Reach { history_ms, log_age_ms: config.log_max_age_ms, log_bytes: config.log_max_bytes },
        };
        let members_left_out = Arc::new(AtomicU64::new(0));
        let (config, taken, shown, left_out) =
            (config.clone(), bytes.clone(), status.clone(), members_left_out.clone());
        let buckets = config.buckets;
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(cannot("start a runtime", &error)))),
            };
            runtime.block_on(async move {
                let broker = match Nats::connect(&config, node).await {
                    Ok(broker) => broker,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let _ = ready.send(Ok(()));
                // The server may fail to start.
                let Ok((publisher, shards)) = started.await else { return };
                let payload_max = broker.payload_max();
                let questions = Questions::new(publisher.clone(), shards);
                let node = Node::new(node_config, config::random(), 0);
                let start = Instant::now();
                let (requests, bytes, members_left_out, status) = (intake, taken, left_out, shown);
                let mut running =
                    Running { broker, node, publisher, requests, bytes, members_left_out, status, questions, start };
                running.node.set_payload_max(payload_max);
                running.run().await;
            });
        };
        let thread = std::thread::Builder::new().name("cluster".to_owned()).spawn(run);
        let thread = thread.map_err(|error| cannot("start a thread", &error))?;
        connected.recv().unwrap_or_else(|_| Err(BridgeError("its thread has ended".to_owned())))?;
        Ok(Bridge { intake: Intake { requests, bytes, members_left_out, buckets }, start, thread, status, name })
    }

    /// What gives publications their positions, for the shards.
    pub fn order(&self) -> Arc<dyn Order> {
        Arc::new(self.intake.clone())
    }

    /// Joins the cluster. The shards have their positions when [`ClusterStatus`] says that the node is ready.
    pub fn run(self, publisher: Publisher, shards: Status) -> Cluster {
        let Bridge { intake, start, thread, status, name } = self;
        // If its thread has ended, all publications are rejected.
        let _ = start.send((publisher.clone(), shards));
        Cluster { intake, publisher, thread, status, name }
    }
}

impl Cluster {
    /// The way to the other nodes.
    pub fn peers(&self) -> Peers {
        let (intake, publisher) = (self.intake.clone(), self.publisher.clone());
        Peers { intake, publisher, status: self.status.clone(), name: self.name.clone() }
    }

    /// Leaves the cluster: the others need not wait.
    pub fn leave(self) {
        let _ = self.intake.requests.send(Request::Leave);
        let _ = self.thread.join();
    }
}

impl Peers {
    /// The state of this node.
    pub fn status(&self) -> &ClusterStatus {
        &self.status
    }

    /// The name of this node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Publishes the figures of this node, as text, to the operators at all nodes. `node` tells its runs apart.
    pub fn share_figures(&self, node: &str, text: Bytes) {
        let _ = self.publisher.publish(figures_of(node, text.clone()));
        if text.len() <= CLUSTER_FIGURES_BYTES_MAX {
            let _ = self.intake.requests.send(Request::Figures(text));
        }
    }

    /// Asks all other nodes. The answers follow, some of them late or never: then the name of the node is all there is.
    pub fn ask(&self, question: Question) -> oneshot::Receiver<Vec<NodeAnswer>> {
        let (sender, answers) = oneshot::channel();
        let _ = self.intake.requests.send(Request::Ask(question, sender));
        answers
    }
}

fn cannot(what: &str, error: &io::Error) -> BridgeError {
    BridgeError(format!("cannot {what}: {error}"))
}

/// The bridge's thread at work.
struct Running<L> {
    broker: L,
    node: Node<Waiter>,
    publisher: Publisher,
    requests: mpsc::UnboundedReceiver<Request>,
    bytes: Arc<AtomicUsize>,
    members_left_out: Arc<AtomicU64>,
    status: ClusterStatus,
    questions: Questions,
    start: Instant,
}

impl<L: Log> Running<L> {
    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    async fn run(&mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_connected = true;
        loop {
            let mut is_leaving = false;
            tokio::select! {
                event = self.broker.next() => self.on_events(event),
                request = self.requests.recv() => is_leaving = request.is_none_or(|request| self.on_requests(request)),
                _ = ticks.tick() => {
                    self.node.on_time(self.now_ms(), unix_ms());
                    self.show(&mut was_connected);
                }
            }
            if is_leaving {
                self.node.leave(unix_ms());
                self.carry_out().await;
                return self.broker.flush().await;
            }
            self.carry_out().await;
        }
    }

    /// Writes the node's state where others read it.
    fn show(&mut self, was_connected: &mut bool) {
        let now_ms = self.now_ms();
        let mut figures = self.node.figures(now_ms);
        figures.counts.members_left_out += self.members_left_out.load(Ordering::Relaxed);
        if figures.is_connected != *was_connected {
            *was_connected = figures.is_connected;
            match figures.is_connected {
                true => tracing::info!("the cluster's log can be reached again"),
                false => tracing::warn!("the cluster's log can't be reached: publications are rejected"),
            }
        }
        if figures.is_ready && !self.status.get().is_ready {
            tracing::info!(peers = figures.peers.len(), "the node has joined the cluster");
        }
        self.questions.on_time(now_ms);
        self.status.set(figures);
    }

    fn on_events(&mut self, first: crate::cluster::Event) {
        let (now_ms, unix_ms) = (self.now_ms(), unix_ms());
        self.node.on_event(first, now_ms, unix_ms);
        for _ in 1..TURN_MAX {
            let Some(event) = self.broker.try_next() else { break };
            self.node.on_event(event, now_ms, unix_ms);
        }
    }

    /// Returns whether the node leaves.
    fn on_requests(&mut self, first: Request) -> bool {
        let (now_ms, unix_ms) = (self.now_ms(), unix_ms());
        let mut next = Some(first);
        for _ in 0..TURN_MAX {
            match next {
                Some(Request::Order(request, waiter)) => {
                    self.bytes.fetch_sub(size(&request), Ordering::Relaxed);
                    match request {
                        OrderRequest::Publish(draft) => {
                            self.node.submit(Work::Publish(draft), waiter, now_ms, unix_ms);
                        }
                        OrderRequest::RemoveHistory(topic) => {
                            self.node.submit(Work::RemoveHistory(topic), waiter, now_ms, unix_ms);
                        }
                        OrderRequest::Presence(topic) => {
                            self.ask(&Question::Presence(topic), Asker::Shard(waiter), now_ms);
                        }
                    }
                }
                Some(Request::Member(member)) => {
                    self.bytes.fetch_sub(member_bytes(&member), Ordering::Relaxed);
                    self.node.on_member(&member);
                }
                Some(Request::Figures(text)) => self.node.share_figures(text),
                Some(Request::Ask(question, sender)) => {
                    self.ask(&question, Asker::Control(sender), now_ms);
                }
                Some(Request::Leave) => return true,
                None => break,
            }
            next = self.requests.try_recv().ok();
        }
        false
    }

    fn ask(&mut self, question: &Question, asker: Asker, now_ms: u64) {
        let figures = self.node.figures(now_ms);
        if let Some(ask) = self.questions.ask(question, asker, &figures, now_ms) {
            self.node.ask(ask);
        }
    }

    /// Does what the node wants done, in order.
    async fn carry_out(&mut self) {
        for output in self.node.take_outputs() {
            let placement = match output {
                Output::Append { bucket, record } => {
                    self.broker.append(bucket, record);
                    continue;
                }
                Output::Fetch { bucket, after, fetch } => {
                    self.broker.fetch(bucket, after, fetch);
                    continue;
                }
                Output::Broadcast(message) => {
                    self.broker.broadcast(message);
                    continue;
                }
                Output::Send { to, message } => {
                    self.broker.send(to, message);
                    continue;
                }
                Output::Figures { from, text } => {
                    // A subscriber that misses them gets the next ones.
                    let _ = self.publisher.publish(figures_of(&format!("{from:016x}"), text));
                    continue;
                }
                Output::Asked { from, ask } => {
                    self.questions.on_asked(from, ask);
                    continue;
                }
                Output::Replied { from, reply } => {
                    self.questions.on_reply(from, &reply);
                    continue;
                }
                Output::Published { draft, position, time_ms, ticket } => {
                    Placement::Published { draft, position, time_ms, waiter: ticket }
                }
                Output::Answered { ticket, result } => Placement::Answered { waiter: ticket, result },
                Output::HistoryRemoved { topic, ticket } => Placement::HistoryRemoved { topic, waiter: ticket },
                Output::Member(Member { topic, info, has_joined }) => {
                    Placement::Member { topic, client: info, has_joined }
                }
                Output::Evicted { topic } => Placement::Evicted(topic),
                Output::Lineage { bucket, lineage } => Placement::Lineage { bucket, lineage },
                Output::Unsettled { bucket } => {
                    tracing::warn!(bucket, "the positions in a part of the topics are unknown: joining again");
                    Placement::Unsettled { bucket }
                }
                Output::Rebased { bucket, lineage, positions } => {
                    Placement::Rebased { bucket, lineage, positions: positions.into() }
                }
                Output::Settled { bucket } => Placement::Settled { bucket },
            };
            self.place(Box::new(placement)).await;
        }
        for placement in self.questions.take_placements() {
            self.place(Box::new(placement)).await;
        }
        for (to, reply) in self.questions.take_answers() {
            self.node.reply(to, reply);
        }
    }

    /// Hands a placement to the shards, when they have room.
    async fn place(&self, placement: Box<Placement>) {
        let mut left = self.publisher.place(placement);
        while let Err(placement) = left {
            tokio::time::sleep(RETRY).await;
            left = self.publisher.place(placement);
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}
