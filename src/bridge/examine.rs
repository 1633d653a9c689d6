//! Whether the NATS servers can carry the cluster: what a node needs of them, each with its remedy.
//!
//! Nothing of the cluster changes. Appends are timed in a small stream of its own, which is deleted again.

use std::time::{Duration, Instant};

use async_nats::{Client, ServerAddr};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::config::{ClusterConfig, Storage};
use super::connect::{REMEDY_PERMISSIONS, Rejections, Unreachable, addresses, connect_once};
use super::nats::{
    Failure, REMEDY_JETSTREAM, STREAM_NOT_FOUND, compare, old_version, request, stream_info, stream_remedy,
    stream_settings,
};
use super::{BridgeError, config, unix_ms};
use crate::cluster::{PeerStatus, announced};
use crate::limits::CLUSTER_HEARTBEAT_MS;

/// Appends that are timed.
const APPENDS: usize = 10;

/// Bytes and age of the stream for them.
const PROBE_BYTES: u64 = 64 * 1024;
const PROBE_AGE_NS: u64 = 120_000_000_000;

/// The time of an append from which on publishers will notice.
const APPEND_SLOW_MS: f64 = 50.0;

/// Differences of clocks that matter, in milliseconds.
const SKEW_MS: i64 = 2000;

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The subject of the check.
    pub name: &'static str,
    /// The present state.
    pub found: String,
    /// What to change, if anything.
    pub change: Option<Change>,
}

/// What to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether no node can work before.
    pub is_required: bool,
    /// How.
    pub remedy: String,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, found: found.into(), change: None }
    }

    fn wrong(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        let change = Some(Change { is_required: true, remedy: remedy.into() });
        Check { name, found: found.into(), change }
    }

    fn better(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        let change = Some(Change { is_required: false, remedy: remedy.into() });
        Check { name, found: found.into(), change }
    }
}

/// Looks at the configured servers, each tried once. `settings` is the hash of what all nodes should have alike. Takes
/// some seconds; where a server does not answer, some seconds more.
///
/// # Errors
/// [`BridgeError`]: the settings do not fit together, or no thread can be had.
pub fn examine(config: &ClusterConfig, settings: u64) -> Result<Vec<Check>, BridgeError> {
    config.check().map_err(BridgeError)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| super::cannot("start a runtime", &error))?;
    runtime.block_on(look(config, settings))
}

async fn look(config: &ClusterConfig, settings: u64) -> Result<Vec<Check>, BridgeError> {
    let mut checks = Vec::new();
    if let Some(server) = config.exposed_server() {
        let remedy = "write tls:// in servers, or set tls_ca_file";
        checks.push(Check::better("encryption", format!("{server} may be reached without TLS"), remedy));
    }
    let rejections = Rejections::default();
    let mut first = None;
    for (name, address) in config.servers.iter().zip(addresses(config)?) {
        let (check, client) = look_at_server(config, name, address, &rejections).await?;
        checks.push(check);
        first = first.or(client);
    }
    let Some(client) = first else { return Ok(checks) };
    let (check, is_on) = look_at_jetstream(config, &client, &rejections).await;
    checks.push(check);
    if is_on {
        checks.push(look_at_streams(config, &client).await);
        checks.extend(look_at_appends(config, &client).await);
    }
    checks.extend(look_at_nodes(config, &client, settings).await);
    Ok(checks)
}

async fn look_at_server(
    config: &ClusterConfig,
    name: &str,
    address: ServerAddr,
    rejections: &Rejections,
) -> Result<(Check, Option<Client>), BridgeError> {
    // Nobody reads the events.
    let (sender, _) = mpsc::unbounded_channel();
    let start = Instant::now();
    let client = match connect_once(config, vec![address], &sender, rejections).await? {
        Ok(client) => client,
        Err(Unreachable { error, remedy, .. }) => {
            return Ok((Check::wrong("NATS server", format!("{name}: {error}"), remedy), None));
        }
    };
    let info = client.server_info();
    let encryption = if info.tls_required || config.requires_tls() { "TLS" } else { "no TLS" };
    let found =
        format!("{name}: version {}, {encryption}, connected in {}", info.version, milliseconds(start.elapsed()));
    let check = match old_version(&info.version) {
        Some((true, remedy)) => Check::wrong("NATS server", found, remedy),
        Some((false, remedy)) => Check::better("NATS server", found, remedy),
        None => Check::good("NATS server", found),
    };
    Ok((check, Some(client)))
}

/// JetStream, and whether the account has room for the streams. Returns whether it can be used.
async fn look_at_jetstream(config: &ClusterConfig, client: &Client, rejections: &Rejections) -> (Check, bool) {
    let name = "JetStream";
    rejections.take();
    let account = match request(client, "$JS.API.INFO", Bytes::new()).await {
        Ok(answer) if answer["error"].is_null() => answer,
        Ok(answer) => return (Check::wrong(name, answer["error"].to_string(), REMEDY_JETSTREAM), false),
        Err(Failure::NoResponders) => return (Check::wrong(name, "off", REMEDY_JETSTREAM), false),
        Err(Failure::NoAnswer) => {
            let (found, remedy) = match rejections.take() {
                Some(rejection) => (rejection, REMEDY_PERMISSIONS),
                None => ("no answer".to_owned(), "look at the logs of the NATS servers: they may have no leader"),
            };
            return (Check::wrong(name, found, remedy), false);
        }
    };
    let (limit, used) = match config.storage {
        Storage::File => (&account["limits"]["max_storage"], &account["reserved_storage"]),
        Storage::Memory => (&account["limits"]["max_memory"], &account["reserved_memory"]),
    };
    let needed = u64::from(config.buckets) * config.log_max_bytes * u64::from(config.replicas);
    let bytes = limit.as_i64().and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
    let check = match bytes {
        Some(limit) if limit < needed => Check::wrong(
            name,
            format!("the account may store {limit} bytes, and buckets × log_max_bytes × replicas are {needed}"),
            "raise the account's limit, or lower log_max_bytes on all nodes",
        ),
        Some(limit) => Check::good(name, format!("on; the account may store {limit} bytes of {needed} needed")),
        None => Check::good(name, format!("on; {} bytes reserved, {needed} needed", used.as_u64().unwrap_or_default())),
    };
    (check, true)
}

async fn look_at_streams(config: &ClusterConfig, client: &Client) -> Check {
    let name = "streams";
    let (mut found, mut lagging) = (0, Vec::new());
    for bucket in 0..config.buckets {
        let stream = config.stream(bucket);
        let answer = match stream_info(client, config, bucket).await {
            Ok(answer) if answer["error"]["err_code"] == STREAM_NOT_FOUND => continue,
            Ok(answer) if answer["error"].is_null() => answer,
            Ok(answer) => {
                return Check::wrong(
                    name,
                    format!("{stream}: {}", answer["error"]),
                    "look at the logs of the NATS servers",
                );
            }
            Err(_) => {
                let remedy = "start the NATS servers that hold its copies; and see the permissions in docs/cluster.md";
                return Check::wrong(name, format!("{stream} does not answer"), remedy);
            }
        };
        found += 1;
        if let Err((found, remedy)) = compare(&stream, &stream_settings(config, bucket), &answer["config"]) {
            return Check::wrong(name, found, remedy);
        }
        let copies = answer["cluster"]["replicas"].as_array();
        let is_behind = |copy: &Value| copy["current"] == false || copy["offline"] == true;
        if copies.is_some_and(|copies| copies.iter().any(is_behind)) {
            lagging.push(stream);
        }
    }
    let buckets = config.buckets;
    match (found, lagging.first()) {
        (0, _) => Check::good(name, "none yet: the first node makes them"),
        (_, Some(stream)) => Check::better(
            name,
            format!("{} of {buckets} have copies that are behind, as {stream}", lagging.len()),
            "start all NATS servers, and wait until the copies have caught up",
        ),
        (found, None) if found < buckets => Check::good(name, format!("{found} of {buckets}: nodes make the others")),
        (_, None) => Check::good(name, format!("{buckets} as configured, with all their copies")),
    }
}

/// Makes a stream like the cluster's, appends to it, and deletes it.
async fn look_at_appends(config: &ClusterConfig, client: &Client) -> Vec<Check> {
    let name = "append";
    let number = config::random() as u32;
    let (stream, subject) = (format!("RF_{}_doctor_{number:08x}", config.name), format!("rf.{}.doctor", config.name));
    let subject = format!("{subject}.{number:08x}");
    let mut settings = stream_settings(config, 0);
    settings["name"] = json!(stream);
    settings["subjects"] = json!([subject]);
    settings["max_bytes"] = json!(PROBE_BYTES);
    settings["max_age"] = json!(PROBE_AGE_NS);
    settings.as_object_mut().expect("an object").remove("republish");
    let made = request(client, &format!("$JS.API.STREAM.CREATE.{stream}"), settings.to_string().into()).await;
    let error = match made {
        Ok(answer) if answer["error"].is_null() => None,
        Ok(answer) => {
            let code = answer["error"]["err_code"].as_u64().unwrap_or_default();
            Some((answer["error"].to_string(), stream_remedy(code)))
        }
        Err(_) => Some(("no answer".to_owned(), REMEDY_PERMISSIONS)),
    };
    if let Some((error, remedy)) = error {
        return vec![Check::wrong(name, format!("a stream like those of the cluster can't be made: {error}"), remedy)];
    }
    let mut checks = match time_appends(client, &stream, &subject).await {
        Some((times, skew_ms)) => vec![judge_times(times, config), judge_clock(skew_ms)],
        None => {
            let remedy = "look at the logs of the NATS servers: the stream may have no leader";
            vec![Check::wrong(name, "an append is not acknowledged", remedy)]
        }
    };
    let deleted = request(client, &format!("$JS.API.STREAM.DELETE.{stream}"), Bytes::new()).await;
    if deleted.is_ok_and(|answer| answer["error"].is_null()) {
        return checks;
    }
    let remedy = format!("delete it (nats stream rm {stream}); {REMEDY_PERMISSIONS}");
    checks.push(Check::better(name, format!("the stream {stream} of this check can't be deleted"), remedy));
    checks
}

/// The times of appends, sorted, and the server's clock less this host's in milliseconds, if it states it.
async fn time_appends(client: &Client, stream: &str, subject: &str) -> Option<(Vec<Duration>, Option<i64>)> {
    let (mut times, mut sequence, mut sent_ms) = (Vec::new(), 0, 0);
    for _ in 0..APPENDS {
        let start = Instant::now();
        sent_ms = unix_ms();
        sequence = request(client, subject, Bytes::from_static(b"ringfeed doctor")).await.ok()?["seq"].as_u64()?;
        times.push(start.elapsed());
    }
    let half_ms = times.last()?.as_millis() as u64 / 2;
    let get = json!({ "seq": sequence }).to_string();
    let record = request(client, &format!("$JS.API.STREAM.MSG.GET.{stream}"), get.into()).await.ok()?;
    let stored_ms = record["message"]["time"].as_str().and_then(parse_time_ms);
    times.sort();
    Some((times, stored_ms.map(|stored_ms| stored_ms as i64 - (sent_ms + half_ms) as i64)))
}

fn judge_times(times: Vec<Duration>, config: &ClusterConfig) -> Check {
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let storage = if config.storage == Storage::File { "file" } else { "memory" };
    let found = format!(
        "{} (median of {APPENDS}; the longest {}), {} copies in {storage}",
        milliseconds(median),
        milliseconds(worst),
        config.replicas
    );
    if median.as_secs_f64() * 1000.0 < APPEND_SLOW_MS {
        return Check::good("append", found);
    }
    Check::better("append", found, "put NATS servers and nodes closer together, or the logs on faster disks")
}

fn judge_clock(skew_ms: Option<i64>) -> Check {
    let name = "clock";
    match skew_ms {
        None => Check::good(name, "the NATS server does not state its time"),
        Some(skew_ms) if skew_ms.abs() < SKEW_MS => {
            Check::good(name, format!("the NATS server's is {skew_ms:+} ms from this host's"))
        }
        Some(skew_ms) => Check::better(
            name,
            format!("the NATS server's is {skew_ms:+} ms from this host's"),
            "synchronize both by NTP (timedatectl)",
        ),
    }
}

/// The nodes that run now: they say so every second.
async fn look_at_nodes(config: &ClusterConfig, client: &Client, settings: u64) -> Option<Check> {
    let name = "nodes";
    let mut messages = client.subscribe(config.all_subject()).await.ok()?;
    let mut nodes: Vec<(PeerStatus, bool)> = Vec::new();
    let end = tokio::time::Instant::now() + Duration::from_millis(CLUSTER_HEARTBEAT_MS * 3 / 2);
    while let Ok(Some(message)) = tokio::time::timeout_at(end, messages.next()).await {
        let Some((node, is_last)) = announced(&message.payload, settings, unix_ms()) else { continue };
        nodes.retain(|(other, _)| other.id != node.id);
        nodes.push((node, is_last));
    }
    nodes.retain(|(_, is_last)| !is_last);
    nodes.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    let shown = |(node, _): &(PeerStatus, bool)| format!("{} {} ({:+} ms)", node.name, node.version, node.skew_ms);
    let found = nodes.iter().map(shown).collect::<Vec<_>>().join(", ");
    if let Some((node, _)) = nodes.iter().find(|(node, _)| node.has_other_settings) {
        let remedy = format!("give {} the same [namespaces] as this configuration", node.name);
        return Some(Check::better(name, found, remedy));
    }
    if nodes.iter().any(|(node, _)| node.skew_ms.abs() >= SKEW_MS) {
        return Some(Check::better(name, found, "synchronize the clocks of all nodes by NTP (timedatectl)"));
    }
    Some(Check::good(name, if nodes.is_empty() { "none runs".to_owned() } else { found }))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Milliseconds of Unix time in RFC 3339 with `Z`, as Go writes it.
fn parse_time_ms(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let is_shaped = text.ends_with('Z') && (1..=12).contains(&month) && (1970..9999).contains(&year);
    if !is_shaped || day == 0 || day > 31 || hour > 24 || minute > 60 || second > 60 {
        return None;
    }
    let fraction = text.get(19..text.len() - 1)?.strip_prefix('.').unwrap_or_default();
    let millis = format!("{fraction:0<3}").get(..3)?.parse::<u64>().ok()?;
    // Years begin in March here, so that the leap day is their last one.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    // Days from the first of March of the year 0 until 1970 began.
    let seconds = ((days.checked_sub(719_468)? * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_go_are_read() {
        let rows = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T23:59:59.5Z", Some(951_868_799_500)),
            ("2026-11-30T23:45:37.123456789Z", Some(1_796_082_337_123)),
            ("2026-11-30T23:45:37+01:00", None),
            ("2026-13-30T23:45:37Z", None),
            ("Z", None),
            ("2026-11-30T23:45:37.äöüZ", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_time_ms(text), expected, "{text}");
        }
    }

    #[test]
    fn slow_appends_and_wrong_clocks_are_named() {
        let config = ClusterConfig::default();
        assert_eq!(judge_times(vec![Duration::from_millis(2); APPENDS], &config).change, None);
        assert!(judge_times(vec![Duration::from_millis(80); APPENDS], &config).change.is_some());
        assert_eq!(judge_clock(Some(-100)).change, None);
        assert!(judge_clock(Some(-3_600_000)).change.is_some());
    }
}
