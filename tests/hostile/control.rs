//! Clients of the control port that have no key: they hold places, say nothing, or read nothing.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;

use crate::start;
use crate::support::http::{self, Response};
use crate::support::server::Server;
use crate::support::target_dir;

const KEY: &str = "a key that nobody has guessed yet";

/// More than the control port has places for, with the key and without.
const CROWD: usize = 2000;

fn server() -> Server {
    let file = target_dir("hostile").join("control.key");
    fs::write(&file, KEY).expect("the target directory can be written to");
    start(&["--api-key-file", file.to_str().expect("a path of UTF-8")])
}

fn ask(server: &Server, request: &str) -> Response {
    let fields = format!("Host: localhost\r\nX-API-Key: {KEY}\r\nConnection: close\r\n");
    http::exchange(server.control, format!("{request} HTTP/1.1\r\n{fields}\r\n").as_bytes())
}

/// Connections that have ended for `reason`, as the server counts them.
fn ended(server: &Server, reason: &str) -> u64 {
    let scrape = ask(server, "GET /metrics");
    let row = format!("ringfeed_control_connections_ended_total{{reason=\"{reason}\"}} ");
    let count = scrape.text().lines().find_map(|line| line.strip_prefix(&row)?.parse().ok());
    count.unwrap_or_else(|| panic!("no row {row}: {}", scrape.text()))
}

/// A crowd that says nothing, one that sends half a request, and one that never reads its answers: whoever has the key
/// publishes all the same, at once and on a connection that was there before.
#[test]
fn publishers_with_the_key_get_in_while_others_hold_places() {
    let server = server();
    let requests = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stream = TcpStream::connect(server.control).expect("the server accepts");
        let beginning = ["", "POST /publish/a HTTP/1.1\r\nHost: localhost\r\n", &requests][number % 3];
        // It may have been ended already, for one that came after it.
        let _ = stream.write_all(beginning.as_bytes());
        crowd.push(stream);
        if number % 100 == 99 {
            assert_eq!(ask(&server, "POST /publish/a").status, 200, "after {number} others");
        }
    }
    assert!(ended(&server, "displaced") > CROWD as u64 / 2);
    let open = ask(&server, "GET /metrics");
    let missing = "ringfeed_control_connections{key=\"missing\"} ";
    let count = open.text().lines().find_map(|line| line.strip_prefix(missing)?.parse::<usize>().ok());
    let bound = ringfeed::limits::CONTROL_NO_KEY_PER_ADDRESS_MAX;
    assert!(count.is_some_and(|count| count <= bound), "{count:?} from one address");
}

/// Who sends requests for ever and reads no answer is held back by its own socket, and takes no more memory.
#[test]
fn answers_that_nobody_reads_do_not_pile_up() {
    let server = server();
    let before = crate::metrics::resident_bytes(&server);
    let requests = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let flooding: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(server.control).expect("the server accepts");
            let requests = requests.clone();
            thread::spawn(move || {
                stream.set_write_timeout(Some(crate::support::PATIENCE)).expect("a timeout can be set");
                while stream.write_all(requests.as_bytes()).is_ok() {}
            })
        })
        .collect();
    // The last request of each is older than a connection without the key may be.
    flooding.into_iter().for_each(|flood| flood.join().expect("sending does not panic"));
    assert_eq!(ended(&server, "no_key") + ended(&server, "send_timeout"), 20);
    let held = crate::metrics::resident_bytes(&server).saturating_sub(before);
    assert!(held < 16 << 20, "20 clients that read nothing hold {held} bytes");
}
