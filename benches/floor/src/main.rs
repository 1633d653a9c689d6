//! The minimum cost of fan-out with plain system calls.
//!
//! One thread accepts subscribers into a list. For each publication it walks the list with send(2), and does nothing
//! else: no topics, no outbox, no history, no reads from subscribers, no timers. A subscriber that stops reading blocks
//! it. All publications posted by the start of a walk go out as one run of frames, with one send per socket.
//!
//! It prints the same lines as `ringfeed serve`, so that both are started and driven alike.

mod publisher;
mod ring;
mod subscriber;

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;

use clap::Parser;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use publisher::Publisher;
use ring::RingFloor;
use ringfeed::ring::defer_accept;

/// Length of the kernel's accept queue.
const BACKLOG: i32 = 65_535;

/// Fan-out with plain send(2), and nothing else.
#[derive(Parser)]
struct Arguments {
    /// Address for subscribers
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address for publications by POST
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// Hold this many subscribers, on an io_uring as Ringfeed does; without this, as descriptors with plain send(2)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    ring: Option<u32>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs until the process is killed.
fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let listener = listen(arguments.listen)?;
    let control = TcpListener::bind(arguments.control)?;
    println!("listening on ws://{}", listener.local_addr()?);
    println!("control on http://{}", control.local_addr()?);
    match arguments.ring {
        Some(sockets) => {
            let floor = RingFloor::new(sockets, listener, control)?;
            println!("ready");
            floor.run()
        }
        None => {
            println!("ready");
            Floor { listener, control, subscribers: Vec::new(), publishers: Vec::new(), run: Vec::new() }.run()
        }
    }
}

/// Listens with the longest accept queue the kernel allows; the kernel accepts a connection once its first bytes have
/// arrived.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    rustix::net::listen(&listener, BACKLOG)?;
    defer_accept(listener.as_fd(), 1)?;
    Ok(listener)
}

struct Floor {
    listener: TcpListener,
    control: TcpListener,
    /// In the order of accepting.
    subscribers: Vec<TcpStream>,
    publishers: Vec<Publisher>,
    /// Frames of the publications that are sent together.
    run: Vec<u8>,
}

impl Floor {
    fn run(mut self) -> Result<(), Box<dyn Error>> {
        loop {
            let Ready { subscriber, publisher, posted } = self.wait()?;
            self.publish(&posted);
            if subscriber {
                self.subscribers.push(subscriber::accept(&self.listener)?);
            }
            if publisher {
                self.publishers.push(Publisher::new(self.control.accept()?.0)?);
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let listeners = [self.listener.as_fd(), self.control.as_fd()];
        let publishers = self.publishers.iter().map(|publisher| publisher.stream().as_fd());
        let mut fds: Vec<PollFd> =
            listeners.into_iter().chain(publishers).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        poll(&mut fds, None)?;
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let [subscriber, publisher] = [ready.next(), ready.next()].map(Option::unwrap_or_default);
        Ok(Ready { subscriber, publisher, posted: ready.collect() })
    }

    /// Sends all posted publications to all subscribers, and answers the publishers. Drops disconnected publishers.
    fn publish(&mut self, posted: &[bool]) {
        self.run.clear();
        let mut posted = posted.iter();
        let run = &mut self.run;
        self.publishers.retain_mut(|publisher| posted.next() != Some(&true) || publisher.read(run).is_ok());
        if run.is_empty() {
            return;
        }
        self.subscribers.retain(|subscriber| send(subscriber, run, SendFlags::NOSIGNAL).is_ok());
        self.publishers.retain_mut(|publisher| publisher.answer().is_ok());
    }
}

/// The sockets that are ready to read.
struct Ready {
    subscriber: bool,
    publisher: bool,
    /// One flag per publisher.
    posted: Vec<bool>,
}
