//! The state of a connection on its shard: the conversation, and the operations that the kernel holds.

use std::sync::Arc;

use smallvec::SmallVec;

use super::listener::ShardListener;
use super::recv_mode::{RecvMode, Traffic};
use super::state::StateReads;
use crate::buf::ConnId;
use crate::conn::{CloseCause, Connection, Rate, Transport};
use crate::gateway::{Input, Link, Wire};
use crate::limits::SLOT_BYTES;
use crate::proto::{DeflateContext, Deflater, SlidingWindow, WindowBits};
use crate::ring::FixedFd;
use crate::topics::{Encoding, Presence, TopicId, Variant};

/// The stage of a connection on the way to its end.
///
/// ```text
/// Serving ──► Flushing ──► Lingering ──► Terminating ──► Closing
///    │            │                            ▲
///    └────────────┴────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The handler serves the connection.
    Serving,
    /// The conversation is over. The outbox leaves, then the server shuts down its half of the stream.
    Flushing,
    /// The server has shut down its half of the stream and drops further input until the peer ends its half.
    Lingering,
    /// The shard cancels the kernel's operations on the socket and waits for their completions.
    Terminating,
    /// The kernel holds no other operation; the descriptor is being closed.
    Closing,
}

/// One connection of a shard.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: ConnId,
    /// The listener that accepted it.
    pub(super) listener: u8,
    pub(super) socket: FixedFd,
    pub(super) conn: Connection,
    /// Its handler, once the request has named one.
    pub(super) route: Option<u8>,
    pub(super) stage: Stage,
    /// Why the conversation ended, once it has.
    pub(super) cause: Option<CloseCause>,
    /// The receive operation that the kernel holds.
    pub(super) recv_mode: RecvMode,
    pub(super) traffic: Traffic,
    /// The shard does not receive from it: its backlog is too large, or its handler takes no messages.
    pub(super) is_paused: bool,
    /// A send that may wait is in the kernel.
    pub(super) is_sending: bool,
    /// The end of our half of the stream is in the kernel.
    pub(super) is_shutting: bool,
    /// Bytes of the send in the kernel.
    pub(super) sending_bytes: u32,
    /// Its TLS session has bytes that must be sent before any others.
    pub(super) has_unsent_records: bool,
    /// This turn's replies hold bytes for it.
    pub(super) has_reply: bool,
    /// It is in the shard's `dirty` list.
    pub(super) is_dirty: bool,
    /// Its handler sends first; pushes queue meanwhile.
    pub(super) is_delivery_paused: bool,
    /// The tick of its one valid timer: the lower half of the number, which repeats after six years.
    pub(super) timer_tick: u32,
    /// The peer's Close frame has arrived: a close loses no data, and no further input follows.
    pub(super) is_close_received: bool,
    /// When its present stage times out; not used while messages go both ways.
    pub(super) deadline_ms: u64,
    /// The encoding of pushes to it.
    pub(super) encoding: Encoding,
    pub(super) subscriptions: SmallVec<[Subscription; 2]>,
    /// State that few connections need.
    pub(super) extras: Option<Box<ConnExtras>>,
}

/// State that few connections need, boxed to keep the slot small.
#[derive(Debug, Default)]
pub(super) struct ConnExtras {
    /// The peer's recent input; only with a rate limit, from the first byte on.
    pub(super) rate: Rate,
    /// Its presence, by topic, where the namespace keeps presence.
    pub(super) presence: Vec<(TopicId, Presence)>,
    /// Its backlog is too large to receive more.
    pub(super) is_flooded: bool,
    /// Whether its handler takes messages.
    pub(super) input: Input,
    /// Received bytes that the handler has not taken.
    pub(super) unread: Vec<u8>,
    /// Its compression contexts, if the handshake agreed on context takeover.
    pub(super) deflate_context: Option<Box<DeflateContext>>,
    /// When its handler's timer expires.
    pub(super) timer_ms: Option<u64>,
    /// What its handles share, once there is one.
    pub(super) link: Option<Arc<Link>>,
    /// Bytes of its handles in the outbox.
    pub(super) handle_bytes: usize,
    /// The states of keyed topics that it reads.
    pub(super) state_reads: StateReads,
}

impl ConnExtras {
    /// Takes the unread bytes.
    pub(super) fn take_unread(extras: &mut Option<Box<ConnExtras>>) -> Vec<u8> {
        extras.as_mut().map_or_else(Vec::new, |extras| std::mem::take(&mut extras.unread))
    }

    /// The context of messages to the peer.
    pub(super) fn sent(extras: &mut Option<Box<ConnExtras>>) -> Option<&mut SlidingWindow> {
        Self::sent_and_link(extras).0
    }

    /// The context of messages to the peer, and what its handles share.
    pub(super) fn sent_and_link(
        extras: &mut Option<Box<ConnExtras>>,
    ) -> (Option<&mut SlidingWindow>, Option<&Arc<Link>>) {
        let Some(extras) = extras.as_deref_mut() else { return (None, None) };
        let sent = extras.deflate_context.as_deref_mut().and_then(|context| context.sent.as_mut());
        (sent, extras.link.as_ref())
    }

    /// The context of messages from the peer.
    pub(super) fn received(extras: &mut Option<Box<ConnExtras>>) -> Option<&mut SlidingWindow> {
        extras.as_deref_mut()?.deflate_context.as_deref_mut()?.received.as_mut()
    }
}

/// The form of messages to a peer that `listener` has accepted. A WebSocket compresses with this window.
pub(super) fn wire<'a>(
    transport: Transport,
    deflate_window: Option<WindowBits>,
    listener: &'a ShardListener,
    deflater: &'a mut Deflater,
    sent: Option<&'a mut SlidingWindow>,
) -> Wire<'a> {
    match transport {
        Transport::WebSocket => Wire::WebSocket(deflate_window.map(|window| deflater.for_peer(window, sent))),
        Transport::Stream => Wire::Stream,
        Transport::Framed => {
            let (_, protocol) = listener.protocol.as_ref().expect("the listener of a framed connection has a protocol");
            Wire::Framed(&*protocol.framing)
        }
    }
}

/// A connection's subscription to a topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) topic: TopicId,
    /// The variant of each push that it receives.
    pub(super) variant: Variant,
}

const _: () = assert!(size_of::<Slot>() <= SLOT_BYTES, "a slot exceeds `SLOT_BYTES`: update `limits`");

impl Slot {
    /// An accepted connection without a receive operation.
    pub(super) fn new(id: ConnId, listener: u8, socket: FixedFd, conn: Connection) -> Slot {
        Slot {
            id,
            listener,
            socket,
            conn,
            route: None,
            stage: Stage::Serving,
            cause: None,
            recv_mode: RecvMode::None,
            traffic: Traffic::default(),
            is_paused: false,
            is_sending: false,
            is_shutting: false,
            sending_bytes: 0,
            has_unsent_records: false,
            has_reply: false,
            is_dirty: false,
            is_delivery_paused: false,
            timer_tick: 0,
            is_close_received: false,
            deadline_ms: 0,
            encoding: Encoding::RAW,
            subscriptions: SmallVec::new(),
            extras: None,
        }
    }

    /// Keeps the timer and the link that a call of its handler has set.
    pub(super) fn keep(&mut self, timer_ms: Option<u64>, link: Option<Arc<Link>>) {
        match timer_ms {
            // Nothing to clear.
            Some(u64::MAX) if self.extras.is_none() => {}
            Some(timer_ms) => {
                self.extras.get_or_insert_default().timer_ms = Some(timer_ms).filter(|ms| *ms != u64::MAX);
            }
            None => {}
        }
        if let Some(link) = link {
            self.extras.get_or_insert_default().link = Some(link);
        }
    }

    /// When its handler's timer expires.
    pub(super) fn timer_ms(&self) -> Option<u64> {
        self.extras.as_ref().and_then(|extras| extras.timer_ms)
    }

    /// Whether it keeps compression contexts.
    pub(super) fn takes_context_over(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.deflate_context.is_some())
    }

    /// Clears the context of messages to the peer, after a send that was compressed for many.
    pub(super) fn forget_sent(&mut self) {
        if let Some(sent) = ConnExtras::sent(&mut self.extras) {
            sent.clear();
        }
    }

    /// Whether its handler takes messages.
    pub(super) fn input(&self) -> Input {
        self.extras.as_ref().map_or(Input::Open, |extras| extras.input)
    }

    pub(super) fn set_input(&mut self, input: Input) {
        if self.input() != input {
            self.extras.get_or_insert_default().input = input;
        }
    }

    /// Whether it has unread bytes.
    pub(super) fn has_unread(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| !extras.unread.is_empty())
    }

    /// Whether its backlog is too large to receive more.
    pub(super) fn is_flooded(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.is_flooded)
    }

    pub(super) fn set_flooded(&mut self, is_flooded: bool) {
        if self.is_flooded() != is_flooded {
            self.extras.get_or_insert_default().is_flooded = is_flooded;
        }
    }

    /// Whether new bytes must queue behind others.
    pub(super) fn is_behind(&self) -> bool {
        self.is_sending || self.has_unsent_records || self.is_delivery_paused || !self.conn.outbox.is_empty()
    }

    /// Whether the kernel holds an operation of this socket.
    pub(super) fn has_operations(&self) -> bool {
        self.recv_mode.op().is_some() || self.is_sending || self.is_shutting
    }
}
