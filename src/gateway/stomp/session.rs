//! The state of a STOMP connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::application::NO_CALL;
use super::frame::Version;
use super::queue::parse_delivery;
use crate::gateway::Context;
use crate::gateway::readers::ReaderClaims;
use crate::limits::{
    STOMP_HEART_BEAT_MS_MIN, STOMP_HEART_BEATS_MISSED, STOMP_PREFETCH_MAX, STOMP_REQUESTS_MAX,
    STOMP_TRANSACTION_BYTES_MAX, STOMP_TRANSACTIONS_MAX,
};
use crate::topics::{Draft, TopicName};

/// A STOMP connection between two calls of its handler.
#[derive(Debug)]
pub struct Session {
    /// Else it is a TCP connection.
    pub(super) is_websocket: bool,
    /// CONNECT has been accepted.
    pub(super) is_connected: bool,
    pub(super) version: Version,
    pub(super) claims: Option<ReaderClaims>,
    /// Received bytes that are no whole frame, or that wait for answers.
    pub(super) unread: Vec<u8>,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) transactions: Vec<Transaction>,
    /// What transactions have committed and the server has not published, in order; the last publication of a
    /// transaction has its receipt. While there is any, no frame is read, so that one transaction's bound holds.
    pub(super) committed: VecDeque<(Draft, Option<Box<str>>)>,
    requests: HashMap<u32, Pending>,
    /// The frame that waits for the application. While there is one, no further frame is read.
    pub(super) asked: Option<Waiting>,
    /// The header fields of the handshake that calls of the backend contain.
    pub(super) headers: Arc<[(Box<str>, Box<str>)]>,
    /// Number of the last message without a place in a topic.
    pub(super) last_direct: u64,
    last_request: u32,
    pub(super) is_paused: bool,
    pub(super) beats: Beats,
    /// When the token expires, in milliseconds of the shard's clock.
    pub(super) expires_ms: Option<u64>,
}

/// A subscription of the client. Several may have one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// The client's id; in STOMP 1.0 perhaps the destination.
    pub(super) id: Box<str>,
    /// As the client has written it.
    pub(super) destination: Box<str>,
    /// `None` if only the application sends to it.
    pub(super) topic: Option<TopicName>,
    /// Messages carry an id to acknowledge.
    pub(super) has_acks: bool,
    /// The queue and the number of its consumer, if it is one with competing consumers.
    pub(super) consumer: Option<(TopicName, u64)>,
}

/// SENDs that wait for COMMIT.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) id: Box<str>,
    pub(super) drafts: Vec<Draft>,
    /// ACKs and NACKs of deliveries, for COMMIT.
    pub(super) settled: Vec<Settled>,
}

/// An ACK or a NACK of a delivery from a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) topic: TopicName,
    /// The consumer and its delivery.
    pub(super) delivery: (u64, u64),
    pub(super) is_ack: bool,
}

/// A request to a home shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Subscribe, then send this receipt.
    Subscribe(Option<Box<str>>),
    /// Publish, then send this receipt.
    Publish(Option<Box<str>>),
}

/// A frame that waits for the application.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request_id: u32,
    /// When the call has failed, in milliseconds of the shard's clock.
    pub(super) timeout_ms: u64,
    pub(super) asked: Asked,
}

/// What the application decides on. Each may have a receipt.
#[derive(Debug)]
pub(super) enum Asked {
    /// A SEND to `/app`.
    Send { receipt: Option<Box<str>> },
    /// A SUBSCRIBE to `/app`, with this id.
    Subscribe { id: Box<str>, receipt: Option<Box<str>> },
    /// A SEND to a topic, perhaps in a transaction.
    Publish { draft: Box<Draft>, receipt: Option<Box<str>>, transaction: Option<Box<str>> },
}

impl Asked {
    pub(super) fn receipt(&self) -> Option<&str> {
        match self {
            Asked::Send { receipt } | Asked::Subscribe { receipt, .. } | Asked::Publish { receipt, .. } => {
                receipt.as_deref()
            }
        }
    }
}

/// The agreed heart-beats, in milliseconds; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Beats {
    pub(super) send_every_ms: u64,
    pub(super) receive_every_ms: u64,
    pub(super) next_send_ms: u64,
    pub(super) last_received_ms: u64,
}

impl Session {
    pub(super) fn new(now_ms: u64, is_websocket: bool) -> Session {
        Session {
            is_websocket,
            is_connected: false,
            version: Version::V10,
            claims: None,
            unread: Vec::new(),
            subscriptions: Vec::new(),
            transactions: Vec::new(),
            committed: VecDeque::new(),
            requests: HashMap::new(),
            asked: None,
            headers: Arc::default(),
            last_direct: 0,
            last_request: 0,
            is_paused: false,
            beats: Beats { last_received_ms: now_ms, ..Beats::default() },
            expires_ms: None,
        }
    }

    /// The user; empty if anonymous.
    pub(super) fn user(&self) -> &str {
        self.claims.as_ref().map_or("", |claims| &claims.user)
    }

    /// The id of a new request: never [`NO_CALL`].
    pub(super) fn next_request(&mut self) -> u32 {
        self.last_request = self.last_request.wrapping_add(1).max(NO_CALL + 1);
        self.last_request
    }

    /// Keeps a request. Returns its id.
    pub(super) fn begin(&mut self, pending: Pending) -> u32 {
        let request_id = self.next_request();
        self.requests.insert(request_id, pending);
        request_id
    }

    /// Ends a request.
    pub(super) fn end(&mut self, request_id: u32) -> Option<Pending> {
        self.requests.remove(&request_id)
    }

    /// Whether further frames must wait for answers.
    pub(super) fn is_full(&self) -> bool {
        self.asked.is_some() || self.requests.len() >= STOMP_REQUESTS_MAX
    }

    /// Reads on, if frames have waited for answers and need not any more.
    pub(super) fn resume_if_answered(&mut self, conn: &mut Context<'_>) {
        if self.is_paused && !self.is_full() {
            self.is_paused = false;
            conn.resume_input();
        }
    }

    /// The subscriptions with this topic.
    pub(super) fn of_topic<'s>(&'s self, topic: &'s TopicName) -> impl Iterator<Item = &'s Subscription> {
        self.subscriptions.iter().filter(move |subscription| subscription.topic.as_ref() == Some(topic))
    }

    /// Opens a transaction.
    pub(super) fn begin_transaction(&mut self, id: &str) -> Result<(), &'static str> {
        if self.transactions.iter().any(|transaction| *transaction.id == *id) {
            return Err("the transaction has begun already");
        }
        if self.transactions.len() == STOMP_TRANSACTIONS_MAX {
            return Err("too many open transactions: at most 16");
        }
        self.transactions.push(Transaction { id: id.into(), drafts: Vec::new(), settled: Vec::new() });
        Ok(())
    }

    /// Adds a publication to an open transaction.
    pub(super) fn add_to_transaction(&mut self, id: &str, draft: Draft) -> Result<(), &'static str> {
        let held: usize = self.transactions.iter().flat_map(|open| &open.drafts).map(Draft::bytes).sum();
        if held + draft.bytes() > STOMP_TRANSACTION_BYTES_MAX {
            return Err("the open transactions are too large: commit earlier");
        }
        let open = self.transactions.iter_mut().find(|transaction| *transaction.id == *id);
        open.ok_or("there is no such transaction: send BEGIN first")?.drafts.push(draft);
        Ok(())
    }

    /// Queues the publications of a transaction. The receipt follows the last one.
    pub(super) fn commit(&mut self, drafts: Vec<Draft>, receipt: Option<Box<str>>) {
        self.committed.extend(drafts.into_iter().map(|draft| (draft, None)));
        if let Some((_, last)) = self.committed.back_mut() {
            *last = receipt;
        }
    }

    /// Adds an ACK or a NACK to an open transaction.
    pub(super) fn settle_in_transaction(&mut self, id: &str, settled: Settled) -> Result<(), &'static str> {
        let held: usize = self.transactions.iter().map(|open| open.settled.len()).sum();
        if held == STOMP_PREFETCH_MAX {
            return Err("too many acknowledgements in open transactions: commit earlier");
        }
        let open = self.transactions.iter_mut().find(|transaction| *transaction.id == *id);
        open.ok_or("there is no such transaction: send BEGIN first")?.settled.push(settled);
        Ok(())
    }

    /// The queue and the delivery that an ACK or a NACK names.
    pub(super) fn delivery(&self, id: &str) -> Option<(TopicName, (u64, u64))> {
        let (consumer, delivery) = parse_delivery(id)?;
        let of_queue = |subscription: &Subscription| {
            let (topic, number) = subscription.consumer.as_ref()?;
            (*number == consumer).then(|| topic.clone())
        };
        Some((self.subscriptions.iter().find_map(of_queue)?, (consumer, delivery)))
    }

    /// Ends a transaction. Returns what it contains.
    pub(super) fn end_transaction(&mut self, id: &str) -> Result<Transaction, &'static str> {
        let index = self.transactions.iter().position(|transaction| *transaction.id == *id);
        let index = index.ok_or("there is no such transaction: send BEGIN first")?;
        Ok(self.transactions.remove(index))
    }
}

impl Beats {
    /// Agrees on heart-beats with a client that sends them every `can_send_ms` and wants one every `wants_ms`.
    pub(super) fn agree(&mut self, can_send_ms: u64, wants_ms: u64, now_ms: u64) {
        let agreed = |ms: u64| if ms == 0 { 0 } else { ms.max(STOMP_HEART_BEAT_MS_MIN) };
        (self.receive_every_ms, self.send_every_ms) = (agreed(can_send_ms), agreed(wants_ms));
        (self.next_send_ms, self.last_received_ms) = (now_ms + self.send_every_ms, now_ms);
    }

    /// When the client is lost.
    pub(super) fn lost_ms(&self) -> Option<u64> {
        let patience_ms = self.receive_every_ms * STOMP_HEART_BEATS_MISSED;
        (patience_ms > 0).then(|| self.last_received_ms + patience_ms)
    }

    /// When the next heart-beat leaves.
    pub(super) fn send_ms(&self) -> Option<u64> {
        (self.send_every_ms > 0).then_some(self.next_send_ms)
    }
}

/// The two numbers of `heart-beat`.
pub(super) fn parse_heart_beat(text: &str) -> Option<(u64, u64)> {
    let (can_send, wants) = text.split_once(',')?;
    let number = |text: &str| text.trim().parse::<u32>().ok().map(u64::from);
    Some((number(can_send)?, number(wants)?))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn draft(bytes: usize) -> Draft {
        Draft::new(TopicName::new("a").unwrap(), true, Bytes::from(vec![b'x'; bytes]))
    }

    #[test]
    fn transactions_are_bounded() {
        let mut session = Session::new(0, true);
        for id in 0..STOMP_TRANSACTIONS_MAX {
            session.begin_transaction(&id.to_string()).unwrap();
        }
        assert!(session.begin_transaction("more").is_err());
        assert!(session.begin_transaction("0").is_err());
        session.add_to_transaction("1", draft(STOMP_TRANSACTION_BYTES_MAX / 2)).unwrap();
        assert!(session.add_to_transaction("2", draft(STOMP_TRANSACTION_BYTES_MAX / 2)).is_err(), "of all together");
        assert_eq!(session.end_transaction("1").unwrap().drafts.len(), 1);
        session.add_to_transaction("2", draft(STOMP_TRANSACTION_BYTES_MAX / 2)).unwrap();
        assert!(session.add_to_transaction("1", draft(1)).is_err());
        assert!(session.end_transaction("1").is_err());
    }

    #[test]
    fn heart_beats_are_agreed() {
        let mut beats = Beats::default();
        beats.agree(10_000, 1, 500);
        assert_eq!((beats.receive_every_ms, beats.send_every_ms), (10_000, STOMP_HEART_BEAT_MS_MIN));
        assert_eq!((beats.lost_ms(), beats.send_ms()), (Some(30_500), Some(1_500)));
        beats.agree(0, 0, 500);
        assert_eq!((beats.lost_ms(), beats.send_ms()), (None, None));
        assert_eq!(parse_heart_beat("10000, 0"), Some((10_000, 0)));
        for bad in ["", "1", "1,", "-1,0", "a,b", "4294967296,0"] {
            assert_eq!(parse_heart_beat(bad), None, "{bad}");
        }
    }
}
