//! What stands for TLS where the crate is built without it: no acceptor can be made, so there is no session.

use super::model::{CertificateInfo, Established, Failure, Received, TlsError, TlsSettings};

/// Makes sessions.
#[derive(Clone, Debug)]
pub enum Acceptor {}

/// The TLS of one connection.
pub enum Session {}

impl Acceptor {
    /// Always an error.
    pub fn new(_settings: &TlsSettings) -> Result<Acceptor, TlsError> {
        let text = "a listener has tls = true, but this is a build without TLS: build it with the feature tls";
        Err(TlsError(text.to_owned()))
    }

    /// There is none.
    pub fn reload(&self, _settings: &TlsSettings) -> Result<(), TlsError> {
        match *self {}
    }

    /// There is none.
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        match *self {}
    }
}

#[allow(missing_docs, reason = "there is none: see the real one")]
impl Session {
    pub fn new(acceptor: &Acceptor) -> Session {
        match *acceptor {}
    }

    pub fn is_established(&self) -> bool {
        match *self {}
    }

    pub fn is_handshaking(&self) -> bool {
        match *self {}
    }

    pub fn hold(&mut self, _input: &[u8]) -> Result<(), Failure> {
        match *self {}
    }

    pub fn handshake(&mut self) -> Result<Option<(Established, Vec<u8>)>, Failure> {
        match *self {}
    }

    pub fn receive(&mut self, _: &mut [u8], _: &mut dyn FnMut(&mut [u8]) -> bool) -> Result<Received, Failure> {
        match *self {}
    }

    pub fn seal(&mut self, _plain: &[u8], _out: &mut Vec<u8>) {
        match *self {}
    }

    pub fn take_back(&mut self, _sealed: &[u8], _sent: usize) -> usize {
        match *self {}
    }

    pub fn close(&mut self) -> bool {
        match *self {}
    }

    pub fn has_unsent(&self) -> bool {
        match *self {}
    }

    pub fn take_unsent(&mut self) -> Vec<u8> {
        match *self {}
    }
}
