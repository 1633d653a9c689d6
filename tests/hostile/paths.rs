//! Paths that try to be something else.

use crate::metrics::{await_closed, total};
use crate::peer::{Peer, upgrade_request};
use crate::support::http;
use crate::support::server::Server;

#[test]
fn tricks_in_paths_are_refused_and_name_no_topic() {
    let server = Server::start(&["--echo"]);
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
fn more_topics_than_a_connection_may_have_are_refused() {
    let server = Server::start(&[]);
    let topics: Vec<String> = (0..=ringfeed::limits::CONN_TOPICS_MAX).map(|topic| format!("t{topic}")).collect();
    let all = upgrade_request(&format!("/feed/{}", topics.join(",")));
    assert_eq!(http::exchange(server.data, all.as_bytes()).status, 400);
    let _most = Peer::open(server.data, &format!("/feed/{}", topics[1..].join(",")));
    assert_eq!(total(&server, "ringfeed_subscriptions", ""), ringfeed::limits::CONN_TOPICS_MAX as u64);
    // The target of a request ends before 100,000 topics do.
    let too_long = upgrade_request(&format!("/feed/{}", "a,".repeat(100_000)));
    assert_eq!(http::exchange(server.data, too_long.as_bytes()).status, 414);
    await_closed(&server, "refused", 2);
}
