//! `ringfeed serve` as an operator meets it: what it prints, how it ends, and what its control port answers.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::Command;
use std::time::Instant;

use support::http::{self, Response};
use support::process::Process;
use support::server::{Server, ringfeed};
use support::{PATIENCE, repository, target_dir};

/// Runs the binary with `arguments`, which must be refused; returns what it says about it.
fn refusal(arguments: &[&str]) -> String {
    let mut command = ringfeed();
    command.args(arguments);
    refusal_of(command)
}

/// Runs `command`, which must be refused; returns what it says about it.
fn refusal_of(command: Command) -> String {
    let called = format!("{command:?}");
    let mut process = Process::start("ringfeed", command);
    let printed = process.next_line(PATIENCE);
    let status = process.wait(PATIENCE);
    assert_eq!(status.code(), Some(2), "{called}");
    assert_eq!(printed, None, "{called}: nothing belongs on standard output");
    process.all_errors(PATIENCE)
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let rows: [(&[&str], &str); 6] = [
        (&["serve", "--nonsense"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&["serve", "--listen", "nowhere"], "nowhere"),
        (&["serve", "--listen", "127.0.0.1:99999"], "127.0.0.1:99999"),
        (&["serve", "--shards", "1025"], "0..=1024"),
        (&["serve", "--shards", "many"], "many"),
    ];
    for (arguments, culprit) in rows {
        let message = refusal(arguments);
        assert!(message.contains(culprit), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    }
}

#[test]
fn a_port_in_use_is_refused_in_one_line() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("a bound socket has an address").to_string();
    let rows = [["--listen", &taken, "--control", "127.0.0.1:0"], ["--listen", "127.0.0.1:0", "--control", &taken]];
    for flags in rows {
        let message = refusal(&[&["serve"], &flags[..]].concat());
        assert_eq!(message.trim_end().lines().count(), 1, "{flags:?}: {message}");
        assert!(message.contains(&taken), "{flags:?}: {message}");
    }
}

/// As in a container whose profile forbids io_uring, and as on a kernel that was built without it.
#[test]
fn a_host_without_io_uring_is_told_the_remedy_in_one_line() {
    for (error, remedy) in [("EPERM", "seccomp"), ("ENOSYS", "CONFIG_IO_URING")] {
        let mut command = Command::new("python3");
        command.arg(repository("tests/support/without_io_uring.py")).arg(error).arg(ringfeed().get_program());
        command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        let message = refusal_of(command);
        assert_eq!(message.trim_end().lines().count(), 1, "{error}: {message}");
        assert!(message.contains(remedy), "{error}: {message}");
    }
}

/// Status of `GET path` on a Unix socket.
fn status_on_unix(path: &str, socket: &str) -> u16 {
    let stream = UnixStream::connect(socket).expect("the server accepts");
    http::exchange_on(stream, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).status
}

#[test]
fn each_listener_serves_its_routes() {
    let dir = target_dir("listeners");
    let socket = dir.join(format!("{}.sock", std::process::id()));
    let socket = socket.to_str().expect("a path of UTF-8");
    let config = dir.join("listeners.toml");
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nroutes = [\"/echo\"]\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"unix:{socket}\"\nroutes = [\"/feed/\"]\n"
    );
    fs::write(&config, text).expect("the target directory can be written to");
    let server = Server::start_with_config(&config, &["--echo"]);
    assert_eq!(server.listeners.len(), 3, "{:?}", server.listeners);
    let second = server.listeners[1].strip_prefix("ws://").expect("a URL").parse().expect("an address");
    let tcp = |address| ["/echo", "/feed/a"].map(|path| http::get(address, path).status);
    assert_eq!(tcp(server.data), [426, 404]);
    assert_eq!(tcp(second), [426, 426]);
    assert_eq!(server.listeners[2], format!("unix:{socket}"));
    let unix = || ["/echo", "/feed/a"].map(|path| status_on_unix(path, socket));
    assert_eq!(unix(), [404, 426]);
    drop(server);
    let _server = Server::start_with_config(&config, &["--echo", "--connections-per-address-max", "1"]);
    let _first = UnixStream::connect(socket).expect("the server accepts, where a stale socket was");
    assert_eq!(unix(), [404, 426], "there is no address, so there is no limit for it");
}

#[test]
fn routes_that_are_not_there_are_refused() {
    let config = target_dir("listeners").join("unknown.toml");
    fs::write(&config, "[[listener]]\naddress = \"127.0.0.1:0\"\nroutes = [\"/ehco\"]\n").expect("a file");
    let message = refusal(&["serve", "--config", config.to_str().expect("UTF-8"), "--control", "127.0.0.1:0"]);
    assert!(message.contains("there is no route '/ehco'") && message.contains("/feed/"), "{message}");
}

/// A server whose port is for proxies at `trusted`, with one connection for each client's address.
fn start_proxied(trusted: &str) -> Server {
    let config = target_dir("listeners").join(format!("proxied-{}-{}.toml", std::process::id(), trusted.len()));
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\n\
         [server]\ntrusted_proxies = [\"{trusted}\"]\nconnections_per_address_max = 1\n"
    );
    fs::write(&config, text).expect("the target directory can be written to");
    Server::start_with_config(&config, &[])
}

#[test]
fn a_proxy_names_the_client_in_either_version() {
    let server = start_proxied("127.0.0.0/8");
    let request = |header: &[u8]| {
        let get = format!("GET /nowhere HTTP/1.1\r\nHost: {}\r\n\r\n", server.data);
        http::exchange(server.data, &[header, get.as_bytes()].concat()).status
    };
    let v1 = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4000 80\r\n").into_bytes();
    assert_eq!(request(&v1("203.0.113.1")), 404);
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x02\x7f\x00\x00\x01\x0f\xa0\x00\x50";
    assert_eq!(request(v2), 404);
    let mut held = TcpStream::connect(server.data).expect("the server accepts");
    held.write_all(&[&v1("203.0.113.3")[..], b"GET /"].concat()).expect("the server reads");
    let deadline = Instant::now() + PATIENCE;
    while request(&v1("203.0.113.3")) != 429 {
        assert!(Instant::now() < deadline, "the client's address has no limit");
    }
    assert_eq!(request(&v1("203.0.113.4")), 404, "the limit is each client's, not the proxy's");
    assert_eq!(request(b"PROXY UNKNOWN\r\n"), 404);
}

#[test]
fn a_port_for_proxies_is_for_no_one_else() {
    let server = start_proxied("127.0.0.1");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 1 2 3\r\n", &[0; 3000]] {
        let mut stream = TcpStream::connect(server.data).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(bytes).expect("the server reads");
        let mut answer = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    let metrics = http::get(server.control, "/metrics");
    let refused = metrics.text().lines().filter(|line| line.starts_with("ringfeed_proxy_headers_refused_total"));
    assert_eq!(refused.map(|line| line.ends_with(" 0")).filter(|is_none| !is_none).count().min(1), 1);
    let server = start_proxied("192.0.2.1");
    assert_eq!(http::exchange(server.data, b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").status, 403);
    let config = target_dir("listeners").join("no-proxies.toml");
    fs::write(&config, "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\n").expect("a file");
    let message = refusal(&["serve", "--config", config.to_str().expect("UTF-8"), "--control", "127.0.0.1:0"]);
    assert!(message.contains("proxy_protocol needs the proxy's address in trusted_proxies"), "{message}");
}

/// A service manager's socket, at a path or, with `@`, at an abstract name.
fn manager(address: &str) -> UnixDatagram {
    let socket = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).and_then(|address| UnixDatagram::bind_addr(&address)),
        None => UnixDatagram::bind(address),
    };
    let socket = socket.expect("a free address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    socket
}

/// Waits for a message that contains `text`, and returns those before it with it.
fn notified(manager: &UnixDatagram, text: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let len = manager.recv(&mut bytes).unwrap_or_else(|error| panic!("no {text} after {all:?}: {error}"));
        all.push(String::from_utf8(bytes[..len].to_vec()).expect("text"));
        if all.last().is_some_and(|last| last.contains(text)) {
            return all;
        }
    }
}

#[test]
fn a_service_manager_learns_of_each_step() {
    let path = target_dir("notify").join(format!("{}.sock", std::process::id()));
    let _ = fs::remove_file(&path);
    for address in [path.to_str().expect("UTF-8").to_owned(), format!("@ringfeed-test-{}", std::process::id())] {
        let manager = manager(&address);
        let mut command = ringfeed();
        command.env("NOTIFY_SOCKET", &address).env("WATCHDOG_USEC", "300000").env_remove("WATCHDOG_PID");
        let server = Server::start_as(command, &[]);
        let first = notified(&manager, "READY=1");
        assert!(first.len() == 1 && first[0].contains("STATUS=serving"), "{first:?}");
        notified(&manager, "WATCHDOG=1");
        let reload = Command::new("kill").args(["-HUP", &server.id().to_string()]).status();
        assert!(reload.expect("kill can be run").success());
        assert!(notified(&manager, "RELOADING=1").last().is_some_and(|last| last.contains("\nMONOTONIC_USEC=")));
        notified(&manager, "READY=1");
        server.terminate();
        notified(&manager, "STOPPING=1");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn two_servers_cannot_share_a_port() {
    let server = Server::start(&[]);
    let message = refusal(&["serve", "--listen", &server.data.to_string(), "--control", "127.0.0.1:0"]);
    assert!(message.contains(&server.data.to_string()), "{message}");
}

#[test]
fn either_signal_ends_an_idle_server_in_order() {
    for signal in ["-TERM", "-INT"] {
        let server = Server::start(&["--echo"]);
        let status = Command::new("kill").args([signal, &server.id().to_string()]).status();
        assert!(status.expect("kill can be run").success());
        assert_eq!(server.wait().code(), Some(0), "{signal}");
    }
}

/// Stopping is worth a line in the log, which finds no room.
#[test]
fn what_can_not_be_logged_is_left_out() {
    let server = Server::start_with_full_log();
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn health_and_metrics_are_there_from_the_start() {
    let server = Server::start(&[]);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http::get(server.control, path).status, 200, "{path}");
    }
    let metrics = http::get(server.control, "/metrics");
    let content_type = metrics.header("Content-Type").expect("a content type");
    assert!(content_type.contains("text"), "{content_type}");
    assert!(metrics.text().lines().any(|line| line.starts_with("# TYPE ringfeed_")), "{}", metrics.text());
}

#[test]
fn the_data_port_shows_a_page() {
    let server = Server::start(&[]);
    let page = http::get(server.data, "/");
    assert_eq!(page.status, 200);
    assert!(page.header("Content-Type").is_some_and(|value| value.starts_with("text/html")), "{}", page.head);
}

/// Offset and epoch of a publication's answer.
fn offset_and_epoch(response: &Response) -> (u64, String) {
    assert_eq!(response.status, 200, "{}", response.head);
    let answer: serde_json::Value = serde_json::from_slice(&response.body).expect("an answer in JSON");
    let offset = answer["offset"].as_u64().expect("a numeric offset");
    (offset, answer["epoch"].as_str().expect("an epoch of text").to_owned())
}

#[test]
fn publications_of_a_topic_are_numbered_one_by_one() {
    let server = Server::start(&[]);
    let publish =
        |topic: &str| offset_and_epoch(&http::post(server.control, &format!("/publish/{topic}"), "text/plain", b"x"));
    let (first, epoch) = publish("one");
    assert!(!epoch.is_empty());
    for step in 1..=20 {
        assert_eq!(publish("one"), (first + step, epoch.clone()));
    }
    assert_eq!(publish("another").0, first, "each topic counts for itself");
}

#[test]
fn bad_publications_are_refused() {
    let server = Server::start(&[]);
    let refused =
        |path: &str, content_type: &str, body: &[u8]| http::post(server.control, path, content_type, body).status;
    assert_eq!(refused("/publish/topic", "text/plain", b"\xff"), 400);
    assert_eq!(refused("/publish/topic", "application/json", b"{\"a\":\"\xc3\"}"), 400);
    assert_eq!(refused("/publish/topic", "application/octet-stream", b"\xff"), 200);
    let too_large = vec![b'x'; ringfeed::limits::PUBLISH_BYTES_MAX + 1];
    assert_eq!(refused("/publish/topic", "text/plain", &too_large), 413);
    assert!([400, 404].contains(&refused("/publish/", "text/plain", b"x")));
    assert_eq!(refused(&format!("/publish/{}", "x".repeat(1000)), "text/plain", b"x"), 400);
    assert_eq!(refused("/nowhere", "text/plain", b"x"), 404);
    assert_eq!(http::get(server.control, "/publish/topic").status, 405);
    assert_eq!(http::get(server.control, "/nowhere").status, 404);
}
