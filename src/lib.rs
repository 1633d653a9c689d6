//! Ringfeed: a WebSocket push server and server runtime for Linux on io_uring.
//!
//! A *shard* is one thread with one ring, one listener and one slab of connections, pinned to a CPU. It speaks RFC 6455
//! and fans publications out: each is encoded once, and every subscriber's send points at the same bytes. Shards share
//! nothing but queues.
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
//! # The two golden paths
//!
//! | a frame comes in | where | a message goes out | where |
//! |---|---|---|---|
//! | `Shard::on_recv` finds the connection by its token | `server/receive` | a publication reaches its topic's home shard | `server/mesh` |
//! | `Connection::next` takes the next frame | `conn/recv` | `Shard::sequence` gives it its place, keeps and encodes it once | `server/publish` |
//! | `Decoder::decode` unmasks and validates in place | `proto/decoder` | one parcel for each shard with subscribers | `server/mesh` |
//! | `Handler::on_message` answers, or asks for a `Command` | `gateway/*` | `Topics::gather` finds what each connection is due of all topics, plain or compressed | `topics/table`, `topics/carousel` |
//! | `Shard::apply` does what was asked for | `server/publish` | `Shard::send_publications` submits one send each, or queues in the `Outbox` of a slow one | `server/fan_out`, `conn/outbox` |
//!
//! # The house
//!
//! Imports go down only. `unsafe` lives in `simd`, `buf` and `ring`. `tests/tidy` checks both.
//!
//! | floor | module | what it is |
//! |---|---|---|
//! | 0 | [`limits`] | every bound, its unit and why |
//! | 0 | [`simd`] | kernels on slices: unmasking, UTF-8 |
//! | 1 | [`proto`] | RFC 6455 and RFC 7692 as a sans-IO core, both roles |
//! | 1 | [`buf`] | shared frames, receive buffers, the queue between shards |
//! | 2 | [`ring`] | io_uring, behind a trait |
//! | 2 | [`conn`] | one connection, sans-IO: conversation, outbox, signs of life |
//! | 2 | [`topics`] | publish and subscribe, pure: order, history, presence, subscribers |
//! | 3 | [`gateway`] | what a path means: the [`Handler`](gateway::Handler) trait, echo, the raw feed, event streams, Centrifugo's protocol |
//! | 4 | [`server`] | shards: THE loop, and how they start and stop |
//! | 4 | [`control`] | the control plane on tokio-uring: HTTP API, metrics, demo |
//! | 4 | [`client`] | the WebSocket client on tokio-uring |
//! | 5 | [`config`] | the configuration file |
//! | 5 | [`cli`] | the command line |
//!
//! # A server of your own
//!
//! Implement [`Handler`](gateway::Handler), give it a path, start a [`Server`](server::Server): `examples/echo.rs` and
//! `examples/feed.rs` are complete.

pub mod buf;
pub mod cli;
pub mod client;
pub mod config;
pub mod conn;
pub mod control;
pub mod gateway;
pub mod limits;
pub mod proto;
pub mod ring;
pub mod server;
pub mod simd;
pub mod topics;
