//! Receive buffers that the kernel picks from as data arrives.
//!
//! A ring of large buffers shared by all connections of a shard, consumed incrementally (`IOU_PBUF_RING_INC`): each
//! receive takes the next piece of the buffer at the head, so small messages lie side by side in memory that is warm,
//! and an idle connection holds none. Knows the layout of the ring, but never talks to the kernel: `ring` registers it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The kernel wants the ring of entries on a page boundary.
const PAGE: usize = 4096;

/// Rings of buffers that this process has made: each has an identity of its own.
static RINGS: AtomicU32 = AtomicU32::new(0);

/// A piece of a receive buffer, filled by the kernel and lent to the handler of the completion.
///
/// Give it back to its ring when its bytes have been used: exactly once.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    ring: u16,
    identity: u32,
    buffer_id: u16,
    offset: u32,
    len: u32,
}

impl Received {
    /// The number of the ring of buffers that it lies in.
    pub fn ring(&self) -> u16 {
        self.ring
    }
}

/// The record of one buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Buffer {
    /// Bytes of it that the kernel has used since it was last offered.
    consumed: u32,
    /// Pieces of it that are lent.
    lent: u32,
    /// The kernel will put nothing more there: it is offered again when no piece of it is lent.
    is_used_up: bool,
}

/// A ring of receive buffers, memory and entries.
pub(crate) struct RecvRing {
    number: u16,
    identity: u32,
    entries: *mut BufRingEntry,
    memory: *mut u8,
    count: u16,
    /// Buffers that have been offered at least once: the first so many.
    in_use: u16,
    buffer_bytes: u32,
    /// Entries published so far, modulo 2^16: the tail that the kernel reads.
    tail: u16,
    /// Entries that the kernel has used up, modulo 2^16: its head, as the completions tell it.
    head: u16,
    buffers: Box<[Buffer]>,
}

impl RecvRing {
    /// Room for `count` buffers of `buffer_bytes` each, of which the first `in_use` are offered until it
    /// [grows](Self::grow). `count` is a power of two, at most 32,768.
    ///
    /// The kernel uses all in turn, so memory is touched of those in use only. `number` tells several apart.
    pub(crate) fn new(number: u16, count: u16, in_use: u16, buffer_bytes: u32) -> RecvRing {
        assert!(1 <= in_use && in_use <= count, "some of the buffers are offered");
        assert!(count.is_power_of_two() && count <= 32_768, "the kernel takes a power of two up to 32,768");
        let entries = allocate(Self::entries_layout(count)).cast();
        let memory = map(Self::memory_bytes(count, buffer_bytes));
        let buffers = vec![Buffer::default(); usize::from(count)].into_boxed_slice();
        let identity = RINGS.fetch_add(1, Ordering::Relaxed);
        let mut ring =
            RecvRing { number, identity, entries, memory, count, in_use, buffer_bytes, tail: 0, head: 0, buffers };
        (0..in_use).for_each(|buffer_id| ring.offer(buffer_id));
        ring
    }

    /// The kernel found none: offers as many again as are in use, as far as there is room.
    pub(crate) fn grow(&mut self) {
        let in_use = self.in_use.saturating_mul(2).min(self.count);
        (self.in_use..in_use).for_each(|buffer_id| self.offer(buffer_id));
        self.in_use = in_use;
    }

    /// Where the entries lie, for registering with the kernel.
    pub(crate) fn entries_address(&self) -> u64 {
        self.entries as u64
    }

    /// How many buffers there is room for.
    pub(crate) fn count(&self) -> u16 {
        self.count
    }

    /// Whether the kernel has a buffer to put bytes into, as far as the completions so far tell.
    pub(crate) fn has_offered(&self) -> bool {
        self.head != self.tail
    }

    /// Notes that the kernel put `len` bytes into buffer `buffer_id`, after what it put there before.
    /// `last`: it will put no more there (the completion lacked `IORING_CQE_F_BUF_MORE`).
    pub(crate) fn fill(&mut self, buffer_id: u16, len: u32, last: bool) -> Received {
        let buffer = &mut self.buffers[usize::from(buffer_id)];
        assert!(!buffer.is_used_up, "the kernel wrote to a receive buffer that it had used up");
        let offset = buffer.consumed;
        assert!(len <= self.buffer_bytes - offset, "the kernel wrote past a receive buffer");
        buffer.consumed += len;
        buffer.lent += 1;
        buffer.is_used_up = last;
        self.head = self.head.wrapping_add(u16::from(last));
        Received { ring: self.number, identity: self.identity, buffer_id, offset, len }
    }

    /// Compares where the kernel puts the next bytes, as it says itself in the entry at its head, with where the
    /// completions so far say that it does. Call it when all completions have been taken.
    ///
    /// # Panics
    /// If they differ: pieces would be read at wrong places, and one connection's bytes taken for another's.
    pub(crate) fn check_against_kernel(&self) {
        if !self.has_offered() {
            return;
        }
        let index = usize::from(self.head & (self.count - 1));
        // SAFETY: `index` < `count` entries, which lie in `entries` as long as this ring does. The kernel changes the
        // entry at its head while a thread is in its ring, which is this thread, and it is here.
        let entry = unsafe { &*self.entries.add(index) };
        let buffer_id = usize::from(entry.bid());
        let consumed = u64::from(self.buffers[buffer_id].consumed);
        let start = self.memory as u64 + (buffer_id * self.buffer_bytes as usize) as u64;
        let kernel = (entry.addr(), u64::from(entry.len()));
        let ours = (start + consumed, u64::from(self.buffer_bytes) - consumed);
        assert!(
            kernel == ours,
            "the kernel writes to receive buffers elsewhere than it is read: {kernel:x?}, {ours:x?}"
        );
    }

    /// The bytes of `piece`.
    ///
    /// # Panics
    /// If the piece is of another ring.
    pub(crate) fn bytes(&mut self, piece: &Received) -> &mut [u8] {
        assert!(piece.identity == self.identity, "a received piece belongs to another ring");
        let start = usize::from(piece.buffer_id) * self.buffer_bytes as usize + piece.offset as usize;
        // SAFETY: the piece is of this ring, so `fill` checked that it lies inside its buffer, and `count` buffers lie
        // inside `memory`. The kernel has written these bytes and won't again before the buffer is offered anew, which
        // `release` does only when no piece of it is lent, and this one is. Pieces do not overlap, and `&mut self`
        // keeps others out while the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.memory.add(start), piece.len as usize) }
    }

    /// Takes a used piece back. A buffer that the kernel has used up is offered again when all its pieces are back.
    ///
    /// # Panics
    /// If the piece is of another ring.
    pub(crate) fn release(&mut self, piece: Received) {
        assert!(piece.identity == self.identity, "a received piece belongs to another ring");
        let buffer = &mut self.buffers[usize::from(piece.buffer_id)];
        buffer.lent -= 1;
        if buffer.is_used_up && buffer.lent == 0 {
            *buffer = Buffer::default();
            self.offer(piece.buffer_id);
        }
    }

    /// Publishes a whole buffer at the tail of the ring.
    fn offer(&mut self, buffer_id: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` < `count` entries; the kernel reads entries between its head and the published tail only,
        // and this one is not among them: there are `count` buffers, and this one is not offered at the moment.
        let entry = unsafe { &mut *self.entries.add(index) };
        // SAFETY: `buffer_id` < `count`, so the buffer lies inside `memory`.
        entry.set_addr(unsafe { self.memory.add(usize::from(buffer_id) * self.buffer_bytes as usize) } as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer_id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry, which is ours and aligned; the kernel only reads it. The release
        // store makes the entry visible before the tail that covers it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE).expect("a small power of two")
    }

    fn memory_bytes(count: u16, buffer_bytes: u32) -> usize {
        usize::from(count) * buffer_bytes as usize
    }
}

fn allocate(layout: Layout) -> *mut u8 {
    assert!(layout.size() > 0, "there is at least one entry");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}

/// Memory that takes none until it is touched. What an allocator gives may have been used before, and would be cleared.
fn map(bytes: usize) -> *mut u8 {
    let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    // SAFETY: no address is requested, so nothing that is mapped already changes.
    let memory = unsafe { mmap_anonymous(std::ptr::null_mut(), bytes, access, kind) };
    memory.expect("address space for receive buffers").cast()
}

impl Drop for RecvRing {
    fn drop(&mut self) {
        let memory_bytes = Self::memory_bytes(self.count, self.buffer_bytes);
        // SAFETY: both were made in `new` with these sizes and are given back only here. The owner of the kernel's ring
        // unregisters the buffers and ends the receives before it drops this (see `ring::uring`).
        let unmapped = unsafe {
            dealloc(self.entries.cast(), Self::entries_layout(self.count));
            munmap(self.memory.cast(), memory_bytes)
        };
        unmapped.expect("a mapping can be given back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands in for the kernel: writes `data` where it would, and completes.
    fn arrive(ring: &mut RecvRing, buffer_id: u16, data: &[u8], last: bool) -> Received {
        let piece = ring.fill(buffer_id, data.len() as u32, last);
        ring.bytes(&piece).copy_from_slice(data);
        piece
    }

    #[test]
    fn pieces_of_a_buffer_lie_one_after_the_other() {
        let mut ring = RecvRing::new(0, 2, 2, 16);
        let first = arrive(&mut ring, 0, b"hello ", false);
        let second = arrive(&mut ring, 0, b"world", true);
        assert_eq!(ring.bytes(&first), b"hello ");
        assert_eq!(ring.bytes(&second), b"world");
        ring.release(second);
        assert_eq!(ring.tail, 2, "one of its pieces is still lent");
        assert_eq!(ring.bytes(&first), b"hello ");
        ring.release(first);
        assert_eq!(ring.tail, 3, "a buffer is offered again when all its pieces are back");
        let again = arrive(&mut ring, 0, b"0123456789abcdef", true);
        assert_eq!(ring.bytes(&again), b"0123456789abcdef");
    }

    /// Stands in for the kernel: moves the entry of `buffer_id`, which lies at its head, past `len` bytes.
    fn advance_entry(ring: &mut RecvRing, buffer_id: u16, len: u32) {
        // SAFETY: in these tests nobody else looks at the entries, and buffers are offered in the order of their ids.
        let entry = unsafe { &mut *ring.entries.add(usize::from(buffer_id)) };
        entry.set_addr(entry.addr() + u64::from(len));
        entry.set_len(entry.len() - len);
    }

    #[test]
    fn the_kernel_agrees_where_the_next_bytes_go() {
        let mut ring = RecvRing::new(0, 2, 2, 16);
        ring.check_against_kernel();
        arrive(&mut ring, 0, b"hello", false);
        advance_entry(&mut ring, 0, 5);
        ring.check_against_kernel();
        arrive(&mut ring, 0, b"0123456789a", true);
        ring.check_against_kernel();
        arrive(&mut ring, 1, b"0123456789abcdef", true);
        assert!(!ring.has_offered());
        ring.check_against_kernel();
    }

    #[test]
    #[should_panic(expected = "elsewhere than it is read")]
    fn a_buffer_that_was_consumed_whole_is_noticed() {
        let mut ring = RecvRing::new(0, 2, 2, 16);
        arrive(&mut ring, 0, b"h", false);
        advance_entry(&mut ring, 0, 8);
        ring.check_against_kernel();
    }

    #[test]
    #[should_panic(expected = "another ring")]
    fn a_piece_of_another_ring_is_refused() {
        let mut large = RecvRing::new(0, 1, 1, 1024);
        let piece = large.fill(0, 1024, true);
        RecvRing::new(0, 1, 1, 16).bytes(&piece);
    }

    #[test]
    fn more_are_offered_as_long_as_there_is_room() {
        let mut ring = RecvRing::new(0, 4, 1, 16);
        for offered in [2, 4, 4] {
            ring.grow();
            assert_eq!(ring.tail, offered);
        }
        let piece = arrive(&mut ring, 3, b"hello", true);
        ring.release(piece);
        assert_eq!(ring.tail, 5);
    }

    #[test]
    #[should_panic(expected = "past a receive buffer")]
    fn a_piece_past_the_buffer_is_refused() {
        RecvRing::new(0, 1, 1, 16).fill(0, 17, true);
    }
}
