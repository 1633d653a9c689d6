//! Connections to the control port, and which request goes where.
//!
//! The protocol is hyper's, HTTP/1.1 with keep-alive and pipelining: requests of one connection are answered one after
//! the other, and what is answered in one go leaves in one write.

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
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, text, with_header};
use super::{State, guard, metrics, publish};
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_HEAD_BYTES_MAX, CONTROL_HEAD_MS};

/// How long to wait after a connection could not be accepted, most likely for want of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What there is, for people.
const INDEX: &str = "\
Ringfeed's control port.

POST /publish/<topic>   publish the body: text, or binary with 'Content-Type: application/octet-stream'
GET  /metrics           numbers for Prometheus
GET  /healthz           200 while the process answers
GET  /readyz            200 while it takes connections, 503 while it leaves";

/// The listener of the control port.
pub(super) struct Listener {
    listener: TcpListener,
    on_loopback: bool,
}

impl Listener {
    /// Takes over a bound listener.
    pub(super) fn new(listener: std::net::TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(true)?;
        let on_loopback = listener.local_addr()?.ip().is_loopback();
        Ok(Listener { listener: TcpListener::from_std(listener)?, on_loopback })
    }

    /// Accepts and serves connections, for ever.
    pub(super) async fn run(self, state: Rc<State>) {
        let places = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let connection = serve(stream, state.clone(), self.on_loopback, place);
                    tokio::task::spawn_local(connection);
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
async fn serve(stream: TcpStream, state: Rc<State>, on_loopback: bool, place: OwnedSemaphorePermit) {
    // Answers are small and wait for nothing. Without it they would only be slower, so a failure is not worth a word.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request: Request<Incoming>| async {
        Ok::<_, Infallible>(respond(&state, on_loopback, request).await)
    });
    // A connection that fails is the client's affair: it knows.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(CONTROL_HEAD_MS))
        .max_header_size(CONTROL_HEAD_BYTES_MAX)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service)
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
    /// What follows `/publish/`.
    Publish(&'a str),
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Route<'a>> {
        match path {
            "/" => Some(Route::Index),
            "/healthz" => Some(Route::Health),
            "/readyz" => Some(Route::Ready),
            "/metrics" => Some(Route::Metrics),
            _ => path.strip_prefix("/publish/").map(Route::Publish),
        }
    }

    /// The methods that it answers, for `Allow`.
    fn methods(self) -> &'static str {
        match self {
            Route::Index | Route::Health | Route::Ready | Route::Metrics => "GET, HEAD",
            Route::Publish(_) => "POST",
        }
    }

    fn allows(self, method: &Method) -> bool {
        self.methods().split(", ").any(|allowed| method == allowed)
    }
}

/// Answers one request.
async fn respond<B: Body<Data = Bytes>>(state: &State, on_loopback: bool, request: Request<B>) -> Answer {
    if let Err(refused) = guard::check(request.headers(), on_loopback) {
        return text(StatusCode::FORBIDDEN, refused.reason());
    }
    // The path is kept beside the request, whose body is taken out of it.
    let uri = request.uri().clone();
    let Some(route) = Route::of(uri.path()) else {
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
        Route::Metrics => metrics::get(&state.status, state.started).await,
        Route::Publish(path) => publish::post(state, path, request).await,
    }
}
