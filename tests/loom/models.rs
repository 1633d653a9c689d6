//! Models: what two or three threads do with the queue and the doorbell, as shards do it, and what must then be true.

use loom::sync::{Arc, Notify};
use loom::thread;

use crate::fenceless;
use crate::spsc::{Consumer, queue};
use crate::wake_flag::WakeFlag;

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
    let (asleep, bell) = (WakeFlag::new(), Arc::new(Notify::new()));
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
    let (asleep, bell) = (fenceless::wake_flag::WakeFlag::new(), Arc::new(Notify::new()));
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

/// Senders, each with a queue of its own and more than one item, of whom one is to ring at a time; and a sleeper that
/// falls asleep again and again until it has all. A wake-up that is lost leaves it waiting for ever.
pub(crate) fn sleeps_again_and_again(senders: u32, items: u32) {
    let (asleep, bell) = (WakeFlag::new(), Arc::new(Notify::new()));
    let (mut consumers, mut threads) = (Vec::new(), Vec::new());
    for sender in 0..senders {
        let (mut producer, consumer) = queue(items as usize);
        consumers.push(consumer);
        let (sleeper, ring) = (asleep.clone(), Arc::clone(&bell));
        threads.push(thread::spawn(move || {
            for item in 0..items {
                assert!(producer.push((sender, item)).is_ok());
                if sleeper.take() {
                    ring.notify();
                }
            }
        }));
    }
    let mut next = vec![0; senders as usize];
    while next.iter().any(|next| *next < items) {
        asleep.fall_asleep();
        if consumers.iter().all(Consumer::is_empty) {
            bell.wait();
        }
        asleep.woke();
        for (sender, consumer) in consumers.iter_mut().enumerate() {
            while let Some(item) = consumer.pop() {
                assert_eq!(item, (sender as u32, next[sender]), "in order, each once");
                next[sender] += 1;
            }
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
