//! Parses commands of Centrifugo's client protocol and bodies of its server API with simd-json, compared with
//! serde_json.
//!
//! The readers extract everything that the server uses: names, tokens and positions as borrowed text, embedded data as
//! its original bytes.

mod support;

use std::borrow::Cow;
use std::collections::HashMap;

use ringfeed::gateway::centrifuge::{JsonReader, Request, Taken};
use serde::Deserialize;
use serde_json::value::RawValue;
use simd_json::prelude::{TypedValue, ValueAsObject, ValueAsScalar, ValueIntoArray, ValueIntoObject, ValueIntoString};
use simd_json::{Buffers, INPUT_PADDING, Tape, fill_tape_padded};
use support::{Comparisons, Contender};

const BATCHES: [usize; 4] = [2, 8, 32, 128];
const BODIES: [usize; 4] = [1, 10, 100, 1000];

fn main() {
    let mut comparisons = Comparisons::from_command_line("commands");
    let title = "one message of commands, into what the server acts on: serde_json into borrowed structs, against \
                 simd-json's tape with memory used again, as the server reads (n / speed = ns a message)";
    comparisons.table(title, "serde_json", "simd-json");
    for (name, message) in messages() {
        compare_messages(&mut comparisons, &name, &message);
    }
    let title =
        "the ways of simd-json, of commands without data: values that borrow, against the tape as the server reads";
    comparisons.table(title, "values", "tape");
    for (name, message) in without_data() {
        let row = format!("{name}, {} B", message.len());
        let values = |_| Read::new(&message, Values::default());
        comparisons.compare(&row, message.len(), values, |_| Read::new(&message, Tapes::default()));
    }
    let title = "and serde into borrowed structs, with buffers used again, against the same tape";
    comparisons.table(title, "serde", "tape");
    for (name, message) in without_data() {
        let row = format!("{name}, {} B", message.len());
        let typed = |_| Read::new(&message, SimdTyped::default());
        comparisons.compare(&row, message.len(), typed, |_| Read::new(&message, Tapes::default()));
    }
    let title = "the body of a server API call with n publications, every name and payload looked at: serde_json into \
                 borrowed structs, against simd-json's tape with memory used again";
    comparisons.table(title, "serde_json", "simd-json");
    for count in BODIES {
        let body = api_body(count);
        let row = format!("{count} publications, {} B", body.len());
        let typed = |_| Read::new(&body, TypedBody);
        comparisons.compare(&row, body.len(), typed, |_| Read::new(&body, TapeBody::default()));
    }
    comparisons.finish();
}

fn compare_messages(comparisons: &mut Comparisons, name: &str, message: &str) {
    let row = format!("{name}, {} B", message.len());
    let typed = |_| Read::new(message, Typed);
    comparisons.compare(&row, message.len(), typed, |_| Read::new(message, Tapes::default()));
}

fn messages() -> Vec<(String, String)> {
    let subscribe = r#"{"id":2,"subscribe":{"channel":"chat:room-17","flag":1,"recover":true,"offset":4711,"epoch":"0d3x5v8k2m1qa"}}"#;
    let token = "eyJhbGciOiJIUzI1NiJ9.".to_owned() + &"x".repeat(180);
    let connect = format!(r#"{{"id":1,"connect":{{"token":"{token}","name":"js"}}}}"#);
    let publish = |data: &str| format!(r#"{{"id":7,"publish":{{"channel":"chat:room-17","data":{data}}}}}"#);
    let large: Vec<String> = (0..200).map(|n| format!(r#"{{"n":{n},"text":"a line of chat, number {n}"}}"#)).collect();
    let mut messages = vec![
        ("pong".to_owned(), "{}".to_owned()),
        ("subscribe".to_owned(), subscribe.to_owned()),
        ("connect".to_owned(), connect),
        ("publish".to_owned(), publish(r#"{"text":"hello","at":1732190000}"#)),
        ("publish, large".to_owned(), publish(&format!("[{}]", large.join(",")))),
    ];
    messages.extend(BATCHES.map(|count| (format!("batch of {count}"), batch(count))));
    messages
}

/// simd-json has no positions of values, which the server needs to pass on embedded data.
fn without_data() -> impl Iterator<Item = (String, String)> {
    messages().into_iter().filter(|(_, message)| !message.contains("data"))
}

fn batch(count: usize) -> String {
    let subscribe =
        |n| format!(r#"{{"id":{n},"subscribe":{{"channel":"chat:room-{n}","flag":1,"recover":true,"offset":{n}}}}}"#);
    (1..=count).map(subscribe).collect::<Vec<_>>().join("\n")
}

fn api_body(count: usize) -> String {
    let publication = |n| {
        format!(
            r#"{{"publish":{{"channel":"news:{n}","data":{{"title":"number {n}","tags":["a","b"],"price":{n}.25}}}}}}"#
        )
    };
    format!(r#"{{"commands":[{}]}}"#, (0..count).map(publication).collect::<Vec<_>>().join(","))
}

/// A way to parse a message. Returns the number of bytes of names and data found.
trait Reader {
    fn read(&mut self, message: &str) -> usize;
}

/// Parses the same message repeatedly.
struct Read<R> {
    message: String,
    reader: R,
    /// The result of an independent reader.
    expected: usize,
    found: usize,
}

impl<R: Reader> Read<R> {
    fn new(message: &str, reader: R) -> Self {
        Self { message: message.to_owned(), reader, expected: expected(message), found: 0 }
    }
}

impl<R: Reader> Contender for Read<R> {
    fn work(&mut self) {
        self.found = self.reader.read(&self.message);
    }

    fn check(&self) {
        assert_eq!(self.found, self.expected, "{}", &self.message[..self.message.len().min(200)]);
    }
}

/// Bytes of channels, tokens and data, counted with serde_json's own values.
fn expected(message: &str) -> usize {
    let text = |value: &serde_json::Value| value.as_str().map_or(0, str::len);
    let of_request = |request: &serde_json::Value| {
        let data = request.get("data").map_or(0, |data| data.to_string().len());
        text(&request["channel"]) + text(&request["token"]) + data
    };
    let of_command = |command: &serde_json::Value| -> usize {
        command.as_object().expect("a command is an object").values().map(of_request).sum()
    };
    let commands = message.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("valid JSON"));
    let of_line = |line: serde_json::Value| match line["commands"].as_array() {
        Some(commands) => commands.iter().map(of_command).sum(),
        None => of_command(&line),
    };
    commands.map(of_line).sum()
}

/// The server's own reader.
#[derive(Default)]
struct Tapes(JsonReader);

impl Reader for Tapes {
    fn read(&mut self, message: &str) -> usize {
        let mut found = 0;
        let outcome = self.0.read(message.as_bytes(), |command| {
            found += size(&command.request);
            Taken::Yes
        });
        outcome.expect("a good message");
        found
    }
}

fn size(request: &Request<'_>) -> usize {
    match request {
        Request::Connect(connect) => connect.token.len(),
        Request::Subscribe(subscribe) => subscribe.channel.len() + subscribe.token.len(),
        Request::Publish(publish) => publish.channel.len() + publish.data.len(),
        _ => 0,
    }
}

/// serde_json into borrowing structs, line by line.
struct Typed;

#[derive(Deserialize)]
struct Command<'a> {
    #[serde(default)]
    id: u32,
    #[serde(borrow)]
    connect: Option<Connect<'a>>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    publish: Option<Publish<'a>>,
}

#[derive(Deserialize)]
struct Connect<'a> {
    #[serde(borrow, default)]
    token: Cow<'a, str>,
    #[serde(borrow, default)]
    subs: HashMap<Cow<'a, str>, Subscribe<'a>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Subscribe<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    token: Cow<'a, str>,
    recover: bool,
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    offset: u64,
    join_leave: bool,
    flag: i64,
}

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

impl Reader for Typed {
    fn read(&mut self, message: &str) -> usize {
        message
            .split('\n')
            .map(|line| std::hint::black_box(&serde_json::from_str::<Command<'_>>(line).expect("valid")).size())
            .sum()
    }
}

impl Command<'_> {
    fn size(&self) -> usize {
        let connect = self.connect.as_ref().map_or(0, |connect| connect.token.len() + connect.subs.len());
        let subscribe = self.subscribe.as_ref().map_or(0, Subscribe::size);
        let publish = self.publish.as_ref().map_or(0, |publish| publish.channel.len() + publish.data.get().len());
        std::hint::black_box(self.id);
        connect + subscribe + publish
    }
}

impl Subscribe<'_> {
    fn size(&self) -> usize {
        std::hint::black_box((self.recover, &self.epoch, self.offset, self.join_leave, self.flag));
        self.channel.len() + self.token.len()
    }
}

/// simd-json's values, line by line.
#[derive(Default)]
struct Values {
    input: Vec<u8>,
    buffers: Buffers,
}

impl Reader for Values {
    fn read(&mut self, message: &str) -> usize {
        message.split('\n').map(|line| self.read_line(line)).sum()
    }
}

impl Values {
    fn read_line(&mut self, line: &str) -> usize {
        self.input.clear();
        self.input.extend_from_slice(line.as_bytes());
        let value = simd_json::to_borrowed_value_with_buffers(&mut self.input, &mut self.buffers).expect("valid");
        let command = value.as_object().expect("a command");
        command.values().filter_map(|request| request.as_object()).map(value_size).sum()
    }
}

/// Visits each member once, as the server does.
fn value_size(request: &simd_json::borrowed::Object<'_>) -> usize {
    let mut found = 0;
    for (key, value) in request {
        match key.as_ref() {
            "channel" | "token" => found += value.as_str().map_or(0, str::len),
            _ => drop(std::hint::black_box(value.value_type())),
        }
    }
    found
}

/// simd-json into borrowing structs, line by line.
#[derive(Default)]
struct SimdTyped {
    input: Vec<u8>,
    buffers: Buffers,
}

impl Reader for SimdTyped {
    fn read(&mut self, message: &str) -> usize {
        let read = |line: &str| {
            self.input.clear();
            self.input.extend_from_slice(line.as_bytes());
            let (input, buffers) = (&mut self.input, &mut self.buffers);
            let command: Command<'_> = simd_json::serde::from_slice_with_buffers(input, buffers).expect("valid");
            std::hint::black_box(&command).size()
        };
        message.split('\n').map(read).sum()
    }
}

/// serde_json into borrowing structs: a body of the server API.
struct TypedBody;

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    commands: Vec<Command<'a>>,
}

impl Reader for TypedBody {
    fn read(&mut self, message: &str) -> usize {
        serde_json::from_str::<Body<'_>>(message).expect("valid").commands.iter().map(Command::size).sum()
    }
}

/// simd-json's tape: a body of the server API.
struct TapeBody {
    input: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Default for TapeBody {
    fn default() -> Self {
        Self { input: Vec::new(), buffers: Buffers::default(), tape: Tape::null() }
    }
}

impl Reader for TapeBody {
    fn read(&mut self, message: &str) -> usize {
        self.input.clear();
        self.input.extend_from_slice(message.as_bytes());
        let length = self.input.len();
        self.input.resize(length + INPUT_PADDING, 0);
        let mut tape = std::mem::replace(&mut self.tape, Tape::null()).reset();
        fill_tape_padded(&mut self.input, length, &mut self.buffers, &mut tape).expect("valid");
        let found = tape_size(&tape, message);
        self.tape = tape.reset();
        found
    }
}

/// Bytes of channels and of data. The data is an object here, with its end found by counting braces.
fn tape_size(tape: &Tape<'_>, message: &str) -> usize {
    let mut found = 0;
    let mut rest = message;
    let commands = tape.as_value().into_object().and_then(|body| body.get("commands")).expect("commands");
    for command in &commands.into_array().expect("a list") {
        let publish = command.into_object().and_then(|command| command.get("publish")).expect("a publication");
        let channel = publish.into_object().and_then(|publish| publish.get("channel")).expect("a channel");
        found += channel.into_string().map_or(0, str::len);
        let start = rest.find(r#""data":"#).expect("data") + r#""data":"#.len();
        let end = start + object_len(&rest[start..]);
        found += end - start;
        rest = &rest[end..];
    }
    found
}

fn object_len(text: &str) -> usize {
    let mut depth = 0;
    let end = text.bytes().position(|byte| {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        depth == 0
    });
    end.expect("an object ends") + 1
}
