//! Clients behind proxies: the real nginx and HAProxy in front, and clients that lie about their address.
//!
//! All addresses are loopback: `127.0.0.1` is the proxies', and clients connect from others.

#[path = "wire/peer.rs"]
#[allow(dead_code, reason = "shared with the wire tests, which use all of it")]
mod peer;
mod support;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use peer::{Peer, upgrade_request};
use ringfeed::server::{ListenAddress, ListenerConfig, ProxyProtocol, ServerConfig, TrustedProxies};
use ringfeed::tls::{CertificateFiles, TlsSettings};
use ringfeed::{Accept, Context, Get, Handler, Message, Page, Refusal, Request, Response};
use socket2::{Domain, Socket, Type};
use support::http::{self, exchange_on};
use support::process::Process;
use support::server::{Server, certificate};
use support::{PATIENCE, target_dir};

/// Answers with the client's address, and sends it as the first message of a WebSocket.
struct WhoAmI;

fn text_of(peer: Option<IpAddr>) -> String {
    peer.map_or_else(|| "nobody".to_owned(), |peer| peer.to_string())
}

impl Handler for WhoAmI {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        conn.send(Message::text(&text_of(request.peer)));
        Ok(Accept::default())
    }

    fn on_get(&mut self, _: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        Ok(Page::new("text/plain", text_of(request.peer).into_bytes()).into())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
}

/// A server in this process that trusts proxies at `127.0.0.1` and on its Unix socket.
struct Upstream {
    plain: SocketAddr,
    proxied: SocketAddr,
    secure: SocketAddr,
    unix: PathBuf,
}

static UPSTREAM: LazyLock<Upstream> = LazyLock::new(|| {
    let unix = target_dir("proxies").join(format!("{}.sock", std::process::id()));
    let listener = ListenerConfig::from(SocketAddr::from(([127, 0, 0, 1], 0)));
    let proxied = ListenerConfig { proxy_protocol: ProxyProtocol::Require, ..listener.clone() };
    let secure = ListenerConfig { tls: true, ..proxied.clone() };
    let cert_file = certificate().to_owned();
    let key_file = cert_file.with_file_name("key.pem");
    let config = ServerConfig {
        listeners: vec![listener, proxied, secure, ListenerConfig::new(ListenAddress::Unix(unix.clone()))],
        tls: TlsSettings { certificates: vec![CertificateFiles { cert_file, key_file }], ..TlsSettings::default() },
        trusted_proxies: TrustedProxies::new(
            ["127.0.0.1", "unix:"].map(|text| text.parse().expect("a network")).into(),
        ),
        shards: 1,
        ..ServerConfig::default()
    };
    let server = ringfeed::Server::builder(config).route("/", || WhoAmI).start().expect("the server starts");
    let ip = |index: usize| match server.addresses[index] {
        ListenAddress::Ip(address) => address,
        _ => panic!("an IP address"),
    };
    Upstream { plain: ip(0), proxied: ip(1), secure: ip(2), unix }
});

/// A connection to `server` from another loopback address.
fn connect_from(client: &str, server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let client: IpAddr = client.parse().expect("an address");
    socket.bind(&SocketAddr::new(client, 0).into()).expect("a loopback address");
    socket.connect(&server.into()).expect("the server accepts");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// The body of a request from `client` with these header fields.
fn seen(client: &str, server: SocketAddr, fields: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{fields}\r\n");
    let response = exchange_on(connect_from(client, server), request.as_bytes());
    assert_eq!(response.status, 200, "{}", response.text());
    response.text().to_owned()
}

const LIE: &str = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n";

#[test]
fn only_a_trusted_peer_can_name_another_client() {
    let plain = UPSTREAM.plain;
    assert_eq!(seen("127.0.0.9", plain, LIE), "127.0.0.9");
    assert_eq!(seen("127.0.0.9", plain, "X-Forwarded-For: 127.0.0.1\r\n"), "127.0.0.9");
    assert_eq!(seen("127.0.0.1", plain, ""), "127.0.0.1");
    assert_eq!(seen("127.0.0.1", plain, "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n"), "192.0.2.1");
    assert_eq!(seen("127.0.0.1", plain, "X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n"), "192.0.2.1");
    assert_eq!(seen("127.0.0.1", plain, "X-Forwarded-For: 6.6.6.6, nonsense\r\n"), "127.0.0.1");
    assert_eq!(seen("127.0.0.1", plain, "Forwarded: for=6.6.6.6\r\n"), "127.0.0.1", "not the configured field");
}

/// Starts a proxy with the configuration that `config` makes for a free port, and waits until it accepts.
fn start_proxy(
    name: &str,
    config: impl Fn(SocketAddr, &Path) -> String,
    command: impl Fn(&Path) -> Command,
) -> (Process, SocketAddr) {
    let dir = target_dir("proxies").join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("the target directory can be written to");
    for _ in 0..5 {
        // The proxy binds the port again a moment later; if another process is quicker, the proxy ends.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("a bound socket has an address");
        drop(free);
        let file = dir.join("proxy.conf");
        fs::write(&file, config(address, &dir)).expect("the target directory can be written to");
        let mut process = Process::start(name, command(&file));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if TcpStream::connect(address).is_ok() {
                return (process, address);
            }
            if process.has_ended() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    panic!("{name} does not start; is it installed? Debian has it in a package of this name (nginx-light, haproxy)");
}

/// An nginx that passes requests on to `upstream`.
fn nginx(name: &str, upstream: &str, rest: &str) -> (Process, SocketAddr) {
    let config = |address: SocketAddr, dir: &Path| {
        let dir = dir.display();
        format!(
            "daemon off; master_process off; pid {dir}/pid; error_log stderr;\nevents {{}}\nhttp {{\n\
             access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;\n\
             uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\nserver {{ listen {address}; location / {{\n\
             proxy_pass {upstream}; proxy_http_version 1.1; proxy_set_header Host $host;\n\
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;\n\
             {rest} }} }} }}\n"
        )
    };
    start_proxy(name, config, |file| {
        let mut command = Command::new("nginx");
        command.arg("-c").arg(file);
        command
    })
}

/// An HAProxy that passes connections on to a server with these options.
fn haproxy(name: &str, mode: &str, upstream: SocketAddr, options: &str) -> (Process, SocketAddr) {
    let config = |address: SocketAddr, _: &Path| {
        let options = options.replace("UPSTREAM", &upstream.to_string());
        format!(
            "defaults\n  mode {mode}\n  timeout connect 30s\n  timeout client 30s\n  timeout server 30s\n\
             listen proxy\n  bind {address}\n{options}"
        )
    };
    start_proxy(name, config, |file| {
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file);
        command
    })
}

/// The first message of a WebSocket from `client`, opened with these header fields.
fn seen_by_websocket(client: &str, server: SocketAddr, fields: &str) -> String {
    let mut peer = Peer::over(connect_from(client, server));
    let request = upgrade_request("/").replace("Host: localhost", "Host: 127.0.0.1");
    peer.send(request.replace("\r\n\r\n", &format!("\r\n{}\r\n\r\n", fields.trim_end())).as_bytes());
    peer.expect_accepted();
    String::from_utf8(peer.next_message().1).expect("text")
}

#[test]
fn nginx_names_the_client_by_header_on_tcp_and_unix() {
    let append = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;";
    let over_tcp = format!("http://{}", UPSTREAM.plain);
    let over_unix = format!("http://unix:{}:/", UPSTREAM.unix.display());
    for (name, upstream) in [("nginx-tcp", over_tcp), ("nginx-unix", over_unix)] {
        let (_nginx, address) = nginx(name, &upstream, append);
        for client in ["127.0.0.5", "127.0.0.6"] {
            assert_eq!(seen(client, address, ""), client, "{name}");
            assert_eq!(seen(client, address, LIE), client, "{name}: the client's own fields are lies");
            assert_eq!(seen_by_websocket(client, address, LIE), client, "{name}");
        }
    }
}

#[test]
fn haproxy_names_the_client_by_header() {
    let (_haproxy, address) =
        haproxy("haproxy-http", "http", UPSTREAM.plain, "  option forwardfor\n  server s UPSTREAM\n");
    for client in ["127.0.0.5", "127.0.0.6"] {
        assert_eq!(seen(client, address, LIE), client);
        assert_eq!(seen_by_websocket(client, address, LIE), client);
    }
}

#[test]
fn haproxy_names_the_client_by_the_proxy_protocol() {
    for (name, option) in [("haproxy-v1", "send-proxy"), ("haproxy-v2", "send-proxy-v2")] {
        let options = format!("  server s UPSTREAM {option}\n");
        let (_haproxy, address) = haproxy(name, "tcp", UPSTREAM.proxied, &options);
        for client in ["127.0.0.5", "127.0.0.6"] {
            assert_eq!(seen(client, address, LIE), client, "{name}");
            assert_eq!(seen_by_websocket(client, address, LIE), client, "{name}");
        }
    }
}

#[test]
fn tls_passes_through_a_proxy_that_names_the_client() {
    for (name, option) in [("through-v1", "send-proxy"), ("through-v2", "send-proxy-v2")] {
        let options = format!("  server s UPSTREAM {option}\n");
        let (_haproxy, address) = haproxy(name, "tcp", UPSTREAM.secure, &options);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--interface", "127.0.0.5", "--cacert"]).arg(certificate());
        command.args(["--connect-to", &format!("::127.0.0.1:{}", address.port()), "https://localhost/"]);
        assert_eq!(Process::start("curl", command).succeed(PATIENCE), "127.0.0.5\n", "{name}");
    }
}

/// The sum of a metric over all shards.
fn total(server: &Server, name: &str) -> u64 {
    let metrics = http::get(server.control, "/metrics");
    let lines = metrics.text().lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum()
}

fn start(name: &str, server: &str) -> Server {
    let file = target_dir("proxies").join(name);
    let text = format!("[server]\ntrusted_proxies = [\"127.0.0.1\"]\n{server}");
    fs::write(&file, text).expect("the target directory can be written to");
    Server::start(&["--config", file.to_str().expect("a path of UTF-8")])
}

#[test]
fn the_limit_of_connections_is_each_clients() {
    let server = start("limit.toml", "connections_per_address_max = 1\n");
    let open = |from: &str, fields: &str| {
        let mut stream = connect_from(from, server.data);
        let request = upgrade_request("/feed/a").replace("\r\n\r\n", &format!("\r\n{fields}\r\n"));
        std::io::Write::write_all(&mut stream, request.as_bytes()).expect("the server reads");
        let mut start = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut start).expect("a status line");
        (stream, String::from_utf8(start[9..].to_vec()).expect("a status"))
    };
    let of = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let first = open("127.0.0.1", &of("192.0.2.1"));
    assert_eq!(first.1, "101");
    assert_eq!(open("127.0.0.1", &of("192.0.2.1")).1, "429");
    let second = open("127.0.0.1", &of("192.0.2.2"));
    assert_eq!(second.1, "101", "the limit is not the proxy's");
    let liar = open("127.0.0.9", &of("192.0.2.3"));
    assert_eq!(liar.1, "101");
    assert_eq!(open("127.0.0.9", &of("192.0.2.4")).1, "429", "the liar's own address counts");
    assert_eq!(total(&server, "ringfeed_forwarded_ignored_total{"), 1, "the second was rejected before its request");
    let _ = open("127.0.0.1", &of("nonsense"));
    assert_eq!(total(&server, "ringfeed_forwarded_unreadable_total{"), 1);
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while open("127.0.0.1", &of("192.0.2.1")).1 != "101" {
        assert!(Instant::now() < deadline, "the place is never free again");
    }
    let log = server.stop();
    assert!(log.contains("peer=127.0.0.9 header=\"X-Forwarded-For\""), "{log}");
    assert!(log.contains("peer=192.0.2.1 status=429"), "{log}");
}

#[test]
fn the_client_stands_among_the_slowest_connections() {
    let server =
        start("slow.toml", "forwarded_header = \"forwarded\"\n[namespaces.default]\noutbox_bytes_max = 100_000_000\n");
    let mut reader = Peer::connect(server.data);
    let field = "\r\nForwarded: for=6.6.6.6, for=\"[2001:db8::7]\"\r\n\r\n";
    reader.send(upgrade_request("/feed/a").replace("\r\n\r\n", field).as_bytes());
    reader.expect_accepted();
    let body = vec![b'x'; 500_000];
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert_eq!(http::post(server.control, "/publish/a", "text/plain", &body).status, 200);
        let slow = http::get(server.control, "/connections/slow");
        if slow.text().contains("\"peer\":\"2001:db8::7\"") {
            return;
        }
        assert!(!slow.text().contains("127.0.0.1") && Instant::now() < deadline, "{}", slow.text());
    }
}
