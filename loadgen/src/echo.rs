//! Every connection sends messages and waits for each to come back, unchanged and in order.

use std::time::{Duration, Instant};

use ringfeed::proto::{Decoder, DeflateConfig, Deflater, Inflater, Message, MessageKind, WindowBits, encode_message};

use crate::cli::EchoOptions;
use crate::connect;
use crate::error::Error;
use crate::faults::Faults;
use crate::frames;
use crate::masking_keys::MaskingKeys;
use crate::payload::{self, Stamp};
use crate::pin;
use crate::report::{Latencies, Meter, Outcome, Report};
use crate::sockets::{Observer, Sockets};

/// With echoes awaited and none coming for so long, they are given up.
const STALL: Duration = Duration::from_secs(5);

/// The longest wait of one turn.
const TURN: Duration = Duration::from_millis(100);

/// Sequence numbers of connection `n` begin at `n << CONN_SHIFT`, so that a message that comes back on a wrong
/// connection shows.
const CONN_SHIFT: u32 = 40;

/// Runs the scenario.
///
/// # Errors
/// If it can't be set up: the server is not there, refuses, or this host's limits are too low.
pub(crate) fn run(options: &EchoOptions) -> Result<Report, Error> {
    let common = &options.common;
    pin::to_cpu(common.cpu)?;
    let mut sockets = Sockets::new(options.connections)?;
    let mut echo = Echo::new(options);
    for index in 0..options.connections {
        let connected = connect::web_socket(&common.url, index, common.deflate, &mut echo.keys)?;
        if let Some(params) = connected.deflate {
            echo.trips.deflate_within(params.client_window);
        }
        sockets.add(connected, &mut echo)?;
    }

    echo.run_for(common.warmup, &mut sockets);
    echo.trips.start_measuring();
    let meter = Meter::start(common.server_pid)?;
    echo.run_for(common.duration, &mut sockets);
    let cost = meter.stop()?;

    let Trips { counts, latencies, faults, .. } = echo.trips;
    Ok(Report::new(Outcome {
        scenario: "echo",
        url: common.url.to_string(),
        payload_bytes: common.size,
        load: format!("{} in flight each", options.pipeline),
        unit: "round trips",
        counts,
        latencies,
        cost,
        faults,
    }))
}

struct Echo {
    decoders: Vec<Decoder>,
    inflater: Inflater,
    keys: MaskingKeys,
    trips: Trips,
}

impl Echo {
    fn new(options: &EchoOptions) -> Echo {
        let kind = if options.binary { MessageKind::Binary } else { MessageKind::Text };
        Echo {
            decoders: (0..options.connections).map(|_| frames::decoder(options.common.deflate)).collect(),
            inflater: Inflater::new(),
            keys: MaskingKeys::new(),
            trips: Trips::new(options.connections, options.pipeline, options.common.size, kind),
        }
    }

    /// Keeps every connection busy for `duration`, then waits until everything has come back.
    fn run_for(&mut self, duration: Duration, sockets: &mut Sockets) {
        let end = Instant::now() + duration;
        let now_ns = self.trips.clock_ns();
        self.trips.sending = true;
        self.trips.last_progress_ns = now_ns;
        for conn in 0..self.decoders.len() as u32 {
            self.trips.send_due(conn, now_ns, sockets.out(conn), &mut self.keys);
        }
        while !self.trips.is_done() {
            if self.trips.is_stalled() {
                return self.trips.give_up();
            }
            self.trips.sending = Instant::now() < end;
            sockets.turn(TURN.min(end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))), self);
        }
    }
}

impl Observer for Echo {
    fn on_bytes(&mut self, socket: u32, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<(), String> {
        let now_ns = self.trips.clock_ns();
        let decoder = &mut self.decoders[socket as usize];
        frames::read(decoder, &mut self.inflater, bytes, &mut self.keys, out, |message, out, keys| {
            self.trips.on_message(socket, message, now_ns);
            self.trips.send_due(socket, now_ns, out, keys);
        })
    }

    fn on_closed(&mut self, socket: u32, reason: &str) {
        self.trips.on_closed(socket, reason);
    }
}

/// Messages under way on each connection.
struct Trips {
    start: Instant,
    kind: MessageKind,
    /// What is sent is compressed with this, within a window that suits all connections.
    deflate: Option<(Deflater, WindowBits)>,
    conns: Vec<Conn>,
    /// New messages are sent as old ones come back.
    sending: bool,
    /// Messages under way, all connections together.
    under_way: u64,
    /// Round trips of each connection in the measured part.
    counts: Vec<u64>,
    latencies: Latencies,
    faults: Faults,
    last_progress_ns: u64,
}

/// One connection's messages. Number `n` lies in place `n` modulo the length of the pipeline.
struct Conn {
    pipeline: Box<[UnderWay]>,
    /// Numbers of the next to be sent and of the next to come back.
    next_sent: u64,
    next_back: u64,
    closed: bool,
}

struct UnderWay {
    payload: Box<[u8]>,
    sent_ns: u64,
}

impl Conn {
    fn new(index: u32, pipeline: u32, payload_bytes: u32) -> Conn {
        let mut payload = vec![0; payload_bytes as usize].into_boxed_slice();
        payload::write(&mut payload, Stamp { sequence: 0, time_ns: 0 });
        let first = u64::from(index) << CONN_SHIFT;
        Conn {
            pipeline: (0..pipeline).map(|_| UnderWay { payload: payload.clone(), sent_ns: 0 }).collect(),
            next_sent: first,
            next_back: first,
            closed: false,
        }
    }

    fn place(&mut self, sequence: u64) -> &mut UnderWay {
        let index = sequence % self.pipeline.len() as u64;
        &mut self.pipeline[index as usize]
    }

    /// Whether `payload` is message `sequence`, and that is under way.
    fn matches(&mut self, sequence: u64, payload: &[u8]) -> bool {
        (self.next_back..self.next_sent).contains(&sequence) && *self.place(sequence).payload == *payload
    }
}

impl Trips {
    fn new(connections: u32, pipeline: u32, payload_bytes: u32, kind: MessageKind) -> Trips {
        Trips {
            start: Instant::now(),
            kind,
            deflate: None,
            conns: (0..connections).map(|index| Conn::new(index, pipeline, payload_bytes)).collect(),
            sending: false,
            under_way: 0,
            counts: vec![0; connections as usize],
            latencies: Latencies::new(),
            faults: Faults::default(),
            last_progress_ns: 0,
        }
    }

    /// Has messages compressed from now on, for a connection with this window as for all before.
    fn deflate_within(&mut self, window: WindowBits) {
        let config = DeflateConfig { bytes_min: 0, ..DeflateConfig::default() };
        let (_, smallest) = self.deflate.get_or_insert_with(|| (Deflater::new(config), window));
        *smallest = window.min(*smallest);
    }

    /// Forgets what the warm-up counted, but not its faults.
    fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.latencies.clear();
    }

    /// Nanoseconds since the start of the run.
    fn clock_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Fills the pipeline of `conn` up again, unless the time is over.
    fn send_due(&mut self, conn: u32, now_ns: u64, out: &mut Vec<u8>, keys: &mut MaskingKeys) {
        let conn = &mut self.conns[conn as usize];
        while self.sending && !conn.closed && conn.next_sent - conn.next_back < conn.pipeline.len() as u64 {
            let sequence = conn.next_sent;
            let place = conn.place(sequence);
            payload::write_stamp(&mut place.payload, Stamp { sequence, time_ns: now_ns });
            place.sent_ns = now_ns;
            let (message, mask) = (Message { kind: self.kind, payload: &place.payload }, Some(keys.next()));
            match &mut self.deflate {
                Some((deflater, window)) => deflater.for_peer(*window, None).encode_message(out, message, mask),
                None => encode_message(out, message, mask),
            }
            conn.next_sent += 1;
            self.under_way += 1;
        }
    }

    fn on_message(&mut self, number: u32, message: Message<'_>, now_ns: u64) {
        let conn = &mut self.conns[number as usize];
        let next = conn.next_back;
        if message.kind == self.kind && conn.matches(next, message.payload) {
            self.come_back(number, now_ns);
        } else {
            self.on_unexpected(number, next, message, now_ns);
        }
    }

    /// The oldest message of connection `number` is back.
    fn come_back(&mut self, number: u32, now_ns: u64) {
        let conn = &mut self.conns[number as usize];
        let sent_ns = conn.place(conn.next_back).sent_ns;
        conn.next_back += 1;
        self.under_way -= 1;
        self.latencies.record(now_ns.saturating_sub(sent_ns));
        self.counts[number as usize] += 1;
        self.last_progress_ns = now_ns;
    }

    /// Names what came instead of message `next`.
    fn on_unexpected(&mut self, number: u32, next: u64, message: Message<'_>, now_ns: u64) {
        let conn = &mut self.conns[number as usize];
        let first = u64::from(number) << CONN_SHIFT;
        let stamp = payload::read(message.payload).filter(|_| message.kind == self.kind);
        match stamp {
            Some(Stamp { sequence, .. }) if (first..next).contains(&sequence) => self.faults.late(number, sequence),
            Some(Stamp { sequence, .. }) if conn.matches(sequence, message.payload) => {
                for skipped in next..sequence {
                    self.faults.skip(number, skipped);
                }
                self.under_way -= sequence - next;
                conn.next_back = sequence;
                self.come_back(number, now_ns);
            }
            _ => {
                self.faults.corrupt(number, message.payload);
                // It came in the place of the next one. If nothing is awaited, it came out of nowhere.
                if next < conn.next_sent {
                    conn.next_back += 1;
                    self.under_way -= 1;
                }
            }
        }
    }

    fn on_closed(&mut self, number: u32, reason: &str) {
        self.faults.closed(number, reason);
        self.abandon(number);
    }

    fn is_done(&self) -> bool {
        self.under_way == 0
    }

    /// Whether echoes are awaited and none has come for a long time.
    fn is_stalled(&self) -> bool {
        Duration::from_nanos(self.clock_ns().saturating_sub(self.last_progress_ns)) > STALL
    }

    /// Counts all that is awaited as missing.
    fn give_up(&mut self) {
        (0..self.conns.len() as u32).for_each(|conn| self.abandon(conn));
    }

    /// Waits no more for what is under way on connection `number`, and sends no more there.
    fn abandon(&mut self, number: u32) {
        let conn = &mut self.conns[number as usize];
        let awaited = conn.next_sent - conn.next_back;
        conn.closed = true;
        conn.next_back = conn.next_sent;
        self.under_way -= awaited;
        if awaited > 0 {
            self.faults.given_up(number, awaited);
        }
    }
}

#[cfg(test)]
mod tests {
    use ringfeed::proto::{Event, Role};

    use super::*;

    /// Two connections with a full pipeline of three, and what connection 0 has sent.
    fn trips() -> (Trips, Vec<Vec<u8>>) {
        let mut trips = Trips::new(2, 3, 64, MessageKind::Text);
        trips.sending = true;
        let (mut out, mut keys) = (Vec::new(), MaskingKeys::new());
        trips.send_due(1, 100, &mut Vec::new(), &mut keys);
        trips.send_due(0, 100, &mut out, &mut keys);
        (trips, sent(out))
    }

    fn sent(mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let (mut decoder, mut input, mut payloads) = (Decoder::new(Role::Server, 1000), &mut bytes[..], Vec::new());
        while let Some(event) = decoder.decode(&mut input).unwrap() {
            let Event::Message(message) = event else { panic!("{event:?}") };
            payloads.push(message.payload.to_vec());
        }
        payloads
    }

    fn text(payload: &[u8]) -> Message<'_> {
        Message { kind: MessageKind::Text, payload }
    }

    #[test]
    fn a_message_that_is_back_makes_room_for_one_more() {
        let (mut trips, payloads) = trips();
        assert_eq!((payloads.len(), trips.under_way), (3, 6));
        trips.on_message(0, text(&payloads[0]), 5100);
        let mut out = Vec::new();
        trips.send_due(0, 5100, &mut out, &mut MaskingKeys::new());
        let next = sent(out);
        assert_eq!((next.len(), trips.counts[0], trips.under_way), (1, 1, 6));
        trips.sending = false;
        [&payloads[1], &payloads[2], &next[0]].into_iter().for_each(|payload| trips.on_message(0, text(payload), 6000));
        trips.send_due(0, 6000, &mut Vec::new(), &mut MaskingKeys::new());
        assert_eq!(trips.under_way, 3, "only connection 1 still waits");
        assert!(trips.faults.is_empty());
    }

    #[test]
    fn each_fault_gets_its_name() {
        // name, order of what comes back on connection 0; missing, duplicate, reordered, corrupt
        let table = [
            ("gap", vec![0, 2], [1, 0, 0, 0]),
            ("again", vec![0, 0], [0, 1, 0, 0]),
            ("swapped", vec![1, 0, 2], [0, 0, 1, 0]),
        ];
        for (name, order, expected) in table {
            let (mut trips, payloads) = trips();
            order.iter().for_each(|index| trips.on_message(0, text(&payloads[*index]), 200));
            let Faults { missing, duplicate, reordered, corrupt, .. } = trips.faults;
            assert_eq!([missing, duplicate, reordered, corrupt], expected, "{name}");
        }
    }

    #[test]
    fn another_kind_other_bytes_or_another_connection_are_corrupt() {
        let (mut trips, payloads) = trips();
        trips.on_message(0, Message::binary(&payloads[0]), 200);
        trips.on_message(0, text(b"what?"), 200);
        trips.on_message(1, text(&payloads[2]), 200);
        assert_eq!((trips.faults.corrupt, trips.under_way), (3, 3));
    }

    #[test]
    fn a_closed_connection_is_waited_for_no_more() {
        let (mut trips, _) = trips();
        trips.on_closed(0, "reset");
        assert_eq!((trips.under_way, trips.faults.missing, trips.faults.closed), (3, 3, 1));
        let mut out = Vec::new();
        trips.send_due(0, 300, &mut out, &mut MaskingKeys::new());
        assert!(out.is_empty());
        trips.give_up();
        assert!(trips.is_done());
    }
}
