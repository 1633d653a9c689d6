//! The handshake: the only room that knows rustls' connections.

use std::sync::Arc;

use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, InsufficientSizeError, UnbufferedStatus};
use rustls::{Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::der;
use super::model::{Alert, Established, Failure, Suite};
use super::record::{Framing, Keys, record_len};
use crate::limits::TLS_HANDSHAKE_BYTES_MAX;

/// Room for what rustls sends at once in most handshakes.
const FLIGHT_BYTES: usize = 2048;

/// What a client's first byte says of a connection.
const HANDSHAKE_RECORD: u8 = 22;

/// A handshake that has begun.
pub(super) struct Handshake {
    conn: UnbufferedServerConnection,
    /// Bytes that rustls has not taken.
    held: Vec<u8>,
    /// Of these, whole records that it has seen: they hold a part of a message.
    seen: usize,
    /// Bytes that have come.
    received: usize,
}

/// What a connection goes on with.
pub(super) struct Traffic {
    pub(super) established: Established,
    pub(super) framing: Framing,
    pub(super) send: Keys,
    pub(super) receive: Keys,
    /// Makes the next keys, with TLS 1.3.
    pub(super) updates: Option<KernelConnection<ServerConnectionData>>,
    /// Bytes behind the handshake.
    pub(super) rest: Vec<u8>,
}

impl Handshake {
    pub(super) fn new(config: Arc<ServerConfig>) -> Handshake {
        let conn = UnbufferedServerConnection::new(config).expect("the configuration of a server is checked");
        Handshake { conn, held: Vec::new(), seen: 0, received: 0 }
    }

    /// Takes bytes from the peer.
    pub(super) fn hold(&mut self, input: &[u8]) -> Result<(), Failure> {
        let is_first = self.received == 0;
        self.received += input.len();
        if self.received > TLS_HANDSHAKE_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        self.held.extend_from_slice(input);
        match self.held.first() {
            // HTTP begins with a method.
            Some(b'A'..=b'Z') if is_first => Err(Failure::PlainHttp),
            Some(first) if is_first && *first != HANDSHAKE_RECORD => Err(Failure::NotTls),
            _ => Ok(()),
        }
    }

    /// Goes on with what has come. What must be sent is appended to `out`. Returns whether the handshake is over.
    ///
    /// rustls sees one record after the other, so that none behind the handshake is its.
    pub(super) fn advance(&mut self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        while let Some(len) = record_len(&self.held[self.seen..]).map_err(|_| Failure::Protocol)?
            && self.held.len() - self.seen >= len
        {
            self.seen += len;
            if self.show(out)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Shows rustls the records up to `seen`. Returns whether the handshake is over.
    fn show(&mut self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        loop {
            let UnbufferedStatus { discard, state, .. } = self.conn.process_tls_records(&mut self.held[..self.seen]);
            let step = match state {
                Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out).map(|()| None),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(None)
                }
                Ok(ConnectionState::BlockedHandshake) => Ok(Some(false)),
                Ok(ConnectionState::WriteTraffic(_)) => Ok(Some(true)),
                Ok(_) => Err(Failure::Protocol),
                Err(error) => Err(reason(&error)),
            };
            self.held.drain(..discard);
            self.seen -= discard;
            match step {
                Ok(None) => {}
                Ok(Some(is_over)) => return Ok(is_over),
                Err(failure) => {
                    self.encode_alert(out);
                    return Err(failure);
                }
            }
        }
    }

    /// After an error: what the peer receives of it.
    fn encode_alert(&mut self, out: &mut Vec<u8>) {
        // rustls remembers how far it has come in these bytes: they must stay what they were.
        let status = self.conn.process_tls_records(&mut self.held[..self.seen]);
        if let Ok(ConnectionState::EncodeTlsData(data)) = status.state {
            let _ = encode(data, out);
        }
    }

    /// The keys of a handshake that is over.
    pub(super) fn finish(self) -> Result<Traffic, Failure> {
        let Handshake { conn, mut held, seen, .. } = self;
        let version = conn.protocol_version().ok_or(Failure::Protocol)?;
        let is_tls13 = version == ProtocolVersion::TLSv1_3;
        let is_resumed = conn.handshake_kind() == Some(HandshakeKind::Resumed);
        let suite = conn.negotiated_cipher_suite().and_then(|suite| Suite::of(suite.suite().into()));
        let suite = suite.ok_or(Failure::Protocol)?;
        let subject = match conn.peer_certificates().and_then(<[_]>::first) {
            Some(certificate) => Some(der::subject(certificate).ok_or(Failure::BadCertificate)?.into()),
            None => None,
        };
        let (secrets, updates) = conn.dangerous_into_kernel_connection().map_err(|_| Failure::Protocol)?;
        held.drain(..seen);
        Ok(Traffic {
            established: Established { suite, is_resumed, subject },
            framing: Framing::new(version, &secrets.tx.1),
            send: Keys::new((secrets.tx.0, &secrets.tx.1)),
            receive: Keys::new((secrets.rx.0, &secrets.rx.1)),
            updates: is_tls13.then_some(updates),
            rest: held,
        })
    }
}

fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), Failure> {
    let start = out.len();
    let mut room = FLIGHT_BYTES;
    loop {
        out.resize(start + room, 0);
        match data.encode(&mut out[start..]) {
            Ok(len) => {
                out.truncate(start + len);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => room = required_size,
            Err(EncodeError::AlreadyEncoded) => return Err(Failure::Protocol),
        }
    }
}

fn reason(error: &Error) -> Failure {
    match error {
        Error::AlertReceived(alert) => Failure::Alert(Alert::of((*alert).into())),
        Error::NoCertificatesPresented => Failure::NoCertificate,
        Error::InvalidCertificate(_) => Failure::BadCertificate,
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Failure::Incompatible,
        _ => Failure::Protocol,
    }
}
