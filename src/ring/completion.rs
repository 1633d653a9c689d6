//! What the kernel says of an operation.

use super::{Errno, Token};
use crate::buf::Received;

/// One completion.
#[derive(Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which operation.
    pub token: Token,
    /// What it returned: bytes, a descriptor, or 0; see the operation.
    pub result: Result<u32, Errno>,
    /// The operation goes on and will complete again.
    pub more: bool,
    /// The bytes that a receive brought. To be given back with [`Ring::release`](super::Ring::release).
    pub received: Option<Received>,
    /// More had come than the receive brought.
    pub has_rest: bool,
}
