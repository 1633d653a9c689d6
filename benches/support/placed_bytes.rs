//! Memory for a bench, at a chosen address.

use std::ops::{Deref, DerefMut, Range};

/// Bytes at a chosen offset within a page, since speed depends on it.
pub(crate) struct PlacedBytes {
    storage: Vec<u8>,
    range: Range<usize>,
}

impl PlacedBytes {
    /// A copy of `bytes` that starts `offset` bytes after the beginning of a page of 4 KiB.
    ///
    /// Copies used in rotation should have different offsets, since the cache keeps only a few with the same one.
    pub(crate) fn new(bytes: &[u8], offset: usize) -> Self {
        const PAGE_BYTES: usize = 4096;
        let offset = offset % PAGE_BYTES;
        let mut storage = vec![0; PAGE_BYTES + offset + bytes.len()];
        let start = storage.as_ptr().align_offset(PAGE_BYTES) + offset;
        let range = start..start + bytes.len();
        storage[range.clone()].copy_from_slice(bytes);
        Self { storage, range }
    }
}

impl Deref for PlacedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.storage[self.range.clone()]
    }
}

impl DerefMut for PlacedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.range.clone()]
    }
}
