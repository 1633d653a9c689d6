//! Messages to a connection from outside its handler's calls: later, and from other threads.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use crate::buf::{ConnId, SlotId};
use crate::limits::HANDLE_BYTES_MAX;
use crate::proto::{CloseCode, Message, MessageKind};

/// Sends messages to one connection, and closes it, from any thread. Clones address the same connection.
///
/// A handler gets it from [`Context::handle`](super::Context::handle). It does not keep the connection open.
///
/// ```
/// use std::thread;
///
/// use ringfeed::{Accept, Context, Handler, Message, Refusal, Request};
///
/// /// Replies to each request once a slow function has its result.
/// struct Slow;
///
/// impl Handler for Slow {
///     type State = ();
///
///     fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
///         Ok(Accept::default())
///     }
///
///     fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
///         let (handle, request) = (conn.handle(), message.payload.to_vec());
///         thread::spawn(move || {
///             // … a query of a database …
///             // It fails if the peer has gone meanwhile: nothing is left to do then.
///             let _ = handle.send(Message::binary(&request));
///         });
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Handle(pub(crate) Arc<Link>);

/// Why a [`Handle`] could not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The connection has ended.
    Closed,
    /// The connection has [`HANDLE_BYTES_MAX`] unsent bytes of its handles, or the shard's queue is full. Send again
    /// later, or give up on the message.
    Full,
}

/// What a handle does to its connection.
#[derive(Debug)]
pub(crate) enum Letter {
    /// Send a message.
    Message(MessageKind, Bytes),
    /// Close the connection.
    Close(CloseCode, Box<str>),
    /// Pass a reply to the connection's handler.
    Reply(u32, Arc<dyn Any + Send + Sync>, usize),
}

/// The way from any thread to the shards.
pub(crate) trait Courier: Send + Sync {
    /// Queues `letter` for a connection of `shard`. `false`: the queue is full.
    fn deliver(&self, shard: u16, id: ConnId, letter: Letter) -> bool;
}

/// What the handles of a connection share with its shard.
pub(crate) struct Link {
    id: ConnId,
    origin: Origin,
    is_open: AtomicBool,
    /// Messages are carried in frames of SockJS.
    pub(crate) is_carried: bool,
    /// Bytes that the handles have sent and the shard has not.
    unsent_bytes: AtomicUsize,
}

/// A shard, and the way to it.
#[derive(Clone)]
pub(crate) struct Origin {
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) shard: u16,
}

impl Handle {
    /// Sends `message`. Messages of one thread keep their order; they follow what the handler has sent before.
    ///
    /// # Errors
    /// [`SendError`]. A message that was accepted is still lost if the connection ends before it has left.
    pub fn send(&self, message: Message<'_>) -> Result<(), SendError> {
        let link = &*self.0;
        let bytes = message.payload.len();
        let unsent = link.unsent_bytes.fetch_add(bytes, Ordering::Relaxed);
        // Whatever its size, a message may go where none is unsent.
        let has_room = unsent == 0 || unsent + bytes <= HANDLE_BYTES_MAX;
        let sent = match has_room {
            true => link.deliver(Letter::Message(message.kind, Bytes::copy_from_slice(message.payload))),
            false => Err(if link.is_open() { SendError::Full } else { SendError::Closed }),
        };
        if sent.is_err() {
            link.on_sent(bytes);
        }
        sent
    }

    /// Closes the connection, after all that was sent before. `reason` has at most 123 bytes.
    ///
    /// # Errors
    /// [`SendError`]
    pub fn close(&self, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.0.deliver(Letter::Close(code, reason.into()))
    }

    /// Passes the reply to one of the handler's own requests to the connection's handler, which receives it in
    /// [`on_reply`](super::Handler::on_reply): for work that other threads do for a handler. A reply that finds the
    /// queue full is not lost: send it again. `bytes` is its approximate size in memory.
    ///
    /// # Errors
    /// [`SendError`]
    pub fn reply(&self, request_id: u32, reply: Arc<dyn Any + Send + Sync>, bytes: usize) -> Result<(), SendError> {
        self.0.deliver(Letter::Reply(request_id, reply, bytes))
    }

    /// Whether the connection is open.
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Names the connection: unique in the server while it is open.
    #[cfg(feature = "centrifuge")]
    pub(super) fn name(&self) -> String {
        let ConnId { slot: SlotId(slot), generation } = self.0.id;
        format!("{}-{slot}-{generation}", self.0.origin.shard)
    }
}

impl Link {
    pub(crate) fn new(id: ConnId, origin: &Origin, is_carried: bool) -> Arc<Link> {
        let (is_open, unsent_bytes) = (AtomicBool::new(true), AtomicUsize::new(0));
        Arc::new(Link { id, origin: origin.clone(), is_open, is_carried, unsent_bytes })
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    fn deliver(&self, letter: Letter) -> Result<(), SendError> {
        if !self.is_open() {
            Err(SendError::Closed)
        } else if self.origin.courier.deliver(self.origin.shard, self.id, letter) {
            Ok(())
        } else {
            Err(SendError::Full)
        }
    }

    /// By the shard: the connection has ended.
    pub(crate) fn end(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }

    /// By the shard: so many bytes of the handles have left, or never will.
    pub(crate) fn on_sent(&self, bytes: usize) {
        self.unsent_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Letter {
    /// Approximate bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Letter::Message(_, payload) => payload.len(),
            Letter::Close(_, reason) => reason.len(),
            Letter::Reply(_, _, bytes) => *bytes,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("shard", &self.origin.shard).finish_non_exhaustive()
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Closed => "the connection has ended",
            SendError::Full => "too many bytes to the connection, or to its shard, are unsent: try again later",
        })
    }
}

impl std::error::Error for SendError {}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Mutex;

    use super::*;

    /// Keeps letters.
    #[derive(Default)]
    pub(crate) struct Letters {
        pub(crate) taken: Mutex<Vec<Letter>>,
        pub(crate) is_full: AtomicBool,
    }

    impl Courier for Letters {
        fn deliver(&self, _: u16, _: ConnId, letter: Letter) -> bool {
            let has_room = !self.is_full.load(Ordering::Relaxed);
            if has_room {
                self.taken.lock().unwrap().push(letter);
            }
            has_room
        }
    }

    /// A shard without a thread.
    #[cfg(feature = "centrifuge")]
    pub(crate) fn nowhere() -> Origin {
        Origin { courier: Arc::new(Letters::default()), shard: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Letters;
    use super::*;

    #[test]
    fn a_handle_rejects_what_exceeds_its_bounds() {
        let letters = Arc::new(Letters::default());
        let origin = Origin { courier: letters.clone(), shard: 0 };
        let handle = Handle(Link::new(ConnId { slot: SlotId(1), generation: 2 }, &origin, false));
        let large = vec![0; HANDLE_BYTES_MAX + 1];
        assert_eq!(handle.send(Message::binary(&large)), Ok(()), "the first may have any size");
        assert_eq!(handle.send(Message::text("x")), Err(SendError::Full));
        handle.0.on_sent(large.len());
        assert_eq!(handle.send(Message::text("x")), Ok(()));
        assert_eq!(handle.send(Message::binary(&large[..HANDLE_BYTES_MAX - 1])), Ok(()));
        assert_eq!(handle.send(Message::text("x")), Err(SendError::Full));
        handle.0.on_sent(HANDLE_BYTES_MAX);
        letters.is_full.store(true, Ordering::Relaxed);
        assert_eq!(handle.send(Message::text("x")), Err(SendError::Full));
        assert_eq!(handle.0.unsent_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(handle.close(CloseCode::NORMAL, ""), Err(SendError::Full));
        assert_eq!(letters.taken.lock().unwrap().len(), 3);
        handle.0.end();
        assert_eq!(handle.send(Message::text("x")), Err(SendError::Closed));
        assert!(!handle.is_open());
    }
}
