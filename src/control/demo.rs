//! The built-in feed: this host's figures as JSON text, each second, to the topic `demo`; and the publishers of the
//! demo pages (`feeds`).
//!
//! They are publishers like any other. The pages that the data port serves draw what they send.

#[cfg(feature = "product")]
mod feeds;

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};

use super::State;
use super::host::{self, CpuTicks, Memory, Network};
use crate::server::{ListenAddress, PublishError, ShardMetrics, Status};
use crate::topics::{Draft, TopicName};

/// Where it is published.
const TOPIC: &str = "demo";

/// How often.
const PERIOD: Duration = Duration::from_secs(1);

#[cfg(feature = "product")]
pub use feeds::namespaces;

/// Publishes until the server leaves; this host's figures as long as they can be read.
pub(super) async fn run(state: Rc<State>) {
    #[cfg(feature = "product")]
    tokio::join!(run_figures(&state), feeds::run(state.clone()));
    #[cfg(not(feature = "product"))]
    run_figures(&state).await;
}

async fn run_figures(state: &State) {
    if let Err(error) = publish_figures(state).await {
        tracing::warn!(%error, "the demo feed has ended: it needs /proc/stat, meminfo, net/dev and loadavg");
    }
}

async fn publish_figures(state: &State) -> io::Result<()> {
    let topic = TopicName::new(TOPIC).expect("the topic's name is valid");
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = Sample::take(&state.status).await?;
    let control = ControlPort { address: state.address.clone(), has_key: state.access.borrow().has_key() };
    loop {
        ticks.tick().await;
        let now = Sample::take(&state.status).await?;
        let payload = Bytes::from(encode(&before, &now, &control));
        before = now;
        // A subscriber that misses this second's figures gets the next one's.
        if let Err(PublishError::Stopping) = state.publish(Draft::new(topic.clone(), true, payload)).await {
            return Ok(());
        }
    }
}

/// All figures at one moment.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    /// Since the Unix epoch.
    time: Duration,
    /// All cores together, then each.
    cpus: Vec<CpuTicks>,
    memory: Memory,
    network: Network,
    load: f64,
    connections: u64,
    deliveries: u64,
}

impl Sample {
    async fn take(status: &Status) -> io::Result<Sample> {
        let sum = |figure: fn(&ShardMetrics) -> u64| status.shards.iter().map(figure).sum();
        Ok(Sample {
            cpus: host::cpu_ticks(&host::read("/proc/stat").await?),
            memory: host::memory(&host::read("/proc/meminfo").await?),
            network: host::network(&host::read("/proc/net/dev").await?),
            load: host::load(&host::read("/proc/loadavg").await?),
            connections: sum(|shard| shard.connections.get()),
            deliveries: sum(|shard| shard.deliveries.get()),
            at: Instant::now(),
            time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        })
    }
}

/// What the page says of publishing.
#[derive(Clone, Debug)]
struct ControlPort {
    address: ListenAddress,
    has_key: bool,
}

/// The message for `now`, its rates since `before`.
fn encode(before: &Sample, now: &Sample, control: &ControlPort) -> String {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let rate = |before: u64, now: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
    let shares: Vec<String> = now
        .cpus
        .iter()
        .zip(&before.cpus)
        .map(|(now, before)| format!("{:.1}", now.busy_percent_since(*before)))
        .collect();
    let (all, cores) = shares.split_first().map_or(("0.0", &[][..]), |(all, cores)| (all.as_str(), cores));
    format!(
        concat!(
            r#"{{"type":"host","time_ms":{},"cpu":{{"busy_percent":{},"cores_percent":[{}]}},"load":{:.2},"#,
            r#""memory":{{"used_bytes":{},"total_bytes":{}}},"#,
            r#""network":{{"received_bytes_per_second":{:.0},"sent_bytes_per_second":{:.0},"#,
            r#""loopback_bytes_per_second":{:.0}}},"#,
            r#""server":{{"connections":{},"deliveries":{},"deliveries_per_second":{:.1}}},"#,
            r#""control":{{"address":{},"has_key":{}}}}}"#,
        ),
        now.time.as_millis(),
        all,
        cores.join(","),
        now.load,
        now.memory.used_bytes,
        now.memory.total_bytes,
        rate(before.network.received_bytes, now.network.received_bytes),
        rate(before.network.sent_bytes, now.network.sent_bytes),
        rate(before.network.loopback_bytes, now.network.loopback_bytes),
        now.connections,
        now.deliveries,
        rate(before.deliveries, now.deliveries),
        serde_json::Value::from(control.address.to_string()),
        control.has_key,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: Instant) -> Sample {
        let core = CpuTicks { busy: 10, total: 100 };
        Sample {
            at,
            time: Duration::from_millis(1_700_000_000_123),
            cpus: vec![CpuTicks { busy: 20, total: 200 }, core, core],
            memory: Memory { used_bytes: 400, total_bytes: 1000 },
            network: Network { received_bytes: 1000, sent_bytes: 2000, loopback_bytes: 3000 },
            load: 0.5,
            connections: 7,
            deliveries: 100,
        }
    }

    #[test]
    fn a_message_has_the_figures_and_their_rates() {
        let before = sample(Instant::now());
        let mut now = sample(before.at + Duration::from_secs(2));
        now.cpus = [(170, 400), (110, 200), (60, 200)].map(|(busy, total)| CpuTicks { busy, total }).to_vec();
        now.network = Network { received_bytes: 1500, sent_bytes: 2001, loopback_bytes: 3000 };
        now.deliveries = 103;
        let expected = concat!(
            r#"{"type":"host","time_ms":1700000000123,"cpu":{"busy_percent":75.0,"cores_percent":[100.0,50.0]},"#,
            r#""load":0.50,"memory":{"used_bytes":400,"total_bytes":1000},"#,
            r#""network":{"received_bytes_per_second":250,"sent_bytes_per_second":0,"loopback_bytes_per_second":0},"#,
            r#""server":{"connections":7,"deliveries":103,"deliveries_per_second":1.5},"#,
            r#""control":{"address":"127.0.0.1:8001","has_key":true}}"#,
        );
        let control = ControlPort { address: "127.0.0.1:8001".parse().unwrap(), has_key: true };
        assert_eq!(encode(&before, &now, &control), expected);
    }

    #[test]
    fn this_host_can_be_read() {
        let sample = tokio_uring::start(Sample::take(&Status::new(1))).unwrap();
        assert!(sample.cpus.len() >= 2 && sample.cpus[0].total > 0, "{sample:?}");
        assert!(sample.memory.used_bytes > 0 && sample.memory.total_bytes > sample.memory.used_bytes, "{sample:?}");
    }
}
