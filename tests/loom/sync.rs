//! What `src/buf/sync.rs` is elsewhere.

pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::Arc;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
