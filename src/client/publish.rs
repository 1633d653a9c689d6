//! `ringfeed pub`: publishes messages through a control port.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, LOCATION};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::dial::{Network, dial};
use super::refusal::{printable, redirected};
use super::url::{Endpoint, Scheme};
use super::{ClientError, headers};
use crate::limits::{CLIENT_CONNECT_MS, PUBLISH_RESPONSE_BYTES_MAX};

/// Publishes to one topic through a control port, over one connection that it opens again when it has ended.
pub struct HttpPublisher {
    endpoint: Endpoint,
    headers: HeaderMap,
    network: Network,
    sender: SendRequest<Full<Bytes>>,
}

impl HttpPublisher {
    /// Connects to the control port of `url`, like `http://127.0.0.1:8001/publish/demo`; `headers` are sent with each
    /// publication, by name and value; `network` is the way there.
    ///
    /// # Errors
    /// A bad URL or header field; or that the host could not be reached.
    pub async fn connect(
        url: &str,
        headers: &[(String, String)],
        network: Network,
    ) -> Result<HttpPublisher, ClientError> {
        let endpoint = Endpoint::parse(url, Scheme::Http)?;
        let headers = headers::check(headers)?;
        let sender = in_time(&endpoint, open(&endpoint, &network)).await?;
        Ok(HttpPublisher { endpoint, headers, network, sender })
    }

    /// Publishes `payload` and returns the server's response: the publication's position in its topic as JSON.
    ///
    /// # Errors
    /// That the host could not be reached, or that and why the server rejected the publication.
    ///
    /// # Panics
    /// If `content_type` has control characters in it.
    pub async fn publish(&mut self, payload: Bytes, content_type: &str) -> Result<String, ClientError> {
        let mut request = Request::post(&self.endpoint.target)
            .header(HOST, &self.endpoint.authority)
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(payload))
            .expect("the endpoint was checked, and the content type is a header value");
        request.headers_mut().extend(self.headers.clone());
        // The server may have ended a connection that was idle.
        if self.sender.ready().await.is_err() {
            self.sender = in_time(&self.endpoint, open(&self.endpoint, &self.network)).await?;
        }
        let (status, location, body) = in_time(&self.endpoint, response(&mut self.sender, request)).await?;
        let text = location.filter(|_| status.is_redirection()).map_or_else(|| printable(&body), |to| redirected(&to));
        if status.is_success() { Ok(text) } else { Err(ClientError::Refused { status: status.as_u16(), reason: text }) }
    }
}

/// Runs a step within [`CLIENT_CONNECT_MS`].
async fn in_time<T>(endpoint: &Endpoint, step: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let done = timeout(Duration::from_millis(CLIENT_CONNECT_MS), step).await;
    done.unwrap_or_else(|_| Err(ClientError::ConnectTimeout { authority: endpoint.authority.clone() }))
}

async fn open(endpoint: &Endpoint, network: &Network) -> Result<SendRequest<Full<Bytes>>, ClientError> {
    let stream = dial(endpoint, network).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Http)?;
    // It ends with the sender, which reports its errors.
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn response(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Option<String>, Bytes), ClientError> {
    let response = sender.send_request(request).await.map_err(ClientError::Http)?;
    let status = response.status();
    let location = response.headers().get(LOCATION).map(|value| printable(value.as_bytes()));
    let body = Limited::new(response.into_body(), PUBLISH_RESPONSE_BYTES_MAX).collect().await;
    Ok((status, location, body.map_err(|error| ClientError::Lost(io::Error::other(error)))?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::client::fake::listen;

    /// Publishes "hi" to a server that answers with this, and returns what each got.
    fn publish_to(answer: &str) -> (Result<String, ClientError>, String) {
        tokio_uring::start(async {
            let (listener, authority) = listen().await;
            let url = format!("http://{authority}/publish/a");
            let server = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\nhi") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8(request).unwrap()
            };
            let client = async {
                let headers = [("X-API-Key".to_owned(), "secret".to_owned())];
                HttpPublisher::connect(&url, &headers, Network::default())
                    .await?
                    .publish(Bytes::from("hi"), "text/plain")
                    .await
            };
            tokio::join!(client, server)
        })
    }

    #[test]
    fn the_answer_is_handed_back() {
        let (result, request) = publish_to("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"offset\":1}\n");
        assert_eq!(result.unwrap(), "{\"offset\":1}");
        assert!(request.starts_with("POST /publish/a HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-type: text/plain\r\n") && request.contains("host: 127.0.0.1:"), "{request}");
        assert!(request.contains("x-api-key: secret\r\n"), "{request}");
    }

    #[test]
    fn a_refusal_has_its_reason() {
        let (result, _) = publish_to("HTTP/1.1 503 Busy\r\nContent-Length: 6\r\n\r\nlater\n");
        let error = result.unwrap_err();
        assert!(matches!(&error, ClientError::Refused { status: 503, reason } if reason == "later"), "{error}");
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        let (result, _) = publish_to("hello?\r\n\r\n");
        assert!(matches!(result, Err(ClientError::Http(_))), "{result:?}");
    }

    #[test]
    fn a_response_without_end_is_an_error() {
        let body = "x".repeat(PUBLISH_RESPONSE_BYTES_MAX + 1);
        let (result, _) = publish_to(&format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        assert!(matches!(result, Err(ClientError::Lost(_))), "{result:?}");
    }

    #[test]
    fn an_ended_connection_is_opened_again() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
        let results = tokio_uring::start(async {
            let (listener, authority) = listen().await;
            let server = async {
                for _ in 0..2 {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\nhi") {
                        stream.read_buf(&mut request).await.unwrap();
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            };
            let client = async {
                let url = format!("http://{authority}/publish/a");
                let mut publisher = HttpPublisher::connect(&url, &[], Network::default()).await.unwrap();
                for _ in 0..2 {
                    assert_eq!(publisher.publish(Bytes::from("hi"), "text/plain").await.unwrap(), "{}");
                }
            };
            tokio::join!(client, server)
        });
        let ((), ()) = results;
    }
}
