//! Streams of publications over `POST /publish` on the real binary.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Instant;

use serde_json::json;
use support::server::Server;
use support::{PATIENCE, http};

const RECORDS: usize = 10_000;
const TOPICS: usize = 7;

fn connect(address: std::net::SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// A stream's head, with a body that ends with the declared length.
fn head(content_type: &str, length: usize) -> String {
    format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Joins the chunks of a chunked body.
fn join_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut joined = Vec::new();
    loop {
        let end = body.windows(2).position(|pair| pair == b"\r\n").expect("a whole chunk head");
        let length = std::str::from_utf8(&body[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let length = length.expect("a length in hexadecimal digits");
        if length == 0 {
            return joined;
        }
        joined.extend_from_slice(&body[end + 2..][..length]);
        body = &body[end + 2 + length + 2..];
    }
}

/// Sends a whole stream while another thread reads the acknowledgements.
fn stream(server: &Server, content_type: &str, body: &[u8]) -> Vec<u8> {
    let connection = connect(server.control);
    let mut writer = connection.try_clone().expect("a socket can be cloned");
    let reader = std::thread::spawn(move || http::read_response(connection));
    writer.write_all(head(content_type, body.len()).as_bytes()).expect("the server reads");
    // The server stops reading at a malformed record; the acknowledgements count.
    let _ = writer.write_all(body);
    let response = reader.join().expect("a response");
    assert_eq!(response.status, 200);
    join_chunks(&response.body)
}

fn metric(server: &Server, name: &str) -> u64 {
    let scrape = http::get(server.control, "/metrics");
    let value = scrape.text().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no row {name}"))
}

/// Subscribes to one topic as an event stream; returns once the server has answered.
fn subscribe(server: &Server, topic: &str) -> BufReader<TcpStream> {
    let mut connection = connect(server.data);
    write!(connection, "GET /sse/{topic} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the server reads");
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).expect("a head") > 0, "the head ended early");
    }
    reader
}

#[test]
fn ten_thousand_records_over_several_topics_arrive_in_order() {
    let server = Server::start(&[]);
    let subscribers: Vec<_> = (0..TOPICS).map(|topic| subscribe(&server, &format!("t{topic}"))).collect();
    let body: String = (0..RECORDS)
        .map(|number| format!("{{\"topic\":\"t{}\",\"data\":{}}}\n", number % TOPICS, number / TOPICS))
        .collect();
    let readers: Vec<_> = subscribers
        .into_iter()
        .enumerate()
        .map(|(topic, reader)| {
            std::thread::spawn(move || {
                let count = (RECORDS - topic).div_ceil(TOPICS);
                let numbers = reader.lines().map(|line| line.expect("a line in time"));
                let numbers = numbers.filter_map(|line| line.strip_prefix("data:")?.trim().parse::<usize>().ok());
                assert!(numbers.take(count).eq(0..count), "topic {topic}");
            })
        })
        .collect();
    let start = Instant::now();
    let lines = stream(&server, "application/x-ndjson", body.as_bytes());
    println!("{RECORDS} lines in {:?}", start.elapsed());
    let lines = String::from_utf8(lines).expect("text");
    assert_eq!(lines.lines().count(), RECORDS);
    for (number, line) in lines.lines().enumerate() {
        assert!(line.starts_with(&format!("{{\"offset\":{},\"epoch\":", number / TOPICS + 1)), "{number}: {line}");
    }
    readers.into_iter().for_each(|reader| reader.join().expect("all messages in order"));
    assert_eq!(metric(&server, "ringfeed_stream_records_total"), RECORDS as u64);
}

#[test]
fn frames_are_acknowledged_in_order() {
    let server = Server::start(&[]);
    let frame = [&[13, 0, 0, 0, 1, 1, b'a', 0, 0][..], b"12345678"].concat();
    let acknowledgements = stream(&server, "application/vnd.ringfeed.frames", &frame.repeat(RECORDS));
    assert_eq!(acknowledgements.len(), 9 * RECORDS);
    for (number, acknowledgement) in acknowledgements.chunks(9).enumerate() {
        let expected = [&(number as u64 + 1).to_le_bytes()[..], &[0]].concat();
        assert_eq!(acknowledgement, expected, "{number}");
    }
}

#[test]
fn malformed_and_oversized_records_end_the_stream_with_the_remedy() {
    let server = Server::start(&[]);
    let good = "{\"topic\":\"a\",\"data\":1}\n";
    let long = format!("{{\"topic\":\"a\",\"text\":\"{}\"}}\n", "x".repeat(3 << 20));
    for (culprit, reason) in [("nonsense\n", "line 2: "), (&long, "line 2: the line is too long")] {
        let lines = stream(&server, "application/x-ndjson", format!("{good}{culprit}{good}").as_bytes());
        let lines = String::from_utf8(lines).expect("text");
        assert!(lines.lines().count() == 2 && lines.contains(reason), "{lines}");
    }
    assert_eq!(metric(&server, "ringfeed_stream_records_refused_total"), 2);
    assert_eq!(metric(&server, "ringfeed_stream_records_total"), 2);
}

#[test]
fn a_record_that_is_cut_short_is_not_published() {
    let server = Server::start(&[]);
    let mut connection = connect(server.control);
    let body = "{\"topic\":\"a\",\"data\":1}\n{\"topic\":";
    let request = head("application/x-ndjson", body.len() + 100) + body;
    connection.write_all(request.as_bytes()).expect("the server reads");
    connection.shutdown(Shutdown::Write).expect("half of a connection can be closed");
    let mut bytes = Vec::new();
    let _ = connection.read_to_end(&mut bytes);
    assert!(String::from_utf8_lossy(&bytes).contains("\"offset\":1"), "{}", String::from_utf8_lossy(&bytes));
    // The record that was cut is not published.
    assert_eq!(metric(&server, "ringfeed_stream_records_total"), 1);
    assert_eq!(http::post(server.control, "/publish/a", "text/plain", b"x").status, 200);
}

#[test]
fn a_client_that_does_not_read_acknowledgements_is_not_read_from() {
    let server = Server::start(&[]);
    let mut connection = connect(server.control);
    let body = "{\"topic\":\"a\",\"data\":1}\n".repeat(10_000);
    connection.write_all(head("application/x-ndjson", usize::MAX >> 1).as_bytes()).expect("the server reads");
    connection.set_write_timeout(Some(std::time::Duration::from_secs(2))).expect("a timeout can be set");
    let sent = (0..1000).take_while(|_| connection.write_all(body.as_bytes()).is_ok()).count();
    assert!(sent < 1000, "the server read {} MiB without a reader of its acknowledgements", (sent * body.len()) >> 20);
    assert_eq!(http::post(server.control, "/publish/b", "text/plain", b"x").status, 200);
}

/// Sends a request with JSON to Centrifugo's server API.
fn call(server: &Server, method: &str, request: &serde_json::Value) -> serde_json::Value {
    let body = request.to_string();
    let response = http::post(server.control, &format!("/api/{method}"), "application/json", body.as_bytes());
    assert_eq!(response.status, 200, "{method}: {}", response.text());
    serde_json::from_slice(&response.body).expect("JSON")
}

#[test]
fn the_server_api_and_requests_of_their_own_change_the_same_values() {
    let file = support::target_dir("ingest").join("keyed.toml");
    std::fs::write(&file, "[namespaces.map]\nkeyed = true\nkeys_max = 3\n").expect("the directory can be written to");
    let server = Server::start(&["--config", file.to_str().expect("a path of UTF-8")]);
    let result = |method: &str, request: serde_json::Value| call(&server, method, &request)["result"].clone();
    let set = |key: &str, mode: &str| json!({"channel": "map:a", "key": key, "data": {"n": 1}, "key_mode": mode});
    assert_eq!(result("map_publish", set("a", "if_new"))["offset"], 1);
    let suppressed = |reason: &str| json!({"suppressed": true, "suppress_reason": reason});
    assert_eq!(result("map_publish", set("a", "if_new")), suppressed("key_exists"));
    assert_eq!(result("map_publish", set("b", "if_exists")), suppressed("key_not_found"));
    assert_eq!(result("map_publish", set("b", ""))["offset"], 2);
    let response = http::get(server.control, "/state/map%3Aa/b");
    assert_eq!((response.status, response.text()), (200, "{\"n\":1}"));
    assert!(response.header("etag").is_some_and(|tag| tag.ends_with(":2\"")), "{}", response.head);
    let page = result("map_read_state", json!({"channel": "map:a", "limit": 1}));
    assert_eq!((page["entries"][0]["key"].as_str(), page["offset"].as_u64()), (Some("a"), Some(2)));
    let page = result("map_read_state", json!({"channel": "map:a", "cursor": page["cursor"]}));
    assert_eq!((page["entries"][0]["key"].as_str(), page["cursor"].as_str()), (Some("b"), None));
    let page = result("map_read_state", json!({"channel": "map:a", "key": "b"}));
    assert_eq!(page["entries"][0]["data"], json!({"n": 1}));
    assert_eq!(result("map_stats", json!({"channel": "map:a"})), json!({"num_keys": 2}));
    assert_eq!(result("map_remove", json!({"channel": "map:a", "key": "a"}))["offset"], 3);
    assert_eq!(result("map_remove", json!({"channel": "map:a", "key": "a"})), suppressed("key_not_found"));
    assert_eq!(http::get(server.control, "/state/map%3Aa/a").status, 404);
    let rows = [
        ("map_publish", json!({"channel": "map:a", "key": "c", "data": 1, "key_mode": "x"}), 107),
        ("map_publish", json!({"channel": "map:a", "data": 1}), 107),
        ("map_publish", json!({"channel": "map:a", "key": "c", "data": 1, "score": 5}), 108),
        ("map_read_state", json!({"channel": "map:a", "asc": true}), 108),
        ("map_read_state", json!({"channel": "map:a", "cursor": "x"}), 107),
        ("map_read_state", json!({"channel": "map:a", "cursor": "0000000000001:1:1"}), 112),
        ("publish", json!({"channel": "map:a", "data": 1}), 107),
        ("map_stats", json!({"channel": "other"}), 108),
    ];
    for (method, request, code) in rows {
        assert_eq!(call(&server, method, &request)["error"]["code"], code, "{method} {request}");
    }
}
