//! A backend that answers at once, late, out of order or never, in virtual time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringfeed::gateway::Readers;
use ringfeed::gateway::centrifuge::{
    Backend, BackendAnswer, BackendCall, BackendMessage, BackendResult, CallKind, Centrifuge, CentrifugeConfig, Later,
    Responder, SubscriptionOptions,
};
use ringfeed::gateway::stomp::Stomp;
use ringfeed::testing::{Received, TestClient, TestServer};
use ringfeed::topics::Allowed;
use ringfeed::{Namespace, Namespaces, ServerConfig};
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Takes all calls. A test answers them when it likes.
#[derive(Debug, Default)]
struct Patient {
    calls: Mutex<VecDeque<(BackendCall, Responder)>>,
    /// Answers calls of this kind at once.
    at_once: Mutex<Option<(CallKind, BackendAnswer)>>,
}

impl Backend for Patient {
    fn answers(&self, _: CallKind) -> bool {
        true
    }

    fn call(&self, call: BackendCall, later: Later) -> Option<BackendAnswer> {
        let at_once = self.at_once.lock().unwrap();
        if let Some((_, answer)) = at_once.as_ref().filter(|(kind, _)| *kind == call.kind) {
            return Some(answer.clone());
        }
        self.calls.lock().unwrap().push_back((call, later.responder()));
        None
    }

    fn timeout(&self, _: CallKind) -> Duration {
        TIMEOUT
    }

    fn wants_header(&self, name: &str) -> bool {
        name == "cookie"
    }
}

impl Patient {
    /// The next call, which must have come.
    fn take(&self) -> (BackendCall, Responder) {
        self.calls.lock().unwrap().pop_front().expect("a call")
    }

    fn is_idle(&self) -> bool {
        self.calls.lock().unwrap().is_empty()
    }
}

struct World {
    server: TestServer,
    backend: Arc<Patient>,
}

impl World {
    fn start() -> World {
        let backend = Arc::new(Patient::default());
        let namespace = Namespace {
            subscribe: Allowed::Backend,
            publish: Allowed::Backend,
            history_size: 10,
            ..Namespace::default()
        };
        let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
        let config = CentrifugeConfig {
            namespaces: namespaces.clone(),
            backend: Some(backend.clone()),
            ping_interval_ms: 0,
            ..CentrifugeConfig::default()
        };
        let config = Arc::new(config);
        let mut server_config = ServerConfig { namespaces, ..ServerConfig::default() };
        server_config.keep_alive.ping_interval_ms = 0;
        let server = TestServer::builder().config(server_config).shards(2);
        let server = server.route("/c", move || Centrifuge::new(config.clone())).start();
        World { server, backend }
    }

    fn open(&self) -> TestClient {
        self.server.connect_with("/c", &[], &[("Cookie", "id=1"), ("X-Other", "2")]).unwrap()
    }

    /// A client of `user` that has connected.
    fn connected(&self, user: &str) -> TestClient {
        let mut client = self.open();
        client.send(r#"{"id":1,"connect":{}}"#);
        let (_, responder) = self.backend.take();
        responder.answer(BackendAnswer::result(BackendResult { user: user.into(), ..BackendResult::default() }));
        self.server.settle();
        assert!(reply(&mut client)["connect"].is_object());
        client
    }
}

/// The next reply.
fn reply(client: &mut TestClient) -> Value {
    match client.receive() {
        Some(Received::Text(text)) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn result() -> BackendAnswer {
    BackendAnswer::Result(None)
}

#[test]
fn a_connect_call_decides_on_the_client() {
    let World { server, backend } = World::start();
    let world = World { server: server.clone(), backend: backend.clone() };
    let mut client = world.open();
    client.send(r#"{"id":1,"connect":{"data":{"a":1},"name":"js","version":"5"}}"#);
    let (call, responder) = backend.take();
    assert_eq!((call.kind, call.protocol, &call.data[..]), (CallKind::Connect, "json", &b"{\"a\":1}"[..]));
    assert_eq!((call.name.as_deref(), call.version.as_deref()), (Some("js"), Some("5")));
    let headers: Vec<(&str, &str)> = call.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(headers, [("cookie", "id=1")], "only those that the backend wants");
    assert_eq!(client.receive(), None);
    let options = SubscriptionOptions { data: "[7]".into(), ..SubscriptionOptions::default() };
    responder.answer(BackendAnswer::result(BackendResult {
        user: "42".into(),
        data: "{\"hello\":1}".into(),
        channels: vec!["a".into()],
        subs: vec![("b".into(), options)],
        meta: "\"m\"".into(),
        ..BackendResult::default()
    }));
    server.settle();
    let connect = &reply(&mut client)["connect"];
    assert_eq!((&connect["client"], &connect["data"]), (&json!(call.client), &json!({"hello": 1})));
    assert_eq!(connect["subs"]["b"]["data"], json!([7]));
    assert!(connect["subs"]["a"].is_object(), "{connect}");
    client.send(r#"{"id":2,"rpc":{"method":"sum","data":[1,2]}}"#);
    let (call, responder) = backend.take();
    assert_eq!((&*call.user, call.method.as_deref(), &call.meta[..]), ("42", Some("sum"), &b"\"m\""[..]));
    assert_eq!(&call.data[..], b"[1,2]");
    responder.answer(BackendAnswer::result(BackendResult { data: "3".into(), ..BackendResult::default() }));
    server.settle();
    assert_eq!(reply(&mut client), json!({"id": 2, "rpc": {"data": 3}}));
}

/// Three clients, whose calls the backend answers in reverse: each receives its own answer, and its later commands wait
/// for it in order.
#[test]
fn commands_wait_for_their_own_answer_only() {
    let world = World::start();
    let mut clients = ["a", "b", "c"].map(|user| world.connected(user));
    for client in &mut clients {
        client.send("{\"id\":2,\"subscribe\":{\"channel\":\"x\"}}\n{\"id\":3,\"unsubscribe\":{\"channel\":\"x\"}}");
        client.send(r#"{"id":4,"rpc":{"method":"m"}}"#);
    }
    let mut calls: Vec<_> = (0..3).map(|_| world.backend.take()).collect();
    assert!(world.backend.is_idle(), "the calls of later commands wait");
    for (index, client) in clients.iter_mut().enumerate().rev() {
        let (call, responder) = calls.pop().unwrap();
        assert_eq!((&*call.user, call.channel.as_deref()), (["a", "b", "c"][index], Some("x")));
        responder.answer(result());
        world.server.settle();
        assert!(reply(client)["subscribe"].is_object());
        assert_eq!(reply(client), json!({"id": 3, "unsubscribe": {}}));
        let (call, responder) = world.backend.take();
        assert_eq!((call.kind, &*call.user), (CallKind::Rpc, ["a", "b", "c"][index]));
        responder.answer(result());
        world.server.settle();
        assert_eq!(reply(client), json!({"id": 4, "rpc": {}}));
        assert_eq!(client.receive(), None);
    }
}

#[test]
fn a_backend_that_never_answers_costs_a_temporary_error() {
    let world = World::start();
    let mut client = world.connected("a");
    client.send("{\"id\":2,\"publish\":{\"channel\":\"x\",\"data\":1}}\n{\"id\":3,\"rpc\":{}}");
    let (_, late) = world.backend.take();
    assert_eq!(client.receive(), None);
    world.server.advance(TIMEOUT + Duration::from_millis(200));
    let internal = json!({"code": 100, "message": "internal server error", "temporary": true});
    assert_eq!(reply(&mut client), json!({"id": 2, "error": internal}));
    // The next command goes on. The late answer changes nothing.
    let (call, responder) = world.backend.take();
    assert_eq!(call.kind, CallKind::Rpc);
    late.answer(result());
    world.server.settle();
    assert_eq!(client.receive(), None);
    // A responder that is dropped has failed.
    drop(responder);
    world.server.settle();
    assert_eq!(reply(&mut client), json!({"id": 3, "error": internal}));
    // A client that can't connect may reconnect, and is closed if it does nothing.
    let mut client = world.open();
    client.send(r#"{"id":1,"connect":{}}"#);
    let (_, _never) = world.backend.take();
    world.server.advance(TIMEOUT + Duration::from_millis(200));
    assert_eq!(reply(&mut client), json!({"id": 1, "error": internal}));
    assert_eq!(client.receive(), None);
    world.server.advance(Duration::from_secs(30));
    assert_eq!(client.receive(), Some(Received::Close(Some(3502), "stale".into())));
}

#[test]
fn errors_and_disconnects_are_the_backends() {
    let world = World::start();
    let mut client = world.connected("a");
    client.send(r#"{"id":2,"subscribe":{"channel":"x"}}"#);
    let error = BackendAnswer::Error { code: 1000, message: "no".into(), temporary: false };
    world.backend.take().1.answer(error);
    world.server.settle();
    assert_eq!(reply(&mut client), json!({"id": 2, "error": {"code": 1000, "message": "no"}}));
    client.send(r#"{"id":3,"rpc":{}}"#);
    world.backend.take().1.answer(BackendAnswer::Busy);
    world.server.settle();
    let busy = json!({"code": 111, "message": "too many requests", "temporary": true});
    assert_eq!(reply(&mut client), json!({"id": 3, "error": busy}));
    client.send(r#"{"id":4,"rpc":{}}"#);
    world.backend.take().1.answer(BackendAnswer::Disconnect { code: 4501, reason: "bye".into() });
    world.server.settle();
    assert_eq!(client.receive(), Some(Received::Close(Some(4501), "bye".into())));
    // A client that has gone meanwhile needs no answer.
    let mut client = world.connected("b");
    client.send(r#"{"id":2,"rpc":{}}"#);
    let (_, responder) = world.backend.take();
    drop(client);
    world.server.settle();
    assert!(!responder.is_wanted());
    responder.answer(result());
    world.server.settle();
}

#[test]
fn the_backend_may_change_a_publication() {
    let world = World::start();
    let mut client = world.connected("a");
    client.send(r#"{"id":2,"subscribe":{"channel":"x"}}"#);
    world.backend.take().1.answer(result());
    world.server.settle();
    reply(&mut client);
    client.send(r#"{"id":3,"publish":{"channel":"x","data":{"n":1}}}"#);
    let (call, responder) = world.backend.take();
    assert_eq!((call.channel.as_deref(), &call.data[..]), (Some("x"), &b"{\"n\":1}"[..]));
    let tags = vec![("t".to_owned(), "1".to_owned())];
    responder.answer(BackendAnswer::result(BackendResult { data: "[5]".into(), tags, ..BackendResult::default() }));
    world.server.settle();
    let replies = [reply(&mut client), reply(&mut client)];
    let publication = replies.iter().find(|reply| reply["push"].is_object()).expect("a publication");
    assert_eq!(publication["push"]["pub"]["data"], json!([5]));
    assert_eq!(publication["push"]["pub"]["tags"], json!({"t": "1"}));
    assert!(replies.iter().any(|reply| *reply == json!({"id": 3, "publish": {}})), "{replies:?}");
}

#[test]
fn an_expired_connection_is_the_backends_decision() {
    let world = World::start();
    let mut client = world.open();
    client.send(r#"{"id":1,"connect":{}}"#);
    let now_s = world.server.unix_ms() / 1000;
    let until = |expire_at| BackendResult { user: "a".into(), expire_at, ..BackendResult::default() };
    world.backend.take().1.answer(BackendAnswer::result(until(now_s + 10)));
    world.server.settle();
    let connect = &reply(&mut client)["connect"];
    assert!(connect.get("expires").is_none() && connect.get("ttl").is_none(), "{connect}: the client need not refresh");
    world.server.advance(Duration::from_secs(11));
    let (call, responder) = world.backend.take();
    assert_eq!((call.kind, &*call.user), (CallKind::Refresh, "a"));
    // No answer: the connection lives on for a minute.
    drop(responder);
    world.server.advance(Duration::from_secs(59));
    assert!(world.backend.is_idle());
    world.server.advance(Duration::from_secs(2));
    world.backend.take().1.answer(BackendAnswer::result(until(now_s + 100)));
    world.server.advance(Duration::from_secs(30));
    let expired = BackendResult { expired: true, ..BackendResult::default() };
    world.backend.take().1.answer(BackendAnswer::result(expired));
    world.server.settle();
    assert_eq!(client.receive(), Some(Received::Close(Some(3005), "connection expired".into())));
}

#[test]
fn an_expired_subscription_is_the_backends_decision() {
    let world = World::start();
    let mut client = world.connected("a");
    client.send(r#"{"id":2,"subscribe":{"channel":"x"}}"#);
    let now_s = world.server.unix_ms() / 1000;
    let until = |expire_at| BackendResult { expire_at, ..BackendResult::default() };
    world.backend.take().1.answer(BackendAnswer::result(until(now_s + 10)));
    world.server.settle();
    assert!(reply(&mut client)["subscribe"].get("expires").is_none());
    world.server.advance(Duration::from_secs(11));
    let (call, responder) = world.backend.take();
    assert_eq!((call.kind, call.channel.as_deref()), (CallKind::SubRefresh, Some("x")));
    responder.answer(BackendAnswer::result(until(now_s + 20)));
    world.server.advance(Duration::from_secs(10));
    *world.backend.at_once.lock().unwrap() = None;
    world.backend.take().1.answer(result());
    world.server.settle();
    let ended = json!({"code": 2501, "reason": "subscription expired"});
    assert_eq!(reply(&mut client)["push"]["unsubscribe"], ended);
}

#[test]
fn an_answer_at_once_needs_no_other_turn() {
    let world = World::start();
    let result = BackendResult { user: "a".into(), ..BackendResult::default() };
    *world.backend.at_once.lock().unwrap() = Some((CallKind::Connect, BackendAnswer::result(result)));
    let mut client = world.open();
    client.send("{\"id\":1,\"connect\":{}}\n{\"id\":2,\"unsubscribe\":{\"channel\":\"x\"}}");
    assert!(reply(&mut client)["connect"].is_object());
    assert_eq!(reply(&mut client), json!({"id": 2, "unsubscribe": {}}));
    assert!(world.backend.is_idle());
}

/// A server of STOMP whose application is the backend, and a client of `user` that is subscribed to `/topic/x`.
fn stomp_world() -> (World, TestClient) {
    let backend = Arc::new(Patient::default());
    let namespace = Namespace { publish: Allowed::Backend, ..Namespace::default() };
    let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
    let mut server_config = ServerConfig { namespaces: namespaces.clone(), ..ServerConfig::default() };
    server_config.keep_alive.ping_interval_ms = 0;
    let stomp = Stomp::new(Readers::new(namespaces)).with_backend(Some(backend.clone()));
    let server = TestServer::builder().config(server_config).shards(2).route("/s", move || stomp.clone()).start();
    let mut client = server.connect_with("/s", &[], &[("Cookie", "id=1")]).unwrap();
    client.send("CONNECT\naccept-version:1.2\nhost:a\n\n\0");
    assert!(frame(&mut client).starts_with("CONNECTED\n"));
    client.send("SUBSCRIBE\nid:0\ndestination:/topic/x\nreceipt:r\n\n\0");
    assert_eq!(frame(&mut client), "RECEIPT\nreceipt-id:r\n\n");
    (World { server, backend }, client)
}

/// The next frame, without its NUL.
fn frame(client: &mut TestClient) -> String {
    match client.receive() {
        Some(Received::Text(text)) => text.trim_end_matches('\0').to_owned(),
        other => panic!("{other:?}"),
    }
}

fn message(destination: &str, is_for_session: bool, data: &'static str) -> BackendMessage {
    let (headers, data) = (vec![("kind".to_owned(), "a:b".to_owned())], data.into());
    BackendMessage { destination: destination.into(), is_for_session, headers, data }
}

#[test]
fn frames_to_the_application_are_answered_one_at_a_time_and_in_order() {
    let (World { server, backend }, mut client) = stomp_world();
    client.send("SUBSCRIBE\nid:1\ndestination:/user/queue/own\n\n\0");
    client.send("SEND\ndestination:/app/a\nx:1\nreceipt:ra\n\n[1]\0SEND\ndestination:/app/b\nreceipt:rb\n\nno JSON\0");
    client.send("SUBSCRIBE\nid:2\ndestination:/app/c\nreceipt:rc\n\n\0");
    let (call, responder) = backend.take();
    assert!(backend.is_idle(), "the next frame waits");
    assert_eq!((call.kind, call.protocol, call.transport), (CallKind::Rpc, "stomp", "websocket"));
    assert_eq!((call.method.as_deref(), &call.data[..], &*call.headers[0].1), (Some("/app/a"), &b"[1]"[..], "id=1"));
    assert_eq!(call.frame, Some(("SEND", vec![("x".to_owned(), "1".to_owned())])));
    let to = vec![message("/topic/x", false, "{\"n\":1}"), message("/user/queue/own", true, "mine")];
    responder.answer(BackendAnswer::result(BackendResult {
        to,
        data: "no subscription".into(),
        ..BackendResult::default()
    }));
    server.settle();
    let frames = [frame(&mut client), frame(&mut client), frame(&mut client)];
    assert!(frames.contains(&"RECEIPT\nreceipt-id:ra\n\n".to_owned()), "{frames:?}");
    let own =
        "MESSAGE\nsubscription:1\nmessage-id:app-1\ndestination:/user/queue/own\ncontent-length:4\nkind:a\\cb\n\nmine";
    assert!(frames.contains(&own.to_owned()), "{frames:?}");
    let is_publication =
        |frame: &String| frame.contains("subscription:0\n") && frame.ends_with("kind:a\\cb\n\n{\"n\":1}");
    assert!(frames.iter().any(is_publication), "{frames:?}");
    let (call, responder) = backend.take();
    let json: Value = serde_json::from_slice(&call.to_json()).unwrap();
    assert_eq!(
        (&json["method"], &json["command"], &json["encoding"]),
        (&json!("/app/b"), &json!("SEND"), &json!("binary"))
    );
    assert!(backend.is_idle());
    responder.answer(result());
    server.settle();
    assert_eq!(frame(&mut client), "RECEIPT\nreceipt-id:rb\n\n");
    let (call, responder) = backend.take();
    assert_eq!((call.frame.unwrap().0, call.method.as_deref()), ("SUBSCRIBE", Some("/app/c")));
    responder.answer(BackendAnswer::result(BackendResult { data: "\"now\"".into(), ..BackendResult::default() }));
    server.settle();
    assert!(frame(&mut client).ends_with("\ncontent-length:5\n\n\"now\""));
    assert_eq!(frame(&mut client), "RECEIPT\nreceipt-id:rc\n\n");
}

#[test]
fn the_backend_decides_on_publications_of_stomp() {
    let (World { server, backend }, mut client) = stomp_world();
    client.send("SEND\ndestination:/topic/x\nreceipt:r\n\n1\0");
    let (call, responder) = backend.take();
    assert_eq!((call.kind, call.channel.as_deref(), &call.data[..]), (CallKind::Publish, Some("x"), &b"1"[..]));
    responder.answer(BackendAnswer::result(BackendResult { data: "2".into(), ..BackendResult::default() }));
    server.settle();
    let mut frames = [frame(&mut client), frame(&mut client)];
    frames.sort();
    assert!(frames[0].starts_with("MESSAGE\n") && frames[0].ends_with("\n\n2"), "{frames:?}");
    assert_eq!(frames[1], "RECEIPT\nreceipt-id:r\n\n");
    client
        .send("BEGIN\ntransaction:t\n\n\0SEND\ndestination:/topic/x\ntransaction:t\n\n3\0COMMIT\ntransaction:t\n\n\0");
    backend.take().1.answer(result());
    server.settle();
    assert!(frame(&mut client).ends_with("\n\n3"));
    client.send("SEND\ndestination:/topic/x\nreceipt:r\n\n4\0");
    backend.take().1.answer(BackendAnswer::Error { code: 403, message: "not today".into(), temporary: false });
    server.settle();
    let error = frame(&mut client);
    assert!(
        error.contains("message:the application rejects the frame\n") && error.contains("receipt-id:r\n"),
        "{error}"
    );
    assert!(error.ends_with("\n\nnot today"), "{error}");
}

#[test]
fn a_backend_that_never_answers_costs_the_stomp_client_an_error() {
    let answers = [None, Some(BackendAnswer::Busy), Some(BackendAnswer::Failed)];
    for answer in answers {
        let (World { server, backend }, mut client) = stomp_world();
        client.send("SEND\ndestination:/app/a\nreceipt:r\n\n1\0SEND\ndestination:/app/b\n\n2\0");
        let (_, responder) = backend.take();
        match answer {
            Some(answer) => responder.answer(answer),
            None => server.advance(TIMEOUT + Duration::from_millis(200)),
        }
        server.settle();
        let error = frame(&mut client);
        assert!(error.contains("message:no answer\n") && error.contains("receipt-id:r\n"), "{error}");
        assert!(matches!(client.receive(), Some(Received::Close(Some(1002), _))));
        assert!(backend.is_idle(), "the second frame has no call");
    }
}

#[test]
fn a_destination_that_is_not_usable_is_the_applications_error() {
    let (World { server, backend }, mut client) = stomp_world();
    client.send("SEND\ndestination:/app/a\n\n1\0");
    let to = vec![message("/exchange/x", false, "1")];
    backend.take().1.answer(BackendAnswer::result(BackendResult { to, ..BackendResult::default() }));
    server.settle();
    let error = frame(&mut client);
    assert!(error.contains("message:no answer\n") && error.contains("'/exchange/x'"), "{error}");
}
