//! Opening handshakes, as decoded by both sides, and the negotiated parameters.

use ringfeed::proto::{
    Accepted, ClientHandshake, ClientHandshakeError, DeflateOffer, DeflateParams, HandshakeError, Upgrade, WindowBits,
    decode_request_head, encode_accept, encode_refusal,
};
use tungstenite::handshake::derive_accept_key;

use crate::input::Input;

/// Above this length only some prefixes are tried, since each takes as long as the whole.
const PREFIXES: usize = 256;

/// The nonce of the client. Its key is `AQEBAQEBAQEBAQEBAQEBAQ==`.
const NONCE: [u8; 16] = [1; 16];

/// Any bytes as a request: no panic, the same result whole or in pieces, and a valid HTTP response.
pub(crate) fn request(input: &[u8]) {
    let whole = decode_request_head(input);
    for len in prefixes(input.len()) {
        match (decode_request_head(&input[..len]), &whole) {
            (Ok(None), _) => {}
            (Ok(Some((_, early))), Ok(Some((_, late)))) => assert!(early == *late && early <= len, "two ends"),
            // A target that is too long may have further errors.
            (Err(HandshakeError::TargetTooLong), Err(_)) => {}
            (Err(early), Err(late)) => assert_eq!(early, *late, "after {len} bytes"),
            (early, late) => panic!("{early:?} after {len} bytes, then {late:?}"),
        }
    }
    let Ok(Some((head, len))) = whole else { return };
    assert!(len <= input.len() && head.path.starts_with('/'), "{head:?}");
    let mut answer = Vec::new();
    match Upgrade::from_request(&head) {
        Ok(upgrade) => {
            let deflate = DeflateParams::accept(upgrade.extensions(), true).map(|params| params.to_string());
            encode_accept(&mut answer, &upgrade, upgrade.subprotocols().next(), deflate.as_deref());
            let headers = check_answer(&answer, 101, false);
            let accept = header(&headers, "Sec-WebSocket-Accept");
            assert_eq!(accept, Some(derive_accept_key(upgrade.key.as_bytes())), "{headers:?}");
        }
        Err(error) => check_refusal(error, &mut answer),
    }
}

fn check_refusal(error: HandshakeError, answer: &mut Vec<u8>) {
    encode_refusal(answer, error);
    let headers = check_answer(answer, error.status(), true);
    let asks_to_upgrade = headers.iter().any(|(name, value)| name == "Connection" && value == "Upgrade");
    assert_eq!(asks_to_upgrade, error.status() == 426, "{headers:?}");
}

/// The lengths of prefixes to try.
fn prefixes(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / PREFIXES).max(1);
    (0..len).step_by(step)
}

/// Checks that these bytes are one HTTP response, and returns its header fields.
fn check_answer(answer: &[u8], status: u16, has_body: bool) -> Vec<(String, String)> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let head_len = response.parse(answer).expect("an answer is HTTP").unwrap();
    assert_eq!(response.code, Some(status));
    assert_eq!(answer.len() > head_len, has_body, "bytes after the head would be taken for frames");
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("our values are text");
    response.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect()
}

fn header(headers: &[(String, String)], name: &str) -> Option<String> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

/// Any bytes as a response: no panic, the same result whole or in pieces, and only offered parameters are accepted.
pub(crate) fn response(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let answer = input.rest();
    let (client, _) = client((flags & 1 != 0).then(DeflateOffer::default));
    let whole = client.decode_response(answer);
    for len in prefixes(answer.len()) {
        match (client.decode_response(&answer[..len]), &whole) {
            (Ok(None), _) => {}
            (Ok(early), Ok(late)) => assert_eq!(early, *late, "after {len} bytes"),
            (Err(early), Err(late)) => assert_eq!(early, *late, "after {len} bytes"),
            (early, late) => panic!("{early:?} after {len} bytes, then {late:?}"),
        }
    }
    if let Ok(Some((accepted, len))) = whole {
        assert!(len <= answer.len());
        assert!(accepted.subprotocol.is_none_or(|chosen| chosen == "chat" || chosen == "feed"));
        assert!(accepted.deflate.is_none() || flags & 1 != 0, "compression was not offered");
    }
}

/// A client that has offered two subprotocols, and its request.
fn client(offer: Option<DeflateOffer>) -> (ClientHandshake, Vec<u8>) {
    let client = ClientHandshake::new(NONCE);
    let client = match offer {
        Some(offer) => client.with_deflate(offer),
        None => client,
    };
    let mut request = Vec::new();
    client.encode_request(&mut request, "localhost", "/", &["chat", "feed"], &[]);
    (client, request)
}

/// Any value of `Sec-WebSocket-Extensions`, once as a client's offer and once as a server's response. The parameters
/// that a server agrees to follow the grammar, and a client that made the offer accepts them.
pub(crate) fn extensions(input: &[u8]) {
    let mut input = Input::new(input);
    let flags = input.byte();
    let context_takeover = flags & 8 != 0;
    let offer = DeflateOffer { server_window: WindowBits::new(8 + flags % 8).expect("8 to 15"), context_takeover };
    let value = input.rest();
    if !value.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return;
    }
    let request = [
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: AQEBAQEBAQEBAQEBAQEBAQ==\r\nSec-WebSocket-Extensions: ",
        value,
        b"\r\n\r\n",
    ]
    .concat();
    if let Ok(Some((head, _))) = decode_request_head(&request)
        && let Ok(upgrade) = Upgrade::from_request(&head)
        && let Some(params) = DeflateParams::accept(upgrade.extensions(), context_takeover)
    {
        let (client, _) = client(Some(DeflateOffer { server_window: params.server_window, context_takeover }));
        let mut answer = Vec::new();
        encode_accept(&mut answer, &upgrade, None, Some(&params.to_string()));
        let accepted = client.decode_response(&answer).map(|accepted| accepted.map(|(accepted, _)| accepted));
        let expected = Accepted { subprotocol: None, deflate: Some(params) };
        // If the offer has no window, a client that requests one would correctly reject a response without it.
        let is_named = params.to_string().contains("server_max_window_bits") || params.server_window == WindowBits::MAX;
        assert!(is_named, "{params}");
        assert_eq!(accepted, Ok(Some(expected)), "{params}");
    }
    check_as_answer(offer, value);
}

/// Checks the value as a server's response to `offer`.
fn check_as_answer(offer: DeflateOffer, value: &[u8]) {
    let (client, _) = client(Some(offer));
    let accept = derive_accept_key(b"AQEBAQEBAQEBAQEBAQEBAQ==");
    let answer = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        accept.as_bytes(),
        b"\r\nSec-WebSocket-Extensions: ",
        value,
        b"\r\n\r\n",
    ]
    .concat();
    match client.decode_response(&answer) {
        Ok(Some((accepted, _))) => {
            assert!(accepted.deflate.is_none_or(|params| params.server_window <= offer.server_window));
        }
        Ok(None) => panic!("the answer is whole"),
        Err(error) => assert!(
            matches!(
                error,
                ClientHandshakeError::DeflateParamsInvalid
                    | ClientHandshakeError::ExtensionNotOffered
                    | ClientHandshakeError::Malformed
                    | ClientHandshakeError::HeadTooLarge
            ),
            "{error:?}"
        ),
    }
}
