//! Conversations with the handler: commands of clients, requests to home shards, and replies.
//!
//! The tests answer in place of the home shards.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use jsonwebtoken::Algorithm;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::signature::testing::{SigningKey, sign};
use super::*;
use crate::buf::{ConnId, SlotId};
use crate::conn::CloseCause;
use crate::gateway::{
    Accept, Clock, Command as ShardCommand, Context, ContextParts, Get, Handler, Input, Request as Handshake,
    Subscribe, SubscriptionTerms, UserAction, UserCommand, Wire, nowhere,
};
use crate::limits::{
    CENTRIFUGE_STALE_MS, CONN_TOPICS, CONNECT_RECOVERY_BYTES_MAX, HISTORY_PAGE_BYTES, PRESENCE_ANSWER_BYTES_MAX,
    TOKEN_GRACE_MS,
};
use crate::proto::{CloseCode, FrameHeader, Message, Opcode, Upgrade, decode_request_head};
use crate::topics::{
    self, Allowed, Answer, CatchUp, Epoch, HistoryPage, HistoryQuery, Namespace, Namespaces, Position, PublishError,
    Query, Recovery, TopicName, testing,
};

/// The time at which conversations begin, in seconds of Unix time.
const NOW_S: u64 = 1_000_000;

const ID: ConnId = ConnId { slot: SlotId(5), generation: 1 };

/// A handler with one client.
struct TestPeer {
    handler: Centrifuge,
    clock: Clock,
    /// The handler's requests to the shard since the last check.
    commands: Vec<ShardCommand>,
    /// Whether a call has resumed the delivery.
    is_delivery_resumed: bool,
    is_closed: bool,
    /// Whether the handler receives messages.
    input: Input,
    /// Unread messages, as in the shard.
    unread: VecDeque<String>,
    /// When the handler's timer expires.
    timer_ms: u64,
}

/// The replies of one call: replies as JSON, and `{"close": code}`.
type Replies = Vec<Value>;

fn position(offset: u64) -> Position {
    Position { epoch: Epoch::new(7), offset }
}

fn epoch() -> String {
    Epoch::new(7).to_string()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn namespaces() -> Namespaces {
    let history = Namespace { history_size: 10, history: Allowed::Subscribers, ..Namespace::default() };
    let room = Namespace {
        presence: true,
        join_leave: true,
        publish: Allowed::Subscribers,
        presence_read: Allowed::Anyone,
        ..Namespace::default()
    };
    let private = Namespace { subscribe: Allowed::Nobody, publish: Allowed::Users, ..Namespace::default() };
    let members = Namespace { subscribe: Allowed::Users, publish: Allowed::Anyone, ..Namespace::default() };
    let named = |name: &str, namespace| (name.to_owned(), namespace);
    let others =
        vec![named("history", history), named("room", room), named("private", private), named("members", members)];
    Namespaces::new(Namespace::default(), others)
}

fn config(anonymous: bool) -> CentrifugeConfig {
    let keys = TokenKeys { hmac_secret: Some("s3cret".to_owned()), ..TokenKeys::default() };
    CentrifugeConfig {
        tokens: TokenVerifier::new(&keys).unwrap(),
        anonymous,
        namespaces: Arc::new(namespaces()),
        ..CentrifugeConfig::default()
    }
}

fn token(claims: &Value) -> String {
    sign(Algorithm::HS256, None, &SigningKey::secret("s3cret"), claims)
}

impl TestPeer {
    fn new(config: CentrifugeConfig) -> TestPeer {
        let clock = Clock { now_ms: 500, unix_ms: NOW_S * 1000, turn: 0 };
        let handler = Centrifuge::new(Arc::new(config));
        let (commands, unread) = (Vec::new(), VecDeque::new());
        let (is_delivery_resumed, is_closed, input) = (false, false, Input::Open);
        let timer_ms = u64::MAX;
        let mut peer = TestPeer { handler, clock, commands, is_delivery_resumed, is_closed, input, unread, timer_ms };
        peer.open("/connection/websocket", None);
        peer
    }

    /// A connected anonymous client.
    fn anonymous() -> TestPeer {
        let mut peer = TestPeer::new(config(true));
        peer.send(r#"{"id":1,"connect":{}}"#);
        peer
    }

    /// A client that has connected with a token of these claims.
    fn with_claims(claims: &Value) -> (TestPeer, Replies) {
        let mut peer = TestPeer::new(config(false));
        let replies = peer.send(&json!({"id": 1, "connect": {"token": token(claims)}}).to_string());
        (peer, replies)
    }

    fn open(&mut self, target: &str, subprotocol: Option<&str>) -> Accept {
        let offer = subprotocol.map_or(String::new(), |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        );
        let (head, _) = decode_request_head(text.as_bytes()).unwrap().unwrap();
        let upgrade = Upgrade::from_request(&head).unwrap();
        let get = Get { route: target, rest: "", head: &head, peer: None, client_subject: None };
        let request = Handshake { get, upgrade: &upgrade };
        let mut accept = None;
        self.call(|handler, context| accept = handler.on_open(context, &request).ok());
        accept.expect("the handler accepts every WebSocket")
    }

    /// Calls the handler; returns the frames for the client.
    fn call(&mut self, call: impl FnOnce(&mut Centrifuge, &mut Context<'_>)) -> Replies {
        let (mut out, origin) = (Vec::new(), nowhere());
        self.clock.turn += 1;
        let mut context = Context::new(ContextParts {
            id: ID,
            clock: self.clock,
            out: &mut out,
            commands: &mut self.commands,
            subscriptions: 0,
            subscriptions_max: CONN_TOPICS,
            wire: Wire::WebSocket(None),
            origin: &origin,
            link: None,
        });
        call(&mut self.handler, &mut context);
        let outcome = context.outcome();
        self.is_delivery_resumed |= outcome.is_delivery_resumed;
        self.is_closed |= outcome.is_closed;
        self.input = outcome.input.unwrap_or(self.input);
        self.timer_ms = outcome.timer_ms.unwrap_or(self.timer_ms);
        frames(&out)
    }

    /// Sends a message; returns the replies at once and in further turns, as long as the handler does not pause.
    fn send(&mut self, text: &str) -> Replies {
        self.unread.push_back(text.to_owned());
        self.run_turns()
    }

    fn answer(&mut self, request_id: u32, answer: Answer) -> Replies {
        let mut replies = self.call(|handler, context| handler.on_answer(context, &mut (), request_id, answer));
        replies.extend(self.run_turns());
        replies
    }

    /// Runs turns as the shard does.
    fn run_turns(&mut self) -> Replies {
        let mut replies = Vec::new();
        while !self.is_closed && self.input != Input::Paused {
            if std::mem::take(&mut self.input) == Input::Ready {
                replies.extend(self.call(|handler, context| handler.on_resume(context, &mut ())));
            } else if let Some(text) = self.unread.pop_front() {
                replies
                    .extend(self.call(|handler, context| handler.on_message(context, &mut (), Message::text(&text))));
            } else {
                break;
            }
        }
        replies
    }

    fn user_command(&mut self, action: UserAction) -> Replies {
        let user_command = UserCommand { user: String::new(), client: None, action };
        let mut found = Vec::new();
        self.handler.find_connections(&user_command, &mut found);
        assert_eq!(found, [ID]);
        self.call(|handler, context| handler.on_user_command(context, &mut (), &user_command))
    }

    /// Advances the clock, and runs expired timers.
    fn advance(&mut self, ms: u64) -> Replies {
        self.clock.now_ms += ms;
        self.clock.unix_ms += ms;
        let mut replies = Vec::new();
        while !self.is_closed && self.timer_ms <= self.clock.now_ms {
            self.timer_ms = u64::MAX;
            replies.extend(self.call(|handler, context| handler.on_timer(context, &mut ())));
        }
        replies
    }

    /// The only request to the shard.
    #[track_caller]
    fn command(&mut self) -> ShardCommand {
        assert_eq!(self.commands.len(), 1, "{:?}", self.commands);
        self.commands.remove(0)
    }

    #[track_caller]
    fn subscribe_command(&mut self) -> Subscribe {
        match self.command() {
            ShardCommand::Subscribe(subscribe) => subscribe,
            other => panic!("not a subscription: {other:?}"),
        }
    }

    /// Answers the subscribe request: the subscription begins at `offset`.
    #[track_caller]
    fn confirm_subscribe(&mut self, offset: u64, recovery: Recovery) -> Replies {
        let Subscribe { topic, request_id, .. } = self.subscribe_command();
        self.answer(request_id.unwrap(), Answer::Subscribed { topic, position: position(offset), recovery })
    }

    #[track_caller]
    fn subscribe(&mut self, channel: &str) {
        let replies = self.send(&json!({"id": 9, "subscribe": {"channel": channel}}).to_string());
        assert_eq!(replies, [] as [Value; 0]);
        assert_eq!(self.confirm_subscribe(0, Recovery::NotAsked)[0]["id"], 9);
    }
}

/// The frames in `bytes`: text as JSON, binary as numbers, a close frame as its code.
fn frames(mut bytes: &[u8]) -> Replies {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (header, header_len) = FrameHeader::decode(bytes).unwrap().unwrap();
        let end = header_len + header.payload_len as usize;
        let payload = &bytes[header_len..end];
        frames.push(match header.opcode {
            Opcode::Text => serde_json::from_slice(payload).unwrap(),
            Opcode::Close => json!({"close": u16::from_be_bytes([payload[0], payload[1]])}),
            _ => json!(payload),
        });
        bytes = &bytes[end..];
    }
    frames
}

fn error(id: u32, code: u32) -> Replies {
    let message = match code {
        102 => "unknown channel",
        103 => "permission denied",
        105 => "already subscribed",
        106 => "limit exceeded",
        107 => "bad request",
        108 => "not available",
        109 => "token expired",
        110 => "expired",
        112 => "unrecoverable position",
        _ => panic!("{code}"),
    };
    vec![json!({"id": id, "error": {"code": code, "message": message}})]
}

fn closed(code: u16) -> Replies {
    vec![json!({"close": code})]
}

#[test]
fn a_conversation_begins_with_connect() {
    for first in [r#"{"id":1,"subscribe":{"channel":"a"}}"#, r#"{"send":{"data":1}}"#, "", "nonsense"] {
        assert_eq!(TestPeer::new(config(true)).send(first), closed(3501), "{first}");
    }
    let mut peer = TestPeer::new(config(true));
    let replies = peer.send(r#"{"id":1,"connect":{"name":"js"}}"#);
    let name = replies[0]["connect"]["client"].as_str().unwrap().to_owned();
    assert_eq!(name.len(), 36);
    let version = env!("CARGO_PKG_VERSION");
    let expected = json!({"id": 1, "connect": {"client": name, "version": version, "ping": 25, "pong": true}});
    assert_eq!(replies, [expected]);
    assert_eq!(peer.send("{}"), [] as [Value; 0], "a pong");
    assert_eq!(peer.send(r#"{"id":2,"connect":{}}"#), closed(3501), "only once");
}

#[test]
fn clients_without_a_valid_token_are_rejected() {
    let connect = |token: String| json!({"id": 1, "connect": {"token": token}}).to_string();
    assert_eq!(TestPeer::new(config(false)).send(r#"{"id":1,"connect":{}}"#), closed(3501), "anonymous");
    for anonymous in [false, true] {
        let mut peer = TestPeer::new(config(anonymous));
        assert_eq!(peer.send(&connect("x".to_owned())), closed(3500));
        let mut peer = TestPeer::new(config(anonymous));
        assert_eq!(peer.send(&connect(token(&json!({"sub": "42", "exp": NOW_S})))), error(1, 109));
        let again = connect(token(&json!({"sub": "42"})));
        assert_eq!(peer.send(&again), closed(3501), "it has received an error already");
    }
}

#[test]
fn a_client_that_does_not_connect_is_closed_after_a_timeout() {
    let mut peer = TestPeer::new(config(true));
    assert_eq!(peer.timer_ms, 500 + CENTRIFUGE_STALE_MS);
    assert_eq!(peer.advance(CENTRIFUGE_STALE_MS - 1), [] as [Value; 0]);
    assert_eq!(peer.advance(1), closed(3502));
    let mut peer = TestPeer::anonymous();
    assert_eq!(peer.advance(10 * CENTRIFUGE_STALE_MS), [] as [Value; 0]);
}

#[test]
fn a_ping_may_be_answered_before_connect() {
    let mut peer = TestPeer::new(config(true));
    assert_eq!(peer.send("{}"), [] as [Value; 0]);
    assert!(!peer.is_closed);
    assert!(peer.send(r#"{"id":1,"connect":{}}"#)[0]["connect"].is_object());
}

#[test]
fn the_client_selects_the_encoding() {
    let rows = [
        ("/connection/websocket", None, *JSON, None),
        ("/connection/websocket", Some("centrifuge-json"), *JSON, Some("centrifuge-json")),
        ("/connection/websocket", Some("x, centrifuge-protobuf"), *PROTOBUF, Some("centrifuge-protobuf")),
        ("/connection/websocket?format=protobuf", None, *PROTOBUF, None),
        ("/connection/websocket?a=b&cf_protocol=protobuf", None, *PROTOBUF, None),
        ("/connection/websocket", Some("mqtt"), *JSON, None),
    ];
    for (target, offered, encoding, subprotocol) in rows {
        let accept = TestPeer::new(config(true)).open(target, offered);
        assert_eq!(accept.encoding, encoding, "{target} {offered:?}");
        assert_eq!(accept.subprotocol.as_deref(), subprotocol, "{target} {offered:?}");
    }
    let mut peer = TestPeer::new(config(true));
    peer.open("/connection/websocket?cf_ws_frame_ping_pong=true", None);
    let replies = peer.send(r#"{"id":1,"connect":{}}"#);
    assert_eq!((&replies[0]["connect"]["ping"], &replies[0]["connect"]["pong"]), (&Value::Null, &Value::Null));
}

#[test]
fn protobuf_commands_get_protobuf_replies() {
    let mut peer = TestPeer::new(config(true));
    peer.open("/connection/websocket", Some("centrifuge-protobuf"));
    let mut send =
        |bytes: &[u8]| peer.call(|handler, context| handler.on_message(context, &mut (), Message::binary(bytes)));
    let replies = send(b"\x04\x08\x01\x22\x00\x04\x08\x02\x5a\x00");
    let reply = |index: usize| -> Vec<u8> { serde_json::from_value(replies[index].clone()).unwrap() };
    assert_eq!(reply(0)[1..5], [8, 1, 0x2a, reply(0).len() as u8 - 5]);
    assert_eq!(reply(1), b"\x15\x08\x02\x12\x11\x08\x6c\x12\x0dnot available");
    assert_eq!(send(b"\x01"), closed(3501));
}

#[test]
fn a_subscription_is_requested_and_confirmed() {
    let mut peer = TestPeer::anonymous();
    assert_eq!(peer.send(r#"{"id":2,"subscribe":{"channel":"news","flag":1}}"#), [] as [Value; 0]);
    let Subscribe { topic: subscribed, catch_up, presence, join_leave, request_id, .. } = peer.subscribe_command();
    assert_eq!((subscribed.as_str(), catch_up, presence, join_leave), ("news", CatchUp::None, None, false));
    let (subscribed, recovery) = (topic("news"), Recovery::NotAsked);
    let replies =
        peer.answer(request_id.unwrap(), Answer::Subscribed { topic: subscribed, position: position(4), recovery });
    assert_eq!(replies, [json!({"id": 2, "subscribe": {}})], "without history there is no position");

    assert_eq!(peer.send(r#"{"id":3,"subscribe":{"channel":"news"}}"#), error(3, 105));
    assert_eq!(peer.send(r#"{"id":4,"unsubscribe":{"channel":"news"}}"#), [json!({"id": 4, "unsubscribe": {}})]);
    assert!(matches!(peer.command(), ShardCommand::Unsubscribe(name) if name.as_str() == "news"));
    assert_eq!(peer.send(r#"{"id":5,"unsubscribe":{"channel":"news"}}"#), [json!({"id": 5, "unsubscribe": {}})]);
    assert!(peer.commands.is_empty(), "it is not subscribed");

    peer.send(r#"{"id":6,"subscribe":{"channel":"room:a","join_leave":true}}"#);
    let Subscribe { presence, join_leave, .. } = peer.subscribe_command();
    assert_eq!((presence.unwrap().client.len(), join_leave), (36, true));
}

#[test]
fn bad_subscriptions_are_rejected() {
    let rows = [
        (r#"{"channel":"a b"}"#, 107),
        (r#"{"channel":"/"}"#, 107),
        (r#"{"channel":"other:a"}"#, 102),
        (r#"{"channel":"private:a"}"#, 103),
        (r#"{"channel":"members:a"}"#, 103),
        (r#"{"channel":"a","type":1}"#, 108),
        (r#"{"channel":"a","tf":{"key":"x"}}"#, 107),
    ];
    for (request, code) in rows {
        let mut peer = TestPeer::anonymous();
        let text = format!(r#"{{"id":2,"subscribe":{request}}}"#);
        assert_eq!(peer.send(&text), error(2, code), "{request}");
        assert!(peer.commands.is_empty());
    }
    for request in [r#"{"channel":""}"#, r#"{"channel":"a","delta":"x"}"#] {
        let text = format!(r#"{{"id":2,"subscribe":{request}}}"#);
        assert_eq!(TestPeer::anonymous().send(&text), closed(3501), "{request}");
    }
    let mut peer = TestPeer::anonymous();
    for number in 0..CONN_TOPICS {
        peer.subscribe(&format!("t{number}"));
    }
    assert_eq!(peer.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#), error(2, 106));
    let mut peer = TestPeer::anonymous();
    peer.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    let Subscribe { topic, request_id, .. } = peer.subscribe_command();
    let answer = Answer::NotSubscribed { topic, error: PublishError::TooManyTopics };
    assert_eq!(peer.answer(request_id.unwrap(), answer), error(2, 106));
    peer.subscribe("a");
}

#[test]
fn missed_publications_are_in_the_reply() {
    let missed =
        vec![testing::body("history:a", position(5), 0, b"5"), testing::body("history:a", position(6), 0, b"6")];
    let publications = json!([{"data": 5, "offset": 5}, {"data": 6, "offset": 6}]);
    let since = |epoch| CatchUp::Since { epoch, offset: 4 };
    let common = json!({"recoverable": true, "positioned": true, "epoch": epoch()});
    let with = |more: Value| {
        let mut result = common.clone();
        result.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        vec![json!({"id": 2, "subscribe": result})]
    };
    let recovered = with(json!({
        "was_recovering": true, "recovered": true, "offset": 4, "publications": publications
    }));
    let e = epoch();
    let rows = [
        (json!({}), CatchUp::None, Recovery::NotAsked, with(json!({"offset": 6}))),
        (
            json!({"recover": true, "offset": 4, "epoch": e}),
            since(Some(Epoch::new(7))),
            Recovery::Recovered(missed.clone()),
            recovered.clone(),
        ),
        (json!({"recover": true, "offset": 4}), since(None), Recovery::Recovered(missed), recovered),
        (
            json!({"recover": true, "offset": 4, "epoch": "other"}),
            since(Some(Epoch::NEVER)),
            Recovery::Lost,
            with(json!({"was_recovering": true, "offset": 6})),
        ),
        (
            json!({"recover": true, "offset": 4, "epoch": e, "flag": 2}),
            since(Some(Epoch::new(7))),
            Recovery::Lost,
            error(2, 112),
        ),
    ];
    for (mut request, catch_up, recovery, expected) in rows {
        let mut peer = TestPeer::anonymous();
        request["channel"] = json!("history:a");
        peer.send(&json!({"id": 2, "subscribe": request}).to_string());
        let ShardCommand::Subscribe(subscribe) = &peer.commands[0] else { panic!("{:?}", peer.commands) };
        assert_eq!(subscribe.catch_up, catch_up, "{request}");
        let is_rejected = expected[0].get("error").is_some();
        assert_eq!(peer.confirm_subscribe(6, recovery), expected, "{request}");
        assert_eq!(matches!(&peer.commands[..], [ShardCommand::Unsubscribe(_)]), is_rejected, "{request}");
    }
}

#[test]
fn without_history_nothing_is_recovered() {
    let mut peer = TestPeer::anonymous();
    peer.send(r#"{"id":2,"subscribe":{"channel":"a","recover":true,"offset":4}}"#);
    let ShardCommand::Subscribe(subscribe) = &peer.commands[0] else { panic!("{:?}", peer.commands) };
    assert_eq!(subscribe.catch_up, CatchUp::None);
    assert_eq!(peer.confirm_subscribe(6, Recovery::NotAsked), [json!({"id": 2, "subscribe": {}})]);
}

#[test]
fn a_subscription_may_end_before_it_has_begun() {
    let mut peer = TestPeer::anonymous();
    peer.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    let first = peer.subscribe_command().request_id.unwrap();
    assert_eq!(peer.send(r#"{"id":3,"unsubscribe":{"channel":"a"}}"#), [] as [Value; 0]);
    assert!(peer.commands.is_empty(), "the subscription is still pending");
    assert_eq!(peer.send(r#"{"id":4,"subscribe":{"channel":"a"}}"#), [] as [Value; 0]);
    let second = peer.subscribe_command().request_id.unwrap();
    let subscribed = || Answer::Subscribed { topic: topic("a"), position: position(1), recovery: Recovery::NotAsked };
    let replies = peer.answer(first, subscribed());
    assert_eq!(replies, [json!({"id": 2, "subscribe": {}}), json!({"id": 3, "unsubscribe": {}})]);
    assert!(matches!(peer.command(), ShardCommand::Unsubscribe(_)));
    assert_eq!(peer.answer(second, subscribed()), [json!({"id": 4, "subscribe": {}})]);
    assert_eq!(peer.send(r#"{"id":5,"subscribe":{"channel":"a"}}"#), error(5, 105));
}

#[test]
fn publishing_requires_a_permission() {
    let publish = |channel: &str| json!({"id": 2, "publish": {"channel": channel, "data": {"x": 1}}}).to_string();
    let rows = [
        ("a", false, Some(103)),
        ("room:a", false, Some(103)),
        ("private:a", false, Some(103)),
        ("private:a", true, None),
        ("members:a", false, None),
        ("other:a", true, Some(102)),
        ("a,b", true, Some(107)),
    ];
    for (channel, is_user, code) in rows {
        let mut peer = if is_user {
            TestPeer::with_claims(&json!({"sub": "42", "info": {"n": 1}})).0
        } else {
            TestPeer::anonymous()
        };
        let replies = peer.send(&publish(channel));
        match code {
            Some(code) => assert_eq!(replies, error(2, code), "{channel} {is_user}"),
            None => {
                let ShardCommand::Publish { draft, request_id } = peer.command() else { panic!("{channel}") };
                assert_eq!((draft.topic.as_str(), draft.is_text, &*draft.payload), (channel, true, &br#"{"x":1}"#[..]));
                let info = draft.info.unwrap();
                assert_eq!(*info.user, *if is_user { "42" } else { "" });
                assert_eq!(info.conn_info.as_deref(), is_user.then_some(br#"{"n":1}"#.as_slice()));
                let replies = peer.answer(request_id.unwrap(), Answer::Published(Ok(position(1))));
                assert_eq!(replies, [json!({"id": 2, "publish": {}})]);
            }
        }
    }
    let mut peer = TestPeer::anonymous();
    peer.subscribe("room:a");
    peer.send(&publish("room:a"));
    let ShardCommand::Publish { request_id, .. } = peer.command() else { panic!("a subscriber may publish") };
    let replies = peer.answer(request_id.unwrap(), Answer::Published(Err(PublishError::Busy)));
    let expected = json!({"id": 2, "error": {"code": 100, "message": "internal server error", "temporary": true}});
    assert_eq!(replies, [expected]);
    assert_eq!(peer.send(r#"{"id":2,"publish":{"channel":"room:a"}}"#), error(2, 107), "nothing to publish");
    assert_eq!(peer.send(r#"{"id":2,"publish":{"channel":"room:a","data":1,"type":1}}"#), error(2, 108));
    assert_eq!(peer.send(r#"{"id":2,"publish":{"data":1}}"#), closed(3501));
}

#[test]
fn reading_a_history_requires_a_permission() {
    let history =
        r#"{"id":2,"history":{"channel":"history:a","limit":2,"since":{"offset":1,"epoch":"E"},"reverse":true}}"#;
    let history = history.replace('E', &epoch());
    let mut peer = TestPeer::anonymous();
    assert_eq!(peer.send(&history), error(2, 103), "for subscribers only");
    assert_eq!(peer.send(r#"{"id":2,"history":{"channel":"a"}}"#), error(2, 103));
    peer.subscribe("history:a");
    let nothing = history.replace(r#""offset":1"#, r#""offset":0"#);
    assert_eq!(peer.send(&nothing), error(2, 107), "nothing is before the first");
    assert_eq!(peer.send(&history), [] as [Value; 0]);
    let ShardCommand::Query { topic, query, request_id } = peer.command() else { panic!("not a query") };
    let (since, bytes_max) = (Some(position(1)), HISTORY_PAGE_BYTES);
    let expected = HistoryQuery { limit: 2, since, is_reverse: true, bytes_max };
    assert_eq!((topic.as_str(), query), ("history:a", Query::History(expected)));
    let publications = Some(vec![testing::body("history:a", position(3), 0, b"3")]);
    let replies = peer.answer(request_id, Answer::History(Some(HistoryPage { position: position(3), publications })));
    let expected = json!({"publications": [{"data": 3, "offset": 3}], "epoch": epoch(), "offset": 3});
    assert_eq!(replies, [json!({"id": 2, "history": expected})]);

    let mut ask = |answer| {
        peer.send(r#"{"id":3,"history":{"channel":"history:a","limit":-1}}"#);
        let ShardCommand::Query { request_id, .. } = peer.command() else { panic!("not a query") };
        peer.answer(request_id, answer)
    };
    let page = HistoryPage { position: position(3), publications: None };
    assert_eq!(ask(Answer::History(Some(page))), error(3, 112), "another epoch");
    let nothing = json!({"publications": [], "epoch": "", "offset": 0});
    assert_eq!(ask(Answer::History(None)), [json!({"id": 3, "history": nothing})]);
    assert_eq!(ask(Answer::Refused(PublishError::Busy))[0]["error"]["code"], 100);
}

#[test]
fn reading_presence_requires_a_permission() {
    let mut peer = TestPeer::anonymous();
    assert_eq!(peer.send(r#"{"id":2,"presence":{"channel":"a"}}"#), error(2, 103));
    let info = |client: &str, user: &str| {
        let (client, user) = (client.into(), user.into());
        Arc::new(topics::ClientInfo { client, user, conn_info: None, chan_info: Some(b"1".as_slice().into()) })
    };
    let present = vec![info("c1", "u"), info("c2", "u"), info("c3", "")];
    peer.send(r#"{"id":2,"presence":{"channel":"room:a"}}"#);
    let ShardCommand::Query { query: Query::Presence, request_id, .. } = peer.command() else { panic!("not a query") };
    let replies = peer.answer(request_id, Answer::Presence(present.clone()));
    assert_eq!(replies[0]["presence"]["presence"]["c2"], json!({"user": "u", "client": "c2", "chan_info": 1}));
    assert_eq!(replies[0]["presence"]["presence"].as_object().unwrap().len(), 3);
    peer.send(r#"{"id":3,"presence_stats":{"channel":"room:a"}}"#);
    let ShardCommand::Query { query: Query::Presence, request_id, .. } = peer.command() else { panic!("not a query") };
    let replies = peer.answer(request_id, Answer::Presence(present));
    assert_eq!(replies, [json!({"id": 3, "presence_stats": {"num_clients": 3, "num_users": 2}})]);
}

#[test]
fn unsupported_commands_are_not_available() {
    assert_eq!(TestPeer::anonymous().send(r#"{"id":2,"rpc":{"method":"m","data":1}}"#), error(2, 108));
    assert_eq!(TestPeer::anonymous().send(r#"{"id":2,"ping":{}}"#), error(2, 108));
    assert_eq!(TestPeer::anonymous().send(r#"{"send":{"data":1}}"#), closed(3508));
}

#[test]
fn commands_after_a_disconnect_are_ignored() {
    let mut peer = TestPeer::anonymous();
    let replies = peer.send("{\"id\":2,\"ping\":{}}\n{\"send\":{}}\n{\"id\":3,\"subscribe\":{\"channel\":\"a\"}}");
    assert_eq!(replies, [error(2, 108), closed(3508)].concat());
    assert!(peer.commands.is_empty());
}

#[test]
fn a_client_refreshes_its_token_or_is_closed() {
    let claims = |exp: u64, user: &str| json!({"sub": user, "exp": exp, "info": {"exp": exp}});
    let refresh = |exp, user: &str| json!({"id": 2, "refresh": {"token": token(&claims(exp, user))}}).to_string();
    let (mut peer, replies) = TestPeer::with_claims(&claims(NOW_S + 60, "42"));
    assert_eq!((&replies[0]["connect"]["expires"], &replies[0]["connect"]["ttl"]), (&json!(true), &json!(60)));
    assert_eq!(peer.advance(70_000), [] as [Value; 0], "within the grace period");
    let replies = peer.send(&refresh(NOW_S + 100, "42"));
    assert_eq!((&replies[0]["refresh"]["expires"], &replies[0]["refresh"]["ttl"]), (&json!(true), &json!(30)));
    assert_eq!(peer.advance(30_000 + TOKEN_GRACE_MS - 1), [] as [Value; 0]);
    assert_eq!(peer.advance(1), closed(3005));

    let rows = [(NOW_S - 1, "42", 3005), (NOW_S + 1, "43", 3500)];
    for (exp, user, code) in rows {
        let (mut peer, _) = TestPeer::with_claims(&claims(NOW_S + 60, "42"));
        assert_eq!(peer.send(&refresh(exp, user)), closed(code), "{exp} {user}");
    }
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42"}));
    assert_eq!(peer.send(&refresh(NOW_S + 60, "42")), closed(3501), "the token does not expire");
    let (mut peer, _) = TestPeer::with_claims(&claims(NOW_S + 60, "42"));
    let replies = peer.send(&json!({"id": 2, "refresh": {"token": token(&json!({"sub": "42"}))}}).to_string());
    assert_eq!(replies[0]["refresh"].get("expires"), None);
    assert_eq!(peer.advance(1_000_000), [] as [Value; 0], "the new token does not expire");
}

#[test]
fn a_subscription_lasts_as_long_as_its_token() {
    let claims = |exp: u64, user: &str, channel: &str| json!({"sub": user, "exp": exp, "channel": channel, "info": 5});
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42"}));
    let mut subscribe = |claims: &Value| {
        peer.send(&json!({"id": 2, "subscribe": {"channel": "private:a", "token": token(claims)}}).to_string())
    };
    assert_eq!(subscribe(&claims(NOW_S + 60, "43", "private:a")), error(2, 103), "another user's");
    assert_eq!(subscribe(&claims(NOW_S + 60, "42", "private:b")), error(2, 103), "for another channel");
    assert_eq!(subscribe(&claims(NOW_S, "42", "private:a")), error(2, 109));
    assert_eq!(subscribe(&claims(NOW_S + 60, "42", "private:a")), [] as [Value; 0]);
    let replies = peer.confirm_subscribe(0, Recovery::NotAsked);
    assert_eq!(replies, [json!({"id": 2, "subscribe": {"expires": true, "ttl": 60}})]);

    let refresh =
        |claims: &Value| json!({"id": 3, "sub_refresh": {"channel": "private:a", "token": token(claims)}}).to_string();
    assert_eq!(peer.advance(10_000), [] as [Value; 0]);
    let replies = peer.send(&refresh(&claims(NOW_S + 100, "42", "private:a")));
    assert_eq!(replies, [json!({"id": 3, "sub_refresh": {"expires": true, "ttl": 90}})]);
    assert_eq!(peer.send(&refresh(&claims(NOW_S, "42", "private:a"))), error(3, 110));
    assert_eq!(peer.send(r#"{"id":3,"sub_refresh":{"channel":"private:a"}}"#), error(3, 107));
    assert_eq!(peer.send(r#"{"id":3,"sub_refresh":{"channel":"b","token":"x"}}"#), error(3, 103));
    assert_eq!(peer.advance(90_000 + TOKEN_GRACE_MS - 1), [] as [Value; 0]);
    let unsubscribe = json!({"code": 2501, "reason": "subscription expired"});
    assert_eq!(peer.advance(1), [json!({"push": {"channel": "private:a", "unsubscribe": unsubscribe}})]);
    assert!(matches!(peer.command(), ShardCommand::Unsubscribe(name) if name.as_str() == "private:a"));
    assert_eq!(peer.timer_ms, u64::MAX);

    peer.subscribe("b");
    assert_eq!(
        peer.send(r#"{"id":3,"sub_refresh":{"channel":"b","token":"x"}}"#),
        closed(3501),
        "a subscription without a token does not expire"
    );
}

#[test]
fn a_token_subscribes_its_client() {
    let claims = json!({"sub": "42", "channels": ["history:a", "b", "b"]});
    let mut peer = TestPeer::new(config(false));
    let subs = json!({"history:a": {"recover": true, "offset": 2, "epoch": epoch()}});
    let connect = json!({"id": 1, "connect": {"token": token(&claims), "subs": subs}});
    let replies = peer.send(&format!("{connect}\n{}", r#"{"id":2,"ping":{}}"#));
    assert_eq!(replies, [] as [Value; 0], "all replies wait for the subscriptions");
    let mut commands = std::mem::take(&mut peer.commands).into_iter();
    assert!(matches!(commands.next(), Some(ShardCommand::PauseDelivery)), "and so do pushes");
    let subscribes: Vec<Subscribe> = commands
        .map(|command| match command {
            ShardCommand::Subscribe(subscribe) => subscribe,
            other => panic!("{other:?}"),
        })
        .collect();
    let [b, a] = &subscribes[..] else { panic!("{subscribes:?}") };
    assert_eq!((b.topic.as_str(), b.catch_up), ("b", CatchUp::None));
    let since = CatchUp::Since { epoch: Some(Epoch::new(7)), offset: 2 };
    assert_eq!((a.topic.as_str(), a.catch_up), ("history:a", since));

    let missed = vec![testing::body("history:a", position(3), 0, b"3")];
    let (topic, recovery) = (a.topic.clone(), Recovery::Recovered(missed));
    let replies = peer.answer(a.request_id.unwrap(), Answer::Subscribed { topic, position: position(3), recovery });
    assert_eq!((replies, peer.is_delivery_resumed), (vec![], false));
    let (topic, recovery) = (b.topic.clone(), Recovery::NotAsked);
    let replies = peer.answer(b.request_id.unwrap(), Answer::Subscribed { topic, position: position(9), recovery });
    assert!(peer.is_delivery_resumed);
    let recovered = json!({
        "recoverable": true, "positioned": true, "epoch": epoch(), "was_recovering": true, "recovered": true,
        "offset": 2, "publications": [{"data": 3, "offset": 3}]
    });
    assert_eq!(replies[0]["connect"]["subs"], json!({"history:a": recovered, "b": {}}));
    assert_eq!(replies[1..], error(2, 108));
    assert_eq!(peer.send(r#"{"id":3,"subscribe":{"channel":"b"}}"#), error(3, 105));
}

#[test]
fn a_token_with_impossible_channels_is_rejected() {
    let channels = |channels: Vec<String>| TestPeer::with_claims(&json!({"channels": channels})).1;
    assert_eq!(channels(vec!["a b".to_owned()]), error(1, 107));
    assert_eq!(channels(vec!["a".to_owned(), "other:a".to_owned()]), error(1, 102));
    let many = (0..=CONN_TOPICS).map(|number| format!("t{number}")).collect();
    assert_eq!(channels(many), closed(3505));
    let (mut peer, _) = TestPeer::with_claims(&json!({"channels": ["a"]}));
    assert!(matches!(peer.commands.remove(0), ShardCommand::PauseDelivery));
    let Subscribe { topic, request_id, .. } = peer.subscribe_command();
    let answer = Answer::NotSubscribed { topic, error: PublishError::Busy };
    assert_eq!(peer.answer(request_id.unwrap(), answer)[0], json!({"close": 3004}), "the client may reconnect");
}

#[test]
fn the_server_api_commands_connections() {
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    assert_eq!(
        peer.user_command(UserAction::Subscribe(topic("history:a"), SubscriptionTerms::default())),
        [] as [Value; 0]
    );
    let replies = peer.confirm_subscribe(3, Recovery::NotAsked);
    let subscribe = json!({"recoverable": true, "positioned": true, "epoch": epoch(), "offset": 3});
    assert_eq!(replies, [json!({"push": {"channel": "history:a", "subscribe": subscribe}})]);
    assert_eq!(
        peer.user_command(UserAction::Subscribe(topic("history:a"), SubscriptionTerms::default())),
        [] as [Value; 0]
    );
    assert!(peer.commands.is_empty(), "it has subscribed already");

    let replies = peer.user_command(UserAction::Unsubscribe(topic("history:a")));
    let unsubscribe = json!({"code": 2000, "reason": "server unsubscribe"});
    assert_eq!(replies, [json!({"push": {"channel": "history:a", "unsubscribe": unsubscribe}})]);
    assert!(matches!(peer.command(), ShardCommand::Unsubscribe(_)));
    assert_eq!(peer.user_command(UserAction::Unsubscribe(topic("history:a"))), [] as [Value; 0]);

    let replies = peer.user_command(UserAction::Refresh { is_expired: false, expire_at: Some(NOW_S + 100) });
    assert_eq!(replies, [json!({"push": {"refresh": {"expires": true, "ttl": 100}}})]);
    assert_eq!(peer.advance(100_000 + TOKEN_GRACE_MS - 1), [] as [Value; 0]);
    assert_eq!(peer.user_command(UserAction::Refresh { is_expired: true, expire_at: None }), closed(3005));
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42"}));
    let disconnect = UserAction::Disconnect { code: CloseCode(3503), reason: "force disconnect".to_owned() };
    assert_eq!(peer.user_command(disconnect.clone()), closed(3503));

    let (mut peer, replies) = TestPeer::with_claims(&json!({"sub": "42"}));
    let client = replies[0]["connect"]["client"].as_str().unwrap();
    for (client, user, is_addressed) in [(client, "42", true), ("another", "42", false), (client, "43", false)] {
        let user_command =
            UserCommand { user: user.to_owned(), client: Some(client.to_owned()), action: disconnect.clone() };
        let mut found = Vec::new();
        peer.handler.find_connections(&user_command, &mut found);
        let mut replies = Vec::new();
        for _ in found {
            replies.extend(peer.call(|handler, context| handler.on_user_command(context, &mut (), &user_command)));
        }
        assert_eq!(!replies.is_empty(), is_addressed, "{user_command:?}");
    }
}

#[test]
fn a_stopping_server_closes_with_its_code() {
    let mut peer = TestPeer::anonymous();
    assert_eq!(peer.call(|handler, context| handler.on_drain(context, &mut ())), closed(3001));
}

#[test]
fn a_connection_that_ended_is_forgotten() {
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    peer.send(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    let request_id = peer.subscribe_command().request_id.unwrap();
    peer.call(|handler, context| handler.on_close(context, (), CloseCause::PeerLost));
    let answer = Answer::Subscribed { topic: topic("a"), position: position(1), recovery: Recovery::NotAsked };
    assert_eq!(peer.answer(request_id, answer), [] as [Value; 0]);
    assert_eq!(peer.send(r#"{"id":2,"ping":{}}"#), [] as [Value; 0]);
    assert_eq!(peer.advance(1_000_000), [] as [Value; 0]);
}

/// The ids of the pending requests to home shards.
fn request_ids(peer: &mut TestPeer) -> Vec<u32> {
    let request_id = |command: &ShardCommand| match command {
        ShardCommand::Query { request_id, .. } => Some(*request_id),
        ShardCommand::Subscribe(Subscribe { request_id, .. }) | ShardCommand::Publish { request_id, .. } => *request_id,
        ShardCommand::Unsubscribe(_) | ShardCommand::Encode { .. } | ShardCommand::PauseDelivery => None,
    };
    let ids = peer.commands.iter().filter_map(request_id).collect();
    peer.commands.clear();
    ids
}

fn many(count: usize, command: impl Fn(usize) -> String) -> String {
    (0..count).map(|index| format!(r#"{{"id":{},{}}}"#, index + 10, command(index))).collect::<Vec<_>>().join("\n")
}

#[test]
fn requests_wait_for_answers_and_get_replies_in_their_order() {
    let history = |_| r#""history":{"channel":"history:a","limit":9}"#.to_owned();
    let presence = |_| r#""presence":{"channel":"room:a"}"#.to_owned();
    let stats = |_| r#""presence_stats":{"channel":"room:a"}"#.to_owned();
    let publish = |_| r#""publish":{"channel":"members:a","data":1}"#.to_owned();
    let rows: [(&dyn Fn(usize) -> String, usize); 4] = [(&history, 2), (&presence, 1), (&stats, 2), (&publish, 32)];
    for (command, most) in rows {
        let mut peer = TestPeer::anonymous();
        peer.subscribe("history:a");
        assert_eq!(peer.send(&many(100, command)), [] as [Value; 0]);
        assert_eq!(peer.send(r#"{"id":1000,"ping":{}}"#), [] as [Value; 0], "later commands wait as well");
        let (mut waiting, mut replies) = (VecDeque::new(), Vec::new());
        loop {
            let answer = if most == 32 { Answer::Published(Ok(position(1))) } else { Answer::History(None) };
            waiting.extend(request_ids(&mut peer));
            assert!(waiting.len() <= most, "{} requests are pending: {}", waiting.len(), command(0));
            let Some(request_id) = waiting.pop_front() else { break };
            replies.extend(peer.answer(request_id, answer));
        }
        let mut ids: Vec<u64> = replies.iter().filter_map(|reply| reply["id"].as_u64()).collect();
        // It needs no answer of a home shard.
        let place = ids.iter().position(|id| *id == 1000).expect("the ping has a reply");
        ids.remove(place);
        assert!(place >= 100 - most && ids == (10..110).collect::<Vec<_>>(), "{place} {ids:?} {}", command(0));
    }
}

#[test]
fn the_commands_of_a_client_in_a_turn_have_a_limit() {
    let mut peer = TestPeer::anonymous();
    let text = many(100, |_| r#""ping":{}"#.to_owned());
    let mut turns =
        vec![peer.call(|handler, context| handler.on_message(context, &mut (), Message::text(&text))).len()];
    while std::mem::take(&mut peer.input) == Input::Ready {
        turns.push(peer.call(|handler, context| handler.on_resume(context, &mut ())).len());
    }
    assert_eq!(turns, [32, 32, 32, 4]);
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    let refresh = json!({"token": token(&json!({"sub": "42", "exp": NOW_S + 60}))}).to_string();
    let text = many(5, |_| format!(r#""refresh":{refresh}"#));
    let replies = peer.call(|handler, context| handler.on_message(context, &mut (), Message::text(&text)));
    assert_eq!(replies.len(), 4, "a signature takes longer to check");
}

#[test]
fn a_channel_that_ends_makes_room_for_another_in_the_same_message() {
    let mut peer = TestPeer::anonymous();
    // More than a connection may have in total, but not at once.
    let pairs = |number: usize| {
        let name = if number.is_multiple_of(2) { "subscribe" } else { "unsubscribe" };
        format!(r#""{name}":{{"channel":"t{}"}}"#, number / 2)
    };
    let (mut replies, mut open) = (peer.send(&many(2 * CONN_TOPICS + 1, pairs)), VecDeque::new());
    loop {
        open.extend(std::mem::take(&mut peer.commands));
        let Some(command) = open.pop_front() else { break };
        if let Some((request_id, answer)) = any_answer(command, 2) {
            replies.extend(peer.answer(request_id, answer));
        }
    }
    assert_eq!(replies.len(), 2 * CONN_TOPICS + 1);
    assert!(replies.iter().all(|reply| reply.get("error").is_none()), "{replies:?}");
}

#[test]
fn the_rest_of_a_message_is_dropped_when_the_connection_ends() {
    let mut peer = TestPeer::anonymous();
    let text = many(100, |_| r#""presence":{"channel":"room:a"}"#.to_owned());
    assert_eq!(peer.send(&text), [] as [Value; 0]);
    let ids = request_ids(&mut peer);
    peer.call(|handler, context| handler.on_close(context, (), CloseCause::PeerLost));
    assert_eq!(peer.answer(ids[0], Answer::Presence(Vec::new())), [] as [Value; 0]);
    assert!(peer.commands.is_empty() && peer.input == Input::Paused);
}

#[test]
fn a_tokens_recovery_has_a_limit_over_all_its_channels() {
    let claims = json!({"sub": "42", "channels": ["history:a", "history:b", "history:c"]});
    let since = json!({"recover": true, "offset": 2, "epoch": epoch()});
    let subs = json!({"history:a": since, "history:b": since, "history:c": since});
    let mut peer = TestPeer::new(config(false));
    peer.send(&json!({"id": 1, "connect": {"token": token(&claims), "subs": subs}}).to_string());
    let payload = "x".repeat(CONNECT_RECOVERY_BYTES_MAX * 2 / 3);
    let (sizes, mut replies) = ([&payload[..], "1", &payload[..]], Vec::new());
    for (request_id, text) in request_ids(&mut peer).into_iter().zip(sizes) {
        let missed = vec![testing::body("history:a", position(3), 0, text.as_bytes())];
        let answer = Answer::Subscribed {
            topic: topic("history:a"),
            position: position(3),
            recovery: Recovery::Recovered(missed),
        };
        replies.extend(peer.answer(request_id, answer));
    }
    let subs = replies[0]["connect"]["subs"].as_object().unwrap();
    let recovered = subs.values().map(|sub| sub["recovered"] == true).filter(|recovered| *recovered).count();
    assert_eq!((subs.len(), recovered), (3, 2), "the third would exceed the limit");
}

#[test]
fn presence_that_is_too_large_to_list_is_still_counted() {
    let mut peer = TestPeer::anonymous();
    let info = |number: usize, bytes: usize| {
        let (client, user) = (format!("c{number}").into(), "u".into());
        Arc::new(topics::ClientInfo { client, user, conn_info: Some(vec![b'1'; bytes].into()), chan_info: None })
    };
    let many: Vec<_> = (0..100).map(|number| info(number, PRESENCE_ANSWER_BYTES_MAX / 100)).collect();
    peer.send(r#"{"id":2,"presence":{"channel":"room:a"}}"#);
    let request_id = request_ids(&mut peer)[0];
    assert_eq!(peer.answer(request_id, Answer::Presence(many.clone())), error(2, 106));
    peer.send(r#"{"id":3,"presence_stats":{"channel":"room:a"}}"#);
    let request_id = request_ids(&mut peer)[0];
    let replies = peer.answer(request_id, Answer::Presence(many));
    assert_eq!(replies, [json!({"id": 3, "presence_stats": {"num_clients": 100, "num_users": 1}})]);
}

#[test]
fn a_channel_boundary_limits_access() {
    let asks = [
        ("subscribe", "dialog#42", r#""#),
        ("subscribe", "dialog#7#42", r#""#),
        ("subscribe", "$private", r#""#),
        ("publish", "members:dialog#42", r#","data":1"#),
        ("publish", "$members:a", r#","data":1"#),
        ("presence", "room:dialog#42", ""),
        ("presence_stats", "$room:a", ""),
    ];
    let send = |peer: &mut TestPeer, (name, channel, more): (&str, &str, &str)| {
        peer.send(&format!(r#"{{"id":2,"{name}":{{"channel":"{channel}"{more}}}}}"#))
    };
    for (index, ask) in asks.into_iter().enumerate() {
        for claims in [json!({}), json!({"sub": "7"})] {
            let (mut peer, _) = TestPeer::with_claims(&claims);
            assert_eq!(send(&mut peer, ask), error(2, 103), "{ask:?} as {claims}");
            assert!(peer.commands.is_empty());
        }
        let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42"}));
        let is_listed = send(&mut peer, ask) == [] as [Value; 0];
        assert_eq!(is_listed, [true, true, false, true, false, true, false][index], "{ask:?}");
    }
    // A subscription by a token or by the server API remains valid.
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "7"}));
    let allowed = token(&json!({"sub": "7", "channel": "$room:a"}));
    peer.send(&json!({"id": 2, "subscribe": {"channel": "$room:a", "token": allowed}}).to_string());
    assert_eq!(peer.confirm_subscribe(0, Recovery::NotAsked)[0]["id"], 2);
    assert_eq!(send(&mut peer, ("presence", "$room:a", "")), [] as [Value; 0]);
    peer.user_command(UserAction::Subscribe(topic("dialog#42"), SubscriptionTerms::default()));
    peer.commands.remove(0);
    assert_eq!(peer.confirm_subscribe(0, Recovery::NotAsked)[0]["push"]["channel"], "dialog#42");
}

#[test]
fn the_server_api_subscribes_on_terms() {
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42"}));
    let (info, data) = (Bytes::from_static(b"{\"n\":1}"), Bytes::from_static(b"[2]"));
    let terms = SubscriptionTerms { info, data, expire_at: Some(NOW_S + 100) };
    assert_eq!(peer.user_command(UserAction::Subscribe(topic("room:a"), terms)), [] as [Value; 0]);
    let Subscribe { topic, request_id, presence, .. } = peer.subscribe_command();
    assert_eq!(presence.unwrap().chan_info.as_deref(), Some(&b"{\"n\":1}"[..]));
    let answer = Answer::Subscribed { topic, position: position(0), recovery: Recovery::NotAsked };
    let replies = peer.answer(request_id.unwrap(), answer);
    assert_eq!(replies, [json!({"push": {"channel": "room:a", "subscribe": {"data": [2]}}})]);
    assert_eq!(peer.advance(100_000 + TOKEN_GRACE_MS - 1), [] as [Value; 0]);
    let unsubscribe = json!({"code": 2501, "reason": "subscription expired"});
    assert_eq!(peer.advance(1), [json!({"push": {"channel": "room:a", "unsubscribe": unsubscribe}})]);
}

#[test]
fn a_token_is_valid_only_for_its_purpose() {
    let connect = |claims: &Value| json!({"id": 1, "connect": {"token": token(claims)}}).to_string();
    let of_subscription = json!({"sub": "42", "channel": "private:a"});
    assert_eq!(TestPeer::new(config(true)).send(&connect(&of_subscription)), closed(3500));
    assert_eq!(TestPeer::new(config(true)).send(&connect(&json!({"sub": "42", "subs": {"a": {}}}))), closed(3500));
    let (mut peer, _) = TestPeer::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    let refresh = json!({"id": 2, "refresh": {"token": token(&of_subscription)}}).to_string();
    assert_eq!(peer.send(&refresh), closed(3500));

    let (mut peer, replies) = TestPeer::with_claims(&json!({"sub": "42", "expire_at": NOW_S + 30, "exp": NOW_S + 60}));
    assert_eq!(replies[0]["connect"]["ttl"], 30);
    let client = replies[0]["connect"]["client"].as_str().unwrap().to_owned();
    let mut subscribe = |client: &str, more: Value| {
        let mut claims = json!({"sub": "42", "channel": "private:a", "client": client});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        peer.send(&json!({"id": 2, "subscribe": {"channel": "private:a", "token": token(&claims)}}).to_string())
    };
    assert_eq!(subscribe("another", json!({})), error(2, 103));
    assert_eq!(subscribe(&client, json!({"override": {"presence": {"value": true}}})), error(2, 103));
    assert_eq!(subscribe(&client, json!({"expire_at": NOW_S + 20, "b64info": "MTI="})), [] as [Value; 0]);
    let replies = peer.confirm_subscribe(0, Recovery::NotAsked);
    assert_eq!(replies, [json!({"id": 2, "subscribe": {"expires": true, "ttl": 20}})]);
    peer.advance(20_000 + TOKEN_GRACE_MS);
    assert!(!peer.is_closed);
    peer.advance(10_000);
    assert!(peer.is_closed, "the connection expires with its token as well");
}

/// A command of a client, without its id.
fn any_request() -> impl Strategy<Value = String> {
    let channel = prop_oneof![Just("a"), Just("history:a"), Just("room:a"), Just("private:a"), Just("x:y"), Just("/")];
    (0..9_usize, channel).prop_map(|(kind, channel)| {
        let about = |name: &str, more: &str| format!(r#""{name}":{{"channel":"{channel}"{more}}}"#);
        match kind {
            0 | 1 => about("subscribe", r#","recover":true,"offset":1"#),
            2 | 3 => about("unsubscribe", ""),
            4 => about("publish", r#","data":1"#),
            5 => about("presence", ""),
            6 => about("presence_stats", ""),
            7 => about("history", ""),
            _ => r#""ping":{}"#.to_owned(),
        }
    })
}

/// An answer of a home shard.
fn any_answer(command: ShardCommand, outcome: u8) -> Option<(u32, Answer)> {
    let error = PublishError::Busy;
    match command {
        ShardCommand::Subscribe(Subscribe { topic, request_id, .. }) if outcome == 0 => {
            Some((request_id?, Answer::NotSubscribed { topic, error }))
        }
        ShardCommand::Subscribe(Subscribe { topic, request_id, catch_up, .. }) => {
            let recovery = match catch_up {
                CatchUp::None => Recovery::NotAsked,
                _ if outcome == 1 => Recovery::Lost,
                _ => Recovery::Recovered(vec![testing::body("a", position(2), 0, b"2")]),
            };
            Some((request_id?, Answer::Subscribed { topic, position: position(2), recovery }))
        }
        ShardCommand::Publish { request_id, .. } if outcome == 0 => Some((request_id?, Answer::Published(Err(error)))),
        ShardCommand::Publish { request_id, .. } => Some((request_id?, Answer::Published(Ok(position(3))))),
        ShardCommand::Query { request_id, .. } if outcome == 0 => Some((request_id, Answer::Refused(error))),
        ShardCommand::Query { query: Query::History(_), request_id, .. } => Some((request_id, Answer::History(None))),
        ShardCommand::Query { request_id, .. } => Some((request_id, Answer::Presence(Vec::new()))),
        ShardCommand::Unsubscribe(_) | ShardCommand::Encode { .. } | ShardCommand::PauseDelivery => None,
    }
}

proptest! {
    /// For any order of commands and any answers: each command has one reply, and the handler's subscriptions match the
    /// shard's.
    #[test]
    fn every_command_has_one_reply(
        requests in proptest::collection::vec((any_request(), 0..3_usize, 0..4_u8), 1..40),
    ) {
        let mut peer = TestPeer::anonymous();
        let (mut open, mut replies, mut subscribed) = (Vec::new(), Vec::new(), BTreeSet::new());
        let note = |peer: &mut TestPeer, open: &mut Vec<ShardCommand>, subscribed: &mut BTreeSet<String>| {
            for command in peer.commands.drain(..) {
                match command {
                    ShardCommand::Unsubscribe(topic) => {
                        assert!(subscribed.remove(topic.as_str()), "not subscribed: {topic}");
                    }
                    other => open.push(other),
                }
            }
        };
        let answer = |peer: &mut TestPeer, command: ShardCommand, outcome, subscribed: &mut BTreeSet<String>| {
            let (request_id, answer) = any_answer(command, outcome).expect("the request has an id");
            if let Answer::Subscribed { topic, .. } = &answer {
                assert!(subscribed.insert(topic.to_string()), "subscribed twice: {topic}");
            }
            peer.answer(request_id, answer)
        };
        for (index, (request, answers, outcome)) in requests.iter().enumerate() {
            replies.extend(peer.send(&format!(r#"{{"id":{},{request}}}"#, index + 10)));
            note(&mut peer, &mut open, &mut subscribed);
            for _ in 0..*answers.min(&open.len()) {
                let command = open.remove(0);
                replies.extend(answer(&mut peer, command, *outcome, &mut subscribed));
                note(&mut peer, &mut open, &mut subscribed);
            }
        }
        while !open.is_empty() {
            let command = open.remove(0);
            replies.extend(answer(&mut peer, command, 2, &mut subscribed));
            note(&mut peer, &mut open, &mut subscribed);
        }
        let mut ids: Vec<u64> = replies.iter().filter_map(|reply| reply["id"].as_u64()).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (10..10 + requests.len() as u64).collect::<Vec<_>>());
        for name in ["a", "history:a", "room:a"] {
            let replies = peer.send(&json!({"id": 1000, "subscribe": {"channel": name}}).to_string());
            prop_assert_eq!(replies == error(1000, 105), subscribed.contains(name), "{}", name);
        }
    }
}
