//! Connections come in: as many as there is room for, as fast as they may. The others wait in the kernel's backlog.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::addresses::{AddressCounts, Addresses};
use super::admission::Admission;
use super::close::Peer;
use super::listener::ShardListener;
use super::metrics::CloseCause;
use super::shard::Shard;
use super::slot::Slot;
use crate::buf::SlotId;
use crate::conn::Connection;
use crate::limits::{ACCEPT_RETRY_MS, LISTENERS_MAX, RETRY_AFTER_SECONDS};
use crate::log;
use crate::proto::{Message, encode_response};
use crate::ring::{ACCEPTS_MAX, Completion, Errno, FixedFd, Op, Ring, Token};
use crate::tls::Session;

/// The accepts that the kernel holds, by the tag of their token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepts {
    held: u64,
    /// The listener of each.
    listeners: [u8; ACCEPTS_MAX],
    /// How many each listener has.
    counts: [u8; LISTENERS_MAX],
}

const _: () = assert!(ACCEPTS_MAX == u64::BITS as usize);
const _: () = assert!(ACCEPTS_MAX / LISTENERS_MAX >= 4, "each listener has several accepts");

impl Accepts {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.held.count_ones() as usize
    }

    /// Accepts of one listener.
    fn len_of(&self, listener: usize) -> usize {
        usize::from(self.counts[listener])
    }

    /// The listener, of `count`, with the fewest accepts.
    fn next_listener(&self, count: usize) -> usize {
        (0..count).min_by_key(|listener| self.counts[*listener]).expect("a server has a listener")
    }

    /// Adds an accept of `listener`; returns its tag.
    fn add(&mut self, listener: usize) -> u32 {
        let tag = self.held.trailing_ones();
        self.held |= 1 << tag;
        self.listeners[tag as usize] = listener as u8;
        self.counts[listener] += 1;
        tag
    }

    /// Removes a completed accept; returns its listener.
    fn remove(&mut self, tag: u32) -> u8 {
        self.held &= !(1 << tag);
        let listener = self.listeners[tag as usize];
        self.counts[usize::from(listener)] -= 1;
        listener
    }

    fn tags(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |tag| self.held >> tag & 1 == 1)
    }
}

impl Default for Accepts {
    fn default() -> Self {
        Accepts { held: 0, listeners: [0; ACCEPTS_MAX], counts: [0; LISTENERS_MAX] }
    }
}

/// How a shard accepts connections: what the kernel holds, and what bounds them.
pub(super) struct Acceptor {
    pub(super) accepts: Accepts,
    admission: Admission,
    /// Connections by address, if the configuration limits them.
    pub(super) addresses: Option<Addresses>,
    /// Where the connections in their opening handshake come from.
    pub(super) handshake_peers: HashMap<SlotId, IpAddr>,
    /// When to accept again, if the kernel had no room.
    retry_ms: Option<u64>,
    /// Descriptors that the ring has for connections.
    pub(super) descriptors: usize,
    /// Connections that all shards may have together.
    connections_max: usize,
}

impl Acceptor {
    /// Accepts `rate` connections per second at most; 0 is no limit.
    pub(super) fn new(
        rate: u64,
        addresses: Option<AddressCounts>,
        descriptors: usize,
        connections_max: usize,
    ) -> Acceptor {
        Acceptor {
            accepts: Accepts::default(),
            admission: Admission::new(rate),
            addresses: addresses.map(Addresses::new),
            handshake_peers: HashMap::new(),
            retry_ms: None,
            descriptors,
            connections_max,
        }
    }

    /// Ends the pause after a failed accept once its time has passed.
    pub(super) fn end_pause(&mut self, now_ms: u64) {
        self.retry_ms = self.retry_ms.filter(|retry_ms| now_ms < *retry_ms);
    }
}

/// Why the server rejects a connection with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shed {
    TooMany,
    Storm,
    Leaving,
    Address,
    /// It is not one of the trusted proxies.
    Untrusted,
}

impl<R: Ring> Shard<'_, R> {
    /// At the end of a turn: lets the kernel accept as many connections as may come in.
    pub(super) fn submit_accepts(&mut self) {
        if self.drain.is_some() || self.acceptor.retry_ms.is_some() {
            return;
        }
        let count = self.listeners.len();
        if (0..count).all(|listener| self.acceptor.accepts.len_of(listener) > 0) {
            // They would have completed if anybody was waiting.
            self.acceptor.admission.relax(self.now_ms);
        }
        let taken = self.slots.len() + self.acceptor.accepts.len();
        let wanted = self.acceptor.descriptors.saturating_sub(taken).min(ACCEPTS_MAX - self.acceptor.accepts.len());
        for _ in 0..self.acceptor.admission.take(wanted, self.now_ms) {
            let listener = self.acceptor.accepts.next_listener(count);
            let token = Self::accept_token(self.acceptor.accepts.add(listener));
            let socket = self.listeners[listener].socket.as_ref().expect("a shard that does not leave listens");
            self.ring.submit_accept(socket.as_fd(), token);
        }
    }

    /// When connections may be accepted that may not now.
    pub(super) fn next_accept_ms(&self) -> Option<u64> {
        match self.acceptor.retry_ms {
            Some(retry_ms) => Some(retry_ms),
            None if self.acceptor.accepts.len() > 0 || self.slots.len() >= self.acceptor.descriptors => None,
            None => self.acceptor.admission.next_ms().filter(|_| self.drain.is_none()),
        }
    }

    pub(super) fn on_accept(&mut self, completion: Completion) {
        let listener = self.acceptor.accepts.remove(completion.token.tag());
        match completion.result {
            Ok(socket) => self.open_slot(listener, FixedFd(socket), self.ring.accepted_from(completion.token)),
            Err(Errno::Canceled | Errno::Aborted) => {}
            Err(error) if error == Errno::TableFull || error.is_temporary() => {
                // Connections wait in the kernel's backlog until some time has passed.
                self.metrics.accept_stalls.add(1);
                self.acceptor.retry_ms = Some(self.now_ms + ACCEPT_RETRY_MS);
            }
            Err(error) => {
                tracing::warn!(shard = self.mesh.shard(), %error, "accepting failed");
                self.acceptor.retry_ms = Some(self.now_ms + ACCEPT_RETRY_MS);
            }
        }
        self.close_listeners_if_unused();
    }

    /// Has `rate` connections accepted per second from now on; 0 is no limit.
    #[cfg(feature = "product")]
    pub(super) fn set_accept_rate(&mut self, rate: u64) {
        if self.acceptor.admission.set_rate(rate) {
            // The kernel holds accepts that the rate before allowed.
            self.acceptor.accepts.tags().for_each(|tag| self.ring.submit_cancel_accept(Self::accept_token(tag)));
        }
    }

    /// Stops accepting, for good.
    pub(super) fn stop_accepting(&mut self) {
        self.acceptor.retry_ms = None;
        self.acceptor.accepts.tags().for_each(|tag| self.ring.submit_cancel_accept(Self::accept_token(tag)));
        self.close_listeners_if_unused();
    }

    /// A draining shard closes its listeners, so that the kernel sends new clients to other processes.
    fn close_listeners_if_unused(&mut self) {
        if self.drain.is_some() && self.acceptor.accepts.len() == 0 {
            self.listeners.iter_mut().for_each(|listener| listener.socket = None);
        }
    }

    fn accept_token(tag: u32) -> Token {
        Token::new(Op::Accept, tag, 0)
    }

    fn open_slot(&mut self, listener: u8, socket: FixedFd, from: IpAddr) {
        let conn = Connection::new(self.now_ms);
        let slot = self.slots.insert(|id| Slot::new(id, listener, socket, conn));
        if let Some(acceptor) = &self.listeners[usize::from(listener)].tls {
            #[cfg_attr(not(feature = "tls"), expect(unreachable_code, reason = "without TLS there is no acceptor"))]
            self.sessions.begin(slot, Session::new(acceptor));
        }
        if self.listeners[usize::from(listener)].is_proxied {
            self.clients.begin(slot);
        }
        self.metrics.accepted.add(1);
        self.metrics.connections.set(self.slots.len() as u64);
        self.arm_accepted(slot);
        match self.reason_to_shed(slot, from) {
            Some(shed) => self.shed(slot, shed),
            None => {
                if self.listener_of(slot).has_addresses {
                    self.acceptor.handshake_peers.insert(slot, from);
                }
                self.set_deadline(slot, self.now_ms.saturating_add(self.config.handshake_timeout_ms));
            }
        }
    }

    fn reason_to_shed(&mut self, slot: SlotId, from: IpAddr) -> Option<Shed> {
        if self.drain.is_some() {
            return Some(Shed::Leaving);
        }
        // What others have, this shard sees a little late: together they may take some more than the bound.
        let connections: u64 = self.all_metrics.iter().map(|shard| shard.connections.get()).sum();
        if connections > self.acceptor.connections_max as u64 {
            return Some(Shed::TooMany);
        }
        if self.acceptor.admission.sheds(self.now_ms) {
            return Some(Shed::Storm);
        }
        let &ShardListener { has_addresses, is_proxied, .. } = self.listener_of(slot);
        if is_proxied {
            let is_trusted = self.config.trusted_proxies.contain(has_addresses.then_some(from));
            return (!is_trusted).then_some(Shed::Untrusted);
        }
        // A trusted proxy names the client, whose address counts, in the request.
        let is_counted = has_addresses && !self.config.trusted_proxies.contain(Some(from));
        let addresses = self.acceptor.addresses.as_mut().filter(|_| is_counted);
        let may_enter = addresses.is_none_or(|addresses| addresses.enter(slot, from));
        (!may_enter).then_some(Shed::Address)
    }

    /// Rejects a connection before its request.
    pub(super) fn shed(&mut self, slot: SlotId, shed: Shed) {
        let start = self.begin_reply(slot);
        self.encode_shed(slot, shed);
        self.slots[slot].conn.end();
        self.end_reply(slot, start);
        self.finish(slot, CloseCause::Refused);
    }

    /// Appends the rejection of a connection to the reply that is being made. Clients reconnect at different times.
    pub(super) fn encode_shed(&mut self, slot: SlotId, shed: Shed) {
        let (status, text) = match shed {
            Shed::TooMany => (503, "too many connections\n"),
            Shed::Storm => (503, "too many connections at once\n"),
            Shed::Address => (429, "too many connections from your address\n"),
            Shed::Leaving => (503, "the server is stopping\n"),
            Shed::Untrusted => (403, "this port is for trusted proxies: see trusted_proxies\n"),
        };
        if let Some(left_out) = log::SHED.take() {
            let peer = Peer(self.clients.address(slot).or_else(|| self.ring.peer(self.slots[slot].socket)));
            tracing::warn!(%peer, status, reason = text.trim_end(), left_out, "connection rejected");
        }
        let retry_after = (1 + self.random.below(RETRY_AFTER_SECONDS)).to_string();
        let fields = [("Retry-After", retry_after.as_str())];
        match self.listeners[usize::from(self.slots[slot].listener)].protocol.as_ref() {
            Some((_, protocol)) => protocol.framing.encode(&mut self.replies.bytes, Message::text(text.trim_end())),
            None => {
                encode_response(&mut self.replies.bytes, status, "text/plain; charset=utf-8", text.as_bytes(), &fields);
            }
        }
        self.metrics.shed.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_share_the_accepts_evenly() {
        let mut accepts = Accepts::default();
        for _ in 0..ACCEPTS_MAX {
            accepts.add(accepts.next_listener(3));
        }
        assert_eq!([0, 1, 2].map(|listener| accepts.len_of(listener)), [22, 21, 21]);
        let busy: Vec<u32> = accepts.tags().filter(|tag| accepts.listeners[*tag as usize] == 1).collect();
        busy.into_iter().for_each(|tag| assert_eq!(accepts.remove(tag), 1));
        assert_eq!((accepts.next_listener(3), accepts.len()), (1, ACCEPTS_MAX - 21));
        assert_eq!(accepts.next_listener(1), 0);
    }
}
