//! Requests to a control port, over one connection that is opened again when it has ended.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::dial::{Network, dial};
use super::refusal::{printable, redirected};
use super::url::{Endpoint, Scheme};
use super::{ClientError, headers};
use crate::limits::{CLIENT_CONNECT_MS, CONTROL_RESPONSE_BYTES_MAX};

/// A client of a control port.
pub struct HttpClient {
    endpoint: Endpoint,
    headers: HeaderMap,
    network: Network,
    sender: SendRequest<Full<Bytes>>,
    body_bytes_max: usize,
}

impl HttpClient {
    /// Connects to the control port of `url`, like `http://127.0.0.1:8001`; `headers` are sent with each request, by
    /// name and value; `network` is the way there.
    ///
    /// # Errors
    /// A bad URL or header field; or that the host could not be reached.
    pub async fn connect(url: &str, headers: &[(String, String)], network: Network) -> Result<HttpClient, ClientError> {
        let endpoint = Endpoint::parse(url, Scheme::Http)?;
        let headers = headers::check(headers)?;
        let sender = in_time(&endpoint, open(&endpoint, &network)).await?;
        Ok(HttpClient { endpoint, headers, network, sender, body_bytes_max: CONTROL_RESPONSE_BYTES_MAX })
    }

    /// The same for responses of at most so many bytes.
    pub fn with_body_max(self, bytes: usize) -> HttpClient {
        HttpClient { body_bytes_max: bytes, ..self }
    }

    /// Sends a GET request for `path`, which follows the URL's own. Returns the body of the response.
    ///
    /// # Errors
    /// That the host could not be reached, or that and why the server rejected the request.
    pub async fn get(&mut self, path: &str) -> Result<Bytes, ClientError> {
        self.send(Method::GET, path, None, Bytes::new()).await
    }

    /// Sends a POST request to `path`, which follows the URL's own. Returns the body of the response.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Panics
    /// If `content_type` has control characters in it.
    pub async fn post(&mut self, path: &str, content_type: &str, body: Bytes) -> Result<Bytes, ClientError> {
        self.send(Method::POST, path, Some(content_type), body).await
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let target = match path {
            "" => self.endpoint.target.clone(),
            path => format!("{}{path}", self.endpoint.target.trim_end_matches('/')),
        };
        let mut request = Request::builder().method(method).uri(target).header(HOST, &self.endpoint.authority);
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let mut request = request.body(Full::new(body)).expect("the endpoint was checked, and the rest is a request");
        request.headers_mut().extend(self.headers.clone());
        // The server may have ended a connection that was idle.
        if self.sender.ready().await.is_err() {
            self.sender = in_time(&self.endpoint, open(&self.endpoint, &self.network)).await?;
        }
        let (status, location, body) =
            in_time(&self.endpoint, response(&mut self.sender, request, self.body_bytes_max)).await?;
        if status.is_success() {
            return Ok(body);
        }
        let reason =
            location.filter(|_| status.is_redirection()).map_or_else(|| printable(&body), |to| redirected(&to));
        Err(ClientError::Refused { status: status.as_u16(), reason })
    }
}

/// Runs a step within [`CLIENT_CONNECT_MS`].
async fn in_time<T>(endpoint: &Endpoint, step: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let done = timeout(Duration::from_millis(CLIENT_CONNECT_MS), step).await;
    done.unwrap_or_else(|_| Err(ClientError::ConnectTimeout { authority: endpoint.authority.clone() }))
}

async fn open(endpoint: &Endpoint, network: &Network) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let stream = dial(endpoint, network, &mut |_| {}).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Http)?;
    // It ends with the sender, which reports its errors.
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn response(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<(StatusCode, Option<String>, Bytes), ClientError> {
    let response = sender.send_request(request).await.map_err(ClientError::Http)?;
    let status = response.status();
    let location = response.headers().get(LOCATION).map(|value| printable(value.as_bytes()));
    let body = Limited::new(response.into_body(), body_bytes_max).collect().await;
    Ok((status, location, body.map_err(|error| ClientError::Lost(io::Error::other(error)))?.to_bytes()))
}
