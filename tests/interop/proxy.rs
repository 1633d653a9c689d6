//! A TCP proxy whose connections can be cut, as a network's can.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// Passes connections on to a target that may change.
pub(crate) struct Proxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    target: SocketAddr,
    /// Whether connections are let through.
    is_open: bool,
    /// Both ends of each connection, also of those that have ended.
    streams: Vec<TcpStream>,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = State { target, is_open: true, streams: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Where that fails, the client's end is closed: it comes back.
                let _ = pass_on(client, &shared);
            }
        });
        Proxy { address, state }
    }

    /// Cuts all connections, and lets none through until it is [opened](Self::open).
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().expect("no thread panics");
        state.is_open = false;
        for stream in state.streams.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through, to `target`.
    pub(crate) fn open(&self, target: SocketAddr) {
        let mut state = self.state.lock().expect("no thread panics");
        (state.target, state.is_open) = (target, true);
    }
}

fn pass_on(client: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut state = state.lock().expect("no thread panics");
    if !state.is_open {
        return Ok(());
    }
    let server = TcpStream::connect(state.target)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        state.streams.push(stream.try_clone()?);
    }
    for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        thread::spawn(move || {
            // Either end closes both sides.
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}
