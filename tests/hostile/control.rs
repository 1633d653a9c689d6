//! Clients of the control port without a key: they hold connections, send nothing, or read nothing.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::thread;

use crate::start;
use crate::support::http::{self, Response};
use crate::support::server::Server;
use crate::support::target_dir;

const KEY: &str = "a key that nobody has guessed yet";

/// More connections than the control port allows, with the key and without.
const CROWD: usize = 2000;

fn server() -> Server {
    let file = target_dir("hostile").join("control.key");
    fs::write(&file, KEY).expect("the target directory can be written to");
    start(&["--api-key-file", file.to_str().expect("a path of UTF-8")])
}

fn send_request(server: &Server, request: &str) -> Response {
    let fields = format!("Host: localhost\r\nX-API-Key: {KEY}\r\nConnection: close\r\n");
    http::exchange(server.control, format!("{request} HTTP/1.1\r\n{fields}\r\n").as_bytes())
}

/// Connections that ended for `reason`, from the server's counters.
fn ended(server: &Server, reason: &str) -> u64 {
    let scrape = send_request(server, "GET /metrics");
    let row = format!("ringfeed_control_connections_ended_total{{reason=\"{reason}\"}} ");
    let count = scrape.text().lines().find_map(|line| line.strip_prefix(&row)?.parse().ok());
    count.unwrap_or_else(|| panic!("no row {row}: {}", scrape.text()))
}

/// Clients that send nothing, half a request, or never read their answers: a client with the key publishes all the
/// same, at once and on an older connection.
#[test]
fn publishers_with_the_key_get_in_while_others_hold_places() {
    let server = server();
    let requests = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let mut crowd = Vec::new();
    for number in 0..CROWD {
        let mut stream = TcpStream::connect(server.control).expect("the server accepts");
        let beginning = ["", "POST /publish/a HTTP/1.1\r\nHost: localhost\r\n", &requests][number % 3];
        // A later client may have displaced it already.
        let _ = stream.write_all(beginning.as_bytes());
        crowd.push(stream);
        if number % 100 == 99 {
            assert_eq!(send_request(&server, "POST /publish/a").status, 200, "after {number} clients without a key");
        }
    }
    assert!(ended(&server, "displaced") > CROWD as u64 / 2);
    let open = send_request(&server, "GET /metrics");
    let missing = "ringfeed_control_connections{key=\"missing\"} ";
    let count = open.text().lines().find_map(|line| line.strip_prefix(missing)?.parse::<usize>().ok());
    let bound = ringfeed::limits::CONTROL_NO_KEY_PER_ADDRESS_MAX;
    assert!(count.is_some_and(|count| count <= bound), "{count:?} from one address");
}

/// A client that sends requests for ever and reads no answer fills its own socket, and takes no more memory.
#[test]
fn answers_to_a_client_that_does_not_read_are_bounded() {
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
    // The last request of each is older than a connection without the key may become.
    flooding.into_iter().for_each(|flood| flood.join().expect("sending does not panic"));
    assert_eq!(ended(&server, "no_key") + ended(&server, "send_timeout"), 20);
    let held = crate::metrics::resident_bytes(&server).saturating_sub(before);
    assert!(held < 16 << 20, "20 clients that read nothing take {held} bytes");
}
