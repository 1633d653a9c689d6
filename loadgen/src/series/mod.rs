//! Several runs, each in a process of its own: how much they differ, and whether two servers do.

pub(crate) mod ab;
pub(crate) mod child;
pub(crate) mod repeat;
pub(crate) mod statistics;
