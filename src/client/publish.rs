//! `ringfeed pub`: publishes messages through a control port.

use bytes::Bytes;

use super::dial::Network;
use super::refusal::printable;
use super::{ClientError, HttpClient};

/// Publishes to one topic through a control port, over one connection that it opens again when it has ended.
pub struct HttpPublisher(HttpClient);

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
        HttpClient::connect(url, headers, network).await.map(HttpPublisher)
    }

    /// Publishes `payload` and returns the server's response: the publication's position in its topic as JSON.
    ///
    /// # Errors
    /// That the host could not be reached, or that and why the server rejected the publication.
    ///
    /// # Panics
    /// If `content_type` has control characters in it.
    pub async fn publish(&mut self, payload: Bytes, content_type: &str) -> Result<String, ClientError> {
        self.0.post("", content_type, payload).await.map(|body| printable(&body))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::client::fake::listen;
    use crate::limits::CONTROL_RESPONSE_BYTES_MAX;

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
        let body = "x".repeat(CONTROL_RESPONSE_BYTES_MAX + 1);
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
