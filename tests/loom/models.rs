//! Models: what two or three threads do with the queue and the doorbell, as shards do it, and what must then be true.

use loom::sync::{Arc, Notify};
use loom::thread;

use crate::asleep::Asleep;
use crate::fenceless;
use crate::spsc::{Consumer, queue};

/// More items than the queue holds go through it.
pub(crate) fn through_a_queue() {
    let (mut producer, mut consumer) = queue(2);
    let sender = thread::spawn(move || {
        for item in 0..3 {
            let mut boxed = Box::new(item);
            while let Err(back) = producer.push(boxed) {
                assert_eq!(*back, item, "another one came back");
                boxed = back;
                thread::yield_now();
            }
        }
    });
    for expected in 0..3 {
        let item = loop {
            match consumer.pop() {
                Some(item) => break item,
                None => thread::yield_now(),
            }
        };
        assert_eq!(*item, expected);
    }
    sender.join().unwrap();
    assert!(consumer.pop().is_none() && consumer.is_empty());
}

/// One end is gone while the other still puts items in.
pub(crate) fn left_behind() {
    let item = Arc::new(());
    let (mut producer, mut consumer) = queue(2);
    let items = [Arc::clone(&item), Arc::clone(&item)];
    let sender = thread::spawn(move || items.into_iter().for_each(|item| assert!(producer.push(item).is_ok())));
    drop(consumer.pop());
    drop(consumer);
    sender.join().unwrap();
    assert_eq!(Arc::strong_count(&item), 1);
}

/// Sleeps until an item comes, as a shard does: says so, looks once more, waits.
fn await_item(consumer: &mut Consumer<u32>, bell: &Notify, fall_asleep: impl Fn(), woke: impl Fn()) -> u32 {
    loop {
        fall_asleep();
        if consumer.is_empty() {
            bell.wait();
        }
        woke();
        if let Some(item) = consumer.pop() {
            return item;
        }
    }
}

/// A sender that rings when it must, and a sleeper. A wake-up that is lost leaves the sleeper waiting for ever, which
/// loom tells.
pub(crate) fn doorbell() {
    let (mut producer, mut consumer) = queue(2);
    let (asleep, bell) = (Asleep::new(), Arc::new(Notify::new()));
    let (sleeper, ring) = (asleep.clone(), Arc::clone(&bell));
    let sender = thread::spawn(move || {
        assert!(producer.push(1).is_ok());
        if sleeper.take() {
            ring.notify();
        }
    });
    assert_eq!(await_item(&mut consumer, &bell, || asleep.fall_asleep(), || asleep.woke()), 1);
    sender.join().unwrap();
}

/// The same without fences: it must fail.
pub(crate) fn doorbell_without_fences() {
    let (mut producer, mut consumer) = queue(2);
    let (asleep, bell) = (fenceless::asleep::Asleep::new(), Arc::new(Notify::new()));
    let (sleeper, ring) = (asleep.clone(), Arc::clone(&bell));
    let sender = thread::spawn(move || {
        assert!(producer.push(1).is_ok());
        if sleeper.take() {
            ring.notify();
        }
    });
    assert_eq!(await_item(&mut consumer, &bell, || asleep.fall_asleep(), || asleep.woke()), 1);
    sender.join().unwrap();
}

/// Two senders, each with a queue of its own, of whom one is asked to ring: the sleeper does not sleep over both. It
/// falls asleep once only, since loom remembers no more than the last seven values of an atomic.
pub(crate) fn two_senders() {
    let (asleep, bell) = (Asleep::new(), Arc::new(Notify::new()));
    let (mut consumers, mut senders) = (Vec::new(), Vec::new());
    for item in 0..2 {
        let (mut producer, consumer) = queue(1);
        consumers.push(consumer);
        let (sleeper, ring) = (asleep.clone(), Arc::clone(&bell));
        senders.push(thread::spawn(move || {
            assert!(producer.push(item).is_ok());
            if sleeper.take() {
                ring.notify();
            }
        }));
    }
    asleep.fall_asleep();
    if consumers.iter().all(Consumer::is_empty) {
        bell.wait();
    }
    asleep.woke();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    let items: Vec<u32> = consumers.iter_mut().filter_map(Consumer::pop).collect();
    assert_eq!(items, [0, 1]);
}
