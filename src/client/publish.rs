//! `ringfeed pub`: publishes one message through a control port.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ClientError;
use super::connect::connect_to_any;
use super::url::{Endpoint, Scheme};
use crate::limits::CLIENT_CONNECT_MS;

/// Publishes `payload` by a POST to `url`, like `http://127.0.0.1:8001/publish/demo`, and returns the server's
/// answer: the publication's place in the topic's order as JSON.
///
/// # Errors
/// What is wrong with the URL; that the host could not be reached; or that and why the server refused.
///
/// # Panics
/// If `content_type` has control characters in it.
pub async fn publish(url: &str, payload: Bytes, content_type: &str) -> Result<String, ClientError> {
    let endpoint = Endpoint::parse(url, Scheme::Http)?;
    let request = Request::post(&endpoint.target)
        .header(HOST, &endpoint.authority)
        .header(CONTENT_TYPE, content_type)
        .body(Full::new(payload))
        .expect("the endpoint was checked, and the content type is a header value");
    let response = timeout(Duration::from_millis(CLIENT_CONNECT_MS), request_from(&endpoint, request)).await;
    let (status, body) =
        response.unwrap_or_else(|_| Err(ClientError::ConnectTimeout { authority: endpoint.authority.clone() }))?;
    let text = String::from_utf8_lossy(&body).trim_end().to_owned();
    if status.is_success() { Ok(text) } else { Err(ClientError::Refused { status: status.as_u16(), reason: text }) }
}

/// Sends the request on a connection of its own.
async fn request_from(endpoint: &Endpoint, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), ClientError> {
    let stream = connect_to_any(endpoint, TcpStream::connect).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::Http)?;
    // It ends with the sender. What goes wrong there, the sender says.
    tokio::task::spawn_local(connection);
    let answer = sender.send_request(request).await.map_err(ClientError::Http)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(ClientError::Http)?;
    Ok((status, body.to_bytes()))
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
            tokio::join!(publish(&url, Bytes::from("hi"), "text/plain"), server)
        })
    }

    #[test]
    fn the_answer_is_handed_back() {
        let (result, request) = publish_to("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"offset\":1}\n");
        assert_eq!(result.unwrap(), "{\"offset\":1}");
        assert!(request.starts_with("POST /publish/a HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("content-type: text/plain\r\n") && request.contains("host: 127.0.0.1:"), "{request}");
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
}
