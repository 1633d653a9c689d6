//! A server inside the test's own process, with any configuration and access to the metrics of its shards.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ringfeed::conn::KeepAliveConfig;
use ringfeed::gateway::{Feed, Sse};
use ringfeed::server::{Publisher, Server, ServerConfig, ShardMetrics, SlowConnection, Status};
use ringfeed::topics::{Draft, Namespace, Namespaces, Position, PublishError, TopicName};
use socket2::{Domain, Socket, Type};

use crate::support::PATIENCE;

/// A running server with feeds and event streams on two shards. It stops when dropped.
pub(crate) struct Inside {
    /// The address of WebSockets and event streams.
    pub data: SocketAddr,
    publisher: Publisher,
    status: Status,
}

/// The default configuration without pings: the first ping of a connection leaves at any time within the interval, and
/// the tests read messages only.
pub(crate) fn without_pings() -> ServerConfig {
    let keep_alive = KeepAliveConfig { ping_interval_ms: 0, ..KeepAliveConfig::default() };
    ServerConfig { keep_alive, ..ServerConfig::default() }
}

impl Inside {
    /// A server with `namespace` for all topics.
    pub(crate) fn start(namespace: Namespace) -> Inside {
        Inside::with(ServerConfig { namespaces: Arc::new(Namespaces::new(namespace, Vec::new())), ..without_pings() })
    }

    /// A server with `config`, except for its port and shard count.
    pub(crate) fn with(config: ServerConfig) -> Inside {
        let config =
            ServerConfig { listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()], shards: 2, ..config };
        let (of_feed, of_sse) = (config.namespaces.clone(), config.namespaces.clone());
        let builder = Server::builder(config)
            .route("/feed/", move || Feed::new(of_feed.clone()))
            .route("/sse/", move || Sse::new(of_sse.clone()));
        let server = builder.start().expect("the server starts");
        Inside { data: server.address(), publisher: server.publisher, status: server.status }
    }

    /// Publishes a text and waits for its position.
    pub(crate) fn publish(&mut self, topic: &str, text: &str) -> Position {
        self.publish_draft(draft(topic, text))
    }

    /// Publishes and waits for the position.
    pub(crate) fn publish_draft(&mut self, draft: Draft) -> Position {
        let outcome = self.publisher.publish(draft).expect("the queue has room");
        outcome.blocking_recv().expect("the shard runs").expect("the publication is accepted")
    }

    /// Publishes and waits for the outcome.
    pub(crate) fn try_publish(&mut self, draft: Draft) -> Result<Position, PublishError> {
        let outcome = self.publisher.publish(draft).expect("the queue has room");
        outcome.blocking_recv().expect("the shard runs")
    }

    /// Publishes all of `drafts` in order, as fast as the server accepts them.
    pub(crate) fn publish_all(&mut self, drafts: impl IntoIterator<Item = Draft>) {
        let mut last = None;
        for draft in drafts {
            let mut sent = self.publisher.publish(draft.clone());
            while let Err(PublishError::Busy) = sent {
                std::thread::yield_now();
                sent = self.publisher.publish(draft.clone());
            }
            last = Some(sent.expect("the server does not stop"));
        }
        if let Some(last) = last {
            last.blocking_recv().expect("the shard runs").expect("the publication is accepted");
        }
    }

    /// The sum of a metric over all shards.
    pub(crate) fn sum(&self, number: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.status.shards.iter().map(number).sum()
    }

    /// Waits until the metrics satisfy `is_so`.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&Inside) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "timeout: {what}");
            std::thread::yield_now();
        }
    }

    /// The connections with the largest backlogs.
    pub(crate) fn slowest(&mut self) -> Vec<SlowConnection> {
        let lists = self.publisher.slowest(10).expect("the queue has room");
        lists.into_iter().flat_map(|list| list.blocking_recv().expect("the shard runs")).collect()
    }

    /// Starts to drain the server.
    pub(crate) fn drain(&mut self) {
        while let Err(PublishError::Busy) = self.publisher.drain() {
            std::thread::yield_now();
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.drain();
    }
}

/// A text for a topic.
pub(crate) fn draft(topic: &str, text: &str) -> Draft {
    Draft::new(TopicName::new(topic).expect("a topic's name"), true, Bytes::copy_from_slice(text.as_bytes()))
}

/// A connection with tiny kernel buffers.
pub(crate) fn connect_narrow(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("an option can be set");
    socket.connect(&server.into()).expect("the server accepts");
    socket.into()
}
