//! `POST /publish`: the body is a stream of publications, the answer a stream of acknowledgements in the same order.
//!
//! `record` parses the body. hyper polls the answer only while the client reads it, and the answer polls the body. So
//! the server stops reading from a client that does not read acknowledgements, and also while a shard's queue is full.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, StatusCode};

use super::answer::{Answer, streamed, text};
use super::record::{Decoder, Format};
use super::shards::Outcome;
use super::{RETRY, State};
use crate::limits::{CONTROL_BODY_MS, STREAM_BUSY_MS, STREAM_BYTES_MAX, STREAM_IDLE_MS, STREAM_RECORDS_MAX};
use crate::server::PublishError;
use crate::topics::{Draft, Position};

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const FRAMES: HeaderValue = HeaderValue::from_static("application/vnd.ringfeed.frames");

/// Counts of all streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamCounts {
    /// Records that the server acknowledged with a position.
    pub(super) published: u64,
    /// Records that the server refused, malformed ones included.
    pub(super) refused: u64,
}

/// Answers one request.
pub(super) fn post<B: Body<Data = Bytes> + 'static>(state: &Rc<State>, request: Request<B>) -> Answer {
    let Some(format) = format(request.headers()) else {
        let remedy = "a stream of publications needs 'Content-Type: application/x-ndjson' or \
                      'application/vnd.ringfeed.frames'; one publication needs a topic: POST /publish/<topic>";
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, remedy);
    };
    let content_type = match format {
        Format::Lines => NDJSON,
        Format::Frames => FRAMES,
    };
    let session = Session::new(state.clone(), format, request.into_body());
    let acknowledgements = unfold(session, async |mut session| {
        let bytes = session.next().await?;
        Some((Ok::<_, Infallible>(Frame::data(bytes)), session))
    });
    streamed(content_type, Box::pin(StreamBody::new(acknowledgements)))
}

fn format(headers: &HeaderMap) -> Option<Format> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let media_type = value.split(|byte| *byte == b';').next()?.trim_ascii();
    let formats = [(NDJSON, Format::Lines), (FRAMES, Format::Frames)];
    let found = formats.iter().find(|(name, _)| media_type.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, format)| *format)
}

/// Why a record was refused.
enum Refusal {
    Shard(PublishError),
    /// The stream ends.
    Malformed(String),
    /// The stream ends.
    TooSlow,
}

/// A record without an acknowledgement yet.
enum InFlight {
    Sent(Outcome, usize),
    Settled(Result<Position, Refusal>),
}

/// One stream.
struct Session<B> {
    state: Rc<State>,
    body: Pin<Box<B>>,
    decoder: Decoder,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// A record for which the shard's queue had no room, and since when.
    held: Option<(Draft, Instant)>,
    /// The client has sent all of the body.
    is_body_over: bool,
    /// No further record is published.
    is_over: bool,
    /// When the oldest buffered byte arrived, moved on by the times in which the server did not read.
    began: Instant,
    /// Records have been decoded since `began`.
    is_progressing: bool,
    out: Acknowledgements,
}

impl<B: Body<Data = Bytes>> Session<B> {
    fn new(state: Rc<State>, format: Format, body: B) -> Session<B> {
        Session {
            state,
            body: Box::pin(body),
            decoder: Decoder::new(format),
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            held: None,
            is_body_over: false,
            is_over: false,
            began: Instant::now(),
            is_progressing: true,
            out: Acknowledgements::new(format),
        }
    }

    /// The next acknowledgements; `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.publish();
            self.acknowledge();
            if !self.out.bytes.is_empty() {
                return Some(std::mem::take(&mut self.out.bytes).into());
            }
            if self.is_over && self.in_flight.is_empty() {
                return None;
            }
            self.wait().await;
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < STREAM_RECORDS_MAX && self.in_flight_bytes < STREAM_BYTES_MAX
    }

    /// Sends buffered records to the shards, as far as the bounds allow.
    fn publish(&mut self) {
        while !self.is_over && self.has_room() {
            let (draft, since) = match self.held.take() {
                Some((draft, since)) => (draft, Some(since)),
                None => match self.next_draft() {
                    Some(draft) => (draft, None),
                    None => return,
                },
            };
            let bytes = draft.bytes();
            match self.state.send(draft.clone()) {
                Ok(outcome) => {
                    self.in_flight_bytes += bytes;
                    self.in_flight.push_back(InFlight::Sent(outcome, bytes));
                }
                Err(PublishError::Busy) if since.is_none_or(|since| since.elapsed() < BUSY_MAX) => {
                    self.held = Some((draft, since.unwrap_or_else(Instant::now)));
                    return;
                }
                Err(error) => {
                    self.is_over = error == PublishError::Stopping;
                    self.refuse(Refusal::Shard(error));
                }
            }
        }
    }

    fn next_draft(&mut self) -> Option<Draft> {
        let decoded = match self.decoder.next() {
            Ok(None) if self.is_body_over => {
                let last = self.decoder.finish();
                self.is_over = !matches!(last, Ok(Some(_)));
                last
            }
            decoded => decoded,
        };
        self.is_progressing |= matches!(decoded, Ok(Some(_)));
        decoded.unwrap_or_else(|error| {
            self.is_over = true;
            self.refuse(Refusal::Malformed(error));
            None
        })
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.in_flight.push_back(InFlight::Settled(Err(refusal)));
    }

    /// Writes the acknowledgements that are known, in order.
    fn acknowledge(&mut self) {
        let mut counts = self.state.streams.get();
        while let Some(first) = self.in_flight.pop_front() {
            let result = match first {
                InFlight::Settled(result) => result,
                InFlight::Sent(mut outcome, bytes) => match outcome.try_recv() {
                    Err(tokio::sync::oneshot::error::TryRecvError::Empty) => {
                        self.in_flight.push_front(InFlight::Sent(outcome, bytes));
                        break;
                    }
                    received => {
                        self.in_flight_bytes -= bytes;
                        received.unwrap_or(Err(PublishError::Stopping)).map_err(Refusal::Shard)
                    }
                },
            };
            counts.published += u64::from(result.is_ok());
            counts.refused += u64::from(result.is_err());
            self.out.write(result);
        }
        self.state.streams.set(counts);
    }

    /// Waits for an outcome, for more of the body, or until a full queue is tried again.
    async fn wait(&mut self) {
        let is_reading = !self.is_over && !self.is_body_over && self.held.is_none() && self.has_room();
        let start = Instant::now();
        let patience = match self.decoder.is_empty() {
            true => IDLE_MAX,
            false => RECORD_MAX.saturating_sub(self.began.elapsed()),
        };
        let first = self.in_flight.front_mut();
        let settled = async {
            match first {
                // The result stays in `first`, as a settled one.
                Some(first) => {
                    let InFlight::Sent(outcome, bytes) = first else { return 0 };
                    let (bytes, result) = (*bytes, outcome.await.unwrap_or(Err(PublishError::Stopping)));
                    *first = InFlight::Settled(result.map_err(Refusal::Shard));
                    bytes
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            bytes = settled => self.in_flight_bytes -= bytes,
            frame = self.body.frame(), if is_reading => self.on_frame(frame),
            () = tokio::time::sleep(RETRY), if self.held.is_some() => {}
            () = tokio::time::sleep(patience), if is_reading => {
                self.is_over = true;
                self.refuse(Refusal::TooSlow);
            }
        }
        if !is_reading {
            self.began += start.elapsed();
        }
    }

    fn on_frame(&mut self, frame: Option<Result<Frame<Bytes>, B::Error>>) {
        match frame {
            None => self.is_body_over = true,
            Some(Ok(frame)) => {
                let Ok(piece) = frame.into_data() else { return };
                if std::mem::take(&mut self.is_progressing) || self.decoder.is_empty() {
                    self.began = Instant::now();
                }
                self.decoder.feed(&piece);
            }
            // The client has disconnected within the body, or has sent an invalid chunk. The stream ends.
            Some(Err(_)) => {
                self.is_over = true;
                self.refuse(Refusal::Malformed("the body could not be read to its end".to_owned()));
            }
        }
    }
}

const BUSY_MAX: Duration = Duration::from_millis(STREAM_BUSY_MS);
const IDLE_MAX: Duration = Duration::from_millis(STREAM_IDLE_MS);
const RECORD_MAX: Duration = Duration::from_millis(CONTROL_BODY_MS);

/// Writes acknowledgements.
struct Acknowledgements {
    format: Format,
    bytes: Vec<u8>,
    /// The epoch of the last position and its text, since most records share it.
    epoch: Option<(crate::topics::Epoch, String)>,
}

impl Acknowledgements {
    fn new(format: Format) -> Acknowledgements {
        Acknowledgements { format, bytes: Vec::new(), epoch: None }
    }

    fn write(&mut self, result: Result<Position, Refusal>) {
        match self.format {
            Format::Lines => self.write_line(result),
            Format::Frames => {
                let (status, offset) = match result {
                    Ok(position) => (0, position.offset),
                    Err(refusal) => (refusal.status(), 0),
                };
                self.bytes.extend_from_slice(&offset.to_le_bytes());
                self.bytes.push(status);
            }
        }
    }

    fn write_line(&mut self, result: Result<Position, Refusal>) {
        let mut line = String::with_capacity(64);
        match result {
            Ok(Position { epoch, offset }) => {
                if self.epoch.as_ref().is_none_or(|(known, _)| *known != epoch) {
                    self.epoch = Some((epoch, epoch.to_string()));
                }
                let text = self.epoch.as_ref().map_or("", |(_, text)| text);
                writeln!(line, "{{\"offset\":{offset},\"epoch\":\"{text}\"}}").expect("a string takes all text");
            }
            Err(refusal) => {
                let error = serde_json::Value::from(refusal.reason());
                writeln!(line, "{{\"error\":{error}}}").expect("a string takes all text");
            }
        }
        self.bytes.extend_from_slice(line.as_bytes());
    }
}

impl Refusal {
    fn reason(&self) -> String {
        match self {
            Refusal::Shard(error) => error.to_string(),
            Refusal::Malformed(reason) => reason.clone(),
            Refusal::TooSlow => format!(
                "no whole record arrived in time: at most {} s for one record, and {} s between two",
                RECORD_MAX.as_secs(),
                IDLE_MAX.as_secs()
            ),
        }
    }

    /// The status byte of the binary form.
    fn status(&self) -> u8 {
        match self {
            Refusal::Shard(PublishError::Busy) => 1,
            Refusal::Shard(PublishError::TooManyTopics) => 2,
            Refusal::Shard(PublishError::TooManyKeys) => 3,
            Refusal::Shard(PublishError::UnknownNamespace) => 4,
            Refusal::Shard(PublishError::Stopping) => 5,
            Refusal::Malformed(_) => 6,
            Refusal::TooSlow => 7,
            Refusal::Shard(PublishError::NoLog) => 8,
            Refusal::Shard(PublishError::Unconfirmed) => 9,
            Refusal::Shard(PublishError::TooLarge) => 10,
            Refusal::Shard(PublishError::SystemTopic) => 11,
            Refusal::Shard(PublishError::NoKey) => 12,
            Refusal::Shard(PublishError::NotKeyed) => 13,
            Refusal::Shard(PublishError::NoSuchKey) => 14,
            Refusal::Shard(PublishError::Conflict) => 15,
            Refusal::Shard(PublishError::ValueTooLarge) => 16,
            Refusal::Shard(PublishError::StateFull) => 17,
            Refusal::Shard(PublishError::TooManyFilters) => 18,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::control::fake::Shards;

    fn post_to(shards: &Shards, content_type: &'static str, body: impl Into<Bytes>) -> (u16, Vec<u8>) {
        let state = Rc::new(shards.state());
        let mut request = Request::new(Full::new(body.into()));
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        tokio_uring::start(async {
            let (parts, body) = post(&state, request).into_parts();
            (parts.status.as_u16(), body.collect().await.unwrap().to_bytes().to_vec())
        })
    }

    #[test]
    fn each_record_has_its_acknowledgement_in_order() {
        let shards = Shards::default();
        let topics = ["a", "full", "b", "unknown:topic", "a"];
        let body: String = topics.iter().map(|topic| format!("{{\"topic\":\"{topic}\",\"data\":1}}\n")).collect();
        let (status, lines) = post_to(&shards, "application/x-ndjson; charset=utf-8", body);
        let lines = String::from_utf8(lines).unwrap();
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!((status, lines.len()), (200, topics.len()), "{lines:?}");
        for (line, expected) in
            lines.iter().zip(["\"offset\":1,", "too many topics", "\"offset\":2,", "unknown", ":3,"])
        {
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn frames_have_acknowledgements_of_nine_bytes() {
        let frame = |topic: &str| [&[6, 0, 0, 0, 1, 1][..], topic.as_bytes(), &[0, 0, b'x']].concat();
        let body = [frame("a"), frame("b"), vec![1, 0, 0, 0, 0]].concat();
        let (status, bytes) = post_to(&Shards::default(), "application/vnd.ringfeed.frames", body);
        let expected = [1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6];
        assert_eq!((status, bytes), (200, expected.to_vec()));
    }

    #[test]
    fn a_stream_ends_at_a_malformed_record_and_at_a_stopped_shard() {
        for (culprit, reason) in [("nonsense", "line 2: "), ("{\"topic\":\"gone\",\"data\":1}", "stopping")] {
            let shards = Shards::default();
            let body = format!("{{\"topic\":\"a\",\"data\":1}}\n{culprit}\n");
            let (_, lines) = post_to(&shards, "application/x-ndjson", body);
            let lines = String::from_utf8(lines).unwrap();
            assert!(lines.lines().count() == 2 && lines.contains(reason), "{lines}");
        }
    }

    #[test]
    fn a_busy_shard_holds_the_record_for_a_bounded_time() {
        let start = Instant::now();
        let (_, line) = post_to(&Shards::default(), "application/x-ndjson", "{\"topic\":\"busy\",\"data\":1}");
        assert!(start.elapsed() >= BUSY_MAX);
        assert!(String::from_utf8(line).unwrap().contains("try again later"));
    }

    #[test]
    fn other_content_types_are_refused_with_the_remedy() {
        let (status, body) = post_to(&Shards::default(), "application/json", "{}");
        assert_eq!(status, 415);
        assert!(String::from_utf8(body).unwrap().contains("application/x-ndjson"));
    }
}
