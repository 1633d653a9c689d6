//! `GET /metrics`: the shards' numbers and the process's own as OpenMetrics text, which Prometheus reads.
//!
//! Nothing is counted here; each scrape reads what the shards have counted.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::header::HeaderValue;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::answer::{Answer, answer};
use super::places::{Ended, PlaceCounts};
use super::reload::ReloadCounts;
use super::stream::StreamCounts;
use super::{State, host, process};
use crate::backend::{BackendCounts, BackendOutcome, EventCounts};
use crate::gateway::centrifuge::CallKind;
use crate::server::metrics::Cell;
use crate::server::{CloseCause, ShardMetrics, Status};
use crate::tls::{Acceptor, CertificateInfo, Failure};

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// One number that every shard has: its name, what it is, and where.
type Row = (&'static str, &'static str, fn(&ShardMetrics) -> &Cell);

/// Numbers that go up and down.
const GAUGES: [Row; 16] = [
    ("ringfeed_connections", "Connections now, in any state", |shard| &shard.connections),
    ("ringfeed_websockets", "Connections now that are upgraded and not closing", |shard| &shard.websockets),
    ("ringfeed_streams", "Connections now that read an event stream and are not closing", |shard| &shard.streams),
    ("ringfeed_framed", "Connections now that speak a protocol without HTTP and are not closing", |shard| {
        &shard.framed
    }),
    ("ringfeed_drain_left", "Connections that are still to be told that the server stops", |shard| &shard.drain_left),
    ("ringfeed_home_topics", "Topics whose order the shard keeps", |shard| &shard.home_topics),
    ("ringfeed_home_topics_unpublished", "Of these, topics without publications", |shard| {
        &shard.home_topics_unpublished
    }),
    ("ringfeed_idempotency_keys", "Idempotency keys that the shard remembers", |shard| &shard.idempotency_keys),
    ("ringfeed_history_bytes", "Payload bytes that histories keep", |shard| &shard.history_bytes),
    ("ringfeed_topics", "Topics with subscribers on the shard", |shard| &shard.topics),
    ("ringfeed_subscriptions", "Subscriptions on the shard", |shard| &shard.subscriptions),
    ("ringfeed_catch_ups_waiting", "Subscribe requests that wait for the catch-ups of others", |shard| {
        &shard.catch_ups_waiting
    }),
    ("ringfeed_mesh_bytes", "Bytes sent to other shards that these have not taken", |shard| &shard.mesh_bytes),
    ("ringfeed_outbox_bytes", "Bytes waiting for sockets that are behind", |shard| &shard.outbox_bytes),
    ("ringfeed_outbox_connections", "Connections whose socket is behind", |shard| &shard.outbox_connections),
    ("ringfeed_deflate_contexts", "Connections whose compressed messages may refer back to earlier ones", |shard| {
        &shard.deflate_contexts
    }),
];

/// Numbers that only grow. The format appends `_total` to their names.
const COUNTERS: [Row; 36] = [
    ("ringfeed_connections_accepted", "Connections accepted", |shard| &shard.accepted),
    ("ringfeed_origins_refused", "Handshakes refused for the web page they came from", |shard| &shard.origins_refused),
    ("ringfeed_requests_unauthorized", "Requests of clients without the right: 401 and 403", |shard| {
        &shard.unauthorized
    }),
    ("ringfeed_connections_shed", "Connections told to come back later", |shard| &shard.shed),
    ("ringfeed_accept_stalls", "Times that the system had no room for a connection", |shard| &shard.accept_stalls),
    ("ringfeed_publications", "Publications given their offset", |shard| &shard.publications),
    ("ringfeed_publications_refused", "Publications refused", |shard| &shard.publications_refused),
    ("ringfeed_gaps", "Connections closed since publications may have been missed", |shard| &shard.gaps),
    ("ringfeed_idempotency_refused", "Publications refused since their keys could not be remembered", |shard| {
        &shard.idempotency_refused
    }),
    ("ringfeed_subscriptions_refused", "Subscriptions refused since too many topics have subscribers", |shard| {
        &shard.subscriptions_refused
    }),
    ("ringfeed_recoveries_cut", "Recoveries refused since too much would have waited for a connection", |shard| {
        &shard.recoveries_cut
    }),
    ("ringfeed_requests_refused", "Subscriptions and questions refused since shards were behind", |shard| {
        &shard.requests_refused
    }),
    ("ringfeed_doorbells_failed", "Doorbells of other shards that failed and were rung once more", |shard| {
        &shard.doorbells_failed
    }),
    ("ringfeed_publications_dropped", "Publications dropped for slow subscribers", |shard| &shard.publications_dropped),
    ("ringfeed_publications_conflated", "Publications replaced by newer ones for slow subscribers", |shard| {
        &shard.publications_conflated
    }),
    ("ringfeed_deliveries", "Messages handed to sockets or outboxes", |shard| &shard.deliveries),
    ("ringfeed_fan_out_sends", "Sends that deliveries left with, not counting those that waited first", |shard| {
        &shard.fan_out_sends
    }),
    ("ringfeed_deliveries_deflated", "Deliveries to subscribers that take compressed ones", |shard| {
        &shard.deliveries_deflated
    }),
    ("ringfeed_deflate_messages", "Messages compressed", |shard| &shard.deflate_messages),
    ("ringfeed_deflate_input_bytes", "Bytes of compressed messages before", |shard| &shard.deflate_bytes_in),
    ("ringfeed_deflate_output_bytes", "Bytes of compressed messages after", |shard| &shard.deflate_bytes_out),
    ("ringfeed_deflate_shared", "Publications found compressed already", |shard| &shard.deflate_shared),
    ("ringfeed_inflate_messages", "Messages inflated", |shard| &shard.inflate_messages),
    ("ringfeed_inflate_input_bytes", "Bytes of inflated messages before", |shard| &shard.inflate_bytes_in),
    ("ringfeed_inflate_output_bytes", "Bytes of inflated messages after", |shard| &shard.inflate_bytes_out),
    ("ringfeed_messages_received", "Messages received from peers", |shard| &shard.messages_received),
    ("ringfeed_bytes_received", "Bytes received from peers", |shard| &shard.bytes_received),
    ("ringfeed_bytes_sent", "Bytes handed to sockets", |shard| &shard.bytes_sent),
    ("ringfeed_recv_buffers_scarce", "Times that receive buffers were scarce", |shard| &shard.recv_buffers_scarce),
    ("ringfeed_recv_turns_awaited", "Times that a connection had sent more than its turn", |shard| {
        &shard.recv_turns_awaited
    }),
    ("ringfeed_inputs_paused", "Times that messages of a connection waited for answers to those before", |shard| {
        &shard.inputs_paused
    }),
    ("ringfeed_proxy_headers_refused", "Connections of proxies without a valid PROXY header", |shard| {
        &shard.proxy_headers_refused
    }),
    (
        "ringfeed_forwarded_ignored",
        "Requests with X-Forwarded-For or Forwarded of peers that are no trusted proxies",
        |shard| &shard.forwarded_ignored,
    ),
    (
        "ringfeed_forwarded_unreadable",
        "Requests of trusted proxies whose X-Forwarded-For or Forwarded is malformed",
        |shard| &shard.forwarded_unreadable,
    ),
    ("ringfeed_pings", "Pings sent", |shard| &shard.pings),
    ("ringfeed_turns", "Turns of the shard's loop", |shard| &shard.turns),
];

/// Memory that connections take, among other things.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MemoryInUse {
    /// Of the process.
    pub(super) resident_bytes: u64,
    /// Of the kernel's slab, for all of the host: sockets and what waits on them are most of it where there are many.
    pub(super) slab_bytes: u64,
}

impl MemoryInUse {
    /// As it is now. 0 where the kernel does not say.
    pub(super) async fn measure() -> MemoryInUse {
        let meminfo = host::read("/proc/meminfo").await.unwrap_or_default();
        MemoryInUse { resident_bytes: process::resident_bytes().await, slab_bytes: host::slab_bytes(&meminfo) }
    }

    /// The memory added since `before`, for each of `connections`.
    fn for_each_since(self, before: MemoryInUse, connections: u64) -> MemoryInUse {
        let share = |now: u64, before: u64| now.saturating_sub(before).checked_div(connections).unwrap_or(0);
        MemoryInUse {
            resident_bytes: share(self.resident_bytes, before.resident_bytes),
            slab_bytes: share(self.slab_bytes, before.slab_bytes),
        }
    }
}

/// Times that only grow, counted in nanoseconds and told in seconds.
const TIMES: [Row; 2] = [
    ("ringfeed_deflate_seconds", "Time spent on compressing", |shard| &shard.deflate_nanoseconds),
    ("ringfeed_inflate_seconds", "Time spent on inflating", |shard| &shard.inflate_nanoseconds),
];

/// Answers a scrape.
pub(super) async fn get(state: &State) -> Answer {
    let memory = MemoryInUse::measure().await;
    let connections = state.status.shards.iter().map(|shard| shard.connections.get()).sum();
    let process = Process {
        memory,
        memory_for_each: memory.for_each_since(state.memory_before, connections),
        cpu_time: process::cpu_time(),
        started: state.started.duration_since(UNIX_EPOCH).unwrap_or_default(),
    };
    let certificates = state.tls.as_ref().map_or_else(Vec::new, Acceptor::certificates);
    let control = ControlPort(state.places.counts(), state.streams.get(), state.reloader.counts());
    let backend =
        Application(state.backend_counts.clone().unwrap_or_default(), state.event_counts.clone().unwrap_or_default());
    let collectors: Vec<Box<dyn Collector>> = vec![
        Box::new(Shards(state.status.clone())),
        Box::new(control),
        Box::new(Certificates(certificates)),
        Box::new(backend),
        Box::new(process),
        #[cfg(feature = "cluster")]
        Box::new(super::cluster_metrics::ClusterNumbers(state.others.figures())),
    ];
    match encode(collectors) {
        Ok(body) => answer(StatusCode::OK, OPENMETRICS, body),
        Err(fmt::Error) => unreachable!("a string takes whatever is written"),
    }
}

fn encode(collectors: Vec<Box<dyn Collector>>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("ringfeed_build", "What is running", version);
    collectors.into_iter().for_each(|collector| registry.register_collector(collector));
    let mut body = String::new();
    text::encode(&mut body, &registry)?;
    Ok(body)
}

/// The shards' numbers.
#[derive(Debug)]
struct Shards(Status);

impl Collector for Shards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, cell) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (shard, metrics) in self.0.shards.iter().enumerate() {
                family.encode_family(&[("shard", shard)])?.encode_gauge(&cell(metrics).get())?;
            }
        }
        for (name, help, cell) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, metrics) in self.0.shards.iter().enumerate() {
                encode_counter(&mut family.encode_family(&[("shard", shard)])?, cell(metrics).get())?;
            }
        }
        self.encode_times(&mut encoder)?;
        self.encode_tls(&mut encoder)?;
        self.encode_closed(encoder)
    }
}

impl Shards {
    fn encode_times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, nanoseconds) in TIMES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, metrics) in self.0.shards.iter().enumerate() {
                let time = Duration::from_nanos(nanoseconds(metrics).get());
                encode_counter(&mut family.encode_family(&[("shard", shard)])?, time.as_secs_f64())?;
            }
        }
        Ok(())
    }

    fn encode_tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("ringfeed_tls_handshakes", "TLS handshakes, by version and kind");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (shard, metrics) in self.0.shards.iter().enumerate() {
            let shard = shard.to_string();
            let rows = [
                ("1.3", "full", &metrics.tls13_full),
                ("1.3", "resumed", &metrics.tls13_resumed),
                ("1.2", "full", &metrics.tls12_full),
                ("1.2", "resumed", &metrics.tls12_resumed),
            ];
            for (version, kind, count) in rows {
                let labels = [("shard", shard.as_str()), ("version", version), ("kind", kind)];
                encode_counter(&mut family.encode_family(&labels)?, count.get())?;
            }
        }
        let (name, help) = ("ringfeed_tls_failures", "Connections whose TLS has failed, by cause");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (shard, metrics) in self.0.shards.iter().enumerate() {
            let shard = shard.to_string();
            for failure in Failure::ALL {
                let labels = [("shard", shard.as_str()), ("cause", failure.name())];
                encode_counter(&mut family.encode_family(&labels)?, metrics.tls_failures[failure as usize].get())?;
            }
        }
        Ok(())
    }

    fn encode_closed(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("ringfeed_connections_closed", "Connections ended, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (shard, metrics) in self.0.shards.iter().enumerate() {
            let shard = shard.to_string();
            for cause in CloseCause::ALL {
                let labels = [("shard", shard.as_str()), ("reason", cause.label())];
                encode_counter(&mut family.encode_family(&labels)?, metrics.closed(cause).get())?;
            }
        }
        Ok(())
    }
}

/// The control port's own numbers.
#[derive(Debug)]
struct ControlPort(PlaceCounts, StreamCounts, ReloadCounts);

impl Collector for ControlPort {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.0;
        let (name, help) = ("ringfeed_control_connections", "Connections to the control port now, by key");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (key, count) in [("shown", counts.authenticated), ("missing", counts.others)] {
            family.encode_family(&[("key", key)])?.encode_gauge(&count)?;
        }
        let (name, help) = ("ringfeed_control_connections_accepted", "Connections to the control port accepted");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_counter(&mut metric, counts.accepted)?;
        let records = [
            (
                "ringfeed_stream_records",
                "Records of publication streams acknowledged with a position",
                self.1.published,
            ),
            ("ringfeed_stream_records_refused", "Records of publication streams refused", self.1.refused),
        ];
        for (name, help, count) in records {
            encode_counter(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, count)?;
        }
        let (name, help) = ("ringfeed_reloads", "Times that the configuration was read again, by outcome");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (outcome, count) in [("applied", self.2.done), ("refused", self.2.refused)] {
            encode_counter(&mut family.encode_family(&[("outcome", outcome)])?, count)?;
        }
        let (name, help) = ("ringfeed_control_connections_ended", "Connections to the control port ended, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ended in Ended::ALL {
            let count = counts.ended[ended as usize];
            encode_counter(&mut family.encode_family(&[("reason", ended.label())])?, count)?;
        }
        Ok(())
    }
}

/// The certificates in use.
#[derive(Debug)]
struct Certificates(Vec<CertificateInfo>);

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let name = "ringfeed_tls_certificate_expiry_timestamp_seconds";
        let help = "When the certificate expires, since the Unix epoch";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for info in &self.0 {
            let file = info.cert_file.display().to_string();
            family.encode_family(&[("cert_file", file.as_str())])?.encode_gauge(&info.not_after)?;
        }
        Ok(())
    }
}

/// The calls of the backend, and the events.
#[derive(Debug)]
struct Application(BackendCounts, EventCounts);

impl Collector for Application {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kinds = || CallKind::ALL.into_iter().map(|kind| (kind.name(), self.0.kind(kind)));
        let (name, help) = ("ringfeed_backend_calls", "Calls of the backend, by kind and outcome");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (kind, counts) in kinds() {
            for outcome in BackendOutcome::ALL {
                let labels = [("kind", kind), ("outcome", outcome.label())];
                encode_counter(&mut family.encode_family(&labels)?, counts.outcome(outcome))?;
            }
        }
        let (name, help) = ("ringfeed_backend_calls_in_flight", "Calls of the backend that have no answer yet");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (kind, counts) in kinds() {
            family.encode_family(&[("kind", kind)])?.encode_gauge(&counts.in_flight())?;
        }
        let (name, help) = ("ringfeed_backend_call_seconds", "Time to the answers of the backend");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (kind, counts) in kinds() {
            let buckets: Vec<(f64, u64)> = counts.buckets().collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let time_s = counts.time().as_secs_f64();
            family.encode_family(&[("kind", kind)])?.encode_histogram::<NoLabelSet>(time_s, count, &buckets, None)?;
        }
        self.encode_events(encoder)
    }
}

impl Application {
    fn encode_events(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = &self.1;
        let mut family =
            encoder.encode_descriptor("ringfeed_events", "Events for the application", None, MetricType::Counter)?;
        for (kind, count) in counts.taken() {
            encode_counter(&mut family.encode_family(&[("type", kind)])?, count)?;
        }
        let (name, help) = ("ringfeed_events_dropped", "Events that the application will not receive, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (reason, count) in [("full", counts.dropped_full()), ("expired", counts.dropped_expired())] {
            encode_counter(&mut family.encode_family(&[("reason", reason)])?, count)?;
        }
        let (posts, failed) = counts.posts();
        let rows = [
            ("ringfeed_events_delivered", "Events that the application has taken", counts.delivered()),
            ("ringfeed_event_posts", "Requests with events", posts),
            ("ringfeed_event_posts_failed", "Of these, requests that have failed", failed),
        ];
        for (name, help, count) in rows {
            encode_counter(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, count)?;
        }
        let (name, help) = ("ringfeed_events_queued", "Events that wait for the application");
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&counts.queued())
    }
}

/// The process's own numbers, named as Prometheus's client libraries name them.
#[derive(Debug)]
struct Process {
    memory: MemoryInUse,
    /// The memory added since the start, divided by the number of connections.
    memory_for_each: MemoryInUse,
    cpu_time: Duration,
    /// Since the Unix epoch.
    started: Duration,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("process_resident_memory_bytes", "Memory of the process that is in RAM");
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&self.memory.resident_bytes)?;
        let (name, help) =
            ("ringfeed_connection_process_bytes", "Memory of the process since its start, by connections");
        let for_each = self.memory_for_each;
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&for_each.resident_bytes)?;
        let (name, help) = ("ringfeed_connection_kernel_bytes", "Slab of the host since the start, by connections");
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&for_each.slab_bytes)?;
        let (name, help) = ("process_start_time_seconds", "When the process started, since the Unix epoch");
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&self.started.as_secs_f64())?;
        let (name, help) = ("process_cpu_seconds", "CPU time of the process, user and kernel");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_counter(&mut metric, self.cpu_time.as_secs_f64())
    }
}

pub(super) fn encode_counter(metric: &mut MetricEncoder<'_>, value: impl EncodeCounterValue) -> fmt::Result {
    metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded() -> String {
        let process = Process {
            memory: MemoryInUse { resident_bytes: 4096, slab_bytes: 1 },
            memory_for_each: MemoryInUse { resident_bytes: 170, slab_bytes: 4100 },
            cpu_time: Duration::from_millis(2500),
            started: Duration::from_secs(1_700_000_000),
        };
        let ended = std::array::from_fn(|index| index as u64);
        let places = PlaceCounts { authenticated: 7, others: 8, accepted: 30, ended };
        let control =
            ControlPort(places, StreamCounts { published: 5, refused: 6 }, ReloadCounts { done: 3, refused: 2 });
        let (cert_file, names) = ("cert.pem".into(), Vec::new());
        let certificates = Certificates(vec![CertificateInfo { cert_file, names, not_after: 1_800_000_000 }]);
        let backend = Application(BackendCounts::default(), EventCounts::default());
        let collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(Shards(Status::new(2))),
            Box::new(control),
            Box::new(certificates),
            Box::new(backend),
            Box::new(process),
        ];
        encode(collectors).unwrap()
    }

    #[test]
    fn every_number_is_there_for_every_shard() {
        let text = encoded();
        let gauges = GAUGES.iter().map(|(name, ..)| name.to_string());
        let counters = COUNTERS.iter().map(|(name, ..)| format!("{name}_total"));
        for name in gauges.chain(counters) {
            for shard in ["0", "1"] {
                let line = format!("\n{name}{{shard=\"{shard}\"}} 0\n");
                assert!(text.contains(&line), "{line} is missing in\n{text}");
            }
        }
        for (name, ..) in TIMES {
            assert!(text.contains(&format!("\n{name}_total{{shard=\"1\"}} 0.0\n")), "{text}");
        }
        for cause in CloseCause::ALL {
            let reason = cause.label();
            let line = format!("\nringfeed_connections_closed_total{{shard=\"1\",reason=\"{reason}\"}} 0\n");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_control_port_counts_its_connections() {
        let text = encoded();
        let lines = [
            "ringfeed_control_connections{key=\"shown\"} 7",
            "ringfeed_control_connections{key=\"missing\"} 8",
            "ringfeed_control_connections_accepted_total 30",
            "ringfeed_reloads_total{outcome=\"applied\"} 3",
            "ringfeed_reloads_total{outcome=\"refused\"} 2",
            "ringfeed_control_connections_ended_total{reason=\"closed\"} 0",
            "ringfeed_control_connections_ended_total{reason=\"failed\"} 1",
            "ringfeed_control_connections_ended_total{reason=\"idle\"} 2",
            "ringfeed_control_connections_ended_total{reason=\"no_key\"} 3",
            "ringfeed_control_connections_ended_total{reason=\"displaced\"} 4",
            "ringfeed_control_connections_ended_total{reason=\"send_timeout\"} 5",
        ];
        for line in lines {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn tls_is_counted_by_version_and_cause() {
        let text = encoded();
        let lines = [
            "ringfeed_tls_handshakes_total{shard=\"1\",version=\"1.3\",kind=\"resumed\"} 0",
            "ringfeed_tls_failures_total{shard=\"0\",cause=\"plain_http\"} 0",
            "ringfeed_backend_calls_total{kind=\"connect\",outcome=\"rejected\"} 0",
            "ringfeed_backend_calls_in_flight{kind=\"rpc\"} 0",
            "ringfeed_backend_call_seconds_bucket{le=\"+Inf\",kind=\"publish\"} 0",
            "ringfeed_tls_certificate_expiry_timestamp_seconds{cert_file=\"cert.pem\"} 1800000000",
        ];
        for line in lines {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn each_connection_has_its_share_of_what_has_come() {
        let memory = |resident_bytes, slab_bytes| MemoryInUse { resident_bytes, slab_bytes };
        assert_eq!(memory(1500, 5000).for_each_since(memory(500, 6000), 10), memory(100, 0));
        assert_eq!(memory(1500, 5000).for_each_since(memory(500, 1000), 0), memory(0, 0));
    }

    #[test]
    fn the_process_and_the_build_are_described() {
        let text = encoded();
        let version = concat!("ringfeed_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1");
        let lines = [
            version,
            "process_resident_memory_bytes 4096",
            "ringfeed_connection_process_bytes 170",
            "ringfeed_connection_kernel_bytes 4100",
            "process_cpu_seconds_total 2.5",
            "process_start_time_seconds 1700000000.0",
        ];
        for line in lines {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
