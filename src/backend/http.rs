//! An HTTP/1.1 client for one endpoint, with connections that are kept alive.

use std::cell::RefCell;
use std::error::Error as _;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{HOST, HeaderMap};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::counts::BackendOutcome;
use super::settings::Endpoint;
use crate::limits::{BACKEND_ANSWER_BYTES_MAX, BACKEND_HEAD_BYTES_MAX, BACKEND_IDLE_MS};

type Sender = SendRequest<Full<Bytes>>;

/// The endpoint, and its idle connections.
pub(super) struct Client {
    endpoint: Endpoint,
    /// With the time since when each is idle; the latest is last.
    idle: RefCell<Vec<(Instant, Sender)>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    Timeout,
    /// It can't be connected to, or breaks the connection.
    Unreachable(String),
    Status(StatusCode),
    TooLarge,
    /// The body is no answer.
    Invalid(String),
}

impl Client {
    pub(super) fn new(endpoint: Endpoint) -> Client {
        Client { endpoint, idle: RefCell::default() }
    }

    /// Sends a request, and reads the response, whatever its status.
    ///
    /// # Errors
    /// [`Failure`], but for the timeout, which is the caller's.
    pub(super) async fn post(&self, headers: HeaderMap, body: Bytes) -> Result<(StatusCode, Bytes), Failure> {
        let mut request = Request::post(&self.endpoint.target)
            .header(HOST, &self.endpoint.authority)
            .body(Full::new(body))
            .expect("the endpoint was checked");
        request.headers_mut().extend(headers);
        while let Some(mut sender) = self.take_idle() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(sender, response).await,
                // The endpoint has ended the idle connection before it took the request.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::unreachable(error.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await.map_err(Failure::unreachable)?;
        self.read(sender, response).await
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let stream = TcpStream::connect((&*self.endpoint.host, self.endpoint.port))
            .await
            .map_err(|error| Failure::Unreachable(error.to_string()))?;
        // Without it requests are late, not lost.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = Builder::new()
            .max_buf_size(BACKEND_HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::unreachable)?;
        // Its errors are those of the requests.
        tokio::task::spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn read(&self, sender: Sender, response: Response<Incoming>) -> Result<(StatusCode, Bytes), Failure> {
        let status = response.status();
        let body = Limited::new(response.into_body(), BACKEND_ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Failure::TooLarge,
            false => Failure::Unreachable(error.to_string()),
        })?;
        self.keep(sender);
        Ok((status, body.to_bytes()))
    }

    fn take_idle(&self) -> Option<Sender> {
        let (since, sender) = self.idle.borrow_mut().pop()?;
        if since.elapsed() < Duration::from_millis(BACKEND_IDLE_MS) {
            return Some(sender);
        }
        // All others have been idle for longer.
        self.idle.borrow_mut().clear();
        None
    }

    fn keep(&self, sender: Sender) {
        if !sender.is_closed() {
            self.idle.borrow_mut().push((Instant::now(), sender));
        }
    }
}

impl Failure {
    fn unreachable(error: hyper::Error) -> Failure {
        let source = error.source().map_or_else(String::new, |source| format!(": {source}"));
        Failure::Unreachable(format!("{error}{source}"))
    }

    pub(super) fn outcome(&self) -> BackendOutcome {
        match self {
            Failure::Timeout => BackendOutcome::Timeout,
            Failure::Unreachable(_) => BackendOutcome::Unreachable,
            Failure::Status(_) => BackendOutcome::Status,
            Failure::TooLarge => BackendOutcome::TooLarge,
            Failure::Invalid(_) => BackendOutcome::Invalid,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("it takes longer than timeout_ms"),
            Failure::Unreachable(error) => write!(f, "it can't be reached: {error}"),
            Failure::Status(status) => write!(f, "the response has the status {status}"),
            Failure::TooLarge => write!(f, "the response has more than {BACKEND_ANSWER_BYTES_MAX} bytes"),
            Failure::Invalid(error) => write!(f, "the response is not an answer: {error}"),
        }
    }
}
