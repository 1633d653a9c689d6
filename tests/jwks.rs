//! Keys of tokens from a URL: a provider that fails, hangs, sends nonsense or replaces its keys, as the real server
//! meets it.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use peer::upgrade_request;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use support::server::Server;
use support::{PATIENCE, http, target_dir};

/// A key that signs tokens.
struct Key {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(kid: &'static str) -> Key {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Key { kid, pair: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key") }
    }

    /// As a provider publishes it (RFC 7517).
    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y})
    }

    /// A token of user 42.
    fn token(&self) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(json!({"alg": "ES256", "kid": self.kid})), part(json!({"sub": "42"})));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// What the provider answers.
#[derive(Clone)]
enum Answer {
    Status(u16),
    Body(String),
    /// Nothing: the connection stays open.
    Silence,
}

fn jwks(keys: &[&Key]) -> Answer {
    Answer::Body(json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string())
}

/// An HTTP server of the test.
struct Provider {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
}

impl Provider {
    fn start(answer: Answer) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let answer = Arc::new(Mutex::new(answer));
        let current = answer.clone();
        thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = current.lock().expect("nobody panics with it").clone();
                silent.extend(respond(stream, answer));
            }
        });
        Provider { address, answer }
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().expect("nobody panics with it") = answer;
    }
}

/// Answers one request. Returns a connection that has no answer.
fn respond(mut stream: TcpStream, answer: Answer) -> Option<TcpStream> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let (status, body) = match answer {
        Answer::Silence => return Some(stream),
        Answer::Status(status) => (status, String::new()),
        Answer::Body(body) => (200, body),
    };
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    None
}

fn config(provider: &Provider) -> String {
    format!("[tokens]\njwks_url = \"http://{}/keys\"\njwks_refresh_ms = 1000\n", provider.address)
}

/// The status of a request for a topic with this token.
fn status(server: &Server, token: &str) -> u16 {
    let request = upgrade_request(&format!("/feed/a?token={token}"));
    http::head_of(server.data, request.as_bytes())[9..12].parse().expect("a status")
}

/// The number behind a series of `/metrics`.
fn metric(server: &Server, series: &str) -> u64 {
    let metrics = http::get(server.control, "/metrics");
    let line = metrics.text().lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("no {series}")).trim().parse().expect("a number")
}

fn fetches(server: &Server, outcome: &str) -> u64 {
    metric(server, &format!("ringfeed_jwks_fetches_total{{outcome=\"{outcome}\"}}"))
}

/// Waits until `is_so`.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn keys_come_from_a_url_whatever_becomes_of_it() {
    let (first, second) = (Key::new("first"), Key::new("second"));
    let provider = Provider::start(Answer::Status(500));
    let file = target_dir("jwks").join(format!("{}.toml", std::process::id()));
    fs::write(&file, config(&provider)).expect("the target directory can be written to");
    let server = Server::start(&["--config", file.to_str().expect("a path of UTF-8")]);
    wait_until("a status is counted", || fetches(&server, "status") > 0);
    assert_eq!(status(&server, &first.token()), 503, "nobody can tell yet");
    assert_eq!(status(&server, "nonsense"), 401);

    for body in ["<html>", "{\"keys\":[]}", &format!("{{\"keys\":[],\"x\":\"{}\"}}", "y".repeat(300_000))] {
        let before = fetches(&server, "invalid");
        provider.set(Answer::Body(body.to_owned()));
        wait_until("nonsense is counted", || fetches(&server, "invalid") > before);
    }
    provider.set(Answer::Silence);
    wait_until("silence is counted", || {
        assert_eq!(http::get(server.data, "/").status, 200, "nobody waits for the provider");
        fetches(&server, "timeout") > 0
    });
    assert_eq!(metric(&server, "ringfeed_jwks_keys"), 0);

    provider.set(jwks(&[&first]));
    wait_until("the first key is fetched", || status(&server, &first.token()) == 101);
    assert_eq!(metric(&server, "ringfeed_jwks_keys"), 1);
    assert!([401, 503].contains(&status(&server, &second.token())), "503 while the keys are fetched");

    provider.set(jwks(&[&second]));
    wait_until("the second key is fetched", || status(&server, &second.token()) == 101);
    assert_ne!(status(&server, &first.token()), 101);
    let mut forged = second.token().into_bytes();
    let last = forged.len() - 8;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    assert_eq!(status(&server, std::str::from_utf8(&forged).expect("text")), 401);

    let before = fetches(&server, "status");
    provider.set(Answer::Status(503));
    wait_until("failures are counted", || fetches(&server, "status") > before);
    assert_eq!(status(&server, &second.token()), 101, "keys stay while fetches fail");

    // A reload names another provider.
    let third = Key::new("third");
    let other = Provider::start(jwks(&[&third]));
    fs::write(&file, config(&other)).expect("it can be written to");
    assert_eq!(http::post(server.control, "/reload", "text/plain", b"").status, 200);
    wait_until("the other provider's key is fetched", || status(&server, &third.token()) == 101);
    assert_ne!(status(&server, &second.token()), 101);
    let log = server.stop();
    assert!(log.contains("keys of tokens not fetched") && log.contains("keys of tokens fetched"), "{log}");
}
