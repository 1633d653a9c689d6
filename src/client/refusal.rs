//! The text of a response that rejects a handshake: the server's reason, for the error.

use std::time::Duration;

use tokio::time::timeout;

use super::transport::Transport;
use crate::limits::{CLIENT_REFUSAL_BYTES_MAX, CLIENT_REFUSAL_MS, HANDSHAKE_HEADERS_MAX};

/// Reads the rest of a response after its head, for up to [`CLIENT_REFUSAL_MS`], and returns its text.
pub(super) async fn read_reason(transport: &mut Transport) -> String {
    let whole = async { while !is_whole(transport.input()) && transport.receive().await.is_ok() {} };
    // A part of the reason is better than none.
    let _ = timeout(Duration::from_millis(CLIENT_REFUSAL_MS), whole).await;
    reason(transport.input())
}

/// Whether as much of the body is there as can be used.
fn is_whole(response: &[u8]) -> bool {
    with_body(response, |headers, body| {
        let length = header(headers, "Content-Length").and_then(|value| value.parse::<usize>().ok());
        body.len() >= length.unwrap_or(usize::MAX).min(CLIENT_REFUSAL_BYTES_MAX)
    })
    .unwrap_or(true)
}

/// The body, if it is meant for people who read a terminal.
fn reason(response: &[u8]) -> String {
    let text = with_body(response, |headers, body| {
        if let Some(to) = header(headers, "Location") {
            return redirected(&printable(to.as_bytes()));
        }
        let content_type = header(headers, "Content-Type").unwrap_or_default().to_ascii_lowercase();
        let is_text = content_type.starts_with("text/plain") || content_type.starts_with("application/json");
        let body = &body[..body.len().min(CLIENT_REFUSAL_BYTES_MAX)];
        if is_text { printable(body) } else { String::new() }
    });
    text.unwrap_or_default()
}

fn with_body<T>(response: &[u8], read: impl FnOnce(&[httparse::Header<'_>], &[u8]) -> T) -> Option<T> {
    let mut headers = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    let head_len = head.parse(response).ok().filter(httparse::Status::is_complete)?.unwrap();
    Some(read(head.headers, &response[head_len..]))
}

fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let field = headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(field.value).ok().map(str::trim)
}

/// The reason of a response that sends the client elsewhere. The client does not follow: it would send its token there.
pub(super) fn redirected(to: &str) -> String {
    format!("it redirects to {to}; use that URL if you trust it")
}

/// The text without what would control a terminal.
pub(crate) fn printable(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let text: String = text.chars().filter(|character| *character == '\n' || !character.is_control()).collect();
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(headers: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 404 Not Found\r\n{headers}\r\n{body}").into_bytes()
    }

    #[test]
    fn the_reason_is_text_and_bounded() {
        let plain = "Content-Type: text/plain; charset=utf-8\r\n";
        let long = "x".repeat(2 * CLIENT_REFUSAL_BYTES_MAX);
        let rows = [
            (response(plain, "why\n"), "why"),
            (response("content-type: application/json\r\n", "{\"a\":1}"), "{\"a\":1}"),
            (response("Content-Type: text/html\r\n", "<p>why"), ""),
            (response("", "why"), ""),
            (response("Location: https://b/\r\n", "why"), "it redirects to https://b/; use that URL if you trust it"),
            (response(plain, "a\x1b[2Jb\r\nc"), "a[2Jb\nc"),
            (response(plain, &long), &long[..CLIENT_REFUSAL_BYTES_MAX]),
            (b"HTTP/1.1 404".to_vec(), ""),
        ];
        for (response, expected) in rows {
            assert_eq!(reason(&response), expected, "{}", response.escape_ascii());
        }
    }

    #[test]
    fn as_much_is_awaited_as_was_announced_up_to_the_bound() {
        let length = |bytes: usize| format!("Content-Length: {bytes}\r\n");
        assert!(is_whole(&response(&length(3), "why")));
        assert!(!is_whole(&response(&length(4), "why")));
        assert!(!is_whole(&response("", "why")));
        assert!(is_whole(&response(&length(usize::MAX), &"x".repeat(CLIENT_REFUSAL_BYTES_MAX))));
    }
}
