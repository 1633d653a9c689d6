//! The numbers that the shards count.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::{encode_counter, encode_histogram};
use crate::gateway::refused;
use crate::gateway::sockjs;
use crate::gateway::stomp::ERROR_COUNTS;
use crate::server::metrics::{Cell, Histogram, NamespaceMetrics};
use crate::server::{CloseCause, ShardMetrics, Status, Transport};
use crate::tls::{Alert, Failure, Suite};

/// One number that every shard has: its name, what it is, and where.
pub(super) type Row = (&'static str, &'static str, fn(&ShardMetrics) -> &Cell);

/// Numbers that go up and down.
pub(super) const GAUGES: [Row; 17] = [
    ("ringfeed_drain_left", "Connections that are still to be told that the server stops", |shard| &shard.drain_left),
    ("ringfeed_home_topics", "Topics whose order the shard keeps", |shard| &shard.home_topics),
    ("ringfeed_home_topics_unpublished", "Of these, topics without publications", |shard| {
        &shard.home_topics_unpublished
    }),
    ("ringfeed_home_topics_occupied", "Of these, topics with subscribers on any shard", |shard| {
        &shard.home_topics_occupied
    }),
    ("ringfeed_idempotency_keys", "Idempotency keys that the shard remembers", |shard| &shard.idempotency_keys),
    ("ringfeed_history_bytes", "Payload bytes that histories keep", |shard| &shard.history_bytes),
    ("ringfeed_state_keys", "Values of keyed topics", |shard| &shard.state_keys),
    ("ringfeed_state_bytes", "Bytes of the values and removals of keyed topics", |shard| &shard.state_bytes),
    ("ringfeed_topics", "Topics with subscribers on the shard: others may have some, too", |shard| &shard.topics),
    ("ringfeed_subscriptions", "Subscriptions on the shard", |shard| &shard.subscriptions),
    ("ringfeed_catch_ups_waiting", "Subscribe requests that wait for the catch-ups of others", |shard| {
        &shard.catch_ups_waiting
    }),
    ("ringfeed_mesh_bytes", "Bytes sent to other shards that these have not taken", |shard| &shard.mesh_bytes),
    ("ringfeed_outbox_bytes", "Bytes waiting for sockets that are behind", |shard| &shard.outbox_bytes),
    ("ringfeed_outbox_connections", "Connections whose socket is behind", |shard| &shard.outbox_connections),
    ("ringfeed_rings", "Kernel rings of the shard", |shard| &shard.rings),
    ("ringfeed_descriptors_max", "Sockets that the shard's rings can hold", |shard| &shard.descriptors_max),
    ("ringfeed_deflate_contexts", "Connections whose compressed messages may refer back to earlier ones", |shard| {
        &shard.deflate_contexts
    }),
];

/// Numbers that only grow. The format appends `_total` to their names.
pub(super) const COUNTERS: [Row; 42] = [
    ("ringfeed_connections_accepted", "Connections accepted", |shard| &shard.accepted),
    ("ringfeed_origins_refused", "Handshakes refused for the web page they came from", |shard| &shard.origins_refused),
    ("ringfeed_requests_unauthorized", "Requests of clients without the right: 401 and 403", |shard| {
        &shard.unauthorized
    }),
    ("ringfeed_connections_shed", "Connections told to come back later", |shard| &shard.shed),
    ("ringfeed_connections_disconnected", "Connections closed by an operator", |shard| &shard.disconnected),
    ("ringfeed_accept_stalls", "Times that the system had no room for a connection", |shard| &shard.accept_stalls),
    ("ringfeed_publications", "Publications given their offset", |shard| &shard.publications),
    ("ringfeed_publications_refused", "Publications refused", |shard| &shard.publications_refused),
    ("ringfeed_state_refused", "Publications refused since the keyed topic has no room for the value", |shard| {
        &shard.state_refused
    }),
    ("ringfeed_state_conflicts", "Publications refused since the key had another value than expected", |shard| {
        &shard.state_conflicts
    }),
    ("ringfeed_state_expired", "Values of keyed topics removed since they had expired", |shard| &shard.state_expired),
    ("ringfeed_state_pages", "Pages of keyed topics' states sent to subscribers", |shard| &shard.state_pages),
    ("ringfeed_state_pages_made", "Pages of keyed topics' states made: subscribers share them", |shard| {
        &shard.state_pages_made
    }),
    ("ringfeed_gaps", "Connections closed since publications may have been missed", |shard| &shard.gaps),
    ("ringfeed_idempotency_refused", "Publications refused since their keys could not be remembered", |shard| {
        &shard.idempotency_refused
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
    ("ringfeed_received_bytes", "Bytes received from peers", |shard| &shard.bytes_received),
    ("ringfeed_sent_bytes", "Bytes handed to sockets", |shard| &shard.bytes_sent),
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
    ("ringfeed_completion_overflows", "Times that completions found the completion queue full", |shard| {
        &shard.completion_overflows
    }),
    ("ringfeed_turns", "Turns of the shard's loop", |shard| &shard.turns),
];

/// Numbers that only grow, of all shards together: which of them did the work says nothing.
const SUMS: [Row; 4] = [
    ("ringfeed_deltas", "Publications made into deltas, each once for all subscribers", |shard| &shard.deltas),
    ("ringfeed_delta_input_bytes", "Payload bytes of publications made into deltas", |shard| &shard.deltas_bytes_in),
    ("ringfeed_delta_output_bytes", "Bytes of deltas", |shard| &shard.deltas_bytes_out),
    ("ringfeed_deltas_declined", "Publications too large for a delta, or with a delta no smaller", |shard| {
        &shard.deltas_declined
    }),
];

/// Times that only grow, counted in nanoseconds and told in seconds.
pub(super) const TIMES: [Row; 3] = [
    ("ringfeed_deflate_seconds", "Time spent on compressing", |shard| &shard.deflate_nanoseconds),
    ("ringfeed_inflate_seconds", "Time spent on inflating", |shard| &shard.inflate_nanoseconds),
    ("ringfeed_busy_seconds", "Time that the shard has not waited", |shard| &shard.busy_nanoseconds),
];

/// Durations of all shards: the name, what it is, and where.
type HistogramRow = (&'static str, &'static str, fn(&ShardMetrics) -> &Histogram);

pub(super) const HISTOGRAMS: [HistogramRow; 5] = [
    ("ringfeed_publication_order_seconds", "Time from a publish request to its offset", |shard| &shard.order),
    (
        "ringfeed_fan_out_seconds",
        "Time from the arrival of a publication on a shard to the last send for its subscribers there",
        |shard| &shard.fan_out,
    ),
    ("ringfeed_outbox_wait_seconds", "How long bytes have waited for a socket that was behind", |shard| {
        &shard.outbox_wait
    }),
    ("ringfeed_turn_seconds", "Length of the turns of the shards' loops", |shard| &shard.turn),
    ("ringfeed_handshake_seconds", "Time from accepting a connection to the end of its opening handshake", |shard| {
        &shard.handshake
    }),
];

/// A number of each namespace: the name, what it is, and where.
type NamespaceRow = (&'static str, &'static str, fn(&NamespaceMetrics) -> &Cell);

pub(super) const NAMESPACE_COUNTERS: [NamespaceRow; 6] = [
    ("ringfeed_namespace_publications", "Publications given their offset", |namespace| &namespace.publications),
    ("ringfeed_namespace_deliveries", "Messages handed to sockets or outboxes", |namespace| &namespace.deliveries),
    ("ringfeed_namespace_delivered_bytes", "Bytes of these, before TLS", |namespace| &namespace.delivered_bytes),
    ("ringfeed_namespace_publications_dropped", "Publications dropped for slow subscribers", |namespace| {
        &namespace.dropped
    }),
    (
        "ringfeed_namespace_publications_conflated",
        "Publications replaced by newer ones for slow subscribers",
        |namespace| &namespace.conflated,
    ),
    (
        "ringfeed_namespace_slow_consumers_closed",
        "Connections closed since they did not read fast enough",
        |namespace| &namespace.slow_closed,
    ),
];

/// The shards' numbers.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) status: Status,
    /// Their names, in order.
    pub(super) namespaces: Vec<String>,
}

impl Collector for Shards {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, cell) in GAUGES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (shard, metrics) in self.status.shards.iter().enumerate() {
                family.encode_family(&[("shard", shard)])?.encode_gauge(&cell(metrics).get())?;
            }
        }
        for (name, help, cell) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, metrics) in self.status.shards.iter().enumerate() {
                encode_counter(&mut family.encode_family(&[("shard", shard)])?, cell(metrics).get())?;
            }
        }
        self.encode_times(&mut encoder)?;
        self.encode_connections(&mut encoder)?;
        self.encode_tls(&mut encoder)?;
        self.encode_closed(&mut encoder)?;
        self.encode_histograms(&mut encoder)?;
        self.encode_recoveries(&mut encoder)?;
        self.encode_refused(&mut encoder)?;
        self.encode_sums(&mut encoder)?;
        self.encode_namespaces(encoder)
    }
}

impl Shards {
    fn encode_times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, nanoseconds) in TIMES {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (shard, metrics) in self.status.shards.iter().enumerate() {
                let time = Duration::from_nanos(nanoseconds(metrics).get());
                encode_counter(&mut family.encode_family(&[("shard", shard)])?, time.as_secs_f64())?;
            }
        }
        Ok(())
    }

    /// The sum of a number over all shards.
    fn sum(&self, number: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.status.shards.iter().map(number).sum()
    }

    fn encode_sums(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, number) in SUMS {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            encode_counter(&mut metric, self.sum(|shard| number(shard).get()))?;
        }
        Ok(())
    }

    fn encode_tls(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("ringfeed_tls_handshakes", "TLS handshakes, by version, kind and cipher suite");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for suite in Suite::all() {
            let version = if suite.is_tls13() { "1.3" } else { "1.2" };
            let [full, resumed] = [
                self.sum(|shard| shard.tls_full[suite.place()].get()),
                self.sum(|shard| shard.tls_resumed[suite.place()].get()),
            ];
            for (kind, count) in [("full", full), ("resumed", resumed)] {
                let labels = [("version", version), ("kind", kind), ("suite", suite.name())];
                encode_counter(&mut family.encode_family(&labels)?, count)?;
            }
        }
        let (name, help) =
            ("ringfeed_tls_client_certificates", "TLS connections of clients that have shown a certificate");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        encode_counter(&mut metric, self.sum(|shard| shard.tls_client_certificates.get()))?;
        let (name, help) = ("ringfeed_tls_failures", "Connections whose TLS has failed, by cause");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (place, cause) in Failure::NAMES.into_iter().enumerate() {
            let count = self.sum(|shard| shard.tls_failures[place].get());
            encode_counter(&mut family.encode_family(&[("cause", cause)])?, count)?;
        }
        let (name, help) = ("ringfeed_tls_alerts_received", "TLS connections that the client ended with this alert");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for alert in Alert::ALL {
            let count = self.sum(|shard| shard.tls_alerts[alert as usize].get());
            encode_counter(&mut family.encode_family(&[("alert", alert.name())])?, count)?;
        }
        Ok(())
    }

    fn encode_closed(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("ringfeed_connections_closed", "Connections ended, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for cause in CloseCause::ALL {
            let count = self.sum(|shard| shard.closed(cause).get());
            encode_counter(&mut family.encode_family(&[("reason", cause.label())])?, count)?;
        }
        Ok(())
    }

    /// Connections by state, those that are open also by transport and by route.
    fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("ringfeed_connections", "Connections now, by transport and state");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (shard, metrics) in self.status.shards.iter().enumerate() {
            let shard = shard.to_string();
            let open = Transport::ALL.map(|transport| (transport.label(), "open", metrics.open(transport).get()));
            let closing = metrics.closing.get();
            let others = open.iter().map(|(_, _, count)| count).sum::<u64>() + closing;
            // The numbers are read one after the other, while the shard goes on.
            let handshake = metrics.connections.get().saturating_sub(others);
            for (transport, state, count) in
                open.into_iter().chain([("none", "handshake", handshake), ("none", "closing", closing)])
            {
                let labels = [("shard", shard.as_str()), ("transport", transport), ("state", state)];
                family.encode_family(&labels)?.encode_gauge(&count)?;
            }
        }
        let (name, help) = ("ringfeed_connections_max", "Connections that all shards may have together");
        let connections_max = self.status.shards.first().map_or(0, |shard| shard.connections_max.get());
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&connections_max)?;
        let (name, help) = ("ringfeed_route_connections", "Connections that are open, by route or protocol");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let routes = self.status.shards.first().map_or(&[][..], |shard| shard.routes());
        for (index, (route, _)) in routes.iter().enumerate() {
            let open: u64 = self.sum(|shard| shard.routes().get(index).map_or(0, |(_, open)| open.get()));
            family.encode_family(&[("route", route.as_str())])?.encode_gauge(&open)?;
        }
        Ok(())
    }

    /// Durations: the sum of all shards, since a bucket of each shard would be too many series.
    fn encode_histograms(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, histogram) in HISTOGRAMS {
            let sum = Histogram::sum(self.status.shards.iter().map(histogram));
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            encode_histogram(&mut metric, &sum)?;
        }
        let (name, help) =
            ("ringfeed_ping_round_trip_seconds", "Time from a ping to the peer's next bytes, by transport");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for transport in Transport::ALL {
            let sum = Histogram::sum(self.status.shards.iter().map(|shard| &shard.ping_round_trip[transport as usize]));
            encode_histogram(&mut family.encode_family(&[("transport", transport.label())])?, &sum)?;
        }
        Ok(())
    }

    fn encode_recoveries(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("ringfeed_recoveries", "Recoveries that subscribers have requested, by result");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        let recovered: u64 = self.sum(|shard| shard.recovered.get());
        let lost: u64 = self.sum(|shard| shard.recoveries_lost.get());
        for (result, count) in [("recovered", recovered), ("lost", lost)] {
            encode_counter(&mut family.encode_family(&[("result", result)])?, count)?;
        }
        Ok(())
    }

    /// What protocols and shards have rejected, by cause.
    fn encode_refused(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let too_many = ("too_many_topics", self.sum(|shard| shard.subscriptions_refused.get()));
        let rows = [
            ("ringfeed_tokens_refused", "Tokens rejected, by cause", refused::TOKENS.iter().collect::<Vec<_>>()),
            (
                "ringfeed_subscriptions_refused",
                "Subscriptions rejected, by cause",
                refused::SUBSCRIPTIONS.iter().chain([too_many]).collect(),
            ),
            ("ringfeed_stomp_errors", "ERROR frames to clients of STOMP, by cause", ERROR_COUNTS.iter().collect()),
            ("ringfeed_sockjs_sessions_ended", "Ended sessions of SockJS, by cause", sockjs::ENDED.iter().collect()),
            ("ringfeed_sockjs_refused", "Requests of SockJS rejected, by cause", sockjs::REJECTED.iter().collect()),
        ];
        for (name, help, causes) in rows {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (cause, count) in causes {
                encode_counter(&mut family.encode_family(&[("cause", cause)])?, count)?;
            }
        }
        Ok(())
    }

    /// The namespaces of all shards together. The one of topics without a namespace has an empty name.
    fn encode_namespaces(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sum = |index: usize, cell: fn(&NamespaceMetrics) -> &Cell| -> u64 {
            self.sum(|shard| shard.namespaces().get(index).map_or(0, |namespace| cell(namespace).get()))
        };
        for (name, help, cell) in NAMESPACE_COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (index, namespace) in self.namespaces.iter().enumerate() {
                let labels = [("namespace", namespace.as_str())];
                encode_counter(&mut family.encode_family(&labels)?, sum(index, cell))?;
            }
        }
        let (name, help) = ("ringfeed_namespace_subscriptions", "Subscriptions to topics of the namespace");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (index, namespace) in self.namespaces.iter().enumerate() {
            let labels = [("namespace", namespace.as_str())];
            family.encode_family(&labels)?.encode_gauge(&sum(index, |namespace| &namespace.subscriptions))?;
        }
        Ok(())
    }
}
