//! The TLS of one connection, from the first byte on.

use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use super::acceptor::Acceptor;
use super::handshake::{Handshake, Traffic};
use super::model::{Alert, Established, Failure, Received};
use super::record::{BadRecord, ContentType, Framing, Keys, record_len};
use crate::limits::{TLS_EMPTY_RECORDS_MAX, TLS_FRAGMENT_BYTES_MAX, TLS_KEY_RECORDS};

/// What a client that speaks plain HTTP receives.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 52\r\n\r\n\
    this port speaks TLS: connect to https:// or wss://\n";

/// The TLS of one connection.
pub struct Session {
    state: State,
    /// Bytes that must be sent before any others: a part of the handshake, or the rest of a record that has begun to
    /// leave.
    unsent: Vec<u8>,
}

#[allow(clippy::large_enum_variant, reason = "a session is boxed, and most of its life established")]
enum State {
    Handshake(Box<Handshake>),
    Established(Records),
    /// It has failed, or ended.
    Over,
}

/// The records of an established connection.
struct Records {
    framing: Framing,
    send: Keys,
    receive: Keys,
    updates: Option<Box<KernelConnection<ServerConnectionData>>>,
    /// A record that has not come whole.
    held: Vec<u8>,
    /// The next record must be under new keys.
    is_update_due: bool,
    /// The last [`seal`](Session::seal) began with a record of this many bytes that announces new keys.
    update_bytes: u8,
    /// Records in succession that brought no data.
    empty: u8,
}

/// An alert (RFC 8446 §6).
#[derive(Clone, Copy)]
#[repr(u8)]
enum SentAlert {
    CloseNotify = 0,
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    NoRenegotiation = 100,
}

impl Session {
    /// A connection that was just accepted.
    pub fn new(acceptor: &Acceptor) -> Session {
        Session { state: State::Handshake(Box::new(Handshake::new(acceptor.config()))), unsent: Vec::new() }
    }

    /// Whether the handshake is over and data can be sent.
    pub fn is_established(&self) -> bool {
        matches!(self.state, State::Established(_))
    }

    /// Whether the handshake is under way.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.state, State::Handshake(_))
    }

    /// Takes bytes from the peer that belong to the handshake.
    ///
    /// # Errors
    /// [`Failure`]; the session is over, and what the peer receives is [unsent](Self::take_unsent).
    pub fn hold(&mut self, input: &[u8]) -> Result<(), Failure> {
        let State::Handshake(handshake) = &mut self.state else { return Ok(()) };
        let held = handshake.hold(input);
        held.inspect_err(|failure| {
            if *failure == Failure::PlainHttp {
                self.unsent.extend_from_slice(PLAIN_HTTP);
            }
            self.state = State::Over;
        })
    }

    /// Goes on with the handshake. When it is over, returns what was agreed, and the bytes behind it: pass them to
    /// [`receive`](Self::receive).
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn handshake(&mut self) -> Result<Option<(Established, Vec<u8>)>, Failure> {
        let State::Handshake(handshake) = &mut self.state else { return Ok(None) };
        match handshake.advance(&mut self.unsent) {
            Ok(false) => return Ok(None),
            Ok(true) => {}
            Err(failure) => {
                self.state = State::Over;
                return Err(failure);
            }
        }
        let State::Handshake(handshake) = std::mem::replace(&mut self.state, State::Over) else { unreachable!() };
        let Traffic { established, framing, send, receive, updates, rest } = handshake.finish()?;
        self.state = State::Established(Records {
            framing,
            send,
            receive,
            updates: updates.map(Box::new),
            held: Vec::new(),
            is_update_due: false,
            update_bytes: 0,
            empty: 0,
        });
        Ok(Some((established, rest)))
    }

    /// Decrypts the records in `input` in place, and passes what is in each to `take` until that returns `false`.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub fn receive(&mut self, input: &mut [u8], take: &mut dyn FnMut(&mut [u8]) -> bool) -> Result<Received, Failure> {
        let State::Established(records) = &mut self.state else { return Ok(Received::Ended) };
        match records.receive(input, take) {
            Ok(received) => Ok(received),
            Err((failure, alert)) => {
                if let Some(alert) = alert {
                    records.seal_alert(alert, &mut self.unsent);
                }
                self.state = State::Over;
                Err(failure)
            }
        }
    }

    /// Appends `plain` to `out` as records, of up to 16 KB each.
    ///
    /// # Panics
    /// If the session is not [established](Self::is_established).
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let State::Established(records) = &mut self.state else { panic!("only an established session sends data") };
        records.update_bytes = 0;
        if records.is_update_due || records.send.number >= TLS_KEY_RECORDS {
            records.update_keys(out);
        }
        for content in plain.chunks(TLS_FRAGMENT_BYTES_MAX) {
            records.send.seal(records.framing, ContentType::ApplicationData, content, out);
        }
    }

    /// The socket has taken only the first `sent` bytes of what the last [`seal`](Self::seal) has made. Records that
    /// have not begun to leave are taken back, as if they had not been made; the rest of one that has is
    /// [unsent](Self::take_unsent). Returns how much of the plaintext need not be sealed again.
    pub fn take_back(&mut self, sealed: &[u8], sent: usize) -> usize {
        let State::Established(records) = &mut self.state else { panic!("only an established session sends data") };
        let mut left = usize::from(records.update_bytes);
        let (mut end, mut plain) = (left, 0);
        while left < sealed.len() {
            let len = record_len(&sealed[left..]).ok().flatten().expect("a whole record of ours");
            if left < sent {
                end = left + len;
                plain += len - records.framing.overhead();
            } else {
                records.send.number -= 1;
            }
            left += len;
        }
        if sent < end {
            self.unsent.extend_from_slice(&sealed[sent..end]);
        }
        plain
    }

    /// Says that nothing more is sent (`close_notify`). Returns `false` if that was said, or can't be.
    pub fn close(&mut self) -> bool {
        let State::Established(records) = &mut self.state else { return false };
        records.seal_alert(SentAlert::CloseNotify, &mut self.unsent);
        self.state = State::Over;
        true
    }

    /// Whether bytes must be sent before any others.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Takes the bytes that must be sent before any others.
    pub fn take_unsent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unsent)
    }
}

/// Why no more is received, and the alert that says so.
type Refused = (Failure, Option<SentAlert>);

impl Records {
    fn receive(&mut self, mut input: &mut [u8], take: &mut dyn FnMut(&mut [u8]) -> bool) -> Result<Received, Refused> {
        while !self.held.is_empty() && !input.is_empty() {
            let Some(mut record) = self.complete(&mut input)? else { return Ok(Received::Open) };
            match self.open(&mut record, take)? {
                Some(received) => return Ok(received),
                None => continue,
            }
        }
        while let Some(len) = record_len(input).map_err(|BadRecord| bad_record())?
            && len <= input.len()
        {
            let (record, rest) = input.split_at_mut(len);
            input = rest;
            if let Some(received) = self.open(record, take)? {
                return Ok(received);
            }
        }
        self.held.extend_from_slice(input);
        Ok(Received::Open)
    }

    /// Moves bytes from the front of `input` to the held record; returns the record when it is whole.
    fn complete(&mut self, input: &mut &mut [u8]) -> Result<Option<Vec<u8>>, Refused> {
        loop {
            let needed = match record_len(&self.held).map_err(|BadRecord| bad_record())? {
                Some(len) => len - self.held.len(),
                None => super::record::HEADER_BYTES - self.held.len(),
            };
            if needed == 0 {
                return Ok(Some(std::mem::take(&mut self.held)));
            }
            if input.is_empty() {
                return Ok(None);
            }
            let count = needed.min(input.len());
            let (front, rest) = std::mem::take(input).split_at_mut(count);
            self.held.extend_from_slice(front);
            *input = rest;
        }
    }

    /// Handles one record. `Some`: no further one is of interest.
    fn open(
        &mut self,
        record: &mut [u8],
        take: &mut dyn FnMut(&mut [u8]) -> bool,
    ) -> Result<Option<Received>, Refused> {
        let (kind, content) = self.receive.open(self.framing, record).map_err(|BadRecord| bad_record())?;
        if content.is_empty() || kind != ContentType::ApplicationData {
            self.empty += 1;
            if self.empty > TLS_EMPTY_RECORDS_MAX {
                return Err((Failure::Record, Some(SentAlert::UnexpectedMessage)));
            }
        }
        match kind {
            ContentType::ApplicationData if content.is_empty() => Ok(None),
            ContentType::ApplicationData => {
                self.empty = 0;
                Ok((!take(content)).then_some(Received::Open))
            }
            ContentType::Alert => match content {
                [_, 0] => Ok(Some(Received::Ended)),
                // `user_canceled` comes before `close_notify` (RFC 8446 §6.1).
                [_, 90] => Ok(None),
                [_, number] => Err((Failure::Alert(Alert::of(*number)), None)),
                _ => Err((Failure::Record, Some(SentAlert::UnexpectedMessage))),
            },
            ContentType::Handshake => self.on_key_update(content),
        }
    }

    /// After the handshake a client may only update its keys (RFC 8446 §4.6.3); TLS 1.2 knows renegotiation, which we
    /// do not.
    fn on_key_update(&mut self, message: &[u8]) -> Result<Option<Received>, Refused> {
        let Some(updates) = &mut self.updates else {
            return Err((Failure::Record, Some(SentAlert::NoRenegotiation)));
        };
        let [24, 0, 0, 1, is_requested @ (0 | 1)] = message else {
            return Err((Failure::Record, Some(SentAlert::UnexpectedMessage)));
        };
        let Ok((number, secrets)) = updates.update_rx_secret() else { return Err(bad_record()) };
        self.receive = Keys::new((number, &secrets));
        self.is_update_due |= *is_requested == 1;
        Ok(None)
    }

    /// Appends the announcement of new keys, and sends under them from now on. TLS 1.2 keeps its keys.
    fn update_keys(&mut self, out: &mut Vec<u8>) {
        self.is_update_due = false;
        let Some(updates) = &mut self.updates else { return };
        let start = out.len();
        self.send.seal(self.framing, ContentType::Handshake, &[24, 0, 0, 1, 0], out);
        self.update_bytes = (out.len() - start) as u8;
        let (number, secrets) = updates.update_tx_secret().expect("TLS 1.3 can update its keys");
        self.send = Keys::new((number, &secrets));
    }

    fn seal_alert(&mut self, alert: SentAlert, out: &mut Vec<u8>) {
        let level = if matches!(alert, SentAlert::CloseNotify) { 1 } else { 2 };
        self.send.seal(self.framing, ContentType::Alert, &[level, alert as u8], out);
    }
}

fn bad_record() -> Refused {
    (Failure::Record, Some(SentAlert::BadRecordMac))
}

#[cfg(test)]
mod tests;
