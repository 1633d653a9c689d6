//! The queue between shards and the doorbell beside it, in every order of events that the memory model allows.
//!
//! The files are those of `src/buf`, compiled once more with loom's atomics and cells in place of the standard
//! library's; loom then runs each model again and again, one interleaving after the other. That the models can fail is
//! shown by a doorbell without its fences, which loses a wake-up.

#![allow(clippy::duplicate_mod, reason = "one of the models is without fences")]

#[path = "../../src/buf/asleep.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is a part of a library elsewhere")]
mod asleep;
mod fenceless;
mod models;
#[path = "../../src/buf/spsc.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is a part of a library elsewhere")]
mod spsc;
mod sync;

/// How often a thread is interrupted where it need not be, at most: more finds nothing new in threads this short, and
/// takes for ever.
const PREEMPTIONS_MAX: usize = 3;

fn main() {
    check("items arrive in order, each once, and a full queue gives the last one back", models::through_a_queue);
    check("items left behind are dropped once", models::left_behind);
    check("what is put in wakes the sleeper, whenever it falls asleep", models::doorbell);
    check("two senders: nothing is slept over", models::two_senders);
    let lost = std::panic::catch_unwind(|| explore(models::doorbell_without_fences));
    assert!(lost.is_err(), "without fences no wake-up was lost: the model can't fail");
    println!("a doorbell without fences loses a wake-up: found");
}

fn check(name: &str, model: fn()) {
    explore(model);
    println!("{name}: holds");
}

fn explore(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}
