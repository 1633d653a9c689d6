//! What must arrive, and what went wrong: payloads, topics, outstanding deliveries and faults.

pub(crate) mod board;
pub(crate) mod deliveries;
pub(crate) mod faults;
pub(crate) mod payload;
pub(crate) mod topics;
pub(crate) mod window;
