//! What an operator sees and does over the control port of the real binary: lists of topics and connections, closing
//! connections of every protocol, keys, and the server's own figures.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use peer::{CLOSE, FIN, Peer, TEXT, frame};
use serde_json::{Value, json};
use support::http::{self, Response};
use support::server::Server;
use support::{PATIENCE, target_dir};

const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[[listener]]
address = "127.0.0.1:0"
protocol = "stomp"

[centrifuge]
anonymous = true

[namespaces.default]
history_size = 3
"#;

fn start(name: &str, config: &str) -> Server {
    let path = target_dir("admin").join(name);
    fs::write(&path, config).expect("the target directory can be written to");
    Server::start_with_config(&path, &[])
}

fn get(server: &Server, path: &str) -> Value {
    let response = http::get(server.control, path);
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", response.text()))
}

fn post(server: &Server, path: &str, body: &Value) -> Value {
    let response = http::post(server.control, path, "application/json", body.to_string().as_bytes());
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{path}: {error}: {}", response.text()))
}

fn publish(server: &Server, topic: &str, data: &Value) {
    let reply = post(server, "/api/publish", &json!({"channel": topic, "data": data}));
    assert!(reply["result"]["offset"].is_u64(), "{reply}");
}

/// Waits until `found` returns something.
fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn connections(server: &Server, query: &str) -> Vec<Value> {
    let page = get(server, &format!("/admin/connections?{query}"));
    assert_eq!(page["cursor"], Value::Null, "the few connections fit in a page");
    page["connections"].as_array().expect("a list").clone()
}

/// The subscribers of a topic, once there are so many.
fn subscribers(server: &Server, topic: &str, count: usize) -> Vec<Value> {
    wait_for(&format!("{topic} never has {count} subscribers"), || {
        Some(connections(server, &format!("topic={topic}"))).filter(|found| found.len() == count)
    })
}

fn send_text(peer: &mut Peer, text: &str) {
    peer.send(&frame(FIN | TEXT, text.as_bytes()));
}

/// A client of Centrifugo's protocol with a subscription.
fn centrifuge(server: &Server, connect: &Value, topic: &str) -> Peer {
    let mut peer = Peer::open(server.data, "/connection/websocket");
    send_text(&mut peer, &json!({"id": 1, "connect": connect}).to_string());
    send_text(&mut peer, &json!({"id": 2, "subscribe": {"channel": topic}}).to_string());
    peer
}

/// The replies of a client of Centrifugo's protocol, which may come several in a message.
fn replies(peer: &mut Peer, count: usize) -> Vec<Value> {
    let mut all = Vec::new();
    while all.len() < count {
        let (_, text) = peer.next_message();
        let lines = text.split(|byte| *byte == b'\n');
        all.extend(lines.map(|line| serde_json::from_slice::<Value>(line).expect("a reply")));
    }
    all
}

/// An HTTP or STOMP stream that has sent `request` and has read up to `text`.
fn stream(address: SocketAddr, request: &str, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.write_all(request.as_bytes()).expect("the server reads");
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&read).contains(text) {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&read)));
        read.push(byte[0]);
    }
    stream
}

fn rest(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("text until the end");
    rest
}

fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

fn expect_close(peer: &mut Peer, code: u16, reason: &str) {
    let frame = peer.next_frame().expect("a frame");
    assert_eq!((frame.first_byte, frame.payload), (FIN | CLOSE, close_frame(code, reason)));
}

#[test]
fn connections_of_every_protocol_are_listed_and_closed() {
    let server = start("protocols.toml", CONFIG);
    let stomp: SocketAddr = server.listeners[1].strip_prefix("stomp://").unwrap().parse().unwrap();
    let mut feed = Peer::open(server.data, "/feed/feed");
    let request = format!("GET /sse/sse HTTP/1.1\r\nHost: {}\r\n\r\n", server.data);
    let sse = stream(server.data, &request, "id: ");
    let connect = "CONNECT\naccept-version:1.2\nhost:a\n\n\0SUBSCRIBE\nid:0\ndestination:/topic/stomp\nreceipt:r\n\n\0";
    let stomp = stream(stomp, connect, "receipt-id:r");
    let mut centrifuge = centrifuge(&server, &json!({}), "centrifuge");
    replies(&mut centrifuge, 2);
    let mut neighbour = Peer::open(server.data, "/feed/neighbour");

    let ids = ["feed", "sse", "stomp", "centrifuge"].map(|topic| {
        let row = subscribers(&server, topic, 1).remove(0);
        assert_eq!((&row["state"], &row["topics"]), (&json!("open"), &json!([topic])), "{row}");
        assert!(row["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{row}");
        row
    });
    let routes = ids.each_ref().map(|row| (row["route"].as_str().unwrap(), row["transport"].as_str().unwrap()));
    let expected =
        [("/feed/", "websocket"), ("/sse/", "stream"), ("stomp", "framed"), ("/connection/websocket", "websocket")];
    assert_eq!(routes, expected);
    assert_eq!(ids[3]["client"].as_str().unwrap().len(), 36);
    for row in &ids {
        let connection = json!({"shard": row["shard"], "slot": row["slot"], "generation": row["generation"]});
        let how = json!({"connection": connection, "disconnect": {"code": 4001, "reason": "enough"}});
        assert_eq!(post(&server, "/api/disconnect", &how), json!({"result": {"num_connections": 1}}));
        let again = post(&server, "/api/disconnect", &how);
        assert_eq!(again, json!({"result": {"num_connections": 0}}), "it has ended already");
    }
    expect_close(&mut feed, 4001, "enough");
    assert!(!rest(sse).contains("event:"));
    assert!(rest(stomp).contains("ERROR\nmessage:disconnected by an operator"));
    expect_close(&mut centrifuge, 4001, "enough");
    subscribers(&server, "feed", 0);
    publish(&server, "neighbour", &json!(1));
    assert_eq!(neighbour.next_message().1, b"1", "the neighbour goes on");
    let metrics = http::get(server.control, "/metrics");
    let closed = metrics.text().lines().filter(|line| line.starts_with("ringfeed_connections_disconnected_total{"));
    let closed: u64 = closed.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum();
    assert_eq!(closed, 4);
}

#[test]
fn all_subscribers_of_a_topic_and_all_of_an_address_are_closed() {
    let server = start("many.toml", CONFIG);
    let mut crowd: Vec<Peer> = (0..300).map(|_| Peer::open(server.data, "/feed/crowd")).collect();
    let mut other = Peer::open(server.data, "/feed/other");
    wait_for("the crowd never subscribes", || {
        let topic = get(&server, "/admin/topic?name=crowd");
        (topic["topic"]["subscribers"] == 300).then_some(())
    });
    let closed = post(&server, "/api/disconnect", &json!({"topic": "crowd"}));
    assert_eq!(closed, json!({"result": {"num_connections": 300}}));
    crowd.iter_mut().for_each(|peer| expect_close(peer, 3503, "force disconnect"));
    let none = post(&server, "/api/disconnect", &json!({"address": "192.0.2.1"}));
    assert_eq!(none, json!({"result": {"num_connections": 0}}));
    let one = post(&server, "/api/disconnect", &json!({"address": "127.0.0.1", "topic": "other"}));
    assert_eq!(one, json!({"result": {"num_connections": 1}}));
    expect_close(&mut other, 3503, "force disconnect");
}

#[test]
fn lists_of_topics_count_subscribers_and_name_topics_with_history() {
    let server = start("topics.toml", CONFIG);
    let _peers: Vec<Peer> = (0..3).map(|_| Peer::open(server.data, "/feed/read,both")).collect();
    publish(&server, "kept", &json!(1));
    publish(&server, "both", &json!(1));
    let expected = json!({"both": {"num_clients": 3}, "kept": {"num_clients": 0}, "read": {"num_clients": 3}});
    wait_for("the topics are never listed", || {
        let reply = post(&server, "/api/channels", &json!({}));
        (reply["result"]["channels"] == expected).then_some(())
    });
    let info = post(&server, "/api/info", &json!({}));
    assert_eq!(
        (&info["result"]["nodes"][0]["num_channels"], &info["result"]["nodes"][0]["num_clients"]),
        (&json!(2), &json!(3))
    );
    let topic = get(&server, "/admin/topic?name=both");
    assert_eq!(topic["subscribers"], json!([{"encoding": "raw", "count": 3}]));
    assert_eq!((&topic["topic"]["history_len"], &topic["settings"]["history_size"]), (&json!(1), &json!(3)));
    // Page by page, each topic is there once.
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = get(&server, &format!("/admin/topics?limit=1&cursor={cursor}"));
        names.extend(page["topics"].as_array().unwrap().iter().map(|topic| topic["name"].as_str().unwrap().to_owned()));
        match page["cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    names.sort();
    assert_eq!(names, ["both", "kept", "read"]);
}

#[test]
fn only_operators_read_the_servers_own_figures() {
    let secret = "a key that nobody has guessed yet";
    let config = format!("{CONFIG}[tokens]\nhmac_secret = \"{secret}\"\n");
    let server = start("figures.toml", &config);
    let session = post(&server, "/admin/session", &json!({}));
    assert_eq!(session["url"], format!("ws://{}/connection/websocket", server.data));
    let token = session["token"].as_str().unwrap();
    let mut operator = centrifuge(&server, &json!({"token": token}), "$sys:stats");
    let replies_ = replies(&mut operator, 2);
    assert_eq!(replies_[1]["subscribe"]["recoverable"], true, "{replies_:?}");
    wait_for("the figures never name this connection", || {
        let stats = replies(&mut operator, 1).remove(0)["push"]["pub"]["data"].clone();
        assert_eq!(stats["schema"], 1, "{stats}");
        (stats["gauges"]["connections"] == 1).then_some(())
    });

    // Neither without a token nor with one of the application.
    let mut anonymous = centrifuge(&server, &json!({}), "$sys:stats");
    assert_eq!(replies(&mut anonymous, 2)[1]["error"]["code"], 103);
    let own = support::token::hs256(&json!({"sub": "42", "channel": "$sys:stats"}), secret);
    send_text(&mut anonymous, &json!({"id": 3, "subscribe": {"channel": "$sys:stats", "token": own}}).to_string());
    assert_eq!(replies(&mut anonymous, 1)[0]["error"]["code"], 103);
    for command in ["history", "presence", "publish"] {
        let body = json!({"id": 4, command: {"channel": "$sys:stats", "data": 1}});
        send_text(&mut anonymous, &body.to_string());
        assert_eq!(replies(&mut anonymous, 1)[0]["error"]["code"], 103, "{command}");
    }
    let listed = support::token::hs256(&json!({"sub": "42", "channels": ["$sys:stats"]}), secret);
    let mut subscribed = Peer::open(server.data, "/connection/websocket");
    send_text(&mut subscribed, &json!({"id": 1, "connect": {"token": listed}}).to_string());
    assert_eq!(replies(&mut subscribed, 1)[0]["error"]["code"], 103);
    for path in ["/feed/$sys:stats", "/sse/$sys:stats"] {
        for token in ["", &format!("?token={own}")] {
            let head = format!("GET {path}{token} HTTP/1.1\r\nHost: a\r\n");
            let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            let upgrade = if path.starts_with("/feed") { upgrade } else { "" };
            let response = http::exchange(server.data, format!("{head}{upgrade}\r\n").as_bytes());
            assert_eq!(response.status, 403, "{path}{token}: {}", response.text());
        }
    }
    // Nor is anyone else's word published there.
    send_text(&mut operator, &json!({"id": 5, "publish": {"channel": "$sys:stats", "data": 1}}).to_string());
    wait_for("the operator may not publish either", || {
        replies(&mut operator, 1).into_iter().find(|reply| reply["error"]["code"] == 103)
    });
    let refused: Response = http::post(server.control, "/publish/$sys:stats", "text/plain", b"1");
    assert_eq!(refused.status, 400, "{}", refused.text());
    let channels = post(&server, "/api/channels", &json!({}));
    assert_eq!(channels["result"]["channels"], json!({}), "never listed");
}

#[test]
fn an_operator_reads_any_topic_and_is_not_present() {
    let config = format!("{CONFIG}[namespaces.closed]\nsubscribe = \"nobody\"\npresence = true\njoin_leave = true\n");
    let server = start("closed.toml", &config);
    let session = post(&server, "/admin/session", &json!({}));
    let mut operator = centrifuge(&server, &json!({"token": session["token"]}), "closed:a");
    assert!(replies(&mut operator, 2)[1]["error"].is_null());
    publish(&server, "closed:a", &json!({"n": 1}));
    assert_eq!(replies(&mut operator, 1)[0]["push"]["pub"]["data"], json!({"n": 1}));
    let presence = post(&server, "/api/presence_stats", &json!({"channel": "closed:a"}));
    assert_eq!(presence["result"]["num_clients"], 0);
}
