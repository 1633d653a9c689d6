//! A reconnecting client: the position it sends and the messages it receives, for each transport.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringfeed::proto::Message;
use ringfeed::ring::sim::Rng;
use ringfeed::topics::{Epoch, Position, SlowConsumer};
use serde_json::{Value, json};

use crate::handler_log::CLIENT;
use crate::keyed::{Replica, Values};
use crate::model::{Model, kind_of_id, parse};
use crate::namespaces::{topic_name, topic_number};
use crate::stream_checker::{Requested, StreamChecker};
use crate::token::hs256;

/// The key that signs tokens.
pub(crate) const SECRET: &str = "sim";

/// How a resuming client receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A raw feed of one topic; the client counts the messages.
    Raw,
    /// A raw feed with envelopes.
    Envelope,
    /// An event stream.
    Events,
    /// Centrifugo's protocol in JSON. The client subscribes, or its token subscribes it.
    Centrifuge { by_token: bool },
    /// The state of keyed topics, by a feed with envelopes or an event stream.
    Keyed { by_events: bool },
}

/// A request with a position.
pub(crate) struct ResumeRequest {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) subprotocols: &'static [&'static str],
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// The result of a received message.
#[derive(Debug, Default)]
pub(crate) struct Reaction {
    /// The publish time of the message, if no client knew its position before.
    pub(crate) published_us: Option<u64>,
    /// The replies to send.
    pub(crate) answers: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct ResumingClient {
    pub(crate) transport: Transport,
    /// One checker for each topic, in the order of the request.
    pub(crate) checkers: Vec<StreamChecker>,
    /// Copies of keyed topics, in the order of the request.
    replicas: Vec<Replica>,
    /// All topics keep a history; without one the server rejects a request for it.
    is_kept: bool,
    /// The id of the last event.
    last_id: Option<String>,
    /// The received part of a block of an event stream.
    block: Vec<u8>,
}

impl ResumingClient {
    pub(crate) fn new(transport: Transport, topics: &[usize], model: &Model) -> ResumingClient {
        if let Transport::Keyed { by_events } = transport {
            let namespace = model.namespace(topics[0]);
            let receives_all = by_events && topics.len() > 1;
            let replicas = topics.iter().map(|topic| Replica::new(*topic, receives_all, namespace)).collect();
            let (checkers, last_id, block) = (Vec::new(), None, Vec::new());
            return ResumingClient { transport, checkers, replicas, is_kept: false, last_id, block };
        }
        let is_kept = |topic: &usize| model.namespace(*topic).history_size > 0;
        let is_lossless = |topic: &usize| model.namespace(*topic).slow_consumer == SlowConsumer::Close;
        let transport = match transport {
            // Counting works only where no message may be missing.
            Transport::Raw if !is_lossless(&topics[0]) => Transport::Envelope,
            // Centrifugo's protocol has positions only with a history.
            Transport::Centrifuge { .. } if !topics.iter().all(is_kept) => Transport::Envelope,
            other => other,
        };
        let topics = if transport == Transport::Raw { &topics[..1] } else { topics };
        // The server closes an event stream of several topics rather than dropping from its backlog.
        let is_mixed = transport == Transport::Events && topics.len() > 1;
        let is_confirmed = !is_mixed && transport != Transport::Raw;
        let checker =
            |topic| StreamChecker::new(topic, is_mixed || is_lossless(&topic), is_confirmed, topics.len() == 1);
        let checkers = topics.iter().copied().map(checker).collect();
        let is_kept = topics.iter().all(is_kept);
        ResumingClient { transport, checkers, replicas: Vec::new(), is_kept, last_id: None, block: Vec::new() }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.transport, Transport::Events | Transport::Keyed { by_events: true })
    }

    /// The code with which a stopping server closes it.
    pub(crate) fn drain_code(&self) -> u16 {
        if matches!(self.transport, Transport::Centrifuge { .. }) { 3001 } else { 1001 }
    }

    /// The close code of a ping timeout.
    pub(crate) fn lost_code(&self) -> u16 {
        if matches!(self.transport, Transport::Centrifuge { .. }) { 3012 } else { 1008 }
    }

    /// The request with which it connects as `client`.
    pub(crate) fn ask(&mut self, client: usize, model: &mut Model, rng: &mut Rng) -> ResumeRequest {
        self.block.clear();
        match self.transport {
            Transport::Raw => self.learn_position(model, rng),
            Transport::Keyed { by_events } => return self.ask_state(client, by_events, rng),
            Transport::Envelope | Transport::Events | Transport::Centrifuge { .. } => {}
        }
        self.choose(rng);
        let names: Vec<String> = self.checkers.iter().map(|checker| topic_name(checker.topic)).collect();
        let (names, places) = (names.join(","), self.places());
        let mut asking = ResumeRequest { target: String::new(), subprotocols: &[], headers: Vec::new() };
        let (path, parameter) = match self.transport {
            Transport::Raw | Transport::Envelope => {
                if self.transport == Transport::Envelope {
                    asking.subprotocols = &["other", "ringfeed.envelope"];
                }
                let history = self
                    .checkers
                    .iter()
                    .find_map(StreamChecker::asks_for_last)
                    .map(|count| format!("?history={count}"));
                (format!("/feed/{names}"), places.map(|places| format!("?since={places}")).or(history))
            }
            Transport::Events => {
                let (header, parameter) = match places {
                    Some(places) if rng.chance(700) => (Some(("Last-Event-ID", places)), None),
                    places => (None, places.map(|places| format!("?last_event_id={places}"))),
                };
                asking.headers.extend(header);
                (format!("/sse/{names}"), parameter)
            }
            Transport::Centrifuge { .. } => ("/connection/websocket".to_owned(), None),
            Transport::Keyed { .. } => unreachable!("it asks for a state"),
        };
        asking.headers.push((CLIENT, client.to_string()));
        asking.target = path + &parameter.unwrap_or_default();
        asking
    }

    /// The request of a client that keeps the state of keyed topics.
    fn ask_state(&mut self, client: usize, by_events: bool, rng: &mut Rng) -> ResumeRequest {
        // Without all positions it begins anew, and so it does now and then.
        let has_positions = self.replicas.iter().all(Replica::has_position) && rng.chance(900);
        let places: Vec<Option<Position>> =
            self.replicas.iter_mut().map(|replica| replica.ask(has_positions, rng)).collect();
        let places: Option<Vec<String>> =
            places.into_iter().map(|place| place.map(|place| format!("{}:{}", place.epoch, place.offset))).collect();
        let names: Vec<String> = self.replicas.iter().map(|replica| topic_name(replica.topic())).collect();
        let (path, name) = if by_events { ("sse", "last_event_id") } else { ("feed", "since") };
        let query = places.map_or(String::new(), |places| format!("?{name}={}", places.join(",")));
        ResumeRequest {
            target: format!("/{path}/{}{query}", names.join(",")),
            subprotocols: if by_events { &[] } else { &["ringfeed.envelope"] },
            headers: vec![(CLIENT, client.to_string())],
        }
    }

    /// A client without a position learns one, at or a little behind the top of the topic.
    fn learn_position(&mut self, model: &mut Model, rng: &mut Rng) {
        let checker = &mut self.checkers[0];
        if checker.place.is_none() {
            let top = model.order(checker.topic).top();
            checker.place = top.map(|top| Position { offset: top.offset - rng.below(top.offset.min(5) + 1), ..top });
        }
    }

    /// Chooses the position to send: mostly its own.
    fn choose(&mut self, rng: &mut Rng) {
        let is_known = self.checkers.iter().all(|checker| checker.place.is_some());
        let last = match self.transport {
            Transport::Envelope if rng.chance(300) && self.is_kept => Requested::Last(rng.choose(&[0, 1, 5, 400])),
            _ => Requested::Nothing,
        };
        // A browser sends its position as soon as it has seen any id.
        let said = self.last_id.as_ref().map(|id| id.split(',').map(parse_position).collect::<Vec<_>>());
        for (index, checker) in self.checkers.iter_mut().enumerate() {
            let place = match (self.transport, &said) {
                (Transport::Events, said) => said.as_ref().map(|said| said[index]),
                (Transport::Centrifuge { .. }, _) => checker.place,
                (Transport::Raw | Transport::Envelope | Transport::Keyed { .. }, _) => {
                    checker.place.filter(|_| is_known)
                }
            };
            checker.ask(place.map_or(last, |place| Requested::Since(misremember(place, rng))));
        }
    }

    /// Its positions in all topics, if it sends any.
    fn places(&self) -> Option<String> {
        let text =
            |checker: &StreamChecker| checker.asks_since().map(|place| format!("{}:{}", place.epoch, place.offset));
        let places: Option<Vec<String>> = self.checkers.iter().map(text).collect();
        places.map(|places| places.join(","))
    }

    /// The first messages after the handshake.
    pub(crate) fn greeting(&self, rng: &mut Rng) -> Vec<String> {
        let Transport::Centrifuge { by_token } = self.transport else { return Vec::new() };
        let subscribe = |checker: &StreamChecker| match checker.asks_since() {
            Some(place) => json!({"recover": true, "epoch": place.epoch.to_string(), "offset": place.offset}),
            None => json!({}),
        };
        if by_token {
            let names: Vec<String> = self.checkers.iter().map(|checker| topic_name(checker.topic)).collect();
            let claims = json!({"sub": "somebody", "channels": names});
            let token = hs256(&claims, SECRET);
            let subs: serde_json::Map<String, Value> =
                self.checkers.iter().map(|checker| (topic_name(checker.topic), subscribe(checker))).collect();
            return vec![json!({"id": 1, "connect": {"token": token, "subs": subs}}).to_string()];
        }
        let mut commands = vec![json!({"id": 1, "connect": {}}).to_string()];
        for (index, checker) in self.checkers.iter().enumerate() {
            let mut request = subscribe(checker);
            request["channel"] = topic_name(checker.topic).into();
            commands.push(json!({"id": index + 2, "subscribe": request}).to_string());
        }
        if rng.chance(500) { vec![commands.join("\n")] } else { commands }
    }

    /// Receives a message.
    pub(crate) fn on_message(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Reaction {
        match self.transport {
            Transport::Raw => self.on_raw(model, message, now_us),
            Transport::Envelope => self.on_envelope(model, message, now_us),
            Transport::Keyed { .. } => self.on_state(model, message),
            Transport::Centrifuge { .. } => self.on_replies(model, message, now_us),
            Transport::Events => unreachable!("streams have no messages"),
        }
    }

    fn on_raw(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Reaction {
        let id = parse(message.payload);
        assert_eq!(message.kind, kind_of_id(id), "a message changed its kind");
        let checker = &mut self.checkers[0];
        assert_eq!(id.topic, checker.topic, "a message of a topic that was not subscribed to: {id:?}");
        if let (None, Some(place)) = (checker.place, model.order(checker.topic).position(id)) {
            checker.begin(Position { offset: place.offset - 1, ..place });
        }
        let Some(last) = checker.place else { return Reaction::default() };
        let place = Position { offset: last.offset + 1, ..last };
        let published_us = checker.on_publication(model, place, id, message.payload.len(), now_us);
        Reaction { published_us, ..Reaction::default() }
    }

    /// The server closed a raw feed because messages are lost, with the topic's position as the reason.
    pub(crate) fn on_lost(&mut self, model: &mut Model, reason: &str, now_us: u64) {
        let place = reason.rsplit(' ').next().expect("a place");
        self.checkers[0].on_subscribed(model, parse_position(place), Some(false), now_us);
    }

    fn on_envelope(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Reaction {
        let end = message.payload.iter().position(|byte| *byte == b'\n').expect("a line");
        let head: Value = serde_json::from_slice(&message.payload[..end]).expect("a line of JSON");
        let payload = &message.payload[end + 1..];
        let place = position_of(&head);
        let checker = self.find(head["topic"].as_str().expect("a topic"));
        if head["subscribed"].as_bool().is_some() {
            checker.on_subscribed(model, place, head["recovered"].as_bool(), now_us);
            return Reaction::default();
        }
        let id = parse(payload);
        assert_eq!(id.topic, checker.topic, "a message of another topic: {head}");
        assert_eq!(message.kind, kind_of_id(id), "a message changed its kind");
        assert_eq!(head["key"].as_str(), model.key(id).as_deref(), "a message changed its key");
        let published_us = checker.on_publication(model, place, id, payload.len(), now_us);
        Reaction { published_us, ..Reaction::default() }
    }

    fn on_state(&mut self, model: &mut Model, message: Message<'_>) -> Reaction {
        let text = message.as_str().expect("values are text");
        let (line, payload) = text.split_once('\n').expect("a line");
        let head: Value = serde_json::from_str(line).expect("a line of JSON");
        let keyed = model.keyed.as_mut().expect("there are keyed topics");
        self.replica(&head).on_envelope(keyed, &head, position_of(&head), payload);
        Reaction::default()
    }

    /// A block of an event stream of keyed topics.
    fn on_state_block(&mut self, model: &mut Model, block: &str, places: &[Position]) {
        let field =
            |name: &'static str| block.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "));
        assert_eq!(places.len(), self.replicas.len(), "the number of positions differs from that of topics: {block}");
        let event = field("event").next().unwrap_or_else(|| panic!("a block without an event: {block}"));
        let mut data = field("data");
        let head: Value = serde_json::from_str(data.next().expect("a line of JSON")).expect("a line of JSON");
        let keyed = model.keyed.as_mut().expect("there are keyed topics");
        let name = head["topic"].as_str().expect("a topic");
        let index = self.replicas.iter().position(|replica| topic_name(replica.topic()) == name).expect("its topic");
        self.replicas[index].on_event(keyed, event, &head, places[index], data.next().unwrap_or_default());
    }

    fn replica(&mut self, head: &Value) -> &mut Replica {
        let name = head["topic"].as_str().expect("a topic");
        self.replicas.iter_mut().find(|replica| topic_name(replica.topic()) == name).expect("its topic")
    }

    /// Receives bytes of an event stream. Returns the publish time of the last publication, if its position was new.
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
        let places: Vec<Position> = id.split(',').map(parse_position).collect();
        if !self.replicas.is_empty() {
            self.on_state_block(model, block, &places);
            return None;
        }
        assert_eq!(places.len(), self.checkers.len(), "the number of positions differs from that of topics: {block}");
        let mut published_us = None;
        match (field("event"), field("data")) {
            (None, None) => self.on_answered(model, &places),
            (Some("lost"), Some(data)) => {
                let data: Value = serde_json::from_str(data).expect("JSON");
                let checker = self.find(data["topic"].as_str().expect("a topic"));
                checker.on_lost(model, position_of(&data), now_us);
            }
            (event, Some(data)) => {
                let payload = match event {
                    None => data.as_bytes().to_vec(),
                    Some("base64") => STANDARD.decode(data).expect("Base64"),
                    Some(other) => panic!("unknown event: {other}"),
                };
                let id = parse(&payload);
                let index = self.checkers.iter().position(|checker| checker.topic == id.topic);
                let index = index.unwrap_or_else(|| panic!("a topic without a subscription: {block}"));
                let checker = &mut self.checkers[index];
                published_us = checker.on_publication(model, places[index], id, payload.len(), now_us);
            }
            (Some(event), None) => panic!("an event without data: {event}"),
        }
        for (checker, place) in self.checkers.iter().zip(&places).filter(|(_, place)| place.epoch != Epoch::NEVER) {
            assert_eq!(checker.place, Some(*place), "the id of an event is not the stream's position: {block}");
        }
        self.last_id = Some(id.to_owned());
        published_us
    }

    /// A topic's home shard has answered without a loss. The event does not name the topic; a stream of one topic has
    /// one.
    fn on_answered(&mut self, model: &mut Model, places: &[Position]) {
        let is_one = places.len() == 1;
        for (checker, place) in self.checkers.iter_mut().zip(places).filter(|(_, place)| place.epoch != Epoch::NEVER) {
            match checker.place {
                None => checker.begin(*place),
                Some(_) if is_one => checker.on_caught_up(model, *place),
                Some(_) => {}
            }
        }
    }

    fn on_replies(&mut self, model: &mut Model, message: Message<'_>, now_us: u64) -> Reaction {
        let text = message.as_str().expect("JSON is text");
        let mut heard = Reaction::default();
        for line in text.lines() {
            let reply: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            if reply.as_object().is_some_and(serde_json::Map::is_empty) {
                heard.answers.push("{}".to_owned());
                continue;
            }
            // A stopping server may have no home shard for the topic. A client that misses messages fails later.
            let is_accepted = reply["error"].is_null() || reply["error"]["code"] == 100;
            assert!(is_accepted, "the server rejected a command: {line}");
            for (channel, result) in reply["connect"]["subs"].as_object().into_iter().flatten() {
                self.on_result(model, topic_number(channel), result, now_us);
            }
            if let Some(id) = reply["id"].as_u64().filter(|_| reply["subscribe"].is_object()) {
                let topic = self.checkers[id as usize - 2].topic;
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
        let checker = self.find(&topic_name(topic));
        let recovered = result["was_recovering"].as_bool().map(|_| result["recovered"].as_bool().unwrap_or(false));
        let publications = result["publications"].as_array().map_or(&[][..], Vec::as_slice);
        let mut top = Position { offset: result["offset"].as_u64().unwrap_or(0), ..position_of(result) };
        if let Some(last) = publications.last() {
            top.offset = last["offset"].as_u64().expect("an offset");
        }
        checker.on_subscribed(model, top, recovered, now_us);
        for publication in publications {
            self.on_push(model, topic, publication, now_us);
        }
    }

    fn on_push(&mut self, model: &mut Model, topic: usize, publication: &Value, now_us: u64) -> Option<u64> {
        let checker = self.find(&topic_name(topic));
        let payload = publication["data"].as_str().expect("text is a JSON string").as_bytes();
        let id = parse(payload);
        assert_eq!(id.topic, topic, "a message of another topic: {publication}");
        assert_eq!(publication["key"].as_str(), model.key(id).as_deref(), "a message changed its key");
        let offset = publication["offset"].as_u64().expect("an offset");
        let last = checker.place.unwrap_or_else(|| panic!("a publication before any answer: {publication}"));
        checker.on_publication(model, Position { offset, ..last }, id, payload.len(), now_us)
    }

    fn find(&mut self, name: &str) -> &mut StreamChecker {
        let checker = self.checkers.iter_mut().find(|checker| topic_name(checker.topic) == name);
        checker.unwrap_or_else(|| panic!("a topic without a subscription: {name}"))
    }

    /// The messages that it must have received by now, but has not.
    pub(crate) fn missing(&self, model: &mut Model, homes: &BTreeMap<String, Values>) -> Option<String> {
        if let Some(what) = self.replicas.iter().find_map(|replica| replica.missing(homes)) {
            return Some(what);
        }
        self.checkers
            .iter()
            .find_map(|checker| checker.missing(model).map(|what| format!("topic {}: {what}", checker.topic)))
    }
}

/// Its position, or now and then a wrong one.
fn misremember(place: Position, rng: &mut Rng) -> Position {
    match rng.below(40) {
        // The client received more than it has stored.
        0..4 => Position { offset: place.offset.saturating_sub(rng.below(6)), ..place },
        4 => Position { offset: place.offset + 1000, ..place },
        5 => Position { epoch: Epoch::new(rng.next_u64()), ..place },
        _ => place,
    }
}

/// Parses `<epoch>:<offset>`.
fn parse_position(text: &str) -> Position {
    let (epoch, offset) = text.split_once(':').unwrap_or_else(|| panic!("malformed position: {text}"));
    Position { epoch: Epoch::from_text(epoch), offset: offset.parse().expect("an offset") }
}

/// The position in a JSON object.
fn position_of(object: &Value) -> Position {
    let epoch = Epoch::from_text(object["epoch"].as_str().expect("an epoch"));
    Position { epoch, offset: object["offset"].as_u64().unwrap_or(0) }
}
