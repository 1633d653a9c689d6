//! Events to the application: batches of JSON, signed, posted one after the other, and posted again until the
//! application has taken them.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::http::{Client, Failure};
use super::settings::{CheckedEvents, EventSettings};
use crate::limits::{EVENT_QUEUE_BYTES_MAX, EVENT_RETRY_FIRST_MS, EVENT_RETRY_MS_MAX};
use crate::log;
use crate::topics::{ClientInfo, Event, EventSink};

/// The header field with the signature: `t=<seconds of Unix time>,v1=<HMAC-SHA256 in hex of "<t>.<body>">`.
const SIGNATURE: HeaderName = HeaderName::from_static("x-ringfeed-signature");

/// Posts events to an endpoint. Clones share the queue.
#[derive(Clone, Debug)]
pub struct HttpEvents(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: CheckedEvents,
    queue: Mutex<Queue>,
    /// Wakes the thread when the queue is no longer empty.
    is_filled: Notify,
    /// Wakes the thread that waits for an empty queue.
    is_emptied: Condvar,
    counts: EventCounts,
}

#[derive(Debug, Default)]
struct Queue {
    /// The oldest first; the current request has the first of them.
    events: VecDeque<Entry>,
    bytes: usize,
    sequence: u64,
}

#[derive(Debug)]
struct Entry {
    sequence: u64,
    unix_ms: u64,
    event: Event,
}

/// What happens to events. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct EventCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// By kind.
    taken: [AtomicU64; Event::NAMES.len()],
    delivered: AtomicU64,
    dropped_full: AtomicU64,
    dropped_expired: AtomicU64,
    posts: AtomicU64,
    posts_failed: AtomicU64,
    queued: AtomicU64,
}

impl HttpEvents {
    /// Starts the thread that posts the events. It lasts as long as the process.
    ///
    /// # Errors
    /// The system's, at the start of the thread.
    ///
    /// # Panics
    /// If the settings are not usable: [check](EventSettings::check) them first.
    pub fn start(settings: &EventSettings) -> io::Result<HttpEvents> {
        let settings = settings.checked().expect("the settings were checked").expect("there is an endpoint");
        let events = HttpEvents(Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            is_filled: Notify::new(),
            is_emptied: Condvar::new(),
            counts: EventCounts::default(),
        }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = events.0.clone();
        thread::Builder::new()
            .name("events".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, run(&shared)))?;
        Ok(events)
    }

    /// What it counts.
    pub fn counts(&self) -> EventCounts {
        self.0.counts.clone()
    }

    /// Waits until all events are delivered or dropped, at most so long. Returns whether they are.
    pub fn flush(&self, patience: Duration) -> bool {
        let queue = self.0.lock();
        let (queue, _) = self
            .0
            .is_emptied
            .wait_timeout_while(queue, patience, |queue| !queue.events.is_empty())
            .expect("nobody panics with the lock");
        queue.events.is_empty()
    }
}

impl EventSink for HttpEvents {
    fn take(&self, event: Event) {
        let Shared { settings, counts, is_filled, .. } = &*self.0;
        let kind = event.kind();
        if !settings.kinds[kind] {
            return;
        }
        counts.add(|counts| &counts.taken[kind], 1);
        let (unix_ms, bytes) = (unix_ms(), event.bytes());
        let mut queue = self.0.lock();
        queue.sequence += 1;
        if queue.events.len() >= settings.queue_max || queue.bytes + bytes > EVENT_QUEUE_BYTES_MAX {
            drop(queue);
            return counts.add(|counts| &counts.dropped_full, 1);
        }
        let sequence = queue.sequence;
        queue.bytes += bytes;
        queue.events.push_back(Entry { sequence, unix_ms, event });
        counts.set_queued(queue.events.len());
        // A thread that is busy looks at the queue by itself.
        if queue.events.len() == 1 {
            is_filled.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nobody panics with the lock")
    }

    /// The body of the next request and its number of events; `None` if there are none.
    fn next_batch(&self, server: &str) -> Option<(Bytes, usize)> {
        let queue = self.lock();
        let count = queue.events.len().min(self.settings.batch_max);
        let events: Vec<WireEvent<'_>> = queue.events.iter().take(count).map(WireEvent::new).collect();
        let body = serde_json::to_vec(&Batch { server, events }).expect("events have a JSON form");
        (count > 0).then(|| (body.into(), count))
    }

    /// Removes the first `count` events, which have been delivered, or have not.
    fn remove(&self, count: usize, is_delivered: bool) {
        let mut queue = self.lock();
        let bytes: usize = queue.events.drain(..count).map(|entry| entry.event.bytes()).sum();
        queue.bytes -= bytes;
        self.counts.set_queued(queue.events.len());
        match is_delivered {
            true => self.counts.add(|counts| &counts.delivered, count as u64),
            false => self.counts.add(|counts| &counts.dropped_expired, count as u64),
        }
        if queue.events.is_empty() {
            self.is_emptied.notify_all();
        }
    }
}

impl EventCounts {
    fn add(&self, cell: impl FnOnce(&Counts) -> &AtomicU64, count: u64) {
        cell(&self.0).fetch_add(count, Ordering::Relaxed);
    }

    fn set_queued(&self, count: usize) {
        self.0.queued.store(count as u64, Ordering::Relaxed);
    }

    /// Events of each kind, by name.
    pub fn taken(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.taken.iter().map(|count| count.load(Ordering::Relaxed));
        Event::NAMES.into_iter().zip(counts.collect::<Vec<_>>())
    }

    /// Events that the application has taken.
    pub fn delivered(&self) -> u64 {
        self.0.delivered.load(Ordering::Relaxed)
    }

    /// Events that were dropped since the queue was full.
    pub fn dropped_full(&self) -> u64 {
        self.0.dropped_full.load(Ordering::Relaxed)
    }

    /// Events that were dropped since the application has not taken them for too long.
    pub fn dropped_expired(&self) -> u64 {
        self.0.dropped_expired.load(Ordering::Relaxed)
    }

    /// Requests, and how many of these have failed.
    pub fn posts(&self) -> (u64, u64) {
        (self.0.posts.load(Ordering::Relaxed), self.0.posts_failed.load(Ordering::Relaxed))
    }

    /// Events in the queue.
    pub fn queued(&self) -> u64 {
        self.0.queued.load(Ordering::Relaxed)
    }
}

/// Posts batch after batch.
async fn run(shared: &Shared) {
    let server = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
    let client = Client::new(shared.settings.endpoint.clone());
    loop {
        match shared.next_batch(&server) {
            None => shared.is_filled.notified().await,
            Some((body, count)) => {
                let is_delivered = deliver(shared, &client, &body).await;
                shared.remove(count, is_delivered);
            }
        }
    }
}

/// Posts a batch until it is taken, with growing pauses, or until it is too old.
async fn deliver(shared: &Shared, client: &Client, body: &Bytes) -> bool {
    let Shared { settings, counts, .. } = shared;
    let give_up = Instant::now() + Duration::from_millis(settings.give_up_ms);
    let mut pause = Duration::from_millis(EVENT_RETRY_FIRST_MS);
    loop {
        counts.add(|counts| &counts.posts, 1);
        let post = client.post(headers(settings, body), body.clone());
        let outcome = timeout(Duration::from_millis(settings.timeout_ms), post).await.unwrap_or(Err(Failure::Timeout));
        let failure = match outcome {
            Ok((status, _)) if status.is_success() => return true,
            Ok((status, _)) => Failure::Status(status),
            Err(failure) => failure,
        };
        counts.add(|counts| &counts.posts_failed, 1);
        let is_over = Instant::now() + pause >= give_up;
        if let Some(left_out) = log::BACKEND.take() {
            tracing::warn!(reason = %failure, dropped = is_over, left_out, "events were not taken");
        }
        if is_over {
            return false;
        }
        sleep(pause).await;
        pause = (2 * pause).min(Duration::from_millis(EVENT_RETRY_MS_MAX));
    }
}

fn headers(settings: &CheckedEvents, body: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(secret) = &settings.secret {
        let signature = signature(secret.as_bytes(), unix_ms() / 1000, body);
        headers.insert(SIGNATURE, signature.try_into().expect("digits are visible ASCII"));
    }
    headers
}

/// The value of the signature's header field.
fn signature(secret: &[u8], unix_s: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(unix_s.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let hex: String = context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={unix_s},v1={hex}")
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// The body of a request.
#[derive(Serialize)]
struct Batch<'a> {
    /// Tells this run of the server from others.
    server: &'a str,
    events: Vec<WireEvent<'a>>,
}

#[derive(Serialize)]
struct WireEvent<'a> {
    sequence: u64,
    time: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> WireEvent<'a> {
    fn new(Entry { sequence, unix_ms, event }: &'a Entry) -> WireEvent<'a> {
        let client = event.client();
        let json = |info: fn(&ClientInfo) -> &Option<Box<[u8]>>| {
            client.and_then(|client| serde_json::from_slice(info(client).as_deref()?).ok())
        };
        let (code, reason) = match event {
            Event::Disconnected { code, reason, .. } => (*code, Some(reason.as_str())),
            _ => (None, None),
        };
        WireEvent {
            sequence: *sequence,
            time: *unix_ms,
            kind: Event::NAMES[event.kind()],
            channel: event.topic().map(|topic| topic.as_str()),
            client: client.map(|client| &*client.client),
            user: client.map(|client| &*client.user),
            conn_info: json(|client| &client.conn_info),
            chan_info: json(|client| &client.chan_info),
            code,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::TopicName;

    /// Computed with `printf '1.{}' | openssl dgst -sha256 -hmac key`.
    #[test]
    fn a_body_is_signed_with_its_time() {
        let expected = "t=1,v1=1ba6b8171186efc613e8bcc0cbdab2748f24984d7c5a84faa2637afa0e40d224";
        assert_eq!(signature(b"key", 1, b"{}"), expected);
        assert_ne!(signature(b"key", 2, b"{}")[5..], expected[5..]);
    }

    #[test]
    fn an_event_has_the_fields_of_its_kind() {
        let client = Arc::new(ClientInfo { conn_info: Some(b"{\"n\":1}".as_slice().into()), ..ClientInfo::default() });
        let text = |event| serde_json::to_string(&WireEvent::new(&Entry { sequence: 1, unix_ms: 2, event })).unwrap();
        let topic = TopicName::new("a").unwrap();
        assert_eq!(text(Event::Vacated(topic)), r#"{"sequence":1,"time":2,"type":"vacated","channel":"a"}"#);
        let event = Event::Disconnected { client, code: Some(3005), reason: "bye".to_owned() };
        let expected = concat!(
            r#"{"sequence":1,"time":2,"type":"disconnected","client":"","user":"","conn_info":{"n":1},"#,
            r#""code":3005,"reason":"bye"}"#
        );
        assert_eq!(text(event), expected);
    }
}
