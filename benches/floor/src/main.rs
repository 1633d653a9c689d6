//! What fan-out costs at least with plain system calls.
//!
//! One thread. Subscribers are accepted and kept in a list; for what is posted, the list is walked with send(2), and
//! nothing else is done: no topics, no outbox, no history, no reading from subscribers, no timers. It does not survive
//! a subscriber that stops reading: the send waits. Publications that are on the posting connection together
//! go out as one run of frames, one send for each socket.
//!
//! Prints the same lines as `ringfeed serve`, so that both are started and driven alike.

mod post;
mod subscriber;

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;

use clap::Parser;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{SendFlags, send};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use post::Posts;

/// Fan-out with plain send(2), and nothing else.
#[derive(Parser)]
struct Arguments {
    /// Where subscribers connect
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where publications are posted
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
}

fn main() -> ExitCode {
    match Floor::start(&Arguments::parse()).and_then(Floor::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::from(2)
        }
    }
}

struct Floor {
    listener: TcpListener,
    control: TcpListener,
    /// In the order they were accepted.
    subscribers: Vec<TcpStream>,
    posts: Option<Posts>,
}

impl Floor {
    fn start(arguments: &Arguments) -> Result<Floor, Box<dyn Error>> {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
        let listener = TcpListener::bind(arguments.listen)?;
        let control = TcpListener::bind(arguments.control)?;
        println!("listening on ws://{}", listener.local_addr()?);
        println!("control on http://{}", control.local_addr()?);
        println!("ready");
        Ok(Floor { listener, control, subscribers: Vec::new(), posts: None })
    }

    /// Until it is killed.
    fn run(mut self) -> Result<(), Box<dyn Error>> {
        loop {
            let [subscriber, publisher, posted] = self.wait()?;
            if subscriber {
                self.subscribers.push(subscriber::accept(&self.listener)?);
            }
            if publisher {
                self.posts = Some(Posts::new(self.control.accept()?.0)?);
            }
            if posted {
                self.publish();
            }
        }
    }

    /// Which of the three has something to read: listener, control listener, the posting connection.
    fn wait(&self) -> io::Result<[bool; 3]> {
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.control, PollFlags::IN)];
        fds.extend(self.posts.as_ref().map(|posts| PollFd::new(posts.stream(), PollFlags::IN)));
        poll(&mut fds, None)?;
        let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
        Ok([ready(0), ready(1), ready(2)])
    }

    /// Sends what is posted to everybody, and answers. A publisher that leaves makes room for the next.
    fn publish(&mut self) {
        let Some(posts) = &mut self.posts else { return };
        match posts.read() {
            Ok([]) => {}
            Ok(run) => self.subscribers.retain(|subscriber| send(subscriber, run, SendFlags::NOSIGNAL).is_ok()),
            Err(_) => return self.posts = None,
        }
        if posts.answer().is_err() {
            self.posts = None;
        }
    }
}
