//! Subscribers with deltas, of Centrifugo's protocol: what each makes of what it receives is what was published, with
//! each policy for slow subscribers, with recoveries, and on both shards.

use bytes::Bytes;
use serde_json::Value;

use super::*;
use crate::conn::KeepAliveConfig;
use crate::gateway::centrifuge::{Centrifuge, CentrifugeConfig};
use crate::proto::{FrameHeader, Opcode, fossil};
use crate::ring::sim::{Faults, Happening, PeerId, PeerRead, Rng};
use crate::topics::{Draft, Namespace, Namespaces, SlowConsumer};

const SHARDS: usize = 2;
const PEERS: usize = 5;

/// A client with one subscription.
struct Client {
    peer: PeerId,
    shard: usize,
    wants_deltas: bool,
    /// Received bytes that are no whole frame.
    unread: Vec<u8>,
    has_upgraded: bool,
    /// The position of the newest publication.
    epoch: String,
    offset: u64,
    /// Its payload, unless it was received by an earlier subscription.
    base: Option<String>,
    is_over: bool,
}

struct World<'m> {
    kernel: SimKernel,
    publisher: Publisher,
    shards: Vec<SimShard<'m>>,
    rng: Rng,
    policy: SlowConsumer,
    published: Vec<String>,
    clients: Vec<Client>,
    commands: u32,
    deltas: u64,
    wholes: u64,
}

impl World<'_> {
    fn start(status: &Status, seed: u64, policy: SlowConsumer) -> World<'_> {
        let mut rng = Rng::new(seed);
        let faults = Faults { socket_bytes_max: 2048, segment_bytes_max: 512, send_short: 100, ..Faults::none() };
        let kernel = SimKernel::new(rng.fork(), faults);
        let namespace = Namespace {
            delta: true,
            history_size: 30,
            slow_consumer: policy,
            outbox_bytes_max: if policy == SlowConsumer::Close { 1 << 20 } else { 2000 },
            coalesce_ms: rng.choose(&[0, 3]),
            deflate: false,
            ..Namespace::default()
        };
        let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
        let keep_alive = KeepAliveConfig { ping_interval_ms: 1 << 30, ..KeepAliveConfig::default() };
        let config = ServerConfig { keep_alive, namespaces: namespaces.clone(), ..ServerConfig::default() };
        let handler_config = CentrifugeConfig { anonymous: true, namespaces, ..CentrifugeConfig::default() };
        let handler_config = Arc::new(handler_config);
        let (publisher, shards) = start(&kernel, &config, 100, MeshSizes::of(SHARDS), status, |_| {
            let mut routes = Routes::default();
            routes.add("/connection/websocket", Centrifuge::new(handler_config.clone())).unwrap();
            routes
        });
        let (published, clients) = (Vec::new(), Vec::new());
        World { kernel, publisher, shards, rng, policy, published, clients, commands: 0, deltas: 0, wholes: 0 }
    }

    fn turn(&mut self, shard: usize) {
        self.shards[shard].turn(self.kernel.now_us() / 1000);
        let timeout = self.shards[shard].fall_asleep();
        self.kernel.sleep(shard, timeout);
        self.shards[shard].check(&self.kernel);
    }

    fn run(&mut self, us: u64) {
        (0..SHARDS).for_each(|shard| self.turn(shard));
        let until_us = self.kernel.now_us() + us;
        while let Some(happening) = self.kernel.next(until_us) {
            if let Happening::Turn(shard) = happening {
                self.turn(shard);
            }
        }
    }

    fn connect(&mut self, shard: usize, wants_deltas: bool) -> Client {
        let peer = self.kernel.connect(shard);
        self.run(20_000);
        let request = b"GET /connection/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        assert_eq!(self.kernel.write(peer, request), request.len());
        self.run(20_000);
        self.say(peer, "{\"id\":1,\"connect\":{}}");
        self.run(20_000);
        Client {
            peer,
            shard,
            wants_deltas,
            unread: Vec::new(),
            has_upgraded: false,
            epoch: String::new(),
            offset: 0,
            base: None,
            is_over: false,
        }
    }

    fn say(&mut self, peer: PeerId, command: &str) {
        let len = u8::try_from(command.len()).expect("a short command");
        let header = if len < 126 { vec![0x81, 0x80 | len] } else { vec![0x81, 0xfe, 0, len] };
        let frame = [&header[..], &[0; 4], command.as_bytes()].concat();
        self.kernel.write(peer, &frame);
    }

    /// Subscribes, from the client's position on if it has one.
    fn subscribe(&mut self, index: usize) {
        self.commands += 1;
        let Client { peer, wants_deltas, ref epoch, offset, .. } = self.clients[index];
        let delta = if wants_deltas { r#","delta":"fossil""# } else { "" };
        let recover = match epoch.is_empty() {
            true => String::new(),
            false => format!(r#","recover":true,"epoch":"{epoch}","offset":{offset}"#),
        };
        let id = 100 + self.commands;
        self.say(peer, &format!(r#"{{"id":{id},"subscribe":{{"channel":"a"{delta}{recover}}}}}"#));
    }

    /// A document like the one before, most of the time.
    fn publish(&mut self) {
        let rng = &mut self.rng;
        let mut document = match self.published.last() {
            Some(last) if !rng.chance(50) => serde_json::from_str::<Vec<Value>>(last).expect("a list"),
            _ => (0..rng.len(20)).map(|n| Value::from(format!("value {n} ☃"))).collect(),
        };
        for _ in 0..rng.below(3) {
            let at = rng.below(document.len() as u64 + 1) as usize;
            match rng.below(4) {
                0 if document.len() > 2 => drop(document.remove(at.min(document.len() - 1))),
                _ => document.insert(at, Value::from(format!("ä {}", rng.below(1000)))),
            }
        }
        let text = serde_json::to_string(&document).expect("a JSON form");
        self.published.push(text.clone());
        let draft = Draft::new(TopicName::new("a").unwrap(), true, Bytes::from(text));
        drop(self.publisher.publish(draft).unwrap());
    }

    fn read(&mut self, index: usize, bytes_max: usize) {
        let mut client = self.clients.remove(index);
        match self.kernel.read(client.peer, bytes_max) {
            PeerRead::Bytes(bytes) => client.unread.extend(bytes),
            PeerRead::Nothing => {}
            PeerRead::End | PeerRead::Reset => client.is_over = true,
        }
        if !client.has_upgraded {
            let Some(end) = client.unread.windows(4).position(|end| end == b"\r\n\r\n") else {
                return self.clients.insert(index, client);
            };
            client.unread.drain(..end + 4);
            client.has_upgraded = true;
        }
        while let Ok(Some((header, header_len))) = FrameHeader::decode(&client.unread) {
            let end = header_len + header.payload_len as usize;
            if client.unread.len() < end {
                break;
            }
            let frame: Vec<u8> = client.unread.drain(..end).collect();
            match header.opcode {
                Opcode::Text => self.on_message(&mut client, &frame[header_len..]),
                opcode => assert_eq!(opcode, Opcode::Close),
            }
        }
        self.clients.insert(index, client);
    }

    fn on_message(&mut self, client: &mut Client, message: &[u8]) {
        let message: Value = serde_json::from_slice(message).expect("JSON");
        assert!(message.get("error").is_none(), "{message}");
        if let Some(result) = message.get("subscribe") {
            assert_eq!(result["delta"].as_bool().unwrap_or(false), client.wants_deltas);
            client.base = None;
            if result["recovered"].as_bool() != Some(true) {
                client.offset = result["offset"].as_u64().unwrap_or(0);
            }
            client.epoch = result["epoch"].as_str().expect("a position").to_owned();
            for publication in result["publications"].as_array().into_iter().flatten() {
                self.on_publication(client, publication);
            }
        }
        if let Some(publication) = message.pointer("/push/pub") {
            self.on_publication(client, publication);
        }
    }

    fn on_publication(&mut self, client: &mut Client, publication: &Value) {
        let offset = publication["offset"].as_u64().expect("an offset");
        let data = &publication["data"];
        let is_delta = publication["delta"].as_bool().unwrap_or(false);
        let text = match (client.wants_deltas, is_delta) {
            (false, _) => data.to_string(),
            (true, false) => data.as_str().expect("a string").to_owned(),
            (true, true) => {
                let base = client.base.take().expect("a delta follows another publication");
                let patch = data.as_str().expect("a string");
                let outcome = fossil::testing::apply(base.as_bytes(), patch.as_bytes());
                String::from_utf8(outcome.expect("a delta to the publication that the client has")).expect("a text")
            }
        };
        assert_eq!(text, self.published[offset as usize - 1], "publication {offset}");
        let is_next = offset == client.offset + 1;
        let may_miss = self.policy != SlowConsumer::Close;
        assert!(is_next || may_miss && offset > client.offset, "{offset} after {}", client.offset);
        self.deltas += u64::from(is_delta);
        self.wholes += u64::from(client.wants_deltas && !is_delta);
        (client.offset, client.base) = (offset, Some(text));
    }

    fn step(&mut self) {
        let index = self.rng.below(self.clients.len() as u64) as usize;
        match self.rng.below(20) {
            0..8 => self.publish(),
            8..12 => {
                let bytes_max = self.rng.len(3000);
                self.read(index, bytes_max);
            }
            12 => {
                // It reads all that came before it asks for what came later.
                self.settle(index);
                let peer = self.clients[index].peer;
                self.commands += 1;
                let id = 100 + self.commands;
                self.say(peer, &format!(r#"{{"id":{id},"unsubscribe":{{"channel":"a"}}}}"#));
                self.settle(index);
                self.subscribe(index);
            }
            13 => {
                self.settle(index);
                self.kernel.close(self.clients[index].peer);
                let Client { shard, wants_deltas, ref epoch, offset, .. } = self.clients[index];
                let epoch = epoch.clone();
                let client = self.connect(shard, wants_deltas);
                self.clients[index] = Client { epoch, offset, ..client };
                self.subscribe(index);
            }
            _ => {
                let us = self.rng.between(100, 20_000);
                self.run(us);
            }
        }
    }

    /// One client reads until nothing more comes.
    fn settle(&mut self, index: usize) {
        for _ in 0..50 {
            self.run(2000);
            self.read(index, usize::MAX);
        }
    }
}

fn check(seed: u64, policy: SlowConsumer) -> (u64, u64) {
    let status = Status::new(SHARDS);
    let mut world = World::start(&status, seed, policy);
    for index in 0..PEERS {
        let client = world.connect(index % SHARDS, index > 0);
        world.clients.push(client);
        world.subscribe(index);
    }
    (0..300).for_each(|_| world.step());
    (0..PEERS).for_each(|index| world.settle(index));
    world.publish();
    for index in 0..PEERS {
        world.settle(index);
        let client = &world.clients[index];
        assert!(!client.is_over, "client {index} was closed");
        assert_eq!(client.offset, world.published.len() as u64, "client {index} has the newest publication");
    }
    (world.deltas, world.wholes)
}

#[test]
fn deltas_make_what_was_published_whatever_was_dropped() {
    for policy in [SlowConsumer::Close, SlowConsumer::DropOldest, SlowConsumer::Conflate] {
        let counts: Vec<(u64, u64)> = (0..5).map(|seed| check(seed, policy)).collect();
        let deltas: u64 = counts.iter().map(|(deltas, _)| deltas).sum();
        let wholes: u64 = counts.iter().map(|(_, wholes)| wholes).sum();
        assert!(deltas > 200 && wholes > 50, "{policy:?}: {deltas} deltas, {wholes} whole publications");
    }
}
