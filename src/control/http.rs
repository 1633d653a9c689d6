//! Connections to the control port, and which request goes where.
//!
//! The protocol is hyper's, HTTP/1.1 with keep-alive and pipelining: requests of one connection are answered one after
//! the other, and their answers leave together ([`Batched`]).

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::ALLOW;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, text, with_header};
use super::batch::Batched;
use super::{State, api, guard, metrics, publish, slowest};
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_HEAD_BYTES_MAX, CONTROL_HEAD_MS};

/// How long to wait after a connection could not be accepted, most likely for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What there is, for people.
const INDEX: &str = "\
Ringfeed's control port.

POST /publish/<topic>   publish the body: text, or binary with 'Content-Type: application/octet-stream'
POST /api/<method>      Centrifugo's server API: publish, broadcast, history, presence, disconnect and so on
GET  /connections/slow  who has the most waiting (?count=20)
GET  /metrics           numbers for Prometheus
GET  /healthz           200 while the process answers
GET  /readyz            200 while it takes connections, 503 while it leaves";

/// The listener of the control port.
pub(super) struct Listener(TcpListener);

impl Listener {
    /// Takes over a bound listener.
    pub(super) fn new(listener: std::net::TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        Ok(Listener(TcpListener::from_std(listener)?))
    }

    /// Accepts and serves connections, for ever.
    pub(super) async fn run(self, state: Rc<State>) {
        let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.0.accept().await {
                Ok((stream, _)) => {
                    tokio::task::spawn_local(serve(stream, state.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "the control port could not accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Serves one connection until either side closes it. It holds its `place` as long.
async fn serve(stream: TcpStream, state: Rc<State>, place: OwnedSemaphorePermit) {
    // Answers are small and wait for nothing. Without it they would only be slower, so a failure is not worth a word.
    let _ = stream.set_nodelay(true);
    let service =
        service_fn(|request: Request<Incoming>| async { Ok::<_, Infallible>(respond(&state, request).await) });
    // A connection that fails is the client's affair: it knows.
    let _ = http1::Builder::new()
        // Who has sent a whole request is answered, though nothing more will come. Otherwise hyper would read after
        // each request only to find that out, and drop what has been published without a word.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(CONTROL_HEAD_MS))
        .max_header_size(CONTROL_HEAD_BYTES_MAX)
        .serve_connection(Batched::new(stream), service)
        .await;
    drop(place);
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Index,
    Health,
    Ready,
    Metrics,
    Slowest,
    /// What follows `/publish/`.
    Publish(&'a str),
    /// What follows `/api/`.
    Api(&'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Route<'a>> {
        match path {
            "/" => Some(Route::Index),
            "/healthz" => Some(Route::Health),
            "/readyz" => Some(Route::Ready),
            "/metrics" => Some(Route::Metrics),
            "/connections/slow" => Some(Route::Slowest),
            _ => {
                let publish = path.strip_prefix("/publish/").map(Route::Publish);
                publish.or_else(|| path.strip_prefix("/api/").map(Route::Api))
            }
        }
    }

    /// The methods that it answers, for `Allow`.
    fn methods(self) -> &'static str {
        match self {
            Route::Index | Route::Health | Route::Ready | Route::Metrics | Route::Slowest => "GET, HEAD",
            Route::Publish(_) | Route::Api(_) => "POST",
        }
    }

    /// Whether it is answered without the key: by probes, who learn nothing from it that they could not see anyway.
    fn is_open(self) -> bool {
        matches!(self, Route::Health | Route::Ready)
    }

    fn allows(self, method: &Method) -> bool {
        self.methods().split(", ").any(|allowed| method == allowed)
    }
}

/// Answers one request.
async fn respond<B: Body<Data = Bytes>>(state: &State, request: Request<B>) -> Answer {
    if let Err(refused) = guard::check(request.version(), request.headers(), state.access.is_loopback()) {
        return text(refused.status(), refused.reason());
    }
    // The path is kept beside the request, whose body is taken out of it.
    let uri = request.uri().clone();
    let route = Route::of(uri.path());
    if !route.is_some_and(Route::is_open) && !state.access.is_granted(request.headers()) {
        return text(StatusCode::UNAUTHORIZED, "the key is missing or wrong: send it as 'X-API-Key: KEY'");
    }
    let Some(route) = route else {
        return text(StatusCode::NOT_FOUND, format_args!("there is nothing here. {INDEX}"));
    };
    if !route.allows(request.method()) {
        let answer = text(StatusCode::METHOD_NOT_ALLOWED, format_args!("use {}", route.methods()));
        return with_header(answer, ALLOW, route.methods());
    }
    match route {
        Route::Index => text(StatusCode::OK, INDEX),
        Route::Health => text(StatusCode::OK, "ok"),
        Route::Ready if state.status.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Route::Ready => text(StatusCode::OK, "ready"),
        Route::Metrics => metrics::get(&state.status, state.started, state.memory_before).await,
        Route::Slowest => slowest::get(state, uri.query()).await,
        Route::Publish(path) => publish::post(state, path, request).await,
        Route::Api(method) => api::post(state, method, request).await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::control::fake::Shards;
    use crate::limits::PUBLISH_BYTES_MAX;

    /// Answers one request without a body.
    fn ask(state: &State, method: &str, target: &str, headers: &[(&str, &str)]) -> (u16, Option<String>, String) {
        let mut request = Request::builder().method(method).uri(target);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        tokio_uring::start(async {
            let (parts, body) = respond(state, request).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let allow = parts.headers.get(ALLOW).map(|value| value.to_str().unwrap().to_owned());
            (parts.status.as_u16(), allow, String::from_utf8(body.to_vec()).unwrap())
        })
    }

    #[test]
    fn each_path_has_its_methods_and_its_answer() {
        let rows = [
            ("GET", "/", 200, None, "POST /publish/<topic>"),
            ("GET", "/healthz", 200, None, "ok\n"),
            ("HEAD", "/healthz", 200, None, "ok\n"),
            ("GET", "/readyz", 200, None, "ready\n"),
            ("GET", "/metrics", 200, None, "ringfeed_connections{"),
            ("POST", "/publish/a", 200, None, "\"offset\":"),
            ("POST", "/publish/a?x", 200, None, "\"offset\":"),
            ("POST", "/publish/", 400, None, "missing"),
            ("GET", "/publish/a", 405, Some("POST"), "use POST\n"),
            ("PUT", "/publish/a", 405, Some("POST"), "use POST\n"),
            ("POST", "/metrics", 405, Some("GET, HEAD"), "use GET, HEAD\n"),
            ("GET", "/connections/slow", 200, None, "\"outbox_bytes\":300"),
            ("POST", "/connections/slow", 405, Some("GET, HEAD"), "use GET, HEAD\n"),
            ("POST", "/api/info", 200, None, "\"nodes\":"),
            ("POST", "/api/nonsense", 404, None, "presence_stats"),
            ("GET", "/api/info", 405, Some("POST"), "use POST\n"),
            ("GET", "/publish", 404, None, "POST /publish/<topic>"),
            ("GET", "/healthz/", 404, None, "/healthz"),
        ];
        let state = Shards::default().state();
        for (method, target, status, allow, text) in rows {
            let (got, got_allow, body) = ask(&state, method, target, &[]);
            assert_eq!((got, got_allow.as_deref()), (status, allow), "{method} {target}");
            assert!(body.contains(text), "{method} {target}: {body}");
        }
    }

    #[test]
    fn a_server_that_leaves_is_alive_but_not_ready() {
        let state = Shards::default().state();
        state.status.set_draining();
        assert_eq!(ask(&state, "GET", "/readyz", &[]).0, 503);
        assert_eq!(ask(&state, "GET", "/healthz", &[]).0, 200);
        assert_eq!(ask(&state, "POST", "/publish/a", &[]).0, 503);
    }

    #[test]
    fn what_a_foreign_page_asks_is_refused_before_anything_is_done() {
        let shards = Shards::default();
        let state = shards.state();
        assert_eq!(ask(&state, "POST", "/publish/a", &[("origin", "https://example.org")]).0, 403);
        assert_eq!(ask(&state, "GET", "/metrics", &[("host", "example.org")]).0, 403);
        assert_eq!(ask(&state, "POST", "/publish/a", &[("host", "a"), ("host", "a")]).0, 400);
        assert!(shards.published.borrow().is_empty());
        assert_eq!(ask(&state, "POST", "/publish/a", &[("origin", "http://localhost:3000")]).0, 200);
    }

    #[test]
    fn where_there_is_a_key_only_probes_need_none() {
        let shards = Shards::default();
        let state = shards.state_with_key("secret");
        let rows = [
            ("GET", "/healthz", 200),
            ("GET", "/readyz", 200),
            ("GET", "/", 401),
            ("GET", "/metrics", 401),
            ("GET", "/nowhere", 401),
            ("POST", "/publish/a", 401),
            ("POST", "/api/info", 401),
            ("POST", "/healthz", 405),
        ];
        for (method, target, status) in rows {
            assert_eq!(ask(&state, method, target, &[]).0, status, "{method} {target}");
            assert_eq!(ask(&state, method, target, &[("x-api-key", "guess")]).0, status, "{method} {target}");
        }
        assert!(shards.published.borrow().is_empty());
        assert_eq!(ask(&state, "POST", "/publish/a", &[("x-api-key", "secret")]).0, 200);
        assert_eq!(ask(&state, "GET", "/metrics", &[("authorization", "Bearer secret")]).0, 200);
    }

    /// Runs `client` against a control port for `shards`.
    fn with_connection<F: Future<Output = ()>>(shards: &Shards, client: impl FnOnce(TcpStream) -> F) {
        let state = Rc::new(shards.state());
        tokio_uring::start(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let serving = tokio::task::spawn_local(Listener::new(listener).unwrap().run(state));
            client(TcpStream::connect(address).await.unwrap()).await;
            serving.abort();
        });
    }

    /// Reads until `count` answers have come, told by their last line.
    async fn read_answers(stream: &mut TcpStream, count: usize) -> String {
        let mut text = Vec::new();
        while String::from_utf8_lossy(&text).matches("\"}\n").count() < count {
            assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn requests_of_one_connection_are_answered_in_order() {
        let shards = Shards::default();
        with_connection(&shards, async |mut stream| {
            let request = "POST /publish/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi";
            stream.write_all(request.repeat(3).as_bytes()).await.unwrap();
            let text = read_answers(&mut stream, 3).await;
            let places: Vec<_> = [1, 2, 3].map(|offset| text.find(&format!("{{\"offset\":{offset},"))).to_vec();
            assert!(places.is_sorted() && places[0].is_some(), "{text}");
            // The connection is kept.
            stream.write_all(request.as_bytes()).await.unwrap();
            assert!(read_answers(&mut stream, 1).await.contains("\"offset\":4,"));
        });
        assert_eq!(shards.published.borrow().len(), 4);
    }

    /// Sends these bytes and returns the statuses of the answers, until the connection ends.
    fn statuses(shards: &Shards, sent: &str) -> Vec<u16> {
        let mut text = Vec::new();
        with_connection(shards, async |mut stream| {
            stream.write_all(sent.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut text).await.unwrap();
        });
        let text = String::from_utf8(text).unwrap();
        let statuses = text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap());
        statuses.collect()
    }

    fn post(path: &str, body_bytes: usize) -> String {
        let body = "x".repeat(body_bytes);
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {body_bytes}\r\n\r\n{body}")
    }

    #[test]
    fn every_answer_arrives_whatever_stands_around_its_request() {
        let good = post("/publish/a", 2);
        let unfinished = "GET / HTTP/1.1\r\nHo".to_owned();
        let no_http = "\u{16}\u{3}\u{1}\r\n\r\n".to_owned();
        let endless = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(4 * CONTROL_HEAD_BYTES_MAX));
        let rows: [(&[&String], &[u16]); 9] = [
            (&[&good, &good, &good], &[200, 200, 200]),
            (&[&good, &unfinished], &[200]),
            (&[&no_http], &[400]),
            (&[&good, &no_http], &[200, 400]),
            (&[&endless], &[431]),
            (&[&good, &post("/publish/full", 100_000), &good], &[200, 507, 200]),
            // Bodies that nobody wants are not waited for: the connection ends.
            (&[&good, &post("/nothing", 1_000_000)], &[200, 404]),
            (&[&good, &post("/publish/a,b", 1_000_000)], &[200, 400]),
            (&[&good, &post("/publish/a", PUBLISH_BYTES_MAX + 1), &good], &[200, 413]),
        ];
        for (row, (requests, expected)) in rows.into_iter().enumerate() {
            let sent: String = requests.iter().map(|request| request.as_str()).collect();
            assert_eq!(statuses(&Shards::default(), &sent), expected, "row {row}");
        }
    }
}
