//! The demo page, and the response to other GET requests.

use crate::proto::{RequestHead, encode_response};

/// Subscribes to a feed and shows its messages live.
const PAGE: &str = include_str!("page.html");

/// The page loads no resource and connects only to its own host.
const PAGE_HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self' \
         ws: wss:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-cache"),
];

/// Appends the response to a GET request that is neither a WebSocket handshake nor on a handler's path.
pub fn answer_plain_get(out: &mut Vec<u8>, head: &RequestHead<'_>) {
    let text = "text/plain; charset=utf-8";
    match head.path {
        "/" => encode_response(out, 200, "text/html; charset=utf-8", PAGE.as_bytes(), PAGE_HEADERS),
        _ => encode_response(out, 404, text, b"not found: the feed of a topic is at /feed/<topic>\n", &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::decode_request_head;

    fn answer(path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, _) = decode_request_head(request.as_bytes()).unwrap().unwrap();
        let mut out = Vec::new();
        answer_plain_get(&mut out, &head);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn plain_gets_receive_the_page_or_a_404() {
        assert!(answer("/").starts_with("HTTP/1.1 200 "));
        assert!(answer("/?topic=a").contains("Content-Security-Policy"));
        assert!(answer("/favicon.ico").starts_with("HTTP/1.1 404 "));
    }
}
