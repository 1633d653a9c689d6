//! Requests as they come over HTTP, and what shards and callers get of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde_json::{Value, json};

use super::post;
use crate::buf::{ConnId, SlotId};
use crate::control::access::Right;
use crate::control::audit::Operator;
use crate::control::fake::Shards;
use crate::control::peer::Peer;
use crate::gateway::{SubscriptionTerms, UserAction, UserCommand};
use crate::limits::{API_BYTES_MAX, HISTORY_ANSWER_MAX, KEY_BYTES_MAX, PUBLISH_BYTES_MAX};
use crate::proto::{CloseCode, MessageKind};
use crate::topics::{Epoch, HistoryQuery, Position, Query, TopicName};

const OPERATOR: Operator = Operator { peer: Peer::Unix(0), right: Right::All };

/// Calls a method with this body: status and body of the answer.
fn call_raw(shards: &Shards, method: &str, body: impl Into<Bytes>) -> (u16, String) {
    let state = shards.state();
    let request = Request::new(Full::new(body.into()));
    tokio_uring::start(async {
        let (parts, body) = post(&state, method, request, OPERATOR).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    })
}

#[test]
fn the_status_tells_the_error_to_clients_that_want_that() {
    let shards = Shards::default();
    let state = shards.state();
    let rows = [
        (r#"{"channel":"a","data":1}"#, 200),
        (r#"{"channel":"unknown:topic","data":1}"#, 404),
        (r#"{"channel":"a"}"#, 400),
        (r#"{"channel":"a","data":1,"version":2}"#, 400),
        (r#"{"channel":"full","data":1}"#, 500),
    ];
    for (body, status) in rows {
        let request = Request::builder().header("X-Centrifugo-Error-Mode", "transport").body(Full::new(body.into()));
        let request: Request<Full<Bytes>> = request.unwrap();
        let response = tokio_uring::start(post(&state, "publish", request, OPERATOR));
        assert_eq!(response.status().as_u16(), status, "{body}");
    }
}

/// Calls a method, which must be answered as Centrifugo does.
fn call(shards: &Shards, method: &str, params: Value) -> Value {
    let (status, body) = call_raw(shards, method, params.to_string());
    assert_eq!(status, 200, "{method} {params}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Calls a method, which must be refused: the error's code.
fn code(method: &str, params: Value) -> u64 {
    let reply = call(&Shards::default(), method, params.clone());
    assert!(reply.get("result").is_none(), "{method} {params}: {reply}");
    assert!(reply["error"]["message"].is_string(), "{method} {params}: {reply}");
    reply["error"]["code"].as_u64().unwrap()
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

#[test]
fn what_is_published_stays_the_text_that_it_was() {
    let shards = Shards::default();
    let body = "{\"channel\":\"a\",\"data\": {\"price\": 1.10, \"n\":12345678901234567890123,\n\"s\":\"\\u00e9\"} }";
    let (status, answer) = call_raw(&shards, "publish", body);
    assert_eq!((status, answer.as_str()), (200, "{\"result\":{\"offset\":1,\"epoch\":\"0000000000011\"}}"));
    let text = "{\"price\": 1.10, \"n\":12345678901234567890123,\n\"s\":\"\\u00e9\"}";
    assert_eq!(*shards.published.borrow(), [("a".to_owned(), MessageKind::Text, Bytes::from(text))]);
}

#[test]
fn everything_that_is_said_of_a_publication_is_passed_on() {
    let shards = Shards::default();
    call(
        &shards,
        "publish",
        json!({"channel": "a", "b64data": "AP8=", "data": 1, "key": "k", "tags": {"z": "1", "a": "2"},
               "skip_history": true, "idempotency_key": "once", "delta": true, "unheard_of": [1]}),
    );
    call(&shards, "publish", json!({"channel": "a", "data": null, "b64data": "", "key": "", "tags": null, "data": 1}));
    let drafts = shards.drafts.borrow();
    assert_eq!(shards.published.borrow()[0], ("a".to_owned(), MessageKind::Binary, Bytes::from_static(b"\0\xff")));
    assert_eq!((drafts[0].key.as_deref(), drafts[0].idempotency_key.as_deref()), (Some("k"), Some("once")));
    assert!(drafts[0].skip_history && !drafts[1].skip_history);
    let tags: Vec<_> = drafts[0].tags.as_deref().unwrap().iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(tags, [("a", "2"), ("z", "1")]);
    assert_eq!((drafts[1].key.as_deref(), drafts[1].tags.as_deref()), (None, None));
}

#[test]
fn a_broadcast_answers_for_each_channel() {
    let shards = Shards::default();
    let channels = ["a", "", "unknown:topic", "busy", "b"];
    let reply = call(&shards, "broadcast", json!({"channels": channels, "data": [1]}));
    let responses = reply["result"]["responses"].as_array().unwrap();
    let outcome = |response: &Value| match response["result"]["offset"].as_u64() {
        Some(offset) => Ok(offset),
        None => Err(response["error"]["code"].as_u64().unwrap()),
    };
    assert_eq!(responses.iter().map(outcome).collect::<Vec<_>>(), [Ok(1), Err(107), Err(102), Err(100), Ok(2)]);
    let published: Vec<String> = shards.published.borrow().iter().map(|(topic, ..)| topic.clone()).collect();
    assert_eq!(published, ["a", "b"]);
}

#[test]
fn a_broadcast_may_be_larger_than_what_is_on_its_way_at_once() {
    let shards = Shards::default();
    let channels: Vec<String> = (0..5000).map(|number| format!("topic{number}")).collect();
    let reply = call(&shards, "broadcast", json!({"channels": channels, "data": 1}));
    assert_eq!(reply["result"]["responses"].as_array().unwrap().len(), 5000);
    let published: Vec<String> = shards.published.borrow().iter().map(|(topic, ..)| topic.clone()).collect();
    assert_eq!(published, channels);
}

#[test]
fn calls_that_make_no_sense_get_centrifugos_codes() {
    let long = "x".repeat(KEY_BYTES_MAX + 1);
    let rows = [
        ("publish", json!({"data": 1}), 107),
        ("publish", json!({"channel": "a"}), 107),
        ("publish", json!({"channel": "a,b", "data": 1}), 107),
        ("publish", json!({"channel": "a", "b64data": "!"}), 107),
        ("publish", json!({"channel": "a", "data": 1, "idempotency_key": long}), 107),
        ("publish", json!({"channel": "a", "data": 1, "tags": {"x": "x".repeat(10_000)}}), 107),
        ("publish", json!({"channel": "a", "data": "x".repeat(PUBLISH_BYTES_MAX)}), 107),
        ("publish", json!({"channel": "a", "data": 1, "version": 2}), 108),
        ("publish", json!({"channel": "unknown:topic", "data": 1}), 102),
        ("publish", json!({"channel": "full", "data": 1}), 100),
        ("publish", json!({"channel": "gone", "data": 1}), 100),
        ("broadcast", json!({"channels": [], "data": 1}), 107),
        ("broadcast", json!({"channels": ["a"]}), 107),
        ("presence", json!({}), 107),
        ("presence", json!({"channel": "plain:a"}), 108),
        ("presence", json!({"channel": "unknown:a"}), 102),
        ("presence_stats", json!({"channel": "plain:a"}), 108),
        ("history", json!({"channel": "plain:a"}), 108),
        ("history", json!({"channel": "kept:a", "since": {"offset": 1, "epoch": "other"}}), 112),
        ("history_remove", json!({"channel": "plain:a"}), 108),
        ("subscribe", json!({"user": "ann"}), 107),
        ("subscribe", json!({"channel": "a"}), 107),
        ("subscribe", json!({"user": "ann", "channel": "unknown:a"}), 102),
        ("subscribe", json!({"user": "ann", "channel": "a", "recover_since": {"offset": 1}}), 108),
        ("subscribe", json!({"user": "ann", "channel": "a", "b64info": "?"}), 107),
        ("subscribe", json!({"user": "ann", "channel": "a", "expire_at": -1}), 107),
        ("subscribe", json!({"user": "ann", "channel": "a", "override": {"presence": {"value": true}}}), 108),
        ("unsubscribe", json!({"user": "ann"}), 107),
        ("disconnect", json!({}), 107),
        ("disconnect", json!({"user": ""}), 107),
        ("disconnect", json!({"user": "ann", "session": "s"}), 108),
        ("disconnect", json!({"user": "ann", "whitelist": ["c"]}), 108),
        ("disconnect", json!({"user": "ann", "disconnect": {"code": 1000}}), 107),
        ("disconnect", json!({"user": "ann", "disconnect": {"code": 4000, "reason": "x".repeat(124)}}), 107),
        ("refresh", json!({"user": "ann", "expire_at": -1}), 107),
    ];
    for (method, params, expected) in rows {
        assert_eq!(code(method, params.clone()), expected, "{method} {params}");
    }
}

#[test]
fn bodies_that_are_not_what_the_method_takes_are_400() {
    let shards = Shards::default();
    let rows: [(&str, &[u8], u16, &str); 8] = [
        ("publish", b"{", 400, "EOF"),
        ("publish", b"[]", 400, "body"),
        ("publish", b"{\"channel\":5,\"data\":1}", 400, "expected a string"),
        ("publish", b"{\"channel\":\"a\",\"data\":\"\xff\"}", 400, "body"),
        ("info", b"5", 400, "body"),
        ("batch", b"{\"commands\":5}", 400, "body"),
        ("rpc", b"{}", 404, "presence_stats"),
        ("", b"{}", 404, "presence_stats"),
    ];
    for (method, body, status, text) in rows {
        let (got, answer) = call_raw(&shards, method, Bytes::copy_from_slice(body));
        assert_eq!(got, status, "{method} {:?}: {answer}", String::from_utf8_lossy(body));
        assert!(answer.contains(text), "{method}: {answer}");
        assert!(serde_json::from_str::<Value>(&answer).unwrap()["error"]["code"].is_u64(), "{method}: {answer}");
    }
    let too_long = vec![b' '; API_BYTES_MAX + 1];
    assert_eq!(call_raw(&shards, "publish", too_long).0, 413);
    let deep = [b"{\"channel\":\"a\",\"data\":".as_slice(), &[b'['; 100_000]].concat();
    assert_eq!(call_raw(&shards, "publish", deep).0, 400);
    assert!(shards.published.borrow().is_empty());
}

#[test]
fn presence_names_each_client_and_counts_users_once() {
    let shards = Shards::default();
    let reply = call(&shards, "presence", json!({"channel": "kept:a"}));
    let ann = |client: &str| json!({"user": "ann", "client": client, "conn_info": {"name": "Ann"}});
    let expected = json!({"1": ann("1"), "2": {"user": "bob", "client": "2"}, "3": ann("3")});
    assert_eq!(reply, json!({"result": {"presence": expected}}));
    let stats = call(&shards, "presence_stats", json!({"channel": "kept:a"}));
    assert_eq!(stats, json!({"result": {"num_clients": 3, "num_users": 2}}));
    let nobody = call(&shards, "presence", json!({"channel": "kept:empty"}));
    assert_eq!(nobody, json!({"result": {"presence": {}}}));
}

#[test]
fn history_is_asked_for_as_the_request_says() {
    let epoch = Shards::epoch();
    let since = |epoch| Some(Position { epoch, offset: 5 });
    let rows = [
        (json!({}), HistoryQuery::default()),
        (json!({"limit": 5, "reverse": true}), HistoryQuery { limit: 5, is_reverse: true, ..HistoryQuery::default() }),
        (json!({"limit": -1}), HistoryQuery { limit: HISTORY_ANSWER_MAX, ..HistoryQuery::default() }),
        (
            json!({"limit": 1, "since": {"offset": 5, "epoch": epoch.to_string()}}),
            HistoryQuery { limit: 1, since: since(epoch), ..HistoryQuery::default() },
        ),
        (
            json!({"limit": 1, "since": {"offset": 5}}),
            HistoryQuery { limit: 1, since: since(epoch), ..HistoryQuery::default() },
        ),
    ];
    for (mut params, expected) in rows {
        let shards = Shards::default();
        params["channel"] = json!("kept:a");
        let reply = call(&shards, "history", params.clone());
        let result = json!({"publications": [], "epoch": epoch.to_string(), "offset": 7});
        assert_eq!(reply, json!({"result": result}), "{params}");
        let asked = shards.asked.borrow().last().cloned();
        assert_eq!(asked, Some(("kept:a".to_owned(), Query::History(expected))), "{params}");
    }
    let nothing = json!({"publications": [], "epoch": "", "offset": 0});
    let shards = Shards::default();
    assert_eq!(call(&shards, "history", json!({"channel": "kept:empty"})), json!({"result": nothing}));
    let unheard_of = json!({"channel": "kept:empty", "since": {"offset": 1}});
    assert_eq!(call(&shards, "history", unheard_of), json!({"result": nothing}));
    assert_eq!(shards.asked.borrow().len(), 3);
    let Query::History(query) = shards.asked.borrow()[2].1 else { panic!("a history was asked for") };
    assert_eq!(query.since.unwrap().epoch, Epoch::NEVER);
}

#[test]
fn history_is_removed() {
    let shards = Shards::default();
    assert_eq!(call(&shards, "history_remove", json!({"channel": "kept:a"})), json!({"result": {}}));
    assert_eq!(*shards.asked.borrow(), [("kept:a".to_owned(), Query::RemoveHistory)]);
}

#[test]
fn channels_are_those_of_all_shards_that_have_the_pattern() {
    let shards = Shards::default();
    let count = |number: usize| json!({"num_clients": number});
    let all = json!({"plain:a": count(0), "kept:a": count(4), "b": count(0)});
    let rows = [
        (json!({}), all.clone()),
        (json!({"pattern": ""}), all),
        (json!({"pattern": "*:a"}), json!({"plain:a": count(0), "kept:a": count(4)})),
        (json!({"pattern": "kept:*"}), json!({"kept:a": count(4)})),
        (json!({"pattern": "nothing"}), json!({})),
    ];
    for (params, channels) in rows {
        assert_eq!(call(&shards, "channels", params), json!({"result": {"channels": channels}}));
    }
}

#[test]
fn channels_come_part_by_part() {
    let shards = Shards::default();
    let part = |params: Value| {
        let reply = call(&shards, "channels", params);
        let result = &reply["result"];
        let names: Vec<String> = result["channels"].as_object().unwrap().keys().cloned().collect();
        (names, result["cursor"].as_str().map(str::to_owned))
    };
    let (names, cursor) = part(json!({"limit": 1}));
    assert_eq!(names, ["plain:a"]);
    let (names, cursor) = part(json!({"limit": 1, "cursor": cursor.unwrap()}));
    assert_eq!(names, ["kept:a"]);
    assert_eq!(part(json!({"limit": 1, "cursor": cursor.unwrap()})), (vec!["b".to_owned()], None));
    assert_eq!(part(json!({"limit": 5, "cursor": "99.0"})), (vec![], None), "a shard that is not there");
    for cursor in ["x", "0", "0.", ".0", "0.-1", "0.99999999999999999999", "0.0.0"] {
        assert_eq!(code("channels", json!({"cursor": cursor})), 107, "{cursor}");
    }
    assert_eq!(code("channels", json!({"limit": 0})), 107);
    assert_eq!(code("channels", json!({"pattern": "x".repeat(256)})), 107);
}

#[test]
fn any_connection_can_be_closed() {
    let shards = Shards::default();
    let one =
        json!({"connection": {"shard": 1, "slot": 7, "generation": 2}, "disconnect": {"code": 4000, "reason": "r"}});
    assert_eq!(call(&shards, "disconnect", one), json!({"result": {"num_connections": 1}}));
    let (shard, how) = shards.disconnected.borrow()[0].clone();
    assert_eq!((shard, how.connections, how.code.0), (1, vec![ConnId { slot: SlotId(7), generation: 2 }], 4000));
    let gone = json!({"connection": {"shard": 9, "slot": 7, "generation": 2}});
    assert_eq!(call(&shards, "disconnect", gone), json!({"result": {"num_connections": 0}}));
    let of_address = call(&shards, "disconnect", json!({"address": "::ffff:192.0.2.1"}));
    assert_eq!(of_address, json!({"result": {"num_connections": 2}}), "one on each shard");
    assert_eq!(shards.disconnected.borrow().len(), 3);
    call(&shards, "disconnect", json!({"topic": "a"}));
    let sought = shards.sought.borrow().last().cloned().unwrap();
    assert_eq!((sought.topic, sought.address), (Some(topic("a")), None));
    let rows = [
        json!({"address": "192.0.2"}),
        json!({"connection": {"shard": 1, "slot": 7}}),
        json!({"connection": {"shard": 1, "slot": 7, "generation": -1}}),
    ];
    for params in rows {
        assert_eq!(call_raw(&shards, "disconnect", params.to_string()).0, 400, "{params}");
    }
    for params in [
        json!({"topic": "a,b"}),
        json!({"topic": "a", "user": "ann"}),
        json!({"address": "::1", "connection": {"shard": 1, "slot": 7, "generation": 2}}),
    ] {
        assert_eq!(code("disconnect", params.clone()), 107, "{params}");
    }
}

#[test]
fn topics_of_the_server_are_its_own() {
    for (method, params) in [
        ("publish", json!({"channel": "$sys:stats", "data": 1})),
        ("subscribe", json!({"user": "ann", "channel": "$sys:stats"})),
    ] {
        assert_eq!(code(method, params), 108, "{method}");
    }
    let reply = call(&Shards::default(), "broadcast", json!({"channels": ["$sys:stats"], "data": 1}));
    assert_eq!(reply["result"]["responses"][0]["error"]["code"], 108);
}

#[test]
fn info_is_about_this_server() {
    for body in ["", " ", "{}"] {
        let (status, answer) = call_raw(&Shards::default(), "info", body);
        assert_eq!(status, 200, "{answer}");
        let reply: Value = serde_json::from_str(&answer).unwrap();
        let node = &reply["result"]["nodes"][0];
        assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!((&node["num_clients"], &node["num_channels"]), (&json!(0), &json!(0)));
        assert_eq!(node["uid"].as_str().unwrap().len(), 16);
    }
}

#[test]
fn orders_name_their_user_and_what_is_to_be_done() {
    let order = |client: Option<&str>, action| UserCommand {
        user: "ann".to_owned(),
        client: client.map(str::to_owned),
        action,
    };
    let disconnect = |code, reason: &str| UserAction::Disconnect { code: CloseCode(code), reason: reason.to_owned() };
    let subscribe = |terms| UserAction::Subscribe(topic("a"), terms);
    let (info, data) = (Bytes::from_static(b"{\"n\":1}"), Bytes::from_static(b"\xff"));
    let terms = subscribe(SubscriptionTerms { info, data, expire_at: Some(9) });
    let refresh = |is_expired, expire_at| UserAction::Refresh { is_expired, expire_at };
    let rows = [
        ("subscribe", json!({"channel": "a"}), order(None, subscribe(SubscriptionTerms::default()))),
        ("subscribe", json!({"channel": "a", "expire_at": 0}), order(None, subscribe(SubscriptionTerms::default()))),
        ("subscribe", json!({"channel": "a", "expire_at": 9, "info": {"n": 1}, "b64data": "/w=="}), order(None, terms)),
        ("unsubscribe", json!({"channel": "a", "client": "c"}), order(Some("c"), UserAction::Unsubscribe(topic("a")))),
        ("disconnect", json!({"whitelist": []}), order(None, disconnect(3503, "force disconnect"))),
        ("disconnect", json!({"disconnect": {"code": 4100, "reason": "bye"}}), order(None, disconnect(4100, "bye"))),
        ("refresh", json!({}), order(None, refresh(false, None))),
        ("refresh", json!({"expired": true}), order(None, refresh(true, None))),
        ("refresh", json!({"expire_at": 1_900_000_000}), order(None, refresh(false, Some(1_900_000_000)))),
    ];
    for (method, mut params, expected) in rows {
        let shards = Shards::default();
        params["user"] = json!("ann");
        assert_eq!(call(&shards, method, params.clone()), json!({"result": {}}), "{method} {params}");
        assert_eq!(*shards.ordered.borrow(), [expected], "{method} {params}");
    }
}

#[test]
fn a_batch_answers_each_call_by_its_method() {
    let commands = json!([
        {"publish": {"channel": "a", "data": 1}},
        {"publish": {"channel": 5}},
        {"nonsense": {}},
        {},
        {"batch": {"commands": []}},
        {"history": {"channel": "plain:a"}},
        {"publish": {"channel": "a", "data": 2}},
        {"channels": {"pattern": "b"}},
    ]);
    let epoch = Shards::epoch().to_string();
    let published = |offset: u64| json!({"publish": {"offset": offset, "epoch": epoch}});
    let error = |code: u64, message: &str| json!({"error": {"code": code, "message": message}});
    let expected = json!([
        published(1),
        error(107, "bad request"),
        error(104, "not found"),
        error(104, "not found"),
        error(104, "not found"),
        error(108, "not available: history_size of this namespace is 0"),
        published(2),
        {"channels": {"channels": {"b": {"num_clients": 0}}}},
    ]);
    for parallel in [false, true] {
        let shards = Shards::default();
        let reply = call(&shards, "batch", json!({"commands": commands, "parallel": parallel}));
        assert_eq!(reply, json!({"replies": expected}), "parallel: {parallel}");
        let published: BTreeMap<_, _> =
            shards.published.borrow().iter().map(|(_, _, data)| (data.clone(), ())).collect();
        assert_eq!(published.len(), 2);
    }
    assert_eq!(call(&Shards::default(), "batch", json!({})), json!({"replies": []}));
}
