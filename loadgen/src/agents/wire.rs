//! The messages of coordinator and agents: a length of four bytes, and JSON.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::agents::clock::Offset;
use crate::agents::key::{self, Key, NONCE, Side};
use crate::check::faults::FaultsFound;
use crate::check::payload::RunName;
use crate::options::ConnectOptions;
use crate::report::recorder::RecordedFound;
use crate::report::timeline::Tick;
use crate::scenario::curve::Curve;
use crate::scenario::load::Group;

/// Most bytes of a message: to the agent, and from it, which tells a number for each connection.
pub(crate) const TO_AGENT_MAX: usize = 1 << 20;
pub(crate) const FROM_AGENT_MAX: usize = 1 << 28;

/// Longest time for the exchange of proofs.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToAgent {
    /// Answered at once, with the same number.
    Ping(u64),
    Begin(Box<Order>),
    /// The warm-up or the measured part starts at this time of the run.
    Start {
        is_measured: bool,
        at_ns: u64,
    },
    /// Topic and number of messages that the server refused.
    Refused(Vec<(u32, u64)>),
    Finish,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromAgent {
    Pong {
        number: u64,
        clock_ns: i64,
    },
    /// All subscribers are connected.
    Ready,
    /// The warm-up or the measured part is over.
    Settled,
    Found(Box<Found>),
    /// The run can't go on.
    Failed(String),
}

/// The work of an agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) run: RunName,
    pub(crate) url: String,
    pub(crate) deflate: bool,
    pub(crate) late: Duration,
    pub(crate) patience: Duration,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) connect: ConnectOptions,
    pub(crate) groups: Vec<Group>,
    pub(crate) connected: Curve,
    pub(crate) workers: u32,
    /// The subscribers of this agent, by their numbers in the run.
    pub(crate) subscribers: Range<u32>,
    /// The agent's clock is ahead of the coordinator's.
    pub(crate) offset: Offset,
    /// The coordinator's clock at the start of the run.
    pub(crate) started_ns: i64,
}

/// What an agent found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// Messages of each connection.
    pub(crate) counts: Vec<u64>,
    pub(crate) recorded: RecordedFound,
    pub(crate) faults: FaultsFound,
    /// The last message, as time of the run.
    pub(crate) last_ns: u64,
    pub(crate) client_cpu: Duration,
    pub(crate) throttled: u64,
    pub(crate) stolen: Duration,
    pub(crate) longest_pause: Duration,
    pub(crate) all_pauses: Duration,
    pub(crate) ticks: Vec<Tick>,
}

/// Writes a message.
///
/// # Errors
/// Those of the connection.
pub(crate) fn send(mut stream: &TcpStream, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message).expect("a message serializes");
    let len = u32::try_from(body.len()).map_err(|_| io::Error::from(ErrorKind::FileTooLarge))?;
    stream.write_all(&[&len.to_be_bytes()[..], &body].concat())
}

/// Reads a message of at most `max` bytes.
///
/// # Errors
/// Those of the connection, and `InvalidData` for a longer message or another content.
pub(crate) fn receive<T: DeserializeOwned>(mut stream: &TcpStream, max: usize) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_be_bytes(len) as usize;
    if len > max {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("a message of {len} bytes, more than {max}")));
    }
    // Memory only as bytes arrive.
    let mut body = Vec::new();
    stream.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&body).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// Exchanges nonces and proofs: both sides must have the same key.
///
/// # Errors
/// In words, with the remedy.
pub(crate) fn greet(stream: &TcpStream, side: Side, key: &Key) -> Result<(), String> {
    let ours = key::nonce().map_err(|error| error.to_string())?;
    let other = if side == Side::Agent { Side::Coordinator } else { Side::Agent };
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(HELLO_WITHIN)).map_err(|error| error.to_string())?;
    let no_peer = |error: io::Error| format!("no loadgen of this version at the other end: {error}");
    send(stream, &ours).map_err(no_peer)?;
    let theirs: [u8; NONCE] = receive(stream, 1024).map_err(no_peer)?;
    send(stream, &key.prove(side, &theirs, &ours)).map_err(no_peer)?;
    let proof: Vec<u8> = receive(stream, 1024).map_err(no_peer)?;
    if !key.is_proof(other, &ours, &theirs, &proof) {
        return Err("the keys differ: give both sides the same --agent-key-file".to_owned());
    }
    stream.set_read_timeout(None).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_message_is_read_as_it_was_written_and_a_long_one_rejected() {
        let (client, server) = pair();
        send(&client, &ToAgent::Refused(vec![(1, 2)])).unwrap();
        let message: ToAgent = receive(&server, TO_AGENT_MAX).unwrap();
        assert!(matches!(message, ToAgent::Refused(all) if all == [(1, 2)]));
        (&client).write_all(&u32::MAX.to_be_bytes()).unwrap();
        let error = receive::<ToAgent>(&server, TO_AGENT_MAX).unwrap_err();
        assert!(error.to_string().contains("4294967295 bytes"), "{error}");
        let (client, server) = pair();
        (&client).write_all(&[0, 0, 0, 2, b'{', b'}']).unwrap();
        assert_eq!(receive::<ToAgent>(&server, TO_AGENT_MAX).unwrap_err().kind(), ErrorKind::InvalidData);
        (&client).write_all(&[0, 0, 0, 2, b'{']).unwrap();
        drop(client);
        assert_eq!(receive::<ToAgent>(&server, TO_AGENT_MAX).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn both_sides_need_the_same_key() {
        let file = |name: &str| {
            let path = std::env::temp_dir().join(format!("loadgen-{name}-{}", std::process::id()));
            std::fs::write(&path, format!("{name}-0123456789abcdef")).unwrap();
            let key = Key::read(Some(&path)).unwrap();
            std::fs::remove_file(&path).unwrap();
            key
        };
        let meet = |keys: [Key; 2]| {
            let ((client, server), [ours, theirs]) = (pair(), keys);
            let agent = std::thread::spawn(move || greet(&server, Side::Agent, &theirs));
            [greet(&client, Side::Coordinator, &ours), agent.join().unwrap()]
        };
        let one = file("one");
        assert_eq!(meet([one.clone(), one.clone()]), [Ok(()), Ok(())]);
        for result in meet([one, file("two")]) {
            assert!(result.unwrap_err().contains("--agent-key-file"));
        }
    }
}
