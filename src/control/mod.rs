//! The control plane: publishing, metrics and health over HTTP, on one thread with tokio-uring.
//!
//! ```text
//! GET  /                  what there is; the admin page for browsers (admin)
//! *    /admin/*           what the admin page needs        (admin)
//! GET  /healthz           200 while the process answers
//! GET  /readyz            200, and 503 while the server leaves or joins a cluster
//! GET  /metrics           numbers for Prometheus           (metrics, requests)
//! GET  /connections/slow   the largest backlogs             (slowest)
//! POST /reload             reads the configuration again (reload)
//! POST /drain              stops gracefully
//! POST /publish/<topic>   the body becomes a publication   (publish)
//! POST /publish           a stream of publications         (stream, record)
//! POST /api/<method>      Centrifugo's server API          (api)
//! ```
//!
//! Connections are `http`'s (with `batch`), how many there may be is up to `places`, bodies are `body`'s, who may use
//! them is `access`'s, and which requests a browser may make `guard`'s. With `demo` there is a publisher inside, which
//! reads this host's figures (`demo`, `host`). It never touches a shard's state: what it wants goes through the
//! [`Publisher`] (`shards`), what it knows comes from the [`Status`].

mod access;
mod admin;
mod answer;
mod api;
mod audit;
mod batch;
mod body;
mod demo;
#[cfg(test)]
mod fake;
mod guard;
mod host;
mod http;
mod lists;
mod metrics;
mod notify;
mod others;
mod peer;
mod places;
mod publish;
mod query;
mod record;
mod reload;
mod requests;
mod shards;
mod slowest;
mod state;
mod stream;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

pub use access::{Access, ExposedError};
pub use admin::DataPort;
use answer::{Answer, text};
#[cfg(feature = "product")]
pub use demo::namespaces as demo_namespaces;
use metrics::MemoryInUse;
use notify::Notifier;
pub use others::Others;
use places::{Bounds, Places};
use reload::Reloader;
pub use reload::{Reload, Reloaded};
use requests::RequestCounts;
use shards::ToShards;

use crate::backend::{BackendCounts, EventCounts};
use crate::gateway::centrifuge::TokenVerifier;
use crate::server::metrics::Cell;
use crate::server::{ListenAddress, PublishError, Publisher, ShardMetrics, Status};
use crate::tls::Acceptor;
use crate::topics::Namespaces;

/// How long to wait before a full queue is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// How often the log tells how far a drain has come.
const DRAIN_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// What the control plane is made of.
pub struct Control {
    /// The socket on which HTTP is served: it listens.
    pub listener: OwnedFd,
    /// Its address.
    pub address: ListenAddress,
    /// Who may use it.
    pub access: Access,
    /// The way to the shards.
    pub publisher: Publisher,
    /// What topics have in common, as the shards have it.
    pub namespaces: Arc<Namespaces>,
    /// What the shards count.
    pub status: Status,
    /// The certificates, if a port speaks TLS.
    pub tls: Option<Acceptor>,
    /// Whether the control port speaks TLS, with these certificates.
    #[cfg(feature = "product")]
    pub is_secure: bool,
    /// Signs the tokens of operators.
    pub tokens: TokenVerifier,
    /// The listener on which the admin page reads, if any.
    pub data: Option<DataPort>,
    /// The settings in use, for people: each key with its value, without secrets.
    pub settings: BTreeMap<String, String>,
    /// Reads the configuration again.
    pub reload: Reload,
    /// What the backend counts, if there is one.
    pub backend_counts: Option<BackendCounts>,
    /// What happens to events, if there is an endpoint for them.
    pub event_counts: Option<EventCounts>,
    /// Whether to publish this host's figures to the topic `demo`, each second, and what the demo pages show.
    pub demo: bool,
    /// The other nodes, if the server is one of several.
    pub others: Others,
}

/// Why the control plane ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The shards have ended, drained or not: what they say tells which.
    ShardsEnded,
    /// A second signal came before the shards had ended: stop at once.
    Interrupted,
}

/// What the tasks of the control plane share.
struct State {
    shards: RefCell<Box<dyn ToShards>>,
    status: Status,
    namespaces: RefCell<Arc<Namespaces>>,
    access: RefCell<Access>,
    /// Where it listens.
    address: ListenAddress,
    tls: Option<Acceptor>,
    tokens: TokenVerifier,
    data: Option<DataPort>,
    settings: RefCell<BTreeMap<String, String>>,
    latencies: RefCell<admin::stats::Latencies>,
    backend_counts: Option<BackendCounts>,
    event_counts: Option<EventCounts>,
    reloader: Reloader,
    others: Others,
    notifier: Notifier,
    places: Rc<Places>,
    /// Somebody has requested the server to drain.
    drain_requested: Notify,
    requests: RequestCounts,
    streams: std::cell::Cell<stream::StreamCounts>,
    /// Tells this server from others, and from itself before it was started again.
    uid: String,
    /// When the process did, as near as the control plane knows.
    started: SystemTime,
    /// What was in use then.
    memory_before: MemoryInUse,
}

impl State {
    fn new(
        shards: Box<dyn ToShards>,
        status: Status,
        namespaces: Arc<Namespaces>,
        access: Access,
        address: ListenAddress,
        memory_before: MemoryInUse,
    ) -> State {
        let uid = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        let started = SystemTime::now();
        let (shards, places) = (RefCell::new(shards), Places::new(Bounds::default()));
        let streams = std::cell::Cell::default();
        let reloader = Reloader::new(Box::new(|| Err("there is nothing to reload".to_owned())));
        State {
            shards,
            status,
            namespaces: RefCell::new(namespaces),
            access: RefCell::new(access),
            address,
            tls: None,
            tokens: TokenVerifier::default(),
            data: None,
            settings: RefCell::default(),
            latencies: RefCell::default(),
            backend_counts: None,
            event_counts: None,
            reloader,
            others: Others::default(),
            notifier: Notifier::of_environment(),
            places,
            drain_requested: Notify::new(),
            requests: RequestCounts::default(),
            streams,
            uid,
            started,
            memory_before,
        }
    }

    /// Runs `act` with the shards.
    fn with_shards<T>(&self, act: impl FnOnce(&mut dyn ToShards) -> T) -> T {
        act(self.shards.borrow_mut().as_mut())
    }
}

/// Serves until `shards_ended` resolves. Call it within [`tokio_uring::start`]. `on_ready` is called when HTTP is
/// answered and signals are heeded.
///
/// The first SIGTERM or SIGINT makes the shards drain; meanwhile HTTP is still answered, with 503 where it should
/// not be relied on. The second ends this at once.
///
/// # Errors
/// What the kernel says of the listener or of watching signals, and what `on_ready` says, at the start.
pub async fn serve(
    control: Control,
    on_ready: impl FnOnce() -> io::Result<()>,
    shards_ended: impl Future<Output = ()>,
) -> io::Result<Ended> {
    let mut signals = Signals::new()?;
    #[cfg(feature = "product")]
    let acceptor = control.tls.clone().filter(|_| control.is_secure);
    #[cfg(not(feature = "product"))]
    let acceptor = None;
    let listener = http::Listener::new(control.listener, &control.address, acceptor)?;
    let Control { publisher, status, namespaces, access, tls, reload, backend_counts, event_counts, others, .. } =
        control;
    let Control { address, tokens, data, settings, .. } = control;
    let memory_before = MemoryInUse::measure().await;
    let state = State::new(Box::new(publisher), status, namespaces, access, address, memory_before);
    let (reloader, settings) = (Reloader::new(reload), RefCell::new(settings));
    let state = State { tls, backend_counts, event_counts, others, reloader, ..state };
    let state = Rc::new(State { tokens, data, settings, ..state });
    // Dropping the set ends them.
    let mut tasks = JoinSet::new();
    tasks.spawn_local(listener.run(state.clone()));
    tasks.spawn_local(notify::watch(state.clone()));
    tasks.spawn_local(admin::stats::publish(state.clone()));
    tasks.spawn_local(reload_at_signals(signal(SignalKind::hangup())?, state.clone()));
    if control.demo {
        tasks.spawn_local(demo::run(state.clone()));
    }
    on_ready()?;
    state.notifier.ready();
    Ok(until_ended(&state, shards_ended, async || signals.next().await).await)
}

/// A terminal that closes sends this signal, too: it must not end the server.
async fn reload_at_signals(mut hangups: Signal, state: Rc<State>) {
    while hangups.recv().await.is_some() {
        // The log has the outcome.
        let _ = state.reload();
    }
}

/// Waits for the end, and starts it at the first signal.
async fn until_ended(state: &State, shards_ended: impl Future<Output = ()>, mut signaled: impl AsyncFnMut()) -> Ended {
    let mut shards_ended = pin!(shards_ended);
    tokio::select! {
        () = &mut shards_ended => return Ended::ShardsEnded,
        () = signaled() => {}
        () = state.drain_requested.notified() => {}
    }
    let drained = async {
        drain(state).await;
        log_until(shards_ended, &state.status, &state.notifier).await;
    };
    tokio::select! {
        () = drained => Ended::ShardsEnded,
        () = signaled() => Ended::Interrupted,
    }
}

/// Begins the drain, once, and answers how many connections there are.
fn request_drain(state: &State) -> Answer {
    let connections: u64 = state.status.shards.iter().map(|shard| shard.connections.get()).sum();
    state.drain_requested.notify_one();
    text(StatusCode::OK, format_args!("the server drains {connections} connections"))
}

/// Tells every shard to leave.
async fn drain(state: &State) {
    state.status.set_draining();
    while let Err(PublishError::Busy) = state.with_shards(|shards| shards.drain()) {
        tokio::time::sleep(RETRY).await;
    }
}

/// Says each second how far the drain has come.
async fn log_until(mut ended: Pin<&mut impl Future<Output = ()>>, status: &Status, notifier: &Notifier) {
    let sum = |cell: fn(&ShardMetrics) -> &Cell| status.shards.iter().map(|shard| cell(shard).get()).sum::<u64>();
    loop {
        let (connections, to_tell) = (sum(|shard| &shard.connections), sum(|shard| &shard.drain_left));
        tracing::info!(connections, to_tell, "stopping");
        notifier.stopping(connections);
        tokio::select! {
            () = &mut ended => return,
            () = tokio::time::sleep(DRAIN_LOG_INTERVAL) => {}
        }
    }
}

/// The signals that ask the process to stop.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Resolves when one has come.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use fake::Shards;

    /// What `until_ended` returns when this many signals come at once.
    fn ended_after(shards: &Shards, state: &State, signals: u32) -> Ended {
        let mut left = signals;
        let signaled = async || match left {
            0 => pending().await,
            _ => left -= 1,
        };
        let drained = shards.drained.clone();
        let shards_ended = async move {
            while signals > 0 && !drained.get() {
                tokio::task::yield_now().await;
            }
        };
        tokio_uring::start(until_ended(state, shards_ended, signaled))
    }

    #[test]
    fn without_a_signal_the_shards_are_left_alone() {
        let shards = Shards::default();
        let state = shards.state();
        assert_eq!(ended_after(&shards, &state, 0), Ended::ShardsEnded);
        assert!(!shards.drained.get() && !state.status.is_draining());
    }

    #[test]
    fn a_signal_drains_however_busy_the_shards_are() {
        let shards = Shards::default();
        shards.drain_refusals.set(3);
        let state = shards.state();
        assert_eq!(ended_after(&shards, &state, 1), Ended::ShardsEnded);
        assert!(shards.drained.get() && state.status.is_draining());
    }

    #[test]
    fn a_request_drains_as_a_signal_does() {
        let shards = Shards::default();
        let state = shards.state();
        let answer = request_drain(&state);
        assert_eq!(answer.status(), StatusCode::OK);
        let drained = shards.drained.clone();
        let shards_ended = async move {
            while !drained.get() {
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio_uring::start(until_ended(&state, shards_ended, async || pending().await));
        assert_eq!(ended, Ended::ShardsEnded);
        assert!(shards.drained.get() && state.status.is_draining());
    }

    #[test]
    fn a_second_signal_ends_it_at_once() {
        let shards = Shards::default();
        shards.drain_refusals.set(u32::MAX);
        let state = shards.state();
        assert_eq!(ended_after(&shards, &state, 2), Ended::Interrupted);
        assert!(!shards.drained.get());
    }

    #[test]
    fn who_leaves_publishes_no_more() {
        let shards = Shards::default();
        let state = shards.state();
        state.status.set_draining();
        let topic = crate::topics::TopicName::new("a").unwrap();
        let publish = state.publish(crate::topics::Draft::new(topic, true, bytes::Bytes::new()));
        assert_eq!(tokio_uring::start(publish), Err(PublishError::Stopping));
        assert!(shards.published.borrow().is_empty());
    }
}
