//! Requests of the page, answered from made-up shards.

use std::rc::Rc;

use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use super::*;
use crate::control::fake::Shards;
use crate::gateway::centrifuge::{TokenKeys, TokenVerifier};
use crate::limits::TOPIC_PATTERN_BYTES_MAX;

/// An answer: its status, header fields and body.
struct Answered {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

fn send(state: &State, method: &str, target: &str, body: &str, headers: &[(&'static str, &str)]) -> Answered {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let path = request.uri().path().strip_prefix("/admin/").unwrap().to_owned();
    let endpoint = Endpoint::of(&path).unwrap_or_else(|| panic!("there is no {target}"));
    assert!(endpoint.methods().contains(method), "{target}");
    tokio_uring::start(async {
        let (parts, body) = respond(state, endpoint, request, Right::All).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answered { status: parts.status.as_u16(), headers: parts.headers, body }
    })
}

fn get(target: &str) -> Answered {
    send(&Shards::default().state(), "GET", target, "", &[])
}

#[test]
fn topics_come_with_their_subscribers_page_by_page() {
    let answer = get("/admin/topics?limit=1").json();
    assert_eq!(answer["topics"][0]["name"], "plain:a");
    let cursor = answer["cursor"].as_str().unwrap().to_owned();
    let answer = get(&format!("/admin/topics?limit=2&cursor={cursor}")).json();
    let row = &answer["topics"][0];
    assert_eq!((&row["name"], &row["namespace"], &row["subscribers"]), (&json!("kept:a"), &json!("kept"), &json!(4)));
    assert_eq!((&answer["topics"][1]["name"], &answer["cursor"]), (&json!("b"), &Value::Null));
    assert_eq!(get("/admin/topics?match=kept:*").json()["topics"].as_array().unwrap().len(), 1);
}

#[test]
fn connections_are_found_by_address() {
    let answer = get("/admin/connections?address=::ffff:192.0.2.1").json();
    let rows = answer["connections"].as_array().unwrap();
    let ids = |name: &str| rows.iter().map(|row| row[name].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((ids("shard"), ids("slot"), ids("generation")), (vec![0, 1], vec![1, 1], vec![3, 3]));
    assert_eq!(rows[0]["address"], "192.0.2.1:40000");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_remedy() {
    let long = "x".repeat(TOPIC_PATTERN_BYTES_MAX + 1);
    let rows = [
        ("/admin/topics?limit=0".to_owned(), "from 1 to 1000"),
        ("/admin/topics?limit=1001".to_owned(), "from 1 to 1000"),
        ("/admin/topics?cursor=x".to_owned(), "invalid cursor"),
        (format!("/admin/topics?match={long}"), "at most 255 bytes"),
        ("/admin/topics?pattern=x".to_owned(), "did you mean 'match'?"),
        ("/admin/topic".to_owned(), "?name=TOPIC"),
        ("/admin/topic?name=a,b".to_owned(), "must consist of"),
        ("/admin/topic?name=unknown:a".to_owned(), "unknown namespace"),
        ("/admin/connections?address=192.0.2".to_owned(), "an IP address"),
        (format!("/admin/connections?user={long}"), "at most 255 bytes"),
        ("/admin/connections?topic=a%20b".to_owned(), "must consist of"),
    ];
    for (target, remedy) in rows {
        let answer = get(&target);
        assert_eq!(answer.status, 400, "{target}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(remedy), "{target}: {text}");
    }
}

#[test]
fn the_figures_are_those_of_the_shards() {
    let shards = Shards::default();
    let state = shards.state();
    let stats = send(&state, "GET", "/admin/stats", "", &[]).json();
    assert_eq!((&stats["schema"], &stats["state"]), (&json!(1), &json!("running")));
    assert_eq!((&stats["gauges"]["connections"], &stats["closes"]["slow_consumer"]), (&json!(0), &json!(0)));
    assert_eq!(stats["shards"].as_array().unwrap().len(), 2);
    state.status.set_draining();
    assert_eq!(send(&state, "GET", "/admin/stats", "", &[]).json()["state"], "draining");
}

#[test]
fn only_the_server_publishes_its_figures() {
    let shards = Shards::default();
    let state = Rc::new(shards.state());
    tokio_uring::start(async {
        let publishing = tokio::task::spawn_local(stats::publish(state.clone()));
        while shards.published.borrow().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        publishing.abort();
    });
    let (topic, _, payload) = shards.published.borrow()[0].clone();
    assert_eq!(topic, stats::TOPIC);
    let stats: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(stats["schema"], 1);
    let topic = crate::topics::TopicName::new(stats::TOPIC).unwrap();
    let refused = state.send(crate::topics::Draft::new(topic, true, Bytes::new())).map(drop);
    assert_eq!(refused, Err(PublishError::SystemTopic));
}

#[test]
fn a_session_names_the_data_port_as_the_browser_reaches_it() {
    let port = |address: &str| Some(DataPort { address: address.parse().unwrap(), is_secure: false });
    let rows = [
        ("127.0.0.1:8000", "localhost:8001", "ws://localhost:8000"),
        ("127.0.0.1:8000", "127.0.0.1:8001", "ws://127.0.0.1:8000"),
        ("127.0.0.1:8000", "ops.example.org", "ws://127.0.0.1:8000"),
        ("0.0.0.0:8000", "ops.example.org:8001", "ws://ops.example.org:8000"),
        ("[::]:8000", "[2001:db8::1]:8001", "ws://[2001:db8::1]:8000"),
        ("192.0.2.7:8000", "localhost:8001", "ws://192.0.2.7:8000"),
    ];
    for (data, host, expected) in rows {
        let state = State { data: port(data), ..Shards::default().state() };
        let session = send(&state, "POST", "/admin/session", "", &[("host", host)]).json();
        assert_eq!(session["url"], format!("{expected}/connection/websocket"), "{data} {host}");
        let claims = state.tokens.connection(session["token"].as_str().unwrap(), 0).unwrap();
        assert!(claims.is_operator);
        let mut headers = HeaderMap::new();
        headers.insert("host", host.parse().unwrap());
        let page = assets::page(&state, &headers);
        let policy = page.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains(&format!("connect-src 'self' {expected};")), "{policy}");
    }
    let session = send(&Shards::default().state(), "POST", "/admin/session", "", &[]).json();
    assert_eq!((&session["url"], &session["topic"]), (&Value::Null, &json!("$sys:stats")));
}

#[test]
fn files_are_compressed_and_known_by_their_tags() {
    let state = Shards::default().state();
    let ask = |headers: &[(&'static str, &str)]| send(&state, "GET", "/admin/uplot.js", "", headers);
    let plain = ask(&[]);
    assert_eq!((plain.status, plain.headers.get("content-encoding")), (200, None));
    let gzip = ask(&[("accept-encoding", "gzip, br")]);
    assert_eq!(gzip.headers["content-encoding"], "gzip");
    assert!(gzip.body.len() < plain.body.len() / 2);
    let tag = plain.headers["etag"].to_str().unwrap();
    let known = ask(&[("if-none-match", tag), ("accept-encoding", "gzip")]);
    assert_eq!((known.status, known.body.len(), known.headers.get("content-encoding")), (304, 0, None));
    assert_eq!(ask(&[("if-none-match", "\"other\"")]).status, 200);
    assert_eq!(plain.headers["x-content-type-options"], "nosniff");
}

#[test]
fn tokens_are_made_and_checked_without_a_word_of_the_secret() {
    let keys = TokenKeys { hmac_secret: Some("s3cret".to_owned()), ..TokenKeys::default() };
    let state = State { tokens: TokenVerifier::new(&keys).unwrap(), ..Shards::default().state() };
    let post = |target: &str, body: Value| send(&state, "POST", target, &body.to_string(), &[]);
    let made = post("/admin/tokens", json!({"claims": {"sub": "42"}, "expires_in_s": 60})).json();
    let check = |token: &Value| post("/admin/tokens/check", json!({"token": token})).json();
    assert_eq!(check(&made["token"]), json!({"is_valid": true, "kind": "connection", "reason": null}));
    let expired = post("/admin/tokens", json!({"claims": {"exp": 1}})).json();
    assert_eq!(check(&expired["token"]), json!({"is_valid": false, "kind": null, "reason": "it has expired"}));
    for body in [json!({}), json!({"claims": 5}), json!({"claims": {}, "expires_in_s": -1})] {
        assert_eq!(post("/admin/tokens", body).status, 400);
    }
    let endless = json!({"claims": {}, "expires_in_s": u64::MAX});
    assert_eq!(post("/admin/tokens", endless).status, 400);
    let large = json!({"token": "x".repeat(ADMIN_BODY_BYTES_MAX)});
    assert_eq!(post("/admin/tokens/check", large).status, 413);
    let without = send(&Shards::default().state(), "POST", "/admin/tokens", "{\"claims\":{}}", &[]);
    assert_eq!(without.status, 409);
}

#[test]
fn the_settings_are_shown() {
    let state = Shards::default().state();
    state.settings.borrow_mut().insert("server.shards".to_owned(), "2".to_owned());
    let server = send(&state, "GET", "/admin/server", "", &[]).json();
    assert_eq!(server["settings"]["server.shards"], "2");
    let names: Vec<&str> =
        server["namespaces"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["", "$sys", "kept", "plain"]);
}

#[test]
fn only_browsers_want_the_page() {
    let rows = [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
        ("*/*", false),
        ("application/json, text/html;q=0.5", true),
        ("", false),
    ];
    for (accept, expected) in rows {
        let headers: HeaderMap = [(hyper::header::ACCEPT, accept.parse().unwrap())].into_iter().collect();
        assert_eq!(wants_page(&headers), expected, "{accept}");
    }
    assert!(!wants_page(&HeaderMap::new()));
}
