//! Stress: publishers at full rate on many topics of the real server, and subscribers that connect, leave, stall and
//! recover at random over several shards. Each must receive its topics in order, or a report of the loss. On the same
//! shards, each connection of `crosstalk` must receive its own bytes.
//!
//! `cargo test --test stress` runs for some hundred thousand deliveries, `cargo test --release --test stress --
//! --deliveries 10000000` for a given number. Nothing is timed but the pauses of the clients; the clients share no code
//! with the server.

mod crosstalk;
mod publisher;
mod rng;
mod subscriber;
mod truth;
mod view;
mod wire;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringfeed::conn::{CloseCause, KeepAliveConfig};
use ringfeed::gateway::{Feed, Sse};
use ringfeed::server::{FanOutConfig, PublishError, Publisher, Server, ServerConfig, ShardMetrics, Status};

use self::crosstalk::{Echoes, Witness, run_conversation};
use self::publisher::{PublishHandler, publish_by_control, publish_by_websocket};
use self::rng::Rng;
use self::subscriber::Subscriber;
use self::truth::Truth;
use self::view::Tally;

/// Deliveries of a run without arguments.
const DELIVERIES: u64 = 200_000;

/// More than CPUs, so that shards preempt each other anywhere.
const SHARDS: usize = 4;

const SUBSCRIBERS: u64 = 240;

/// Concurrent connections to the echo: many on each shard.
const CONVERSATIONS: u64 = 120;

/// Threads of subscribers.
const CROWDS: u64 = 2;

/// The state that all threads share.
struct Shared {
    server: SocketAddr,
    truth: Truth,
    deliveries: AtomicU64,
    /// Publishers stop.
    is_enough: AtomicBool,
    /// All publications are made: subscribers read the rest and end.
    is_over: AtomicBool,
}

/// The run to make.
struct Arguments {
    deliveries: u64,
    seed: u64,
    /// The arguments select other tests, by name or with `--ignored`.
    selects_other_tests: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}: cargo test --test stress -- [--deliveries COUNT] [--seed NUMBER]");
            return ExitCode::from(2);
        }
    };
    if !arguments.selects_other_tests {
        end_at_the_first_panic();
        run(&arguments);
    }
    ExitCode::SUCCESS
}

/// Exits at the first panic of any thread: a violation is one, and the other threads would run on.
fn end_at_the_first_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(1);
    }));
}

fn run(arguments: &Arguments) {
    let start = Instant::now();
    let truth = Truth::new();
    let config = ServerConfig {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        shards: SHARDS,
        namespaces: Arc::new(truth.namespaces()),
        // Fan-outs of several turns, on both lanes.
        fan_out: FanOutConfig { slice_us: 20, batch_sends: 4, express_subscribers_max: 16 },
        // A small backlog in the kernel, so that a stalled subscriber is soon slow.
        socket_notsent_bytes: 8 * 1024,
        // No timeout closes a connection, however busy the machine is.
        handshake_timeout_ms: 600_000,
        keep_alive: KeepAliveConfig { ping_interval_ms: 0, pong_timeout_ms: 0, idle_timeout_ms: 0 },
        ..ServerConfig::default()
    };
    let (of_feed, of_sse) = (config.namespaces.clone(), config.namespaces.clone());
    let server = Server::builder(config)
        .route("/feed/", move || Feed::new(of_feed.clone()))
        .route("/sse/", move || Sse::new(of_sse.clone()))
        .route("/press", PublishHandler::default)
        .route("/witness/", Witness::default)
        .start();
    let server = server.expect("the server starts");
    let address = server.address();
    let Server { mut publisher, status, .. } = server;
    let (is_enough, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let shared = Arc::new(Shared { server: address, truth, deliveries: AtomicU64::new(0), is_enough, is_over });
    let mut rng = Rng::new(arguments.seed);

    let crowds: Vec<_> = (0..CROWDS)
        .map(|crowd| {
            let members = (0..SUBSCRIBERS).filter(|index| index % CROWDS == crowd);
            let members: Vec<Subscriber> =
                members.map(|index| Subscriber::new(index, shared.clone(), rng.fork())).collect();
            thread::spawn(move || run_to_end(members))
        })
        .collect();
    let publishers = spawn_publishers(&shared, publisher, &mut rng);
    let conversations = spawn_conversations(&shared, &mut rng);
    watch(&shared, arguments, start);
    shared.is_enough.store(true, Ordering::Relaxed);
    publisher = publishers.join().expect("no publisher has panicked");
    shared.is_over.store(true, Ordering::Release);
    let mut total = Tally::default();
    crowds.into_iter().for_each(|crowd| total.add(&crowd.join().expect("no subscriber has panicked")));
    let echoes = conversations.join().expect("no conversation has panicked");
    let publications = shared.truth.check_whole();
    drain(&mut publisher);
    check_cuts(&total, &status);
    report(&total, publications, &status, start.elapsed());
    let Echoes { connections, messages, bytes } = echoes;
    println!("{messages} echoes of {bytes} bytes on {connections} connections, none foreign");
}

/// Runs subscribers to their end on this thread.
fn run_to_end(subscribers: Vec<Subscriber>) -> Tally {
    on_this_thread(async {
        let runs: Vec<_> = subscribers.into_iter().map(|one| tokio::task::spawn_local(one.run_to_end())).collect();
        let mut total = Tally::default();
        for life in runs {
            total.add(&life.await.expect("no subscriber has panicked"));
        }
        total
    })
}

/// Publishes through the control plane, and over WebSockets on any shard. Returns the publisher at the end.
fn spawn_publishers(shared: &Arc<Shared>, publisher: Publisher, rng: &mut Rng) -> thread::JoinHandle<Publisher> {
    let (shared, mut rng) = (shared.clone(), rng.fork());
    thread::spawn(move || {
        on_this_thread(async {
            let clients: Vec<_> = (1..=3)
                .map(|number| tokio::task::spawn_local(publish_by_websocket(number, shared.clone(), rng.fork())))
                .collect();
            let publisher = publish_by_control(publisher, &shared, rng).await;
            for client in clients {
                client.await.expect("no publisher has panicked");
            }
            publisher
        })
    })
}

/// Runs all conversations on one thread.
fn spawn_conversations(shared: &Arc<Shared>, rng: &mut Rng) -> thread::JoinHandle<Echoes> {
    let (shared, mut rng) = (shared.clone(), rng.fork());
    thread::spawn(move || {
        on_this_thread(async {
            let all: Vec<_> = (0..CONVERSATIONS)
                .map(|number| tokio::task::spawn_local(run_conversation(number, shared.clone(), rng.fork())))
                .collect();
            let mut total = Echoes::default();
            for one in all {
                total.add(one.await.expect("no conversation has panicked"));
            }
            total
        })
    })
}

fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Waits until enough messages are delivered, and reports the progress.
fn watch(shared: &Shared, arguments: &Arguments, start: Instant) {
    let mut reported = start;
    loop {
        let deliveries = shared.deliveries.load(Ordering::Relaxed);
        if deliveries >= arguments.deliveries {
            return;
        }
        if reported.elapsed() > Duration::from_secs(10) {
            reported = Instant::now();
            eprintln!("{deliveries} deliveries in {:.0?}", start.elapsed());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn drain(publisher: &mut Publisher) {
    while let Err(PublishError::Busy) = publisher.drain() {
        thread::yield_now();
    }
}

/// Each loss of publications that were still in the history must be a recovery that the server cut, and counted.
fn check_cuts(total: &Tally, status: &Status) {
    let counted: u64 = status.shards.iter().map(|shard| shard.recoveries_cut.get()).sum();
    assert!(total.cuts <= counted, "{} losses of kept publications, {counted} cut recoveries", total.cuts);
}

fn report(total: &Tally, publications: u64, status: &Status, elapsed: Duration) {
    let sum = |number: fn(&ShardMetrics) -> u64| status.shards.iter().map(number).sum::<u64>();
    println!("0 violations in {} deliveries of {publications} publications, {elapsed:.1?}", total.deliveries);
    println!(
        "{} connections; {} recoveries of {} publications, {} reported losses ({} cut); {} skipped by policy",
        total.connections, total.recoveries, total.recovered, total.losses, total.cuts, total.skipped
    );
    println!(
        "server: {} closed as slow, {} dropped, {} conflated, {} refused",
        sum(|shard| shard.closed(CloseCause::SlowConsumer).get()),
        sum(|shard| shard.publications_dropped.get()),
        sum(|shard| shard.publications_conflated.get()),
        sum(|shard| shard.publications_refused.get()),
    );
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut parsed = Arguments { deliveries: DELIVERIES, seed: 1, selects_other_tests: false };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let text = arguments.next().ok_or("a number is missing")?;
                text.parse::<u64>().map_err(|_| format!("'{text}' is not a number"))
            };
            match argument.as_str() {
                "--deliveries" => parsed.deliveries = number()?,
                "--seed" => parsed.seed = number()?,
                // An argument that the test runner passes to every test binary.
                "--ignored" => parsed.selects_other_tests = true,
                "--" | "--quiet" | "-q" | "--nocapture" | "--show-output" | "--include-ignored" => {}
                name if !name.starts_with('-') => parsed.selects_other_tests |= !"stress".contains(name),
                other => return Err(format!("unknown argument: {other}")),
            }
        }
        Ok(parsed)
    }
}
