//! One run on several machines: a coordinator publishes and takes a part of the subscribers, agents take the others.
//!
//! ```text
//!   coordinator                                agent
//!     Hello (nonces, both prove the key)  ◄──►
//!     Ping ──► Pong, several times               its clock, and how far apart both are
//!     Begin (load, part, clocks) ──► Ready       it has connected its subscribers
//!     Start (warm-up, at) ──► Settled            every message has come, or is missing
//!     Start (measured part, at) ──► Settled
//!     Refused (messages)                         at any time: nobody has to receive them
//!     Finish ──► Found                           latencies, faults, deliveries
//! ```
//!
//! An agent receives no copy of the publications: their schedule, and with it their bytes, follow from the load and the
//! common start. Its clock is set to that of the coordinator, so its latencies are as right as the offset of the clocks
//! is known: see [`clock`].

pub(crate) mod agent;
pub(crate) mod clock;
pub(crate) mod coordinator;
pub(crate) mod key;
pub(crate) mod wire;
