//! `/poll/<topic>` of the real server, with curl and plain requests.

mod support;

use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::{self, Response};
use support::process::Process;
use support::server::Server;
use support::{PATIENCE, target_dir};

const CONFIG: &str =
    "[namespaces.default]\nhistory_size = 3\n[namespaces.plain]\n[namespaces.closed]\nsubscribe = \"nobody\"\n";

fn start() -> Server {
    let file = target_dir("poll").join(format!("{}.toml", std::process::id()));
    fs::write(&file, CONFIG).expect("the target directory can be written to");
    Server::start(&["--config", file.to_str().expect("a path of UTF-8")])
}

fn publish(server: &Server, target: &str, content_type: &str, body: &[u8]) {
    assert_eq!(http::post(server.control, &format!("/publish/{target}"), content_type, body).status, 200);
}

fn body(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_str(response.text()).expect("JSON")
}

fn poll(server: &Server, query: &str) -> Value {
    body(&http::get(server.data, &format!("/poll/news{query}")))
}

/// The position of an answer, for the next request.
fn since(answer: &Value) -> String {
    format!("?since={}", answer["position"].as_str().expect("a position"))
}

#[test]
fn polls_receive_each_publication_once_in_order() {
    let server = start();
    publish(&server, "news", "text/plain", b"before");
    let first = poll(&server, "");
    assert_eq!((&first["publications"], &first["lost"]), (&json!([]), &json!(false)), "only where the topic is");
    publish(&server, "news?key=k&tag=a:b", "text/plain", b"a \"text\"\n");
    publish(&server, "news", "application/octet-stream", b"\xff\x00");
    let missed = poll(&server, &since(&first));
    let publications = missed["publications"].as_array().expect("a list");
    assert_eq!(publications.len(), 2, "{missed}");
    assert_eq!(publications[0]["data"], "a \"text\"\n");
    assert_eq!((&publications[0]["key"], &publications[0]["tags"]), (&json!("k"), &json!({"a": "b"})));
    assert_eq!((&publications[1]["base64"], &publications[1]["offset"]), (&json!("/wA="), &json!(3)));

    // curl waits for the next one.
    let mut curl = Command::new("curl");
    let url = format!("http://{}/poll/news{}&wait=60", server.data, since(&missed));
    curl.args(["--silent", "--show-error", "--fail", "--globoff", &url]);
    let curl = Process::start("curl", curl);
    let deadline = Instant::now() + PATIENCE;
    let subscriptions = || {
        let metrics = http::get(server.control, "/metrics");
        let lines = metrics.text().lines().filter(|line| line.starts_with("ringfeed_subscriptions{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum::<u64>()
    };
    while subscriptions() == 0 {
        assert!(Instant::now() < deadline, "the poll does not wait");
        thread::sleep(Duration::from_millis(5));
    }
    publish(&server, "news", "text/plain", b"next");
    let next: Value = serde_json::from_str(&curl.succeed(PATIENCE)).expect("JSON");
    assert_eq!((&next["publications"][0]["data"], &next["publications"][0]["offset"]), (&json!("next"), &json!(4)));

    let nothing = poll(&server, &format!("{}&wait=0", since(&next)));
    assert_eq!((&nothing["publications"], &nothing["position"]), (&json!([]), &next["position"]));
    for _ in 0..4 {
        publish(&server, "news", "text/plain", b"x");
    }
    let lost = poll(&server, &since(&first));
    assert_eq!((&lost["lost"], &lost["publications"]), (&json!(true), &json!([])), "the history is too short");
    let again = poll(&server, &format!("{}&wait=0", since(&lost)));
    assert_eq!((&again["lost"], &again["position"]), (&json!(false), &lost["position"]));
}

#[test]
fn bad_requests_name_the_remedy() {
    let server = start();
    let rows = [
        ("/poll/news?since=nonsense", 400, "since is <epoch>:<offset>"),
        ("/poll/news?wait=61", 400, "wait is a number of seconds from 0 to 60"),
        ("/poll/news?wait=-1", 400, "wait is a number"),
        ("/poll/news?sinse=a:1", 400, "did you mean 'since'?"),
        ("/poll/a,b", 400, "a poll is of one topic"),
        ("/poll/plain:a?since=a:1", 400, "keeps no history"),
        ("/poll/closed:a", 403, "requires authorization"),
        ("/poll/unknown:a", 404, "unknown:a"),
    ];
    for (path, status, text) in rows {
        let response = http::get(server.data, path);
        assert_eq!(response.status, status, "{path}: {}", response.text());
        assert!(response.text().contains(text), "{path}: {}", response.text());
    }
}

#[test]
fn a_server_that_stops_answers_its_polls() {
    let server = start();
    let position = since(&poll(&server, ""));
    let mut stream = TcpStream::connect(server.data).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let request = format!("GET /poll/news{position}&wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("the server reads");
    // The response has begun: the poll waits.
    let mut begun = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut begun).expect("an answer");
    assert_eq!(&begun, b"HTTP/1.1 200");
    server.terminate();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stream, &mut rest).expect("an answer that ends");
    assert!(rest.contains("\"publications\":[]"), "{rest}");
}
