//! One subscriber: it connects, reads or stalls for a while, disconnects in some way, and reconnects.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Shared;
use super::rng::Rng;
use super::truth::Place;
use super::view::{Tally, View};
use super::wire::{ServerMessage, format_place, take_block, take_frame};

/// The timeout for everything that must arrive. Only a broken server takes as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// An epoch that no topic has.
const NEVER: [u8; 13] = *b"0000000000000";

/// The transport of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    WebSocket,
    EventStream,
}

/// Why it stops reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The server has closed the connection.
    Closed,
    /// Its time is over.
    TimeUp,
    /// It has received all publications.
    Done,
}

pub(crate) struct Subscriber {
    shared: Arc<Shared>,
    rng: Rng,
    source: Ipv4Addr,
    transport: Transport,
    views: Vec<View>,
    tally: Tally,
    /// Publications that an event stream received since it reconnected, by view: recovered ones, until the server
    /// reports the position.
    caught_up: Vec<u64>,
    /// Deliveries not yet added to the shared count.
    uncounted: u64,
}

impl Subscriber {
    pub(crate) fn new(index: u64, shared: Arc<Shared>, mut rng: Rng) -> Subscriber {
        let transport = if rng.percent(30) { Transport::EventStream } else { Transport::WebSocket };
        let count = 1 + rng.below(10) as usize;
        let mut topics: Vec<usize> =
            (0..count).map(|_| rng.below(shared.truth.topic_count() as u64) as usize).collect();
        topics.sort_unstable();
        topics.dedup();
        // The server does not drop from the backlog of an event stream of several topics: it closes the stream.
        let is_strict = transport == Transport::EventStream && topics.len() > 1;
        let views: Vec<View> = topics.iter().map(|topic| View::new(&shared.truth, *topic, is_strict)).collect();
        Subscriber {
            // Each subscriber has an address of its own, so that ports do not run out.
            source: Ipv4Addr::new(127, 0, 1 + (index >> 8) as u8, index as u8),
            caught_up: vec![0; views.len()],
            shared,
            rng,
            transport,
            views,
            tally: Tally::default(),
            uncounted: 0,
        }
    }

    /// Connects and disconnects until the run is over. Returns the statistics.
    pub(crate) async fn run_to_end(mut self) -> Tally {
        loop {
            let mut stream = self.connect().await;
            let stop = self.read_until_stop(&mut stream).await;
            self.leave(stream, stop).await;
            if stop == Stop::Done {
                return self.tally;
            }
            if !self.shared.is_over.load(Ordering::Acquire) && self.rng.percent(60) {
                sleep(Duration::from_millis(self.rng.below(200))).await;
            }
        }
    }

    async fn connect(&mut self) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from((self.source, 0))).expect("an address of this host");
        if self.rng.percent(30) {
            socket.set_recv_buffer_size(8192).expect("an option can be set");
        }
        let stream = timeout(PATIENCE, socket.connect(self.shared.server)).await;
        let mut stream = stream.expect("the server answers").expect("the server accepts");
        if self.views.iter().all(|view| view.place.is_some()) {
            self.views.iter_mut().for_each(View::on_return);
        } else {
            // It was cut off before it had a position in all its topics, so it requests no history.
            self.views.iter_mut().for_each(View::on_start);
        }
        stream.write_all(self.request().as_bytes()).await.expect("the server reads");
        self.tally.connections += 1;
        self.caught_up.fill(0);
        stream
    }

    fn request(&self) -> String {
        let names: Vec<&str> = self.views.iter().map(|view| self.shared.truth.name(view.topic)).collect();
        let places: Option<Vec<String>> = self.views.iter().map(|view| view.place.map(format_place)).collect();
        let (names, places) = (names.join(","), places.map(|places| places.join(",")));
        match self.transport {
            Transport::WebSocket => {
                let since = places.map_or(String::new(), |places| format!("?since={places}"));
                format!(
                    "GET /feed/{names}{since} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Protocol: ringfeed.envelope\r\n\r\n"
                )
            }
            Transport::EventStream => {
                let id = places.map_or(String::new(), |places| format!("Last-Event-ID: {places}\r\n"));
                format!("GET /sse/{names} HTTP/1.1\r\nHost: localhost\r\n{id}\r\n")
            }
        }
    }

    /// Reads until one side stops.
    async fn read_until_stop(&mut self, stream: &mut TcpStream) -> Stop {
        let mut input = Vec::with_capacity(16 * 1024);
        if !self.read_head(stream, &mut input).await {
            return Stop::Closed;
        }
        let bored_at = Instant::now() + Duration::from_millis(self.rng.below(1500));
        let mut stall_at = self.rng.percent(25).then(|| Instant::now() + Duration::from_millis(self.rng.below(300)));
        let silent_at = Instant::now() + PATIENCE;
        loop {
            if !self.take_messages(stream, &mut input).await {
                return Stop::Closed;
            }
            let is_over = self.shared.is_over.load(Ordering::Acquire);
            if is_over && self.has_seen_all() {
                return Stop::Done;
            }
            if !is_over && Instant::now() >= bored_at {
                return Stop::TimeUp;
            }
            assert!(Instant::now() < silent_at, "the missing publications do not arrive: {:?}", self.views);
            if stall_at.is_some_and(|at| Instant::now() >= at) {
                stall_at = None;
                sleep(Duration::from_millis(self.rng.below(1000))).await;
            }
            let until = Instant::now() + Duration::from_millis(50);
            if let Ok(Ok(0) | Err(_)) = timeout_at(until, stream.read_buf(&mut input)).await {
                return Stop::Closed;
            }
        }
    }

    /// Whether the server has accepted the connection.
    async fn read_head(&mut self, stream: &mut TcpStream, input: &mut Vec<u8>) -> bool {
        loop {
            if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = input.drain(..end + 4).collect();
                let status = if self.transport == Transport::WebSocket { "101" } else { "200" };
                let expected = format!("HTTP/1.1 {status} ");
                assert!(head.starts_with(expected.as_bytes()), "{}", String::from_utf8_lossy(&head));
                return true;
            }
            match timeout(PATIENCE, stream.read_buf(input)).await.expect("the server answers") {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
    }

    /// Handles all whole messages. Returns whether the connection goes on.
    async fn take_messages(&mut self, stream: &mut TcpStream, input: &mut Vec<u8>) -> bool {
        let take = match self.transport {
            Transport::WebSocket => take_frame,
            Transport::EventStream => take_block,
        };
        while let Some(news) = take(input, &self.shared.truth) {
            match news {
                ServerMessage::Ping(payload) => {
                    let pong = [&[0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], &payload].concat();
                    if stream.write_all(&pong).await.is_err() {
                        return false;
                    }
                }
                ServerMessage::Close => return false,
                other => self.hear(other),
            }
        }
        self.shared.deliveries.fetch_add(std::mem::take(&mut self.uncounted), Ordering::Relaxed);
        true
    }

    fn hear(&mut self, news: ServerMessage) {
        match news {
            ServerMessage::Subscribed { topic, top, recovered } => {
                let view = self.find(topic);
                self.views[view].on_subscribed(top, recovered, &mut self.tally);
            }
            ServerMessage::Publication { topic, places, id } => {
                let view = self.find(topic);
                let place = if places.len() == 1 { places[0] } else { places[view] };
                self.views[view].on_publication(&self.shared.truth, place, id, &mut self.tally);
                self.caught_up[view] += 1;
                self.uncounted += 1;
                if self.transport == Transport::EventStream {
                    self.check_places(&places);
                }
            }
            ServerMessage::At(places) => {
                for (index, place) in places.iter().enumerate().filter(|(_, place)| place.epoch != NEVER) {
                    self.views[index].on_caught_up(*place, self.caught_up[index], &mut self.tally);
                }
            }
            ServerMessage::Lost { topic, top, places } => {
                let view = self.find(topic);
                self.views[view].on_lost(top, &mut self.tally);
                self.views[view].on_caught_up(top, 0, &mut self.tally);
                self.check_places(&places);
            }
            ServerMessage::Ping(_) | ServerMessage::Close | ServerMessage::Nothing => {}
        }
    }

    /// The id of an event has the stream's positions in all topics.
    fn check_places(&self, places: &[Place]) {
        assert_eq!(places.len(), self.views.len(), "the number of positions differs from that of topics");
        for (view, place) in self.views.iter().zip(places).filter(|(_, place)| place.epoch != NEVER) {
            assert_eq!(view.place, Some(*place), "the id of an event is not the stream's position: {view:?}");
        }
    }

    fn find(&self, topic: usize) -> usize {
        let view = self.views.iter().position(|view| view.topic == topic);
        view.unwrap_or_else(|| panic!("a publication of {} without a subscription", self.shared.truth.name(topic)))
    }

    fn has_seen_all(&self) -> bool {
        let truth = &self.shared.truth;
        self.views.iter().all(|view| view.place.is_some_and(|place| place.offset == truth.top(view.topic)))
    }

    async fn leave(&mut self, mut stream: TcpStream, stop: Stop) {
        if stop == Stop::Closed {
            return;
        }
        match self.rng.below(3) {
            0 if self.transport == Transport::WebSocket => {
                // A Close frame; messages in flight are not read, and arrive again after the reconnect.
                let _ = stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await;
            }
            1 => drop(stream.shutdown().await),
            _ => stream.set_zero_linger().expect("an option can be set"),
        }
    }
}
