//! A bounded queue from one thread to another.
//!
//! One producer, one consumer, no locks: two counters that only grow, each written by one side. A full queue gives the
//! item back, so that the producer decides what waiting means. `tests/loom` tries all orders of events.
#![allow(unsafe_code, reason = "it is compiled by tests/loom as well, where nothing else allows it")]

use std::mem::MaybeUninit;

use super::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};

/// A counter on a cache line of its own, so that the two sides do not invalidate each other's.
#[repr(align(128))]
struct Counter(AtomicUsize);

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Items taken so far; written by the consumer.
    head: Counter,
    /// Items put in so far; written by the producer.
    tail: Counter,
}

// SAFETY: a slot is touched by one side at a time: by the producer while it lies in tail..head + capacity, by the
// consumer while it lies in head..tail; the release store of the counter hands it over. `T: Send` lets the item itself
// change threads.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; dropping the queue drops items made on the other thread, which `T: Send` allows.
unsafe impl<T: Send> Send for Shared<T> {}

/// The sending end.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    /// The head as last seen: it can only have grown since.
    head_seen: usize,
}

/// The receiving end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// The tail as last seen: it can only have grown since.
    tail_seen: usize,
}

/// A queue for `capacity` items, rounded up to a power of two.
pub fn queue<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let slots = (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let shared = Arc::new(Shared { slots, head: Counter(AtomicUsize::new(0)), tail: Counter(AtomicUsize::new(0)) });
    (Producer { shared: shared.clone(), tail: 0, head_seen: 0 }, Consumer { shared, head: 0, tail_seen: 0 })
}

impl<T> Shared<T> {
    fn slot(&self, count: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[count & (self.slots.len() - 1)]
    }
}

impl<T: Send> Producer<T> {
    /// Puts `item` in. A full queue gives it back.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head_seen) == self.shared.slots.len() {
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == self.shared.slots.len() {
                return Err(item);
            }
        }
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: the slot at `tail` is the producer's: the test above shows that the consumer has taken what was
            // in it, and `&mut self` on the only producer keeps others out.
            unsafe { (*slot).write(item) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// How many items the consumer had not taken at this moment.
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.shared.head.0.load(Ordering::Acquire))
    }

    /// Whether the consumer had taken everything at this moment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there was no room at this moment.
    pub fn is_full(&self) -> bool {
        self.len() == self.shared.slots.len()
    }
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let item = self.shared.slot(self.head).with_mut(|slot| {
            // SAFETY: head < tail, so the producer wrote this slot and handed it over with its release store, and
            // `&mut self` on the only consumer keeps others out; the head moves on, so it is read once.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(item)
    }

    /// Whether nothing was there to take at this moment.
    pub fn is_empty(&self) -> bool {
        self.head == self.shared.tail.0.load(Ordering::Acquire)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Whatever the ends did happened before this: they have let go of what they shared.
        let (mut head, tail) = (self.head.0.load(Ordering::Relaxed), self.tail.0.load(Ordering::Relaxed));
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: both ends are gone (this is the last owner), and head..tail holds items written and never
                // read.
                unsafe { (*slot).assume_init_drop() };
            });
            head = head.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_gives_the_item_back() {
        let (mut producer, mut consumer) = queue(2);
        assert!(producer.is_empty());
        assert_eq!([producer.push(1), producer.push(2), producer.push(3)], [Ok(()), Ok(()), Err(3)]);
        assert!(producer.is_full());
        assert_eq!((consumer.pop(), producer.len()), (Some(1), 1));
        assert_eq!(producer.push(3), Ok(()));
        assert_eq!([consumer.pop(), consumer.pop(), consumer.pop()], [Some(2), Some(3), None]);
    }

    #[test]
    fn items_cross_threads_in_order() {
        let count: u32 = if cfg!(miri) { 100 } else { 200_000 };
        let (mut producer, mut consumer) = queue(64);
        let sender = std::thread::spawn(move || {
            for item in 0..count {
                let mut boxed = Box::new(item);
                while let Err(back) = producer.push(boxed) {
                    boxed = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < count {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(*item, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        sender.join().unwrap();
        assert!(consumer.is_empty());
    }

    #[test]
    fn items_left_behind_are_dropped() {
        let item = Arc::new(());
        let (mut producer, mut consumer) = queue(4);
        for _ in 0..4 {
            producer.push(item.clone()).unwrap();
        }
        drop(consumer.pop());
        drop((producer, consumer));
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
