//! Tables of opening handshakes, both sides: input, and the answer. Every row is also fed in every length from nothing
//! to whole.

use ringfeed::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX, REQUEST_TARGET_BYTES_MAX};
use ringfeed::proto::HandshakeError::{self, *};
use ringfeed::proto::{
    Accepted, ClientHandshake, ClientHandshakeError, DeflateOffer, DeflateParams, ExtensionOffer, Upgrade, WindowBits,
    accept_key, decode_request_head, encode_accept, encode_refusal, encode_response,
};

/// The handshake of RFC 6455 §1.2, from the request line on; rows replace parts of it.
const REQUEST: &str = "GET /chat?room=1 HTTP/1.1\r\n\
    Host: server.example.com\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// The answer of RFC 6455 §1.2 to [`REQUEST`].
const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";

/// The nonce of RFC 6455 §1.3.
const NONCE: &[u8; 16] = b"the sample nonce";

/// The server's view of a request: incomplete, the number of bytes taken, or a rejection.
fn request_outcome(input: &[u8]) -> Result<Option<usize>, HandshakeError> {
    let Some((head, consumed)) = decode_request_head(input)? else {
        return Ok(None);
    };
    Upgrade::from_request(&head)?;
    Ok(Some(consumed))
}

/// Checks one request: whole, with frames after it, and cut at every byte, where it may fail early but with no other
/// error than the whole.
fn check(name: &str, request: &[u8], expected: Result<(), HandshakeError>) {
    let expected = expected.map(|()| Some(request.len()));
    assert_eq!(request_outcome(request), expected, "{name}");
    let with_frames = [request, b"\x81\x80\0\0\0\0"].concat();
    assert_eq!(request_outcome(&with_frames), expected, "{name}, with a frame after it");
    for len in 0..request.len() {
        match request_outcome(&request[..len]) {
            Ok(None) => {}
            outcome => assert_eq!(outcome, expected, "{name}, the first {len} bytes"),
        }
    }
}

/// Checks rows of `(name, text of REQUEST, its replacement, outcome)`.
fn check_replaced(rows: &[(&str, &str, &str, Result<(), HandshakeError>)]) {
    for (name, text, replacement, expected) in rows {
        assert!(REQUEST.contains(text), "{name}");
        check(name, REQUEST.replacen(text, replacement, 1).as_bytes(), *expected);
    }
}

#[test]
#[rustfmt::skip] // One row, one line.
fn requests_that_open_a_websocket() {
    let connection = "Connection: Upgrade";
    let upgrade = "Upgrade: websocket";
    let protocol = "Sec-WebSocket-Protocol: chat, superchat\r\n";
    check_replaced(&[
        ("as in the RFC", "", "", Ok(())),
        ("a list of connection options", connection, "Connection: keep-alive, Upgrade", Ok(())),
        ("two connection fields", connection, "Connection: keep-alive\r\nConnection: upgrade", Ok(())),
        ("any case", upgrade, "UPGRADE: WebSocket", Ok(())),
        ("a list of upgrades", upgrade, "Upgrade: h2c, websocket", Ok(())),
        ("no blank after the colon", upgrade, "Upgrade:websocket", Ok(())),
        ("no origin", "Origin: http://example.com\r\n", "", Ok(())),
        ("no subprotocol", protocol, "", Ok(())),
        ("subprotocols in two fields", ", super", "\r\nSec-WebSocket-Protocol: super", Ok(())),
        ("an absolute URI", "/chat", "http://server.example.com/chat", Ok(())),
        ("a body of nothing", protocol, "Content-Length: 0\r\n", Ok(())),
        ("a cookie that isn't UTF-8", protocol, "Cookie: caf\u{e9}\r\n", Ok(())),
    ]);
    let cookie = replaced(protocol, "Cookie: coffee\r\n");
    check(
        "a cookie that isn't text",
        &with_high_bit(&cookie, "coffee"),
        Ok(()),
    );
}

fn replaced(text: &str, replacement: &str) -> String {
    REQUEST.replacen(text, replacement, 1)
}

/// The request with the first byte of `text` changed into invalid UTF-8.
fn with_high_bit(request: &str, text: &str) -> Vec<u8> {
    let mut bytes = request.as_bytes().to_vec();
    bytes[request.find(text).expect("the text is in the request")] |= 0x80;
    bytes
}

#[test]
#[rustfmt::skip] // One row, one line.
fn requests_that_are_not_http() {
    check_replaced(&[
        ("HTTP/1.0", "HTTP/1.1", "HTTP/1.0", Err(HttpVersionUnsupported)),
        ("HTTP/2", "GET /chat?room=1 HTTP/1.1", "PRI * HTTP/2.0", Err(HttpVersionUnsupported)),
        ("not HTTP", "HTTP/1.1", "FTP/1.1", Err(HttpVersionUnsupported)),
        ("no target", "/chat?room=1 ", "", Err(Malformed)),
        ("blank in the target", "/chat", "/ch at", Err(HttpVersionUnsupported)),
        ("blank before the colon", "Host:", "Host :", Err(Malformed)),
        ("folded field", "\r\nOrigin:", "\r\n Origin:", Err(Malformed)),
        ("field without a name", "Host:", ":", Err(Malformed)),
        ("control character", "server", "ser\u{0}ver", Err(Malformed)),
        ("a host as target", "/chat?room=1", "chat:80", Err(TargetInvalid)),
        ("an asterisk as target", "/chat?room=1", "*", Err(TargetInvalid)),
        ("a fragment in the target", "?room", "#room", Err(TargetInvalid)),
        ("an unknown scheme", "/chat", "ftp://server/chat", Err(TargetInvalid)),
    ]);
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 "[..], &[0xa5; 3000]].concat();
    check("TLS", &hello, Err(Malformed));
}

#[test]
#[rustfmt::skip] // One row, one line.
fn requests_that_are_not_a_handshake() {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let host = "Host: server.example.com\r\n";
    let origin = "Origin: http://example.com\r\n";
    check_replaced(&[
        ("POST", "GET", "POST", Err(MethodNotAllowed)),
        ("lower-case method", "GET", "get", Err(MethodNotAllowed)),
        ("no host", host, "", Err(HostMissing)),
        ("two hosts", host, &host.repeat(2), Err(HeaderRepeated)),
        ("a host with a user", "server.", "user@server.", Err(HostInvalid)),
        ("a host with a path", "example.com\r\n", "example.com/a\r\n", Err(HostInvalid)),
        ("no upgrade", "Upgrade: websocket\r\n", "", Err(UpgradeMissing)),
        ("another upgrade", "Upgrade: websocket", "Upgrade: h2c", Err(UpgradeMissing)),
        ("an upgrade that begins alike", "websocket\r\n", "websockets\r\n", Err(UpgradeMissing)),
        ("no connection", "Connection: Upgrade\r\n", "", Err(ConnectionMissing)),
        ("another connection", "Connection: Upgrade", "Connection: close", Err(ConnectionMissing)),
        ("no version", version, "", Err(VersionUnsupported)),
        ("version 8", "Version: 13", "Version: 8", Err(VersionUnsupported)),
        ("version 013", "Version: 13", "Version: 013", Err(VersionUnsupported)),
        ("two versions", version, &version.repeat(2), Err(HeaderRepeated)),
        ("no key", key, "", Err(KeyInvalid)),
        ("empty key", "dGhlIHNhbXBsZSBub25jZQ==", "", Err(KeyInvalid)),
        ("key of 15 bytes", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j", Err(KeyInvalid)),
        ("key without padding", "ZQ==", "ZQ", Err(KeyInvalid)),
        ("key in another base64", "dGhl", "d-_l", Err(KeyInvalid)),
        ("two keys", key, &key.repeat(2), Err(HeaderRepeated)),
        ("two origins", origin, &origin.repeat(2), Err(HeaderRepeated)),
        ("subprotocol of two words", "superchat", "super chat", Err(SubprotocolsInvalid)),
        ("extension without a name", origin, "Sec-WebSocket-Extensions: ;x\r\n", Err(ExtensionsInvalid)),
        ("a body", origin, "Content-Length: 5\r\n", Err(BodyUnexpected)),
        ("a chunked body", origin, "Transfer-Encoding: chunked\r\n", Err(BodyUnexpected)),
    ]);
    check(
        "a page",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        Err(NotAnUpgrade),
    );
    check(
        "a page without a host",
        b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
        Err(HostMissing),
    );
    check(
        "a page with two hosts",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        Err(HeaderRepeated),
    );
    check(
        "a page by HTTP/1.0",
        b"GET / HTTP/1.0\r\n\r\n",
        Err(NotAnUpgrade),
    );
    check(
        "host that isn't text",
        &with_high_bit(REQUEST, "server."),
        Err(HeaderNotText),
    );
    check(
        "origin that isn't text",
        &with_high_bit(REQUEST, "http://"),
        Err(HeaderNotText),
    );
}

#[test]
#[rustfmt::skip] // One row, one line.
fn requests_at_their_bounds() {
    let target = |len: usize| format!("/{}", "x".repeat(len - 1));
    let request_of = |len: usize| {
        let cookie = "x".repeat(len - REQUEST.len() - "Cookie: \r\n".len());
        replaced("Origin:", &format!("Cookie: {cookie}\r\nOrigin:"))
    };
    let headers_of = |count: usize| {
        replaced(
            "Origin:",
            &format!("{}Origin:", "A: b\r\n".repeat(count - 7)),
        )
    };
    let rows = [
        ("longest target", replaced("/chat?room=1", &target(REQUEST_TARGET_BYTES_MAX)), Ok(())),
        ("target", replaced("/chat?room=1", &target(REQUEST_TARGET_BYTES_MAX + 1)), Err(TargetTooLong)),
        ("target and all", replaced("/chat?room=1", &target(HANDSHAKE_BYTES_MAX + 1)), Err(TargetTooLong)),
        ("longest request", request_of(HANDSHAKE_BYTES_MAX), Ok(())),
        ("request", request_of(HANDSHAKE_BYTES_MAX + 1), Err(HeadTooLarge)),
        ("most fields", headers_of(HANDSHAKE_HEADERS_MAX), Ok(())),
        ("fields", headers_of(HANDSHAKE_HEADERS_MAX + 1), Err(TooManyHeaders)),
    ];
    for (name, request, expected) in rows {
        check(name, request.as_bytes(), expected);
    }
    // An endless request is rejected at the bound.
    let endless = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(HANDSHAKE_BYTES_MAX));
    assert_eq!(request_outcome(endless.as_bytes()), Err(HeadTooLarge));
    let endless = "GET /".to_string() + &"x".repeat(REQUEST_TARGET_BYTES_MAX);
    assert_eq!(request_outcome(endless.as_bytes()), Err(TargetTooLong));
}

#[test]
fn a_request_is_parsed() {
    let request = replaced(
        "Origin:",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a\r\n\
         Sec-WebSocket-Extensions: x-b; c=\"d\"\r\nTwice: 1\r\nTwice: 2\r\nOrigin:",
    );
    let Ok(Some((head, _))) = decode_request_head(request.as_bytes()) else { panic!("no head") };
    assert_eq!((head.method, head.path, head.query), ("GET", "/chat", Some("room=1")));
    assert_eq!(head.header("host"), Some("server.example.com"));
    assert_eq!(head.header("Cookie"), None);
    assert_eq!(head.header("Twice"), None);
    assert_eq!(head.headers().next(), Some(("Host", &b"server.example.com"[..])));
    assert_eq!(head.headers().count(), 11);

    let upgrade = Upgrade::from_request(&head).expect("an upgrade");
    assert_eq!(upgrade.key, "dGhlIHNhbXBsZSBub25jZQ==");
    assert_eq!(upgrade.host.as_str(), "server.example.com");
    assert_eq!(upgrade.origin, Some("http://example.com"));
    assert_eq!(upgrade.subprotocols().collect::<Vec<_>>(), ["chat", "superchat"]);
    let extensions: Vec<_> = upgrade.extensions().cloned().collect();
    let expected = [
        ExtensionOffer { name: "permessage-deflate", params: vec![("client_max_window_bits", None)] },
        ExtensionOffer { name: "x-a", params: vec![] },
        ExtensionOffer { name: "x-b", params: vec![("c", Some("d"))] },
    ];
    assert_eq!(extensions, expected);
}

#[test]
fn targets() {
    // (target, path, query)
    let rows = [
        ("/", "/", None),
        ("/?", "/", Some("")),
        ("/a%20b?c=d?e", "/a%20b", Some("c=d?e")),
        ("http://host", "/", None),
        ("WS://host:80/feed/a?b", "/feed/a", Some("b")),
        ("/redirect?to=http://host/", "/redirect", Some("to=http://host/")),
    ];
    for (target, path, query) in rows {
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let Ok(Some((head, _))) = decode_request_head(request.as_bytes()) else { panic!("{target}") };
        assert_eq!((head.path, head.query), (path, query), "{target}");
    }
}

#[test]
fn the_answer_is_that_of_the_rfc() {
    let Ok(Some((head, _))) = decode_request_head(REQUEST.as_bytes()) else { panic!("no head") };
    let upgrade = Upgrade::from_request(&head).expect("an upgrade");
    let mut out = Vec::new();
    encode_accept(&mut out, &upgrade, Some("chat"), None);
    assert_eq!(String::from_utf8_lossy(&out), RESPONSE);

    let mut out = Vec::new();
    encode_accept(&mut out, &upgrade, None, Some("permessage-deflate"));
    let answer = String::from_utf8_lossy(&out);
    assert!(answer.ends_with("\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), "{answer}");
    assert!(!answer.contains("Sec-WebSocket-Protocol"), "{answer}");
    assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

#[test]
#[should_panic(expected = "one line of text")]
fn a_header_value_with_a_line_break_panics() {
    encode_response(&mut Vec::new(), 200, "text/plain", b"", &[("X", "a\r\nSet-Cookie: b")]);
}

/// Fields of an HTTP head.
type Fields<'a> = &'a [(&'a str, &'a str)];

/// Every rejection, its status, and its header fields.
#[test]
#[rustfmt::skip] // One row, one line.
fn refusals() {
    let version: Fields<'_> = &[
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
    ];
    let rows: &[(HandshakeError, &str, Fields<'_>)] = &[
        (Malformed, "400 Bad Request", &[]),
        (TargetInvalid, "400 Bad Request", &[]),
        (TargetTooLong, "414 URI Too Long", &[]),
        (HeadTooLarge, "431 Request Header Fields Too Large", &[]),
        (TooManyHeaders, "431 Request Header Fields Too Large", &[]),
        (HttpVersionUnsupported, "505 HTTP Version Not Supported", &[]),
        (MethodNotAllowed, "405 Method Not Allowed", &[("Allow", "GET")]),
        (NotAnUpgrade, "426 Upgrade Required", version),
        (HostMissing, "400 Bad Request", &[]),
        (UpgradeMissing, "400 Bad Request", &[]),
        (ConnectionMissing, "400 Bad Request", &[]),
        (VersionUnsupported, "426 Upgrade Required", version),
        (KeyInvalid, "400 Bad Request", &[]),
        (HeaderRepeated, "400 Bad Request", &[]),
        (HeaderNotText, "400 Bad Request", &[]),
        (SubprotocolsInvalid, "400 Bad Request", &[]),
        (ExtensionsInvalid, "400 Bad Request", &[]),
        (BodyUnexpected, "400 Bad Request", &[]),
    ];
    for (error, status, fields) in rows {
        let mut out = Vec::new();
        encode_refusal(&mut out, *error);
        let answer = String::from_utf8(out).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let mut lines = head.split("\r\n");
        assert_eq!(
            lines.next(),
            Some(format!("HTTP/1.1 {status}").as_str()),
            "{error:?}"
        );
        let lines: Vec<_> = lines.collect();
        for field in [
            "Content-Type: text/plain; charset=utf-8".to_string(),
            format!("Content-Length: {}", body.len()),
            "Connection: close".to_string(),
        ] {
            assert!(lines.contains(&field.as_str()), "{error:?}: {field}");
        }
        for (name, value) in *fields {
            assert!(
                lines.contains(&format!("{name}: {value}").as_str()),
                "{error:?}: {name}"
            );
        }
        assert_eq!(lines.len(), 3 + fields.len(), "{error:?}");
        assert_eq!(body, format!("{error}\n"));
    }
}

/// The client's view of a response, cut at every byte as in [`check`].
fn check_response(name: &str, response: &str, expected: Result<Accepted, ClientHandshakeError>) {
    let handshake = ClientHandshake::new(*NONCE);
    handshake.encode_request(&mut Vec::new(), "a", "/", &["superchat", "chat"], &[]);
    let expected = expected.map(|accepted| Some((accepted, response.len())));
    let response = response.as_bytes();
    assert_eq!(handshake.decode_response(response), expected, "{name}");
    let with_frames = [response, b"\x81\x00"].concat();
    assert_eq!(handshake.decode_response(&with_frames), expected, "{name}, with a frame after it");
    for len in 0..response.len() {
        match handshake.decode_response(&response[..len]) {
            Ok(None) => {}
            outcome => assert_eq!(outcome, expected, "{name}, the first {len} bytes"),
        }
    }
}

#[test]
#[rustfmt::skip] // One row, one line.
fn answers() {
    use ClientHandshakeError::*;
    let protocol = "Sec-WebSocket-Protocol: chat\r\n";
    let chat = || {
        Ok(Accepted {
            subprotocol: Some("chat".into()),
            deflate: None,
        })
    };
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    let many_fields = "A: b\r\n".repeat(HANDSHAKE_HEADERS_MAX);
    let long_field = format!("A: {}\r\n", "b".repeat(HANDSHAKE_BYTES_MAX));
    let rows: &[(&str, &str, &str, Result<Accepted, ClientHandshakeError>)] = &[
        ("as in the RFC", "", "", chat()),
        ("no subprotocol", protocol, "", Ok(Accepted { subprotocol: None, deflate: None })),
        ("no reason phrase", " Switching Protocols", "", chat()),
        ("any case", "Upgrade: websocket", "upgrade: WebSocket", chat()),
        ("a list", "Connection: Upgrade", "Connection: keep-alive, upgrade", chat()),
        ("empty extensions", accept, &format!("{accept}Sec-WebSocket-Extensions: \r\n"), chat()),
        ("not found", "101 Switching Protocols", "404 Not Found", Err(Status(404))),
        ("a page", "101 Switching Protocols", "200 OK", Err(Status(200))),
        ("HTTP/1.0", "HTTP/1.1", "HTTP/1.0", Err(Malformed)),
        ("not HTTP", "HTTP/1.1 101", "SSH-2.0 101", Err(Malformed)),
        ("no upgrade", "Upgrade: websocket\r\n", "", Err(UpgradeMissing)),
        ("another upgrade", "websocket", "h2c", Err(UpgradeMissing)),
        ("no connection", "Connection: Upgrade\r\n", "", Err(ConnectionMissing)),
        ("no accept", accept, "", Err(AcceptMismatch)),
        ("accept of another key", "s3pP", "S3pP", Err(AcceptMismatch)),
        ("two accepts", accept, &accept.repeat(2), Err(HeaderRepeated)),
        ("unasked subprotocol", ": chat", ": chess", Err(SubprotocolNotOffered)),
        ("subprotocol in another case", ": chat", ": Chat", Err(SubprotocolNotOffered)),
        ("two subprotocols", ": chat", ": superchat, chat", Err(SubprotocolNotOffered)),
        ("subprotocol twice", protocol, &protocol.repeat(2), Err(HeaderRepeated)),
        ("unasked extension", protocol, "Sec-WebSocket-Extensions: x\r\n", Err(ExtensionNotOffered)),
        ("too many fields", protocol, &many_fields, Err(HeadTooLarge)),
        ("too long", protocol, &long_field, Err(HeadTooLarge)),
    ];
    for (name, text, replacement, expected) in rows {
        assert!(RESPONSE.contains(text), "{name}");
        check_response(
            name,
            &RESPONSE.replacen(text, replacement, 1),
            expected.clone(),
        );
    }
}

#[test]
fn client_and_server_agree() {
    let handshake = ClientHandshake::new([0xa5; 16]);
    let mut request = Vec::new();
    let cookie = [("Cookie", "session=1")];
    handshake.encode_request(&mut request, "[::1]:8000", "/feed/a?b", &["one", "two"], &cookie);
    let Ok(Some((head, consumed))) = decode_request_head(&request) else { panic!("no head") };
    assert_eq!(consumed, request.len());
    assert_eq!((head.path, head.query), ("/feed/a", Some("b")));
    assert_eq!(head.header("Cookie"), Some("session=1"));
    let upgrade = Upgrade::from_request(&head).expect("an upgrade");
    assert_eq!((upgrade.host.as_str(), upgrade.origin), ("[::1]:8000", None));
    assert_eq!(upgrade.subprotocols().collect::<Vec<_>>(), ["one", "two"]);

    let mut response = Vec::new();
    encode_accept(&mut response, &upgrade, Some("two"), None);
    let accepted = Accepted { subprotocol: Some("two".into()), deflate: None };
    assert_eq!(handshake.decode_response(&response), Ok(Some((accepted, response.len()))));
}

#[test]
fn client_and_server_agree_on_compression() {
    let offer = DeflateOffer { server_window: WindowBits::new(11).expect("8 to 15"), context_takeover: false };
    let handshake = ClientHandshake::new([0xa5; 16]).with_deflate(offer);
    let mut request = Vec::new();
    handshake.encode_request(&mut request, "a", "/", &[], &[]);
    let Ok(Some((head, _))) = decode_request_head(&request) else { panic!("no head") };
    let upgrade = Upgrade::from_request(&head).expect("an upgrade");
    let params = DeflateParams::accept(upgrade.extensions(), false).expect("a valid offer");
    assert_eq!((params.server_window.get(), params.client_window.get()), (11, 15));

    let mut response = Vec::new();
    encode_accept(&mut response, &upgrade, None, Some(&params.to_string()));
    let accepted = Accepted { subprotocol: None, deflate: Some(params) };
    assert_eq!(handshake.decode_response(&response), Ok(Some((accepted, response.len()))));
    response.clear();
    encode_accept(&mut response, &upgrade, None, None);
    let declined = Accepted { subprotocol: None, deflate: None };
    assert_eq!(handshake.decode_response(&response), Ok(Some((declined, response.len()))));
}

#[test]
fn extensions_that_differ_from_the_offer() {
    use ClientHandshakeError::{DeflateParamsInvalid, ExtensionNotOffered, Malformed};
    let handshake = ClientHandshake::new(*NONCE).with_deflate(DeflateOffer::default());
    handshake.encode_request(&mut Vec::new(), "a", "/", &["chat"], &[]);
    let good = "permessage-deflate; server_no_context_takeover";
    let rows = [
        ("permessage-deflate".to_owned(), DeflateParamsInvalid),
        (format!("{good}; server_max_window_bits=7"), DeflateParamsInvalid),
        (format!("{good}; x"), DeflateParamsInvalid),
        (format!("{good}, {good}"), ExtensionNotOffered),
        (format!("{good}, x"), ExtensionNotOffered),
        ("x".to_owned(), ExtensionNotOffered),
        (format!("{good};"), Malformed),
    ];
    for (extensions, expected) in rows {
        let field = format!("Sec-WebSocket-Extensions: {extensions}\r\n\r\n");
        let response = RESPONSE.replacen("\r\n\r\n", &format!("\r\n{field}"), 1);
        assert_eq!(handshake.decode_response(response.as_bytes()), Err(expected), "{extensions}");
    }
}

#[test]
fn a_client_that_offered_nothing_accepts_no_subprotocol() {
    let handshake = ClientHandshake::new(*NONCE);
    handshake.encode_request(&mut Vec::new(), "a", "/", &[], &[]);
    let outcome = handshake.decode_response(RESPONSE.as_bytes());
    assert_eq!(outcome, Err(ClientHandshakeError::SubprotocolNotOffered));
}

#[test]
#[should_panic(expected = "percent-encoded")]
fn a_target_with_a_line_break_panics() {
    let handshake = ClientHandshake::new(*NONCE);
    handshake.encode_request(&mut Vec::new(), "a", "/ HTTP/1.1\r\nX:", &[], &[]);
}
