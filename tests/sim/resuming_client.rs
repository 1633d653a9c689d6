//! A client that comes back: what it says of where it was, and what it hears, in each of the ways that there are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{EncodingKey, Header};
use ringfeed::proto::Message;
use ringfeed::ring::sim::Rng;
use ringfeed::topics::{Epoch, Position, SlowConsumer};
use serde_json::{Value, json};

use crate::model::{Model, kind_of_id, parse};
use crate::namespaces::{topic_name, topic_number};
use crate::stream_checker::{Asked, StreamChecker};

/// What tokens are signed with.
pub(crate) const SECRET: &str = "sim";

/// How a client that comes back listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A raw feed of one topic, where it counts what comes.
    Raw,
    /// A raw feed with envelopes.
    Envelope,
    /// An event stream.
    Events,
    /// Centrifugo's protocol in JSON. The client subscribes, or its token subscribes it.
    Centrifuge { by_token: bool },
}

/// What a request is made of.
pub(crate) struct Asking {
    /// Path and query; the query is not empty.
    pub(crate) target: String,
    pub(crate) subprotocols: &'static [&'static str],
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// What a message led to.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// When what came was published, if it was news to everybody.
    pub(crate) published_us: Option<u64>,
    /// What it says to it.
    pub(crate) answers: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct ResumingClient {
    pub(crate) transport: Transport,
    /// In the order of the request.
    pub(crate) tracks: Vec<StreamChecker>,
    /// The last id of an event.
    last_id: Option<String>,
    /// What came of a block of an event stream.
    block: Vec<u8>,
}

impl ResumingClient {
    pub(crate) fn new(transport: Transport, topics: &[usize], model: &Model) -> ResumingClient {
        let is_kept = |topic: &usize| model.namespace(*topic).history_size > 0;
        let is_lossless = |topic: &usize| model.namespace(*topic).slow_consumer == SlowConsumer::Close;
        let transport = match transport {
            // Only where none may be missing can they be counted.
            Transport::Raw if !is_lossless(&topics[0]) => Transport::Envelope,
            // Without a history this protocol has no positions.
            Transport::Centrifuge { .. } if !topics.iter().all(is_kept) => Transport::Envelope,
            other => other,
        };
        let topics = if transport == Transport::Raw { &topics[..1] } else { topics };
        // What waits for an event stream of several topics is never dropped.
        let is_mixed = transport == Transport::Events && topics.len() > 1;
        let is_told = !is_mixed && transport != Transport::Raw;
        let track = |topic| StreamChecker::new(topic, is_mixed || is_lossless(&topic), is_told, topics.len() == 1);
        let tracks = topics.iter().copied().map(track).collect();
        ResumingClient { transport, tracks, last_id: None, block: Vec::new() }
    }

    pub(crate) fn is_stream(&self) -> bool {
        self.transport == Transport::Events
    }

    /// The code with which a server that stops closes it.
    pub(crate) fn drain_code(&self) -> u16 {
        if matches!(self.transport, Transport::Centrifuge { .. }) { 3001 } else { 1001 }
    }

    /// The code with which it is closed when it does not answer pings.
    pub(crate) fn lost_code(&self) -> u16 {
        if matches!(self.transport, Transport::Centrifuge { .. }) { 3012 } else { 1008 }
    }

    /// It connects, as `client`: says where it was.
    pub(crate) fn ask(&mut self, client: usize, model: &mut Model, rng: &mut Rng) -> Asking {
        self.block.clear();
        match self.transport {
            Transport::Raw => self.recall(model, rng),
            Transport::Envelope | Transport::Events | Transport::Centrifuge { .. } => {}
        }
        self.choose(rng);
        let names: Vec<String> = self.tracks.iter().map(|track| topic_name(track.topic)).collect();
        let (names, places) = (names.join(","), self.places());
        let mut asking = Asking { target: String::new(), subprotocols: &[], headers: Vec::new() };
        let (path, parameter) = match self.transport {
            Transport::Raw | Transport::Envelope => {
                if self.transport == Transport::Envelope {
                    asking.subprotocols = &["other", "ringfeed.envelope"];
                }
                let history =
                    self.tracks.iter().find_map(StreamChecker::asks_for_last).map(|count| format!("&history={count}"));
                (format!("/feed/{names}"), places.map(|places| format!("&since={places}")).or(history))
            }
            Transport::Events => {
                let (header, parameter) = match places {
                    Some(places) if rng.chance(700) => (Some(("Last-Event-ID", places)), None),
                    places => (None, places.map(|places| format!("&last_event_id={places}"))),
                };
                asking.headers.extend(header);
                (format!("/sse/{names}"), parameter)
            }
            Transport::Centrifuge { .. } => ("/connection/websocket".to_owned(), None),
        };
        asking.target = format!("{path}?client={client}{}", parameter.unwrap_or_default());
        asking
    }

    /// Somebody has told it of a place.
    fn recall(&mut self, model: &mut Model, rng: &mut Rng) {
        let track = &mut self.tracks[0];
        if track.place.is_none() {
            let top = model.order(track.topic).top();
            track.place = top.map(|top| Position { offset: top.offset - rng.below(top.offset.min(5) + 1), ..top });
        }
    }

    /// Decides what to ask for: mostly all since it was there.
    fn choose(&mut self, rng: &mut Rng) {
        let is_known = self.tracks.iter().all(|track| track.place.is_some());
        let last = match self.transport {
            Transport::Envelope if rng.chance(300) => Asked::Last(rng.choose(&[0, 1, 5, 400])),
            _ => Asked::Nothing,
        };
        // A browser says where it was as soon as it has seen any id.
        let said = self.last_id.as_ref().map(|id| id.split(',').map(read_place).collect::<Vec<_>>());
        for (index, track) in self.tracks.iter_mut().enumerate() {
            let place = match (self.transport, &said) {
                (Transport::Events, said) => said.as_ref().map(|said| said[index]),
                (Transport::Centrifuge { .. }, _) => track.place,
                (Transport::Raw | Transport::Envelope, _) => track.place.filter(|_| is_known),
            };
            track.ask(place.map_or(last, |place| Asked::Since(misremember(place, rng))));
        }
    }

    /// Where it was in all topics, if it is to say so.
    fn places(&self) -> Option<String> {
        let text = |track: &StreamChecker| track.asks_since().map(|place| format!("{}:{}", place.epoch, place.offset));
        let places: Option<Vec<String>> = self.tracks.iter().map(text).collect();
        places.map(|places| places.join(","))
    }

    /// What it says once it was let in.
    pub(crate) fn greeting(&self, rng: &mut Rng) -> Vec<String> {
        let Transport::Centrifuge { by_token } = self.transport else { return Vec::new() };
        let subscribe = |track: &StreamChecker| match track.asks_since() {
            Some(place) => json!({"recover": true, "epoch": place.epoch.to_string(), "offset": place.offset}),
            None => json!({}),
        };
        if by_token {
            let names: Vec<String> = self.tracks.iter().map(|track| topic_name(track.topic)).collect();
            let key = EncodingKey::from_secret(SECRET.as_bytes());
            let claims = json!({"sub": "somebody", "channels": names});
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token");
            let subs: serde_json::Map<String, Value> =
                self.tracks.iter().map(|track| (topic_name(track.topic), subscribe(track))).collect();
            return vec![json!({"id": 1, "connect": {"token": token, "subs": subs}}).to_string()];
        }
        let mut commands = vec![json!({"id": 1, "connect": {}}).to_string()];
        for (index, track) in self.tracks.iter().enumerate() {
            let mut request = subscribe(track);
            request["channel"] = topic_name(track.topic).into();
            commands.push(json!({"id": index + 2, "subscribe": request}).to_string());
        }
        if rng.chance(500) { vec![commands.join("\n")] } else { commands }
    }

    /// A message came.
    pub(crate) fn on_message(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Heard {
        match self.transport {
            Transport::Raw => self.on_raw(model, message, now_us),
            Transport::Envelope => self.on_envelope(model, message, now_us),
            Transport::Centrifuge { .. } => self.on_replies(model, message, now_us),
            Transport::Events => unreachable!("streams have no messages"),
        }
    }

    fn on_raw(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Heard {
        let id = parse(message.payload);
        assert_eq!(message.kind, kind_of_id(id), "a message changed its kind");
        let track = &mut self.tracks[0];
        assert_eq!(id.topic, track.topic, "a message of a topic that was not subscribed to: {id:?}");
        if let (None, Some(place)) = (track.place, model.order(track.topic).position(id)) {
            track.begin(Position { offset: place.offset - 1, ..place });
        }
        let Some(last) = track.place else { return Heard::default() };
        let place = Position { offset: last.offset + 1, ..last };
        let published_us = track.on_publication(model, place, id, message.payload.len(), now_us);
        Heard { published_us, ..Heard::default() }
    }

    /// The server has closed a raw feed for what it has lost. It says where the topic is.
    pub(crate) fn on_lost(&mut self, model: &mut Model, reason: &str, now_us: u64) {
        let place = reason.rsplit(' ').next().expect("a place");
        self.tracks[0].on_subscribed(model, read_place(place), Some(false), now_us);
    }

    fn on_envelope(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Heard {
        let end = message.payload.iter().position(|byte| *byte == b'\n').expect("a line");
        let head: Value = serde_json::from_slice(&message.payload[..end]).expect("a line of JSON");
        let payload = &message.payload[end + 1..];
        let place = place_of(&head);
        let track = self.find(head["topic"].as_str().expect("a topic"));
        if head["subscribed"].as_bool().is_some() {
            track.on_subscribed(model, place, head["recovered"].as_bool(), now_us);
            return Heard::default();
        }
        let id = parse(payload);
        assert_eq!(id.topic, track.topic, "a message of another topic: {head}");
        assert_eq!(message.kind, kind_of_id(id), "a message changed its kind");
        assert_eq!(head["key"].as_str(), model.key(id).as_deref(), "a message changed its key");
        let published_us = track.on_publication(model, place, id, payload.len(), now_us);
        Heard { published_us, ..Heard::default() }
    }

    /// Bytes of an event stream came. Returns when the last whole publication was published, if it was news.
    pub(crate) fn on_bytes(&mut self, model: &mut Model, bytes: &[u8], now_us: u64) -> Option<u64> {
        let mut published_us = None;
        for byte in bytes {
            self.block.push(*byte);
            if self.block.ends_with(b"\n\n") {
                let block = String::from_utf8(std::mem::take(&mut self.block)).expect("a stream of text");
                published_us = self.on_block(model, &block, now_us).or(published_us);
            }
        }
        published_us
    }

    fn on_block(&mut self, model: &mut Model, block: &str, now_us: u64) -> Option<u64> {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let Some(id) = field("id") else {
            assert!(block.starts_with("retry: ") || block.starts_with(':'), "no id: {block}");
            return None;
        };
        let places: Vec<Position> = id.split(',').map(read_place).collect();
        assert_eq!(places.len(), self.tracks.len(), "one place for each topic: {block}");
        let mut published_us = None;
        match (field("event"), field("data")) {
            (None, None) => self.on_answered(model, &places),
            (Some("lost"), Some(data)) => {
                let data: Value = serde_json::from_str(data).expect("JSON");
                let track = self.find(data["topic"].as_str().expect("a topic"));
                track.on_lost(model, place_of(&data), now_us);
            }
            (event, Some(data)) => {
                let payload = match event {
                    None => data.as_bytes().to_vec(),
                    Some("base64") => STANDARD.decode(data).expect("Base64"),
                    Some(other) => panic!("an unknown event: {other}"),
                };
                let id = parse(&payload);
                let index = self.tracks.iter().position(|track| track.topic == id.topic);
                let index = index.unwrap_or_else(|| panic!("a topic that was not subscribed to: {block}"));
                let track = &mut self.tracks[index];
                published_us = track.on_publication(model, places[index], id, payload.len(), now_us);
            }
            (Some(event), None) => panic!("an event without data: {event}"),
        }
        for (track, place) in self.tracks.iter().zip(&places).filter(|(_, place)| place.epoch != Epoch::NEVER) {
            assert_eq!(track.place, Some(*place), "the id of an event is not where the stream is: {block}");
        }
        self.last_id = Some(id.to_owned());
        published_us
    }

    /// A topic's home has answered, and nothing was lost. Of which topic is not told; a stream of one has one.
    fn on_answered(&mut self, model: &mut Model, places: &[Position]) {
        let is_one = places.len() == 1;
        for (track, place) in self.tracks.iter_mut().zip(places).filter(|(_, place)| place.epoch != Epoch::NEVER) {
            match track.place {
                None => track.begin(*place),
                Some(_) if is_one => track.on_caught_up(model, *place),
                Some(_) => {}
            }
        }
    }

    fn on_replies(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Heard {
        let text = message.as_str().expect("JSON is text");
        let mut heard = Heard::default();
        for line in text.lines() {
            let reply: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            if reply.as_object().is_some_and(serde_json::Map::is_empty) {
                heard.answers.push("{}".to_owned());
                continue;
            }
            // Unless the server stops: then a home may have left. Whoever is to get everything would miss it.
            let is_accepted = reply["error"].is_null() || reply["error"]["code"] == 100;
            assert!(is_accepted, "a command was refused: {line}");
            for (channel, result) in reply["connect"]["subs"].as_object().into_iter().flatten() {
                self.on_result(model, topic_number(channel), result, now_us);
            }
            if let Some(id) = reply["id"].as_u64().filter(|_| reply["subscribe"].is_object()) {
                let topic = self.tracks[id as usize - 2].topic;
                self.on_result(model, topic, &reply["subscribe"], now_us);
            }
            let push = &reply["push"];
            if push["pub"].is_object() {
                let channel = push["channel"].as_str().expect("a channel");
                heard.published_us = self.on_push(model, topic_number(channel), &push["pub"], now_us);
            }
        }
        heard
    }

    fn on_result(&mut self, model: &mut Model, topic: usize, result: &Value, now_us: u64) {
        let track = self.find(&topic_name(topic));
        let recovered = result["was_recovering"].as_bool().map(|_| result["recovered"].as_bool().unwrap_or(false));
        let publications = result["publications"].as_array().map_or(&[][..], Vec::as_slice);
        let mut top = Position { offset: result["offset"].as_u64().unwrap_or(0), ..place_of(result) };
        if let Some(last) = publications.last() {
            top.offset = last["offset"].as_u64().expect("an offset");
        }
        track.on_subscribed(model, top, recovered, now_us);
        for publication in publications {
            self.on_push(model, topic, publication, now_us);
        }
    }

    fn on_push(&mut self, model: &mut Model, topic: usize, publication: &Value, now_us: u64) -> Option<u64> {
        let track = self.find(&topic_name(topic));
        let payload = publication["data"].as_str().expect("what is not JSON is a string").as_bytes();
        let id = parse(payload);
        assert_eq!(id.topic, topic, "a message of another topic: {publication}");
        assert_eq!(publication["key"].as_str(), model.key(id).as_deref(), "a message changed its key");
        let offset = publication["offset"].as_u64().expect("an offset");
        let last = track.place.unwrap_or_else(|| panic!("a publication before any answer: {publication}"));
        track.on_publication(model, Position { offset, ..last }, id, payload.len(), now_us)
    }

    fn find(&mut self, name: &str) -> &mut StreamChecker {
        let track = self.tracks.iter_mut().find(|track| topic_name(track.topic) == name);
        track.unwrap_or_else(|| panic!("a topic that was not subscribed to: {name}"))
    }

    /// What it has not got, though it must have by now.
    pub(crate) fn missing(&self, model: &mut Model) -> Option<String> {
        self.tracks.iter().find_map(|track| track.missing(model).map(|what| format!("topic {}: {what}", track.topic)))
    }
}

/// A place that is not quite where it was, now and then.
fn misremember(place: Position, rng: &mut Rng) -> Position {
    match rng.below(40) {
        // It saw more than it has kept.
        0..4 => Position { offset: place.offset.saturating_sub(rng.below(6)), ..place },
        4 => Position { offset: place.offset + 1000, ..place },
        5 => Position { epoch: Epoch::new(rng.next_u64()), ..place },
        _ => place,
    }
}

/// Reads `<epoch>:<offset>`.
fn read_place(text: &str) -> Position {
    let (epoch, offset) = text.split_once(':').unwrap_or_else(|| panic!("not a place: {text}"));
    Position { epoch: Epoch::from_text(epoch), offset: offset.parse().expect("an offset") }
}

/// The place that an object tells.
fn place_of(object: &Value) -> Position {
    let epoch = Epoch::from_text(object["epoch"].as_str().expect("an epoch"));
    Position { epoch, offset: object["offset"].as_u64().unwrap_or(0) }
}
