//! Parsers of the server's output: WebSocket frames with envelopes, and event streams.

use super::truth::{Id, Place, Truth};

/// The fillers of all publications are slices of this.
const FILLER: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// A message of the server.
#[derive(Debug, PartialEq)]
pub(crate) enum ServerMessage {
    /// A WebSocket has subscribed.
    Subscribed { topic: usize, top: Place, recovered: Option<bool> },
    /// A publication, with the position of its topic, or of all topics of the stream.
    Publication { topic: usize, places: Vec<Place>, id: Id },
    /// The positions of an event stream.
    At(Vec<Place>),
    /// An event stream reports a loss in a topic.
    Lost { topic: usize, top: Place, places: Vec<Place> },
    /// A ping, with the masked answer to send.
    Ping(Vec<u8>),
    /// A Close frame.
    Close,
    /// Nothing of interest.
    Nothing,
}

/// The text of a publication: its id, and a filler derived from it.
pub(crate) fn payload(topic: &str, id: Id) -> String {
    let Id { publisher, number } = id;
    format!("{topic} {publisher} {number} {}", filler(id))
}

fn filler(id: Id) -> String {
    // Most are short; one in sixty-four is long.
    let len = if id.number.is_multiple_of(64) { 2000 } else { id.number * 7 % 200 };
    (0..len).map(|index| char::from(FILLER[((id.number + index) % 26) as usize])).collect()
}

/// Takes the first whole frame off `input`.
pub(crate) fn take_frame(input: &mut Vec<u8>, truth: &Truth) -> Option<ServerMessage> {
    let [first, second] = *input.first_chunk()?;
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (len, start) = match second {
        126 => (usize::from(u16::from_be_bytes(*input[2..].first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*input[2..].first_chunk()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    let payload = input.get(start..start + len)?;
    let news = match first {
        0x81 => read_envelope(std::str::from_utf8(payload).expect("text"), truth),
        0x88 => ServerMessage::Close,
        0x89 => ServerMessage::Ping(payload.to_vec()),
        other => panic!("a frame that begins with {other:#x}"),
    };
    input.drain(..start + len);
    Some(news)
}

fn read_envelope(text: &str, truth: &Truth) -> ServerMessage {
    let (head, payload) = text.split_once('\n').expect("a line");
    let place = Place { epoch: epoch(text_field(head, "epoch")), offset: number_field(head, "offset") };
    let topic = text_field(head, "topic");
    if head.contains("\"subscribed\":true") {
        let recovered = head.contains("\"recovered\":").then(|| head.contains("\"recovered\":true"));
        return ServerMessage::Subscribed { topic: truth.find(topic), top: place, recovered };
    }
    let (of, id) = read_payload(payload);
    assert_eq!(of, topic, "a publication of another topic");
    ServerMessage::Publication { topic: truth.find(topic), places: vec![place], id }
}

/// Parses a publication's topic and id, and checks the rest of it.
fn read_payload(payload: &str) -> (&str, Id) {
    let mut parts = payload.splitn(4, ' ');
    let mut part = || parts.next().unwrap_or_else(|| panic!("unknown publication: {payload}"));
    let topic = part();
    let mut number = || part().parse().unwrap_or_else(|_| panic!("unknown publication: {payload}"));
    let id = Id { publisher: number(), number: number() };
    assert_eq!(part(), filler(id), "a publication changed in transit");
    (topic, id)
}

/// Takes the first whole block of an event stream off `input`.
pub(crate) fn take_block(input: &mut Vec<u8>, truth: &Truth) -> Option<ServerMessage> {
    let end = input.windows(2).position(|window| window == b"\n\n")? + 2;
    let block: Vec<u8> = input.drain(..end).collect();
    let block = std::str::from_utf8(&block).expect("text");
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let Some(ids) = field("id") else {
        assert!(block.starts_with("retry: ") || block.starts_with(':'), "no id: {block}");
        return Some(ServerMessage::Nothing);
    };
    let places: Vec<Place> = ids.split(',').map(parse_place).collect();
    Some(match (field("event"), field("data")) {
        (None, None) => ServerMessage::At(places),
        (None, Some(data)) => {
            let (topic, id) = read_payload(data);
            ServerMessage::Publication { topic: truth.find(topic), places, id }
        }
        (Some("lost"), Some(data)) => {
            let top = Place { epoch: epoch(text_field(data, "epoch")), offset: number_field(data, "offset") };
            ServerMessage::Lost { topic: truth.find(text_field(data, "topic")), top, places }
        }
        _ => panic!("unknown event: {block}"),
    })
}

/// Parses `<epoch>:<offset>`.
pub(crate) fn parse_place(text: &str) -> Place {
    let (epoch_text, offset) = text.split_once(':').unwrap_or_else(|| panic!("malformed position: {text}"));
    Place { epoch: epoch(epoch_text), offset: offset.parse().unwrap_or_else(|_| panic!("malformed position: {text}")) }
}

/// The inverse of [`parse_place`].
pub(crate) fn format_place(place: Place) -> String {
    format!("{}:{}", std::str::from_utf8(&place.epoch).expect("it was text"), place.offset)
}

fn epoch(text: &str) -> [u8; 13] {
    text.as_bytes().try_into().unwrap_or_else(|_| panic!("not an epoch: {text}"))
}

fn text_field<'a>(json: &'a str, name: &str) -> &'a str {
    let value = after_name(json, name).strip_prefix('"').and_then(|rest| rest.split('"').next());
    value.unwrap_or_else(|| panic!("no text {name}: {json}"))
}

fn number_field(json: &str, name: &str) -> u64 {
    let digits = after_name(json, name).split(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no number {name}: {json}"))
}

fn after_name<'a>(json: &'a str, name: &str) -> &'a str {
    let (_, rest) = json.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name}: {json}"));
    rest
}
