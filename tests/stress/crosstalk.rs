//! No connection receives another's bytes: many connections send messages that hold their identity and number, cut
//! anywhere. The handler on the server and the client both compare each byte, so that bytes of another connection, or
//! from a wrong place, show at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ringfeed::buf::ConnId;
use ringfeed::conn::CloseCause;
use ringfeed::gateway::{Accept, Context, Handler, Refusal, Request};
use ringfeed::proto::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::rng::Rng;

/// The timeout for an echo. Only a broken server takes as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// A ping holds its connection's identity and this number, which no message has.
const PING: u64 = 1 << 40;

/// The statistics of one conversation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Echoes {
    pub(crate) connections: u64,
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

impl Echoes {
    pub(crate) fn add(&mut self, other: Echoes) {
        self.connections += other.connections;
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// Message `sequence` of connection `identity`, which determine all of its bytes.
fn payload(identity: u64, sequence: u64) -> Vec<u8> {
    let mut rng = Rng::new((identity << 32) ^ sequence);
    let len = match rng.below(100) {
        0..70 => rng.below(200),
        70..98 => rng.below(4_000),
        _ => rng.below(70_000),
    };
    let mut payload = [identity.to_be_bytes(), sequence.to_be_bytes()].concat();
    let words = len.div_ceil(8);
    payload.extend((0..words).flat_map(|_| rng.below(u64::MAX).to_be_bytes()));
    payload
}

/// Compares the bytes, and names the connection that they belong to if another one's.
fn compare(got: &[u8], expected: &[u8], what: &str) {
    if got != expected {
        let word = |bytes: &[u8], index: usize| bytes.get(8 * index..).and_then(|rest| rest.first_chunk().copied());
        let [whose, which] = [0, 1].map(|index| word(got, index).map(u64::from_be_bytes));
        let [mine, next] = [0, 1].map(|index| word(expected, index).map(u64::from_be_bytes));
        let (len, expected_len) = (got.len(), expected.len());
        panic!(
            "foreign bytes, {what}: connection {mine:?} should get its message {next:?} of {expected_len} bytes, and \
             gets {len} bytes that begin as message {which:?} of {whose:?}"
        );
    }
}

/// The server's side: knows each client by its path, compares its messages, and echoes them.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Identity, and number of the next message.
    known: HashMap<ConnId, (u64, u64)>,
}

impl Handler for Witness {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        let identity = request.rest.parse().expect("a number behind the route");
        assert!(self.known.insert(conn.id(), (identity, 0)).is_none(), "two connections with one id");
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        let (identity, next) = self.known.get_mut(&conn.id()).expect("the connection is open");
        compare(message.payload, &payload(*identity, *next), "in the handler");
        *next += 1;
        conn.send(message);
    }

    fn on_close(&mut self, conn: &mut Context<'_>, _: (), _: CloseCause) {
        self.known.remove(&conn.id()).expect("the connection is open");
    }
}

/// Echoes over one connection after the other until the run ends; each connection has its own identity.
pub(crate) async fn run_conversation(number: u64, shared: Arc<Shared>, mut rng: Rng) -> Echoes {
    let mut echoes = Echoes::default();
    while echoes.connections == 0 || !shared.is_enough.load(Ordering::Relaxed) {
        let identity = (number << 16) | echoes.connections;
        let stream = timeout(PATIENCE, TcpStream::connect(shared.server)).await.expect("the server answers");
        let (reader, writer) = stream.expect("the server accepts").into_split();
        let count = 20 + rng.below(200);
        // Some disconnect in the middle of a frame, with echoes in flight.
        let is_cut_off = rng.percent(20);
        let writing = tokio::task::spawn_local(write(writer, identity, count, is_cut_off, rng.fork()));
        let heard = if is_cut_off { rng.below(count) } else { count };
        let heard = read(reader, identity, heard, !is_cut_off).await;
        if is_cut_off {
            writing.abort();
        } else {
            writing.await.expect("the writer does not panic");
        }
        echoes.add(Echoes { connections: 1, ..heard });
    }
    echoes
}

/// Sends the handshake and `count` messages, in pieces of any size.
async fn write(mut stream: OwnedWriteHalf, identity: u64, count: u64, is_cut_off: bool, mut rng: Rng) {
    let request = format!(
        "GET /witness/{identity} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    let mut output = request.into_bytes();
    for sequence in 0..count {
        push_message(&mut output, &payload(identity, sequence), &mut rng);
        // Frames gather, so that a piece holds many frames, or a part of one.
        let is_last = sequence + 1 == count;
        if rng.percent(70) && !is_last {
            continue;
        }
        let keep = if is_last { 0 } else { rng.below(output.len() as u64) as usize };
        while output.len() > keep {
            let cut = 1 + rng.below(output.len() as u64) as usize;
            if stream.write_all(&output[..cut]).await.is_err() {
                assert!(is_cut_off, "the server has closed connection {identity}");
                return;
            }
            output.drain(..cut);
            if rng.percent(5) {
                sleep(Duration::from_millis(rng.below(3))).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
    }
    if !is_cut_off {
        let close = [0x88, 0x80, 1, 2, 3, 4];
        stream.write_all(&close).await.expect("the server reads");
        // The stream stays open until the server's Close frame.
        stream.forget();
    }
}

/// A message in one or several frames, with pings before and between.
fn push_message(output: &mut Vec<u8>, payload: &[u8], rng: &mut Rng) {
    let mut rest = payload;
    let mut opcode = 2;
    loop {
        if rng.percent(5) {
            let ping = [&payload[..8], &PING.to_be_bytes()].concat();
            push_frame(output, 0x89, &ping, rng);
        }
        let len = if rng.percent(80) { rest.len() } else { rng.below(rest.len() as u64 + 1) as usize };
        let (piece, after) = rest.split_at(len);
        let is_last = after.is_empty();
        push_frame(output, opcode | if is_last { 0x80 } else { 0 }, piece, rng);
        if is_last {
            return;
        }
        (rest, opcode) = (after, 0);
    }
}

fn push_frame(output: &mut Vec<u8>, first: u8, payload: &[u8], rng: &mut Rng) {
    output.push(first);
    match payload.len() {
        len @ 0..=125 => output.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            output.push(0x80 | 126);
            output.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            output.push(0x80 | 127);
            output.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let key = (rng.below(1 << 32) as u32).to_be_bytes();
    output.extend_from_slice(&key);
    output.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Reads the response to the handshake and `count` echoes, and compares each; then the Close frame, if `is_to_end`.
async fn read(mut stream: OwnedReadHalf, identity: u64, count: u64, is_to_end: bool) -> Echoes {
    let (mut input, mut echoes) = (Vec::new(), Echoes::default());
    let end = loop {
        if let Some(at) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(&mut stream, &mut input, identity).await;
    };
    assert!(input.starts_with(b"HTTP/1.1 101 "), "{}", input.escape_ascii());
    input.drain(..end);
    while is_to_end || echoes.messages < count {
        let Some((first, got)) = take_frame(&mut input) else {
            read_more(&mut stream, &mut input, identity).await;
            continue;
        };
        match first {
            0x82 => {
                compare(&got, &payload(identity, echoes.messages), "in an echo");
                echoes.messages += 1;
                echoes.bytes += got.len() as u64;
            }
            0x88 if is_to_end && echoes.messages == count => break,
            0x8a => compare(&got, &[identity.to_be_bytes(), PING.to_be_bytes()].concat(), "in a pong"),
            other => panic!("connection {identity}: a frame that begins with {other:#x}"),
        }
    }
    echoes
}

async fn read_more(stream: &mut OwnedReadHalf, input: &mut Vec<u8>, identity: u64) {
    let count = timeout(PATIENCE, stream.read_buf(input)).await.expect("the server sends");
    assert_ne!(count.expect("the connection is open"), 0, "the server has closed connection {identity}");
}

/// Takes the first whole frame off `input`: its first byte, and its payload.
fn take_frame(input: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let [first, second] = *input.first_chunk()?;
    let (len, start) = match second {
        126 => (usize::from(u16::from_be_bytes(*input[2..].first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*input[2..].first_chunk()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    let payload = input.get(start..start + len)?.to_vec();
    input.drain(..start + len);
    Some((first, payload))
}
