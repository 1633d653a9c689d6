//! Frames that the application decides on: starts its calls, and acts on its answers.

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;

use super::application::{Answer, Call, Client, NO_CALL, Reply, Target};
use super::destination::{self, Access};
use super::frame::{Command, Frame};
use super::handler::{Failure, Stomp, Tags, fail, is_text, of_transaction, send_receipt, set_timer, tags};
use super::message;
use super::session::{Asked, Session, Subscription, Waiting};
#[cfg(feature = "centrifuge")]
use crate::gateway::centrifuge::{BackendAnswer, BackendCall, BackendResult, CallKind};
use crate::gateway::{Context, Later};
use crate::proto::{Message, MessageKind};
use crate::topics::Draft;

/// The beginning of the destinations that the application answers.
pub(super) const APP: &str = "/app/";

impl Stomp {
    /// Whether an application answers frames to `/app`.
    pub(super) fn has_application(&self) -> bool {
        #[cfg(feature = "centrifuge")]
        if self.backend.as_ref().is_some_and(|backend| backend.answers(CallKind::Rpc)) {
            return true;
        }
        self.application.is_some()
    }

    /// Whether the application answers this destination.
    pub(super) fn is_answered(&self, destination: &str) -> bool {
        destination.starts_with(APP) && self.has_application()
    }

    /// Has the application answer a frame.
    pub(super) fn ask(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        (destination, frame): (&str, &Frame<'_>),
        asked: Asked,
    ) -> Result<(), Failure> {
        if frame.header("transaction").is_some() {
            return Err(of_transaction("a transaction contains no frames to /app: send them without it"));
        }
        let headers = tags(frame)?.map_or_else(Vec::new, Vec::from);
        let body = Bytes::copy_from_slice(frame.body);
        let request_id = session.next_request();
        if let Some(application) = &self.application {
            let (user, client) = (session.user().to_owned(), Client::new(conn.handle()));
            let call = Call { destination: destination.to_owned(), headers, body, user, client };
            let later = Later::new(conn.handle(), request_id);
            let answer = match frame.command {
                Command::Subscribe => application.on_subscribe(call, later),
                _ => application.on_send(call, later),
            };
            return match answer {
                Some(answer) => self.act(conn, session, asked, &answer),
                None => await_answer(conn, session, (request_id, asked), application.timeout()),
            };
        }
        #[cfg(feature = "centrifuge")]
        return self.ask_backend(conn, session, (request_id, asked), CallKind::Rpc, |call| {
            let command = if frame.command == Command::Subscribe { "SUBSCRIBE" } else { "SEND" };
            call.frame = Some((command, headers));
            (call.method, call.data) = (Some(destination.to_owned()), body);
        });
        #[cfg(not(feature = "centrifuge"))]
        unreachable!("without an application no frame is for one");
    }

    /// Has the backend decide on a publication.
    #[cfg(feature = "centrifuge")]
    pub(super) fn ask_publish(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        asked: Asked,
        (topic, payload): (String, Bytes),
    ) -> Result<(), Failure> {
        let request_id = session.next_request();
        self.ask_backend(conn, session, (request_id, asked), CallKind::Publish, |call| {
            (call.channel, call.data) = (Some(topic), payload);
        })
    }

    #[cfg(feature = "centrifuge")]
    fn ask_backend(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        (request_id, asked): (u32, Asked),
        kind: CallKind,
        fill: impl FnOnce(&mut BackendCall),
    ) -> Result<(), Failure> {
        let backend = self.backend.as_deref().expect("the caller has checked that there is a backend");
        let handle = conn.handle();
        let mut call = BackendCall {
            client: handle.name(),
            protocol: "stomp",
            transport: if session.is_websocket { "websocket" } else { "tcp" },
            headers: session.headers.clone(),
            user: session.user().to_owned(),
            ..BackendCall::new(kind)
        };
        fill(&mut call);
        match backend.call(call, Later::new(handle, request_id)) {
            Some(answer) => self.act_on_backend(conn, session, asked, &answer),
            None => await_answer(conn, session, (request_id, asked), backend.timeout(kind)),
        }
    }

    /// Acts on a reply to one of this connection's calls, or on what the application sends without one.
    pub(super) fn replied(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        request_id: u32,
        reply: &(dyn Any + Send + Sync),
    ) {
        if let (NO_CALL, Some(Answer::Replies(replies))) = (request_id, reply.downcast_ref()) {
            if let Err(failure) = self.send_replies(conn, session, None, replies) {
                fail(conn, session, &failure, None);
            }
            return;
        }
        // The call may have timed out.
        let Some(Waiting { asked, .. }) = session.asked.take_if(|waiting| waiting.request_id == request_id) else {
            return;
        };
        let receipt = asked.receipt().map(str::to_owned);
        let outcome = match reply.downcast_ref() {
            Some(answer) => self.act(conn, session, asked, answer),
            #[cfg(feature = "centrifuge")]
            None => match reply.downcast_ref() {
                Some(answer) => self.act_on_backend(conn, session, asked, answer),
                None => unreachable!("a reply is an answer to a call"),
            },
            #[cfg(not(feature = "centrifuge"))]
            None => unreachable!("a reply is an answer to a call"),
        };
        if let Err(failure) = outcome {
            return fail(conn, session, &failure, receipt.as_deref());
        }
        set_timer(conn, session);
        session.resume_if_answered(conn);
    }

    /// Fails a call that is overdue.
    pub(super) fn fail_overdue(&self, conn: &mut Context<'_>, session: &mut Session) -> Result<(), Failure> {
        let now_ms = conn.clock().now_ms;
        match session.asked.take_if(|waiting| now_ms >= waiting.timeout_ms) {
            Some(Waiting { asked, .. }) => self.act(conn, session, asked, &Answer::Failed),
            None => Ok(()),
        }
    }

    fn act(&self, conn: &mut Context<'_>, session: &mut Session, asked: Asked, answer: &Answer) -> Result<(), Failure> {
        let replies = match answer {
            Answer::Replies(replies) => replies,
            Answer::Rejected(text) => return Err(Failure("the application rejects the frame", text.clone())),
            Answer::Failed => {
                let text = "the application has no answer: try again later".to_owned();
                return Err(Failure("no answer", text));
            }
        };
        let caller = match &asked {
            Asked::Subscribe { id, .. } => Some(&**id),
            Asked::Send { .. } | Asked::Publish { .. } => None,
        };
        self.send_replies(conn, session, caller, replies)?;
        send_receipt(conn, session.version, asked.receipt());
        Ok(())
    }

    fn send_replies(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        caller: Option<&str>,
        replies: &[Reply],
    ) -> Result<(), Failure> {
        for reply in replies {
            match &reply.target {
                Target::Destination(destination) => {
                    let unusable =
                        |text: String| Failure("no answer", format!("the application: '{destination}': {text}"));
                    let topic = destination::topic(destination, Access::Send).map_err(unusable)?;
                    let draft = Draft {
                        tags: sorted(&reply.headers),
                        ..Draft::new(topic, is_text(&reply.body), reply.body.clone())
                    };
                    match self.queues_of(&draft.topic) {
                        Some(queues) => queues.push(draft).map_err(|error| unusable(error.text().to_owned()))?,
                        // The home counts what it rejects.
                        None => conn.publish_with(draft, None),
                    }
                }
                Target::Session(destination) => {
                    send_direct(conn, session, reply, |subscription| *subscription.destination == **destination)
                }
                Target::Caller => send_direct(conn, session, reply, |subscription| Some(&*subscription.id) == caller),
            }
        }
        Ok(())
    }

    #[cfg(feature = "centrifuge")]
    fn act_on_backend(
        &self,
        conn: &mut Context<'_>,
        session: &mut Session,
        asked: Asked,
        answer: &BackendAnswer,
    ) -> Result<(), Failure> {
        match (asked, answer) {
            (Asked::Publish { mut draft, receipt, transaction }, BackendAnswer::Result(result)) => {
                if let Some(result) = result {
                    result.apply_to(&mut draft);
                }
                self.publish(conn, session, *draft, (receipt, transaction.as_deref()))
            }
            (asked, answer) => {
                let is_subscribe = matches!(asked, Asked::Subscribe { .. });
                self.act(conn, session, asked, &of_backend(answer, is_subscribe))
            }
        }
    }
}

fn await_answer(
    conn: &mut Context<'_>,
    session: &mut Session,
    (request_id, asked): (u32, Asked),
    timeout: Duration,
) -> Result<(), Failure> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let timeout_ms = conn.clock().now_ms.saturating_add(timeout_ms);
    let earlier = session.asked.replace(Waiting { request_id, timeout_ms, asked });
    assert!(earlier.is_none(), "a frame was read before the answer to the one before");
    set_timer(conn, session);
    Ok(())
}

/// Sends a message that has no place in a topic to some subscriptions of the client.
fn send_direct(conn: &mut Context<'_>, session: &mut Session, reply: &Reply, is_meant: impl Fn(&Subscription) -> bool) {
    session.last_direct += 1;
    let id = format!("app-{}", session.last_direct);
    for subscription in session.subscriptions.iter().filter(|subscription| is_meant(subscription)) {
        let frame = message::encode_direct(subscription, &id, (&reply.headers, &reply.body), session.version);
        let kind = if is_text(&reply.body) { MessageKind::Text } else { MessageKind::Binary };
        conn.send(Message { kind, payload: &frame });
    }
}

fn sorted(headers: &[(String, String)]) -> Option<Tags> {
    let mut tags = headers.to_vec();
    tags.sort();
    (!tags.is_empty()).then(|| tags.into())
}

/// The answer of a backend to a frame for the application.
#[cfg(feature = "centrifuge")]
fn of_backend(answer: &BackendAnswer, is_subscribe: bool) -> Answer {
    match answer {
        BackendAnswer::Result(None) => Answer::done(),
        BackendAnswer::Result(Some(result)) => Answer::Replies(replies_of(result, is_subscribe)),
        BackendAnswer::Error { message, .. } => Answer::rejected(message.clone()),
        BackendAnswer::Disconnect { reason, .. } => Answer::rejected(reason.clone()),
        BackendAnswer::Failed | BackendAnswer::Busy => Answer::Failed,
    }
}

#[cfg(feature = "centrifuge")]
fn replies_of(result: &BackendResult, is_subscribe: bool) -> Vec<Reply> {
    let answer = Some(Reply::answer(result.data.clone())).filter(|_| is_subscribe && !result.data.is_empty());
    let others = result.to.iter().map(|message| {
        let target = match message.is_for_session {
            true => Target::Session(message.destination.clone()),
            false => Target::Destination(message.destination.clone()),
        };
        Reply { target, headers: message.headers.clone(), body: message.data.clone() }
    });
    answer.into_iter().chain(others).collect()
}
