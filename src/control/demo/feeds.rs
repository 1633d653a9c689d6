//! The publishers of the demo pages in `examples/web`: prices, vehicles, hearts, a match, and a voice in the chat.
//!
//! All data comes from a seed and the number of ticks. A topic without subscribers costs nothing: its publications are
//! not made. The match is the exception, one small message a second, so that there is a history to recover.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::super::State;
use super::super::lists::{Cursor, Page};
use crate::limits::LIST_ROWS_MAX;
use crate::server::{PublishError, Random};
use crate::topics::{Allowed, Draft, Namespace, SlowConsumer, TopicName, TopicPattern};

/// How often publications leave.
const TICK: Duration = Duration::from_millis(10);
const TICKS_PER_SECOND: u64 = 100;

/// How long a topic without subscribers counts as watched: a page that reconnects recovers what it missed.
const LINGER: Duration = Duration::from_secs(60);

/// All that is random here begins with it.
const SEED: u64 = 2026;

/// The industries, each with a topic of its own and [`SYMBOLS_PER_SECTOR`] symbols.
const SECTORS: [&str; 20] = [
    "airlines",
    "banks",
    "cars",
    "chips",
    "cloud",
    "coffee",
    "energy",
    "films",
    "food",
    "games",
    "gold",
    "health",
    "insurance",
    "media",
    "music",
    "rail",
    "retail",
    "ships",
    "steel",
    "water",
];
const SYMBOLS_PER_SECTOR: usize = 25;
const SYMBOLS: usize = SECTORS.len() * SYMBOLS_PER_SECTOR;

/// Of 500 symbols, so that each changes twenty times a second: 10,000 updates a second.
const PRICES_PER_TICK: usize = 100;

const VEHICLES: usize = 300;

/// Each vehicle moves once a second.
const VEHICLES_PER_TICK: usize = VEHICLES / TICKS_PER_SECOND as usize;

/// The map's size, and the distance between its streets.
const MAP_SIZE: [i32; 2] = [1000, 600];
const BLOCK: i32 = 50;

const PATIENTS: usize = 4;
const SAMPLES_PER_SECOND: u64 = 250;

/// Ticks from one message of a patient to the next.
const HEART_TICKS: u64 = 20;

/// Ticks from one line of the voice in the chat to the next.
const VOICE_TICKS: u64 = 15 * TICKS_PER_SECOND;

/// The namespaces of the pages. Clients without a token may read all of them, and publish to three of them.
pub fn namespaces() -> Vec<(String, Namespace)> {
    let kept = |history_size, history_bytes_max| Namespace {
        history_size,
        history_bytes_max,
        history_ttl_ms: 600_000,
        history: Allowed::Anyone,
        ..Namespace::default()
    };
    let shared = |history_size, history_bytes_max| Namespace {
        presence: true,
        join_leave: true,
        publish: Allowed::Subscribers,
        presence_read: Allowed::Subscribers,
        ..kept(history_size, history_bytes_max)
    };
    let list = [
        (
            "demo-prices",
            Namespace { slow_consumer: SlowConsumer::Conflate, outbox_bytes_max: 256 * 1024, ..Namespace::default() },
        ),
        ("demo-chat", shared(50, 64 * 1024)),
        ("demo-board", shared(1000, 256 * 1024)),
        // Cursors, and who is typing.
        (
            "demo-live",
            Namespace {
                publish: Allowed::Subscribers,
                slow_consumer: SlowConsumer::DropOldest,
                outbox_bytes_max: 64 * 1024,
                ..Namespace::default()
            },
        ),
        ("demo-map", Namespace { slow_consumer: SlowConsumer::Conflate, ..kept(VEHICLES, 256 * 1024) }),
        ("demo-match", kept(300, 256 * 1024)),
        ("demo-heart", kept(200, 256 * 1024)),
    ];
    list.map(|(name, namespace)| (name.to_owned(), namespace)).into()
}

/// Publishes until the server leaves.
pub(super) async fn run(state: Rc<State>) {
    let (mut feeds, mut watched) = (Feeds::new(SEED), Watched::default());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for tick in 0_u64.. {
        ticks.tick().await;
        if tick.is_multiple_of(TICKS_PER_SECOND) {
            watched.refresh(&state).await;
        }
        for draft in feeds.tick(tick, &watched) {
            // A full queue skips this update; the next one is near. The outcome does not matter either.
            if let Err(PublishError::Stopping) = state.send(draft) {
                return;
            }
        }
    }
}

/// The topics that have subscribers, or had some a short time ago.
#[derive(Default)]
struct Watched(HashMap<String, Instant>);

impl Watched {
    /// Requests the topics, unless nobody is subscribed to anything.
    async fn refresh(&mut self, state: &State) {
        self.0.retain(|_, seen| seen.elapsed() < LINGER);
        let subscriptions: u64 = state.status.shards.iter().map(|shard| shard.subscriptions.get()).sum();
        let pattern = TopicPattern::new("demo-*").ok();
        let mut next = Some(Cursor::default()).filter(|_| subscriptions > 0);
        while let Some(cursor) = next {
            let page = state.list_topics(cursor, LIST_ROWS_MAX, pattern.clone(), Duration::MAX).await;
            let Ok(Page { rows, next: later }) = page else { return };
            let of_demo = rows.into_iter().filter(|(_, subscribers)| *subscribers > 0);
            self.0.extend(of_demo.map(|(topic, _)| (topic.name.to_string(), Instant::now())));
            next = later;
        }
    }

    fn has(&self, topic: &str) -> bool {
        self.0.contains_key(topic)
    }
}

/// All that is published.
struct Feeds {
    random: Random,
    symbols: Vec<Symbol>,
    vehicles: Vec<Vehicle>,
    hearts: [Heart; PATIENTS],
    game: Game,
}

#[derive(Clone, Debug)]
struct Symbol {
    name: String,
    /// In cents, today's first and the newest.
    open: f64,
    price: f64,
    volume: u64,
}

#[derive(Clone, Debug)]
struct Vehicle {
    kind: &'static str,
    at: [i32; 2],
    /// One of the four directions: east, south, west, north.
    direction: usize,
    speed: i32,
    moves: u64,
}

#[derive(Clone, Debug, Default)]
struct Heart {
    /// Samples so far.
    samples: u64,
    /// The position in the beat: 0 to 1.
    phase: f64,
}

#[derive(Clone, Debug, Default)]
struct Game {
    minute: u64,
    score: [u32; 2],
}

impl Feeds {
    fn new(seed: u64) -> Feeds {
        let mut random = Random::new(seed);
        let symbols = (0..SYMBOLS).map(|index| Symbol::new(index, &mut random)).collect();
        let vehicles = (0..VEHICLES).map(|index| Vehicle::new(index, &mut random)).collect();
        Feeds { random, symbols, vehicles, hearts: Default::default(), game: Game::default() }
    }

    /// The publications of a tick.
    fn tick(&mut self, tick: u64, watched: &Watched) -> Vec<Draft> {
        let mut drafts = Vec::new();
        self.prices(tick, watched, &mut drafts);
        if watched.has("demo-map:city") {
            self.map(tick, &mut drafts);
        }
        self.hearts(tick, watched, &mut drafts);
        if tick.is_multiple_of(TICKS_PER_SECOND) {
            drafts.push(draft("demo-match:final", None, self.game.event(&mut self.random)));
        }
        if tick % VOICE_TICKS == VOICE_TICKS - 1 && watched.has("demo-chat:lobby") {
            let lines =
                ["Anyone for coffee?", "It is quiet here.", "The build is green.", "Tea, then?", "Who is on call?"];
            let line = lines[self.random.below(lines.len() as u64) as usize];
            drafts.push(draft("demo-chat:lobby", None, format!(r#"{{"name":"Robin (a program)","text":"{line}"}}"#)));
        }
        drafts
    }

    fn prices(&mut self, tick: u64, watched: &Watched, drafts: &mut Vec<Draft>) {
        let first = tick as usize * PRICES_PER_TICK % SYMBOLS;
        for index in first..first + PRICES_PER_TICK {
            let topic = format!("demo-prices:{}", SECTORS[index / SYMBOLS_PER_SECTOR]);
            if watched.has(&topic) {
                let symbol = &mut self.symbols[index];
                symbol.trade(&mut self.random);
                drafts.push(draft(&topic, Some(&symbol.name), symbol.encode()));
            }
        }
    }

    fn map(&mut self, tick: u64, drafts: &mut Vec<Draft>) {
        let first = tick as usize * VEHICLES_PER_TICK % VEHICLES;
        for index in first..first + VEHICLES_PER_TICK {
            let vehicle = &mut self.vehicles[index];
            vehicle.drive(&mut self.random);
            drafts.push(draft("demo-map:city", Some(&index.to_string()), vehicle.encode(index)));
        }
    }

    fn hearts(&mut self, tick: u64, watched: &Watched, drafts: &mut Vec<Draft>) {
        for (patient, heart) in self.hearts.iter_mut().enumerate() {
            let topic = format!("demo-heart:{}", patient + 1);
            // The patients take turns.
            if tick % HEART_TICKS == patient as u64 * 5 && watched.has(&topic) {
                drafts.push(draft(&topic, None, heart.encode(patient, &mut self.random)));
            }
        }
    }
}

impl Symbol {
    fn new(index: usize, random: &mut Random) -> Symbol {
        // Two letters tell the symbols apart, two more make them look like symbols.
        let letter = |number: u64| char::from(b'A' + (number % 26) as u8);
        let index = index as u64;
        let name = [letter(index / 26), letter(index), letter(random.below(26)), letter(random.below(26))];
        let price = 500.0 + random.below(40_000) as f64;
        Symbol { name: name.iter().collect(), open: price, price, volume: random.below(10_000) }
    }

    fn trade(&mut self, random: &mut Random) {
        let step = random.below(2001) as f64 / 1000.0 - 1.0;
        self.price = (self.price * (1.0 + step / 800.0)).clamp(self.open / 2.0, self.open * 2.0);
        self.volume += 1 + random.below(20);
    }

    fn encode(&self) -> String {
        let change = 100.0 * (self.price / self.open - 1.0);
        let (name, price, volume) = (&self.name, self.price / 100.0, self.volume);
        format!(r#"{{"symbol":"{name}","price":{price:.2},"change":{change:.2},"volume":{volume}}}"#)
    }
}

impl Vehicle {
    fn new(index: usize, random: &mut Random) -> Vehicle {
        let kind = ["bike", "car", "car", "van", "bus"][index % 5];
        // On a crossing; the first move leaves it.
        let at = MAP_SIZE.map(|size| BLOCK * random.below((size / BLOCK) as u64 + 1) as i32);
        let (direction, speed) = (random.below(4) as usize, 8 + random.below(14) as i32);
        Vehicle { kind, at, direction, speed, moves: 0 }
    }

    /// Drives for a second: along a street, and at a crossing perhaps into another.
    fn drive(&mut self, random: &mut Random) {
        self.moves += 1;
        let axis = self.direction % 2;
        let forward = if self.direction < 2 { 1 } else { -1 };
        let next = self.at[axis] + forward * self.speed;
        let crossing =
            if forward > 0 { (self.at[axis] / BLOCK + 1) * BLOCK } else { (self.at[axis] - 1) / BLOCK * BLOCK };
        let reaches = (next - crossing) * forward >= 0;
        let is_at_edge = !(0..=MAP_SIZE[axis]).contains(&next);
        if !reaches && !is_at_edge {
            self.at[axis] = next;
            return;
        }
        self.at[axis] = crossing.clamp(0, MAP_SIZE[axis]);
        if is_at_edge || random.below(3) == 0 {
            self.direction = (self.direction + 1 + 2 * random.below(2) as usize) % 4;
        }
        // A street that leads off the map.
        let axis = self.direction % 2;
        let ahead = self.at[axis] + if self.direction < 2 { 1 } else { -1 };
        if !(0..=MAP_SIZE[axis]).contains(&ahead) {
            self.direction = (self.direction + 2) % 4;
        }
    }

    fn encode(&self, index: usize) -> String {
        let Vehicle { kind, at: [x, y], direction, moves, .. } = self;
        let heading = direction * 90;
        format!(r#"{{"id":"{index}","kind":"{kind}","x":{x},"y":{y},"heading":{heading},"n":{moves}}}"#)
    }
}

impl Heart {
    /// The samples since the last message, in microvolts.
    fn encode(&mut self, patient: usize, random: &mut Random) -> String {
        let first = self.samples;
        // The last patient's heart races for ten seconds of each half minute.
        let races = patient == PATIENTS - 1 && first / SAMPLES_PER_SECOND % 30 >= 20;
        let rate = [64, 72, 81, 76][patient] + if races { 62 } else { 0 } + random.below(3);
        let count = SAMPLES_PER_SECOND * HEART_TICKS / TICKS_PER_SECOND;
        let samples: Vec<String> = (0..count)
            .map(|_| {
                self.phase = (self.phase + rate as f64 / 60.0 / SAMPLES_PER_SECOND as f64).fract();
                // A converter's steps.
                let noise = random.below(31) as f64 - 15.0;
                (((wave(self.phase) + noise) / 5.0).round() as i32 * 5).to_string()
            })
            .collect();
        self.samples += count;
        let samples = samples.join(",");
        format!(r#"{{"first":{first},"per_second":{SAMPLES_PER_SECOND},"rate":{rate},"microvolts":[{samples}]}}"#)
    }
}

/// An electrocardiogram's height in microvolts at a position of the beat: the waves P, Q, R, S and T.
fn wave(phase: f64) -> f64 {
    let waves = [
        (0.20, 0.025, 120.0),
        (0.375, 0.010, -110.0),
        (0.40, 0.011, 1100.0),
        (0.425, 0.011, -240.0),
        (0.64, 0.045, 260.0),
    ];
    waves.iter().map(|(at, width, height)| height * (-((phase - at) / width).powi(2) / 2.0).exp()).sum()
}

impl Game {
    /// What happens in the next minute, which lasts a second.
    fn event(&mut self, random: &mut Random) -> String {
        let teams = ["Rovers", "Harbour"];
        if self.minute == 90 {
            *self = Game::default();
        }
        self.minute += 1;
        let side = random.below(2) as usize;
        let team = teams[side];
        let (kind, text) = match (self.minute, random.below(100)) {
            (1, _) => ("whistle", "Kick-off.".to_owned()),
            (45, _) => ("whistle", "Half-time.".to_owned()),
            (90, _) => ("whistle", "Full time.".to_owned()),
            (_, 0..4) => {
                self.score[side] += 1;
                ("goal", format!("Goal for {team}!"))
            }
            (_, 4..10) => ("card", format!("A yellow card for {team}.")),
            (_, 10..30) => ("shot", format!("{team} shoot, and miss.")),
            (_, 30..45) => ("corner", format!("Corner for {team}.")),
            _ => ("pass", format!("{team} have the ball.")),
        };
        let (minute, [home, away]) = (self.minute, self.score);
        let cheers = if kind == "goal" { 200 + random.below(800) } else { random.below(40) };
        format!(r#"{{"minute":{minute},"kind":"{kind}","text":"{text}","teams":["Rovers","Harbour"],"#,)
            + &format!(r#""score":[{home},{away}],"cheers":{cheers}}}"#)
    }
}

fn draft(topic: &str, key: Option<&str>, payload: String) -> Draft {
    let topic = TopicName::new(topic).expect("the topics' names are valid");
    Draft { key: key.map(Into::into), ..Draft::new(topic, true, Bytes::from(payload)) }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn watching(topics: &[&str]) -> Watched {
        Watched(topics.iter().map(|topic| ((*topic).to_owned(), Instant::now())).collect())
    }

    /// The publications of a second.
    fn second(feeds: &mut Feeds, watched: &Watched) -> Vec<Draft> {
        (0..TICKS_PER_SECOND).flat_map(|tick| feeds.tick(tick, watched)).collect()
    }

    fn json(draft: &Draft) -> Value {
        serde_json::from_slice(&draft.payload).unwrap()
    }

    #[test]
    fn without_subscribers_only_the_match_goes_on() {
        let drafts = second(&mut Feeds::new(1), &watching(&[]));
        let topics: Vec<&str> = drafts.iter().map(|draft| draft.topic.as_str()).collect();
        assert_eq!(topics, ["demo-match:final"]);
    }

    #[test]
    fn all_prices_are_ten_thousand_a_second() {
        let topics: Vec<String> = SECTORS.iter().map(|sector| format!("demo-prices:{sector}")).collect();
        let watched = watching(&topics.iter().map(String::as_str).collect::<Vec<_>>());
        let drafts = second(&mut Feeds::new(1), &watched);
        let keys: std::collections::HashSet<_> = drafts.iter().filter_map(|draft| draft.key.clone()).collect();
        assert_eq!((drafts.len(), keys.len()), (10_001, SYMBOLS));
        let few = second(&mut Feeds::new(1), &watching(&["demo-prices:gold"]));
        assert_eq!(few.len(), 501);
        let price = json(&few[1]);
        assert!(price["price"].as_f64().is_some_and(|price| price > 0.0) && price["symbol"].is_string(), "{price}");
    }

    #[test]
    fn vehicles_stay_on_the_streets() {
        let (mut feeds, watched) = (Feeds::new(1), watching(&["demo-map:city"]));
        for _ in 0..200 {
            second(&mut feeds, &watched);
            for vehicle in &feeds.vehicles {
                let [x, y] = vehicle.at;
                assert!((0..=MAP_SIZE[0]).contains(&x) && (0..=MAP_SIZE[1]).contains(&y), "{vehicle:?}");
                assert!(x % BLOCK == 0 || y % BLOCK == 0, "{vehicle:?}");
            }
        }
        assert!(feeds.vehicles.iter().all(|vehicle| vehicle.moves == 200));
    }

    #[test]
    fn no_sample_of_a_heart_is_missing() {
        let (mut feeds, watched) = (Feeds::new(1), watching(&["demo-heart:4"]));
        let drafts: Vec<Value> = (0..40).flat_map(|_| second(&mut feeds, &watched)).map(|draft| json(&draft)).collect();
        let mut expected = 0;
        for message in drafts.iter().filter(|message| message["first"].is_u64()) {
            assert_eq!(message["first"], expected);
            expected += message["microvolts"].as_array().unwrap().len() as u64;
        }
        assert_eq!(expected, 40 * SAMPLES_PER_SECOND);
        assert!(drafts.iter().any(|message| message["rate"].as_u64() > Some(120)), "the alarm never sounds");
    }

    #[test]
    fn the_match_begins_again() {
        let (mut game, mut random) = (Game::default(), Random::new(1));
        let events: Vec<Value> = (0..91).map(|_| serde_json::from_str(&game.event(&mut random)).unwrap()).collect();
        assert_eq!((&events[0]["text"], &events[89]["text"]), (&"Kick-off.".into(), &"Full time.".into()));
        assert_eq!(events[90]["minute"], 1);
        assert!(events.iter().any(|event| event["kind"] == "goal"));
    }

    #[test]
    fn the_same_seed_publishes_the_same() {
        let watched = watching(&["demo-map:city", "demo-heart:1", "demo-chat:lobby"]);
        let run = || (0..3).flat_map(|_| second(&mut Feeds::new(7), &watched)).map(|draft| draft.payload).collect();
        let (one, other): (Vec<Bytes>, Vec<Bytes>) = (run(), run());
        assert_eq!(one, other);
    }
}
