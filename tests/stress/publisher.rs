//! Publishers: the control plane, and clients that publish over WebSockets, on any shard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ringfeed::gateway::{Accept, Context, Handler, Refusal, Request};
use ringfeed::proto::{CloseCode, Message};
use ringfeed::server::{PublishError, Publisher};
use ringfeed::topics::{Answer, Draft, TopicName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::rng::Rng;
use super::truth::{Id, Place};
use super::wire::{format_place, parse_place, payload};

/// The most publications of one publisher without an outcome.
const IN_FLIGHT: usize = 64;

/// The timeout for an outcome. Only a broken server takes as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// The server's side: publishes `<ticket> <topic> <payload>`, and answers `<ticket> <epoch>:<offset>`, or `<ticket> -`
/// for a rejection.
#[derive(Debug, Default)]
pub(crate) struct PublishHandler;

impl Handler for PublishHandler {
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        let mut parts = message.as_str().expect("text").splitn(3, ' ');
        let mut part = || parts.next().expect("three parts");
        let (request_id, topic, payload) = (part(), part(), part());
        let draft =
            Draft::new(TopicName::new(topic).expect("a name"), true, Bytes::copy_from_slice(payload.as_bytes()));
        conn.publish_with(draft, Some(request_id.parse().expect("a number")));
    }

    fn on_answer(&mut self, conn: &mut Context<'_>, _: &mut (), request_id: u32, answer: Answer) {
        match answer {
            Answer::Published(Ok(place)) => {
                conn.send(Message::text(&format!("{request_id} {}:{}", place.epoch, place.offset)));
            }
            Answer::Published(Err(PublishError::Busy)) => conn.send(Message::text(&format!("{request_id} -"))),
            other => conn.close(CloseCode::POLICY_VIOLATION, &format!("{other:?}")),
        }
    }
}

/// Chooses the next publications: a burst on one topic.
struct Bursts {
    publisher: u64,
    next: u64,
    rng: Rng,
}

impl Bursts {
    fn new(publisher: u64, rng: Rng) -> Bursts {
        Bursts { publisher, next: 1, rng }
    }

    /// A topic, and the ids of the publications.
    fn next(&mut self, shared: &Shared) -> (usize, Vec<Id>) {
        let topic = self.rng.below(shared.truth.topic_count() as u64) as usize;
        let count = if self.rng.percent(10) { 40 } else { 1 + self.rng.below(4) };
        let numbers = self.next..self.next + count;
        self.next += count;
        (topic, numbers.map(|number| Id { publisher: self.publisher, number }).collect())
    }

    /// Phases of full rate alternate with pauses.
    async fn pause(&mut self) {
        let is_calm = self.next % 20_000 < 12_000;
        if is_calm && self.rng.percent(30) {
            sleep(Duration::from_millis(1 + self.rng.below(3))).await;
        }
    }
}

/// Publishes from outside the shards until the run ends.
pub(crate) async fn publish_by_control(publisher: Publisher, shared: &Shared, rng: Rng) -> Publisher {
    let mut bursts = Bursts::new(0, rng);
    let mut waiting = VecDeque::new();
    while !shared.is_enough.load(Ordering::Relaxed) {
        let (topic, ids) = bursts.next(shared);
        for id in ids {
            let name = shared.truth.name(topic);
            let draft = Draft::new(TopicName::new(name).expect("a name"), true, Bytes::from(payload(name, id)));
            match publisher.publish(draft) {
                Ok(outcome) => waiting.push_back((topic, id, outcome)),
                Err(PublishError::Busy) => sleep(Duration::from_millis(1)).await,
                Err(error) => panic!("{error}"),
            }
        }
        while waiting.len() > IN_FLIGHT {
            take_outcome(shared, waiting.pop_front().expect("publications wait")).await;
        }
        bursts.pause().await;
    }
    for one in waiting {
        take_outcome(shared, one).await;
    }
    publisher
}

type Waiting = (usize, Id, tokio::sync::oneshot::Receiver<Result<ringfeed::topics::Position, PublishError>>);

async fn take_outcome(shared: &Shared, (topic, id, outcome): Waiting) {
    match timeout(PATIENCE, outcome).await.expect("an outcome in time").expect("the shard runs") {
        Ok(position) => {
            let place = parse_place(&format!("{}:{}", position.epoch, position.offset));
            shared.truth.confirm(topic, place, id);
        }
        Err(PublishError::Busy) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Publishes over a WebSocket until the run ends.
pub(crate) async fn publish_by_websocket(publisher: u64, shared: Arc<Shared>, rng: Rng) {
    let mut bursts = Bursts::new(publisher, rng);
    let mut press = PublishingClient::connect(&shared).await;
    while !shared.is_enough.load(Ordering::Relaxed) {
        let (topic, ids) = bursts.next(&shared);
        for id in ids {
            press.publish(&shared, topic, id).await;
        }
        press.take_answers(&shared, IN_FLIGHT).await;
        bursts.pause().await;
    }
    press.take_answers(&shared, 0).await;
}

/// A client of [`PublishHandler`].
struct PublishingClient {
    stream: TcpStream,
    input: Vec<u8>,
    request_id: u32,
    waiting: VecDeque<(u32, usize, Id)>,
}

impl PublishingClient {
    async fn connect(shared: &Shared) -> PublishingClient {
        let mut stream = TcpStream::connect(shared.server).await.expect("the server accepts");
        let request = "GET /press HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut press = PublishingClient { stream, input: Vec::new(), request_id: 0, waiting: VecDeque::new() };
        let end = loop {
            if let Some(index) = press.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break index + 4;
            }
            press.read().await;
        };
        press.input.drain(..end);
        press
    }

    async fn read(&mut self) {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("the server answers");
        assert!(read.is_ok_and(|count| count > 0), "the server has closed a publisher's connection");
    }

    async fn publish(&mut self, shared: &Shared, topic: usize, id: Id) {
        self.request_id += 1;
        let name = shared.truth.name(topic);
        let text = format!("{} {name} {}", self.request_id, payload(name, id));
        // The masking key is zero, which leaves the bytes as they are.
        let len = match text.len() {
            short @ ..126 => vec![0x80 | short as u8],
            long => [&[0x80 | 126][..], &(long as u16).to_be_bytes()].concat(),
        };
        let frame = [&[0x81][..], &len, &[0; 4], text.as_bytes()].concat();
        self.stream.write_all(&frame).await.expect("the server reads");
        self.waiting.push_back((self.request_id, topic, id));
    }

    /// Reads answers until at most `missing_max` are missing.
    async fn take_answers(&mut self, shared: &Shared, missing_max: usize) {
        loop {
            while let Some((first, payload)) = self.take_frame() {
                match first {
                    0x81 => self.on_answer(shared, std::str::from_utf8(&payload).expect("text")),
                    0x89 => {
                        let pong = [&[0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], &payload].concat();
                        self.stream.write_all(&pong).await.expect("the server reads");
                    }
                    other => panic!("a publisher received {other:#x}: {}", String::from_utf8_lossy(&payload)),
                }
            }
            if self.waiting.len() <= missing_max {
                return;
            }
            self.read().await;
        }
    }

    /// The first byte and the payload of the next frame.
    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, len] = *self.input.first_chunk()?;
        let end = 2 + usize::from(len);
        assert!(len < 126, "answers are short");
        let payload = self.input.get(2..end)?.to_vec();
        self.input.drain(..end);
        Some((first, payload))
    }

    /// Answers come from several homes, so in any order.
    fn on_answer(&mut self, shared: &Shared, text: &str) {
        let (request_id, outcome) = text.split_once(' ').expect("a request_id and an outcome");
        let request_id: u32 = request_id.parse().expect("a number");
        let index =
            self.waiting.iter().position(|(other, ..)| *other == request_id).expect("a publication without answer");
        let (_, topic, id) = self.waiting.remove(index).expect("the index is valid");
        if outcome != "-" {
            let place: Place = parse_place(outcome);
            assert_eq!(format_place(place), outcome);
            shared.truth.confirm(topic, place, id);
        }
    }
}
