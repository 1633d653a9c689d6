//! `/feed/<topic>[,<topic>…]`: the raw feed. Each publication is one message: its payload verbatim.
//!
//! A reconnecting client sends its position in each topic (`?since=<epoch>:<offset>,…`) and receives the publications
//! that it missed; if they are no longer available, the server closes with 3010. `?history=<n>` requests the newest
//! publications. A client that offers the subprotocol `ringfeed.envelope` receives a line of JSON before each payload,
//! with topic and position, and for each topic a first message with such a line about the topic's position. The
//! subprotocol `ringfeed.raw` selects payloads only, which is also the default.
//!
//! A keyed topic needs envelopes. It begins with its state: a line `"state":"snapshot"` unless the client's own state
//! is continued, then an envelope for each value, and the line about the position.

use std::sync::Arc;

use super::catch_up::{check_history, from_start, position_text, positions, topics};
use super::encoder::{encode_page, encode_publication};
use super::envelope::ENVELOPE;
use super::parameters::{check_parameters, parameter};
use super::{Accept, Context, Handler, Readers, Refusal, Request, Subscribe};
use crate::limits::FEED_MESSAGE_BYTES_MAX;
use crate::proto::{CloseCode, Message, MessageKind};
use crate::topics::{Answer, Body, CatchUp, Encoding, Namespaces, Position, Recovery, StatePage, TopicName};

/// The subprotocol without: payloads only, as for a client that offers no subprotocol.
const RAW_PROTOCOL: &str = "ringfeed.raw";

/// The subprotocol with positions.
const ENVELOPE_PROTOCOL: &str = "ringfeed.envelope";

/// Missed publications are no longer available: Centrifugo's code.
const INSUFFICIENT_STATE: CloseCode = CloseCode(3010);

/// The token of the connection has expired: Centrifugo's code.
const EXPIRED: CloseCode = CloseCode(3005);

/// Subscribes each connection to the topics in its path. The feed is one-way: the server closes a connection that sends
/// a message with 1008.
#[derive(Clone, Debug, Default)]
pub struct Feed {
    readers: Readers,
}

impl Feed {
    /// A feed of the topics that [`Allowed::Anyone`](crate::topics::Allowed::Anyone) may subscribe to.
    pub fn new(namespaces: Arc<Namespaces>) -> Feed {
        Feed::of(Readers::new(namespaces))
    }

    /// A feed of the topics that these clients may read.
    pub fn of(readers: Readers) -> Feed {
        Feed { readers }
    }
}

/// The id of a subscribe request selects the form of its reply.
const RAW_REQUEST: u32 = 0;
const ENVELOPE_REQUEST: u32 = 1;

impl Handler for Feed {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        let wanted = wanted(request)?;
        let topics = wanted.iter().map(|(topic, _)| topic);
        let expires = self.readers.check(&request.get, request.upgrade.subprotocols(), topics, conn.clock())?;
        let mut of_history = wanted.iter().filter(|(_, catch_up)| matches!(catch_up, CatchUp::Last(_)));
        of_history.try_for_each(|(topic, _)| check_history(self.readers.namespaces(), topic))?;
        let offers = |name: &str| request.upgrade.subprotocols().any(|offered| offered == name);
        let (has_envelope, is_raw) = (offers(ENVELOPE_PROTOCOL), offers(RAW_PROTOCOL));
        if let Some(after) = expires {
            conn.set_timer(after);
        }
        for (topic, catch_up) in wanted {
            let is_keyed = self.readers.namespaces().is_keyed(&topic);
            if is_keyed && !has_envelope {
                let text = format!("'{topic}' is keyed: offer the subprotocol {ENVELOPE_PROTOCOL}, which has the keys");
                return Err(Refusal::new(400, text));
            }
            let catch_up = match catch_up {
                CatchUp::None => from_start(self.readers.namespaces(), &topic),
                catch_up => catch_up,
            };
            let request_id = match (has_envelope, catch_up) {
                (true, _) => Some(ENVELOPE_REQUEST),
                (false, CatchUp::None) => None,
                (false, _) => Some(RAW_REQUEST),
            };
            conn.subscribe_with(Subscribe::new(topic, catch_up, request_id))?;
        }
        let accept = Accept::default().message_bytes_max(FEED_MESSAGE_BYTES_MAX);
        Ok(match (has_envelope, is_raw) {
            (true, _) => accept.subprotocol(ENVELOPE_PROTOCOL).encoding(*ENVELOPE),
            (false, true) => accept.subprotocol(RAW_PROTOCOL),
            (false, false) => accept,
        })
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), _message: Message<'_>) {
        conn.close(CloseCode::POLICY_VIOLATION, "this feed is read-only: publish on the control port");
    }

    fn on_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        self.readers.set_namespaces(namespaces);
    }

    fn on_timer(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        conn.close(EXPIRED, "the token has expired: reconnect with a new one");
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), request_id: u32, answer: Answer) {
        match answer {
            Answer::StatePage { topic, page } => {
                send_page(conn, &topic, &page);
                conn.read_on(Subscribe::new(topic, CatchUp::State(page.next), Some(request_id)));
            }
            Answer::Subscribed { topic, position, recovery: Recovery::State(page) } => {
                send_page(conn, &topic, &page);
                conn.send(Message::text(&subscribed(&topic, position, &Recovery::NotAsked)));
            }
            Answer::Subscribed { topic, position, recovery } if request_id == ENVELOPE_REQUEST => {
                conn.send(Message::text(&subscribed(&topic, position, &recovery)));
                send_missed(conn, *ENVELOPE, recovery);
            }
            Answer::Subscribed { position, recovery: Recovery::Lost, .. } => {
                let position = position_text(position);
                let reason = format!("history since your position has expired; current position: {position}");
                conn.close(INSUFFICIENT_STATE, &reason);
            }
            Answer::Subscribed { recovery, .. } => send_missed(conn, Encoding::RAW, recovery),
            Answer::NotSubscribed { error, .. } => conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string()),
            _ => {}
        }
    }
}

/// The distinct topics of a request, and the earlier publications it requests of each.
fn wanted(request: &Request<'_>) -> Result<Vec<(TopicName, CatchUp)>, Refusal> {
    check_parameters(request.head, &["since", "history", "token"])?;
    let topics = topics(request.rest)?;
    let catch_up = match (parameter(request.head, "since"), parameter(request.head, "history")) {
        (Some(_), Some(_)) => return Err(Refusal::new(400, "send either 'since' or 'history', not both")),
        (Some(since), None) => positions(since, topics.len()).ok_or_else(|| {
            Refusal::new(400, "'since' must be <epoch>:<offset> for each topic of the path, separated by commas")
        })?,
        (None, Some(count)) => {
            let count = count.parse().map_err(|_| Refusal::new(400, "'history' must be a number of publications"))?;
            vec![CatchUp::Last(count); topics.len()]
        }
        (None, None) => vec![CatchUp::None; topics.len()],
    };
    let mut wanted: Vec<(TopicName, CatchUp)> = topics.into_iter().zip(catch_up).collect();
    wanted.sort_by(|(a, _), (b, _)| a.cmp(b));
    wanted.dedup_by(|(a, _), (b, _)| a == b);
    Ok(wanted)
}

/// The first line of a topic in the envelope subprotocol.
fn subscribed(topic: &TopicName, position: Position, recovery: &Recovery) -> String {
    let mut line = serde_json::json!({
        "subscribed": true,
        "topic": topic.as_str(),
        "epoch": position.epoch.to_string(),
        "offset": position.offset,
    });
    match recovery {
        Recovery::NotAsked | Recovery::State(_) => {}
        Recovery::Recovered(_) => line["recovered"] = true.into(),
        Recovery::Lost => line["recovered"] = false.into(),
    }
    format!("{line}\n")
}

/// Sends a page of a keyed topic's state.
fn send_page(conn: &mut Context<'_>, topic: &TopicName, page: &StatePage) {
    if page.begins {
        let epoch = page.position.epoch.to_string();
        let line = serde_json::json!({"state": "snapshot", "topic": topic.as_str(), "epoch": epoch, "offset": 0});
        conn.send(Message::text(&format!("{line}\n")));
    }
    conn.write(encode_page(*ENVELOPE, page));
}

fn send_missed(conn: &mut Context<'_>, encoding: Encoding, recovery: Recovery) {
    let Recovery::Recovered(missed) = recovery else { return };
    for body in missed {
        match encoding {
            Encoding::RAW => conn.send(message(&body)),
            _ => conn.write(&encode_publication(encoding, &body).expect("a shared encoding has a frame")),
        }
    }
}

fn message(body: &Body) -> Message<'_> {
    let kind = if body.is_text { MessageKind::Text } else { MessageKind::Binary };
    Message { kind, payload: body.payload() }
}
