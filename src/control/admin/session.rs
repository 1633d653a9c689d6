//! `POST /admin/session`: where the page finds the data port, and a token of one minute for it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::{HOST, HeaderMap};
use serde::Serialize;

use super::super::State;
use super::super::access::Right;
use super::super::answer::Answer;
use super::json;
use super::stats::{TOPIC, host_name};
use crate::limits::ADMIN_TOKEN_S;
use crate::proto::Host;

/// A listener for subscribers, on which the page reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPort {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub is_secure: bool,
}

/// Where a browser finds the data port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DataUrl {
    scheme: &'static str,
    /// Host and port.
    authority: String,
}

#[derive(Serialize)]
struct Session {
    schema: u32,
    /// Centrifugo's endpoint on the data port; `null` if no listener serves it to browsers.
    url: Option<String>,
    token: String,
    expires_s: u64,
    /// The topic of this server's figures.
    topic: &'static str,
    /// Whether the key does more than read.
    may_act: bool,
    version: &'static str,
    node: String,
    host: String,
}

impl DataUrl {
    /// For `connect-src`.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }
}

impl fmt::Display for DataUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/connection/websocket", self.scheme, self.authority)
    }
}

/// Answers one request.
pub(super) fn post(state: &State, headers: &HeaderMap, right: Right) -> Answer {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    json(&Session {
        schema: 1,
        url: data_url(state, headers).map(|url| url.to_string()),
        token: state.tokens.operator_token(now_s + ADMIN_TOKEN_S),
        expires_s: ADMIN_TOKEN_S,
        topic: TOPIC,
        may_act: right == Right::All,
        version: env!("CARGO_PKG_VERSION"),
        node: state.uid.clone(),
        host: host_name(),
    })
}

/// The data port as a browser that has sent this request reaches it: on the request's host, if the data port listens on
/// all addresses, or both are on loopback.
pub(super) fn data_url(state: &State, headers: &HeaderMap) -> Option<DataUrl> {
    let DataPort { address, is_secure } = state.data?;
    let scheme = if is_secure { "wss" } else { "ws" };
    let host = headers.get(HOST).and_then(|host| Host::parse(host.to_str().ok()?));
    let ip = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let is_shared = |host: &Host<'_>| address.ip().is_unspecified() || address.ip().is_loopback() && host.is_loopback();
    let authority = match host.filter(is_shared) {
        Some(host) => format!("{}:{}", host.without_port(), address.port()),
        None => SocketAddr::new(ip, address.port()).to_string(),
    };
    Some(DataUrl { scheme, authority })
}
