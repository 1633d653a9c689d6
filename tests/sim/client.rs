//! One simulated client: real frames, split anywhere, and a check of every byte that it receives.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use ringfeed::limits::FRAME_HEADER_BYTES_MAX;
use ringfeed::proto::{
    ClientHandshake, ClientHandshakeError, CloseCode, Decoder, DeflateConfig, DeflateOffer, Deflater, Event, Inflater,
    Message, MessageKind, Opcode, Role, WindowBits, encode_close, encode_fragment, encode_frame, encode_message,
};
use ringfeed::ring::sim::{PeerId, PeerRead, Rng, SimKernel};

use crate::guest::Guest;
use crate::handler_log::{CLIENT, bulk_reply};
use crate::model::{Model, View};
use crate::namespaces::{topic_name, topic_number};
use crate::plan::{Breach, ClientPlan, Ending, Kind, Pace};
use crate::resuming_client::{ResumeRequest, ResumingClient};

/// Payload bytes of a message that the server must reject as too big.
const TOO_BIG: u64 = 100_001;

/// The close code for lost messages.
pub(crate) const LOST: u16 = 3010;

/// The largest message that the client accepts from the server, in bytes.
const MESSAGE_BYTES_MAX: u32 = 1 << 24;

/// The next item that the client expects from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    Message(MessageKind, Vec<u8>),
    Pong(Vec<u8>),
    /// The reply of `h` to a subscription to this topic, which precedes the pushes held for it.
    Held(usize),
}

/// The state of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not connected yet.
    Waiting,
    /// Waits for the response to its handshake.
    Handshaking,
    /// Messages go both ways.
    Open,
    /// Received a Close frame; the stream has not ended.
    Closed,
    /// Ended.
    Over,
}

/// How the client saw its connection end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The HTTP status, if the server rejected the handshake.
    pub(crate) status: Option<u16>,
    /// The code of the Close frame that it received.
    pub(crate) close: Option<Option<u16>>,
    /// The stream ended.
    pub(crate) end: bool,
    /// The connection was reset.
    pub(crate) reset: bool,
}

/// Actions of the client that explain an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Sent a Close frame, with this code.
    pub(crate) close: Option<Option<u16>>,
    /// Broke the protocol.
    pub(crate) breach: bool,
    /// Requested to be closed with this code.
    pub(crate) asked: Option<u16>,
    /// Ended its half of the stream, or both halves.
    pub(crate) finished: bool,
    /// Vanished: it neither reads nor writes.
    pub(crate) gone: bool,
}

impl Actions {
    /// Whether the client did nothing that would end its connection.
    pub(crate) fn is_none(self) -> bool {
        self == Actions::default()
    }
}

pub(crate) struct Client {
    pub(crate) index: usize,
    pub(crate) plan: ClientPlan,
    /// The current pace: as planned, or faster once the run settles.
    pub(crate) pace: Pace,
    pub(crate) state: State,
    pub(crate) seen: Seen,
    pub(crate) actions: Actions,
    pub(crate) peer: Option<PeerId>,
    /// When the last byte of its handshake left.
    pub(crate) request_sent_us: Option<u64>,
    pub(crate) views: Vec<View>,
    /// Topics with a subscription confirmed since the last look.
    pub(crate) confirmed: Vec<usize>,
    /// The state of a resuming client.
    pub(crate) resuming: Option<ResumingClient>,
    /// The state of a guest.
    guest: Guest,
    /// A later client has taken over its state.
    pub(crate) has_reconnected: bool,
    /// The longest time from publish to receive, in microseconds.
    pub(crate) latency_us_max: u64,
    kernel: SimKernel,
    rng: Rng,
    handshake: ClientHandshake,
    decoder: Decoder,
    inflater: Option<Inflater>,
    /// Compresses its messages, once both sides have agreed on compression.
    deflater: Option<(Deflater, WindowBits)>,
    /// The part of the handshake's response that has arrived.
    head: Vec<u8>,
    unsent: VecDeque<u8>,
    expected: VecDeque<Expected>,
    acts: usize,
    last_words: u64,
    /// The largest payload that it sends or publishes, in bytes.
    bytes_max: usize,
    /// Bytes of all answers that it requested, with the handshake's.
    pub(crate) bytes_requested: usize,
    /// Bytes that it had read when the server ended the conversation, without those of a send in flight.
    pub(crate) bytes_read: usize,
    /// The server has ended the conversation.
    has_ended: bool,
    /// Its half of the stream has ended.
    has_finished: bool,
    now_us: u64,
}

impl Client {
    pub(crate) fn new(index: usize, plan: ClientPlan, bytes_max: usize, kernel: &SimKernel, mut rng: Rng) -> Client {
        let mut key = [0; 16];
        key.fill_with(|| rng.next_u64() as u8);
        let handshake = match plan.deflate_window.and_then(WindowBits::new) {
            Some(server_window) => {
                ClientHandshake::new(key).with_deflate(DeflateOffer { server_window, context_takeover: false })
            }
            None => ClientHandshake::new(key),
        };
        Client {
            index,
            pace: plan.pace,
            last_words: plan.last_words,
            plan,
            state: State::Waiting,
            seen: Seen::default(),
            actions: Actions::default(),
            peer: None,
            request_sent_us: None,
            views: Vec::new(),
            confirmed: Vec::new(),
            resuming: None,
            guest: Guest::default(),
            has_reconnected: false,
            latency_us_max: 0,
            kernel: kernel.clone(),
            handshake,
            decoder: Decoder::new(Role::Client, MESSAGE_BYTES_MAX),
            inflater: Some(Inflater::new()),
            deflater: None,
            head: Vec::new(),
            unsent: VecDeque::new(),
            expected: VecDeque::new(),
            acts: 0,
            bytes_max,
            bytes_requested: 1000,
            bytes_read: 0,
            has_ended: false,
            has_finished: false,
            now_us: 0,
            rng,
        }
    }

    pub(crate) fn connect(&mut self, model: &mut Model) {
        self.peer = Some(self.kernel.connect(self.plan.shard));
        self.state = State::Handshaking;
        if let Kind::ResumingClient(transport, topics) = &self.plan.kind {
            self.resuming.get_or_insert_with(|| ResumingClient::new(*transport, topics, model));
        }
        let request = match &mut self.resuming {
            Some(resuming) => {
                let asking = resuming.ask(self.index, model, &mut self.rng);
                self.resume_request(&asking)
            }
            None => self.request(),
        };
        self.unsent.extend(request);
        if self.plan.is_hasty && matches!(self.plan.kind, Kind::Echo | Kind::Room) {
            self.send_something(&mut Model::new(0, &Arc::default()));
        }
        self.write();
    }

    /// The opening handshake of a client that resumes at a position.
    fn resume_request(&mut self, asking: &ResumeRequest) -> Vec<u8> {
        let headers: Vec<(&str, &str)> = asking.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        if self.is_stream() {
            let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            return format!("GET {} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n", asking.target).into_bytes();
        }
        let mut request = Vec::new();
        self.handshake.encode_request(&mut request, "sim", &asking.target, asking.subprotocols, &headers);
        request
    }

    /// Whether the server closed it because the messages it missed are gone.
    pub(crate) fn lost_something(&self) -> bool {
        self.resuming.is_some() && self.seen.close == Some(Some(LOST))
    }

    /// Whether it reads an event stream rather than a WebSocket.
    pub(crate) fn is_stream(&self) -> bool {
        self.resuming.as_ref().is_some_and(ResumingClient::is_stream)
    }

    /// The opening handshake, or the malformed request in its place.
    fn request(&mut self) -> Vec<u8> {
        let mut request = Vec::new();
        let topics = |topics: &[usize]| topics.iter().map(|topic| topic_name(*topic)).collect::<Vec<_>>().join(",");
        let path = match &self.plan.kind {
            Kind::Echo | Kind::Mute => "/echo".to_owned(),
            Kind::Feed(list) if list.is_empty() => format!("/feed/{}", topic_name(0)),
            Kind::Feed(list) => format!("/feed/{}", topics(list)),
            Kind::Breaker(Breach::SendsToFeed) => format!("/feed/{}", topic_name(0)),
            Kind::Breaker(_) => "/echo".to_owned(),
            Kind::Room => "/room".to_owned(),
            Kind::Guest => "/connection/websocket".to_owned(),
            Kind::Stray(404) => "/nowhere".to_owned(),
            Kind::Stray(_) => "/echo".to_owned(),
            Kind::ResumingClient(..) => unreachable!("it sends a resume request"),
        };
        let number = self.index.to_string();
        let plain =
            |method: &str, target: &str| format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes();
        match self.plan.kind {
            Kind::Stray(200) => return plain("GET", "/"),
            Kind::Stray(405) => return plain("POST", &path),
            Kind::Stray(426) => return plain("GET", &path),
            Kind::Stray(400) => return b"GET /echo HTTP/1.1\r\nHost sim\r\n\r\n".to_vec(),
            _ => self.handshake.encode_request(&mut request, "sim", &path, &[], &[(CLIENT, &number)]),
        }
        if self.plan.kind == Kind::Mute {
            request.truncate(self.rng.len(request.len() - 1));
        }
        request
    }

    /// The socket has become readable or writable.
    pub(crate) fn on_peer(&mut self, model: &mut Model, now_us: u64) {
        self.now_us = now_us;
        self.write();
        if self.pace == Pace::Quick {
            self.read(model, usize::MAX);
        }
    }

    /// Reads and writes everything available from now on, unless it never reads.
    pub(crate) fn speed_up(&mut self, model: &mut Model, now_us: u64) {
        self.plan.write_bytes_max = usize::MAX;
        if self.pace != Pace::Dead {
            self.pace = Pace::Quick;
            self.on_peer(model, now_us);
        }
    }

    /// Reads on after a pause. Returns the time of the next read.
    pub(crate) fn on_read_timer(&mut self, model: &mut Model, now_us: u64) -> Option<u64> {
        self.now_us = now_us;
        let Pace::Slow { bytes, pause_us } = self.pace else { return None };
        self.read(model, bytes);
        (!self.is_over()).then_some(pause_us)
    }

    /// Acts once. Returns the time of the next action.
    pub(crate) fn on_act_timer(&mut self, model: &mut Model, now_us: u64) -> Option<u64> {
        self.now_us = now_us;
        if self.acts >= self.plan.acts || self.is_over() || !self.actions.is_none() {
            return None;
        }
        if self.state == State::Open && self.unsent.len() < 10_000 {
            // Messages sent together may arrive together.
            for _ in 0..self.rng.between(1, self.plan.at_once) {
                self.acts += 1;
                self.send_something(model);
            }
            self.write();
        }
        Some(self.rng.below(2 * self.plan.act_us + 1))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Whether it must receive everything addressed to it: it is connected, reads, and did nothing that would end it.
    pub(crate) fn should_get_all(&self) -> bool {
        self.state == State::Open && self.pace != Pace::Dead && self.actions.is_none()
    }

    /// Whether all of its messages have left.
    pub(crate) fn has_sent_all(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Whether it has received all answers.
    pub(crate) fn has_all_answers(&self) -> bool {
        self.expected.is_empty()
    }

    fn send_something(&mut self, model: &mut Model) {
        match self.plan.kind.clone() {
            Kind::Echo => self.send_message(),
            Kind::Room => self.send_verb(model),
            Kind::Guest => {
                let text = self.guest.next_message(model.topic_count(), &mut self.rng);
                self.bytes_requested += 1000 * text.lines().count();
                self.send_text(&text);
            }
            Kind::ResumingClient(..) if self.is_stream() => {}
            Kind::Breaker(Breach::SendsToFeed) | Kind::Feed(_) | Kind::ResumingClient(..) => self.ping(),
            Kind::Breaker(_) => self.send_message(),
            Kind::Mute | Kind::Stray(_) => {}
        }
    }

    fn mask(&mut self) -> Option<[u8; 4]> {
        Some((self.rng.next_u64() as u32).to_be_bytes())
    }

    fn queue(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        self.unsent.extend(bytes);
    }

    /// Sends a message of any kind, in one frame or several, with pings between.
    fn send_message(&mut self) {
        let len = self.rng.below(self.bytes_max as u64 + 1) as usize;
        let payload: Vec<u8> = (0..len).map(|index| b' ' + ((len * 31 + index) % 90) as u8).collect();
        let kind = self.rng.choose(&[MessageKind::Text, MessageKind::Binary]);
        let mask = self.mask();
        if self.rng.chance(500)
            && let Some((mut deflater, window)) = self.deflater.take()
        {
            self.queue(|out| {
                deflater.for_peer(window, None).encode_message(out, Message { kind, payload: &payload }, mask)
            });
            self.deflater = Some((deflater, window));
            return self.expect_message(kind, payload);
        }
        let frames = self.rng.choose(&[1, 1, 1, 2, 5]);
        let mut opcode = if kind == MessageKind::Text { Opcode::Text } else { Opcode::Binary };
        let piece_len = payload.len().div_ceil(frames).max(1);
        let pieces: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(piece_len).collect() };
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 && self.rng.chance(200) {
                self.ping();
            }
            let mask = self.mask();
            self.queue(|out| encode_fragment(out, opcode, index + 1 == pieces.len(), piece, mask));
            opcode = Opcode::Continuation;
        }
        // The server answers the pings before the echo: they precede the last frame.
        self.expect_message(kind, payload);
    }

    fn ping(&mut self) {
        let payload = self.rng.next_u64().to_be_bytes().to_vec();
        let mask = self.mask();
        self.queue(|out| encode_frame(out, Opcode::Ping, &payload, mask));
        self.bytes_requested += payload.len() + FRAME_HEADER_BYTES_MAX;
        self.expected.push_back(Expected::Pong(payload));
    }

    fn send_text(&mut self, text: &str) {
        let mask = self.mask();
        self.queue(|out| encode_message(out, Message::text(text), mask));
    }

    fn send_verb(&mut self, model: &mut Model) {
        if model.topic_count() == 0 {
            return self.ping();
        }
        let topic = self.rng.below(model.topic_count() as u64) as usize;
        let name = topic_name(topic);
        let text = match self.rng.below(12) {
            // A reply that precedes held pushes may not be about a topic that one of them is about.
            0..6 | 11 if self.expected.contains(&Expected::Held(topic)) => return self.ping(),
            11 if self.expects_answer_about(&name) => return self.ping(),
            0..4 => format!("s {name}"),
            4..6 => format!("u {name}"),
            6..9 if model.is_lossy(topic) => return self.ping(),
            6..9 => {
                let len = self.rng.below(self.bytes_max as u64 + 1) as usize;
                let message = model.publish_by_client(self.index, topic, len, self.now_us);
                return self.send_text(&format!("p {name} {message}"));
            }
            11 => {
                self.bytes_requested += name.len() + FRAME_HEADER_BYTES_MAX;
                self.expected.push_back(Expected::Held(topic));
                return self.send_text(&format!("h {name}"));
            }
            9 if self.plan.reply_bytes_max > 0 => {
                let count = self.rng.below(self.plan.reply_bytes_max as u64) as usize;
                self.send_text(&format!("r {count}"));
                return self.expect_message(MessageKind::Text, bulk_reply(count).into_bytes());
            }
            _ => return self.ping(),
        };
        self.send_text(&text);
        self.expect_message(MessageKind::Text, format!("={text}").into_bytes());
    }

    /// Whether an answer about a topic is outstanding.
    fn expects_answer_about(&self, name: &str) -> bool {
        let is_about = |expected: &Expected| match expected {
            Expected::Message(_, text) => text.ends_with(format!(" {name}").as_bytes()),
            Expected::Pong(_) | Expected::Held(_) => false,
        };
        self.expected.iter().any(is_about)
    }

    fn expect_message(&mut self, kind: MessageKind, payload: Vec<u8>) {
        self.bytes_requested += payload.len() + FRAME_HEADER_BYTES_MAX;
        self.expected.push_back(Expected::Message(kind, payload));
    }

    /// The server has ended the conversation; it does not know how many of `sending_bytes` left. Bytes in flight still
    /// arrive.
    pub(crate) fn note_end(&mut self, sending_bytes: usize) {
        self.has_ended = true;
        self.bytes_read = self.bytes_read.saturating_sub(sending_bytes);
    }

    /// Whether it sends messages right before a sudden end, which the server receives together with the end.
    pub(crate) fn has_last_words(&self) -> bool {
        let is_sudden = matches!(self.plan.ending, Ending::Resets | Ending::Leaves | Ending::Finishes);
        is_sudden && self.state == State::Open && self.actions.is_none() && self.last_words > 0
    }

    pub(crate) fn send_last_words(&mut self, model: &mut Model) {
        for _ in 0..std::mem::take(&mut self.last_words) {
            self.send_something(model);
        }
        self.write();
    }

    /// Ends as planned.
    pub(crate) fn end(&mut self, ending: Ending) {
        if self.peer.is_none() || self.is_over() || self.actions.finished || self.actions.gone {
            return;
        }
        let peer = self.peer.expect("the caller checked it");
        match ending {
            Ending::Stays => {}
            Ending::Closes(_) if self.is_stream() => return self.end(Ending::Leaves),
            Ending::Closes(code) => self.close(code),
            Ending::RequestsClose(code) if self.state == State::Open && self.actions.is_none() => {
                self.actions.asked = Some(code);
                self.send_text(&format!("c {code}"));
            }
            Ending::RequestsClose(_) => {}
            Ending::Finishes => {
                // Only after all of its messages have left.
                self.actions.finished = true;
            }
            Ending::Leaves => {
                (self.actions.finished, self.actions.gone) = (true, true);
                self.kernel.close(peer);
            }
            Ending::Resets => {
                (self.actions.finished, self.actions.gone) = (true, true);
                self.kernel.reset(peer);
            }
            Ending::Vanishes => {
                (self.actions.finished, self.actions.gone) = (true, true);
                self.kernel.vanish(peer);
            }
        }
        if self.actions.gone {
            self.state = State::Over;
        } else {
            self.write();
        }
    }

    /// The host of a vanished peer is back, and has no record of the connection.
    pub(crate) fn reset_by_host(&mut self) {
        self.kernel.reset(self.peer.expect("a vanished client was connected"));
    }

    /// Sends a Close frame, unless it has sent one.
    pub(crate) fn close(&mut self, code: Option<u16>) {
        if self.is_stream() {
            return self.end(Ending::Leaves);
        }
        if self.state == State::Open && self.actions.close.is_none() && !self.actions.breach {
            self.actions.close = Some(code);
            let mask = self.mask();
            self.queue(|out| encode_close(out, code.map(CloseCode), "", mask));
            self.write();
        }
    }

    /// Breaks the protocol.
    pub(crate) fn breach(&mut self, breach: Breach) {
        if self.state != State::Open || !self.actions.is_none() {
            return;
        }
        self.actions.breach = true;
        let mask = self.mask();
        match breach {
            Breach::NotMasked => self.queue(|out| encode_message(out, Message::text("bare"), None)),
            Breach::ReservedBits => self.unsent.extend([0xf1, 0x80, 0, 0, 0, 0]),
            Breach::BadText => self.queue(|out| encode_frame(out, Opcode::Text, &[0xc0, 0xaf], mask)),
            Breach::TooBig => {
                self.unsent.extend([0x82, 0xff]);
                self.unsent.extend(TOO_BIG.to_be_bytes());
                self.unsent.extend([0; 4]);
            }
            Breach::BadClose => self.queue(|out| encode_frame(out, Opcode::Close, &[3], mask)),
            Breach::SendsToFeed => self.queue(|out| encode_message(out, Message::text("hello?"), mask)),
        }
        self.write();
    }

    /// The close code that the server must send for a breach.
    pub(crate) fn breach_code(breach: Breach) -> u16 {
        match breach {
            Breach::NotMasked | Breach::ReservedBits | Breach::BadClose => 1002,
            Breach::BadText => 1007,
            Breach::TooBig => 1009,
            Breach::SendsToFeed => 1008,
        }
    }

    /// Writes a part of the unsent bytes; the rest follows when the socket has room.
    fn write(&mut self) {
        let Some(peer) = self.peer else { return };
        if self.actions.gone || self.state == State::Over || self.has_finished {
            return;
        }
        if !self.unsent.is_empty() {
            let count = if self.plan.write_bytes_max == usize::MAX {
                self.unsent.len()
            } else {
                self.rng.len(self.plan.write_bytes_max).min(self.unsent.len())
            };
            let written = self.kernel.write(peer, &self.unsent.make_contiguous()[..count]);
            self.unsent.drain(..written);
        }
        if self.unsent.is_empty() {
            self.request_sent_us.get_or_insert(self.kernel.now_us());
        }
        if self.unsent.is_empty() && self.actions.finished {
            self.has_finished = true;
            self.kernel.finish(peer);
        }
    }

    fn read(&mut self, model: &mut Model, bytes_max: usize) {
        let Some(peer) = self.peer else { return };
        loop {
            if self.state == State::Over {
                return;
            }
            match self.kernel.read(peer, bytes_max) {
                PeerRead::Bytes(bytes) => {
                    self.bytes_read += if self.has_ended { 0 } else { bytes.len() };
                    self.hear(model, bytes);
                }
                PeerRead::Nothing => return,
                PeerRead::End => {
                    self.seen.end = true;
                    return self.leave();
                }
                PeerRead::Reset => {
                    self.seen.reset = true;
                    return self.leave();
                }
            }
            if bytes_max != usize::MAX {
                return;
            }
        }
    }

    /// The client closes its side after the server did.
    fn leave(&mut self) {
        self.state = State::Over;
        if !self.actions.gone {
            self.kernel.close(self.peer.expect("it is connected"));
        }
    }

    fn hear(&mut self, model: &mut Model, mut bytes: Vec<u8>) {
        if self.is_stream() {
            return self.on_stream_bytes(model, bytes);
        }
        if self.state == State::Handshaking {
            self.head.append(&mut bytes);
            if self.seen.status.is_some() {
                return;
            }
            match self.handshake.decode_response(&self.head) {
                Ok(None) => return,
                Ok(Some((accepted, len))) => {
                    bytes = self.head.split_off(len);
                    if let Some(params) = accepted.deflate {
                        self.decoder.allow_deflated();
                        let config = DeflateConfig { level: 1, bytes_min: 1, context_takeover: 0 };
                        self.deflater = Some((Deflater::new(config), params.client_window));
                    }
                    self.on_open();
                }
                Err(ClientHandshakeError::Status(status)) => {
                    self.seen.status = Some(status);
                    return;
                }
                Err(error) => panic!("client {}: malformed handshake response: {error:?}", self.index),
            }
        }
        let mut decoder = std::mem::replace(&mut self.decoder, Decoder::new(Role::Client, 0));
        let mut inflater = self.inflater.take().expect("the inflater is put back below");
        let mut input = &mut bytes[..];
        loop {
            let event = decoder.decode(&mut input).and_then(|event| {
                event.map(|event| inflater.inflate_event(event, MESSAGE_BYTES_MAX, None)).transpose()
            });
            match event {
                Ok(Some(event)) => self.on_event(model, event),
                Ok(None) => break,
                Err(error) => panic!("client {}: the server broke the protocol: {error:?}", self.index),
            }
        }
        self.decoder = decoder;
        self.inflater = Some(inflater);
    }

    /// Receives bytes of an event stream, or of a response without one.
    fn on_stream_bytes(&mut self, model: &mut Model, mut bytes: Vec<u8>) {
        if self.state == State::Handshaking {
            self.head.append(&mut bytes);
            let Some(end) = self.head.windows(4).position(|end| end == b"\r\n\r\n") else { return };
            let status =
                std::str::from_utf8(&self.head[..end]).ok().and_then(|head| head.split(' ').nth(1)?.parse().ok());
            if status != Some(200) {
                self.seen.status = status;
                return;
            }
            bytes = self.head.split_off(end + 4);
            self.on_open();
        }
        let resuming = self.resuming.as_mut().expect("a client with a stream resumes");
        let published_us = resuming.on_bytes(model, &bytes, self.now_us);
        self.note_latency(published_us);
    }

    fn note_latency(&mut self, published_us: Option<u64>) {
        if let (Some(published_us), Pace::Quick) = (published_us, self.plan.pace) {
            self.latency_us_max = self.latency_us_max.max(self.now_us - published_us);
        }
    }

    fn on_open(&mut self) {
        self.state = State::Open;
        assert!(
            !matches!(self.plan.kind, Kind::Mute | Kind::Stray(_)),
            "client {}: the server accepted a malformed handshake",
            self.index
        );
        let topics = match &self.plan.kind {
            Kind::Feed(topics) if topics.is_empty() => vec![0],
            Kind::Feed(topics) => topics.clone(),
            Kind::Breaker(Breach::SendsToFeed) => vec![0],
            _ => Vec::new(),
        };
        self.views = topics.iter().map(|topic| View::new(*topic, self.now_us)).collect();
        self.confirmed = topics;
        if self.plan.kind == Kind::Guest {
            let greeting = self.guest.greeting();
            self.bytes_requested += 1000;
            self.send_text(&greeting);
            self.write();
        }
        if let Some(resuming) = &self.resuming {
            let greeting = resuming.greeting(&mut self.rng);
            self.bytes_requested += 1000 * greeting.len();
            greeting.iter().for_each(|text| self.send_text(text));
            self.write();
        }
    }

    fn on_event(&mut self, model: &mut Model, event: Event<'_>) {
        assert_eq!(self.state, State::Open, "client {}: received {event:?} after the end", self.index);
        match event {
            Event::Ping(payload) => {
                if !self.plan.ignores_pings && self.actions.close.is_none() && !self.actions.breach {
                    let mask = self.mask();
                    self.queue(|out| encode_frame(out, Opcode::Pong, payload, mask));
                    self.write();
                }
            }
            Event::Pong(payload) => self.on_expected(Expected::Pong(payload.to_vec())),
            Event::Message(message) if self.is_answer(message) => {
                self.on_answer(message);
                self.on_expected(match message.as_str().and_then(|text| text.strip_prefix("=h ")) {
                    Some(name) if self.plan.kind == Kind::Room => Expected::Held(topic_number(name)),
                    _ => Expected::Message(message.kind, message.payload.to_vec()),
                });
            }
            Event::Message(message) if self.plan.kind == Kind::Guest => {
                let answers = self.guest.on_message(model, message.as_str().expect("JSON is text"));
                if !self.plan.ignores_pings && self.actions.is_none() {
                    answers.iter().for_each(|text| self.send_text(text));
                    self.write();
                }
            }
            Event::Message(message) => {
                let published_us = match self.resuming.is_some() {
                    true => self.on_resuming_message(model, message),
                    false => model.on_message(&mut self.views, message),
                };
                self.note_latency(published_us);
            }
            Event::Close(close) => {
                if let (Some(resuming), Some(LOST)) = (&mut self.resuming, close.code.map(|code| code.0)) {
                    resuming.on_lost(model, close.reason, self.now_us);
                }
                self.on_close(close.code.map(|code| code.0));
            }
            Event::Deflated(_) => unreachable!("the inflater runs before"),
        }
    }

    /// Receives a message of a resuming client. Returns the publish time, if known.
    fn on_resuming_message(&mut self, model: &mut Model, message: Message<'_>) -> Option<u64> {
        let resuming = self.resuming.as_mut().expect("the client resumes");
        let heard = resuming.on_message(model, message, self.now_us);
        if !self.plan.ignores_pings && self.actions.close.is_none() {
            heard.answers.iter().for_each(|text| self.send_text(text));
            self.write();
        }
        heard.published_us
    }

    fn is_answer(&self, message: Message<'_>) -> bool {
        match self.plan.kind {
            Kind::Room => message.payload.first() == Some(&b'='),
            Kind::Guest | Kind::Feed(_) | Kind::ResumingClient(..) | Kind::Breaker(Breach::SendsToFeed) => false,
            _ => true,
        }
    }

    fn on_expected(&mut self, came: Expected) {
        let is_held = |expected: &Expected| matches!(expected, Expected::Held(_));
        let is_next = |expected: &Expected| if is_held(&came) { *expected == came } else { !is_held(expected) };
        let expected = self.expected.iter().position(is_next).and_then(|next| self.expected.remove(next));
        assert_eq!(expected.as_ref(), Some(&came), "client {}: wrong answer", self.index);
    }

    /// Handles the answer of a room to a command.
    fn on_answer(&mut self, message: Message<'_>) {
        let Kind::Room = self.plan.kind else { return };
        let text = message.as_str().expect("a room answers with text");
        if text.starts_with("=r ") {
            return;
        }
        let (verb, name) = text[1..].split_once(' ').expect("a verb and a topic");
        let topic = topic_number(name);
        match verb {
            "s" | "h" if self.views.iter().all(|view| view.topic() != topic) => {
                self.views.push(View::new(topic, self.now_us));
                self.confirmed.push(topic);
            }
            "u" => self.views.retain(|view| view.topic() != topic),
            _ => {}
        }
    }

    fn on_close(&mut self, code: Option<u16>) {
        self.seen.close = Some(code);
        self.state = State::Closed;
        // The server answers in order: all earlier requests are answered before its answer to our Close frame, except
        // subscriptions: their replies come from another shard.
        if self.actions.close.is_some() && code == self.actions.close.flatten() {
            let is_answered = self.expected.iter().all(|expected| matches!(expected, Expected::Held(_)));
            assert!(is_answered, "client {}: answers are missing: {:?}", self.index, self.expected);
        }
        if self.actions.close.is_none() && !self.actions.breach && !self.actions.finished {
            self.actions.close = Some(code);
            let mask = self.mask();
            self.queue(|out| encode_close(out, code.map(CloseCode), "", mask));
            self.write();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("index", &self.index)
            .field("plan", &self.plan)
            .field("state", &self.state)
            .field("seen", &self.seen)
            .field("actions", &self.actions)
            .field("peer", &self.peer)
            .field("views", &self.views)
            .field("resuming", &self.resuming)
            .field("acts", &self.acts)
            .field("unsent", &self.unsent.len())
            .field("expected", &self.expected.len())
            .field("bytes_read", &self.bytes_read)
            .finish()
    }
}
