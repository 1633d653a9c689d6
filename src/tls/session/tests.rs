//! Sessions against rustls' client, byte by byte.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::crypto::ring as provider;
use rustls::pki_types::ServerName;
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

use super::super::{CertificateFiles, Suite, TlsSettings};
use super::*;
use crate::limits::TLS_HANDSHAKE_BYTES_MAX;

/// A certificate for `localhost`, and what makes sessions with it.
struct World {
    acceptor: Acceptor,
    roots: RootCertStore,
}

impl World {
    fn new(name: &str) -> World {
        let dir = std::env::temp_dir().join(format!("ringfeed-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let files = CertificateFiles { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") };
        std::fs::write(&files.cert_file, made.cert.pem()).unwrap();
        std::fs::write(&files.key_file, made.signing_key.serialize_pem()).unwrap();
        let settings = TlsSettings { certificates: vec![files], ..TlsSettings::default() };
        let acceptor = Acceptor::new(&settings).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        World { acceptor, roots }
    }

    fn client_config(&self, version: &'static SupportedProtocolVersion, suite: Option<CipherSuite>) -> ClientConfig {
        let mut provider = provider::default_provider();
        provider.cipher_suites.retain(|known| suite.is_none_or(|suite| known.suite() == suite));
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&[version]);
        builder.unwrap().with_root_certificates(self.roots.clone()).with_no_client_auth()
    }

    fn connect(&self, config: ClientConfig) -> Pair {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        Pair::new(client, &self.acceptor)
    }

    /// A connection of TLS 1.3 whose handshake is over.
    fn established(&self) -> Pair {
        let mut pair = self.connect(self.client_config(&version::TLS13, None));
        pair.settle(usize::MAX);
        assert!(pair.server.is_established());
        pair
    }
}

/// A client and a session, and no network between them.
struct Pair {
    client: ClientConnection,
    server: Session,
    /// What the session has received.
    received: Vec<u8>,
    /// What the client has.
    answered: Vec<u8>,
    established: Option<Established>,
}

impl Pair {
    fn new(client: ClientConnection, acceptor: &Acceptor) -> Pair {
        let server = Session::new(acceptor);
        Pair { client, server, received: Vec::new(), answered: Vec::new(), established: None }
    }

    /// Passes everything both ways, to the session in pieces of `piece` bytes, until nothing moves.
    fn settle(&mut self, piece: usize) {
        loop {
            let to_server = self.client_bytes();
            for part in to_server.chunks(piece.min(to_server.len().max(1))) {
                self.pass_to_server(part).unwrap();
            }
            let to_client = self.server.take_unsent();
            if to_server.is_empty() && to_client.is_empty() {
                return;
            }
            self.pass_to_client(&to_client);
        }
    }

    fn client_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    fn pass_to_client(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            self.client.process_new_packets().unwrap();
            // Until nothing is there, which is an error.
            let _ = self.client.reader().read_to_end(&mut self.answered);
        }
    }

    fn pass_to_server(&mut self, bytes: &[u8]) -> Result<Received, Failure> {
        let mut bytes = bytes.to_vec();
        if self.server.is_handshaking() {
            self.server.hold(&bytes)?;
            let Some((established, rest)) = self.server.handshake()? else { return Ok(Received::Open) };
            self.established = Some(established);
            bytes = rest;
        }
        self.server.receive(&mut bytes, &mut |plain| {
            self.received.extend_from_slice(plain);
            true
        })
    }

    /// Has the session send all of `plain`.
    fn send(&mut self, plain: &[u8]) {
        let mut sealed = Vec::new();
        self.server.seal(plain, &mut sealed);
        self.pass_to_client(&sealed);
    }

    /// What the client has received since.
    fn read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.answered)
    }
}

/// Bytes that differ from place to place.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 % 251) as u8).collect()
}

#[test]
fn every_version_and_suite_carries_data_however_its_bytes_are_cut() {
    let world = World::new("suites");
    for suite in provider::ALL_CIPHER_SUITES {
        let version = suite.version();
        if suite.suite().as_str().is_some_and(|name| name.contains("RSA")) {
            // The certificate's key is ECDSA.
            continue;
        }
        for piece in [1, 2, 5, 7, 100, usize::MAX] {
            let mut pair = world.connect(world.client_config(version, Some(suite.suite())));
            // Data right behind the handshake.
            pair.client.writer().write_all(b"early").unwrap();
            pair.settle(piece);
            let is_tls13 = version == &version::TLS13;
            let established = pair.established.as_ref().unwrap();
            assert_eq!((established.suite.is_tls13(), established.is_resumed), (is_tls13, false), "{suite:?}");
            for len in [0, 1, 15, 16, 16_383, 16_384, 16_385, 50_000] {
                pair.client.writer().write_all(&pattern(len)).unwrap();
                pair.settle(piece);
                pair.send(&pattern(len));
                assert!(pair.read() == pattern(len), "{suite:?}, {len} bytes");
            }
            let expected = [b"early".to_vec(), [0, 1, 15, 16, 16_383, 16_384, 16_385, 50_000].map(pattern).concat()];
            assert!(pair.received == expected.concat(), "{suite:?} in pieces of {piece}");
        }
    }
}

#[test]
fn what_a_socket_does_not_take_is_taken_back_and_sealed_again() {
    let world = World::new("cuts");
    let mut random = 1_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % end
    };
    let suites = [(&version::TLS13, 22), (&version::TLS12, 29)];
    for (version, overhead) in suites {
        let mut pair = world.connect(world.client_config(version, None));
        pair.settle(usize::MAX);
        let mut left = pattern(2_000_000);
        let expected = left.clone();
        let mut received = Vec::new();
        while !left.is_empty() {
            if below(20) == 0 && version == &version::TLS13 {
                let State::Established(records) = &mut pair.server.state else { unreachable!() };
                records.is_update_due = true;
            }
            let plain = left[..left.len().min(1 + below(40_000))].to_vec();
            let mut sealed = Vec::new();
            pair.server.seal(&plain, &mut sealed);
            assert!(sealed.len() >= plain.len() + overhead);
            let sent = match below(3) {
                0 => 0,
                1 => below(sealed.len()),
                _ => sealed.len(),
            };
            pair.pass_to_client(&sealed[..sent]);
            let done = if sent < sealed.len() { pair.server.take_back(&sealed, sent) } else { plain.len() };
            let unsent = pair.server.take_unsent();
            pair.pass_to_client(&unsent);
            if sent == 0 && unsent.is_empty() {
                assert_eq!(done, 0, "nothing is spent before its first byte leaves");
            }
            left.drain(..done);
            received.extend(pair.read());
        }
        assert!(received == expected);
    }
}

#[test]
fn keys_are_updated_by_either_side() {
    let world = World::new("updates");
    let mut pair = world.established();
    for _ in 0..3 * u32::from(TLS_EMPTY_RECORDS_MAX) {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(b"x").unwrap();
        pair.settle(3);
        pair.send(b"y");
        assert_eq!(pair.read(), b"y");
    }
    let State::Established(records) = &mut pair.server.state else { unreachable!() };
    assert!(records.send.number < 3, "each request was answered with new keys");
    records.is_update_due = false;
    records.send.number = TLS_KEY_RECORDS - 1;
    // The client counts from the first record of its keys, too, so it can't follow this jump.
    let mut sealed = Vec::new();
    pair.server.seal(b"last", &mut sealed);
    pair.server.seal(b"first", &mut sealed);
    let State::Established(records) = &mut pair.server.state else { unreachable!() };
    assert_eq!(records.send.number, 1, "before the keys have protected too much, there are new ones");
}

#[test]
fn a_client_that_only_updates_its_keys_is_refused() {
    let world = World::new("flood");
    let mut pair = world.established();
    let mut outcomes = Vec::new();
    for _ in 0..=TLS_EMPTY_RECORDS_MAX {
        pair.client.refresh_traffic_keys().unwrap();
        let bytes = pair.client_bytes();
        outcomes.push(pair.pass_to_server(&bytes));
    }
    assert_eq!(outcomes.pop(), Some(Err(Failure::Record)));
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Received::Open)), "{outcomes:?}");
    assert!(pair.server.has_unsent(), "an alert says so");
    assert!(!pair.server.is_established());
}

#[test]
fn a_changed_record_is_refused() {
    let world = World::new("changed");
    for at in [0, 1, 4, 5, 20] {
        let mut pair = world.established();
        pair.client.writer().write_all(b"hello").unwrap();
        let mut bytes = pair.client_bytes();
        bytes[at] ^= 0x40;
        let outcome = pair.pass_to_server(&bytes);
        // With another length, more is waited for.
        let is_longer = at == 4;
        assert_eq!(outcome, if is_longer { Ok(Received::Open) } else { Err(Failure::Record) }, "byte {at}");
        assert_eq!(pair.received, b"");
    }
}

#[test]
fn a_client_that_returns_resumes() {
    let world = World::new("resumed");
    for version in [&version::TLS13, &version::TLS12] {
        let config = Arc::new(world.client_config(version, None));
        for is_resumed in [false, true, true] {
            let name = ServerName::try_from("localhost").unwrap();
            let client = ClientConnection::new(config.clone(), name).unwrap();
            let mut pair = Pair::new(client, &world.acceptor);
            pair.settle(usize::MAX);
            assert_eq!(
                pair.established.as_ref().map(|established| established.is_resumed),
                Some(is_resumed),
                "{version:?}"
            );
        }
    }
}

#[test]
fn both_sides_say_that_they_send_no_more() {
    let world = World::new("close");
    let mut pair = world.established();
    pair.client.writer().write_all(b"last").unwrap();
    pair.client.send_close_notify();
    let bytes = pair.client_bytes();
    assert_eq!(pair.pass_to_server(&bytes), Ok(Received::Ended));
    assert_eq!(pair.received, b"last");
    pair.send(b"mine");
    assert!(pair.server.close());
    let bytes = pair.server.take_unsent();
    pair.pass_to_client(&bytes);
    assert_eq!(pair.read(), b"mine");
    let mut end = Vec::new();
    assert_eq!(pair.client.reader().read_to_end(&mut end).unwrap(), 0, "it is an end, and no error");
    assert!(!pair.server.close(), "once");
}

#[test]
fn whoever_does_not_speak_tls_is_refused() {
    let world = World::new("others");
    let rows: [(&[u8], Failure); 6] = [
        (b"GET / HTTP/1.1\r\n", Failure::PlainHttp),
        (b"P", Failure::PlainHttp),
        (b"\x80\x2e\x01\x00\x02", Failure::NotTls),
        (b"\x00", Failure::NotTls),
        (b"\x16\x03\x01\xff\xff", Failure::Protocol),
        (b"\x16\x03\x01\x00\x05hello", Failure::Protocol),
    ];
    for (bytes, failure) in rows {
        let mut session = Session::new(&world.acceptor);
        let outcome = session.hold(bytes).and_then(|()| session.handshake().map(drop));
        assert_eq!(outcome, Err(failure), "{bytes:?}");
        let answer = session.take_unsent();
        assert_eq!(answer.starts_with(b"HTTP/1.1 400 "), failure == Failure::PlainHttp);
        let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| answer.len() - at - 4);
        assert!(body.is_none_or(|len| len == 52), "Content-Length says how long the body is");
        assert!(!session.has_unsent() && !session.is_handshaking());
    }
}

#[test]
fn a_handshake_without_end_is_refused() {
    let world = World::new("long");
    // A first message that claims 64 KB, in records of one byte.
    let mut session = Session::new(&world.acceptor);
    let mut bytes = b"\x16\x03\x01\x00\x04\x01\x00\xff\xff".to_vec();
    let mut total = 0;
    let outcome = loop {
        total += bytes.len();
        if let Err(failure) = session.hold(&bytes).and_then(|()| session.handshake().map(drop)) {
            break failure;
        }
        bytes = b"\x16\x03\x01\x00\x01a".to_vec();
    };
    assert!(matches!(outcome, Failure::TooLong | Failure::Protocol), "{outcome:?}");
    assert!(total <= TLS_HANDSHAKE_BYTES_MAX + 9);
}

/// A panic in a shard ends the process: no bytes may bring one about.
#[test]
fn a_damaged_handshake_is_refused_whatever_is_damaged() {
    let world = World::new("damaged");
    let mut random = 7_u64;
    let mut below = |end: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % end
    };
    for round in 0..3000 {
        let version = if round % 2 == 0 { &version::TLS13 } else { &version::TLS12 };
        let mut pair = world.connect(world.client_config(version, None));
        let damaged_flight = below(2);
        for flight in 0..2 {
            let mut bytes = pair.client_bytes();
            if flight == damaged_flight && !bytes.is_empty() {
                for _ in 0..1 + below(3) {
                    if bytes.len() < 2 {
                        break;
                    }
                    let at = below(bytes.len() - 1);
                    match below(4) {
                        0 => bytes[at] ^= 1 << below(8),
                        1 => drop(bytes.remove(at)),
                        2 => bytes.insert(at, below(256) as u8),
                        _ => bytes.truncate(at.max(8)),
                    }
                }
            }
            let piece = 1 + below(bytes.len() + 1);
            if bytes.chunks(piece).try_for_each(|part| pair.pass_to_server(part).map(drop)).is_err() {
                break;
            }
            let answer = pair.server.take_unsent();
            if pair.client.read_tls(&mut &answer[..]).is_err() || pair.client.process_new_packets().is_err() {
                break;
            }
            if !pair.client.wants_write() {
                break;
            }
        }
    }
}

#[test]
fn a_client_with_nothing_in_common_is_told_so() {
    let world = World::new("incompatible");
    let mut config = world.client_config(&version::TLS13, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut pair = world.connect(config);
    let bytes = pair.client_bytes();
    assert_eq!(pair.pass_to_server(&bytes), Err(Failure::Incompatible));
    assert!(pair.server.has_unsent(), "an alert says so");
}

#[test]
fn a_client_that_does_not_trust_the_certificate_is_counted_apart() {
    let (world, other) = (World::new("untrusted"), World::new("other"));
    let mut pair = world.connect(other.client_config(&version::TLS13, None));
    let bytes = pair.client_bytes();
    pair.pass_to_server(&bytes).unwrap();
    let mut answer = &pair.server.take_unsent()[..];
    pair.client.read_tls(&mut answer).unwrap();
    pair.client.process_new_packets().unwrap_err();
    let bytes = pair.client_bytes();
    // The other certificate has the same issuer's name, and another key.
    assert_eq!(pair.pass_to_server(&bytes), Err(Failure::Alert(Alert::DecryptError)));
}

#[test]
fn failures_alerts_and_suites_have_places_and_names_of_their_own() {
    let failures = [
        Failure::PlainHttp,
        Failure::NotTls,
        Failure::TooLong,
        Failure::Incompatible,
        Failure::Alert(Alert::Other),
        Failure::NoCertificate,
        Failure::BadCertificate,
        Failure::Protocol,
        Failure::Record,
    ];
    assert_eq!(failures.map(Failure::place).to_vec(), (0..Failure::NAMES.len()).collect::<Vec<_>>());
    for (place, alert) in Alert::ALL.into_iter().enumerate() {
        assert_eq!(alert as usize, place);
    }
    assert_eq!((Alert::of(48), Alert::of(255)), (Alert::UnknownCa, Alert::Other));
    let of_suites = Suite::all().map(Suite::name).collect();
    for mut names in [Failure::NAMES.to_vec(), Alert::ALL.map(Alert::name).to_vec(), of_suites] {
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
    assert_eq!(Suite::all().filter(|suite| suite.is_tls13()).count(), 3);
}
