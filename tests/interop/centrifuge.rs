//! The official client of Centrifugo's protocol, npm's `centrifuge`, in Node.js and in Chromium, in both encodings.
//!
//! The scenarios are in `centrifuge/scenarios.js`. What a client can't do itself it asks for, line by line: publish,
//! cut the network, restart the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ringfeed::conn::KeepAliveConfig;
use ringfeed::gateway::centrifuge::{Centrifuge, CentrifugeConfig, TokenKeys, TokenVerifier};
use ringfeed::server::{Server, ServerConfig};
use ringfeed::topics::{Allowed, Draft, Namespace, Namespaces, TopicName};

use crate::browser;
use crate::clients::{CENTRIFUGE_BROWSER, CENTRIFUGE_NODE, SCENARIO_PATIENCE};
use crate::proxy::Proxy;
use crate::support::PATIENCE;
use crate::support::process::Process;

const SECRET: &str = "a secret of the tests";

/// How often the server pings: more than once in the longer scenarios.
const PING_MS: u64 = 1000;

/// Time to answer them, also for a browser on a busy machine.
const PONG_MS: u64 = 30_000;

/// How long after the end of their tokens clients are disconnected.
const GRACE_MS: u64 = 1000;

fn namespaces() -> Namespaces {
    let history = Namespace { history_size: 1000, history: Allowed::Anyone, ..Namespace::default() };
    let room = Namespace {
        presence: true,
        join_leave: true,
        publish: Allowed::Subscribers,
        presence_read: Allowed::Subscribers,
        ..Namespace::default()
    };
    let locked = Namespace { subscribe: Allowed::Nobody, ..Namespace::default() };
    let named = [("history", history), ("room", room), ("locked", locked)];
    let named = named.into_iter().map(|(name, namespace)| (name.to_owned(), namespace));
    Namespaces::new(Namespace::default(), named.collect())
}

/// A server of two shards, in this process.
fn start_server() -> Server {
    let namespaces = Arc::new(namespaces());
    let keys = TokenKeys { hmac_secret: Some(SECRET.to_owned()), ..TokenKeys::default() };
    let centrifuge = Arc::new(CentrifugeConfig {
        tokens: TokenVerifier::new(&keys).expect("a secret is a key"),
        anonymous: true,
        namespaces: namespaces.clone(),
        ping_interval_ms: PING_MS,
        token_grace_ms: GRACE_MS,
        ..CentrifugeConfig::default()
    });
    let config = ServerConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        shards: 2,
        namespaces,
        keep_alive: KeepAliveConfig { ping_interval_ms: PING_MS, pong_timeout_ms: PONG_MS, idle_timeout_ms: 0 },
        ..ServerConfig::default()
    };
    let builder = Server::builder(config);
    let route = move || Centrifuge::new(centrifuge.clone());
    builder.route("/connection/websocket", route).start().expect("a server can be started")
}

/// The other side of a scenario.
struct World {
    server: Server,
    proxy: Proxy,
}

impl World {
    fn start() -> World {
        let server = start_server();
        let proxy = Proxy::start(server.address);
        World { server, proxy }
    }

    fn url(&self) -> String {
        format!("ws://{}/connection/websocket", self.proxy.address)
    }

    /// Does what a client asks for.
    fn on_cue(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["publish", topic, first, count] => self.publish_all(topic, number(first), number(count)),
            ["cut", topic, first, count] => {
                self.proxy.cut();
                self.publish_all(topic, number(first), number(count));
                self.proxy.open(self.server.address);
            }
            ["storm", topic, cuts] => self.storm(topic, number(cuts)),
            ["restart"] => self.restart(),
            _ => panic!("not a cue: {line}"),
        }
    }

    fn publish_all(&mut self, topic: &str, first: usize, count: usize) {
        (first..first + count).for_each(|n| self.publish(topic, &format!("{{\n\"n\": {n}}}")));
    }

    fn publish(&mut self, topic: &str, text: &str) {
        let topic = TopicName::new(topic).expect("a topic's name");
        let draft = Draft::new(topic, true, text.as_bytes().to_vec().into());
        let outcome = self.server.publisher.publish(draft).expect("there is room");
        outcome.blocking_recv().expect("the shards run").expect("it can be published");
    }

    /// Publishes all the time, while the network is cut: each time until the client has come back, and some more.
    fn storm(&mut self, topic: &str, cuts: usize) {
        let mut n = 0;
        let mut publish_next = |world: &mut World, more: &str| {
            world.publish(topic, &format!("{{\"n\":{n}{more}}}"));
            n += 1;
            thread::sleep(Duration::from_millis(1));
        };
        for _ in 0..cuts {
            let (count, deadline) = (self.proxy.count(), Instant::now() + PATIENCE);
            self.proxy.cut();
            self.proxy.open(self.server.address);
            while self.proxy.count() == count {
                assert!(Instant::now() < deadline, "the client does not come back");
                publish_next(self, "");
            }
            (0..50).for_each(|_| publish_next(self, ""));
        }
        publish_next(self, ",\"last\":true");
    }

    fn restart(&mut self) {
        let old = std::mem::replace(&mut self.server, start_server());
        self.proxy.open(self.server.address);
        stop(old);
    }
}

/// Stops a server as a signal would, and waits for its end.
fn stop(mut server: Server) {
    server.publisher.drain().expect("there is room");
    // Resolves with an error that means nothing.
    let _ = server.ended.blocking_recv();
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}

fn check_node(scenario: &str, encoding: &str) {
    let world = World::start();
    let client = CENTRIFUGE_NODE.start(&[scenario, &world.url(), encoding, SECRET]);
    follow(world, client);
}

fn check_browser(scenario: &str, encoding: &str) {
    let Some(chromium) = browser::chromium() else { return };
    let world = World::start();
    let client = CENTRIFUGE_BROWSER.start(&[scenario, &world.url(), encoding, SECRET, chromium]);
    follow(world, client);
}

/// Does what the client asks for until it is done.
fn follow(mut world: World, client: Process) {
    while let Some(cue) = client.next_line(SCENARIO_PATIENCE).filter(|line| line != "done") {
        world.on_cue(&cue);
    }
    client.succeed(PATIENCE);
    stop(world.server);
}

/// A test for each scenario, client and encoding.
macro_rules! scenarios {
    ($($name:ident: $scenario:literal;)*) => {
        $(
            mod $name {
                #[test]
                fn node_json() {
                    super::check_node($scenario, "json");
                }

                #[test]
                fn node_protobuf() {
                    super::check_node($scenario, "protobuf");
                }

                #[test]
                fn browser_json() {
                    super::check_browser($scenario, "json");
                }

                #[test]
                fn browser_protobuf() {
                    super::check_browser($scenario, "protobuf");
                }
            }
        )*
    };
}

scenarios! {
    publications: "pubsub";
    presence: "presence";
    recovery: "recovery";
    storm: "storm";
    restart: "restart";
    tokens: "tokens";
    server_side: "serverSide";
}
