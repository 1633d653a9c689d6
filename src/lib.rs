//! Ringfeed: a WebSocket push server and server runtime for Linux on io_uring.
//!
//! A *shard* is one thread with one ring, a socket of each listener and one slab of connections, pinned to a CPU. It
//! implements RFC 6455 and fans publications out: the server encodes each publication once, and every subscriber's send
//! points to the same bytes. Shards share only queues.
//!
//! ```text
//!          subscribers                         publishers, Prometheus, you
//!               │ WebSocket                            │ HTTP
//!  ┌────────────┴─────────────┐            ┌───────────┴───────────┐
//!  │ shard 0 │ shard 1 │ …    │◄───────────┤ control plane         │
//!  │ gateway · conn · topics  │   queues   │ tokio-uring, hyper    │
//!  │ proto · buf              │            └───────────────────────┘
//!  │ ring ── io_uring ── TCP  │
//!  └──────────────────────────┘
//! ```
//!
//! # A server of your own
//!
//! Implement [`Handler`], add it to a [`ServerBuilder`] under a path, and start the [`Server`]:
//!
//! ```no_run
//! use ringfeed::{Accept, CloseCause, Context, Handler, Message, Refusal, Request, Server, ServerConfig, TopicName};
//!
//! /// Sends each message to all connections of the same room.
//! struct Rooms;
//!
//! impl Handler for Rooms {
//!     /// The room of a connection.
//!     type State = TopicName;
//!
//!     fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<TopicName>, Refusal> {
//!         let room = TopicName::new(&request.param("room").unwrap_or_default())?;
//!         conn.subscribe(room.clone())?;
//!         Ok(Accept::new(room))
//!     }
//!
//!     fn on_message(&mut self, conn: &mut Context<'_>, room: &mut TopicName, message: Message<'_>) {
//!         conn.publish(room.clone(), message);
//!     }
//!
//!     fn on_close(&mut self, conn: &mut Context<'_>, room: TopicName, _: CloseCause) {
//!         conn.publish(room, Message::text("* somebody leaves"));
//!     }
//! }
//!
//! let server = Server::builder(ServerConfig::default()).route("/rooms/{room}", || Rooms).start()?;
//! println!("listening on ws://{}/rooms/<room>", server.address());
//! server.wait();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | to | use | example |
//! |---|---|---|
//! | reply, subscribe, publish, close, set a timer | [`Context`] | `examples/echo.rs`, `examples/chat.rs` |
//! | keep state of a connection | [`Handler::State`] | `examples/chat.rs` |
//! | reply later, or from another thread | [`Handle`] | `examples/lookup.rs` |
//! | publish from another thread, with back-pressure | [`Publisher`] | `examples/ticker.rs` |
//! | speak a protocol of your own on TCP, without HTTP | [`gateway::Protocol`] | `examples/lengths.rs` |
//! | answer STOMP's `/app` destinations | [`gateway::stomp::Application`] | `examples/greetings.rs` |
//! | stop gracefully | [`Server::shutdown`] | `examples/ticker.rs` |
//! | test a handler without sockets or waiting | `testing`, with the feature of that name | all of them |
//!
//! # Compared with others
//!
//! | | Ringfeed | uWebSockets | axum | actix-ws |
//! |---|---|---|---|---|
//! | a connection is | calls of a handler | calls of a behaviour | a task with a socket | a task with a session |
//! | its state | `Handler::State` | user data | variables of the task | variables of the task |
//! | waiting in the middle | no: a [`Handle`] replies later | no: `loop.defer` | `.await` anywhere | `.await` anywhere |
//! | publish and subscribe | topics, across shards, with history, presence and recovery | topics of one thread | by hand, with channels | by hand, with channels |
//! | slow readers | a policy per namespace | a limit, and `drain` | by hand | by hand |
//! | threads | a shard per CPU, started for you | an app per thread | Tokio's pool | a worker per CPU |
//! | the rest of HTTP | GET only | a router | everything | everything |
//! | runs on | Linux with io_uring | Linux, macOS, Windows | wherever Tokio runs | wherever Tokio runs |
//! | TLS | with the feature `tls` | built in | by crates | built in |
//!
//! Choose axum or actix-ws if your application is mostly HTTP, if each connection awaits databases and other services,
//! or if it must run elsewhere. Choose Ringfeed if the server mostly pushes, to many connections. uWebSockets has the
//! same shape in C++, and needs your own way to publish from one thread to another's connections.
//!
//! # Features
//!
//! A library user needs none of the default features. In `Cargo.toml`:
//!
//! ```toml
//! ringfeed = { version = "0.1", default-features = false }
//! ```
//!
//! | feature | adds |
//! |---|---|
//! | none | the runtime: shards, [`Handler`], topics, feeds and event streams |
//! | `centrifuge` | Centrifugo's client protocol |
//! | `cluster` | several nodes with one order over NATS JetStream, with `control` |
//! | `control` | the control plane, with `centrifuge`, whose server API it serves |
//! | `client` | the WebSocket client |
//! | `tls` | wss on the data port |
//! | `serde` | reading and writing the settings of topics and keep-alive |
//! | `product` (default) | the binary `ringfeed`: `control`, `client`, commands, configuration file, demo page |
//! | `testing` | the module `testing`; name it in `[dev-dependencies]` |
//!
//! # The two golden paths
//!
//! A message arrives:
//!
//! | step | where |
//! |---|---|
//! | `Shard::arm_recv` submits the connection's receive: a poll while it receives little, multishot while it receives much | `server/recv_mode` |
//! | `Shard::on_recv` finds the connection by the completion's token | `server/receive` |
//! | `Shard::on_input` passes the bytes on; those of a TLS connection are decrypted in place first | `server/receive`, `server/secure`, `tls` |
//! | `Connection::next` returns the next message and answers control frames | `conn/recv` |
//! | `Decoder::decode` unmasks and validates the frame in place | `proto/decoder`, `simd` |
//! | `Handler::on_message` replies through its `Context` and adds `Command`s | `gateway/*` |
//! | `Shard::apply_commands` executes the commands | `server/publish`, `server/subscribe` |
//! | `Shard::settle_input` pauses or resumes the connection's input | `server/resume` |
//! | `Shard::send_replies` sends the replies of the turn, one send per connection | `server/send` |
//!
//! A publication leaves:
//!
//! | step | where |
//! |---|---|
//! | `Publisher::publish`, or `Command::Publish`, sends a `Draft` to the topic's home shard | `server/mesh` |
//! | `Shard::sequence` has `Home::sequence` assign the offset, and makes the `Body` | `server/publish`, `topics/home` |
//! | `Home::record` adds the `Body` to the topic's history | `topics/home`, `topics/history` |
//! | `Shard::push_to_all` sends one parcel to each shard with subscribers | `server/publish`, `server/mesh` |
//! | `Topics::stage` appends the push to the topic's queue, which boards a carousel | `topics/table`, `topics/queue`, `topics/carousel` |
//! | `Topics::gather` makes a batch: the next connections, each with a run of every topic that is due to it | `topics/table`, `topics/batch`, `topics/run` |
//! | `encode` makes each frame once per variant, plain or compressed | `server/variant`, `gateway/encoder` |
//! | `Shard::fan_out` submits one send per connection, of one record with TLS; the `Outbox` of a slow connection takes the rest | `server/fan_out`, `server/secure`, `conn/outbox` |
//!
//! A reconnecting subscriber catches up first: `server/subscribe` sends its request to the topic's home, at the pace of
//! `server/catch_up`.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | shard | a thread with its own ring, listener and connections; shares only queues with other shards |
//! | turn | one iteration of a shard's loop: handle completions, parcels and timers, then send |
//! | home shard | the shard that orders a topic's publications and keeps its history and presence; a keyed hash of the name chooses it |
//! | parcel | a message from one shard, or from the control plane, to a shard |
//! | doorbell | the completion that wakes a sleeping shard to read its parcels |
//! | epoch, offset | a publication's position: offsets count 1, 2, 3 … within an epoch; a new epoch means that the count has restarted |
//! | draft | a publish request: a publication that has no offset yet |
//! | body | a publication with its position, its payload and its tags |
//! | push | an event for the subscribers of a topic: a publication, a join or a leave |
//! | carousel | a cursor that passes over all slots of a shard; each push stays on it for one round, so every subscriber receives it once |
//! | lane (fan-out) | one of a shard's two carousels; each has its own slice of every turn |
//! | express lane | the fan-out lane of topics with few subscribers, which never wait for large topics |
//! | lane (ring) | one of the kernel rings of a shard that has more connections than one descriptor table holds |
//! | conflate | replace a queued publication with a newer one of the same key |
//! | drain | stop: close all connections at an even pace, then end the shards |
//!
//! # The house
//!
//! Imports go down only. `unsafe` lives in `simd`, `buf` and `ring`. `tests/tidy` checks both.
//!
//! | floor | module | contents |
//! |---|---|---|
//! | 0 | [`limits`] | every bound, its unit and why |
//! | 0 | `counts` | numbers and histograms that one thread counts and others read |
//! | 0 | `version` | the version, revision, target and compiler of this build |
//! | 0 | `log` | how many log lines clients can cause |
//! | 0 | [`simd`] | kernels on slices: unmasking, UTF-8 |
//! | 1 | [`proto`] | RFC 6455 and RFC 7692 as a sans-IO core, both roles |
//! | 1 | [`buf`] | shared frames, receive buffers, the queue between shards |
//! | 1 | [`tls`] | TLS between a socket's bytes and a conversation's, sans-IO: handshake, records, certificates |
//! | 2 | [`ring`] | io_uring, behind a trait |
//! | 2 | [`conn`] | one connection, sans-IO: conversation, outbox, keep-alive |
//! | 2 | [`topics`] | publish and subscribe, pure: order, history, presence, subscribers |
//! | 3 | [`cluster`] | several nodes with one order, sans-IO: records, the rules by which all nodes count them, joining |
//! | 3 | [`gateway`] | the protocol of each path: the [`Handler`] trait, echo, the raw feed, event streams, Centrifugo, STOMP |
//! | 4 | [`server`] | shards: their loop, start and stop |
//! | 4 | [`backend`] | the application behind the server, over HTTP |
//! | 4 | [`relay`] | the sessions of SockJS's HTTP transports: a thread |
//! | 4 | [`bridge`] | between shards and a cluster's log in NATS JetStream: a thread |
//! | 4 | [`control`] | the control plane on tokio-uring: HTTP API, metrics, demo |
//! | 4 | [`client`] | the WebSocket client on tokio-uring |
//! | 2 | [`import`] | foreign WebSocket services, pure: their protocol, the types of their messages, documents and code |
//! | 5 | `testing` | tests of handlers in virtual time |
//! | 5 | [`config`] | the configuration file |
//! | 5 | [`cli`] | the command line |

#[cfg(feature = "control")]
pub mod backend;
#[cfg(feature = "cluster")]
pub mod bridge;
pub mod buf;
#[cfg(feature = "product")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "cluster")]
pub mod cluster;
#[cfg(feature = "product")]
pub mod config;
pub mod conn;
#[cfg(feature = "control")]
pub mod control;
mod counts;
pub mod gateway;
#[cfg(feature = "product")]
pub mod import;
pub mod limits;
mod log;
pub mod proto;
#[cfg(feature = "control")]
pub mod relay;
pub mod ring;
pub mod server;
pub mod simd;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod topics;
#[cfg(feature = "control")]
mod version;

pub use buf::ConnId;
pub use conn::CloseCause;
pub use gateway::{Accept, Context, Get, Handle, Handler, Page, Refusal, Request, Response, SendError, Stream};
pub use proto::{CloseCode, Message, MessageKind};
pub use server::{Publisher, Server, ServerBuilder, ServerConfig};
pub use topics::{Draft, Namespace, Namespaces, PublishError, TopicName};
