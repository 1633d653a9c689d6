//! The control plane: publishing, metrics and health over HTTP, on one thread with tokio-uring.
//!
//! ```text
//! GET  /                  what there is
//! GET  /healthz           200 while the process answers
//! GET  /readyz            200, and 503 while the server leaves
//! GET  /metrics           numbers for Prometheus           (metrics, process)
//! POST /publish/<topic>   the body becomes a publication   (publish)
//! ```
//!
//! Connections are `http`'s (with `batch`), and which requests a browser may make is `guard`'s. With `demo` there
//! is a publisher inside, which reads this host's figures (`demo`, `host`). It never touches a shard's state: what
//! it wants goes through the [`Publisher`], what it knows comes from the [`Status`].

mod answer;
mod batch;
mod demo;
#[cfg(test)]
mod fake;
mod guard;
mod host;
mod http;
mod metrics;
mod process;
mod publish;

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

use crate::server::{PublishError, Publisher, Status};
use publish::Publish;

/// How long to wait before a full queue is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// What the control plane is made of.
pub struct Control {
    /// Where HTTP is served. Bound and listening.
    pub listener: std::net::TcpListener,
    /// The way to the shards.
    pub publisher: Publisher,
    /// What the shards count.
    pub status: Status,
    /// Whether to publish this host's figures to the topic `demo`, each second.
    pub demo: bool,
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
    publisher: RefCell<Box<dyn Publish>>,
    status: Status,
    /// When the process did, as near as the control plane knows.
    started: SystemTime,
}

impl State {
    fn new(publisher: Box<dyn Publish>, status: Status) -> State {
        State { publisher: RefCell::new(publisher), status, started: SystemTime::now() }
    }

    /// Runs `act` with the publisher.
    fn with_publisher<T>(&self, act: impl FnOnce(&mut dyn Publish) -> T) -> T {
        act(self.publisher.borrow_mut().as_mut())
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
    let listener = http::Listener::new(control.listener)?;
    let state = Rc::new(State::new(Box::new(control.publisher), control.status));
    // Dropping the set ends them.
    let mut tasks = JoinSet::new();
    tasks.spawn_local(listener.run(state.clone()));
    if control.demo {
        tasks.spawn_local(demo::run(state.clone()));
    }
    on_ready()?;
    Ok(until_ended(&state, shards_ended, async || signals.next().await).await)
}

/// Waits for the end, and starts it at the first signal.
async fn until_ended(state: &State, shards_ended: impl Future<Output = ()>, mut signaled: impl AsyncFnMut()) -> Ended {
    let mut shards_ended = pin!(shards_ended);
    tokio::select! {
        () = &mut shards_ended => return Ended::ShardsEnded,
        () = signaled() => {}
    }
    let drained = async {
        drain(state).await;
        shards_ended.await;
    };
    tokio::select! {
        () = drained => Ended::ShardsEnded,
        () = signaled() => Ended::Interrupted,
    }
}

/// Tells every shard to leave.
async fn drain(state: &State) {
    state.status.set_draining();
    while let Err(PublishError::Busy) = state.with_publisher(|publisher| publisher.drain()) {
        tokio::time::sleep(RETRY).await;
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
