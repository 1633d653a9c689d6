//! Conversations with the handler: what clients say, what it asks of topics' homes, and what clients are told.
//!
//! The homes' part is played by the tests.

use std::collections::VecDeque;
use std::sync::Arc;

use jsonwebtoken::{EncodingKey, Header, encode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::buf::ConnId;
use crate::conn::CloseCause;
use crate::gateway::{
    Accept, Clock, Command as Asked, Context, ContextParts, Handler, Input, Request as Handshake, Subscribe,
    UserAction, UserCommand,
};
use crate::limits::{
    CENTRIFUGE_STALE_MS, CONN_TOPICS_MAX, CONNECT_RECOVERY_BYTES_MAX, HISTORY_PAGE_BYTES, PRESENCE_ANSWER_BYTES_MAX,
    TOKEN_GRACE_MS,
};
use crate::proto::{CloseCode, FrameHeader, Message, Opcode, Upgrade, decode_request_head};
use crate::topics::{
    self, Allowed, Answer, CatchUp, Encoding, Epoch, HistoryPage, HistoryQuery, Namespace, Namespaces, Position,
    PublishError, Query, Recovery, TopicName, testing,
};

/// The time at which conversations begin, in seconds since 1970.
const NOW_S: u64 = 1_000_000;

const ID: ConnId = ConnId { slot: 5, generation: 1 };

/// A handler with one client.
struct Talk {
    handler: Centrifuge,
    clock: Clock,
    /// What the handler has asked of the shard since the last look.
    asked: Vec<Asked>,
    /// What a call has released.
    is_delivery_resumed: bool,
    is_closed: bool,
    /// Whether messages come.
    input: Input,
    /// Messages that wait, as in the shard.
    unread: VecDeque<String>,
}

/// What the client was told in one call: replies as JSON, and `{"close": code}`.
type Told = Vec<Value>;

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
    encode(&Header::default(), claims, &EncodingKey::from_secret(b"s3cret")).unwrap()
}

impl Talk {
    fn new(config: CentrifugeConfig) -> Talk {
        let clock = Clock { now_ms: 500, unix_ms: NOW_S * 1000, turn: 0 };
        let handler = Centrifuge::new(Arc::new(config));
        let (asked, unread) = (Vec::new(), VecDeque::new());
        let (is_delivery_resumed, is_closed, input) = (false, false, Input::Open);
        let mut talk = Talk { handler, clock, asked, is_delivery_resumed, is_closed, input, unread };
        talk.open("/connection/websocket", None);
        talk
    }

    /// A client that anybody may be, and that has connected.
    fn anonymous() -> Talk {
        let mut talk = Talk::new(config(true));
        talk.say(r#"{"id":1,"connect":{}}"#);
        talk
    }

    /// A client that has connected with such a token.
    fn with_claims(claims: &Value) -> (Talk, Told) {
        let mut talk = Talk::new(config(false));
        let told = talk.say(&json!({"id": 1, "connect": {"token": token(claims)}}).to_string());
        (talk, told)
    }

    fn open(&mut self, target: &str, subprotocol: Option<&str>) -> Accept {
        let offer = subprotocol.map_or(String::new(), |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
        let text = format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        );
        let (head, _) = decode_request_head(text.as_bytes()).unwrap().unwrap();
        let upgrade = Upgrade::from_request(&head).unwrap();
        let request = Handshake { rest: "", head: &head, upgrade: &upgrade };
        let mut accept = None;
        self.call(|handler, context| accept = handler.on_open(context, &request).ok());
        accept.expect("everybody may open a WebSocket")
    }

    /// Calls the handler; returns what the client was sent.
    fn call(&mut self, call: impl FnOnce(&mut Centrifuge, &mut Context<'_>)) -> Told {
        let mut out = Vec::new();
        self.clock.turn += 1;
        let mut context = Context::new(ContextParts {
            id: ID,
            clock: self.clock,
            out: &mut out,
            deflate: None,
            commands: &mut self.asked,
            subscriptions: 0,
            is_stream: false,
        });
        call(&mut self.handler, &mut context);
        self.is_delivery_resumed |= context.is_delivery_resumed();
        self.is_closed |= context.is_closed();
        self.input = context.input().unwrap_or(self.input);
        frames(&out)
    }

    /// What the client is told at once, and in turns that follow as long as nothing else has to happen.
    fn say(&mut self, text: &str) -> Told {
        self.unread.push_back(text.to_owned());
        self.go_on()
    }

    fn answer(&mut self, request_id: u32, answer: Answer) -> Told {
        let mut told = self.call(|handler, context| handler.on_answer(context, request_id, answer));
        told.extend(self.go_on());
        told
    }

    /// Takes turns as the shard does.
    fn go_on(&mut self) -> Told {
        let mut told = Vec::new();
        while !self.is_closed && self.input != Input::Paused {
            if std::mem::take(&mut self.input) == Input::Ready {
                told.extend(self.call(|handler, context| handler.on_resume(context)));
            } else if let Some(text) = self.unread.pop_front() {
                told.extend(self.call(|handler, context| handler.on_message(context, Message::text(&text))));
            } else {
                break;
            }
        }
        told
    }

    fn order(&mut self, action: UserAction) -> Told {
        let order = UserCommand { user: String::new(), client: None, action };
        let mut found = Vec::new();
        self.handler.find_connections(&order, &mut found);
        assert_eq!(found, [ID]);
        self.call(|handler, context| handler.on_user_command(context, &order))
    }

    /// Lets time pass, and the handler do what it has set timers for.
    fn pass(&mut self, ms: u64) -> Told {
        self.clock.now_ms += ms;
        self.clock.unix_ms += ms;
        let mut told = Vec::new();
        while !self.is_closed && self.handler.take_due(self.clock.now_ms).is_some() {
            told.extend(self.call(|handler, context| handler.on_timer(context)));
        }
        told
    }

    /// The one thing that was asked of the shard.
    #[track_caller]
    fn asked(&mut self) -> Asked {
        assert_eq!(self.asked.len(), 1, "{:?}", self.asked);
        self.asked.remove(0)
    }

    #[track_caller]
    fn asked_subscribe(&mut self) -> Subscribe {
        match self.asked() {
            Asked::Subscribe(subscribe) => subscribe,
            other => panic!("not a subscription: {other:?}"),
        }
    }

    /// Answers the subscription that was asked for: it begins at `offset`.
    #[track_caller]
    fn let_subscribe(&mut self, offset: u64, recovery: Recovery) -> Told {
        let Subscribe { topic, request_id, .. } = self.asked_subscribe();
        self.answer(request_id.unwrap(), Answer::Subscribed { topic, position: position(offset), recovery })
    }

    #[track_caller]
    fn subscribe(&mut self, channel: &str) {
        let told = self.say(&json!({"id": 9, "subscribe": {"channel": channel}}).to_string());
        assert_eq!(told, [] as [Value; 0]);
        assert_eq!(self.let_subscribe(0, Recovery::NotAsked)[0]["id"], 9);
    }
}

/// The frames in `bytes`: text as JSON, binary as numbers, a close frame as its code.
fn frames(mut bytes: &[u8]) -> Told {
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

fn error(id: u32, code: u32) -> Told {
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

fn closed(code: u16) -> Told {
    vec![json!({"close": code})]
}

#[test]
fn a_conversation_begins_with_connect() {
    for first in [r#"{"id":1,"subscribe":{"channel":"a"}}"#, "{}", r#"{"send":{"data":1}}"#, "", "nonsense"] {
        assert_eq!(Talk::new(config(true)).say(first), closed(3501), "{first}");
    }
    let mut talk = Talk::new(config(true));
    let told = talk.say(r#"{"id":1,"connect":{"name":"js"}}"#);
    let name = told[0]["connect"]["client"].as_str().unwrap().to_owned();
    assert_eq!(name.len(), 36);
    let version = env!("CARGO_PKG_VERSION");
    let expected = json!({"id": 1, "connect": {"client": name, "version": version, "ping": 25, "pong": true}});
    assert_eq!(told, [expected]);
    assert_eq!(talk.say("{}"), [] as [Value; 0], "a pong");
    assert_eq!(talk.say(r#"{"id":2,"connect":{}}"#), closed(3501), "only once");
}

#[test]
fn who_has_no_valid_token_is_refused() {
    let connect = |token: String| json!({"id": 1, "connect": {"token": token}}).to_string();
    assert_eq!(Talk::new(config(false)).say(r#"{"id":1,"connect":{}}"#), closed(3501), "anonymous");
    for anonymous in [false, true] {
        let mut talk = Talk::new(config(anonymous));
        assert_eq!(talk.say(&connect("x".to_owned())), closed(3500));
        let mut talk = Talk::new(config(anonymous));
        assert_eq!(talk.say(&connect(token(&json!({"sub": "42", "exp": NOW_S})))), error(1, 109));
        let again = connect(token(&json!({"sub": "42"})));
        assert_eq!(talk.say(&again), closed(3501), "it was told already");
    }
}

#[test]
fn who_does_not_connect_is_closed_in_time() {
    let mut talk = Talk::new(config(true));
    assert_eq!(talk.handler.deadline_ms(), Some(500 + CENTRIFUGE_STALE_MS));
    assert_eq!(talk.pass(CENTRIFUGE_STALE_MS - 1), [] as [Value; 0]);
    assert_eq!(talk.pass(1), closed(3502));
    let mut talk = Talk::anonymous();
    assert_eq!(talk.pass(10 * CENTRIFUGE_STALE_MS), [] as [Value; 0]);
}

#[test]
fn the_encoding_is_what_the_client_asks_for() {
    let rows = [
        ("/connection/websocket", None, Encoding::CentrifugeJson, None),
        ("/connection/websocket", Some("centrifuge-json"), Encoding::CentrifugeJson, Some("centrifuge-json")),
        (
            "/connection/websocket",
            Some("x, centrifuge-protobuf"),
            Encoding::CentrifugeProtobuf,
            Some("centrifuge-protobuf"),
        ),
        ("/connection/websocket?format=protobuf", None, Encoding::CentrifugeProtobuf, None),
        ("/connection/websocket?a=b&cf_protocol=protobuf", None, Encoding::CentrifugeProtobuf, None),
        ("/connection/websocket", Some("mqtt"), Encoding::CentrifugeJson, None),
    ];
    for (target, offered, encoding, subprotocol) in rows {
        let accept = Talk::new(config(true)).open(target, offered);
        assert_eq!(accept.encoding, encoding, "{target} {offered:?}");
        assert_eq!(accept.subprotocol.as_deref(), subprotocol, "{target} {offered:?}");
    }
    let mut talk = Talk::new(config(true));
    talk.open("/connection/websocket?cf_ws_frame_ping_pong=true", None);
    let told = talk.say(r#"{"id":1,"connect":{}}"#);
    assert_eq!((&told[0]["connect"]["ping"], &told[0]["connect"]["pong"]), (&Value::Null, &Value::Null));
}

#[test]
fn protobuf_is_spoken_as_well() {
    let mut talk = Talk::new(config(true));
    talk.open("/connection/websocket", Some("centrifuge-protobuf"));
    let mut say = |bytes: &[u8]| talk.call(|handler, context| handler.on_message(context, Message::binary(bytes)));
    let told = say(b"\x04\x08\x01\x22\x00\x04\x08\x02\x5a\x00");
    let reply = |index: usize| -> Vec<u8> { serde_json::from_value(told[index].clone()).unwrap() };
    assert_eq!(reply(0)[1..5], [8, 1, 0x2a, reply(0).len() as u8 - 5]);
    assert_eq!(reply(1), b"\x15\x08\x02\x12\x11\x08\x6c\x12\x0dnot available");
    assert_eq!(say(b"\x01"), closed(3501));
}

#[test]
fn subscriptions_are_asked_for_and_told_of() {
    let mut talk = Talk::anonymous();
    assert_eq!(talk.say(r#"{"id":2,"subscribe":{"channel":"news","flag":1}}"#), [] as [Value; 0]);
    let Subscribe { topic: asked, catch_up, presence, join_leave, request_id } = talk.asked_subscribe();
    assert_eq!((asked.as_str(), catch_up, presence, join_leave), ("news", CatchUp::None, None, false));
    let (asked, recovery) = (topic("news"), Recovery::NotAsked);
    let told = talk.answer(request_id.unwrap(), Answer::Subscribed { topic: asked, position: position(4), recovery });
    assert_eq!(told, [json!({"id": 2, "subscribe": {}})], "without history there is no position");

    assert_eq!(talk.say(r#"{"id":3,"subscribe":{"channel":"news"}}"#), error(3, 105));
    assert_eq!(talk.say(r#"{"id":4,"unsubscribe":{"channel":"news"}}"#), [json!({"id": 4, "unsubscribe": {}})]);
    assert!(matches!(talk.asked(), Asked::Unsubscribe(name) if name.as_str() == "news"));
    assert_eq!(talk.say(r#"{"id":5,"unsubscribe":{"channel":"news"}}"#), [json!({"id": 5, "unsubscribe": {}})]);
    assert!(talk.asked.is_empty(), "it is not subscribed");

    talk.say(r#"{"id":6,"subscribe":{"channel":"room:a","join_leave":true}}"#);
    let Subscribe { presence, join_leave, .. } = talk.asked_subscribe();
    assert_eq!((presence.unwrap().client.len(), join_leave), (36, true));
}

#[test]
fn bad_subscriptions_are_refused() {
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
        let mut talk = Talk::anonymous();
        let text = format!(r#"{{"id":2,"subscribe":{request}}}"#);
        assert_eq!(talk.say(&text), error(2, code), "{request}");
        assert!(talk.asked.is_empty());
    }
    for request in [r#"{"channel":""}"#, r#"{"channel":"a","delta":"x"}"#] {
        let text = format!(r#"{{"id":2,"subscribe":{request}}}"#);
        assert_eq!(Talk::anonymous().say(&text), closed(3501), "{request}");
    }
    let mut talk = Talk::anonymous();
    for number in 0..CONN_TOPICS_MAX {
        talk.subscribe(&format!("t{number}"));
    }
    assert_eq!(talk.say(r#"{"id":2,"subscribe":{"channel":"a"}}"#), error(2, 106));
    let mut talk = Talk::anonymous();
    talk.say(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    let Subscribe { topic, request_id, .. } = talk.asked_subscribe();
    let answer = Answer::NotSubscribed { topic, error: PublishError::TooManyTopics };
    assert_eq!(talk.answer(request_id.unwrap(), answer), error(2, 106));
    talk.subscribe("a");
}

#[test]
fn what_was_missed_is_in_the_reply() {
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
        let mut talk = Talk::anonymous();
        request["channel"] = json!("history:a");
        talk.say(&json!({"id": 2, "subscribe": request}).to_string());
        let Asked::Subscribe(subscribe) = &talk.asked[0] else { panic!("{:?}", talk.asked) };
        assert_eq!(subscribe.catch_up, catch_up, "{request}");
        let is_rejected = expected[0].get("error").is_some();
        assert_eq!(talk.let_subscribe(6, recovery), expected, "{request}");
        assert_eq!(matches!(&talk.asked[..], [Asked::Unsubscribe(_)]), is_rejected, "{request}");
    }
}

#[test]
fn where_no_history_is_kept_nothing_is_recovered() {
    let mut talk = Talk::anonymous();
    talk.say(r#"{"id":2,"subscribe":{"channel":"a","recover":true,"offset":4}}"#);
    let Asked::Subscribe(subscribe) = &talk.asked[0] else { panic!("{:?}", talk.asked) };
    assert_eq!(subscribe.catch_up, CatchUp::None);
    assert_eq!(talk.let_subscribe(6, Recovery::NotAsked), [json!({"id": 2, "subscribe": {}})]);
}

#[test]
fn a_subscription_may_end_before_it_has_begun() {
    let mut talk = Talk::anonymous();
    talk.say(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    let first = talk.asked_subscribe().request_id.unwrap();
    assert_eq!(talk.say(r#"{"id":3,"unsubscribe":{"channel":"a"}}"#), [] as [Value; 0]);
    assert!(talk.asked.is_empty(), "there is nothing to end");
    assert_eq!(talk.say(r#"{"id":4,"subscribe":{"channel":"a"}}"#), [] as [Value; 0]);
    let second = talk.asked_subscribe().request_id.unwrap();
    let subscribed = || Answer::Subscribed { topic: topic("a"), position: position(1), recovery: Recovery::NotAsked };
    let told = talk.answer(first, subscribed());
    assert_eq!(told, [json!({"id": 2, "subscribe": {}}), json!({"id": 3, "unsubscribe": {}})]);
    assert!(matches!(talk.asked(), Asked::Unsubscribe(_)));
    assert_eq!(talk.answer(second, subscribed()), [json!({"id": 4, "subscribe": {}})]);
    assert_eq!(talk.say(r#"{"id":5,"subscribe":{"channel":"a"}}"#), error(5, 105));
}

#[test]
fn publishing_is_for_those_who_may() {
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
        let mut talk =
            if is_user { Talk::with_claims(&json!({"sub": "42", "info": {"n": 1}})).0 } else { Talk::anonymous() };
        let told = talk.say(&publish(channel));
        match code {
            Some(code) => assert_eq!(told, error(2, code), "{channel} {is_user}"),
            None => {
                let Asked::Publish { draft, request_id } = talk.asked() else { panic!("{channel}") };
                assert_eq!((draft.topic.as_str(), draft.is_text, &*draft.payload), (channel, true, &br#"{"x":1}"#[..]));
                let info = draft.info.unwrap();
                assert_eq!(*info.user, *if is_user { "42" } else { "" });
                assert_eq!(info.conn_info.as_deref(), is_user.then_some(br#"{"n":1}"#.as_slice()));
                let told = talk.answer(request_id.unwrap(), Answer::Published(Ok(position(1))));
                assert_eq!(told, [json!({"id": 2, "publish": {}})]);
            }
        }
    }
    let mut talk = Talk::anonymous();
    talk.subscribe("room:a");
    talk.say(&publish("room:a"));
    let Asked::Publish { request_id, .. } = talk.asked() else { panic!("a subscriber may publish") };
    let told = talk.answer(request_id.unwrap(), Answer::Published(Err(PublishError::Busy)));
    let expected = json!({"id": 2, "error": {"code": 100, "message": "internal server error", "temporary": true}});
    assert_eq!(told, [expected]);
    assert_eq!(talk.say(r#"{"id":2,"publish":{"channel":"room:a"}}"#), error(2, 107), "nothing to publish");
    assert_eq!(talk.say(r#"{"id":2,"publish":{"channel":"room:a","data":1,"type":1}}"#), error(2, 108));
    assert_eq!(talk.say(r#"{"id":2,"publish":{"data":1}}"#), closed(3501));
}

#[test]
fn histories_are_read_by_those_who_may() {
    let history =
        r#"{"id":2,"history":{"channel":"history:a","limit":2,"since":{"offset":1,"epoch":"E"},"reverse":true}}"#;
    let history = history.replace('E', &epoch());
    let mut talk = Talk::anonymous();
    assert_eq!(talk.say(&history), error(2, 103), "for subscribers only");
    assert_eq!(talk.say(r#"{"id":2,"history":{"channel":"a"}}"#), error(2, 103));
    talk.subscribe("history:a");
    assert_eq!(talk.say(&history), [] as [Value; 0]);
    let Asked::Query { topic, query, request_id } = talk.asked() else { panic!("not a question") };
    let (since, bytes_max) = (Some(position(1)), HISTORY_PAGE_BYTES);
    let expected = HistoryQuery { limit: 2, since, is_reverse: true, bytes_max };
    assert_eq!((topic.as_str(), query), ("history:a", Query::History(expected)));
    let publications = Some(vec![testing::body("history:a", position(3), 0, b"3")]);
    let told = talk.answer(request_id, Answer::History(Some(HistoryPage { position: position(3), publications })));
    let expected = json!({"publications": [{"data": 3, "offset": 3}], "epoch": epoch(), "offset": 3});
    assert_eq!(told, [json!({"id": 2, "history": expected})]);

    let mut ask = |answer| {
        talk.say(r#"{"id":3,"history":{"channel":"history:a","limit":-1}}"#);
        let Asked::Query { request_id, .. } = talk.asked() else { panic!("not a question") };
        talk.answer(request_id, answer)
    };
    let page = HistoryPage { position: position(3), publications: None };
    assert_eq!(ask(Answer::History(Some(page))), error(3, 112), "another epoch");
    let nothing = json!({"publications": [], "epoch": "", "offset": 0});
    assert_eq!(ask(Answer::History(None)), [json!({"id": 3, "history": nothing})]);
    assert_eq!(ask(Answer::Refused(PublishError::Busy))[0]["error"]["code"], 100);
}

#[test]
fn presence_is_told_to_those_who_may_know() {
    let mut talk = Talk::anonymous();
    assert_eq!(talk.say(r#"{"id":2,"presence":{"channel":"a"}}"#), error(2, 103));
    let info = |client: &str, user: &str| {
        let (client, user) = (client.into(), user.into());
        Arc::new(topics::ClientInfo { client, user, conn_info: None, chan_info: Some(b"1".as_slice().into()) })
    };
    let present = vec![info("c1", "u"), info("c2", "u"), info("c3", "")];
    talk.say(r#"{"id":2,"presence":{"channel":"room:a"}}"#);
    let Asked::Query { query: Query::Presence, request_id, .. } = talk.asked() else { panic!("not a question") };
    let told = talk.answer(request_id, Answer::Presence(present.clone()));
    assert_eq!(told[0]["presence"]["presence"]["c2"], json!({"user": "u", "client": "c2", "chan_info": 1}));
    assert_eq!(told[0]["presence"]["presence"].as_object().unwrap().len(), 3);
    talk.say(r#"{"id":3,"presence_stats":{"channel":"room:a"}}"#);
    let Asked::Query { query: Query::Presence, request_id, .. } = talk.asked() else { panic!("not a question") };
    let told = talk.answer(request_id, Answer::Presence(present));
    assert_eq!(told, [json!({"id": 3, "presence_stats": {"num_clients": 3, "num_users": 2}})]);
}

#[test]
fn what_is_not_there_is_not_available() {
    assert_eq!(Talk::anonymous().say(r#"{"id":2,"rpc":{"method":"m","data":1}}"#), error(2, 108));
    assert_eq!(Talk::anonymous().say(r#"{"id":2,"ping":{}}"#), error(2, 108));
    assert_eq!(Talk::anonymous().say(r#"{"send":{"data":1}}"#), closed(3508));
}

#[test]
fn nothing_is_done_after_the_end() {
    let mut talk = Talk::anonymous();
    let told = talk.say("{\"id\":2,\"ping\":{}}\n{\"send\":{}}\n{\"id\":3,\"subscribe\":{\"channel\":\"a\"}}");
    assert_eq!(told, [error(2, 108), closed(3508)].concat());
    assert!(talk.asked.is_empty());
}

#[test]
fn a_token_is_refreshed_or_its_bearer_leaves() {
    let claims = |exp: u64, user: &str| json!({"sub": user, "exp": exp, "info": {"exp": exp}});
    let refresh = |exp, user: &str| json!({"id": 2, "refresh": {"token": token(&claims(exp, user))}}).to_string();
    let (mut talk, told) = Talk::with_claims(&claims(NOW_S + 60, "42"));
    assert_eq!((&told[0]["connect"]["expires"], &told[0]["connect"]["ttl"]), (&json!(true), &json!(60)));
    assert_eq!(talk.pass(70_000), [] as [Value; 0], "there is some time");
    let told = talk.say(&refresh(NOW_S + 100, "42"));
    assert_eq!((&told[0]["refresh"]["expires"], &told[0]["refresh"]["ttl"]), (&json!(true), &json!(30)));
    assert_eq!(talk.pass(30_000 + TOKEN_GRACE_MS - 1), [] as [Value; 0]);
    assert_eq!(talk.pass(1), closed(3005));

    let rows = [(NOW_S - 1, "42", 3005), (NOW_S + 1, "43", 3500)];
    for (exp, user, code) in rows {
        let (mut talk, _) = Talk::with_claims(&claims(NOW_S + 60, "42"));
        assert_eq!(talk.say(&refresh(exp, user)), closed(code), "{exp} {user}");
    }
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "42"}));
    assert_eq!(talk.say(&refresh(NOW_S + 60, "42")), closed(3501), "it lasts without end");
    let (mut talk, _) = Talk::with_claims(&claims(NOW_S + 60, "42"));
    let told = talk.say(&json!({"id": 2, "refresh": {"token": token(&json!({"sub": "42"}))}}).to_string());
    assert_eq!(told[0]["refresh"].get("expires"), None);
    assert_eq!(talk.pass(1_000_000), [] as [Value; 0], "now it does");
}

#[test]
fn a_subscription_lasts_as_long_as_its_token() {
    let claims = |exp: u64, user: &str, channel: &str| json!({"sub": user, "exp": exp, "channel": channel, "info": 5});
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "42"}));
    let mut subscribe = |claims: &Value| {
        talk.say(&json!({"id": 2, "subscribe": {"channel": "private:a", "token": token(claims)}}).to_string())
    };
    assert_eq!(subscribe(&claims(NOW_S + 60, "43", "private:a")), error(2, 103), "somebody else's");
    assert_eq!(subscribe(&claims(NOW_S + 60, "42", "private:b")), error(2, 103), "for something else");
    assert_eq!(subscribe(&claims(NOW_S, "42", "private:a")), error(2, 109));
    assert_eq!(subscribe(&claims(NOW_S + 60, "42", "private:a")), [] as [Value; 0]);
    let told = talk.let_subscribe(0, Recovery::NotAsked);
    assert_eq!(told, [json!({"id": 2, "subscribe": {"expires": true, "ttl": 60}})]);

    let refresh =
        |claims: &Value| json!({"id": 3, "sub_refresh": {"channel": "private:a", "token": token(claims)}}).to_string();
    assert_eq!(talk.pass(10_000), [] as [Value; 0]);
    let told = talk.say(&refresh(&claims(NOW_S + 100, "42", "private:a")));
    assert_eq!(told, [json!({"id": 3, "sub_refresh": {"expires": true, "ttl": 90}})]);
    assert_eq!(talk.say(&refresh(&claims(NOW_S, "42", "private:a"))), error(3, 110));
    assert_eq!(talk.say(r#"{"id":3,"sub_refresh":{"channel":"private:a"}}"#), error(3, 107));
    assert_eq!(talk.say(r#"{"id":3,"sub_refresh":{"channel":"b","token":"x"}}"#), error(3, 103));
    assert_eq!(talk.pass(90_000 + TOKEN_GRACE_MS - 1), [] as [Value; 0]);
    let unsubscribe = json!({"code": 2501, "reason": "subscription expired"});
    assert_eq!(talk.pass(1), [json!({"push": {"channel": "private:a", "unsubscribe": unsubscribe}})]);
    assert!(matches!(talk.asked(), Asked::Unsubscribe(name) if name.as_str() == "private:a"));
    assert_eq!(talk.handler.deadline_ms(), None);

    talk.subscribe("b");
    assert_eq!(talk.say(r#"{"id":3,"sub_refresh":{"channel":"b","token":"x"}}"#), closed(3501), "no token, no end");
}

#[test]
fn a_token_subscribes_its_bearer() {
    let claims = json!({"sub": "42", "channels": ["history:a", "b", "b"]});
    let mut talk = Talk::new(config(false));
    let subs = json!({"history:a": {"recover": true, "offset": 2, "epoch": epoch()}});
    let connect = json!({"id": 1, "connect": {"token": token(&claims), "subs": subs}});
    let told = talk.say(&format!("{connect}\n{}", r#"{"id":2,"ping":{}}"#));
    assert_eq!(told, [] as [Value; 0], "all waits for the subscriptions");
    let mut asked = std::mem::take(&mut talk.asked).into_iter();
    assert!(matches!(asked.next(), Some(Asked::PauseDelivery)), "and so do pushes");
    let subscribes: Vec<Subscribe> = asked
        .map(|asked| match asked {
            Asked::Subscribe(subscribe) => subscribe,
            other => panic!("{other:?}"),
        })
        .collect();
    let [b, a] = &subscribes[..] else { panic!("{subscribes:?}") };
    assert_eq!((b.topic.as_str(), b.catch_up), ("b", CatchUp::None));
    let since = CatchUp::Since { epoch: Some(Epoch::new(7)), offset: 2 };
    assert_eq!((a.topic.as_str(), a.catch_up), ("history:a", since));

    let missed = vec![testing::body("history:a", position(3), 0, b"3")];
    let (topic, recovery) = (a.topic.clone(), Recovery::Recovered(missed));
    let told = talk.answer(a.request_id.unwrap(), Answer::Subscribed { topic, position: position(3), recovery });
    assert_eq!((told, talk.is_delivery_resumed), (vec![], false));
    let (topic, recovery) = (b.topic.clone(), Recovery::NotAsked);
    let told = talk.answer(b.request_id.unwrap(), Answer::Subscribed { topic, position: position(9), recovery });
    assert!(talk.is_delivery_resumed);
    let recovered = json!({
        "recoverable": true, "positioned": true, "epoch": epoch(), "was_recovering": true, "recovered": true,
        "offset": 2, "publications": [{"data": 3, "offset": 3}]
    });
    assert_eq!(told[0]["connect"]["subs"], json!({"history:a": recovered, "b": {}}));
    assert_eq!(told[1..], error(2, 108));
    assert_eq!(talk.say(r#"{"id":3,"subscribe":{"channel":"b"}}"#), error(3, 105));
}

#[test]
fn a_token_that_subscribes_to_what_cannot_be_is_not_accepted() {
    let channels = |channels: Vec<String>| Talk::with_claims(&json!({"channels": channels})).1;
    assert_eq!(channels(vec!["a b".to_owned()]), error(1, 107));
    assert_eq!(channels(vec!["a".to_owned(), "other:a".to_owned()]), error(1, 102));
    let many = (0..=CONN_TOPICS_MAX).map(|number| format!("t{number}")).collect();
    assert_eq!(channels(many), closed(3505));
    let (mut talk, _) = Talk::with_claims(&json!({"channels": ["a"]}));
    assert!(matches!(talk.asked.remove(0), Asked::PauseDelivery));
    let Subscribe { topic, request_id, .. } = talk.asked_subscribe();
    let answer = Answer::NotSubscribed { topic, error: PublishError::Busy };
    assert_eq!(talk.answer(request_id.unwrap(), answer)[0], json!({"close": 3004}), "it may come back");
}

#[test]
fn the_servers_owner_has_a_say() {
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    assert_eq!(talk.order(UserAction::Subscribe(topic("history:a"))), [] as [Value; 0]);
    let told = talk.let_subscribe(3, Recovery::NotAsked);
    let subscribe = json!({"recoverable": true, "positioned": true, "epoch": epoch(), "offset": 3});
    assert_eq!(told, [json!({"push": {"channel": "history:a", "subscribe": subscribe}})]);
    assert_eq!(talk.order(UserAction::Subscribe(topic("history:a"))), [] as [Value; 0]);
    assert!(talk.asked.is_empty(), "it has subscribed already");

    let told = talk.order(UserAction::Unsubscribe(topic("history:a")));
    let unsubscribe = json!({"code": 2000, "reason": "server unsubscribe"});
    assert_eq!(told, [json!({"push": {"channel": "history:a", "unsubscribe": unsubscribe}})]);
    assert!(matches!(talk.asked(), Asked::Unsubscribe(_)));
    assert_eq!(talk.order(UserAction::Unsubscribe(topic("history:a"))), [] as [Value; 0]);

    let told = talk.order(UserAction::Refresh { is_expired: false, expire_at: Some(NOW_S + 100) });
    assert_eq!(told, [json!({"push": {"refresh": {"expires": true, "ttl": 100}}})]);
    assert_eq!(talk.pass(100_000 + TOKEN_GRACE_MS - 1), [] as [Value; 0]);
    assert_eq!(talk.order(UserAction::Refresh { is_expired: true, expire_at: None }), closed(3005));
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "42"}));
    let disconnect = UserAction::Disconnect { code: CloseCode(3503), reason: "force disconnect".to_owned() };
    assert_eq!(talk.order(disconnect.clone()), closed(3503));

    let (mut talk, told) = Talk::with_claims(&json!({"sub": "42"}));
    let client = told[0]["connect"]["client"].as_str().unwrap();
    for (client, user, is_meant) in [(client, "42", true), ("another", "42", false), (client, "43", false)] {
        let order = UserCommand { user: user.to_owned(), client: Some(client.to_owned()), action: disconnect.clone() };
        let mut found = Vec::new();
        talk.handler.find_connections(&order, &mut found);
        let mut told = Vec::new();
        for _ in found {
            told.extend(talk.call(|handler, context| handler.on_user_command(context, &order)));
        }
        assert_eq!(!told.is_empty(), is_meant, "{order:?}");
    }
}

#[test]
fn a_server_that_stops_says_so() {
    let mut talk = Talk::anonymous();
    assert_eq!(talk.call(|handler, context| handler.on_drain(context)), closed(3001));
}

#[test]
fn a_connection_that_ended_is_forgotten() {
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    talk.say(r#"{"id":2,"subscribe":{"channel":"a"}}"#);
    let request_id = talk.asked_subscribe().request_id.unwrap();
    talk.handler.on_close(ID, CloseCause::PeerLost);
    let answer = Answer::Subscribed { topic: topic("a"), position: position(1), recovery: Recovery::NotAsked };
    assert_eq!(talk.answer(request_id, answer), [] as [Value; 0]);
    assert_eq!(talk.say(r#"{"id":2,"ping":{}}"#), [] as [Value; 0]);
    assert_eq!(talk.pass(1_000_000), [] as [Value; 0]);
}

/// The questions that were asked of homes, and their tickets.
fn asked_tickets(talk: &mut Talk) -> Vec<u32> {
    let request_id = |asked: &Asked| match asked {
        Asked::Query { request_id, .. } => Some(*request_id),
        Asked::Subscribe(Subscribe { request_id, .. }) | Asked::Publish { request_id, .. } => *request_id,
        Asked::Unsubscribe(_) | Asked::PauseDelivery => None,
    };
    let tickets = talk.asked.iter().filter_map(request_id).collect();
    talk.asked.clear();
    tickets
}

fn many(count: usize, command: impl Fn(usize) -> String) -> String {
    (0..count).map(|index| format!(r#"{{"id":{},{}}}"#, index + 10, command(index))).collect::<Vec<_>>().join("\n")
}

#[test]
fn questions_wait_for_answers_and_are_answered_in_their_order() {
    let history = |_| r#""history":{"channel":"history:a","limit":9}"#.to_owned();
    let presence = |_| r#""presence":{"channel":"room:a"}"#.to_owned();
    let stats = |_| r#""presence_stats":{"channel":"room:a"}"#.to_owned();
    let publish = |_| r#""publish":{"channel":"members:a","data":1}"#.to_owned();
    let rows: [(&dyn Fn(usize) -> String, usize); 4] = [(&history, 2), (&presence, 1), (&stats, 2), (&publish, 32)];
    for (command, most) in rows {
        let mut talk = Talk::anonymous();
        talk.subscribe("history:a");
        assert_eq!(talk.say(&many(100, command)), [] as [Value; 0]);
        assert_eq!(talk.say(r#"{"id":1000,"ping":{}}"#), [] as [Value; 0], "what follows waits as well");
        let (mut waiting, mut told) = (VecDeque::new(), Vec::new());
        loop {
            let answer = if most == 32 { Answer::Published(Ok(position(1))) } else { Answer::History(None) };
            waiting.extend(asked_tickets(&mut talk));
            assert!(waiting.len() <= most, "{} are unanswered: {}", waiting.len(), command(0));
            let Some(request_id) = waiting.pop_front() else { break };
            told.extend(talk.answer(request_id, answer));
        }
        let mut ids: Vec<u64> = told.iter().filter_map(|reply| reply["id"].as_u64()).collect();
        // It needs no answer from elsewhere.
        let place = ids.iter().position(|id| *id == 1000).expect("it is answered");
        ids.remove(place);
        assert!(place >= 100 - most && ids == (10..110).collect::<Vec<_>>(), "{place} {ids:?} {}", command(0));
    }
}

#[test]
fn one_client_has_so_many_commands_dealt_with_in_a_turn() {
    let mut talk = Talk::anonymous();
    let text = many(100, |_| r#""ping":{}"#.to_owned());
    let mut turns = vec![talk.call(|handler, context| handler.on_message(context, Message::text(&text))).len()];
    while std::mem::take(&mut talk.input) == Input::Ready {
        turns.push(talk.call(|handler, context| handler.on_resume(context)).len());
    }
    assert_eq!(turns, [32, 32, 32, 4]);
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    let refresh = json!({"token": token(&json!({"sub": "42", "exp": NOW_S + 60}))}).to_string();
    let text = many(5, |_| format!(r#""refresh":{refresh}"#));
    let told = talk.call(|handler, context| handler.on_message(context, Message::text(&text)));
    assert_eq!(told.len(), 4, "a signature takes longer to check");
}

#[test]
fn a_channel_that_ends_makes_room_for_another_in_the_same_message() {
    let mut talk = Talk::anonymous();
    // More than a connection may have, but not at once.
    let pairs = |number: usize| {
        let name = if number.is_multiple_of(2) { "subscribe" } else { "unsubscribe" };
        format!(r#""{name}":{{"channel":"t{}"}}"#, number / 2)
    };
    let (mut told, mut open) = (talk.say(&many(2 * CONN_TOPICS_MAX + 1, pairs)), VecDeque::new());
    loop {
        open.extend(std::mem::take(&mut talk.asked));
        let Some(asked) = open.pop_front() else { break };
        if let Some((request_id, answer)) = any_answer(asked, 2) {
            told.extend(talk.answer(request_id, answer));
        }
    }
    assert_eq!(told.len(), 2 * CONN_TOPICS_MAX + 1);
    assert!(told.iter().all(|reply| reply.get("error").is_none()), "{told:?}");
}

#[test]
fn a_message_that_is_cut_short_by_the_end_is_not_gone_on_with() {
    let mut talk = Talk::anonymous();
    let text = many(100, |_| r#""presence":{"channel":"room:a"}"#.to_owned());
    assert_eq!(talk.say(&text), [] as [Value; 0]);
    let tickets = asked_tickets(&mut talk);
    talk.handler.on_close(ID, CloseCause::PeerLost);
    assert_eq!(talk.answer(tickets[0], Answer::Presence(Vec::new())), [] as [Value; 0]);
    assert!(talk.asked.is_empty() && talk.input == Input::Paused);
}

#[test]
fn what_a_token_recovers_is_bounded_over_all_its_channels() {
    let claims = json!({"sub": "42", "channels": ["history:a", "history:b", "history:c"]});
    let since = json!({"recover": true, "offset": 2, "epoch": epoch()});
    let subs = json!({"history:a": since, "history:b": since, "history:c": since});
    let mut talk = Talk::new(config(false));
    talk.say(&json!({"id": 1, "connect": {"token": token(&claims), "subs": subs}}).to_string());
    let payload = "x".repeat(CONNECT_RECOVERY_BYTES_MAX * 2 / 3);
    let (sizes, mut told) = ([&payload[..], "1", &payload[..]], Vec::new());
    for (request_id, text) in asked_tickets(&mut talk).into_iter().zip(sizes) {
        let missed = vec![testing::body("history:a", position(3), 0, text.as_bytes())];
        let answer = Answer::Subscribed {
            topic: topic("history:a"),
            position: position(3),
            recovery: Recovery::Recovered(missed),
        };
        told.extend(talk.answer(request_id, answer));
    }
    let subs = told[0]["connect"]["subs"].as_object().unwrap();
    let recovered = subs.values().map(|sub| sub["recovered"] == true).filter(|recovered| *recovered).count();
    assert_eq!((subs.len(), recovered), (3, 2), "the third would be too much");
}

#[test]
fn a_crowd_too_large_to_be_told_of_is_counted_all_the_same() {
    let mut talk = Talk::anonymous();
    let info = |number: usize, bytes: usize| {
        let (client, user) = (format!("c{number}").into(), "u".into());
        Arc::new(topics::ClientInfo { client, user, conn_info: Some(vec![b'1'; bytes].into()), chan_info: None })
    };
    let many: Vec<_> = (0..100).map(|number| info(number, PRESENCE_ANSWER_BYTES_MAX / 100)).collect();
    talk.say(r#"{"id":2,"presence":{"channel":"room:a"}}"#);
    let request_id = asked_tickets(&mut talk)[0];
    assert_eq!(talk.answer(request_id, Answer::Presence(many.clone())), error(2, 106));
    talk.say(r#"{"id":3,"presence_stats":{"channel":"room:a"}}"#);
    let request_id = asked_tickets(&mut talk)[0];
    let told = talk.answer(request_id, Answer::Presence(many));
    assert_eq!(told, [json!({"id": 3, "presence_stats": {"num_clients": 100, "num_users": 1}})]);
}

#[test]
fn a_name_that_is_not_for_everybody_is_not() {
    let asks = [
        ("subscribe", "dialog#42", r#""#),
        ("subscribe", "dialog#7#42", r#""#),
        ("subscribe", "$private", r#""#),
        ("publish", "members:dialog#42", r#","data":1"#),
        ("publish", "$members:a", r#","data":1"#),
        ("presence", "room:dialog#42", ""),
        ("presence_stats", "$room:a", ""),
    ];
    let say = |talk: &mut Talk, (name, channel, more): (&str, &str, &str)| {
        talk.say(&format!(r#"{{"id":2,"{name}":{{"channel":"{channel}"{more}}}}}"#))
    };
    for (index, ask) in asks.into_iter().enumerate() {
        for claims in [json!({}), json!({"sub": "7"})] {
            let (mut talk, _) = Talk::with_claims(&claims);
            assert_eq!(say(&mut talk, ask), error(2, 103), "{ask:?} as {claims}");
            assert!(talk.asked.is_empty());
        }
        let (mut talk, _) = Talk::with_claims(&json!({"sub": "42"}));
        let is_listed = say(&mut talk, ask) == [] as [Value; 0];
        assert_eq!(is_listed, [true, true, false, true, false, true, false][index], "{ask:?}");
    }
    // What a token or the server has opened stays open.
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "7"}));
    let allowed = token(&json!({"sub": "7", "channel": "$room:a"}));
    talk.say(&json!({"id": 2, "subscribe": {"channel": "$room:a", "token": allowed}}).to_string());
    assert_eq!(talk.let_subscribe(0, Recovery::NotAsked)[0]["id"], 2);
    assert_eq!(say(&mut talk, ("presence", "$room:a", "")), [] as [Value; 0]);
    talk.order(UserAction::Subscribe(topic("dialog#42")));
    talk.asked.remove(0);
    assert_eq!(talk.let_subscribe(0, Recovery::NotAsked)[0]["push"]["channel"], "dialog#42");
}

#[test]
fn a_token_is_good_for_what_it_was_made_for() {
    let connect = |claims: &Value| json!({"id": 1, "connect": {"token": token(claims)}}).to_string();
    let of_subscription = json!({"sub": "42", "channel": "private:a"});
    assert_eq!(Talk::new(config(true)).say(&connect(&of_subscription)), closed(3500));
    assert_eq!(Talk::new(config(true)).say(&connect(&json!({"sub": "42", "subs": {"a": {}}}))), closed(3500));
    let (mut talk, _) = Talk::with_claims(&json!({"sub": "42", "exp": NOW_S + 60}));
    let refresh = json!({"id": 2, "refresh": {"token": token(&of_subscription)}}).to_string();
    assert_eq!(talk.say(&refresh), closed(3500));

    let (mut talk, told) = Talk::with_claims(&json!({"sub": "42", "expire_at": NOW_S + 30, "exp": NOW_S + 60}));
    assert_eq!(told[0]["connect"]["ttl"], 30);
    let client = told[0]["connect"]["client"].as_str().unwrap().to_owned();
    let mut subscribe = |client: &str, more: Value| {
        let mut claims = json!({"sub": "42", "channel": "private:a", "client": client});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        talk.say(&json!({"id": 2, "subscribe": {"channel": "private:a", "token": token(&claims)}}).to_string())
    };
    assert_eq!(subscribe("another", json!({})), error(2, 103));
    assert_eq!(subscribe(&client, json!({"override": {"presence": {"value": true}}})), error(2, 103));
    assert_eq!(subscribe(&client, json!({"expire_at": NOW_S + 20, "b64info": "MTI="})), [] as [Value; 0]);
    let told = talk.let_subscribe(0, Recovery::NotAsked);
    assert_eq!(told, [json!({"id": 2, "subscribe": {"expires": true, "ttl": 20}})]);
    talk.pass(20_000 + TOKEN_GRACE_MS);
    assert!(!talk.is_closed);
    talk.pass(10_000);
    assert!(talk.is_closed, "the connection lasts no longer than its token says, either");
}

/// What a client might say, the id left open.
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

/// What a home might answer.
fn any_answer(asked: Asked, luck: u8) -> Option<(u32, Answer)> {
    let error = PublishError::Busy;
    match asked {
        Asked::Subscribe(Subscribe { topic, request_id, .. }) if luck == 0 => {
            Some((request_id?, Answer::NotSubscribed { topic, error }))
        }
        Asked::Subscribe(Subscribe { topic, request_id, catch_up, .. }) => {
            let recovery = match catch_up {
                CatchUp::None => Recovery::NotAsked,
                _ if luck == 1 => Recovery::Lost,
                _ => Recovery::Recovered(vec![testing::body("a", position(2), 0, b"2")]),
            };
            Some((request_id?, Answer::Subscribed { topic, position: position(2), recovery }))
        }
        Asked::Publish { request_id, .. } if luck == 0 => Some((request_id?, Answer::Published(Err(error)))),
        Asked::Publish { request_id, .. } => Some((request_id?, Answer::Published(Ok(position(3))))),
        Asked::Query { request_id, .. } if luck == 0 => Some((request_id, Answer::Refused(error))),
        Asked::Query { query: Query::History(_), request_id, .. } => Some((request_id, Answer::History(None))),
        Asked::Query { request_id, .. } => Some((request_id, Answer::Presence(Vec::new()))),
        Asked::Unsubscribe(_) | Asked::PauseDelivery => None,
    }
}

proptest! {
    /// Whatever is asked in whatever order, and however it goes: each command is answered once, and what the handler
    /// believes to be subscribed is.
    #[test]
    fn every_command_is_answered_once(
        requests in proptest::collection::vec((any_request(), 0..3_usize, 0..4_u8), 1..40),
    ) {
        let mut talk = Talk::anonymous();
        let (mut open, mut told, mut subscribed) = (Vec::new(), Vec::new(), std::collections::BTreeSet::new());
        let note = |talk: &mut Talk, open: &mut Vec<Asked>, subscribed: &mut std::collections::BTreeSet<String>| {
            for asked in talk.asked.drain(..) {
                match asked {
                    Asked::Unsubscribe(topic) => assert!(subscribed.remove(topic.as_str()), "{topic} was not there"),
                    other => open.push(other),
                }
            }
        };
        let answer = |talk: &mut Talk, asked: Asked, luck, subscribed: &mut std::collections::BTreeSet<String>| {
            let (request_id, answer) = any_answer(asked, luck).expect("it has a request_id");
            if let Answer::Subscribed { topic, .. } = &answer {
                assert!(subscribed.insert(topic.to_string()), "{topic} was there");
            }
            talk.answer(request_id, answer)
        };
        for (index, (request, answers, luck)) in requests.iter().enumerate() {
            told.extend(talk.say(&format!(r#"{{"id":{},{request}}}"#, index + 10)));
            note(&mut talk, &mut open, &mut subscribed);
            for _ in 0..*answers.min(&open.len()) {
                let asked = open.remove(0);
                told.extend(answer(&mut talk, asked, *luck, &mut subscribed));
                note(&mut talk, &mut open, &mut subscribed);
            }
        }
        while !open.is_empty() {
            let asked = open.remove(0);
            told.extend(answer(&mut talk, asked, 2, &mut subscribed));
            note(&mut talk, &mut open, &mut subscribed);
        }
        let mut ids: Vec<u64> = told.iter().filter_map(|reply| reply["id"].as_u64()).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (10..10 + requests.len() as u64).collect::<Vec<_>>());
        for name in ["a", "history:a", "room:a"] {
            let told = talk.say(&json!({"id": 1000, "subscribe": {"channel": name}}).to_string());
            prop_assert_eq!(told == error(1000, 105), subscribed.contains(name), "{}", name);
        }
    }
}
