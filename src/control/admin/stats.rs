//! The server's figures: published each second on the topic `$sys:stats`, and on request. `docs/admin.md` describes the
//! format.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::super::State;
use super::super::metrics::{MemoryInUse, cpu_time};
use crate::server::metrics::{Cell, Histogram, HistogramSnapshot};
use crate::server::{CloseCause, PublishError, ShardMetrics, Status};
use crate::topics::{Draft, TopicName};

/// Where the figures are published. Only operators read it.
pub(in super::super) const TOPIC: &str = "$sys:stats";

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

/// A figure: its name, and where it is.
type Row = (&'static str, fn(&ShardMetrics) -> &Cell);

/// Figures that go up and down.
const GAUGES: [Row; 14] = [
    ("connections", |shard| &shard.connections),
    ("websockets", |shard| &shard.websockets),
    ("streams", |shard| &shard.streams),
    ("framed", |shard| &shard.framed),
    ("subscriptions", |shard| &shard.subscriptions),
    ("topics", |shard| &shard.home_topics_occupied),
    ("home_topics", |shard| &shard.home_topics),
    ("history_bytes", |shard| &shard.history_bytes),
    ("outbox_bytes", |shard| &shard.outbox_bytes),
    ("outbox_connections", |shard| &shard.outbox_connections),
    ("mesh_bytes", |shard| &shard.mesh_bytes),
    ("drain_left", |shard| &shard.drain_left),
    ("catch_ups_waiting", |shard| &shard.catch_ups_waiting),
    ("idempotency_keys", |shard| &shard.idempotency_keys),
];

/// Figures that only grow.
const COUNTERS: [Row; 22] = [
    ("accepted", |shard| &shard.accepted),
    ("publications", |shard| &shard.publications),
    ("publications_refused", |shard| &shard.publications_refused),
    ("deliveries", |shard| &shard.deliveries),
    ("messages_received", |shard| &shard.messages_received),
    ("bytes_received", |shard| &shard.bytes_received),
    ("bytes_sent", |shard| &shard.bytes_sent),
    ("dropped", |shard| &shard.publications_dropped),
    ("conflated", |shard| &shard.publications_conflated),
    ("shed", |shard| &shard.shed),
    ("unauthorized", |shard| &shard.unauthorized),
    ("origins_refused", |shard| &shard.origins_refused),
    ("subscriptions_refused", |shard| &shard.subscriptions_refused),
    ("requests_ahead", |shard| &shard.requests_ahead),
    ("requests_refused", |shard| &shard.requests_refused),
    ("recovered", |shard| &shard.recovered),
    ("recoveries_lost", |shard| &shard.recoveries_lost),
    ("recoveries_cut", |shard| &shard.recoveries_cut),
    ("gaps", |shard| &shard.gaps),
    ("disconnected", |shard| &shard.disconnected),
    ("pings", |shard| &shard.pings),
    ("turns", |shard| &shard.turns),
];

/// The figures of each shard.
const OF_SHARDS: [Row; 11] = [
    ("connections", |shard| &shard.connections),
    ("subscriptions", |shard| &shard.subscriptions),
    ("topics", |shard| &shard.topics),
    ("home_topics", |shard| &shard.home_topics),
    ("outbox_bytes", |shard| &shard.outbox_bytes),
    ("drain_left", |shard| &shard.drain_left),
    ("publications", |shard| &shard.publications),
    ("deliveries", |shard| &shard.deliveries),
    ("bytes_sent", |shard| &shard.bytes_sent),
    ("turns", |shard| &shard.turns),
    ("busy_nanoseconds", |shard| &shard.busy_nanoseconds),
];

/// A duration: its name, and where it is counted.
type DurationRow = (&'static str, fn(&ShardMetrics) -> &Histogram);

/// Durations, told by their quantiles in the last second.
const DURATIONS: [DurationRow; 5] = [
    ("handshake", |shard| &shard.handshake),
    ("order", |shard| &shard.order),
    ("fan_out", |shard| &shard.fan_out),
    ("outbox_wait", |shard| &shard.outbox_wait),
    ("turn", |shard| &shard.turn),
];

/// Quantiles of a duration, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

/// The durations of the last second.
#[derive(Debug, Default)]
pub(in super::super) struct Latencies {
    before: [HistogramSnapshot; DURATIONS.len()],
    /// By name; none where nothing was counted.
    last: BTreeMap<&'static str, Option<Quantiles>>,
}

impl Latencies {
    /// A second has passed.
    fn advance(&mut self, status: &Status) {
        for ((name, histogram), before) in DURATIONS.iter().zip(&mut self.before) {
            let now = Histogram::sum(status.shards.iter().map(histogram));
            let second = now.since(before);
            let quantile = |quantile| second.quantile(quantile).map(|duration| duration.as_secs_f64());
            let quantiles = quantile(0.5).zip(quantile(0.99)).map(|(p50, p99)| Quantiles { p50, p99 });
            self.last.insert(name, quantiles);
            *before = now;
        }
    }
}

/// All figures at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    schema: u32,
    node: String,
    /// The configured name of the node, or that of the host.
    name: String,
    version: &'static str,
    /// In milliseconds of Unix time.
    time_ms: u64,
    uptime_s: u64,
    /// `running` or `draining`.
    state: &'static str,
    connections_max: u64,
    gauges: BTreeMap<&'static str, u64>,
    counters: BTreeMap<&'static str, u64>,
    /// Connections that have ended, by reason.
    closes: BTreeMap<&'static str, u64>,
    /// Of the last second, in seconds.
    durations: BTreeMap<&'static str, Option<Quantiles>>,
    process: ProcessFigures,
    shards: Vec<BTreeMap<&'static str, u64>>,
}

#[derive(Debug, Serialize)]
struct ProcessFigures {
    resident_bytes: u64,
    /// Of the kernel's slab, on the whole host.
    slab_bytes: u64,
    /// Memory that connections have added, of the process and of the slab.
    added_bytes: [u64; 2],
    cpu_seconds: f64,
}

impl Stats {
    /// The figures of this moment.
    pub(super) async fn take(state: &State) -> Stats {
        let memory = MemoryInUse::measure().await;
        let shards = &state.status.shards;
        let sums = |rows: &[Row]| {
            rows.iter().map(|(name, cell)| (*name, shards.iter().map(|shard| cell(shard).get()).sum())).collect()
        };
        let of_shard = |shard| OF_SHARDS.iter().map(|(name, cell)| (*name, cell(shard).get())).collect();
        let closed = |cause: CloseCause| shards.iter().map(|shard| shard.closed(cause).get()).sum();
        let before = state.memory_before;
        Stats {
            schema: 1,
            node: state.uid.clone(),
            name: state.others.name().map_or_else(host_name, str::to_owned),
            version: env!("CARGO_PKG_VERSION"),
            time_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64,
            uptime_s: SystemTime::now().duration_since(state.started).unwrap_or_default().as_secs(),
            state: if state.status.is_draining() { "draining" } else { "running" },
            connections_max: shards.first().map_or(0, |shard| shard.connections_max.get()),
            gauges: sums(&GAUGES),
            counters: sums(&COUNTERS),
            closes: CloseCause::ALL.iter().map(|cause| (cause.label(), closed(*cause))).collect(),
            durations: state.latencies.borrow().last.clone(),
            process: ProcessFigures {
                resident_bytes: memory.resident_bytes,
                slab_bytes: memory.slab_bytes,
                added_bytes: [
                    memory.resident_bytes.saturating_sub(before.resident_bytes),
                    memory.slab_bytes.saturating_sub(before.slab_bytes),
                ],
                cpu_seconds: cpu_time().as_secs_f64(),
            },
            shards: shards.iter().map(of_shard).collect(),
        }
    }
}

/// The name of this host.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Publishes the figures until the server stops, in a cluster also to the operators at other nodes.
pub(in super::super) async fn publish(state: Rc<State>) {
    let topic = TopicName::new(TOPIC).expect("the topic's name is valid");
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        state.latencies.borrow_mut().advance(&state.status);
        let stats = Stats::take(&state).await;
        let payload = serde_json::to_vec(&stats).expect("figures have no maps whose keys are not text");
        state.others.share_figures(&state.uid, &payload);
        // A subscriber that misses this second's figures gets the next ones.
        if let Err(PublishError::Stopping) = state.send_any(Draft::new(topic.clone(), true, payload.into())) {
            return;
        }
    }
}
