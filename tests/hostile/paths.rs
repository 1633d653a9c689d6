//! Malicious paths, hosts and origins.

use crate::metrics::{await_closed, total};
use crate::peer::{Peer, upgrade_request};
use crate::start;
use crate::support::http;

#[test]
fn path_tricks_are_rejected_and_name_no_topic() {
    let server = start(&["--echo"]);
    let mut neighbour = Peer::open(server.data, "/echo");
    let rows = [
        ("/feed/../echo", 400),
        ("/feed/..", 400),
        ("/feed/%2e%2e/secret", 400),
        ("/feed/a/%2E%2e/b", 400),
        ("/feed/a//b", 400),
        ("/feed/a%2f%2fb", 400),
        ("/feed/.", 400),
        ("/feed/", 400),
        ("/feed/,", 400),
        ("/feed/a,", 400),
        ("/feed/%00", 400),
        ("/feed/a%0d%0aSet-Cookie:%20x", 400),
        ("/feed/%ff%fe", 400),
        ("/feed/%", 400),
        ("/feed/a\\b", 400),
        ("/feed/<script>", 400),
        ("/feed/a%20b", 400),
        ("/feed/%252e%252e", 400),
        ("//feed/a", 404),
        ("/FEED/a", 404),
        ("/./feed/a", 404),
        ("/feed", 404),
        ("/echo/../feed/a", 404),
    ];
    for (path, status) in rows {
        let response = http::exchange(server.data, upgrade_request(path).as_bytes());
        assert_eq!(response.status, status, "{path}: {}", response.head);
        assert_eq!(response.header("Set-Cookie"), None, "{path}");
        neighbour.expect_echo(path);
    }
    await_closed(&server, "refused", rows.len() as u64);
    assert_eq!(total(&server, "ringfeed_topics", ""), 0);
}

#[test]
fn more_topics_than_a_connection_may_have_are_rejected() {
    let server = start(&[]);
    let topics: Vec<String> = (0..=ringfeed::limits::CONN_TOPICS).map(|topic| format!("t{topic}")).collect();
    let all = upgrade_request(&format!("/feed/{}", topics.join(",")));
    assert_eq!(http::exchange(server.data, all.as_bytes()).status, 400);
    let _most = Peer::open(server.data, &format!("/feed/{}", topics[1..].join(",")));
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), ringfeed::limits::CONN_TOPICS as u64);
    // A request target has a maximum size well below 100,000 topics.
    let too_long = upgrade_request(&format!("/feed/{}", "a,".repeat(100_000)));
    assert_eq!(http::exchange(server.data, too_long.as_bytes()).status, 414);
    await_closed(&server, "refused", 2);
}

/// A page with a name that resolves to 127.0.0.1 after it was loaded (DNS rebinding): the browser treats this server as
/// the page's origin.
#[test]
fn pages_from_rebound_names_may_not_connect() {
    let named = |request: &str, fields: &str| request.replace("Host: localhost\r\n", fields);
    let get = "GET /sse/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let rebound = [
        named(&upgrade_request("/echo"), "Host: evil.example:8000\r\nOrigin: http://evil.example:8000\r\n"),
        named(get, "Host: evil.example:8000\r\n"),
        named(&get.replace("/sse/a", "/"), "Host: evil.example:8000\r\n"),
    ];
    let listed = ["--echo", "--allowed-origins", "https://app.example"];
    for flags in [&["--echo"][..], &listed] {
        let server = start(flags);
        for request in &rebound {
            let response = http::exchange(server.data, request.as_bytes());
            assert_eq!(response.status, 403, "{request}: {}", response.head);
            assert!(response.text().contains("allowed_origins"), "{}", response.text());
        }
        assert_eq!(total(&server, "ringfeed_origins_refused_total", ""), rebound.len() as u64);
        let mut program = Peer::connect(server.data);
        program.send(named(&upgrade_request("/echo"), "Host: evil.example:8000\r\n").as_bytes());
        program.expect_accepted();
        program.expect_echo("programs name no origin");
    }
    // A proxy on this host that forwards the public name.
    let server = start(&listed);
    let mut page = Peer::connect(server.data);
    page.send(named(&upgrade_request("/echo"), "Host: app.example\r\nOrigin: https://app.example\r\n").as_bytes());
    page.expect_accepted();
    let head = http::head_of(server.data, named(get, "Host: app.example\r\n").as_bytes());
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[test]
fn pages_of_other_origins_may_not_connect() {
    let server = start(&["--echo", "--allowed-origins", "https://app.example.com,https://*.example.org"]);
    let request = |origin: &str| {
        upgrade_request("/echo").replace("Host: localhost\r\n", &format!("Host: localhost\r\nOrigin: {origin}\r\n"))
    };
    let refused = [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://example.org",
        "https://a.example.org/",
        "https://a.example.org@evil.example",
        "http://localhost:3000",
        "null",
        "",
    ];
    for origin in refused {
        let response = http::exchange(server.data, request(origin).as_bytes());
        assert_eq!(response.status, 403, "{origin:?}: {}", response.head);
    }
    await_closed(&server, "refused", refused.len() as u64);
    for origin in ["https://app.example.com", "https://a.example.org", "http://localhost"] {
        let mut peer = Peer::connect(server.data);
        peer.send(request(origin).as_bytes());
        peer.expect_accepted();
    }
    Peer::open(server.data, "/echo").expect_echo("programs name no origin");
}
