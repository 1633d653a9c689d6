//! The agent's side: takes a part of the subscribers of a run, one run after the other.

use std::io::ErrorKind;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::agents::clock::Clock;
use crate::agents::key::{Key, Side};
use crate::agents::wire::{self, FromAgent, Order, TO_AGENT_MAX, ToAgent};
use crate::check::board::Board;
use crate::check::payload::PAYLOAD_BYTES_MIN;
use crate::cli::{AgentCommandOptions, CommonOptions, Tolerance};
use crate::error::Error;
use crate::host::interrupt;
use crate::options::{DURATION_MAX, OutputOptions};
use crate::report::timeline::Timeline;
use crate::scenario::fanout;
use crate::scenario::load::{Group, Load};

/// A coordinator that sends nothing for this long has gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Interval of looks for a coordinator.
const LOOK: Duration = Duration::from_millis(20);

/// Bounds of an order.
const GROUPS_MAX: usize = 1000;
const SUBSCRIBERS_MAX: u64 = 10_000_000;
const TOPICS_MAX: u64 = 1_000_000;
const SIZE_MAX: u32 = 16 * 1024 * 1024;
const WORKERS_MAX: u32 = 1024;

/// Serves coordinators until a signal comes.
///
/// # Errors
/// If it can't listen, or would without a key where others can reach it.
pub(crate) fn run(options: &AgentCommandOptions) -> Result<ExitCode, Error> {
    let address = options.listen;
    if options.agent_key_file.is_none() && !address.ip().is_loopback() {
        return Err(Error::new(format!(
            "{address}: others could make this machine connect anywhere: give --agent-key-file, or listen on 127.0.0.1"
        )));
    }
    let key = Key::read(options.agent_key_file.as_deref())?;
    let fail = |error: std::io::Error| Error::new(format!("can't listen at {address}: {error}"));
    let listener = TcpListener::bind(address).map_err(fail)?;
    listener.set_nonblocking(true).map_err(fail)?;
    interrupt::heed()?;
    println!("listening on {}", listener.local_addr().map_err(fail)?);
    while !interrupt::has_come() {
        match listener.accept() {
            Ok((stream, peer)) => match serve(&stream, &key, options) {
                Ok(()) => eprintln!("loadgen: run for {peer} done"),
                Err(why) => eprintln!("loadgen: run for {peer}: {why}"),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
            // The peer has gone before it was accepted, or there are no descriptors left for now.
            Err(_) => std::thread::sleep(LOOK),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One run.
fn serve(stream: &TcpStream, key: &Key, options: &AgentCommandOptions) -> Result<(), String> {
    let words = |error: std::io::Error| error.to_string();
    stream.set_nonblocking(false).map_err(words)?;
    stream.set_write_timeout(Some(SILENCE_MAX)).map_err(words)?;
    wire::greet(stream, Side::Agent, key)?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(words)?;
    let clock = Clock::skewed(options.skew_clock_ms * 1_000_000);
    let out = Mutex::new(stream.try_clone().map_err(words)?);
    let say = |message: &FromAgent| wire::send(&out.lock().unwrap_or_else(PoisonError::into_inner), message);
    let pong = |number| {
        std::thread::sleep(options.answer_after.unwrap_or_default());
        say(&FromAgent::Pong { number, clock_ns: clock.now_ns() })
    };
    let order = loop {
        match wire::receive(stream, TO_AGENT_MAX).map_err(words)? {
            ToAgent::Ping(number) => pong(number).map_err(words)?,
            ToAgent::Begin(order) => break order,
            _ => return Err("no order came".to_owned()),
        }
    };
    let done = check(&order).and_then(|()| {
        let board = Board::of_run(order.workers, order.run).map_err(|error| error.to_string())?;
        let (commands, received) = channel();
        std::thread::scope(|scope| {
            let (heard, pong) = (Arc::clone(&board), &pong);
            scope.spawn(move || {
                listen(stream, &commands, &heard, pong);
                // The run learns that no more commands will come.
                drop(commands);
                heard.end();
            });
            let found = take_part(&order, &clock, &board, &received, &say);
            if found.is_err() {
                // Ends the reader.
                let _ = stream.shutdown(Shutdown::Read);
            }
            found
        })
    });
    if let Err(why) = &done {
        let _ = say(&FromAgent::Failed(why.clone()));
    }
    done
}

/// Answers pings and takes over refusals at once, and passes on commands, until the coordinator has gone.
fn listen(
    stream: &TcpStream,
    commands: &Sender<ToAgent>,
    board: &Arc<Board>,
    pong: impl Fn(u64) -> std::io::Result<()>,
) {
    loop {
        let is_over = match wire::receive(stream, TO_AGENT_MAX) {
            Ok(ToAgent::Ping(number)) => pong(number).is_err(),
            Ok(ToAgent::Refused(all)) => {
                all.into_iter().for_each(|(topic, number)| board.hear_of_refusal(topic, number));
                false
            }
            Ok(message) => {
                let is_last = matches!(message, ToAgent::Finish);
                commands.send(message).is_err() || is_last
            }
            Err(_) => true,
        };
        if is_over {
            return;
        }
    }
}

fn take_part(
    order: &Order,
    clock: &Clock,
    board: &Arc<Board>,
    commands: &Receiver<ToAgent>,
    say: &dyn Fn(&FromAgent) -> std::io::Result<()>,
) -> Result<(), String> {
    let words = |error: Error| error.to_string();
    let started = clock.moment(order.started_ns + order.offset.ahead_ns).ok_or("the clocks are too far apart")?;
    let common = common(order)?;
    let timeline = Arc::new(Timeline::start_at(started, order.warmup + order.duration, false));
    let load = Load {
        scenario: "agent",
        groups: order.groups.clone(),
        connected: order.connected.clone(),
        workers: order.workers,
        words: String::new(),
    };
    let link = Link { commands, say, board };
    let found = fanout::take_part(&common, &load, &order.subscribers, timeline, &link).map_err(words)?;
    say(&FromAgent::Found(Box::new(found))).map_err(|error| error.to_string())
}

/// The run's connection to its coordinator.
pub(crate) struct Link<'a> {
    commands: &'a Receiver<ToAgent>,
    say: &'a dyn Fn(&FromAgent) -> std::io::Result<()>,
    pub(crate) board: &'a Arc<Board>,
}

impl Link<'_> {
    /// All subscribers are connected, or a part of the run is over.
    ///
    /// # Errors
    /// If the coordinator has gone.
    pub(crate) fn report(&self, message: &FromAgent) -> Result<(), Error> {
        (self.say)(message).map_err(|error| Error::new(format!("the coordinator has gone: {error}")))
    }

    /// The next command, if there is one by now.
    ///
    /// # Errors
    /// If the coordinator has gone, or this agent has to end.
    pub(crate) fn next(&self) -> Result<Option<ToAgent>, Error> {
        match self.commands.recv_timeout(Duration::ZERO) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) if interrupt::has_come() => Err(Error::new("the agent was stopped")),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::new("the coordinator has gone")),
        }
    }
}

fn common(order: &Order) -> Result<CommonOptions, String> {
    Ok(CommonOptions {
        url: order.url.parse()?,
        size: PAYLOAD_BYTES_MIN as u32,
        deflate: order.deflate,
        duration: order.duration,
        warmup: order.warmup,
        server_pid: None,
        cpu: Vec::new(),
        repeat: 1,
        tolerance: Tolerance { late: order.late, patience: order.patience },
        output: OutputOptions::default(),
        connect: order.connect.clone(),
    })
}

/// Checks an order: its numbers decide how much memory the run needs.
fn check(order: &Order) -> Result<(), String> {
    let Order { groups, workers, subscribers, warmup, duration, late, patience, .. } = order;
    let fits = |group: &Group| {
        let seats = u64::from(group.subscribers) * u64::from(group.each);
        group.subscribers > 0
            && (1..=group.topics).contains(&group.each)
            && u64::from(group.topics) <= seats
            && seats <= SUBSCRIBERS_MAX
            && group.publishers > 0
            && (0.0..=10.0).contains(&group.skew)
            && !group.sizes.is_empty()
            && group.sizes.iter().all(|size| (PAYLOAD_BYTES_MIN as u32..=SIZE_MAX).contains(size))
            && group.pace.is_client_driven()
    };
    let sum = |number: fn(&Group) -> u32| groups.iter().map(|group| u64::from(number(group))).sum::<u64>();
    let all = sum(|group| group.subscribers);
    let is_whole = (1..=GROUPS_MAX).contains(&groups.len())
        && groups.iter().all(fits)
        && all <= SUBSCRIBERS_MAX
        && sum(|group| group.topics) <= TOPICS_MAX
        && subscribers.start < subscribers.end
        && u64::from(subscribers.end) <= all
        && (1..=WORKERS_MAX).contains(workers)
        && *workers as usize <= subscribers.len()
        && [warmup, duration, late, patience].into_iter().all(|time| *time <= DURATION_MAX);
    if is_whole { Ok(()) } else { Err("the order is beyond the bounds of an agent".to_owned()) }
}
