//! The numbers of everything but the shards: the control port, the certificates, and the application behind the server.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::{encode_counter, encode_histogram};
use crate::backend::{BackendCounts, BackendOutcome, EventCounts};
use crate::control::places::{Ended, PlaceCounts};
use crate::control::reload::ReloadCounts;
use crate::control::stream::StreamCounts;
use crate::gateway::centrifuge::{CallKind, FetchOutcome, TokenVerifier};
use crate::server::metrics::HistogramSnapshot;
use crate::tls::CertificateInfo;

/// The control port's own numbers.
#[derive(Debug)]
pub(super) struct ControlPort {
    /// Whether `/readyz` says so.
    pub(super) is_ready: bool,
    pub(super) places: PlaceCounts,
    pub(super) streams: StreamCounts,
    pub(super) reloads: ReloadCounts,
    /// Requests, by route and status.
    pub(super) requests: Vec<(&'static str, u16, u64)>,
    /// Times to their answers, by route.
    pub(super) times: Vec<(&'static str, HistogramSnapshot)>,
}

impl Collector for ControlPort {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) =
            ("ringfeed_ready", "1 while the server accepts clients, 0 while it drains or joins a cluster");
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&u64::from(self.is_ready))?;
        let counts = self.places;
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
                self.streams.published,
            ),
            ("ringfeed_stream_records_refused", "Records of publication streams refused", self.streams.refused),
        ];
        for (name, help, count) in records {
            encode_counter(&mut encoder.encode_descriptor(name, help, None, MetricType::Counter)?, count)?;
        }
        let (name, help) = ("ringfeed_reloads", "Times that the configuration was read again, by outcome");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (outcome, count) in [("applied", self.reloads.done), ("refused", self.reloads.refused)] {
            encode_counter(&mut family.encode_family(&[("outcome", outcome)])?, count)?;
        }
        let (name, help) = ("ringfeed_control_connections_ended", "Connections to the control port ended, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ended in Ended::ALL {
            let count = counts.ended[ended as usize];
            encode_counter(&mut family.encode_family(&[("reason", ended.label())])?, count)?;
        }
        self.encode_requests(&mut encoder)
    }
}

impl ControlPort {
    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("ringfeed_http_requests", "Requests to the control port, by route and status");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (route, status, count) in &self.requests {
            let code = status.to_string();
            encode_counter(&mut family.encode_family(&[("route", *route), ("code", code.as_str())])?, *count)?;
        }
        let (name, help) = ("ringfeed_http_request_duration_seconds", "Time to the answers of the control port");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (route, times) in &self.times {
            encode_histogram(&mut family.encode_family(&[("route", *route)])?, times)?;
        }
        Ok(())
    }
}

/// The certificates in use.
#[derive(Debug)]
pub(super) struct Certificates(pub(super) Vec<CertificateInfo>);

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

/// The keys of tokens that are fetched from a URL.
#[derive(Debug)]
pub(super) struct TokenKeys(pub(super) TokenVerifier);

impl Collector for TokenKeys {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if self.0.jwks_url().is_none() {
            return Ok(());
        }
        let fetched = self.0.fetched();
        let (name, help) = ("ringfeed_jwks_fetches", "Fetches of the keys of tokens, by outcome");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for outcome in FetchOutcome::ALL {
            encode_counter(&mut family.encode_family(&[("outcome", outcome.label())])?, fetched.outcome(outcome))?;
        }
        let rows = [
            ("ringfeed_jwks_keys", "Keys of tokens that have been fetched", fetched.len() as u64),
            (
                "ringfeed_jwks_fetched_timestamp_seconds",
                "When the keys of tokens were fetched, since the Unix epoch; 0: never",
                fetched.fetched_s(),
            ),
        ];
        for (name, help, value) in rows {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

/// The calls of the backend, and the events.
#[derive(Debug)]
pub(super) struct Application(pub(super) BackendCounts, pub(super) EventCounts);

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
