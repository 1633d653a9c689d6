//! A connection's place on its shard: the conversation, and which of its operations the kernel holds.

use smallvec::SmallVec;

use super::recv_mode::{RecvMode, Traffic};
use crate::buf::ConnId;
use crate::conn::{CloseCause, Connection, Rate};
use crate::gateway::Input;
use crate::limits::SLOT_BYTES;
use crate::proto::{DeflateContext, Deflater, PeerDeflater, SlidingWindow};
use crate::ring::FixedFd;
use crate::topics::{Encoding, Presence, TopicId, Variant};

/// How far a connection is from its end, as the kernel sees it.
///
/// ```text
/// Serving ──► Flushing ──► Lingering ──► Terminating ──► Closing
///    │            │                            ▲
///    └────────────┴────────────────────────────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The conversation goes on.
    Serving,
    /// The conversation is over; what was said last is being sent, then our half of the stream ends.
    Flushing,
    /// Our half of the stream has ended; what still comes is thrown away until the peer's has.
    Lingering,
    /// The kernel's operations on the socket are being cancelled and awaited, so that it can be closed.
    Terminating,
    /// The kernel holds nothing of ours any more; the descriptor is being closed.
    Closing,
}

/// One connection of a shard.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: ConnId,
    pub(super) socket: FixedFd,
    pub(super) conn: Connection,
    /// Its handler, once it is known.
    pub(super) route: Option<u8>,
    pub(super) stage: Stage,
    /// Why the conversation ended, once it has.
    pub(super) cause: Option<CloseCause>,
    /// How the kernel waits for bytes.
    pub(super) recv_mode: RecvMode,
    pub(super) traffic: Traffic,
    /// It should not be received from: too much waits to be sent, or its handler takes no messages for now.
    pub(super) is_paused: bool,
    /// A send that may wait is in the kernel.
    pub(super) is_sending: bool,
    /// The end of our half of the stream is in the kernel.
    pub(super) is_shutting: bool,
    /// How many bytes the send in the kernel is for.
    pub(super) sending_bytes: u32,
    /// Something is among the replies of this turn.
    pub(super) has_reply: bool,
    /// It is among those to settle at the end of the turn.
    pub(super) is_dirty: bool,
    /// Its handler has something to say first: what is pushed waits.
    pub(super) is_delivery_paused: bool,
    /// The tick of its one valid timer: the lower half of the number, which repeats after six years.
    pub(super) timer_tick: u32,
    /// The peer has said goodbye: nothing that it could lose is on its way, and nothing more will come.
    pub(super) is_close_received: bool,
    /// When its present state has lasted too long; not used while messages go both ways.
    pub(super) deadline_ms: u64,
    /// In which form it is sent what is pushed to its topics.
    pub(super) encoding: Encoding,
    pub(super) subscriptions: SmallVec<[Subscription; 2]>,
    /// What few connections have.
    pub(super) extras: Option<Box<ConnExtras>>,
}

/// What few connections have, so that the others need not have room for it.
#[derive(Debug, Default)]
pub(super) struct ConnExtras {
    /// What the peer has sent lately; only where that is bounded, and once it has sent anything.
    pub(super) rate: Rate,
    /// The joins that made it present, by topic, where that is kept.
    pub(super) presence: Vec<(TopicId, Presence)>,
    /// So much waits to be sent that nothing more should be received.
    pub(super) is_flooded: bool,
    /// Whether its handler takes messages.
    pub(super) input: Input,
    /// What was received and is not to be read before its handler takes messages again.
    pub(super) unread: Vec<u8>,
    /// What its compressed messages may refer back to, where that was agreed on.
    pub(super) deflate_context: Option<Box<DeflateContext>>,
}

impl ConnExtras {
    /// Takes what was received and not read.
    pub(super) fn take_unread(extras: &mut Option<Box<ConnExtras>>) -> Vec<u8> {
        extras.as_mut().map_or_else(Vec::new, |extras| std::mem::take(&mut extras.unread))
    }

    /// What messages to the peer may refer back to.
    pub(super) fn sent(extras: &mut Option<Box<ConnExtras>>) -> Option<&mut SlidingWindow> {
        extras.as_deref_mut()?.deflate_context.as_deref_mut()?.sent.as_mut()
    }

    /// What messages from the peer may refer back to.
    pub(super) fn received(extras: &mut Option<Box<ConnExtras>>) -> Option<&mut SlidingWindow> {
        extras.as_deref_mut()?.deflate_context.as_deref_mut()?.received.as_mut()
    }
}

/// A connection's subscription to a topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscription {
    pub(super) topic: TopicId,
    /// What it is sent of each push.
    pub(super) variant: Variant,
}

const _: () = assert!(size_of::<Slot>() <= SLOT_BYTES, "say in `limits` what a connection may take");

impl Slot {
    /// A connection that was just accepted, and is not yet received from.
    pub(super) fn new(id: ConnId, socket: FixedFd, conn: Connection) -> Slot {
        Slot {
            id,
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
            has_reply: false,
            is_dirty: false,
            is_delivery_paused: false,
            timer_tick: 0,
            is_close_received: false,
            deadline_ms: 0,
            encoding: Encoding::Raw,
            subscriptions: SmallVec::new(),
            extras: None,
        }
    }

    /// What compresses for its peer, where that was agreed on.
    pub(super) fn deflater<'d>(&'d mut self, deflater: &'d mut Deflater) -> Option<PeerDeflater<'d>> {
        let sent = ConnExtras::sent(&mut self.extras);
        self.conn.deflate_window.map(|window| deflater.for_peer(window, sent))
    }

    /// Whether what its compressed messages may refer back to is kept.
    pub(super) fn takes_context_over(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.deflate_context.is_some())
    }

    /// It is sent what was compressed for many: its own messages after that can't refer back beyond it.
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

    /// Whether something was received and not read.
    pub(super) fn has_unread(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| !extras.unread.is_empty())
    }

    /// Whether so much waits to be sent that nothing more should be received.
    pub(super) fn is_flooded(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.is_flooded)
    }

    pub(super) fn set_flooded(&mut self, is_flooded: bool) {
        if self.is_flooded() != is_flooded {
            self.extras.get_or_insert_default().is_flooded = is_flooded;
        }
    }

    /// Whether bytes must queue, since others wait before them.
    pub(super) fn is_behind(&self) -> bool {
        self.is_sending || self.is_delivery_paused || !self.conn.outbox.is_empty()
    }

    /// Whether the kernel holds an operation of this socket.
    pub(super) fn has_operations(&self) -> bool {
        self.recv_mode.op().is_some() || self.is_sending || self.is_shutting
    }
}
