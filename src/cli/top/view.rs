//! What `ringfeed top` shows: the figures of an interval, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::Scrape;

/// The figures of the time between two scrapes.
pub(super) struct View<'a> {
    before: &'a Scrape,
    now: &'a Scrape,
    seconds: f64,
}

impl<'a> View<'a> {
    pub(super) fn new(before: &'a Scrape, now: &'a Scrape, time: Duration) -> View<'a> {
        View { before, now, seconds: time.as_secs_f64() }
    }

    /// How much a counter has grown in each second. It begins again where the server has restarted.
    fn rate(&self, name: &str) -> f64 {
        (self.now.sum(name, "") - self.before.sum(name, "")).max(0.0) / self.seconds
    }

    /// The same by the value of a label.
    fn rates(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let before = self.before.by(name, label);
        let rate = |(value, count): (String, f64)| {
            let grown = (count - before.get(&value).copied().unwrap_or_default()).max(0.0);
            (value, grown / self.seconds)
        };
        self.now.by(name, label).into_iter().map(rate).collect()
    }

    /// Quantiles of a histogram over the interval, in seconds: 50 % and 99 %. `None` if nothing was counted.
    fn quantiles(&self, name: &str) -> Option<[f64; 2]> {
        let counted = self.now.histogram(name).since(&self.before.histogram(name));
        Some([counted.quantile(0.5)?, counted.quantile(0.99)?].map(|time| time.as_secs_f64()))
    }

    pub(super) fn json(&self) -> Value {
        let quantiles = |name: &str| self.quantiles(name).map(|[p50, p99]| json!({"p50": p50, "p99": p99}));
        json!({
            "interval_s": self.seconds,
            "ready": self.now.sum("ringfeed_ready", "") > 0.0,
            "connections": self.now.sum("ringfeed_connections", ""),
            "connections_max": self.now.sum("ringfeed_connections_max", ""),
            "connections_by_route": self.now.by("ringfeed_route_connections", "route"),
            "connections_by_state": self.now.by("ringfeed_connections", "state"),
            "accepted_per_s": self.rate("ringfeed_connections_accepted_total"),
            "rejected_per_s": self.rate("ringfeed_connections_shed_total"),
            "ended_per_s": self.rates("ringfeed_connections_closed_total", "reason"),
            "topics": self.now.sum("ringfeed_home_topics", ""),
            "subscriptions": self.now.sum("ringfeed_subscriptions", ""),
            "publications_per_s": self.rate("ringfeed_publications_total"),
            "deliveries_per_s": self.rate("ringfeed_deliveries_total"),
            "sent_bytes_per_s": self.rate("ringfeed_sent_bytes_total"),
            "received_bytes_per_s": self.rate("ringfeed_received_bytes_total"),
            "fan_out_s": quantiles("ringfeed_fan_out_seconds"),
            "publication_order_s": quantiles("ringfeed_publication_order_seconds"),
            "outbox_bytes": self.now.sum("ringfeed_outbox_bytes", ""),
            "outbox_connections": self.now.sum("ringfeed_outbox_connections", ""),
            "cpus": self.rate("process_cpu_seconds_total"),
            "resident_bytes": self.now.sum("process_resident_memory_bytes", ""),
            "shards": self.shards().into_iter().map(|(shard, connections, busy, deliveries)| json!({
                "shard": shard, "connections": connections, "busy": busy, "deliveries_per_s": deliveries,
            })).collect::<Vec<_>>(),
            "namespaces": self.namespaces().into_iter().map(|(name, subscriptions, publications, deliveries)| json!({
                "namespace": name, "subscriptions": subscriptions, "publications_per_s": publications,
                "deliveries_per_s": deliveries,
            })).collect::<Vec<_>>(),
        })
    }

    /// Each shard: its number, connections, busy share, and deliveries per second.
    fn shards(&self) -> Vec<(u32, f64, f64, f64)> {
        let busy = self.rates("ringfeed_busy_seconds_total", "shard");
        let deliveries = self.rates("ringfeed_deliveries_total", "shard");
        let of = |rates: &BTreeMap<String, f64>, shard: &str| rates.get(shard).copied().unwrap_or_default();
        let connections = self.now.by("ringfeed_connections", "shard");
        let row = |(shard, connections): (&String, &f64)| {
            (shard.parse().unwrap_or_default(), *connections, of(&busy, shard), of(&deliveries, shard))
        };
        let mut shards: Vec<_> = connections.iter().map(row).collect();
        shards.sort_by_key(|(shard, ..)| *shard);
        shards
    }

    /// Each namespace: its name, subscriptions, publications per second, and deliveries per second.
    fn namespaces(&self) -> Vec<(String, f64, f64, f64)> {
        let publications = self.rates("ringfeed_namespace_publications_total", "namespace");
        let deliveries = self.rates("ringfeed_namespace_deliveries_total", "namespace");
        let of = |rates: &BTreeMap<String, f64>, name: &str| rates.get(name).copied().unwrap_or_default();
        let subscriptions = self.now.by("ringfeed_namespace_subscriptions", "namespace").into_iter();
        let row = |(name, subscriptions): (String, f64)| {
            let (publications, deliveries) = (of(&publications, &name), of(&deliveries, &name));
            (name, subscriptions, publications, deliveries)
        };
        subscriptions.map(row).collect()
    }

    /// The screen.
    pub(super) fn text(&self, url: &str) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text, url);
        text
    }

    fn write(&self, out: &mut String, url: &str) -> std::fmt::Result {
        let count = |name: &str| number(self.now.sum(name, ""));
        let rate = |name: &str| number(self.rate(name));
        let state = if self.now.sum("ringfeed_ready", "") > 0.0 { "ready" } else { "not ready" };
        writeln!(out, "ringfeed at {url}, {state}\n")?;
        let (open, max) = (count("ringfeed_connections"), count("ringfeed_connections_max"));
        writeln!(out, "connections   {open} of {max}")?;
        let (accepted, rejected) =
            (rate("ringfeed_connections_accepted_total"), rate("ringfeed_connections_shed_total"));
        writeln!(out, "per second    {accepted} accepted, {rejected} rejected")?;
        let ended = self.rates("ringfeed_connections_closed_total", "reason");
        let ended: Vec<String> = ended
            .iter()
            .filter(|(_, rate)| **rate > 0.0)
            .map(|(reason, rate)| format!("{} {reason}", number(*rate)))
            .collect();
        writeln!(out, "ended         {}", if ended.is_empty() { "none".to_owned() } else { ended.join(", ") })?;
        let routes = self.now.by("ringfeed_route_connections", "route");
        for (route, open) in routes.iter().filter(|(_, open)| **open > 0.0) {
            writeln!(out, "              {:>9} {route}", number(*open))?;
        }
        writeln!(
            out,
            "topics        {}, {} subscriptions",
            count("ringfeed_home_topics"),
            count("ringfeed_subscriptions")
        )?;
        let (publications, deliveries) = (rate("ringfeed_publications_total"), rate("ringfeed_deliveries_total"));
        writeln!(out, "publications  {publications}/s, {deliveries} deliveries/s")?;
        let (sent, received) = (self.rate("ringfeed_sent_bytes_total"), self.rate("ringfeed_received_bytes_total"));
        writeln!(out, "bytes         {}/s sent, {}/s received", bytes(sent), bytes(received))?;
        for (name, metric) in [("fan-out", "ringfeed_fan_out_seconds"), ("order", "ringfeed_publication_order_seconds")]
        {
            match self.quantiles(metric) {
                Some([p50, p99]) => writeln!(out, "{name:<13} p50 {}, p99 {}", time(p50), time(p99))?,
                None => writeln!(out, "{name:<13} nothing was published")?,
            }
        }
        let waiting = bytes(self.now.sum("ringfeed_outbox_bytes", ""));
        writeln!(out, "backlog       {waiting} of {} connections", count("ringfeed_outbox_connections"))?;
        let resident = bytes(self.now.sum("process_resident_memory_bytes", ""));
        writeln!(out, "process       {:.2} CPUs, {resident}", self.rate("process_cpu_seconds_total"))?;
        writeln!(out, "\n{:>5} {:>11} {:>6} {:>14}", "shard", "connections", "busy", "deliveries/s")?;
        for (shard, connections, busy, deliveries) in self.shards() {
            let (connections, deliveries) = (number(connections), number(deliveries));
            writeln!(out, "{shard:>5} {connections:>11} {:>5.0}% {deliveries:>14}", 100.0 * busy)?;
        }
        writeln!(out, "\n{:<20} {:>13} {:>14} {:>14}", "namespace", "subscriptions", "publications/s", "deliveries/s")?;
        for (name, subscriptions, publications, deliveries) in self.namespaces() {
            let name = if name.is_empty() { "(default)" } else { &name };
            let [subscriptions, publications, deliveries] = [subscriptions, publications, deliveries].map(number);
            writeln!(out, "{name:<20} {subscriptions:>13} {publications:>14} {deliveries:>14}")?;
        }
        Ok(())
    }
}

/// A number with commas between thousands.
fn number(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn bytes(value: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.iter().find(|(size, _)| value >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", value / size),
        None => format!("{value:.0} B"),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        1.0.. => format!("{seconds:.2} s"),
        0.001..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{:.0} µs", seconds * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "ringfeed_deliveries_total{shard=\"0\"} 1000\nringfeed_busy_seconds_total{shard=\"0\"} 10\n\
        ringfeed_fan_out_seconds_bucket{le=\"0.0001\"} 5\nringfeed_fan_out_seconds_bucket{le=\"+Inf\"} 5\n\
        ringfeed_namespace_deliveries_total{namespace=\"\"} 5\n";
    const NOW: &str = "ringfeed_deliveries_total{shard=\"0\"} 5000\nringfeed_busy_seconds_total{shard=\"0\"} 11\n\
        ringfeed_connections{shard=\"0\",transport=\"websocket\",state=\"open\"} 1234567\nringfeed_ready 1\n\
        ringfeed_fan_out_seconds_bucket{le=\"0.0001\"} 5\nringfeed_fan_out_seconds_bucket{le=\"0.0002\"} 9\n\
        ringfeed_fan_out_seconds_bucket{le=\"+Inf\"} 9\n\
        ringfeed_namespace_deliveries_total{namespace=\"\"} 25\nringfeed_namespace_subscriptions{namespace=\"\"} 7\n";

    #[test]
    fn rates_and_latencies_are_those_of_the_interval() {
        let (before, now) = (Scrape::parse(BEFORE), Scrape::parse(NOW));
        let view = View::new(&before, &now, Duration::from_secs(2));
        let json = view.json();
        assert_eq!(json["deliveries_per_s"], 2000.0);
        assert_eq!(json["shards"][0]["busy"], 0.5);
        assert_eq!(json["namespaces"][0]["deliveries_per_s"], 10.0);
        assert_eq!(json["publication_order_s"], Value::Null);
        assert!((json["fan_out_s"]["p50"].as_f64().unwrap() - 0.00015).abs() < 1e-6, "{json}");
        let text = view.text("http://a");
        for part in ["ready\n", "1,234,567", "2,000 deliveries/s", "p50 150 µs", " 50% ", "(default)"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0.0, 999.0, 1000.0, 1e7].map(number), ["0", "999", "1,000", "10,000,000"]);
        assert_eq!([0.0, 1500.0, 2.5e9].map(bytes), ["0 B", "1.5 kB", "2.5 GB"]);
        assert_eq!([0.0000501, 0.25, 1.5].map(time), ["50 µs", "250.0 ms", "1.50 s"]);
    }
}
