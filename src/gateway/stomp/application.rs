//! The application behind `/app`, in Rust.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::gateway::{CallAnswer, Handle, Later, SendError};

/// The id of replies that answer no frame.
pub(super) const NO_CALL: u32 = 0;

/// Answers frames with a destination below `/app/`: at once, or later from any thread.
///
/// Until the answer to a frame, or until [`timeout`](Self::timeout) has passed, the server reads no further frame of
/// the same client: so the application receives a client's frames in order, one at a time. For a reply that need not
/// be awaited, answer with no replies and keep [`Call::client`].
///
/// ```
/// use ringfeed::gateway::Later;
/// use ringfeed::gateway::stomp::{Answer, Application, Call, Reply};
///
/// /// Answers `/app/hello` with a greeting for everybody.
/// #[derive(Debug)]
/// struct Greetings;
///
/// impl Application for Greetings {
///     fn on_send(&self, call: Call, _: Later<Answer>) -> Option<Answer> {
///         match &*call.destination {
///             "/app/hello" => Some(Reply::to("/topic/greetings", call.body).into()),
///             _ => Some(Answer::rejected("there is only /app/hello")),
///         }
///     }
/// }
/// ```
pub trait Application: Send + Sync + fmt::Debug {
    /// A client sends to a destination. Return the answer, or take the responder of `later` and return `None`. Do not
    /// block: all connections of the shard wait for this method. The client receives the receipt of its frame after
    /// the replies.
    fn on_send(&self, call: Call, later: Later<Answer>) -> Option<Answer>;

    /// A client subscribes to a destination; `call` has no body. Answer as in [`on_send`](Self::on_send). The
    /// subscription receives [`Reply::answer`], and what is later sent to this client at this destination. The
    /// default rejects.
    fn on_subscribe(&self, call: Call, later: Later<Answer>) -> Option<Answer> {
        let _ = later;
        Some(Answer::rejected(format!("'{}' has no subscribers: SEND to it", call.destination)))
    }

    /// The time after which a call has failed.
    fn timeout(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A frame for the application.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// The whole destination, as `/app/hello`.
    pub destination: String,
    /// The client's own header fields, sorted by name.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// The user that the client's token names; empty if anonymous.
    pub user: String,
    /// Sends to the client at any time.
    pub client: Client,
}

/// Sends to one client, and through its connection to others, from any thread.
#[derive(Clone, Debug)]
pub struct Client(Handle);

/// The answer to a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// The application has executed the frame, and sends these, in order.
    Replies(Vec<Reply>),
    /// The client receives an ERROR with this text, and the server closes its connection.
    Rejected(String),
    /// The application has no answer. The client receives an ERROR, and may try again.
    Failed,
}

/// A message of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub(super) target: Target,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// Who receives a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// All subscribers of a destination.
    Destination(String),
    /// The client of the call, on its subscriptions to this destination.
    Session(String),
    /// The subscription that the call is about.
    Caller,
}

impl Client {
    pub(super) fn new(handle: Handle) -> Client {
        Client(handle)
    }

    /// Sends messages, in order. What no subscriber can receive, since its destination is not usable, closes the
    /// client's connection with an ERROR.
    ///
    /// # Errors
    /// [`SendError`]. Messages to other clients that must arrive in any case belong to a
    /// [`Publisher`](crate::server::Publisher), which needs no connection.
    pub fn send(&self, replies: Vec<Reply>) -> Result<(), SendError> {
        let answer = Answer::Replies(replies);
        let bytes = answer.bytes();
        self.0.reply(NO_CALL, Arc::new(answer), bytes)
    }

    /// Whether the client is connected.
    pub fn is_connected(&self) -> bool {
        self.0.is_open()
    }
}

impl Answer {
    /// The frame is executed, without replies.
    pub fn done() -> Answer {
        Answer::Replies(Vec::new())
    }

    /// Rejects the frame, for this reason.
    pub fn rejected(text: impl Into<String>) -> Answer {
        Answer::Rejected(text.into())
    }
}

impl Reply {
    /// For all subscribers of `destination`: `/topic/…`, `/queue/…`, or `/user/USER/…` for those of a user. Where
    /// clients may publish does not matter here.
    pub fn to(destination: impl Into<String>, body: impl Into<Bytes>) -> Reply {
        Reply::new(Target::Destination(destination.into()), body)
    }

    /// For the client of the call only, on its subscriptions to `destination`, as it has written it: for example
    /// `/user/queue/errors`. Without such a subscription nobody receives it.
    pub fn to_session(destination: impl Into<String>, body: impl Into<Bytes>) -> Reply {
        Reply::new(Target::Session(destination.into()), body)
    }

    /// For the subscription that the call is about; a SEND has none.
    pub fn answer(body: impl Into<Bytes>) -> Reply {
        Reply::new(Target::Caller, body)
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn new(target: Target, body: impl Into<Bytes>) -> Reply {
        Reply { target, headers: Vec::new(), body: body.into() }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Answer {
        Answer::Replies(vec![reply])
    }
}

impl From<Vec<Reply>> for Answer {
    fn from(replies: Vec<Reply>) -> Answer {
        Answer::Replies(replies)
    }
}

impl CallAnswer for Answer {
    fn failed() -> Answer {
        Answer::Failed
    }

    fn bytes(&self) -> usize {
        let of_reply = |reply: &Reply| {
            let headers = reply.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
            size_of::<Reply>() + headers + reply.body.len()
        };
        size_of::<Answer>()
            + match self {
                Answer::Replies(replies) => replies.iter().map(of_reply).sum(),
                Answer::Rejected(text) => text.len(),
                Answer::Failed => 0,
            }
    }
}
