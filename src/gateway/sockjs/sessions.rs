//! The sessions of HTTP transports, which outlive their connections: what handlers and the relay share.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::counts::Causes;
use crate::gateway::Handle;
use crate::limits::{SOCKJS_SESSIONS_MAX, SOCKJS_UNREAD_BYTES_MAX};

/// Sessions that have ended, by why.
pub(crate) static ENDED: Causes<3> = Causes::new(["closed", "interrupted", "no_receiver"]);

/// Requests that were rejected, by why.
pub(crate) static REJECTED: Causes<4> =
    Causes::new(["too_many_sessions", "too_many_bytes", "broken_json", "unknown_session"]);

/// Why a session has ended: an index of [`ENDED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Closed,
    Interrupted,
    NoReceiver,
}

/// Why a request was rejected: an index of [`REJECTED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    TooManySessions,
    TooManyBytes,
    BrokenJson,
    UnknownSession,
}

/// The sessions of a server. Clones share them.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

/// The other end of [`Sessions`]: what the relay takes.
#[derive(Debug)]
pub struct Requests {
    pub(crate) opened: UnboundedReceiver<NewSession>,
    pub(crate) sessions: Sessions,
}

struct Shared {
    open: Mutex<Open>,
    opened: UnboundedSender<NewSession>,
    /// Sessions of one address at most; 0 is no bound of its own.
    per_address_max: u32,
}

#[derive(Default)]
struct Open {
    /// By route and session.
    by_name: HashMap<Box<str>, Entry>,
    addresses: HashMap<IpAddr, u32>,
    /// Number of the last receiver.
    last_receiver: u64,
}

struct Entry {
    link: SessionLink,
    address: Option<IpAddr>,
}

/// The way to a session.
#[derive(Clone, Debug)]
pub(super) struct SessionLink {
    commands: UnboundedSender<ToSession>,
    /// Bytes of the client that the conversation has not read.
    unread: Arc<AtomicUsize>,
}

/// A session that a request has begun.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub(crate) name: Box<str>,
    /// The request that opens its conversation: target and header fields.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) commands: UnboundedReceiver<ToSession>,
    pub(crate) unread: Arc<AtomicUsize>,
}

/// A command for a session.
#[derive(Debug)]
pub(crate) enum ToSession {
    /// A request waits for frames.
    Receive(Receiver),
    /// The request with this number has ended.
    Gone(u64),
    /// Messages of the client, as JSON that was checked.
    Send(Bytes),
}

/// A request that waits for frames.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) number: u64,
    pub(crate) handle: Handle,
    pub(crate) form: Form,
    /// Whether its response is chunked.
    pub(crate) is_chunked: bool,
}

/// The form of frames in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One line, and the response ends.
    Poll,
    /// Lines.
    Stream,
    /// Events of an event stream.
    Events,
}

impl Receiver {
    /// Appends a frame of SockJS, as a chunk of its own: some clients read a frame at a time.
    pub(crate) fn encode(&self, out: &mut Vec<u8>, frame: &str) {
        let text = match self.form {
            Form::Poll | Form::Stream => format!("{frame}\n"),
            Form::Events => format!("data: {frame}\r\n\r\n"),
        };
        write_chunk(out, self.is_chunked, text.as_bytes());
    }
}

/// Appends bytes of a response, as one chunk (RFC 9112 §7.1); the last chunk has no bytes.
pub(crate) fn write_chunk(out: &mut Vec<u8>, is_chunked: bool, bytes: &[u8]) {
    if is_chunked {
        out.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    }
    out.extend_from_slice(bytes);
    if is_chunked {
        out.extend_from_slice(b"\r\n");
    }
}

impl Sessions {
    /// No sessions yet. One address has at most `per_address_max`; 0 is no bound of its own.
    pub fn new(per_address_max: u32) -> (Sessions, Requests) {
        let (sender, opened) = unbounded_channel();
        let sessions = Sessions(Arc::new(Shared { open: Mutex::default(), opened: sender, per_address_max }));
        (sessions.clone(), Requests { opened, sessions })
    }

    /// Number of open sessions.
    pub fn count(&self) -> usize {
        self.lock().by_name.len()
    }

    /// Passes a request that waits for frames on to its session, which begins if there is none. Returns the way to the
    /// session, and the number of the request.
    ///
    /// # Errors
    /// There are too many sessions.
    pub(super) fn receive(
        &self,
        name: &str,
        address: Option<IpAddr>,
        (handle, form, is_chunked): (Handle, Form, bool),
        begin: impl FnOnce() -> (String, Vec<(String, String)>),
    ) -> Result<(SessionLink, u64), Rejected> {
        let mut open = self.lock();
        open.last_receiver += 1;
        let number = open.last_receiver;
        let receiver = Receiver { number, handle, form, is_chunked };
        let command = match open.by_name.get(name) {
            Some(entry) => match entry.link.commands.send(ToSession::Receive(receiver)) {
                Ok(()) => return Ok((entry.link.clone(), number)),
                // The session ends just now.
                Err(error) => error.0,
            },
            None => ToSession::Receive(receiver),
        };
        open.remove(name);
        let address = address.map(network);
        let of_address = address.and_then(|address| open.addresses.get(&address).copied()).unwrap_or(0);
        let is_full = self.0.per_address_max > 0 && of_address >= self.0.per_address_max;
        if is_full || open.by_name.len() >= SOCKJS_SESSIONS_MAX {
            return Err(Rejected::TooManySessions);
        }
        let (commands, received) = unbounded_channel();
        let link = SessionLink { commands, unread: Arc::default() };
        let _ = link.commands.send(command);
        let (target, headers) = begin();
        let (name, unread) = (Box::from(name), link.unread.clone());
        let new = NewSession { name, target, headers, commands: received, unread };
        if let Some(address) = address {
            *open.addresses.entry(address).or_default() += 1;
        }
        open.by_name.insert(new.name.clone(), Entry { link: link.clone(), address });
        // The relay ends with the process.
        let _ = self.0.opened.send(new);
        Ok((link, number))
    }

    /// Passes messages of a client on to its session.
    ///
    /// # Errors
    /// There is no such session, or it has too much to read.
    pub(super) fn send(&self, name: &str, messages: Bytes) -> Result<(), Rejected> {
        let link = self.lock().by_name.get(name).map(|entry| entry.link.clone()).ok_or(Rejected::UnknownSession)?;
        let bytes = messages.len();
        if link.unread.fetch_add(bytes, Ordering::Relaxed) + bytes > SOCKJS_UNREAD_BYTES_MAX {
            link.unread.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Rejected::TooManyBytes);
        }
        link.commands.send(ToSession::Send(messages)).map_err(|_| Rejected::UnknownSession)
    }

    /// A session has ended. One of the same name may have begun since.
    pub(crate) fn end(&self, session: &NewSession, why: Ended) {
        ENDED.count(why as usize);
        let mut open = self.lock();
        let is_this = |entry: &Entry| Arc::ptr_eq(&entry.link.unread, &session.unread);
        if open.by_name.get(&session.name).is_some_and(is_this) {
            open.remove(&session.name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().expect("nobody panics with the lock")
    }
}

impl Open {
    fn remove(&mut self, name: &str) {
        let Some(Entry { address: Some(address), .. }) = self.by_name.remove(name) else { return };
        if let Some(count) = self.addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }
}

impl SessionLink {
    /// The request with this number has ended.
    pub(super) fn leave(&self, number: u64) {
        // A session that has ended needs no news.
        let _ = self.commands.send(ToSession::Gone(number));
    }
}

/// An IPv6 host has a whole network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sessions", self.count())
    }
}
