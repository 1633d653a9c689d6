//! TLS between the ring's bytes and the conversation's, for the connections of TLS listeners.
//!
//! The sessions are in a table beside the slots, which has no memory where no listener speaks TLS: a plain connection
//! costs nothing. `conn`, `proto` and the handlers see plaintext only.
//!
//! A handshake costs as much time as hundreds of deliveries. So handshakes queue, and each turn spends a slice of time
//! on them at most: a storm of new clients does not delay the subscribers that are there.

use std::collections::{HashMap, VecDeque};

use super::metrics::CloseCause;
use super::receive::{InputBytes, Progress};
use super::shard::Shard;
use super::slot::Stage;
use crate::buf::{BySlot, ConnId, SharedFrame, SlotId};
use crate::conn::Phase;
use crate::limits::{TLS_HANDSHAKE_SLICE_US, TLS_SEND_BYTES};
use crate::ring::Ring;
use crate::tls::{Established, Failure, Received as Records, Session};

/// The TLS sessions of a shard, by slot.
#[derive(Default)]
pub(super) struct Sessions {
    sessions: BySlot<Box<Session>>,
    /// Connections whose handshake goes on, the next one first. Some may have ended.
    handshakes: VecDeque<ConnId>,
    /// Records of the sends that are being made.
    pub(super) sealed: Vec<u8>,
    /// The subjects of clients' certificates, by slot.
    subjects: HashMap<SlotId, Box<str>>,
}

impl Sessions {
    /// A connection in `slot` begins.
    pub(super) fn begin(&mut self, slot: SlotId, session: Session) {
        self.sessions.set(slot, Box::new(session));
    }

    /// The connection in `slot` has ended.
    pub(super) fn end(&mut self, slot: SlotId) {
        if self.sessions.take(slot).is_some() {
            self.subjects.remove(&slot);
        }
    }

    /// The subject of the client's certificate, if it has shown one.
    pub(super) fn subject(&self, slot: SlotId) -> Option<&str> {
        self.subjects.get(&slot).map(|subject| &**subject)
    }

    /// The session of the connection, if it is one of a TLS listener.
    pub(super) fn get(&mut self, slot: SlotId) -> Option<&mut Session> {
        self.sessions.get_mut(slot).map(|session| &mut **session)
    }

    /// Whether it is a connection of a TLS listener.
    pub(super) fn has(&self, slot: SlotId) -> bool {
        self.sessions.get(slot).is_some()
    }

    /// Whether data can be sent: there is no TLS, or its handshake is over.
    pub(super) fn can_send(&self, slot: SlotId) -> bool {
        self.sessions.get(slot).is_none_or(|session| session.is_established())
    }

    /// Whether any connection may be one of a TLS listener.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_unused()
    }

    /// Whether handshakes go on.
    pub(super) fn have_work(&self) -> bool {
        !self.handshakes.is_empty()
    }
}

impl<R: Ring> Shard<'_, R> {
    /// Passes a received piece of a TLS connection on: to its handshake, or decrypted to the conversation.
    pub(super) fn on_sealed_bytes(&mut self, slot: SlotId, input: InputBytes<'_>) -> (Progress, bool) {
        let session = self.sessions.get(slot).expect("a connection of a TLS listener");
        if !session.is_handshaking() {
            self.count_piece(slot);
            return self.decrypt(slot, input);
        }
        let id = self.slots[slot].id;
        match session.hold(input.bytes(&mut self.ring)) {
            Ok(()) => {
                self.sessions.handshakes.push_back(id);
                (Progress::Continue, false)
            }
            Err(failure) => (self.on_tls_failure(slot, failure), false),
        }
    }

    /// Goes on with handshakes, for a slice of the turn.
    pub(super) fn advance_handshakes(&mut self) {
        if !self.sessions.have_work() {
            return;
        }
        let start_us = self.ring.now_us();
        while let Some(id) = self.sessions.handshakes.pop_front() {
            if let Some(slot) = self.find(id) {
                self.advance_handshake(slot);
            }
            if self.ring.now_us() - start_us >= TLS_HANDSHAKE_SLICE_US {
                return;
            }
        }
    }

    fn advance_handshake(&mut self, slot: SlotId) {
        let Some(session) = self.sessions.get(slot).filter(|session| session.is_handshaking()) else { return };
        if self.slots[slot].stage != Stage::Serving {
            return;
        }
        let outcome = session.handshake();
        self.note_unsent(slot);
        match outcome {
            Ok(None) => {}
            Ok(Some((established, mut rest))) => {
                self.on_established(slot, established);
                self.run_input(slot, |shard| shard.decrypt(slot, InputBytes::Held(&mut rest)));
            }
            Err(failure) => {
                let progress = self.on_tls_failure(slot, failure);
                self.on_progress(slot, progress);
            }
        }
    }

    /// Passes what the records in some bytes hold to the conversation. Returns its progress, and whether it accepted
    /// the opening handshake.
    fn decrypt(&mut self, slot: SlotId, input: InputBytes<'_>) -> (Progress, bool) {
        let mut session = self.sessions.sessions.take(slot).expect("a connection of a TLS listener");
        let mut received = Ok(Records::Open);
        let (progress, is_opened) = self.converse(slot, |input_context, ring| {
            let mut progress = Progress::Continue;
            received = session.receive(input.bytes(ring), &mut |plain| {
                progress = input_context.on_bytes(plain);
                !matches!(progress, Progress::Over(_))
            });
            progress
        });
        self.sessions.sessions.set(slot, session);
        let progress = match (progress, received) {
            (Progress::Over(cause), _) => Progress::Over(cause),
            (_, Err(failure)) => self.on_tls_failure(slot, failure),
            // The peer may still read what waits.
            (_, Ok(Records::Ended)) => Progress::Over(CloseCause::PeerLost),
            (progress, Ok(Records::Open)) => progress,
        };
        (progress, is_opened)
    }

    /// Counts why the TLS of a connection has failed. What the peer receives of it still leaves.
    fn on_tls_failure(&mut self, slot: SlotId, failure: Failure) -> Progress {
        self.metrics.tls_failures[failure.place()].add(1);
        if let Failure::Alert(alert) = failure {
            self.metrics.tls_alerts[alert as usize].add(1);
        }
        self.log_rejected(slot, failure.reason());
        self.note_unsent(slot);
        Progress::Over(match self.slots[slot].conn.phase() {
            Phase::Handshake(_) => CloseCause::Refused,
            _ => CloseCause::Protocol,
        })
    }

    /// Counts a handshake that is over, and notes whose certificate the client has shown.
    fn on_established(&mut self, slot: SlotId, established: Established) {
        let Established { suite, is_resumed, subject } = established;
        let counters = if is_resumed { &self.metrics.tls_resumed } else { &self.metrics.tls_full };
        counters[suite.place()].add(1);
        if let Some(subject) = subject {
            self.metrics.tls_client_certificates.add(1);
            self.sessions.subjects.insert(slot, subject);
        }
    }

    /// Marks the connection if its session has bytes that must be sent before any others.
    pub(super) fn note_unsent(&mut self, slot: SlotId) {
        let has_unsent = self.sessions.get(slot).is_some_and(|session| session.has_unsent());
        if has_unsent && matches!(self.slots[slot].stage, Stage::Serving | Stage::Flushing) {
            self.slots[slot].has_unsent_records = true;
            self.mark_dirty(slot);
        }
    }

    /// The bytes of the next send of a TLS connection that waits until it is done; `None` if nothing waits.
    pub(super) fn next_sealed(&mut self, slot: SlotId) -> Option<SharedFrame> {
        let entry = &mut self.slots[slot];
        let session = self.sessions.get(slot)?;
        if std::mem::take(&mut entry.has_unsent_records) {
            return Some(SharedFrame::new(session.take_unsent()));
        }
        if entry.is_delivery_paused || !session.is_established() {
            return None;
        }
        let (run, bytes) = entry.conn.outbox.next_run(TLS_SEND_BYTES)?;
        let mut sealed = Vec::new();
        session.seal(&run[bytes], &mut sealed);
        Some(SharedFrame::new(sealed))
    }

    /// Says that nothing more is sent, once. Returns whether that must leave first.
    pub(super) fn close_session(&mut self, slot: SlotId) -> bool {
        let is_said = self.sessions.get(slot).is_some_and(Session::close);
        self.slots[slot].has_unsent_records |= is_said;
        is_said
    }

    /// The socket took only the first `sent` bytes of the records in `sealed`, which the last `seal` of this connection
    /// has made. Returns how much of the plaintext need not be sent again.
    pub(super) fn take_back(&mut self, slot: SlotId, sealed: &[u8], sent: usize) -> usize {
        let session = self.sessions.get(slot).expect("a connection of a TLS listener");
        let plain = session.take_back(sealed, sent);
        self.note_unsent(slot);
        plain
    }
}
