//! TLS: any bytes as the start of a connection, and as the course of one whose handshake is over.

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use ringfeed::limits::{TLS_EMPTY_RECORDS_MAX, TLS_HANDSHAKE_BYTES_MAX};
use ringfeed::tls::{Acceptor, CertificateFiles, Failure, Received, Session, TlsSettings};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Operations of an input that count.
const OPERATIONS_MAX: usize = 100;

/// A certificate for `localhost`, what makes sessions with it, and clients that trust it.
struct World {
    acceptor: Acceptor,
    client: Arc<ClientConfig>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("ringfeed-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a directory for temporary files");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let files = CertificateFiles { cert_file: dir.join("cert.pem"), key_file: dir.join("key.pem") };
    std::fs::write(&files.cert_file, made.cert.pem()).expect("a file");
    std::fs::write(&files.key_file, made.signing_key.serialize_pem()).expect("a file");
    let acceptor = Acceptor::new(&TlsSettings { certificates: vec![files], ..TlsSettings::default() });
    std::fs::remove_dir_all(dir).expect("it was made here");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let client = builder.expect("a version").with_root_certificates(roots).with_no_client_auth();
    World { acceptor: acceptor.expect("a good certificate"), client: Arc::new(client) }
});

/// Any bytes as the start of a connection: the handshake is not over, and the outcome is the same however they are
/// split.
pub(crate) fn hello(input: &[u8]) {
    if input.len() > TLS_HANDSHAKE_BYTES_MAX {
        return;
    }
    let (outcome, answer) = begin(input, input.len().max(1));
    let (outcome_of_bytes, answer_to_bytes) = begin(input, 1);
    // Answers to a whole first message differ by their random numbers.
    assert_eq!((outcome_of_bytes, answer_to_bytes.is_empty()), (outcome, answer.is_empty()), "byte by byte");
    assert_eq!(outcome == Err(Failure::PlainHttp), answer.starts_with(b"HTTP/1.1 400 "));
}

/// How a connection that begins like this goes, in pieces of so many bytes, and what the peer receives.
fn begin(input: &[u8], piece: usize) -> (Result<(), Failure>, Vec<u8>) {
    let mut session = Session::new(&WORLD.acceptor);
    let mut outcome = Ok(());
    for part in input.chunks(piece) {
        outcome = session.hold(part).and_then(|()| session.handshake().map(|over| assert!(over.is_none())));
        if outcome.is_err() {
            break;
        }
    }
    (outcome, session.take_unsent())
}

/// A client and a session whose handshake is over.
struct Pair {
    client: ClientConnection,
    server: Session,
}

impl Pair {
    fn new() -> Pair {
        let name = ServerName::try_from("localhost").expect("a name");
        let client = ClientConnection::new(WORLD.client.clone(), name).expect("a client");
        let mut pair = Pair { client, server: Session::new(&WORLD.acceptor) };
        while !pair.server.is_established() {
            let flight = pair.flight();
            pair.server.hold(&flight).expect("a good client");
            let rest = pair.server.handshake().expect("a good client").map(|(_, rest)| rest);
            assert!(rest.is_none_or(|rest| rest.is_empty()));
            let answer = pair.server.take_unsent();
            pair.show(&answer);
        }
        pair
    }

    /// What the client wants to send.
    fn flight(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("a vector takes it");
        }
        bytes
    }

    /// Shows bytes to the client; returns the data in them.
    fn show(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).expect("it reads");
            self.client.process_new_packets().expect("the server's records are good");
            // Until nothing is there, which is an error.
            let _ = self.client.reader().read_to_end(&mut data);
        }
        data
    }

    /// Sends data to the client, of which the socket takes a part at first.
    fn send(&mut self, data: &[u8], part: usize) {
        let mut sealed = Vec::new();
        self.server.seal(data, &mut sealed);
        let sent = part % (sealed.len() + 1);
        let plain = if sent < sealed.len() { self.server.take_back(&sealed, sent) } else { data.len() };
        let mut bytes = sealed[..sent].to_vec();
        bytes.extend(self.server.take_unsent());
        self.server.seal(&data[plain..], &mut bytes);
        assert_eq!(self.show(&bytes), data, "each byte once, in order");
    }
}

/// Any bytes as the course of a connection: data both ways in records of any size, cut anywhere, new keys at any time,
/// and damage. What arrives is what was sent, or its beginning and an error.
pub(crate) fn records(input: &[u8]) {
    let mut operations = input.iter().copied().take(OPERATIONS_MAX);
    let mut pair = Pair::new();
    let (mut sent, mut received) = (Vec::<u8>::new(), Vec::<u8>::new());
    let (mut piece, mut updates) = (usize::MAX, 0);
    while let Some(operation) = operations.next() {
        let size = usize::from(operation >> 3) * 97;
        let data: Vec<u8> = (0..size).map(|index| (index + sent.len()) as u8).collect();
        match operation & 7 {
            0..=2 | 7 => {
                pair.client.writer().write_all(&data).expect("it is buffered");
                sent.extend_from_slice(&data);
                updates = if size > 0 { 0 } else { updates };
            }
            3 => {
                pair.client.refresh_traffic_keys().expect("TLS 1.3");
                updates += 1;
            }
            4 => piece = size.max(1),
            5 => {
                pair.send(&data, usize::from(operations.next().unwrap_or(0)) * 61);
                continue;
            }
            _ => {}
        }
        let mut flight = pair.flight();
        let is_damaged = operation & 7 == 7 && !flight.is_empty();
        if is_damaged {
            let place = size % flight.len();
            flight[place] ^= 1;
        }
        for part in flight.chunks_mut(piece) {
            let outcome = pair.server.receive(part, &mut |plain| {
                received.extend_from_slice(plain);
                true
            });
            match outcome {
                Ok(outcome) => assert_eq!(outcome, Received::Open),
                Err(failure) => {
                    assert_eq!(failure, Failure::Record);
                    assert!(is_damaged || updates > TLS_EMPTY_RECORDS_MAX, "a good client is served");
                    assert!(sent.starts_with(&received));
                    return;
                }
            }
        }
        if is_damaged {
            // A longer length is a record that has not arrived whole.
            assert!(sent.starts_with(&received));
            return;
        }
        assert_eq!(received.len(), sent.len(), "each record is opened once it is whole");
        let answer = pair.server.take_unsent();
        pair.show(&answer);
    }
    assert_eq!(received, sent);
}
