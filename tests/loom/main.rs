//! The queue between shards and the doorbell beside it, in every order of events that the memory model allows.
//!
//! The files are those of `src/buf`, compiled once more with loom's atomics and cells in place of the standard
//! library's; loom then runs each model again and again, one interleaving after the other. That the models can fail is
//! shown by a doorbell without its fences, which loses a wake-up.

#![allow(clippy::duplicate_mod, reason = "one of the models is without fences")]

mod fenceless;
mod models;
#[path = "../../src/buf/spsc.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is a part of a library elsewhere")]
mod spsc;
mod sync;
#[path = "../../src/buf/wake_flag.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is a part of a library elsewhere")]
mod wake_flag;

use std::time::Instant;

/// How often a thread is interrupted where it need not be, at most, in models of two short threads: more finds nothing
/// new there, and takes for ever.
const PREEMPTIONS_MAX: usize = 3;

fn main() {
    check("items add_presence in order, each once, and a full queue gives the last one back", models::through_a_queue);
    check("items left behind are dropped once", models::left_behind);
    check("what is put in wakes the sleeper, whenever it falls asleep", models::doorbell);
    // senders, items of each, preemptions
    for (senders, items, preemptions) in [(1, 3, 3), (2, 1, 2), (2, 2, 1), (3, 1, 1)] {
        let start = Instant::now();
        explore(preemptions, move || models::sleeps_again_and_again(senders, items));
        println!("{senders} senders of {items} each: nothing is slept over: holds ({:.1?})", start.elapsed());
    }
    let lost = std::panic::catch_unwind(|| explore(PREEMPTIONS_MAX, models::doorbell_without_fences));
    assert!(lost.is_err(), "without fences no wake-up was lost: the model can't fail");
    println!("a doorbell without fences loses a wake-up: found");
}

fn check(name: &str, model: fn()) {
    let start = Instant::now();
    explore(PREEMPTIONS_MAX, model);
    println!("{name}: holds ({:.1?})", start.elapsed());
}

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
