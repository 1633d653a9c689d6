//! Serves the connections of the control port, and routes their requests.
//!
//! hyper implements HTTP/1.1 with keep-alive and pipelining. The server answers the requests of one connection one
//! after the other, and sends the answers together ([`Batched`]).

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::ALLOW;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, UnixListener};
#[cfg(feature = "product")]
use tokio_rustls::TlsAcceptor;

use super::access::Right;
use super::answer::{Answer, text, with_header};
use super::audit::Operator;
use super::batch::{Batched, Stream};
use super::peer::Peer;
use super::places::{Ended, Place};
use super::{State, admin, api, audit, guard, metrics, publish, reload, slowest, stream};
use crate::limits::{CONTROL_HEAD_BYTES_MAX, CONTROL_HEAD_MS, CONTROL_INPUT_BYTES};
use crate::log;
use crate::server::ListenAddress;
use crate::tls::Acceptor;

/// Pause after a failed accept, most likely because the process has no descriptor left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The answer to a key that lacks a right.
pub(super) const READ_ONLY: &str = "this key only reads: send the other one";

/// The index page: all endpoints.
const INDEX: &str = "\
Ringfeed's control port.

POST /publish/<topic>   publish the body: text, or binary with 'Content-Type: application/octet-stream'
POST /publish           publish a stream of records, 'Content-Type: application/x-ndjson': one JSON object a line
GET  /state/<topic>     values of a keyed topic (?since=NEXT&limit=1000)
GET  /state/<topic>/<key>  one value; PUT sets it, DELETE removes it
POST /api/<method>      Centrifugo's server API: publish, broadcast, history, presence, disconnect and so on
GET  /connections/slow  connections with the largest backlogs (?count=20)
POST /reload            read the configuration again
POST /drain             stop gracefully, as SIGTERM does
GET  /metrics           metrics for Prometheus
GET  /healthz           200 while the process answers
GET  /readyz            200 while the server accepts connections, 503 while it drains

Browsers get the admin page here.";

/// The listener of the control port.
pub(super) struct Listener {
    socket: Socket,
    /// Makes the TLS sessions of its connections, if it speaks TLS.
    acceptor: Option<Acceptor>,
}

/// A socket that listens.
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// Takes over a socket that listens at `address`.
    fn new(socket: OwnedFd, address: &ListenAddress) -> io::Result<Socket> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(match address {
            ListenAddress::Unix(_) => Socket::Unix(UnixListener::from_std(socket.into())?),
            _ => Socket::Tcp(TcpListener::from_std(socket.into())?),
        })
    }

    async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match self {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are small and must not wait. Without the option they are only slower, so the server ignores a
                // failure.
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), Peer::Ip(peer)))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok((Box::new(stream), Peer::Unix(user)))
            }
        }
    }
}

impl Listener {
    /// Takes over a socket that listens at `address`.
    pub(super) fn new(socket: OwnedFd, address: &ListenAddress, acceptor: Option<Acceptor>) -> io::Result<Listener> {
        Ok(Listener { socket: Socket::new(socket, address)?, acceptor })
    }

    /// Accepts and serves connections forever.
    pub(super) async fn run(self, state: Rc<State>) {
        loop {
            state.places.wait_for_room().await;
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    let place = state.places.enter(peer.address(), !state.access.borrow().has_key());
                    tokio::task::spawn_local(serve(stream, peer, self.acceptor.clone(), state.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "the control port could not accept a connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }
}

/// Serves one connection until either side closes it or `place` ends it.
async fn serve(stream: Stream, peer: Peer, acceptor: Option<Acceptor>, state: Rc<State>, place: Place) {
    let secured = tokio::select! {
        secured = secure(stream, acceptor) => secured,
        ended = place.must_end() => return place.end(ended),
    };
    let stream = match secured {
        Ok(stream) => stream,
        Err(ended) => return place.end(ended),
    };
    let service = service_fn(|request: Request<Incoming>| {
        let is_granted = state.access.borrow().right(request.headers()) > Right::Nothing;
        place.on_request(is_granted);
        let state = &state;
        async move {
            // Pipelined requests without the key give way to those of publishers, one by one.
            if !is_granted {
                tokio::task::yield_now().await;
            }
            let (route, start) = (Route::of(request.uri().path()).map_or("unknown", Route::label), Instant::now());
            let answer = respond(state, request, peer).await;
            state.requests.count(route, answer.status(), start.elapsed());
            log_rejected(peer, answer.status());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        // A client that has sent a whole request and ended its half of the stream still receives the answer. Otherwise
        // hyper would drop the answer, and the client would not learn that its message was published.
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(CONTROL_HEAD_MS))
        .max_header_size(CONTROL_HEAD_BYTES_MAX)
        .max_buf_size(CONTROL_INPUT_BYTES)
        .serve_connection(Batched::new(stream, state.places.bounds().send), service);
    // The client sees the failure of its connection; the server only counts it.
    let ended = tokio::select! {
        served = connection => served.map_or_else(|error| failure(&error), |()| Ended::Closed),
        ended = place.must_end() => ended,
    };
    place.end(ended);
}

/// Does the TLS handshake, if the port speaks TLS.
#[cfg(feature = "product")]
async fn secure(stream: Stream, acceptor: Option<Acceptor>) -> Result<Stream, Ended> {
    let Some(acceptor) = acceptor else { return Ok(stream) };
    let handshake = TlsAcceptor::from(acceptor.config()).accept(stream);
    match tokio::time::timeout(Duration::from_millis(CONTROL_HEAD_MS), handshake).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(_)) => Err(Ended::Failed),
        Err(_) => Err(Ended::Idle),
    }
}

#[cfg(not(feature = "product"))]
async fn secure(stream: Stream, _: Option<Acceptor>) -> Result<Stream, Ended> {
    Ok(stream)
}

/// A request without the key, or of a foreign page, is worth a line.
fn log_rejected(peer: Peer, status: StatusCode) {
    if status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN {
        return;
    }
    if let Some(left_out) = log::KEYS.take() {
        tracing::warn!(%peer, status = status.as_u16(), left_out, "request to the control port rejected");
    }
}

/// The counted reason of a failed connection.
fn failure(error: &hyper::Error) -> Ended {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    match source {
        Some(error) if error.kind() == io::ErrorKind::TimedOut => Ended::SendTimeout,
        _ if error.is_timeout() => Ended::Idle,
        _ => Ended::Failed,
    }
}

/// The endpoint of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Index,
    Health,
    Ready,
    Metrics,
    Slowest,
    Reload,
    Drain,
    /// Of the admin page.
    Admin(admin::Endpoint),
    /// A stream of publications.
    Stream,
    /// The path after `/publish/`.
    Publish(&'a str),
    /// The path after `/state/`.
    State(&'a str),
    /// The path after `/api/`.
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
            "/reload" => Some(Route::Reload),
            "/drain" => Some(Route::Drain),
            "/publish" => Some(Route::Stream),
            _ => {
                let publish = path.strip_prefix("/publish/").map(Route::Publish);
                let api = || path.strip_prefix("/api/").map(Route::Api);
                let admin = || path.strip_prefix("/admin/").and_then(admin::Endpoint::of).map(Route::Admin);
                let state = || path.strip_prefix("/state/").map(Route::State);
                publish.or_else(api).or_else(state).or_else(admin)
            }
        }
    }

    /// The value of the metrics' label: what a client chooses of a path is not in it.
    fn label(self) -> &'static str {
        match self {
            Route::Index => "index",
            Route::Health => "healthz",
            Route::Ready => "readyz",
            Route::Metrics => "metrics",
            Route::Slowest => "connections_slow",
            Route::Reload => "reload",
            Route::Drain => "drain",
            Route::Stream => "publish_stream",
            Route::Publish(_) => "publish",
            Route::State(_) => "state",
            Route::Api(_) => "api",
            Route::Admin(endpoint) => endpoint.label(),
        }
    }

    /// The allowed methods, for `Allow`.
    fn methods(self) -> &'static str {
        match self {
            Route::Index | Route::Health | Route::Ready | Route::Metrics | Route::Slowest => "GET, HEAD",
            Route::Reload | Route::Drain | Route::Stream | Route::Publish(_) | Route::Api(_) => "POST",
            Route::State(_) => super::state::METHODS,
            Route::Admin(endpoint) => endpoint.methods(),
        }
    }

    /// The right that a request needs. Probes need none: they only learn that the server runs. Of the methods of
    /// `/api/` and `/state/`, some only read.
    fn needs(self) -> Right {
        match self {
            Route::Health | Route::Ready => Right::Nothing,
            Route::Index | Route::Metrics | Route::Slowest | Route::State(_) | Route::Api(_) => Right::Read,
            Route::Reload | Route::Drain | Route::Stream | Route::Publish(_) => Right::All,
            Route::Admin(endpoint) => endpoint.needs(),
        }
    }

    fn allows(self, method: &Method) -> bool {
        self.methods().split(", ").any(|allowed| method == allowed)
    }
}

/// Answers one request of `peer`.
async fn respond<B: Body<Data = Bytes> + 'static>(state: &Rc<State>, request: Request<B>, peer: Peer) -> Answer {
    if let Err(refused) = guard::check(request.version(), request.headers(), &state.access.borrow()) {
        return text(refused.status(), refused.reason());
    }
    let right = state.access.borrow().right(request.headers());
    let operator = Operator { peer, right };
    // A copy, since the handlers take the request apart for its body.
    let uri = request.uri().clone();
    let route = Route::of(uri.path());
    // The page itself shows nothing without the key that it asks for.
    let is_page = route == Some(Route::Index) && admin::wants_page(request.headers());
    let needed = if is_page { Right::Nothing } else { route.map_or(Right::Read, Route::needs) };
    if right < needed {
        return match right {
            Right::Nothing => {
                text(StatusCode::UNAUTHORIZED, "the key is missing or wrong: send it as 'X-API-Key: KEY'")
            }
            _ => text(StatusCode::FORBIDDEN, READ_ONLY),
        };
    }
    let Some(route) = route else {
        return text(StatusCode::NOT_FOUND, format_args!("there is nothing here. {INDEX}"));
    };
    if !route.allows(request.method()) {
        let answer = text(StatusCode::METHOD_NOT_ALLOWED, format_args!("use {}", route.methods()));
        return with_header(answer, ALLOW, route.methods());
    }
    match route {
        Route::Index if is_page => admin::assets::page(state, request.headers()),
        Route::Index => text(StatusCode::OK, INDEX),
        Route::Admin(endpoint) => admin::respond(state, endpoint, request, right).await,
        Route::Health => text(StatusCode::OK, "ok"),
        Route::Ready if state.status.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        Route::Ready => match state.others.unready() {
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
            None => text(StatusCode::OK, "ready"),
        },
        Route::Metrics => metrics::get(state, request.headers()).await,
        Route::Slowest => slowest::get(state, uri.query()).await,
        Route::Reload => {
            audit::log(operator, "reload");
            reload::post(state)
        }
        Route::Drain => {
            audit::log(operator, "drain");
            super::request_drain(state)
        }
        Route::Stream => stream::post(state, request),
        Route::Publish(path) => publish::post(state, path, request).await,
        Route::State(path) => super::state::respond(state, path, request, right).await,
        Route::Api(method) => api::post(state, method, request, operator).await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::SocketAddr;

    use http_body_util::{BodyExt, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::control::fake::Shards;
    use crate::control::places::{Bounds, Places};
    use crate::limits::PUBLISH_BYTES_MAX;

    /// Answers one request without a body.
    fn ask(state: &Rc<State>, method: &str, target: &str, headers: &[(&str, &str)]) -> (u16, Option<String>, String) {
        let mut request = Request::builder().method(method).uri(target);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        tokio_uring::start(async {
            let (parts, body) = respond(state, request, Peer::Ip(([127, 0, 0, 1], 1).into())).await.into_parts();
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
            ("POST", "/publish/a?key=k&tag=a:b", 200, None, "\"offset\":"),
            ("POST", "/publish/a?kee=k", 400, None, "did you mean 'key'?"),
            ("POST", "/publish/", 400, None, "missing"),
            ("GET", "/publish/a", 405, Some("POST"), "use POST\n"),
            ("PUT", "/publish/a", 405, Some("POST"), "use POST\n"),
            ("POST", "/metrics", 405, Some("GET, HEAD"), "use GET, HEAD\n"),
            ("GET", "/connections/slow", 200, None, "\"outbox_bytes\":300"),
            ("POST", "/connections/slow", 405, Some("GET, HEAD"), "use GET, HEAD\n"),
            ("POST", "/reload", 422, None, "nothing has changed: there is nothing to reload"),
            ("GET", "/reload", 405, Some("POST"), "use POST\n"),
            ("GET", "/drain", 405, Some("POST"), "use POST\n"),
            ("POST", "/api/info", 200, None, "\"nodes\":"),
            ("POST", "/api/nonsense", 404, None, "presence_stats"),
            ("GET", "/api/info", 405, Some("POST"), "use POST\n"),
            ("GET", "/publish", 405, Some("POST"), "use POST\n"),
            ("POST", "/publish", 415, None, "POST /publish/<topic>"),
            ("GET", "/healthz/", 404, None, "/healthz"),
        ];
        let state = Rc::new(Shards::default().state());
        for (method, target, status, allow, text) in rows {
            let (got, got_allow, body) = ask(&state, method, target, &[]);
            assert_eq!((got, got_allow.as_deref()), (status, allow), "{method} {target}");
            assert!(body.contains(text), "{method} {target}: {body}");
        }
    }

    #[test]
    fn a_server_that_leaves_is_alive_but_not_ready() {
        let state = Rc::new(Shards::default().state());
        state.status.set_draining();
        assert_eq!(ask(&state, "GET", "/readyz", &[]).0, 503);
        assert_eq!(ask(&state, "GET", "/healthz", &[]).0, 200);
        assert_eq!(ask(&state, "POST", "/publish/a", &[]).0, 503);
    }

    #[test]
    fn what_a_foreign_page_asks_is_refused_before_anything_is_done() {
        let shards = Shards::default();
        let state = Rc::new(shards.state());
        assert_eq!(ask(&state, "POST", "/publish/a", &[("origin", "https://example.org")]).0, 403);
        assert_eq!(ask(&state, "GET", "/metrics", &[("host", "example.org")]).0, 403);
        assert_eq!(ask(&state, "POST", "/publish/a", &[("host", "a"), ("host", "a")]).0, 400);
        assert!(shards.published.borrow().is_empty());
        assert_eq!(ask(&state, "POST", "/publish/a", &[("origin", "http://localhost:3000")]).0, 200);
    }

    #[test]
    fn where_there_is_a_key_only_probes_need_none() {
        let shards = Shards::default();
        let state = Rc::new(shards.state_with_key("secret"));
        let rows = [
            ("GET", "/healthz", 200),
            ("GET", "/readyz", 200),
            ("GET", "/", 401),
            ("GET", "/metrics", 401),
            ("GET", "/nowhere", 401),
            ("GET", "/admin/app.js", 200),
            ("GET", "/admin/topics", 401),
            ("GET", "/admin/connections", 401),
            ("GET", "/admin/server", 401),
            ("POST", "/admin/session", 401),
            ("POST", "/admin/tokens", 401),
            ("POST", "/publish/a", 401),
            ("POST", "/reload", 401),
            ("POST", "/drain", 401),
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

    #[test]
    fn browsers_get_the_page_without_the_key() {
        let state = Rc::new(Shards::default().state_with_key("secret"));
        let (status, _, body) = ask(&state, "GET", "/", &[("accept", "text/html,*/*;q=0.8")]);
        assert_eq!(status, 200);
        assert!(body.starts_with("<!doctype html>"), "{body}");
        assert_eq!(ask(&state, "GET", "/", &[("accept", "*/*")]).0, 401);
    }

    #[test]
    fn the_key_that_reads_changes_nothing() {
        let shards = Shards::default();
        let state = Rc::new(shards.state_with_key("secret"));
        let access = state.access.borrow().clone().with_read_key(Some("look".to_owned()));
        *state.access.borrow_mut() = access;
        let rows = [
            ("GET", "/", 200),
            ("GET", "/metrics", 200),
            ("GET", "/connections/slow", 200),
            ("POST", "/api/info", 200),
            ("POST", "/api/channels", 200),
            ("POST", "/api/publish", 403),
            ("POST", "/api/disconnect", 403),
            ("POST", "/api/history_remove", 403),
            ("POST", "/api/batch", 403),
            ("POST", "/publish/a", 403),
            ("POST", "/publish", 403),
            ("POST", "/reload", 403),
            ("GET", "/nowhere", 404),
            ("GET", "/admin/topics", 200),
            ("POST", "/admin/session", 200),
            ("POST", "/admin/tokens", 403),
        ];
        for (method, target, status) in rows {
            let (got, _, body) = ask(&state, method, target, &[("x-api-key", "look")]);
            assert_eq!(got, status, "{method} {target}: {body}");
        }
        assert!(shards.published.borrow().is_empty());
    }

    /// Runs `client` against a control port with this state.
    fn with_port<F: Future<Output = ()>>(state: State, client: impl FnOnce(SocketAddr) -> F) {
        let state = Rc::new(state);
        tokio_uring::start(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let serving = Listener::new(listener.into(), &address.into(), None).unwrap();
            let serving = tokio::task::spawn_local(serving.run(state));
            client(address).await;
            serving.abort();
        });
    }

    /// Runs `client` with a connection to a control port for `shards`.
    fn with_connection<F: Future<Output = ()>>(shards: &Shards, client: impl FnOnce(TcpStream) -> F) {
        with_port(shards.state(), async |address| client(TcpStream::connect(address).await.unwrap()).await);
    }

    /// A control port where the key is `secret`.
    fn state_with_bounds(shards: &Shards, bounds: Bounds) -> State {
        State { places: Places::new(bounds), ..shards.state_with_key("secret") }
    }

    /// Waits until so many connections have ended like this.
    async fn await_ended(places: &Places, ended: Ended, count: u64) {
        while places.counts().ended[ended as usize] < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    const WITH_KEY: &str =
        "POST /publish/a HTTP/1.1\r\nHost: localhost\r\nX-API-Key: secret\r\nContent-Length: 2\r\n\r\nhi";

    async fn publish_with_key(stream: &mut TcpStream) {
        stream.write_all(WITH_KEY.as_bytes()).await.unwrap();
        read_answers(stream, 1).await;
    }

    #[test]
    fn publishers_with_the_key_get_in_while_others_hold_all_places() {
        let shards = Shards::default();
        let bounds = Bounds { others: 8, others_per_address: 4, ..Bounds::default() };
        let state = state_with_bounds(&shards, bounds);
        let places = state.places.clone();
        with_port(state, async |address| {
            let mut publisher = TcpStream::connect(address).await.unwrap();
            publish_with_key(&mut publisher).await;
            // All come from one address, and none says anything.
            let mut silent = Vec::new();
            for _ in 0..50 {
                silent.push(TcpStream::connect(address).await.unwrap());
            }
            await_ended(&places, Ended::Displaced, 46).await;
            let mut another = TcpStream::connect(address).await.unwrap();
            for stream in [&mut publisher, &mut another] {
                publish_with_key(stream).await;
            }
            let counts = places.counts();
            assert_eq!((counts.authenticated, counts.others), (2, 3));
            assert_eq!(silent[0].read(&mut [0]).await.unwrap(), 0, "the oldest has ended");
        });
        assert_eq!(shards.published.borrow().len(), 3);
    }

    #[test]
    fn who_does_not_show_the_key_has_little_time() {
        let shards = Shards::default();
        let bounds = Bounds { no_key: Duration::from_millis(50), ..Bounds::default() };
        let state = state_with_bounds(&shards, bounds);
        let places = state.places.clone();
        with_port(state, async |address| {
            let mut publisher = TcpStream::connect(address).await.unwrap();
            publish_with_key(&mut publisher).await;
            for beginning in ["", "POST /publish/a HTTP/1.1\r\nHo", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"]
            {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(beginning.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer.starts_with(b"HTTP/1.1 200"), beginning.contains("healthz"), "{beginning}");
            }
            await_ended(&places, Ended::NoKey, 3).await;
            publish_with_key(&mut publisher).await;
        });
        // Where there is no key, nobody needs to hurry.
        let state = State { places: Places::new(bounds), ..shards.state() };
        let places = state.places.clone();
        with_port(state, async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            tokio::time::sleep(2 * bounds.no_key).await;
            publish_with_key(&mut stream).await;
            assert_eq!((places.counts().authenticated, places.counts().ended), (1, Default::default()));
        });
    }

    #[test]
    fn who_does_not_read_its_answers_is_ended() {
        let shards = Shards::default();
        let state = state_with_bounds(&shards, Bounds { send: Duration::from_millis(50), ..Bounds::default() });
        let places = state.places.clone();
        with_port(state, async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let requests = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-API-Key: secret\r\n\r\n".repeat(1000);
            let flood = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
            tokio::join!(flood, await_ended(&places, Ended::SendTimeout, 1));
            assert_eq!(places.counts().authenticated, 0);
        });
    }

    #[test]
    fn a_body_that_waits_for_100_continue_is_asked_for() {
        let shards = Shards::default();
        let head = "POST /publish/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        with_connection(&shards, async |mut stream| {
            for _ in 0..2 {
                stream.write_all(head.as_bytes()).await.unwrap();
                let mut answer = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
                stream.write_all(b"hi").await.unwrap();
                read_answers(&mut stream, 1).await;
            }
            // A client that sends the body at once needs no interim response, and a rejected request gets none.
            stream.write_all(format!("{head}hi").as_bytes()).await.unwrap();
            assert!(read_answers(&mut stream, 1).await.contains("HTTP/1.1 200 "));
            stream.write_all(head.replace("/publish/a", "/nothing").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 404 "), "{}", answer.escape_ascii());
        });
        assert_eq!(shards.published.borrow().len(), 3);
    }

    #[test]
    fn a_request_without_a_host_is_malformed_unless_it_is_old() {
        let rows = [
            ("GET /healthz HTTP/1.1\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
            ("GET http://localhost/healthz HTTP/1.1\r\n\r\n", 400),
            ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
            ("GET /healthz HTTP/1.0\r\n\r\n", 200),
        ];
        for (request, status) in rows {
            let text = answers_to(&Shards::default(), request);
            assert!(text[9..].starts_with(&status.to_string()), "{request}: {text}");
        }
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

    /// Sends these bytes and returns the answers, until the connection ends.
    fn answers_to(shards: &Shards, sent: &str) -> String {
        let mut text = Vec::new();
        with_connection(shards, async |mut stream| {
            stream.write_all(sent.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            stream.read_to_end(&mut text).await.unwrap();
        });
        String::from_utf8(text).unwrap()
    }

    /// The same; their statuses.
    fn statuses(shards: &Shards, sent: &str) -> Vec<u16> {
        let text = answers_to(shards, sent);
        text.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
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
