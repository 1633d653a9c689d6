//! Backends that hang, break or answer nonsense: clients receive temporary errors, nothing leaks, and other connections
//! are undisturbed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::json::{read_reply, send_command, send_text};
use crate::metrics::total;
use crate::peer::{Peer, upgrade_request};
use crate::start;
use crate::support::server::Server;
use crate::support::{PATIENCE, target_dir};

/// A request that the backend has received.
struct Request {
    head: String,
    body: Value,
}

/// What the backend does with a request.
type Behaviour = fn(&Request, &mut TcpStream) -> std::io::Result<bool>;

/// A backend on a thread of its own, and the requests that it has received.
struct Backend {
    address: SocketAddr,
    requests: Receiver<Request>,
}

impl Backend {
    /// Each connection is served until `behaviour` returns `false` or fails.
    fn start(behaviour: Behaviour) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sender, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || serve(stream, behaviour, &sender));
            }
        });
        Backend { address, requests }
    }

    fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).expect("a request")
    }
}

fn serve(stream: TcpStream, behaviour: Behaviour, requests: &Sender<Request>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length?];
        reader.read_exact(&mut body).ok()?;
        let request = Request { head, body: serde_json::from_slice(&body).ok()? };
        let goes_on = behaviour(&request, reader.get_mut()).ok()?;
        requests.send(request).ok()?;
        if !goes_on {
            return None;
        }
    }
}

fn respond(stream: &mut TcpStream, body: &str) -> std::io::Result<bool> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(true)
}

fn good(request: &Request, stream: &mut TcpStream) -> std::io::Result<bool> {
    let is_connect = request.head.starts_with("POST /connect ");
    respond(stream, if is_connect { r#"{"result":{"user":"7","data":{"x":1}}}"# } else { r#"{"result":{"data":5}}"# })
}

fn server(name: &str, connect: SocketAddr, others: SocketAddr, more: &str) -> Server {
    let kinds = ["subscribe", "publish", "rpc"]
        .map(|kind| format!("[backend.{kind}]\nendpoint = \"http://{others}/{kind}\"\ntimeout_ms = 300\n{more}\n"));
    let config = format!(
        "[namespaces.default]\nsubscribe = \"backend\"\npublish = \"backend\"\n\
         [backend.connect]\nendpoint = \"http://{connect}/connect\"\nheaders = [\"Cookie\"]\ntimeout_ms = 10000\n{}",
        kinds.concat()
    );
    let file = target_dir("hostile").join(name);
    fs::write(&file, config).expect("the target directory can be written to");
    start(&["--echo", "--config", file.to_str().expect("a path of UTF-8")])
}

fn call(peer: &mut Peer, command: &Value) -> Value {
    send_command(peer, command);
    read_reply(peer)
}

fn connected(server: &Server) -> Peer {
    let mut peer = Peer::open(server.data, "/connection/websocket");
    assert!(call(&mut peer, &json!({"id": 1, "connect": {}}))["connect"].is_object());
    peer
}

fn outcomes(server: &Server, kind: &str, outcome: &str) -> u64 {
    total(server, "ringfeed_backend_calls_total", &format!("{{kind=\"{kind}\",outcome=\"{outcome}\"}}"))
}

#[test]
fn a_good_backend_decides_over_kept_connections() {
    let backend = Backend::start(good);
    let server = server("good.toml", backend.address, backend.address, "");
    let mut peer = Peer::connect(server.data);
    let fields = "Cookie: id=1\r\nX-Other: 2\r\nUpgrade:";
    peer.send(upgrade_request("/connection/websocket").replace("Upgrade:", fields).as_bytes());
    peer.expect_accepted();
    let reply = call(&mut peer, &json!({"id": 1, "connect": {"data": {"a": 1}}}));
    assert_eq!(reply["connect"]["data"], json!({"x": 1}));
    let request = backend.next();
    let head = request.head.to_ascii_lowercase();
    assert!(head.contains("\r\ncookie: id=1\r\n") && head.contains("\r\ncontent-type: application/json\r\n"), "{head}");
    assert!(!head.contains("x-other"), "{head}");
    assert_eq!(request.body["client"], reply["connect"]["client"]);
    assert_eq!((&request.body["transport"], &request.body["data"]), (&json!("websocket"), &json!({"a": 1})));
    for id in 2..10 {
        assert_eq!(call(&mut peer, &json!({"id": id, "rpc": {"method": "m"}})), json!({"id": id, "rpc": {"data": 5}}));
        let request = backend.next();
        assert!(request.head.starts_with("POST /rpc HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!((&request.body["user"], &request.body["method"]), (&json!("7"), &json!("m")));
    }
    assert!(call(&mut peer, &json!({"id": 20, "subscribe": {"channel": "a"}}))["subscribe"].is_object());
    assert_eq!((outcomes(&server, "rpc", "result"), outcomes(&server, "connect", "result")), (8, 1));
    assert_eq!(total(&server, "ringfeed_backend_calls_in_flight", ""), 0);
}

#[test]
fn a_backend_that_misbehaves_costs_its_own_callers_a_temporary_error() {
    let rows: [(&str, Behaviour); 7] = [
        ("timeout", |_, _| Ok(true)),
        ("status", |_, stream| {
            stream.write_all(b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}")?;
            Ok(true)
        }),
        ("invalid", |_, stream| respond(stream, "<html>")),
        ("invalid", |_, stream| respond(stream, r#"{"result":{"override":{"presence":{"value":true}}}}"#)),
        ("too_large", |_, stream| {
            let body = format!("{{\"result\":{{\"data\":\"{}\"}}}}", "x".repeat(2 << 20));
            respond(stream, &body)
        }),
        // One byte after the other, so that the whole never comes in time.
        ("timeout", |_, stream| {
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".iter().chain(&[b' '; 100_000]) {
                stream.write_all(&[*byte])?;
                thread::sleep(Duration::from_millis(1));
            }
            Ok(false)
        }),
        ("unreachable", |_, _| Ok(false)),
    ];
    let decent = Backend::start(good);
    for (number, (outcome, behaviour)) in rows.into_iter().enumerate() {
        let hostile = Backend::start(behaviour);
        let server = server(&format!("hostile-{number}.toml"), decent.address, hostile.address, "");
        let mut neighbour = Peer::open(server.data, "/echo");
        let (mut peer, mut other) = (connected(&server), connected(&server));
        let internal = json!({"code": 100, "message": "internal server error", "temporary": true});
        send_command(&mut peer, &json!({"id": 2, "rpc": {"method": "m"}}));
        send_command(&mut peer, &json!({"id": 3, "subscribe": {"channel": "a"}}));
        neighbour.expect_echo("undisturbed");
        assert_eq!(
            call(&mut other, &json!({"id": 2, "unsubscribe": {"channel": "a"}})),
            json!({"id": 2, "unsubscribe": {}})
        );
        for id in [2, 3] {
            assert_eq!(read_reply(&mut peer), json!({"id": id, "error": internal}), "{outcome}");
        }
        assert_eq!((outcomes(&server, "rpc", outcome), outcomes(&server, "subscribe", outcome)), (1, 1), "{outcome}");
        assert_eq!(total(&server, "ringfeed_backend_calls_in_flight", ""), 0);
    }
}

#[test]
fn a_backend_that_is_gone_lets_nobody_in() {
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let server = server("gone.toml", gone, gone, "");
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut peer = Peer::open(server.data, "/connection/websocket");
    let reply = call(&mut peer, &json!({"id": 1, "connect": {}}));
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(100), &json!(true)));
    assert_eq!(outcomes(&server, "connect", "unreachable"), 1);
    neighbour.expect_echo("undisturbed");
}

/// With one call in flight, the next one fails at once, on whatever connection.
#[test]
fn calls_beyond_the_bound_fail_at_once() {
    let (decent, hangs) = (Backend::start(good), Backend::start(|_, _| Ok(true)));
    let server = server("busy.toml", decent.address, hangs.address, "in_flight_max = 1");
    let (mut first, mut second) = (connected(&server), connected(&server));
    send_command(&mut first, &json!({"id": 2, "rpc": {}}));
    hangs.next();
    let reply = call(&mut second, &json!({"id": 2, "rpc": {}}));
    assert_eq!((&reply["error"]["code"], &reply["error"]["temporary"]), (&json!(111), &json!(true)));
    assert_eq!(outcomes(&server, "rpc", "rejected"), 1);
    assert_eq!(read_reply(&mut first)["error"]["code"], json!(100));
    // The place is free again.
    assert_eq!(call(&mut second, &json!({"id": 3, "rpc": {}}))["error"]["code"], json!(100));
}

/// A client of STOMP that has connected.
fn stomp_client(server: &Server) -> Peer {
    let mut peer = Peer::open(server.data, "/stomp");
    send_text(&mut peer, "CONNECT\naccept-version:1.2\n\n\0");
    assert!(next_text(&mut peer).starts_with("CONNECTED\n"));
    peer
}

fn next_text(peer: &mut Peer) -> String {
    String::from_utf8(peer.next_message().1).expect("text")
}

#[test]
fn the_backend_answers_frames_of_stomp() {
    let backend = Backend::start(|_, stream| {
        respond(stream, r#"{"result":{"to":[{"destination":"/user/queue/own","session":true,"data":{"n":1}}]}}"#)
    });
    let server = server("stomp-good.toml", backend.address, backend.address, "");
    let mut peer = stomp_client(&server);
    send_text(&mut peer, "SUBSCRIBE\nid:0\ndestination:/user/queue/own\n\n\0");
    for number in 0..10 {
        let frame = format!("SEND\ndestination:/app/m\nreceipt:{number}\n\n{number}\0");
        send_text(&mut peer, &frame);
    }
    for number in 0..10 {
        let message = next_text(&mut peer);
        assert!(message.starts_with("MESSAGE\nsubscription:0\n") && message.ends_with("\n\n{\"n\":1}\0"), "{message}");
        assert_eq!(next_text(&mut peer), format!("RECEIPT\nreceipt-id:{number}\n\n\0"));
        let body = backend.next().body;
        assert_eq!(
            (&body["data"], &body["method"], &body["protocol"]),
            (&json!(number), &json!("/app/m"), &json!("stomp"))
        );
    }
    assert_eq!(outcomes(&server, "rpc", "result"), 10);
}

/// A client that floods the application has one call at a time; without an answer it is closed, and nobody else.
#[test]
fn a_flood_of_frames_to_the_application_is_one_call() {
    let (decent, hangs) = (Backend::start(good), Backend::start(|_, _| Ok(true)));
    let server = server("stomp-hangs.toml", decent.address, hangs.address, "");
    let mut neighbour = Peer::open(server.data, "/echo");
    let mut peer = stomp_client(&server);
    for _ in 0..1000 {
        send_text(&mut peer, "SEND\ndestination:/app/m\n\n1\0");
    }
    hangs.next();
    neighbour.expect_echo("undisturbed");
    let error = next_text(&mut peer);
    assert!(error.contains("message:no answer\n"), "{error}");
    peer.expect_close(1002);
    assert_eq!(outcomes(&server, "rpc", "timeout"), 1);
    assert_eq!(total(&server, "ringfeed_backend_calls_total", "kind=\"rpc\""), 1);
    assert_eq!(total(&server, "ringfeed_stomp_errors_total", "no_answer"), 1);
}
