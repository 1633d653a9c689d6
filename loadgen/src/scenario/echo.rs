//! Every connection sends messages and waits for the echo of each, unchanged and in order.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfeed::proto::{DeflateConfig, Deflater, Message, MessageKind, WindowBits, encode_message};

use crate::check::faults::{Faults, Label};
use crate::check::payload::{self, RunName, Stamp};
use crate::check::topics::Topics;
use crate::cli::EchoOptions;
use crate::error::Error;
use crate::host::interrupt;
use crate::host::pin;
use crate::report::recorder::{Recorder, Times};
use crate::report::timeline::Timeline;
use crate::report::{Findings, Outcome};
use crate::scenario::crew::{self, Command, Crew, Orders, Part};
use crate::scenario::run::{Measured, Run};
use crate::wire::clients::{Clients, Incoming, Out, Ready, Sink, TURN};
use crate::wire::masking_keys::MaskingKeys;

/// The unit of the count.
const UNIT: &str = "round trips";

/// Sequence numbers of connection `n` begin at `n << CONN_SHIFT`, so that each message identifies its connection. An
/// echo is compared byte by byte with the messages in flight on its connection, so an echo of another connection's
/// message is detected, whole or in part, and a whole one with its owner.
const CONN_SHIFT: u32 = 40;

/// Interval of checks for stalled connections, as a share of the timeout.
const LOOKS_PER_PATIENCE: u32 = 10;

/// Most bytes of messages in flight.
const IN_FLIGHT_BYTES_MAX: u64 = 8 << 30;

/// Runs the scenario.
///
/// # Errors
/// If the server is unreachable or refuses the connections, or this host's limits are too low.
pub(crate) fn run(options: &EchoOptions) -> Result<Outcome, Error> {
    let EchoOptions { common, connections, workers, .. } = options;
    check_memory(options)?;
    if workers > connections {
        return Err(Error::new(format!("{workers} workers need at least {workers} connections, not {connections}")));
    }
    pin::to_cpu(common.cpu_of(0))?;
    let run = Run::start(common, UNIT)?;
    let plan = Plan {
        options,
        ranges: crew::split(*connections, *workers),
        timeline: run.timeline(),
        run: payload::random_run(),
    };
    let (measured, parts) = std::thread::scope(|scope| {
        let crew = Crew::start(scope, *workers, |worker, orders| plan.follow(worker, orders));
        plan.lead(run, crew)
    })?;
    let (counts, findings): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.counts, part.findings)).unzip();
    let by_workers = if *workers > 1 { format!(" by {workers} workers") } else { String::new() };
    Ok(Outcome {
        scenario: "echo",
        url: common.url.to_string(),
        payload_bytes: common.size,
        load: format!("{} in flight each{by_workers}", options.pipeline),
        open_loop: false,
        unit: UNIT,
        counts: counts.concat(),
        findings,
        measured,
        figures: Vec::new(),
        agents: Vec::new(),
    })
}

/// What each worker needs to begin.
struct Plan<'a> {
    options: &'a EchoOptions,
    /// The connections of each worker.
    ranges: Vec<Range<u32>>,
    timeline: Arc<Timeline>,
    run: RunName,
}

impl Plan<'_> {
    /// Connects the connections of `worker`.
    fn set_up(&self, worker: usize) -> Result<(Clients, Trips), Error> {
        let common = &self.options.common;
        pin::to_cpu(common.cpu_of(worker))?;
        let range = self.ranges[worker].clone();
        let count = range.len() as u32;
        let topics = Arc::new(Topics::one(&common.connect.topic, count));
        let mut clients = Clients::new(common, topics, count, None)?;
        let recorder = Recorder::new(Arc::clone(&self.timeline));
        let mut trips = Trips::new(self.options, range, self.run, recorder);
        clients.connect(0..count, &mut trips)?;
        Ok((clients, trips))
    }

    /// The first worker, which leads the others.
    fn lead(&self, mut run: Run, crew: Crew<'_>) -> Result<(Measured, Vec<Part>), Error> {
        let common = &self.options.common;
        let (mut clients, mut trips) = self.set_up(0)?;
        crew.await_all()?;
        crew.tell(Command::WarmUp);
        trips.run_for(common.warmup, &mut clients, Some(&mut run));
        crew.await_all()?;
        trips.start_measuring();
        run.start_measuring()?;
        crew.tell(Command::Measure);
        trips.run_for(common.duration, &mut clients, Some(&mut run));
        crew.await_all()?;
        let last_ns = trips.last_ns;
        let mut parts = vec![trips.finish()];
        parts.extend(crew.stop());
        Ok((run.stop_measuring(last_ns)?, parts))
    }

    fn follow(&self, worker: usize, orders: &Orders) -> Result<Part, Error> {
        let common = &self.options.common;
        let (mut clients, mut trips) = self.set_up(worker)?;
        orders.done();
        loop {
            match orders.wait() {
                Command::WarmUp => trips.run_for(common.warmup, &mut clients, None),
                Command::Measure => {
                    trips.start_measuring();
                    trips.run_for(common.duration, &mut clients, None);
                }
                Command::Stop => return Ok(trips.finish()),
            }
            orders.done();
        }
    }
}

/// Every message in flight is kept, to be compared with its echo.
fn check_memory(options: &EchoOptions) -> Result<(), Error> {
    let EchoOptions { common, connections, pipeline, .. } = options;
    let bytes = u64::from(*connections).saturating_mul(u64::from(*pipeline)).saturating_mul(u64::from(common.size));
    if bytes > IN_FLIGHT_BYTES_MAX {
        return Err(Error::new(format!(
            "{connections} connections with {pipeline} messages of {} B in flight need {} GB of memory: lower \
             --connections, --pipeline or --size",
            common.size,
            bytes >> 30
        )));
    }
    Ok(())
}

/// The messages in flight on each connection.
struct Trips {
    kind: MessageKind,
    /// Compresses sent messages, within a window that suits all connections.
    deflate: Option<(Deflater, WindowBits)>,
    conns: Vec<Conn>,
    /// Number of connections that are not closed.
    open: u32,
    /// Whether each echo triggers a new message.
    sending: bool,
    /// Messages in flight on all connections.
    under_way: u64,
    /// Round trips of each connection in the measured part.
    counts: Vec<u64>,
    recorder: Recorder,
    faults: Faults,
    /// A connection that receives nothing for this long no longer expects the echoes due by then.
    patience: Duration,
    next_look_ns: u64,
    /// Time of the last message sent or received.
    last_ns: u64,
    /// The number of the first connection in the run, and that of all connections.
    first: u32,
    all: u32,
    run: RunName,
}

/// Messages of one connection. Message `n` is at index `n` modulo the pipeline length.
struct Conn {
    pipeline: Box<[UnderWay]>,
    /// Numbers of the next message to send and of the next echo.
    next_sent: u64,
    next_back: u64,
    /// Echoes of messages with a lower number were given up: they may come or not.
    given_up: u64,
    /// Time of the last echo.
    heard_ns: u64,
    /// It has received nothing since it counted as stalled.
    is_stalled: bool,
    closed: bool,
}

struct UnderWay {
    payload: Box<[u8]>,
    sent_ns: u64,
}

impl Conn {
    fn new(index: u32, pipeline: u32, payload_bytes: u32) -> Conn {
        let mut payload = vec![0; payload_bytes as usize].into_boxed_slice();
        payload::write(&mut payload, Stamp { run: 0, sequence: 0, time_ns: 0 });
        let first = u64::from(index) << CONN_SHIFT;
        Conn {
            pipeline: (0..pipeline).map(|_| UnderWay { payload: payload.clone(), sent_ns: 0 }).collect(),
            next_sent: first,
            next_back: first,
            given_up: first,
            heard_ns: 0,
            is_stalled: false,
            closed: false,
        }
    }

    fn place(&mut self, sequence: u64) -> &mut UnderWay {
        let index = sequence % self.pipeline.len() as u64;
        &mut self.pipeline[index as usize]
    }

    /// Whether `payload` is message `sequence`, and that message is in flight.
    fn matches(&mut self, sequence: u64, payload: &[u8]) -> bool {
        (self.next_back..self.next_sent).contains(&sequence) && *self.place(sequence).payload == *payload
    }
}

impl Sink for Trips {
    fn woken(&mut self) -> u64 {
        let now_ns = self.recorder.now_ns();
        self.recorder.woken(now_ns);
        now_ns
    }

    fn awaited(&self) -> u64 {
        self.under_way / self.conns.first().map_or(1, |conn| conn.pipeline.len() as u64)
    }

    fn on_ready(&mut self, _client: u32, ready: Ready, _now_ns: u64) {
        if let Some(params) = ready.deflate {
            self.deflate_within(params.client_window);
        }
    }

    fn on_message(&mut self, client: u32, incoming: Incoming<'_>, out: Out<'_>) {
        self.on_echo(client, incoming.message, incoming.now_ns);
        self.send_due(client, incoming.now_ns, out.bytes, out.keys);
    }

    fn on_closed(&mut self, client: u32, _was_ready: bool, reason: &str) {
        self.on_end(client, reason);
    }
}

impl Trips {
    /// The connections with these numbers.
    fn new(options: &EchoOptions, range: Range<u32>, run: RunName, recorder: Recorder) -> Trips {
        let EchoOptions { common, connections, pipeline, binary, .. } = options;
        let count = range.len();
        Trips {
            kind: if *binary { MessageKind::Binary } else { MessageKind::Text },
            deflate: None,
            conns: range.clone().map(|number| Conn::new(number, *pipeline, common.size)).collect(),
            open: count as u32,
            sending: false,
            under_way: 0,
            counts: vec![0; count],
            recorder,
            faults: Faults::new(common.tolerance.late),
            patience: common.tolerance.patience,
            next_look_ns: 0,
            last_ns: 0,
            first: range.start,
            all: *connections,
            run,
        }
    }

    /// Keeps every connection busy for `duration`, then waits for all echoes.
    fn run_for(&mut self, duration: Duration, clients: &mut Clients, mut run: Option<&mut Run>) {
        let end = Instant::now() + duration;
        self.sending = true;
        self.send_on_all(clients);
        while !self.is_done() {
            self.sending = Instant::now() < end && !interrupt::has_come();
            let left = end.saturating_duration_since(Instant::now());
            let last_ns = self.last_ns;
            clients.turn(TURN.min(left.max(Duration::from_millis(1))), self);
            if self.give_up_stalled() {
                self.send_on_all(clients);
            }
            self.turn_over();
            if self.last_ns == last_ns {
                run.iter_mut().for_each(|run| run.on_idle(last_ns));
                self.recorder.on_idle(last_ns);
            }
        }
    }

    /// Ends the measured part.
    fn finish(mut self) -> Part {
        self.recorder.stop_measuring(self.last_ns);
        let findings = Findings { recorded: self.recorder.recorded, faults: self.faults };
        Part { counts: self.counts, findings }
    }

    /// Fills all pipelines.
    fn send_on_all(&mut self, clients: &mut Clients) {
        let now_ns = self.recorder.now_ns();
        for conn in 0..self.conns.len() as u32 {
            if self.has_room(conn) {
                let out = clients.out(conn);
                self.send_due(conn, now_ns, out.bytes, out.keys);
            }
        }
    }

    /// Compresses messages from now on, within a window no larger than this one and all earlier ones.
    fn deflate_within(&mut self, window: WindowBits) {
        let config = DeflateConfig { bytes_min: 0, ..DeflateConfig::default() };
        let (_, smallest) = self.deflate.get_or_insert_with(|| (Deflater::new(config), window));
        *smallest = window.min(*smallest);
    }

    /// Resets the counts of the warm-up, but not its faults.
    fn start_measuring(&mut self) {
        self.counts.fill(0);
        self.recorder.start_measuring();
    }

    fn has_room(&self, conn: u32) -> bool {
        let conn = &self.conns[conn as usize];
        self.sending && !conn.closed && conn.next_sent - conn.next_back < conn.pipeline.len() as u64
    }

    /// Fills the pipeline of `conn`, unless the run is ending.
    fn send_due(&mut self, conn: u32, now_ns: u64, out: &mut Vec<u8>, keys: &mut MaskingKeys) {
        while self.has_room(conn) {
            let conn = &mut self.conns[conn as usize];
            let sequence = conn.next_sent;
            let place = conn.place(sequence);
            payload::write_stamp(&mut place.payload, Stamp { run: self.run, sequence, time_ns: now_ns });
            place.sent_ns = now_ns;
            let (message, mask) = (Message { kind: self.kind, payload: &place.payload }, Some(keys.next()));
            match &mut self.deflate {
                Some((deflater, window)) => deflater.for_peer(*window, None).encode_message(out, message, mask),
                None => encode_message(out, message, mask),
            }
            conn.next_sent += 1;
            self.under_way += 1;
            self.last_ns = now_ns;
        }
    }

    fn on_echo(&mut self, number: u32, message: Message<'_>, now_ns: u64) {
        let conn = &mut self.conns[number as usize];
        let next = conn.next_back;
        if message.kind == self.kind && conn.matches(next, message.payload) {
            self.come_back(number, now_ns);
        } else {
            self.on_unexpected(number, next, message, now_ns);
        }
    }

    /// The echo of the oldest message of connection `number` has arrived.
    fn come_back(&mut self, number: u32, now_ns: u64) {
        let conn = &mut self.conns[number as usize];
        let sent_ns = conn.place(conn.next_back).sent_ns;
        conn.next_back += 1;
        self.under_way -= 1;
        self.count(number, sent_ns, now_ns);
    }

    fn count(&mut self, number: u32, sent_ns: u64, now_ns: u64) {
        self.recorder.received(Times::now(sent_ns), now_ns);
        self.faults.took(self.first + number, now_ns.saturating_sub(sent_ns));
        self.counts[number as usize] += 1;
        let conn = &mut self.conns[number as usize];
        (conn.heard_ns, conn.is_stalled) = (now_ns, false);
        self.last_ns = now_ns;
    }

    /// Names the fault: `message` arrived instead of message `next`.
    fn on_unexpected(&mut self, number: u32, next: u64, message: Message<'_>, now_ns: u64) {
        let conn = &mut self.conns[number as usize];
        let (first, conn_number) = (u64::from(self.first + number) << CONN_SHIFT, self.first + number);
        let stamp = payload::read(message.payload);
        if stamp.is_some_and(|stamp| stamp.run != self.run) {
            return self.faults.of_another_run(conn_number);
        }
        match stamp.filter(|_| message.kind == self.kind) {
            Some(Stamp { sequence, .. }) if (first..conn.given_up).contains(&sequence) => {}
            Some(Stamp { sequence, time_ns, .. }) if (first..next).contains(&sequence) => {
                if self.faults.behind(conn_number, Label { sequence, number: sequence - first, topic: None }) {
                    self.count(number, time_ns, now_ns);
                }
            }
            Some(Stamp { sequence, .. }) if conn.matches(sequence, message.payload) => {
                for sequence in next..sequence {
                    self.faults.skip(conn_number, Label { sequence, number: sequence - first, topic: None });
                }
                self.under_way -= sequence - next;
                conn.next_back = sequence;
                self.come_back(number, now_ns);
            }
            stamp => {
                match stamp.and_then(|stamp| self.owner(stamp)).filter(|owner| *owner != u64::from(conn_number)) {
                    Some(owner) => self.faults.foreign(conn_number, owner),
                    None if message.kind != self.kind => {
                        self.faults.wrong_kind(conn_number, message.kind == MessageKind::Binary);
                    }
                    None => self.faults.corrupt(conn_number, message.payload),
                }
                let conn = &mut self.conns[number as usize];
                // It replaces the next echo. If no echo is due, it belongs to no message.
                if next < conn.next_sent {
                    conn.next_back += 1;
                    self.under_way -= 1;
                    self.faults.replace(conn_number, next);
                }
            }
        }
    }

    /// The connection that sent a message with this stamp, if there is one.
    fn owner(&self, stamp: Stamp) -> Option<u64> {
        let owner = stamp.sequence >> CONN_SHIFT;
        let own = owner.checked_sub(self.first.into()).and_then(|index| self.conns.get(index as usize));
        let was_sent = match own {
            Some(conn) => stamp.sequence < conn.next_sent,
            // Another worker knows it.
            None => owner < u64::from(self.all),
        };
        was_sent.then_some(owner)
    }

    fn on_end(&mut self, number: u32, reason: &str) {
        self.faults.closed(self.first + number, reason);
        let awaited = self.abandon(number);
        if awaited > 0 {
            self.faults.given_up(self.first + number, awaited);
        }
    }

    /// Ends a turn of the loop.
    fn turn_over(&mut self) {
        self.recorder.turn_over(self.open.into(), self.faults.counts());
    }

    fn is_done(&self) -> bool {
        self.under_way == 0
    }

    /// Gives up the echoes due at connections that have received nothing since the timeout. Returns whether there are
    /// any.
    fn give_up_stalled(&mut self) -> bool {
        let now_ns = self.recorder.now_ns();
        if now_ns < self.next_look_ns {
            return false;
        }
        self.next_look_ns = now_ns + (self.patience / LOOKS_PER_PATIENCE).as_nanos() as u64;
        let Some(until_ns) = now_ns.checked_sub(self.patience.as_nanos() as u64) else { return false };
        let mut found = false;
        for (number, conn) in (0..).zip(&mut self.conns) {
            let awaited = conn.next_sent - conn.next_back;
            let is_overdue = awaited > 0 && conn.heard_ns < until_ns && conn.place(conn.next_back).sent_ns < until_ns;
            if is_overdue {
                let begins = !std::mem::replace(&mut conn.is_stalled, true);
                (conn.next_back, conn.given_up) = (conn.next_sent, conn.next_sent);
                self.under_way -= awaited;
                self.faults.stalled(self.first + number, awaited, begins);
                found = true;
            }
        }
        found
    }

    /// Gives up the messages in flight on connection `number`, and stops sending there. Returns their number.
    fn abandon(&mut self, number: u32) -> u64 {
        let conn = &mut self.conns[number as usize];
        let awaited = conn.next_sent - conn.next_back;
        self.open -= u32::from(!std::mem::replace(&mut conn.closed, true));
        conn.next_back = conn.next_sent;
        self.under_way -= awaited;
        awaited
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use ringfeed::proto::{Decoder, Event, Role};

    use super::*;
    use crate::check::faults::Counts;
    use crate::cli::{Arguments, Task};

    /// Two connections with a full pipeline of three, and the messages sent by connection 0.
    fn trips() -> (Trips, Vec<Vec<u8>>) {
        let flags = ["loadgen", "echo", "--url", "ws://a:1/", "--connections", "2", "--pipeline", "3"];
        let Task::Echo(options) = Arguments::parse_from(flags).task else { unreachable!() };
        let timeline = Arc::new(Timeline::start(Duration::from_secs(1), false));
        let mut trips = Trips::new(&options, 0..2, 7, Recorder::new(timeline));
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
    fn an_echo_makes_room_for_the_next_message() {
        let (mut trips, payloads) = trips();
        assert_eq!((payloads.len(), trips.under_way), (3, 6));
        trips.on_echo(0, text(&payloads[0]), 5100);
        let mut out = Vec::new();
        trips.send_due(0, 5100, &mut out, &mut MaskingKeys::new());
        let next = sent(out);
        assert_eq!((next.len(), trips.counts[0], trips.under_way), (1, 1, 6));
        trips.sending = false;
        [&payloads[1], &payloads[2], &next[0]].into_iter().for_each(|payload| trips.on_echo(0, text(payload), 6000));
        trips.send_due(0, 6000, &mut Vec::new(), &mut MaskingKeys::new());
        assert_eq!(trips.under_way, 3, "only connection 1 has messages in flight");
        assert_eq!(trips.faults.sum(), 0);
    }

    #[test]
    fn each_fault_gets_its_name() {
        // name, order of echoes on connection 0; missing, duplicate, reordered, corrupt
        let table = [
            ("gap", vec![0, 2], [1, 0, 0, 0]),
            ("again", vec![0, 0], [0, 1, 0, 0]),
            ("swapped", vec![1, 0, 2], [0, 0, 1, 0]),
        ];
        for (name, order, expected) in table {
            let (mut trips, payloads) = trips();
            order.iter().for_each(|index| trips.on_echo(0, text(&payloads[*index]), 200));
            let Counts { missing, duplicate, reordered, corrupt, .. } = trips.faults.counts();
            assert_eq!([missing, duplicate, reordered, corrupt], expected, "{name}");
        }
    }

    #[test]
    fn other_kinds_and_bytes_are_corrupt_and_those_of_others_are_foreign() {
        let (mut trips, payloads) = trips();
        trips.on_echo(0, Message::binary(&payloads[0]), 200);
        trips.on_echo(0, text(b"what?"), 200);
        trips.on_echo(1, text(&payloads[2]), 200);
        // Partly of another connection.
        let mixed = [&payloads[0][..50], &payloads[1][50..60]].concat();
        trips.on_echo(1, text(&mixed), 200);
        // Of a known connection that did not send it.
        let mut unsent = payloads[0].clone();
        payload::write_stamp(&mut unsent, Stamp { run: trips.run, sequence: 1000, time_ns: 0 });
        trips.on_echo(1, text(&unsent), 200);
        assert_eq!((trips.faults.counts().text(), trips.under_way), ("4 corrupt, 1 foreign".to_owned(), 1));
        assert!(trips.faults.report().examples[2].contains("foreign bytes, as connection 0 has sent them"));
    }

    #[test]
    fn a_closed_connection_has_no_outstanding_echoes() {
        let (mut trips, _) = trips();
        trips.on_end(0, "reset");
        assert_eq!(
            (trips.under_way, trips.open, trips.faults.counts().text()),
            (3, 1, "3 missing, 1 closed".to_owned())
        );
        let mut out = Vec::new();
        trips.send_due(0, 300, &mut out, &mut MaskingKeys::new());
        assert!(out.is_empty());
        trips.patience = Duration::ZERO;
        trips.next_look_ns = 0;
        while !trips.is_done() {
            trips.give_up_stalled();
        }
        assert_eq!(trips.faults.counts().text(), "6 missing, 1 stalled, 1 closed");
        assert!(!trips.conns[1].closed, "it may echo later messages");
    }
}
