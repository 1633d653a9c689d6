//! The application behind the server, over HTTP: it decides on clients where the configuration says so, and receives
//! events.
//!
//! One thread makes the requests; shards only queue calls to it. An endpoint that is slow or gone costs a bounded
//! number of calls in flight: further ones fail at once, and no shard ever waits.
//!
//! ```text
//! shard ──call──► queue ──► thread: one request per call, kept-alive connections ──► endpoint
//!   ▲                                                                                 │
//!   └───────────────── reply to the connection's handler ◄────── answer, or failure ──┘
//! ```

mod counts;
mod events;
mod http;
mod settings;

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use crate::gateway::centrifuge::{Backend, BackendAnswer, BackendCall, CallKind, Later, Responder};
use crate::limits::{BACKEND_SLACK_MS, HANDLE_RETRY_MS};
use crate::log;
pub use counts::{BackendCounts, BackendOutcome, KindCounts};
pub use events::{EventCounts, HttpEvents};
use http::{Client, Failure};
use settings::CheckedCall;
pub use settings::{BackendSettings, CallSettings, EndpointError, EventSettings};

/// Calls endpoints over HTTP.
#[derive(Debug)]
pub struct HttpBackend {
    /// By [`CallKind`]; `None` where no endpoint is configured.
    kinds: [Option<Arc<CheckedCall>>; CallKind::ALL.len()],
    counts: BackendCounts,
    jobs: UnboundedSender<Job>,
}

/// A call that has been let in.
struct Job {
    kind: CallKind,
    headers: HeaderMap,
    body: Bytes,
    responder: Responder,
}

impl HttpBackend {
    /// Starts the thread that makes the requests. It ends with the backend.
    ///
    /// # Errors
    /// The system's, at the start of the thread.
    ///
    /// # Panics
    /// If the settings are not usable: [check](BackendSettings::check) them first.
    pub fn start(settings: &BackendSettings) -> io::Result<HttpBackend> {
        let kinds = settings.checked().expect("the settings were checked");
        let (counts, (jobs, queue)) = (BackendCounts::default(), unbounded_channel());
        let backend = HttpBackend { kinds: kinds.map(|kind| kind.map(Arc::new)), counts, jobs };
        let (kinds, counts) = (backend.kinds.clone(), backend.counts.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new()
            .name("backend".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, run(queue, kinds, counts)))?;
        Ok(backend)
    }

    /// What it counts.
    pub fn counts(&self) -> BackendCounts {
        self.counts.clone()
    }

    fn kind(&self, kind: CallKind) -> Option<&Arc<CheckedCall>> {
        self.kinds[kind as usize].as_ref()
    }
}

impl Backend for HttpBackend {
    fn answers(&self, kind: CallKind) -> bool {
        self.kind(kind).is_some()
    }

    fn call(&self, call: BackendCall, later: Later) -> Option<BackendAnswer> {
        let settings = self.kind(call.kind)?;
        let counts = self.counts.kind(call.kind);
        if !counts.enter(u64::from(settings.in_flight_max)) {
            counts.end(BackendOutcome::Rejected, None);
            return Some(BackendAnswer::Busy);
        }
        let (kind, headers, body) = (call.kind, headers(settings, &call), Bytes::from(call.to_json()));
        // The thread ends only with this backend.
        let _ = self.jobs.send(Job { kind, headers, body, responder: later.responder() });
        None
    }

    fn timeout(&self, kind: CallKind) -> Duration {
        let timeout_ms = self.kind(kind).map_or(0, |call| call.timeout_ms);
        Duration::from_millis(timeout_ms + BACKEND_SLACK_MS)
    }

    fn wants_header(&self, name: &str) -> bool {
        self.kinds.iter().flatten().any(|call| call.headers.iter().any(|wanted| wanted == name))
    }
}

/// The header fields of a request: the client's own that are allowed, and the type of the body.
fn headers(settings: &CheckedCall, call: &BackendCall) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in call.headers.iter().filter(|(name, _)| settings.headers.iter().any(|wanted| *wanted == **name))
    {
        // The server has parsed them as header fields already.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

/// Runs each call as a task, until the backend is dropped.
async fn run(
    mut queue: UnboundedReceiver<Job>,
    kinds: [Option<Arc<CheckedCall>>; CallKind::ALL.len()],
    counts: BackendCounts,
) {
    let endpoints = kinds.map(|kind| kind.map(|call| Rc::new((Client::new(call.endpoint.clone()), call))));
    while let Some(job) = queue.recv().await {
        let endpoint = endpoints[job.kind as usize].clone().expect("only configured kinds have calls");
        let counts = counts.clone();
        tokio::task::spawn_local(async move {
            let (client, settings) = &*endpoint;
            serve(job, client, settings.timeout_ms, counts.kind(settings.kind)).await;
        });
    }
}

/// Makes one call and passes the answer on.
async fn serve(job: Job, client: &Client, timeout_ms: u64, counts: &KindCounts) {
    let Job { kind, headers, body, mut responder } = job;
    if !responder.is_wanted() {
        return counts.leave(BackendOutcome::Gone, None);
    }
    let start = Instant::now();
    let exchange = timeout(Duration::from_millis(timeout_ms), client.post(headers, body)).await;
    let (outcome, answer) = match exchange.unwrap_or(Err(Failure::Timeout)).and_then(read) {
        Ok(answer) => (BackendOutcome::of(&answer), answer),
        Err(failure) => {
            if let Some(left_out) = log::BACKEND.take() {
                tracing::warn!(kind = kind.name(), reason = %failure, left_out, "no answer from the backend");
            }
            (failure.outcome(), BackendAnswer::Failed)
        }
    };
    // Before the answer, so that a client that has it finds its place free.
    counts.leave(outcome, Some(start.elapsed()));
    let answer = Arc::new(answer);
    while let Err(again) = responder.try_answer(&answer) {
        responder = again;
        sleep(Duration::from_millis(HANDLE_RETRY_MS)).await;
    }
}

fn read((status, body): (StatusCode, Bytes)) -> Result<BackendAnswer, Failure> {
    if status != StatusCode::OK {
        return Err(Failure::Status(status));
    }
    BackendAnswer::from_json(&body).map_err(|error| Failure::Invalid(error.to_string()))
}
