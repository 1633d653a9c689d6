//! The doorbell without its fences.

#[path = "../../src/buf/wake_flag.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is a part of a library elsewhere")]
pub(crate) mod wake_flag;

/// As for the others, but for the fence, which does nothing.
mod sync {
    pub(super) use crate::sync::{Arc, AtomicBool, Ordering};

    pub(super) fn fence(_: Ordering) {}
}
