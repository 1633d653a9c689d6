//! The kernel's error numbers, once, as what they mean to a shard.

use std::fmt;

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Errno {
    /// `EAGAIN`: the socket is full, or has nothing to receive. Later, not broken.
    WouldBlock,
    /// `ENOBUFS` or `ENOMEM`: no receive buffer, or no socket memory, was free at that moment. Later, not broken.
    NoBuffers,
    /// `EINTR`: a signal came in between. Later, not broken.
    Interrupted,
    /// `ECANCELED`: we cancelled it.
    Canceled,
    /// `ECONNRESET`: the peer reset the connection.
    Reset,
    /// `EPIPE` or `ENOTCONN`: the stream has already ended.
    Ended,
    /// `ETIMEDOUT` or `EHOSTUNREACH`: the peer no longer acknowledges what it is sent.
    PeerLost,
    /// `ECONNABORTED`: a connection was gone before it was accepted.
    Aborted,
    /// `ENFILE` or `EMFILE`: the table of descriptors is full.
    TableFull,
    /// `ENOENT` or `EALREADY`: there was nothing (left) to cancel.
    NothingToCancel,
    /// Any other number.
    Other(i32),
}

impl Errno {
    /// From the positive error number.
    pub fn from_raw(number: i32) -> Errno {
        match number {
            libc::EAGAIN => Errno::WouldBlock,
            libc::ENOBUFS | libc::ENOMEM => Errno::NoBuffers,
            libc::EINTR => Errno::Interrupted,
            libc::ECANCELED => Errno::Canceled,
            libc::ECONNRESET => Errno::Reset,
            libc::EPIPE | libc::ENOTCONN => Errno::Ended,
            libc::ETIMEDOUT | libc::EHOSTUNREACH => Errno::PeerLost,
            libc::ECONNABORTED => Errno::Aborted,
            libc::ENFILE | libc::EMFILE => Errno::TableFull,
            libc::ENOENT | libc::EALREADY => Errno::NothingToCancel,
            other => Errno::Other(other),
        }
    }

    /// Whether a doorbell failed since the ring that it is for has ended: `EBADF`, `EBADFD` or `EOWNERDEAD`.
    pub fn is_ring_gone(self) -> bool {
        matches!(self, Errno::Other(libc::EBADF | libc::EBADFD | libc::EOWNERDEAD))
    }

    /// Whether the same operation may succeed later on the same socket.
    pub fn is_temporary(self) -> bool {
        matches!(self, Errno::WouldBlock | Errno::NoBuffers | Errno::Interrupted)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Errno::WouldBlock => f.write_str("the socket is not ready"),
            Errno::NoBuffers => f.write_str("no buffer was free"),
            Errno::Interrupted => f.write_str("interrupted by a signal"),
            Errno::Canceled => f.write_str("cancelled"),
            Errno::Reset => f.write_str("reset by the peer"),
            Errno::Ended => f.write_str("the stream has ended"),
            Errno::PeerLost => f.write_str("the peer no longer answers"),
            Errno::Aborted => f.write_str("gone before it was accepted"),
            Errno::TableFull => f.write_str("the table of descriptors is full"),
            Errno::NothingToCancel => f.write_str("nothing to cancel"),
            Errno::Other(number) => std::io::Error::from_raw_os_error(*number).fmt(f),
        }
    }
}
