//! `GET /metrics`: all numbers as text that Prometheus reads.
//!
//! Nothing is counted here; each scrape reads what the shards and the control plane have counted.

#[cfg(feature = "cluster")]
mod cluster;
mod parts;
mod process;
mod shards;
mod text;

use std::fmt;

use hyper::{HeaderMap, StatusCode};
use parts::{Application, Certificates, ControlPort, TokenKeys};
use process::Process;
pub(super) use process::{MemoryInUse, cpu_time};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_registry;
use prometheus_client::encoding::{EncodeCounterValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;
use shards::Shards;

use super::State;
use super::answer::{Answer, answer};
use crate::server::metrics::HistogramSnapshot;
use crate::tls::Acceptor;

/// Answers a scrape.
pub(super) async fn get(state: &State, headers: &HeaderMap) -> Answer {
    let certificates = state.tls.as_ref().map_or_else(Vec::new, Acceptor::certificates);
    let namespaces = state.namespaces.borrow().iter().map(|(name, _)| name.to_owned()).collect();
    let control = ControlPort {
        is_ready: !state.status.is_draining() && state.others.unready().is_none(),
        places: state.places.counts(),
        streams: state.streams.get(),
        reloads: state.reloader.counts(),
        requests: state.requests.counts(),
        times: state.requests.times(),
    };
    let backend =
        Application(state.backend_counts.clone().unwrap_or_default(), state.event_counts.clone().unwrap_or_default());
    let collectors: Vec<Box<dyn Collector>> = vec![
        Box::new(Shards { status: state.status.clone(), namespaces }),
        Box::new(control),
        Box::new(Certificates(certificates)),
        Box::new(TokenKeys(state.tokens.clone())),
        Box::new(backend),
        Box::new(Process::measure(state.memory_before, state.started).await),
        #[cfg(feature = "cluster")]
        Box::new(cluster::ClusterNumbers {
            node: state.others.figures(),
            requests_ahead: state.status.shards.iter().map(|shard| shard.requests_ahead.get()).sum(),
        }),
    ];
    match encode(collectors) {
        Ok(body) => {
            let (format, body) = text::negotiate(headers, body);
            answer(StatusCode::OK, format, body)
        }
        Err(fmt::Error) => unreachable!("a string takes whatever is written"),
    }
}

/// The numbers as OpenMetrics.
fn encode(collectors: Vec<Box<dyn Collector>>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    collectors.into_iter().for_each(|collector| registry.register_collector(collector));
    let mut body = String::new();
    encode_registry(&mut body, &registry)?;
    Ok(body)
}

fn encode_counter(metric: &mut MetricEncoder<'_>, value: impl EncodeCounterValue) -> fmt::Result {
    metric.encode_counter(&value, None::<&Exemplar<NoLabelSet, u64>>)
}

fn encode_histogram(metric: &mut MetricEncoder<'_>, snapshot: &HistogramSnapshot) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = snapshot.buckets().collect();
    metric.encode_histogram::<NoLabelSet>(snapshot.sum().as_secs_f64(), snapshot.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::shards::{COUNTERS, GAUGES, HISTOGRAMS, NAMESPACE_COUNTERS, TIMES};
    use super::*;
    use crate::backend::{BackendCounts, EventCounts};
    use crate::control::places::PlaceCounts;
    use crate::control::reload::ReloadCounts;
    use crate::control::requests::RequestCounts;
    use crate::control::stream::StreamCounts;
    use crate::server::{CloseCause, Status};
    use crate::tls::CertificateInfo;

    /// The numbers of a server with so many shards and namespaces.
    fn encoded_with(shards: usize, namespaces: usize) -> String {
        let ended = std::array::from_fn(|index| index as u64);
        let requests = RequestCounts::default();
        requests.count("publish", StatusCode::OK, Duration::from_micros(70));
        let control = ControlPort {
            is_ready: true,
            places: PlaceCounts { authenticated: 7, others: 8, accepted: 30, ended },
            streams: StreamCounts { published: 5, refused: 6 },
            reloads: ReloadCounts { done: 3, refused: 2 },
            requests: requests.counts(),
            times: requests.times(),
        };
        let (cert_file, names) = ("cert.pem".into(), Vec::new());
        let certificates = Certificates(vec![CertificateInfo { cert_file, names, not_after: 1_800_000_000 }]);
        let backend = Application(BackendCounts::default(), EventCounts::default());
        let status = Status::new(shards);
        for shard in status.shards.iter() {
            shard.begin(["/feed/".to_owned()].into_iter(), namespaces);
        }
        let namespaces = (0..namespaces).map(|index| if index == 0 { String::new() } else { format!("ns{index}") });
        let collectors: Vec<Box<dyn Collector>> = vec![
            Box::new(Shards { status, namespaces: namespaces.collect() }),
            Box::new(control),
            Box::new(certificates),
            Box::new(backend),
            Box::new(process::tests::process()),
        ];
        encode(collectors).unwrap()
    }

    fn encoded() -> String {
        encoded_with(2, 2)
    }

    fn expect_lines(lines: &[&str]) {
        let text = encoded();
        for line in lines {
            assert!(text.lines().any(|other| other == *line), "{line} is missing in\n{text}");
        }
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
            let line = format!("\nringfeed_connections_closed_total{{reason=\"{reason}\"}} 0\n");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        for (name, ..) in HISTOGRAMS {
            assert!(text.contains(&format!("\n{name}_bucket{{le=\"1.6384\"}} 0\n")), "{text}");
            assert!(text.contains(&format!("\n{name}_bucket{{le=\"+Inf\"}} 0\n")), "{text}");
        }
        for (name, ..) in NAMESPACE_COUNTERS {
            for namespace in ["", "ns1"] {
                let line = format!("\n{name}_total{{namespace=\"{namespace}\"}} 0\n");
                assert!(text.contains(&line), "{line} is missing in\n{text}");
            }
        }
    }

    #[test]
    fn the_control_port_counts_its_connections_and_requests() {
        expect_lines(&[
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
            "ringfeed_http_requests_total{route=\"publish\",code=\"200\"} 1",
            "ringfeed_http_request_duration_seconds_bucket{le=\"0.00005\",route=\"publish\"} 0",
            "ringfeed_http_request_duration_seconds_bucket{le=\"0.0001\",route=\"publish\"} 1",
            "ringfeed_http_request_duration_seconds_count{route=\"publish\"} 1",
        ]);
    }

    #[test]
    fn connections_have_a_transport_and_a_state() {
        let rows =
            [("none", "handshake"), ("websocket", "open"), ("stream", "open"), ("framed", "open"), ("none", "closing")];
        for (transport, state) in rows {
            expect_lines(&[&format!(
                "ringfeed_connections{{shard=\"1\",transport=\"{transport}\",state=\"{state}\"}} 0"
            )]);
        }
        expect_lines(&["ringfeed_route_connections{route=\"/feed/\"} 0", "ringfeed_connections_max 0"]);
    }

    #[test]
    fn rejected_tokens_and_subscriptions_are_counted_by_cause() {
        let text = encoded();
        for name in ["tokens_refused_total{cause=\"signature\"}", "subscriptions_refused_total{cause=\"limit\"}"] {
            assert!(text.contains(&format!("\nringfeed_{name} ")), "{name} is missing in\n{text}");
        }
        // Other tests count, too.
        assert!(text.contains("\nringfeed_stomp_errors_total{cause=\"malformed_frame\"} "), "{text}");
        expect_lines(&["ringfeed_subscriptions_refused_total{cause=\"too_many_topics\"} 0", "ringfeed_ready 1"]);
    }

    #[test]
    fn tls_is_counted_by_version_and_cause() {
        expect_lines(&[
            "ringfeed_tls_handshakes_total{version=\"1.3\",kind=\"resumed\",suite=\"TLS_AES_128_GCM_SHA256\"} 0",
            "ringfeed_tls_alerts_received_total{alert=\"unknown_ca\"} 0",
            "ringfeed_tls_client_certificates_total 0",
            "ringfeed_tls_failures_total{cause=\"plain_http\"} 0",
            "ringfeed_backend_calls_total{kind=\"connect\",outcome=\"rejected\"} 0",
            "ringfeed_backend_calls_in_flight{kind=\"rpc\"} 0",
            "ringfeed_backend_call_seconds_bucket{le=\"+Inf\",kind=\"publish\"} 0",
            "ringfeed_tls_certificate_expiry_timestamp_seconds{cert_file=\"cert.pem\"} 1800000000",
        ]);
    }

    #[test]
    fn the_process_and_the_build_are_described() {
        let version = concat!("ringfeed_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",revision=\"");
        assert!(encoded().lines().any(|line| line.starts_with(version)), "{}", encoded());
        expect_lines(&[
            "process_resident_memory_bytes 4096.0",
            "process_virtual_memory_bytes 8192.0",
            "process_open_fds 7.0",
            "process_max_fds inf",
            "process_threads 3.0",
            "ringfeed_memory_since_start_bytes{of=\"process\"} 96",
            "ringfeed_memory_since_start_bytes{of=\"slab\"} 0",
            "process_cpu_seconds_total 2.5",
            "process_start_time_seconds 1700000000.0",
        ]);
        assert!(encoded().ends_with("# EOF\n"));
    }

    /// The numbers are all small here: ten digits more for each of them must fit, too.
    #[test]
    fn a_scrape_of_many_shards_and_namespaces_is_small() {
        let text = encoded_with(64, 20);
        let bytes = text.len() + 10 * text.lines().count();
        assert!(bytes <= 300_000, "{bytes} bytes");
    }
}
