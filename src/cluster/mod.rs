//! Several nodes with one order, sans-IO: a log outside gives the order, and every node replays it.
//!
//! Topics are spread over *buckets*; each bucket has one log of *records*. Every node appends its publications to the
//! logs and reads all of them, its own records included. A topic's offsets are counted from the log alone
//! ([`Ledger`]), by the same code from the same bytes, so all nodes count the same: no node owns a topic, and nothing
//! must be handed over when a node dies.
//!
//! | module | idea |
//! |---|---|
//! | `record` | the bytes of the log |
//! | `ledger` | the rules by which a record counts, and the positions that it gives |
//! | `reader` | the records of a log in order, each once: gaps are fetched, and a rewritten log is noticed |
//! | `writer` | this node's records: one in flight, sent again until it is read back |
//! | `bucket` | the three together, and how a node joins: from a peer's ledger, or by a reset |
//! | `base` | older ledgers, from which a node that joins reads the log again and so gets the histories |
//! | `message` | messages between nodes, outside the log |
//! | `members` | which other nodes there are |
//! | `roster` | joins and leaves of the clients of other nodes |
//! | `node` | all buckets of a node: events in, outputs out |
//! | `status` | what the rest of the process may know of it |
//!
//! # Rules that all versions share
//!
//! The hashes of `topics::stable`, the encoding of records and the rules of the ledger are a wire format: nodes of
//! different versions count
//! one log during a rolling upgrade. A record with a newer [`record::VERSION`] stops the node, which says so.

mod base;
mod bucket;
mod ledger;
mod members;
mod message;
#[cfg(test)]
mod model;
mod node;
mod reader;
pub mod record;
mod roster;
mod status;
mod writer;

pub use base::Reach;
pub use ledger::Ledger;
pub use message::{Ask, Reply, announced};
pub use node::{Config, Event, Node, Output, Work};
pub use record::Info;
pub use roster::Member;
pub use status::{BucketStatus, ClusterStatus, Counts, Figures, PeerStatus};
