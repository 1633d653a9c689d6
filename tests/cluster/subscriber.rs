//! A subscriber that moves from node to node and checks everything that it receives: the order, that no message is
//! missing untold, and that a position has one message on all nodes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::protocols::{Event, Next, Positions, Protocol, Stream};

/// Messages after which a subscriber moves on.
const MESSAGES: u32 = 300;

/// A topic, an epoch and an offset.
pub(crate) type Place = (String, String, u64);

/// What all subscribers and publishers know.
#[derive(Default)]
pub(crate) struct Truth {
    /// The message at each place.
    pub(crate) places: HashMap<Place, String>,
    /// The place of each message.
    pub(crate) messages: HashMap<String, Place>,
    pub(crate) deliveries: u64,
    pub(crate) recoveries: u64,
    pub(crate) losses: u64,
    /// The longest time without a message, by subscriber.
    pub(crate) pauses: Vec<Duration>,
}

impl Truth {
    /// A message has been seen at a place.
    pub(crate) fn see(&mut self, place: Place, message: &str) {
        let known = self.places.entry(place.clone()).or_insert_with(|| message.to_owned());
        assert_eq!(known, message, "two messages at {place:?}");
        let other = self.messages.entry(message.to_owned()).or_insert_with(|| place.clone());
        assert_eq!(*other, place, "{message} has two places");
    }
}

/// The nodes' data ports now.
pub(crate) type Nodes = Arc<Mutex<Vec<SocketAddr>>>;

pub(crate) struct Subscriber {
    pub(crate) protocol: Protocol,
    pub(crate) nodes: Nodes,
    pub(crate) truth: Arc<Mutex<Truth>>,
    pub(crate) topics: Vec<String>,
    /// The first node.
    pub(crate) node: usize,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Subscriber {
    /// Receives until `stop`, and moves on after some messages or when a connection ends.
    pub(crate) fn run(mut self) {
        let mut positions = Positions::new();
        let (mut last, mut pause) = (Instant::now(), Duration::ZERO);
        while !self.stop.load(Ordering::Relaxed) {
            self.node += 1;
            let addresses = self.nodes.lock().unwrap().clone();
            let address = addresses[self.node % addresses.len()];
            let Some(mut stream) = Stream::connect(self.protocol, address, &self.topics, &positions) else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let mut left = MESSAGES;
            while left > 0 && !self.stop.load(Ordering::Relaxed) {
                match stream.next() {
                    Next::Event(event) => {
                        left -= 1;
                        (pause, last) = (pause.max(last.elapsed()), Instant::now());
                        self.check(event, &mut positions);
                    }
                    Next::Nothing => {}
                    Next::End => break,
                }
            }
        }
        self.truth.lock().unwrap().pauses.push(pause);
    }

    fn check(&self, event: Event, positions: &mut Positions) {
        let mut truth = self.truth.lock().unwrap();
        match event {
            Event::Subscribed(topic, epoch, offset) => match positions.get(&topic) {
                // The missed messages may follow, or have come before.
                Some(before) => {
                    assert!(
                        before.0 == epoch && before.1 <= offset,
                        "{before:?} goes on at {epoch}:{offset} in {topic}"
                    );
                    truth.recoveries += 1;
                }
                None => drop(positions.insert(topic, (epoch, offset))),
            },
            Event::Lost(topic, epoch, offset) => {
                truth.losses += 1;
                positions.insert(topic, (epoch, offset));
            }
            Event::Message(topic, epoch, offset, payload) => {
                let before = positions.get(&topic).expect("the position comes first");
                if before.0 == epoch {
                    assert_eq!(offset, before.1 + 1, "{:?}: a gap in {topic} that nobody was told of", self.protocol);
                }
                truth.deliveries += 1;
                truth.see((topic.clone(), epoch.clone(), offset), &payload);
                positions.insert(topic, (epoch, offset));
            }
        }
    }
}
