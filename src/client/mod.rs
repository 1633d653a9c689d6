//! The WebSocket client on tokio-uring, and what the commands `sub` and `pub` do with it.
//!
//! ```text
//! Client::connect ─► url (where to) ─► dial (TCP, proxy, TLS) ─► transport (one stream) ─► proto (handshake)
//! Client::next    ─► proto (bytes to events); pings and closes are answered here
//! sub             ─► Client, again and again (backoff), from where it was (feed)
//! publish         ─► POSTs to a control port (hyper)
//! ```
//!
//! Everything here runs within [`tokio_uring::start`]. `wss` and `https` need the feature `client-tls`.
//!
//! ```no_run
//! use ringfeed::client::{Client, Options};
//!
//! tokio_uring::start(async {
//!     let mut client = Client::connect("ws://127.0.0.1:8000/feed/demo", Options::default()).await?;
//!     while let Some(message) = client.next().await? {
//!         println!("{:?}", message.as_message().as_str());
//!     }
//!     Ok::<(), ringfeed::client::ClientError>(())
//! })
//! # .unwrap();
//! ```

mod backoff;
mod dial;
mod error;
#[cfg(test)]
mod fake;
mod feed;
mod headers;
mod http;
mod proxy;
mod publish;
mod refusal;
#[cfg(feature = "client-tls")]
mod secure;
mod sub;
mod transport;
mod url;

use std::fmt;
use std::time::Duration;

use tokio::time::timeout;

use crate::limits::{CLIENT_CLOSE_MS, CLIENT_CONNECT_MS, MESSAGE_BYTES_MAX};
use crate::proto::{
    ClientHandshake, ClientHandshakeError, CloseCode, Decoder, DeflateConfig, DeflateContext, DeflateOffer,
    DeflateParams, Deflater, Event, Inflater, Message, MessageKind, Opcode, PeerDeflater, ProtocolError, Role,
    WindowBits, encode_close, encode_frame, encode_message,
};
use dial::{OnStep, dial};
use transport::Transport;
use url::{Endpoint, Scheme};

pub use dial::{ClientTls, Network, ProxyChoice, Step};
pub use error::{ClientError, UrlError};
pub use http::HttpClient;
pub use publish::HttpPublisher;
pub(crate) use refusal::printable;
pub use sub::{Sub, sub};

/// What a client may be told before it connects.
#[derive(Clone, Debug)]
pub struct Options {
    /// Subprotocols to offer, best first (RFC 6455 §1.9).
    pub subprotocols: Vec<String>,
    /// Header fields to send with the handshake, by name and value.
    pub headers: Vec<(String, String)>,
    /// Bytes of the largest message to take. Larger ones end the connection with 1009.
    pub message_bytes_max: u32,
    /// Whether to offer compression (permessage-deflate), and how to compress what is sent if the server agrees.
    pub deflate: Option<DeflateConfig>,
    /// How to reach the server.
    pub network: Network,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            subprotocols: Vec::new(),
            headers: Vec::new(),
            message_bytes_max: MESSAGE_BYTES_MAX,
            deflate: None,
            network: Network::default(),
        }
    }
}

/// A received message of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedMessage {
    /// Text or binary.
    pub kind: MessageKind,
    /// The payload; valid UTF-8 if it is text.
    pub payload: Vec<u8>,
}

impl OwnedMessage {
    /// The message, borrowed: as [`Client::send`] takes it.
    pub fn as_message(&self) -> Message<'_> {
        Message { kind: self.kind, payload: &self.payload }
    }
}

/// How the peer closed (RFC 6455 §7.1.5, §7.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Why; `None` when its close frame was empty.
    pub code: Option<CloseCode>,
    /// A few words for a log, often empty.
    pub reason: String,
}

impl Closed {
    /// Whether reconnecting, as before, would end the same way. Centrifugo's codes say it by their range: 3000 to 3499
    /// and 4000 to 4499 invite a reconnect; but 3010 means that the position of the client is lost.
    pub fn is_permanent(&self) -> bool {
        matches!(self.code.map(|code| code.0), Some(1002 | 1003 | 1007..=1010 | 3010 | 3500..=3999 | 4500..=4999))
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server closed the connection")?;
        if let Some(code) = self.code {
            write!(f, " with {code}")?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// A WebSocket connection to a server.
///
/// Dropping it ends the TCP connection without a closing handshake.
pub struct Client {
    transport: Transport,
    decoder: Decoder,
    /// What the server agreed to compress with.
    compression: Option<Compression>,
    subprotocol: Option<String>,
    /// We have sent a close frame: nothing may follow it.
    close_sent: bool,
    closed: Option<Closed>,
    /// Pings that the server has sent.
    pings: u64,
}

/// Both directions of permessage-deflate.
struct Compression {
    inflater: Inflater,
    deflater: Deflater,
    /// How far back what we compress may refer.
    window: WindowBits,
    /// What messages may refer back to, where that was agreed on.
    context: Option<DeflateContext>,
}

impl Compression {
    fn new(config: DeflateConfig, params: DeflateParams) -> Compression {
        let (inflater, deflater) = (Inflater::new(), Deflater::new(config));
        let context = DeflateContext::new(params, Role::Client);
        Compression { inflater, deflater, window: params.client_window, context }
    }

    fn deflater(&mut self) -> PeerDeflater<'_> {
        let sent = self.context.as_mut().and_then(|context| context.sent.as_mut());
        self.deflater.for_peer(self.window, sent)
    }
}

/// An [`Event`] that borrows nothing.
enum Received {
    Message(OwnedMessage),
    Ping(Vec<u8>),
    Pong,
    Close(Closed),
}

impl Received {
    fn new(event: Event<'_>) -> Received {
        match event {
            Event::Message(Message { kind, payload }) => {
                Received::Message(OwnedMessage { kind, payload: payload.to_vec() })
            }
            Event::Deflated(_) => unreachable!("what is compressed was inflated before"),
            Event::Ping(payload) => Received::Ping(payload.to_vec()),
            Event::Pong(_) => Received::Pong,
            Event::Close(frame) => Received::Close(Closed { code: frame.code, reason: frame.reason.to_owned() }),
        }
    }
}

impl Client {
    /// Opens a WebSocket to `url`, like `ws://127.0.0.1:8000/feed/demo`.
    ///
    /// # Errors
    /// A bad URL or header field; that no address of the host could be reached; that and why the
    /// server rejected the handshake; what RFC 6455 §4.1 finds wrong with its response; or that all of it took longer
    /// than [`CLIENT_CONNECT_MS`].
    pub async fn connect(url: &str, options: Options) -> Result<Client, ClientError> {
        Client::connect_by_steps(url, options, &mut |_| {}).await
    }

    /// The same, and `on_step` receives each [`Step`] as soon as it is done.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_by_steps(
        url: &str,
        options: Options,
        on_step: &mut dyn FnMut(Step),
    ) -> Result<Client, ClientError> {
        let endpoint = Endpoint::parse(url, Scheme::Ws)?;
        headers::check(&options.headers)?;
        let connect = Client::connect_to(&endpoint, &options, on_step);
        let connected = timeout(Duration::from_millis(CLIENT_CONNECT_MS), connect).await;
        connected.unwrap_or_else(|_| Err(ClientError::ConnectTimeout { authority: endpoint.authority.clone() }))
    }

    async fn connect_to(endpoint: &Endpoint, options: &Options, on_step: OnStep<'_>) -> Result<Client, ClientError> {
        let mut transport = Transport::new(dial(endpoint, &options.network, on_step).await?);
        let handshake = match options.deflate {
            Some(config) => {
                let context_takeover = config.context_takeover > 0;
                ClientHandshake::new(random())
                    .with_deflate(DeflateOffer { context_takeover, ..DeflateOffer::default() })
            }
            None => ClientHandshake::new(random()),
        };
        let subprotocols: Vec<&str> = options.subprotocols.iter().map(String::as_str).collect();
        let headers: Vec<_> = options.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        handshake.encode_request(&mut transport.output, &endpoint.authority, &endpoint.target, &subprotocols, &headers);
        transport.flush().await?;
        loop {
            // Bytes that are no response are rejected as soon as that shows, even if nothing more comes.
            let decoded = match handshake.decode_response(transport.input()) {
                Err(ClientHandshakeError::Status(status)) => {
                    return Err(ClientError::Refused { status, reason: refusal::read_reason(&mut transport).await });
                }
                decoded => decoded?,
            };
            if let Some((accepted, head_len)) = decoded {
                on_step(Step::Upgraded);
                transport.consume(head_len);
                let mut decoder = Decoder::new(Role::Client, options.message_bytes_max);
                let agreed = options.deflate.zip(accepted.deflate);
                if agreed.is_some() {
                    decoder.allow_deflated();
                }
                return Ok(Client {
                    transport,
                    decoder,
                    compression: agreed.map(|(config, params)| Compression::new(config, params)),
                    subprotocol: accepted.subprotocol,
                    close_sent: false,
                    closed: None,
                    pings: 0,
                });
            }
            transport.receive().await?;
        }
    }

    /// The subprotocol that the server chose from those offered.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// Whether the server agreed to compress messages.
    pub fn is_compressed(&self) -> bool {
        self.compression.is_some()
    }

    /// The pings that the server has sent so far.
    pub fn pings(&self) -> u64 {
        self.pings
    }

    /// How the peer closed, once [`next`](Self::next) or [`close`](Self::close) has seen it.
    pub fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// The next message; `None` after the peer closed, which is answered. Pings are answered here too, so call this
    /// all the time.
    ///
    /// A call that is dropped before it is done, as `select!` does, loses nothing.
    ///
    /// # Errors
    /// [`Lost`](ClientError::Lost) when the connection ended without a closing handshake,
    /// [`Protocol`](ClientError::Protocol) when the server broke RFC 6455; our Close frame says so. Either is the
    /// end.
    pub async fn next(&mut self) -> Result<Option<OwnedMessage>, ClientError> {
        loop {
            if self.closed.is_some() {
                self.finish().await;
                return Ok(None);
            }
            self.transport.flush().await?;
            match self.next_received() {
                Ok(Some(Received::Message(message))) => return Ok(Some(message)),
                Ok(Some(Received::Ping(payload))) => {
                    self.pings += 1;
                    self.push_pong(&payload);
                }
                Ok(Some(Received::Pong)) => {}
                Ok(Some(Received::Close(closed))) => {
                    self.push_close(closed.code, "");
                    self.closed = Some(closed);
                }
                Ok(None) => self.transport.receive().await?,
                Err(error) => {
                    self.push_close(Some(error.close_code()), &error.to_string());
                    self.finish().await;
                    return Err(error.into());
                }
            }
        }
    }

    /// Sends a message; done when the kernel has all of it.
    ///
    /// A call that is dropped before it is done still sends the message, with the next call of any method.
    ///
    /// # Errors
    /// [`Lost`](ClientError::Lost) when the connection has ended, or a close frame was sent.
    pub async fn send(&mut self, message: Message<'_>) -> Result<(), ClientError> {
        if self.close_sent {
            return Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into());
        }
        let (output, mask) = (&mut self.transport.output, Some(random()));
        match &mut self.compression {
            Some(compression) => compression.deflater().encode_message(output, message, mask),
            None => encode_message(output, message, mask),
        }
        self.transport.flush().await
    }

    /// Closes: sends a close frame and waits for the peer's, for up to [`CLIENT_CLOSE_MS`]. Messages that still come
    /// are dropped. What the peer answered is in [`closed`](Self::closed) then.
    ///
    /// # Errors
    /// As [`next`](Self::next), and [`CloseTimeout`](ClientError::CloseTimeout).
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), ClientError> {
        self.push_close(Some(code), reason);
        let answered = async {
            while self.next().await?.is_some() {}
            Ok(())
        };
        timeout(Duration::from_millis(CLIENT_CLOSE_MS), answered).await.unwrap_or(Err(ClientError::CloseTimeout))
    }

    /// Decodes what has been read.
    fn next_received(&mut self) -> Result<Option<Received>, ProtocolError> {
        let input = self.transport.input();
        let input_len = input.len();
        let mut rest = input;
        let message_bytes_max = self.decoder.message_bytes_max();
        let event = match (self.decoder.decode(&mut rest), &mut self.compression) {
            (Ok(Some(event)), Some(Compression { inflater, context, .. })) => {
                let received = context.as_mut().and_then(|context| context.received.as_mut());
                inflater.inflate_event(event, message_bytes_max, received).map(Some)
            }
            (event, _) => event,
        };
        let received = event.map(|event| event.map(Received::new));
        let consumed = input_len - rest.len();
        self.transport.consume(consumed);
        received
    }

    fn push_pong(&mut self, payload: &[u8]) {
        if !self.close_sent {
            encode_frame(&mut self.transport.output, Opcode::Pong, payload, Some(random()));
        }
    }

    /// Sends a close frame with the next flush, unless one was sent.
    fn push_close(&mut self, code: Option<CloseCode>, reason: &str) {
        if !self.close_sent {
            encode_close(&mut self.transport.output, code, reason, Some(random()));
            self.close_sent = true;
        }
    }

    /// After both close frames, or instead of the peer's: it is for the server to end the TCP connection first (RFC
    /// 6455 §7.1.1), within [`CLIENT_CLOSE_MS`].
    async fn finish(&mut self) {
        let ended = async {
            self.transport.flush().await?;
            loop {
                let unread = self.transport.input().len();
                self.transport.consume(unread);
                self.transport.receive().await?;
            }
        };
        // Every way out of this is the end: the stream's, an error, or the time.
        let _: Result<Result<(), ClientError>, _> = timeout(Duration::from_millis(CLIENT_CLOSE_MS), ended).await;
    }
}

/// Random bytes that nobody can foresee, as RFC 6455 §10.3 wants for masking keys.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Up to 256 bytes come whole, and uninterrupted once the kernel's generator has started, which it did at boot.
    let len = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).expect("getrandom works");
    assert_eq!(len, N, "getrandom gives up to 256 bytes at once");
    bytes
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    use super::fake::{Peer, listen, run};
    use super::*;
    use crate::proto::{CloseFrame, encode_fragment};

    const TEXT: MessageKind = MessageKind::Text;
    const BINARY: MessageKind = MessageKind::Binary;

    fn owned(kind: MessageKind, payload: &[u8]) -> OwnedMessage {
        OwnedMessage { kind, payload: payload.to_vec() }
    }

    /// How a server's record names a close frame.
    fn close_event(code: CloseCode, reason: &str) -> String {
        format!("{:?}", Event::Close(CloseFrame { code: Some(code), reason }))
    }

    /// Receives until the connection ends.
    async fn drain(url: &str) -> (Vec<OwnedMessage>, Option<Closed>, Result<(), ClientError>) {
        let mut client = Client::connect(url, Options::default()).await.unwrap();
        let mut messages = Vec::new();
        let result = loop {
            match client.next().await {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (messages, client.closed().cloned(), result)
    }

    /// Two messages, one of them in fragments with a ping between, and a close frame.
    fn stream() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, Message::text("grün"), None);
        encode_fragment(&mut bytes, Opcode::Binary, false, b"ab", None);
        encode_frame(&mut bytes, Opcode::Ping, b"are you there", None);
        encode_fragment(&mut bytes, Opcode::Continuation, true, b"cd", None);
        encode_close(&mut bytes, Some(CloseCode::GOING_AWAY), "restart", None);
        bytes
    }

    #[test]
    fn messages_come_whole_pings_are_answered_and_so_is_the_close() {
        for piece_bytes in [1, 7, usize::MAX] {
            let server = async |listener: TcpListener| {
                let mut peer = Peer::accept(&listener, None).await;
                for piece in stream().chunks(piece_bytes) {
                    peer.write(piece).await;
                    tokio::task::yield_now().await;
                }
                peer.finish(true).await
            };
            let ((messages, closed, result), received) = run(server, drain);
            result.unwrap();
            assert_eq!(messages, [owned(TEXT, "grün".as_bytes()), owned(BINARY, b"abcd")]);
            let expected = Closed { code: Some(CloseCode::GOING_AWAY), reason: "restart".to_owned() };
            assert_eq!(closed, Some(expected));
            let pong = format!("{:?}", Event::Pong(b"are you there"));
            assert_eq!(received, [pong, close_event(CloseCode::GOING_AWAY, "")]);
        }
    }

    #[test]
    fn a_stream_that_ends_without_a_close_frame_is_lost() {
        let server = async |listener: TcpListener| drop(Peer::accept(&listener, None).await);
        let ((messages, closed, result), ()) = run(server, drain);
        assert!(matches!(result, Err(ClientError::Lost(_))), "{result:?}");
        assert!(messages.is_empty() && closed.is_none());
    }

    #[test]
    fn a_server_that_breaks_the_protocol_is_told() {
        let server = async |listener: TcpListener| {
            let mut peer = Peer::accept(&listener, None).await;
            peer.write(b"\x81\x80\0\0\0\0").await;
            peer.finish(true).await
        };
        let ((_, _, result), received) = run(server, drain);
        assert!(matches!(result, Err(ClientError::Protocol(ProtocolError::Masked))), "{result:?}");
        let error = ProtocolError::Masked;
        assert_eq!(received, [close_event(CloseCode::PROTOCOL_ERROR, &error.to_string())]);
    }

    #[test]
    fn what_is_sent_arrives_and_a_close_is_waited_for() {
        let server = async |listener: TcpListener| Peer::accept(&listener, Some("b")).await.finish(false).await;
        let client = async |url: &str| {
            let options = Options { subprotocols: vec!["a".to_owned(), "b".to_owned()], ..Options::default() };
            let mut client = Client::connect(url, options).await.unwrap();
            assert_eq!(client.subprotocol(), Some("b"));
            client.send(Message::text("hi")).await.unwrap();
            client.send(Message::binary(b"\0")).await.unwrap();
            client.close(CloseCode::NORMAL, "done").await.unwrap();
            assert!(client.send(Message::text("late")).await.is_err());
            client.closed().cloned()
        };
        let (closed, received) = run(server, client);
        assert_eq!(closed, Some(Closed { code: Some(CloseCode::NORMAL), reason: "bye".to_owned() }));
        let messages =
            [Message::text("hi"), Message::binary(b"\0")].map(|message| format!("{:?}", Event::Message(message)));
        assert_eq!(received[..2], messages);
        assert_eq!(received[2..], [close_event(CloseCode::NORMAL, "done")]);
    }

    #[test]
    fn who_gives_up_waiting_loses_nothing() {
        let (go, gone) = oneshot::channel();
        let server = async |listener: TcpListener| {
            let mut peer = Peer::accept(&listener, None).await;
            gone.await.unwrap();
            peer.write(&stream()).await;
            peer.finish(true).await;
        };
        let client = async |url: &str| {
            let mut client = Client::connect(url, Options::default()).await.unwrap();
            {
                // Polled once, the read is with the kernel; then it is dropped.
                let mut next = pin!(client.next());
                let polled = poll_fn(|context| Poll::Ready(next.as_mut().poll(context))).await;
                assert!(polled.is_pending());
            }
            go.send(()).unwrap();
            client.next().await.unwrap()
        };
        let (message, ()) = run(server, client);
        assert_eq!(message, Some(owned(TEXT, "grün".as_bytes())));
    }

    #[test]
    fn the_close_code_says_whether_a_reconnect_helps() {
        let closed = |code: u16| Closed { code: Some(CloseCode(code)), reason: "why".to_owned() };
        let permanent = [1002, 1008, 1009, 3010, 3500, 3503, 4500].map(|code| closed(code).is_permanent());
        assert_eq!(permanent, [true; 7]);
        let passing = [1000, 1001, 1011, 1012, 1013, 3000, 3001, 4000].map(|code| closed(code).is_permanent());
        assert_eq!(passing, [false; 8]);
        assert!(!Closed { code: None, reason: String::new() }.is_permanent());
        assert_eq!(closed(3010).to_string(), "the server closed the connection with 3010: why");
    }

    #[test]
    fn what_opens_no_websocket_is_an_error() {
        let server = async |listener: TcpListener| {
            let (stream, _) = listener.accept().await.unwrap();
            stream.writable().await.unwrap();
            let response =
                b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nno way\n\x1b";
            stream.try_write(response).unwrap();
            stream
        };
        let (result, _) = run(server, async |url: &str| Client::connect(url, Options::default()).await.map(drop));
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "the server rejected the request with HTTP status 404: no way");
        assert!(!error.is_passing());

        let bad = Options { headers: vec![("Host".to_owned(), "x".to_owned())], ..Options::default() };
        let error = tokio_uring::start(Client::connect("ws://127.0.0.1:1/", bad)).map(drop).unwrap_err();
        assert!(matches!(error, ClientError::Header(_)) && !error.is_passing(), "{error}");

        let refused = tokio_uring::start(async {
            let (listener, authority) = listen().await;
            drop(listener);
            Client::connect(&format!("ws://{authority}/"), Options::default()).await.map(drop)
        });
        let error = refused.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }) && error.is_passing(), "{error}");
    }
}
