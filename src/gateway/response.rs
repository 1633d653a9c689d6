//! How a handler accepts or rejects a request.

use std::borrow::Cow;

use super::TooManySubscriptions;
use crate::conn::Heartbeat;
use crate::topics::{Encoding, NameError};

/// Accepts a WebSocket, with the state of the connection. The default selects no subprotocol, the server's message
/// limit, raw payloads and WebSocket pings.
///
/// ```
/// use ringfeed::Accept;
///
/// let accept = Accept::new("ann".to_owned()).message_bytes_max(1024).subprotocol("chat");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept<S = ()> {
    pub(crate) state: S,
    pub(crate) subprotocol: Option<String>,
    pub(crate) message_bytes_max: Option<u32>,
    pub(crate) encoding: Encoding,
    pub(crate) heartbeat: Heartbeat,
}

/// The response to a GET request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response<S = ()> {
    /// A complete response. The server closes the connection after it.
    Page(Page),
    /// An endless response.
    Stream(Stream<S>),
}

/// A complete response to a GET or POST request, with status 200, or 204 if it is [empty](Page::empty).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Cow<'static, [u8]>,
}

/// Accepts a GET request with an endless response, and the state of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream<S = ()> {
    pub(crate) state: S,
    pub(crate) content_type: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) encoding: Encoding,
    pub(crate) heartbeat: Heartbeat,
}

/// Rejects a request with an HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status: 400 to 599, or 204.
    pub status: u16,
    /// The response's body: the reason and the remedy, in one line.
    pub text: Cow<'static, str>,
}

impl<S> Accept<S> {
    /// Accepts with this state.
    pub fn new(state: S) -> Accept<S> {
        let (encoding, heartbeat) = (Encoding::default(), Heartbeat::default());
        Accept { state, subprotocol: None, message_bytes_max: None, encoding, heartbeat }
    }

    /// Selects a subprotocol (RFC 6455 §4.2.2). It must be one that the request offers; the server omits any other.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Accept<S> {
        self.subprotocol = Some(name.into());
        self
    }

    /// Sets the maximum size of a message from this peer, in bytes, if less than
    /// [`ServerConfig::message_bytes_max`](crate::server::ServerConfig::message_bytes_max). The server closes the
    /// connection with 1009 above that.
    pub fn message_bytes_max(mut self, bytes: u32) -> Accept<S> {
        self.message_bytes_max = Some(bytes);
        self
    }

    /// Sets the encoding of publications for this connection.
    pub fn encoding(mut self, encoding: Encoding) -> Accept<S> {
        self.encoding = encoding;
        self
    }

    /// Sets the form of the server's pings.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Accept<S> {
        self.heartbeat = heartbeat;
        self
    }

    /// Changes the state.
    pub(super) fn map<T>(self, change: impl FnOnce(S) -> T) -> Accept<T> {
        let (state, Accept { subprotocol, message_bytes_max, encoding, heartbeat, .. }) = self.split();
        Accept { state: change(state), subprotocol, message_bytes_max, encoding, heartbeat }
    }

    /// Takes the state out.
    pub(crate) fn split(self) -> (S, Accept) {
        let Accept { state, subprotocol, message_bytes_max, encoding, heartbeat } = self;
        (state, Accept { state: (), subprotocol, message_bytes_max, encoding, heartbeat })
    }
}

impl Page {
    /// A page with this `Content-Type` and body.
    pub fn new(content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Page {
        Page { status: 200, content_type, headers: Vec::new(), body: body.into() }
    }

    /// A response without a body.
    pub fn empty() -> Page {
        Page { status: 204, ..Page::new("text/plain", &b""[..]) }
    }

    /// Adds a header field. The server omits a value that is not valid in a header field.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Page {
        self.headers.push((name, value.into()));
        self
    }
}

impl<S> Stream<S> {
    /// A stream with this `Content-Type` and state: raw payloads, and no keep-alive bytes.
    pub fn new(content_type: &'static str, state: S) -> Stream<S> {
        let (headers, encoding, heartbeat) = (Vec::new(), Encoding::default(), Heartbeat::default());
        Stream { state, content_type, headers, encoding, heartbeat }
    }

    /// Adds a header field. The server omits a value that is not valid in a header field.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Stream<S> {
        self.headers.push((name, value.into()));
        self
    }

    /// Sets the encoding of publications for this connection.
    pub fn encoding(mut self, encoding: Encoding) -> Stream<S> {
        self.encoding = encoding;
        self
    }

    /// Sets the form of the keep-alive bytes.
    pub fn heartbeat(mut self, heartbeat: Heartbeat) -> Stream<S> {
        self.heartbeat = heartbeat;
        self
    }

    /// Takes the state out.
    pub(crate) fn split(self) -> (S, Stream) {
        let Stream { state, content_type, headers, encoding, heartbeat } = self;
        (state, Stream { state: (), content_type, headers, encoding, heartbeat })
    }
}

impl Refusal {
    /// A refusal with a status (400 to 599, or 204) and a text of one line.
    pub fn new(status: u16, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { status, text: text.into() }
    }
}

impl From<TooManySubscriptions> for Refusal {
    fn from(TooManySubscriptions { max }: TooManySubscriptions) -> Refusal {
        Refusal::new(400, format!("at most {max} topics on one connection: open another for the rest"))
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Refusal {
        Refusal::new(400, error.to_string())
    }
}

impl<S> From<Page> for Response<S> {
    fn from(page: Page) -> Response<S> {
        Response::Page(page)
    }
}

impl<S> From<Stream<S>> for Response<S> {
    fn from(stream: Stream<S>) -> Response<S> {
        Response::Stream(stream)
    }
}
