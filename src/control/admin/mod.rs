//! The admin page, and the requests that only it makes.
//!
//! ```text
//! GET  /                       the page, for browsers               (assets)
//! GET  /admin/app.js           and its other files                  (assets)
//! POST /admin/session          where the data port is, and a token  (session)
//! GET  /admin/stats            the server's figures                 (stats)
//! GET  /admin/topics           topics, page by page                 (lists)
//! GET  /admin/topic            one topic                            (lists)
//! GET  /admin/connections      connections, page by page            (lists)
//! GET  /admin/server           namespaces, certificates, settings   (server)
//! POST /admin/tokens           makes a token                        (tokens)
//! POST /admin/tokens/check     says why a token is rejected         (tokens)
//! ```
//!
//! For all else the page uses the server API. The page and its files need no key; what it shows does. The server
//! publishes its figures each second on the topic `$sys:stats`, and the page reads them on the data port with
//! Centrifugo's protocol, as any client would.

pub(super) mod assets;
mod lists;
mod server;
mod session;
pub(super) mod stats;
mod tokens;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::{CACHE_CONTROL, HeaderMap};
use hyper::{Request, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::access::Right;
use super::answer::{Answer, JSON, answer, text, with_header};
use super::{State, body};
use crate::limits::ADMIN_BODY_BYTES_MAX;
use crate::server::PublishError;
use assets::Asset;
pub use session::DataPort;

/// A request of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// One of its files.
    Asset(Asset),
    Session,
    Stats,
    Topics,
    Topic,
    Connections,
    Server,
    MakeToken,
    CheckToken,
}

impl Endpoint {
    /// The endpoint at `/admin/` and `path`.
    pub(super) fn of(path: &str) -> Option<Endpoint> {
        Some(match path {
            "session" => Endpoint::Session,
            "stats" => Endpoint::Stats,
            "topics" => Endpoint::Topics,
            "topic" => Endpoint::Topic,
            "connections" => Endpoint::Connections,
            "server" => Endpoint::Server,
            "tokens" => Endpoint::MakeToken,
            "tokens/check" => Endpoint::CheckToken,
            _ => return Asset::of(path).map(Endpoint::Asset),
        })
    }

    /// The value of the metrics' label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Endpoint::Asset(_) => "admin_asset",
            Endpoint::Session => "admin_session",
            Endpoint::Stats => "admin_stats",
            Endpoint::Topics => "admin_topics",
            Endpoint::Topic => "admin_topic",
            Endpoint::Connections => "admin_connections",
            Endpoint::Server => "admin_server",
            Endpoint::MakeToken | Endpoint::CheckToken => "admin_tokens",
        }
    }

    /// The allowed methods, for `Allow`.
    pub(super) fn methods(self) -> &'static str {
        match self {
            Endpoint::Session | Endpoint::MakeToken | Endpoint::CheckToken => "POST",
            _ => "GET, HEAD",
        }
    }

    /// The right that a request needs.
    pub(super) fn needs(self) -> Right {
        match self {
            Endpoint::Asset(_) => Right::Nothing,
            Endpoint::MakeToken => Right::All,
            _ => Right::Read,
        }
    }
}

/// Answers one request.
pub(super) async fn respond<B: Body<Data = Bytes>>(
    state: &State,
    endpoint: Endpoint,
    request: Request<B>,
    right: Right,
) -> Answer {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let answer = match endpoint {
        Endpoint::Asset(asset) => return asset.answer(request.headers()),
        Endpoint::Session => session::post(state, request.headers(), right),
        Endpoint::Stats => json(&stats::Stats::take(state).await),
        Endpoint::Topics => lists::topics(state, &query).await,
        Endpoint::Topic => lists::topic(state, &query).await,
        Endpoint::Connections => lists::connections(state, &query).await,
        Endpoint::Server => server::get(state),
        Endpoint::MakeToken => with_body(request, |wish| tokens::make(state, wish)).await,
        Endpoint::CheckToken => with_body(request, |token| tokens::check(state, token)).await,
    };
    with_header(answer, CACHE_CONTROL, "no-store")
}

/// Whether a request prefers a page for people: browsers do.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(hyper::header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_some_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with("text/html")))
}

/// Answers with JSON.
fn json(value: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(value).expect("answers have no maps whose keys are not text");
    answer(StatusCode::OK, JSON, body)
}

/// The request can't be answered as it is.
fn bad_request(remedy: impl std::fmt::Display) -> Answer {
    text(StatusCode::BAD_REQUEST, remedy)
}

fn unavailable(error: PublishError) -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, error)
}

/// Answers a request whose body is JSON.
async fn with_body<B: Body<Data = Bytes>, T: DeserializeOwned>(
    request: Request<B>,
    answer: impl FnOnce(T) -> Answer,
) -> Answer {
    match body::read(request.into_body(), ADMIN_BODY_BYTES_MAX).await {
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(value) => answer(value),
            Err(error) => bad_request(format_args!("the body is not what this endpoint takes: {error}")),
        },
        Err(error) => error.answer(),
    }
}

#[cfg(test)]
mod tests;
