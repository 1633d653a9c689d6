//! The other side of a client's scenario: a server, and the network between the two. What a client can't do itself it
//! asks for, line by line:
//!
//! ```text
//! publish TOPIC FIRST COUNT   publish {"n":FIRST} and so on
//! cut TOPIC FIRST COUNT       cut the network, publish, let connections through again
//! storm TOPIC                 publish all the time while the network is cut, until its subscriber is back
//! last TOPIC                  publish once more, and say so
//! restart                     stop the server, gracefully, and start another
//! put TOPIC KEY N             set the key of a keyed topic to {"n":N}
//! remove TOPIC KEY            remove the key
//! change TOPIC                cut, remove k0, set k1 to k20, remove the even ones, let connections through again
//! subscribers COUNT           wait until there are so many
//! done                        it has seen what it should
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ringfeed::conn::KeepAliveConfig;
use ringfeed::gateway::Sse;
use ringfeed::gateway::centrifuge::{Centrifuge, CentrifugeConfig, Emulation, TokenKeys, TokenVerifier};
use ringfeed::server::{CatchUpConfig, ListenerConfig, Server, ServerConfig};
use ringfeed::tls::TlsSettings;
use ringfeed::topics::{Allowed, Draft, Namespace, Namespaces, TopicName};

use crate::clients::SCENARIO_PATIENCE;
use crate::proxy::Proxy;
use crate::support::PATIENCE;
use crate::support::process::Process;

/// What tokens are signed with.
pub(crate) const SECRET: &str = "a secret of the tests";

/// How often the server pings: more than once in the longer scenarios.
const PING_MS: u64 = 1000;

/// Time to answer them, also for a browser on a busy machine.
const PONG_MS: u64 = 30_000;

/// How long after the end of their tokens clients are disconnected: time to bring new ones, also on a busy machine.
const GRACE_MS: u64 = 4000;

/// Publications while a client is away in a storm: together with those around them less than are ever recovered.
const STORM_MAX: usize = ringfeed::limits::RECOVERY_PUBLICATIONS_MAX / 3;

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
    let map = Namespace { keyed: true, publish: Allowed::Subscribers, ..Namespace::default() };
    let delta = Namespace { delta: true, ..history.clone() };
    let tagged = Namespace { tags_filter: true, ..history.clone() };
    let cached = Namespace { cache_recovery: true, ..history.clone() };
    let named = [
        ("cached", cached),
        ("history", history),
        ("room", room),
        ("locked", locked),
        ("map", map),
        ("delta", delta),
        ("tagged", tagged),
    ];
    let named = named.into_iter().map(|(name, namespace)| (name.to_owned(), namespace));
    Namespaces::new(Namespace::default(), named.collect())
}

/// A server of two shards, in this process. With settings for TLS it speaks nothing else.
fn start_server(tls: Option<&TlsSettings>) -> Server {
    let namespaces = Arc::new(namespaces());
    let of_sse = namespaces.clone();
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
        listeners: vec![ListenerConfig { tls: tls.is_some(), ..SocketAddr::from(([127, 0, 0, 1], 0)).into() }],
        tls: tls.cloned().unwrap_or_default(),
        shards: 2,
        namespaces,
        // Several pages for a map of ten keys.
        catch_up: CatchUpConfig { state_page_keys: 3, ..CatchUpConfig::default() },
        keep_alive: KeepAliveConfig { ping_interval_ms: PING_MS, pong_timeout_ms: PONG_MS, idle_timeout_ms: 0 },
        ..ServerConfig::default()
    };
    let (of_http_stream, of_event_stream) = (centrifuge.clone(), centrifuge.clone());
    let sessions = centrifuge.sessions.clone();
    Server::builder(config)
        .route("/connection/websocket", move || Centrifuge::new(centrifuge.clone()))
        .route("/connection/http_stream", move || Centrifuge::http_stream(of_http_stream.clone()))
        .route("/connection/sse", move || Centrifuge::event_stream(of_event_stream.clone()))
        .route("/emulation", move || Emulation::new(sessions.clone()))
        .route("/sse/", move || Sse::new(of_sse.clone()))
        .start()
        .expect("a server can be started")
}

/// The other side of a scenario.
pub(crate) struct World {
    server: Server,
    proxy: Proxy,
    tls: Option<TlsSettings>,
    /// Publications in storms so far.
    stormed: usize,
}

impl World {
    pub(crate) fn start() -> World {
        World::start_with(None)
    }

    /// The same with TLS.
    pub(crate) fn start_with(tls: Option<TlsSettings>) -> World {
        let server = start_server(tls.as_ref());
        let proxy = Proxy::start(server.address());
        World { server, proxy, tls, stormed: 0 }
    }

    /// Where clients reach the server, through a network that can be cut.
    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// Does what the client asks for until it is done.
    pub(crate) fn follow(mut self, client: Process) {
        while let Some(cue) = client.next_line(SCENARIO_PATIENCE).filter(|line| line != "done") {
            self.on_cue(&cue);
        }
        client.succeed(PATIENCE);
        stop(self.server);
    }

    fn on_cue(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["publish", topic, first, count] => self.publish_all(topic, number(first), number(count)),
            ["documents", topic, first, count] => self.publish_documents(topic, number(first), number(count)),
            ["tagged", topic, first, count] => {
                (number(first)..number(first) + number(count)).for_each(|n| self.publish_tagged(topic, n));
            }
            ["cut", topic, first, count] => {
                self.proxy.cut();
                self.publish_all(topic, number(first), number(count));
                self.proxy.open(self.server.address());
            }
            ["storm", topic] => self.storm(topic),
            ["last", topic] => self.publish_next(topic, ",\"last\":true"),
            ["restart"] => self.restart(),
            ["put", topic, key, n] => self.put(topic, key, number(n)),
            ["remove", topic, key] => self.publish_draft(Draft::remove(name(topic), key)),
            ["change", topic] => self.change(topic),
            ["subscribers", count] => self.wait_for_subscribers(number(count)),
            _ => panic!("not a cue: {line}"),
        }
    }

    fn publish_all(&mut self, topic: &str, first: usize, count: usize) {
        (first..first + count).for_each(|n| self.publish(topic, &format!("{{\n\"n\": {n}}}")));
    }

    fn publish_documents(&mut self, topic: &str, first: usize, count: usize) {
        let padding = "\\u00e4☃\\\"".repeat(100);
        let document = |n| format!("{{\n\"n\": {n}, \"padding\": \"{padding}\", \"end\": {}}}", n % 3);
        (first..first + count).for_each(|n| self.publish(topic, &document(n)));
    }

    fn publish_tagged(&mut self, topic: &str, n: usize) {
        let parity = if n.is_multiple_of(2) { "even" } else { "odd" };
        let tags = [("n".to_owned(), n.to_string()), ("parity".to_owned(), parity.to_owned())];
        let draft = Draft::new(name(topic), true, format!("{{\"n\":{n}}}").into());
        self.publish_draft(Draft { tags: Some(tags.into()), ..draft });
    }

    fn publish(&mut self, topic: &str, text: &str) {
        self.publish_draft(Draft::new(name(topic), true, text.as_bytes().to_vec().into()));
    }

    fn put(&mut self, topic: &str, key: &str, n: usize) {
        self.publish_draft(Draft::put(name(topic), key, true, format!("{{\"n\":{n}}}").into()));
    }

    /// Changes a map while its clients are away.
    fn change(&mut self, topic: &str) {
        self.proxy.cut();
        self.publish_draft(Draft::remove(name(topic), "k0"));
        for n in 1..=20 {
            self.put(topic, &format!("k{n}"), 1000 + n);
            if n % 2 == 0 {
                self.publish_draft(Draft::remove(name(topic), &format!("k{n}")));
            }
        }
        self.proxy.open(self.server.address());
    }

    fn publish_draft(&mut self, draft: Draft) {
        let outcome = self.server.publisher.publish(draft).expect("there is room");
        outcome.blocking_recv().expect("the shards run").expect("it can be published");
    }

    /// Publishes all the time to the only subscriber while the network is cut, until it has come back, and some more.
    fn storm(&mut self, topic: &str) {
        self.proxy.cut();
        self.wait_for_subscribers(0);
        self.proxy.open(self.server.address());
        let (mut missed, deadline) = (0, Instant::now() + PATIENCE);
        while self.subscribers() == 0 {
            assert!(Instant::now() < deadline, "the client does not come back");
            if missed < STORM_MAX {
                self.publish_next(topic, "");
            }
            thread::sleep(Duration::from_millis(1));
            missed += 1;
        }
        for _ in 0..50 {
            self.publish_next(topic, "");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Publishes the next of those that storms number.
    fn publish_next(&mut self, topic: &str, more: &str) {
        self.publish(topic, &format!("{{\"n\":{}{more}}}", self.stormed));
        self.stormed += 1;
    }

    fn subscribers(&self) -> usize {
        self.server.status.shards.iter().map(|shard| shard.subscriptions.get() as usize).sum()
    }

    fn wait_for_subscribers(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.subscribers() != count {
            assert!(Instant::now() < deadline, "there are never {count} subscribers");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn restart(&mut self) {
        let old = std::mem::replace(&mut self.server, start_server(self.tls.as_ref()));
        self.proxy.open(self.server.address());
        stop(old);
    }
}

/// Stops a server as a signal would, and waits for its end.
fn stop(server: Server) {
    server.publisher.drain().expect("there is room");
    // Resolves with an error that means nothing.
    let _ = server.ended.blocking_recv();
}

fn name(topic: &str) -> TopicName {
    TopicName::new(topic).expect("a topic's name")
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}
