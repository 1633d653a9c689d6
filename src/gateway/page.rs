//! The small page that shows a feed in the browser, and what other plain GETs are told.

use crate::proto::{HandshakeError, RequestHead, encode_refusal, encode_response};

/// Subscribes to a feed and shows it live.
const PAGE: &str = include_str!("page.html");

/// The page loads nothing from anywhere and talks to its own host only.
const PAGE_HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self' \
         ws: wss:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-cache"),
];

/// Appends the answer to a GET that is not a WebSocket handshake.
pub fn answer_plain_get(out: &mut Vec<u8>, head: &RequestHead<'_>, is_websocket_path: bool) {
    let text = "text/plain; charset=utf-8";
    match head.path {
        "/" => encode_response(out, 200, "text/html; charset=utf-8", PAGE.as_bytes(), PAGE_HEADERS),
        _ if is_websocket_path => encode_refusal(out, HandshakeError::NotAnUpgrade),
        _ => encode_response(out, 404, text, b"nothing here: the feed of a topic is at /feed/<topic>\n", &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::decode_request_head;

    fn answer(path: &str, is_websocket_path: bool) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, _) = decode_request_head(request.as_bytes()).unwrap().unwrap();
        let mut out = Vec::new();
        answer_plain_get(&mut out, &head, is_websocket_path);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_gets_are_told_what_is_where() {
        assert!(answer("/", false).starts_with("HTTP/1.1 200 "));
        assert!(answer("/?topic=a", false).contains("Content-Security-Policy"));
        assert!(answer("/feed/a", true).starts_with("HTTP/1.1 426 "));
        assert!(answer("/favicon.ico", false).starts_with("HTTP/1.1 404 "));
    }
}
