//! A simulated connection: the shard's socket, the peer's socket, and the operations on the shard's.

use super::stream::Stream;
use crate::buf::{ConnId, SharedFrame};
use crate::ring::{Errno, Token};

/// Where the shard's end of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The connection has not reached the listener.
    OnItsWay,
    /// It waits to be accepted.
    InBacklog,
    /// It has this descriptor.
    Open(u32),
    /// The shard has closed it, or never got it.
    Gone,
}

/// What the peer does with its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerState {
    /// It reads and writes.
    Present,
    /// It has closed its socket: whatever still reaches it is answered with a reset.
    Closed,
    /// It is cut off: nothing comes from it any more, nothing reaches it, and nobody says so.
    Vanished,
}

/// A receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WaitingRecv {
    pub(super) token: Token,
    /// It ends with its first piece, which has so many bytes at most.
    pub(super) once_bytes_max: Option<u32>,
    /// It ends at once where nothing is there.
    pub(super) is_now: bool,
}

/// A send that may wait.
#[derive(Debug)]
pub(super) struct WaitingSend {
    pub(super) token: Token,
    pub(super) frame: SharedFrame,
    /// Where it began in the frame.
    pub(super) skip: usize,
    /// Bytes that have gone.
    pub(super) sent: usize,
}

/// Something that is to happen soon, and is in the queue of events already.
#[derive(Debug, Default)]
pub(super) struct Scheduled {
    pub(super) recv: bool,
    pub(super) send: bool,
    pub(super) up: bool,
    pub(super) down: bool,
    pub(super) peer: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) ring: usize,
    pub(super) place: Place,
    /// Whose operations these are, from the first one on.
    pub(super) owner: Option<ConnId>,
    /// From the peer to the shard.
    pub(super) up: Stream,
    /// From the shard to the peer.
    pub(super) down: Stream,
    /// What the next operation of the shard fails with.
    pub(super) error: Option<Errno>,
    /// Reset, by either side: nothing moves any more.
    pub(super) is_broken: bool,
    pub(super) is_shut_write: bool,
    /// The end of the shard's half is with a worker thread.
    pub(super) is_shutting: bool,
    pub(super) recv: Option<WaitingRecv>,
    /// A poll for something to receive.
    pub(super) poll: Option<Token>,
    pub(super) send: Option<WaitingSend>,
    /// Operations that have ended, of which the shard has not been told.
    pub(super) unreaped: u32,
    pub(super) peer: PeerState,
    /// The peer has been told of a reset.
    pub(super) is_peer_reset: bool,
    /// A fault was injected that ends this connection without a word to the peer.
    pub(super) is_harmed: bool,
    pub(super) scheduled: Scheduled,
}

impl Socket {
    pub(super) fn new(ring: usize, bytes_max: usize) -> Socket {
        Socket {
            ring,
            place: Place::OnItsWay,
            owner: None,
            up: Stream::new(bytes_max),
            down: Stream::new(bytes_max),
            error: None,
            is_broken: false,
            is_shut_write: false,
            is_shutting: false,
            recv: None,
            poll: None,
            send: None,
            unreaped: 0,
            peer: PeerState::Present,
            is_peer_reset: false,
            is_harmed: false,
            scheduled: Scheduled::default(),
        }
    }

    /// Whether a receive of the shard has something to say.
    pub(super) fn is_readable(&self) -> bool {
        self.up.available() > 0 || self.up.is_at_end() || self.error.is_some() || self.is_broken
    }

    /// Why a send of the shard can't go on, if so. The error occurs once; after that the stream has just ended.
    pub(super) fn take_send_error(&mut self) -> Option<Errno> {
        let has_ended = self.is_broken || self.is_shut_write;
        self.error.take().or(has_ended.then_some(Errno::Ended))
    }
}
