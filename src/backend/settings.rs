//! Endpoints and their bounds.

use std::fmt;

use hyper::Uri;
use hyper::header::HeaderName;
use serde::{Deserialize, Serialize};

use crate::gateway::centrifuge::CallKind;
use crate::limits::{
    BACKEND_IN_FLIGHT, BACKEND_TIMEOUT_MS, EVENT_BATCH, EVENT_GIVE_UP_MS, EVENT_QUEUE, EVENT_TIMEOUT_MS,
};
use crate::topics::Event;

/// The endpoint of each kind of call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct BackendSettings {
    /// For [`CallKind::Connect`].
    pub connect: CallSettings,
    /// For [`CallKind::Refresh`].
    pub refresh: CallSettings,
    /// For [`CallKind::Subscribe`].
    pub subscribe: CallSettings,
    /// For [`CallKind::SubRefresh`].
    pub sub_refresh: CallSettings,
    /// For [`CallKind::Publish`].
    pub publish: CallSettings,
    /// For [`CallKind::Rpc`].
    pub rpc: CallSettings,
}

/// The endpoint of one kind of call, and its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct CallSettings {
    /// An `http://` URL; empty is none.
    pub endpoint: String,
    /// Milliseconds in which the whole answer must arrive.
    pub timeout_ms: u64,
    /// Maximum number of calls without an answer.
    pub in_flight_max: u32,
    /// Header fields of the client's handshake that the request contains.
    pub headers: Vec<String>,
}

/// An endpoint cannot be used. The text names the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError(String);

/// Settings that were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckedCall {
    pub(super) kind: CallKind,
    pub(super) endpoint: Endpoint,
    pub(super) timeout_ms: u64,
    pub(super) in_flight_max: u32,
    /// In lower case.
    pub(super) headers: Vec<String>,
}

/// Where requests are posted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    /// For `Host`.
    pub(super) authority: String,
    /// Path and query.
    pub(super) target: String,
}

/// Where events are posted, and which.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct EventSettings {
    /// An `http://` URL; empty is none.
    pub endpoint: String,
    /// Signs the requests; empty signs none.
    pub secret: String,
    /// The kinds of events, see [`Event::NAMES`]; empty is all.
    pub types: Vec<String>,
    /// Maximum number of events in a request.
    pub batch_max: u32,
    /// Maximum number of events that wait.
    pub queue_max: u32,
    /// Milliseconds in which a response must arrive.
    pub timeout_ms: u64,
    /// Milliseconds for which a request is repeated.
    pub give_up_ms: u64,
}

/// Settings of events that were checked.
#[derive(Clone, Debug)]
pub(super) struct CheckedEvents {
    pub(super) endpoint: Endpoint,
    pub(super) secret: Option<String>,
    /// By [`Event::kind`].
    pub(super) kinds: [bool; Event::NAMES.len()],
    pub(super) batch_max: usize,
    pub(super) queue_max: usize,
    pub(super) timeout_ms: u64,
    pub(super) give_up_ms: u64,
}

impl Default for EventSettings {
    fn default() -> Self {
        EventSettings {
            endpoint: String::new(),
            secret: String::new(),
            types: Vec::new(),
            batch_max: EVENT_BATCH,
            queue_max: EVENT_QUEUE,
            timeout_ms: EVENT_TIMEOUT_MS,
            give_up_ms: EVENT_GIVE_UP_MS,
        }
    }
}

impl EventSettings {
    /// Whether there is an endpoint.
    pub fn is_used(&self) -> bool {
        !self.endpoint.is_empty()
    }

    /// Checks the endpoint.
    ///
    /// # Errors
    /// [`EndpointError`]
    pub fn check(&self) -> Result<(), EndpointError> {
        self.checked().map(drop)
    }

    pub(super) fn checked(&self) -> Result<Option<CheckedEvents>, EndpointError> {
        if !self.is_used() {
            return Ok(None);
        }
        let endpoint = Endpoint::parse(&self.endpoint).map_err(|text| EndpointError(format!("[events]: {text}")))?;
        let is_wanted = |name| self.types.is_empty() || self.types.iter().any(|wanted| wanted == name);
        Ok(Some(CheckedEvents {
            endpoint,
            secret: Some(self.secret.clone()).filter(|secret| !secret.is_empty()),
            kinds: Event::NAMES.map(is_wanted),
            batch_max: self.batch_max as usize,
            queue_max: self.queue_max as usize,
            timeout_ms: self.timeout_ms,
            give_up_ms: self.give_up_ms,
        }))
    }
}

impl Default for CallSettings {
    fn default() -> Self {
        CallSettings {
            endpoint: String::new(),
            timeout_ms: BACKEND_TIMEOUT_MS,
            in_flight_max: BACKEND_IN_FLIGHT,
            headers: Vec::new(),
        }
    }
}

impl BackendSettings {
    /// The settings of a kind.
    pub fn kind(&self, kind: CallKind) -> &CallSettings {
        match kind {
            CallKind::Connect => &self.connect,
            CallKind::Refresh => &self.refresh,
            CallKind::Subscribe => &self.subscribe,
            CallKind::SubRefresh => &self.sub_refresh,
            CallKind::Publish => &self.publish,
            CallKind::Rpc => &self.rpc,
        }
    }

    /// Whether any endpoint is set.
    pub fn is_used(&self) -> bool {
        CallKind::ALL.iter().any(|kind| !self.kind(*kind).endpoint.is_empty())
    }

    /// Checks all endpoints.
    ///
    /// # Errors
    /// [`EndpointError`]
    pub fn check(&self) -> Result<(), EndpointError> {
        self.checked().map(drop)
    }

    pub(super) fn checked(&self) -> Result<[Option<CheckedCall>; CallKind::ALL.len()], EndpointError> {
        let mut checked = [const { None }; CallKind::ALL.len()];
        for kind in CallKind::ALL {
            let settings = self.kind(kind);
            if !settings.endpoint.is_empty() {
                let error = |text: String| EndpointError(format!("[backend.{}]: {text}", kind.name()));
                checked[kind as usize] = Some(settings.checked(kind).map_err(error)?);
            }
        }
        Ok(checked)
    }
}

impl CallSettings {
    fn checked(&self, kind: CallKind) -> Result<CheckedCall, String> {
        let lowercase = |name: &String| match HeaderName::try_from(name.as_str()) {
            Ok(name) => Ok(name.as_str().to_owned()),
            Err(_) => Err(format!("headers has \"{name}\", which is not the name of a header field")),
        };
        Ok(CheckedCall {
            kind,
            endpoint: Endpoint::parse(&self.endpoint)?,
            timeout_ms: self.timeout_ms,
            in_flight_max: self.in_flight_max,
            headers: self.headers.iter().map(lowercase).collect::<Result<_, _>>()?,
        })
    }
}

impl Endpoint {
    fn parse(url: &str) -> Result<Endpoint, String> {
        let uri: Uri = url.parse().map_err(|error| format!("endpoint = \"{url}\": {error}"))?;
        if uri.scheme_str() == Some("https") {
            return Err(format!(
                "endpoint = \"{url}\": https is not supported: use http to a backend on the same host or network, or to \
                 a proxy there that speaks https"
            ));
        }
        let host = uri.host().filter(|_| uri.scheme_str() == Some("http"));
        let host = host.ok_or_else(|| format!("endpoint = \"{url}\": must be a URL as http://HOST:PORT/PATH"))?;
        let is_credential = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if is_credential {
            return Err("endpoint has a user name in it: leave it out".to_owned());
        }
        Ok(Endpoint {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(80),
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            target: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        })
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EndpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(endpoint: &str, headers: &[&str]) -> Result<CheckedCall, String> {
        let headers = headers.iter().map(ToString::to_string).collect();
        CallSettings { endpoint: endpoint.to_owned(), headers, ..CallSettings::default() }.checked(CallKind::Rpc)
    }

    #[test]
    fn endpoints_are_urls() {
        let of = |endpoint| {
            checked(endpoint, &[]).map(|call| (call.endpoint.host, call.endpoint.port, call.endpoint.target)).unwrap()
        };
        assert_eq!(of("http://localhost:3000/a?b=c"), ("localhost".into(), 3000, "/a?b=c".into()));
        assert_eq!(of("http://[::1]"), ("::1".into(), 80, "/".into()));
        let rows = [
            ("https://a/", "https is not supported"),
            ("localhost:3000", "must be a URL"),
            ("/path", "must be a URL"),
            ("http://", "endpoint = "),
            ("http://a:b@c/", "user name"),
            ("ftp://a/", "must be a URL"),
        ];
        for (endpoint, text) in rows {
            let error = checked(endpoint, &[]).unwrap_err();
            assert!(error.contains(text), "{endpoint}: {error}");
        }
    }

    #[test]
    fn header_names_are_lowercase() {
        assert_eq!(checked("http://a", &["Cookie", "X-A"]).unwrap().headers, ["cookie", "x-a"]);
        assert!(checked("http://a", &["a b"]).unwrap_err().contains("\"a b\""));
    }
}
