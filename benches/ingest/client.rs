//! A closed loop of publishers on one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::case::{Acknowledgement, Case};

/// Bytes of a binary acknowledgement.
const RECORD_BYTES: usize = 9;

/// What each acknowledgement in JSON contains once.
const OFFSET: &[u8] = b"\"offset\":";

/// Connections that publish.
pub(crate) struct Client<'c> {
    case: &'c Case,
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    /// Publications sent and not acknowledged.
    in_flight: usize,
    /// Bytes of a request that the socket did not take yet.
    unsent: Vec<u8>,
    /// Received bytes of an unfinished line or record.
    rest: Vec<u8>,
    /// Binary acknowledgements: the head of the response has been received.
    is_past_head: bool,
    /// Binary acknowledgements: received bytes of an unfinished record.
    partial: usize,
}

impl<'c> Client<'c> {
    pub(crate) fn connect(case: &'c Case, address: SocketAddr) -> Client<'c> {
        let connect = || {
            let mut stream = TcpStream::connect(address).expect("the server accepts");
            stream.set_nodelay(true).expect("an option can be set");
            stream.write_all(&case.head).expect("the server reads");
            stream.set_nonblocking(true).expect("an option can be set");
            let (unsent, rest) = (Vec::new(), Vec::new());
            Connection { stream, in_flight: 0, unsent, rest, is_past_head: false, partial: 0 }
        };
        Client { case, connections: (0..case.connections).map(|_| connect()).collect() }
    }

    /// Publishes for so long; returns the number of acknowledged publications.
    pub(crate) fn run(&mut self, duration: Duration) -> usize {
        let (start, mut acknowledged) = (Instant::now(), 0);
        while start.elapsed() < duration {
            for connection in &mut self.connections {
                acknowledged += connection.receive(self.case);
                connection.publish(self.case);
            }
            self.wait();
        }
        acknowledged
    }

    fn wait(&self) {
        let interest = |connection: &Connection| match connection.unsent.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        };
        let mut entries: Vec<_> =
            self.connections.iter().map(|connection| PollFd::new(&connection.stream, interest(connection))).collect();
        let timeout = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = poll(&mut entries, Some(&timeout)).expect("poll works");
        assert!(ready > 0, "{}: no answer within ten seconds", self.case.name);
    }
}

impl Connection {
    /// Sends requests until the case's number of publications is in flight, or the socket is full.
    fn publish(&mut self, case: &Case) {
        while self.in_flight + case.publications() <= case.in_flight && self.unsent.len() < 1 << 16 {
            self.unsent.extend_from_slice(&case.request);
            self.in_flight += case.publications();
        }
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{}: {error}", case.name),
            }
        }
    }

    /// Reads received bytes and counts their acknowledgements.
    fn receive(&mut self, case: &Case) -> usize {
        let (mut bytes, mut acknowledged) = ([0; 1 << 16], 0);
        match self.stream.read(&mut bytes) {
            Ok(0) => panic!("{}: the server has closed the connection: {}", case.name, self.rest.escape_ascii()),
            Ok(length) => self.rest.extend_from_slice(&bytes[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return 0,
            Err(error) => panic!("{}: {error}", case.name),
        }
        acknowledged += match case.acknowledgement {
            Acknowledgement::Record => self.count_records(),
            Acknowledgement::Response(_) | Acknowledgement::Line => self.count_offsets(case),
        };
        self.in_flight = self.in_flight.checked_sub(acknowledged).expect("one acknowledgement for each publication");
        acknowledged
    }

    /// Counts offsets up to the last newline.
    fn count_offsets(&mut self, case: &Case) -> usize {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n' || *byte == b'}') else { return 0 };
        let text: Vec<u8> = self.rest.drain(..=end).collect();
        let error = [&b"\"error\""[..], b"HTTP/1.1 4", b"HTTP/1.1 5"];
        let is_error = error.iter().any(|error| text.windows(error.len()).any(|window| window == *error));
        assert!(!is_error, "{}: {}", case.name, text.escape_ascii());
        text.windows(OFFSET.len()).filter(|window| *window == OFFSET).count()
    }

    /// Counts the records in the chunks of a response.
    fn count_records(&mut self) -> usize {
        if !self.is_past_head {
            let Some(end) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") else { return 0 };
            assert!(self.rest.starts_with(b"HTTP/1.1 200"), "{}", self.rest.escape_ascii());
            self.rest.drain(..end + 4);
            self.is_past_head = true;
        }
        let mut bytes = 0;
        while let Some(end) = self.rest.windows(2).position(|window| window == b"\r\n") {
            let length =
                std::str::from_utf8(&self.rest[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
            let length = length.expect("the length of a chunk");
            if self.rest.len() < end + 2 + length + 2 {
                break;
            }
            bytes += length;
            self.rest.drain(..end + 2 + length + 2);
        }
        self.partial += bytes;
        let count = self.partial / RECORD_BYTES;
        self.partial %= RECORD_BYTES;
        count
    }
}
