//! The JSON encoding: commands, separated by newlines in a text message, and replies.
//!
//! simd-json unescapes strings in place, so the reader copies each command once, into a buffer that it reuses, like the
//! parser's tape. The server forwards a client's `data` verbatim: the reader finds its text in the original message, so
//! only its syntax matters.

use std::sync::Arc;

use simd_json::prelude::{TypedScalarValue, ValueAsScalar, ValueIntoString};
use simd_json::value::tape::Value;
use simd_json::{Buffers, INPUT_PADDING, Tape, fill_tape_padded};

use super::filter::{BadFilter, read_filter_json};
use super::normalize::normalize;
use super::protocol::{
    Command, ConnectRequest, HistoryRequest, Malformed, PublishRequest, Request, StreamPosition, SubscribeRequest,
    Taken,
};
use super::raw::member;
use super::reply::{ConnectResult, Reply};
use crate::topics::TagsFilter;

/// Maximum size of a message, in bytes, for which the reader keeps its buffers.
const KEEP_BYTES: usize = 64 * 1024;

/// Reads messages; reuses its buffers.
pub struct JsonReader {
    input: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Default for JsonReader {
    fn default() -> Self {
        JsonReader { input: Vec::new(), buffers: Buffers::default(), tape: Tape::null() }
    }
}

impl JsonReader {
    /// Passes each command of `message` to `take`, in order, until `take` stops. Returns the rest of the message from
    /// the first command that was not taken.
    ///
    /// # Errors
    /// [`Malformed`]; `take` has received the commands before the error.
    pub fn read<'m>(
        &mut self,
        message: &'m [u8],
        mut take: impl FnMut(Command<'_>) -> Taken,
    ) -> Result<&'m [u8], Malformed> {
        let mut rest = message.trim_ascii();
        let outcome = loop {
            // One parse per line, though one parse of all lines would be faster: in lines that are JSON only together,
            // a command's text is not in its line, and its data could be any text.
            let end = rest.iter().position(|byte| *byte == b'\n');
            let line = &rest[..end.unwrap_or(rest.len())];
            match (self.read_line(line, &mut take), end) {
                (Ok(Taken::Yes), Some(end)) => rest = &rest[end + 1..],
                (Ok(Taken::Later), _) => break Ok(rest),
                (Ok(Taken::Yes | Taken::Last), _) => break Ok(&b""[..]),
                (Err(malformed), _) => break Err(malformed),
            }
        };
        self.shrink();
        outcome
    }

    /// Passes the command in `line` to `take`.
    fn read_line(&mut self, line: &[u8], take: &mut impl FnMut(Command<'_>) -> Taken) -> Result<Taken, Malformed> {
        self.load(line);
        if let Some(outcome) = self.parse(line, take) {
            return outcome;
        }
        self.load(line);
        normalize(&mut self.input[..line.len()]);
        self.parse(line, take).unwrap_or(Err(Malformed))
    }

    fn load(&mut self, line: &[u8]) {
        self.input.clear();
        self.input.extend_from_slice(line);
        self.input.resize(line.len() + INPUT_PADDING, 0);
    }

    /// Parses the loaded line and passes the command to `take`; `None` if it is not parseable.
    fn parse(&mut self, line: &[u8], take: &mut impl FnMut(Command<'_>) -> Taken) -> Option<Result<Taken, Malformed>> {
        let mut tape = std::mem::replace(&mut self.tape, Tape::null()).reset();
        let is_parsed = fill_tape_padded(&mut self.input, line.len(), &mut self.buffers, &mut tape).is_ok();
        let outcome = is_parsed.then(|| read_command(tape.as_value(), line).map(take));
        self.tape = tape.reset();
        outcome
    }

    /// Releases buffers that only an unusually large message needed.
    fn shrink(&mut self) {
        if self.input.capacity() > 2 * KEEP_BYTES {
            *self = JsonReader::default();
        }
    }
}

/// Appends a reply, without a newline: each reply is one message.
pub fn encode_reply_json(out: &mut Vec<u8>, reply: &Reply) {
    serde_json::to_writer(out, reply).expect("every reply has a JSON form");
}

/// Appends what a unidirectional client receives instead of a reply: the push alone, or the result of its connect
/// request as one. Other replies have no form: such a client sends no other commands.
pub(super) fn encode_bare_push(out: &mut Vec<u8>, reply: &Reply) {
    #[derive(serde::Serialize)]
    struct Connected<'r> {
        connect: &'r ConnectResult,
    }
    let written = match reply {
        Reply { push: Some(push), .. } => serde_json::to_writer(out, push),
        Reply { connect: Some(connect), .. } => serde_json::to_writer(out, &Connected { connect }),
        _ => Ok(()),
    };
    written.expect("every push has a JSON form");
}

/// The command of a unidirectional client, which sends only the content of its connect request.
pub(super) fn connect_command(request: &[u8]) -> Vec<u8> {
    let request = if request.trim_ascii().is_empty() { b"{}" } else { request };
    // A command is a line. In JSON, line breaks are only space.
    let line = request.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte });
    b"{\"id\":1,\"connect\":".iter().copied().chain(line).chain(*b"}").collect()
}

/// The command in `value`; `line` is its text.
fn read_command<'a>(value: Value<'_, 'a>, line: &'a [u8]) -> Result<Command<'a>, Malformed> {
    let (mut id, mut request) = (0, None);
    for (key, value) in fields(value)? {
        match key {
            "id" => id = integer(value)?,
            "connect" | "subscribe" | "unsubscribe" | "publish" | "presence" | "presence_stats" | "history"
            | "ping" | "send" | "rpc" | "refresh" | "sub_refresh"
                if !value.is_null() =>
            {
                let earlier = request.replace(read_request(key, value, line)?);
                earlier.map_or(Ok(()), |_| Err(Malformed))?;
            }
            _ => {}
        }
    }
    Command::new(id, request)
}

fn read_request<'a>(name: &str, value: Value<'_, 'a>, line: &'a [u8]) -> Result<Request<'a>, Malformed> {
    Ok(match name {
        "connect" => Request::Connect(ConnectRequest { data: data(value, line, name)?, ..read_connect(value)? }),
        "subscribe" => {
            let (data, filter) = (data(value, line, name)?, read_filter(value, line)?);
            Request::Subscribe(SubscribeRequest { data, filter, ..read_subscribe(value)? })
        }
        "unsubscribe" => Request::Unsubscribe { channel: read_channel(value)? },
        "publish" => Request::Publish(read_publish(value, line)?),
        "presence" => Request::Presence { channel: read_channel(value)? },
        "presence_stats" => Request::PresenceStats { channel: read_channel(value)? },
        "history" => Request::History(read_history(value)?),
        "send" => Request::Send { data: data(value, line, name)? },
        "rpc" => read_rpc(value, line)?,
        "refresh" => Request::Refresh { token: read_tokens(value)?.1 },
        "sub_refresh" => {
            let (channel, token) = read_tokens(value)?;
            Request::SubRefresh { channel, token }
        }
        _ => fields(value).map(|_| Request::Ping)?,
    })
}

fn read_connect<'a>(value: Value<'_, 'a>) -> Result<ConnectRequest<'a>, Malformed> {
    let mut request = ConnectRequest::default();
    for (key, value) in fields(value)? {
        match key {
            "token" => request.token = string(value)?,
            // They are for the application alone: what is no text is left out.
            "name" => request.name = value.into_string().unwrap_or_default(),
            "version" => request.version = value.into_string().unwrap_or_default(),
            "subs" if !value.is_null() => {
                for (channel, value) in fields(value)? {
                    request.subs.push(SubscribeRequest { channel, ..read_subscribe(value)? });
                }
            }
            _ => {}
        }
    }
    Ok(request)
}

fn read_subscribe<'a>(value: Value<'_, 'a>) -> Result<SubscribeRequest<'a>, Malformed> {
    let mut request = SubscribeRequest::default();
    for (key, value) in fields(value)? {
        match key {
            "channel" => request.channel = string(value)?,
            "token" => request.token = string(value)?,
            "recover" => request.recover = boolean(value)?,
            "epoch" => request.epoch = string(value)?,
            "offset" => request.offset = integer(value)?,
            "join_leave" => request.join_leave = boolean(value)?,
            "delta" => request.delta = string(value)?,
            "flag" => request.flag = integer(value)?,
            "type" => request.kind = integer(value)?,
            "phase" => request.phase = integer(value)?,
            "cursor" => request.cursor = string(value)?,
            _ => {}
        }
    }
    Ok(request)
}

/// The filter of a subscribe request.
fn read_filter(request: Value<'_, '_>, line: &[u8]) -> Result<Option<Result<Arc<TagsFilter>, BadFilter>>, Malformed> {
    if fields(request)?.all(|(key, value)| key != "tf" || value.is_null()) {
        return Ok(None);
    }
    let filter = member(line, "subscribe", "tf").ok_or(BadFilter).and_then(read_filter_json);
    Ok(Some(filter.map(Arc::new)))
}

fn read_publish<'a>(value: Value<'_, 'a>, line: &'a [u8]) -> Result<PublishRequest<'a>, Malformed> {
    let mut request = PublishRequest::default();
    for (key, value) in fields(value)? {
        match key {
            "channel" => request.channel = string(value)?,
            "type" => request.kind = integer(value)?,
            "key" => request.key = string(value)?,
            "removed" => request.removed = boolean(value)?,
            _ => {}
        }
    }
    request.data = data(value, line, "publish")?;
    Ok(request)
}

fn read_rpc<'a>(value: Value<'_, 'a>, line: &'a [u8]) -> Result<Request<'a>, Malformed> {
    let mut method = "";
    for (key, value) in fields(value)? {
        if key == "method" {
            method = string(value)?;
        }
    }
    Ok(Request::Rpc { method, data: data(value, line, "rpc")? })
}

fn read_history<'a>(value: Value<'_, 'a>) -> Result<HistoryRequest<'a>, Malformed> {
    let mut request = HistoryRequest::default();
    for (key, value) in fields(value)? {
        match key {
            "channel" => request.channel = string(value)?,
            "limit" => request.limit = integer(value)?,
            "reverse" => request.reverse = boolean(value)?,
            "since" if !value.is_null() => request.since = Some(read_position(value)?),
            _ => {}
        }
    }
    Ok(request)
}

fn read_position<'a>(value: Value<'_, 'a>) -> Result<StreamPosition<'a>, Malformed> {
    let mut position = StreamPosition::default();
    for (key, value) in fields(value)? {
        match key {
            "offset" => position.offset = integer(value)?,
            "epoch" => position.epoch = string(value)?,
            _ => {}
        }
    }
    Ok(position)
}

/// The channel of a request without other fields.
fn read_channel<'a>(value: Value<'_, 'a>) -> Result<&'a str, Malformed> {
    read_tokens(value).map(|(channel, _)| channel)
}

/// Channel and token of a request with either or both.
fn read_tokens<'a>(value: Value<'_, 'a>) -> Result<(&'a str, &'a str), Malformed> {
    let (mut channel, mut token) = ("", "");
    for (key, value) in fields(value)? {
        match key {
            "channel" => channel = string(value)?,
            "token" => token = string(value)?,
            _ => {}
        }
    }
    Ok((channel, token))
}

/// The text of `data` in the request `name`; empty if it has none.
fn data<'a>(request: Value<'_, '_>, line: &'a [u8], name: &str) -> Result<&'a [u8], Malformed> {
    if fields(request)?.all(|(key, _)| key != "data") {
        return Ok(b"");
    }
    member(line, name, "data").ok_or(Malformed)
}

fn fields<'t, 'a>(value: Value<'t, 'a>) -> Result<impl Iterator<Item = (&'a str, Value<'t, 'a>)>, Malformed> {
    let object = value.as_object().ok_or(Malformed)?;
    Ok(object.into_iter())
}

fn string<'a>(value: Value<'_, 'a>) -> Result<&'a str, Malformed> {
    if value.is_null() { Ok("") } else { value.into_string().ok_or(Malformed) }
}

fn boolean(value: Value<'_, '_>) -> Result<bool, Malformed> {
    if value.is_null() { Ok(false) } else { value.as_bool().ok_or(Malformed) }
}

/// An integer within the range of `N`.
fn integer<N: TryFrom<i128> + Default>(value: Value<'_, '_>) -> Result<N, Malformed> {
    if value.is_null() {
        return Ok(N::default());
    }
    let number = value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from)).ok_or(Malformed)?;
    N::try_from(number).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Commands as text, since they borrow, and whether the message was well-formed.
    fn read(message: &str) -> (Vec<String>, Result<(), Malformed>) {
        let mut commands = Vec::new();
        let outcome = JsonReader::default().read(message.as_bytes(), |command| {
            commands.push(format!("{command:?}"));
            Taken::Yes
        });
        (commands, outcome.map(drop))
    }

    #[track_caller]
    fn expect(message: &str, expected: Command<'_>) {
        assert_eq!(read(message), (vec![format!("{expected:?}")], Ok(())), "{message}");
    }

    #[test]
    fn commands_are_read() {
        let command = |id, request| Command { id, request };
        expect("{}", command(0, Request::Pong));
        expect(" {} \n", command(0, Request::Pong));
        expect(r#"{"connect":{},"id":1}"#, command(1, Request::Connect(ConnectRequest::default())));
        let connect = ConnectRequest {
            token: "a.b.c",
            subs: vec![SubscribeRequest {
                channel: "x",
                recover: true,
                epoch: "e",
                offset: 7,
                ..SubscribeRequest::default()
            }],
            data: b"[1, 2]",
            name: "js",
            version: "5.3.0",
        };
        let text = r#"{"id":1,"connect":{"token":"a.b.c","name":"js","version":"5.3.0","headers":{"a":"b"},"data":[1, 2],
            "subs":{"x":{"recover":true,"epoch":"e","offset":7}}}}"#;
        expect(&text.replace('\n', " "), command(1, Request::Connect(connect)));
        let subscribe = SubscribeRequest {
            channel: "é\n",
            token: "t",
            recover: true,
            epoch: "e",
            offset: u64::MAX,
            join_leave: true,
            delta: "fossil",
            filter: Some(Err(BadFilter)),
            flag: 3,
            kind: 1,
            phase: 2,
            cursor: "c",
            data: b"{}",
        };
        let text = r#"{"id":4294967295,"subscribe":{"channel":"\u00e9\n","token":"t","recover":true,"epoch":"e",
            "offset":18446744073709551615,"join_leave":true,"delta":"fossil","tf":{"op":"and"},"flag":3,"type":1,
            "phase":2,"cursor":"c","data":{}}}"#;
        expect(&text.replace('\n', " "), command(u32::MAX, Request::Subscribe(subscribe)));
        expect(r#"{"id":2,"unsubscribe":{"channel":"a"}}"#, command(2, Request::Unsubscribe { channel: "a" }));
        expect(r#"{"id":2,"presence":{"channel":"a"}}"#, command(2, Request::Presence { channel: "a" }));
        expect(r#"{"id":2,"presence_stats":{"channel":"a"}}"#, command(2, Request::PresenceStats { channel: "a" }));
        let history = HistoryRequest {
            channel: "a",
            limit: -1,
            since: Some(StreamPosition { offset: 5, epoch: "e" }),
            reverse: true,
        };
        let text = r#"{"id":2,"history":{"channel":"a","limit":-1,"since":{"offset":5,"epoch":"e"},"reverse":true}}"#;
        expect(text, command(2, Request::History(history)));
        expect(r#"{"id":2,"ping":{}}"#, command(2, Request::Ping));
        expect(r#"{"send":{"data":{"x": 1}}}"#, command(0, Request::Send { data: br#"{"x": 1}"# }));
        expect(r#"{"id":2,"rpc":{"data":[],"method":"m"}}"#, command(2, Request::Rpc { method: "m", data: b"[]" }));
        expect(r#"{"id":2,"refresh":{"token":"t"}}"#, command(2, Request::Refresh { token: "t" }));
        let sub_refresh = Request::SubRefresh { channel: "a", token: "t" };
        expect(r#"{"id":2,"sub_refresh":{"token":"t","channel":"a"}}"#, command(2, sub_refresh));
        let nothing = SubscribeRequest::default();
        let text = r#"{"id":2,"subscribe":{"channel":null,"offset":null,"recover":null,"tf":null},"ping":null}"#;
        expect(text, command(2, Request::Subscribe(nothing)));
    }

    #[test]
    fn data_is_kept_verbatim() {
        let rows = [
            r#"{"a": [1.0, 1e2, "\u00e9\"}"], "b" : {} }"#,
            "12345678901234567890123",
            r#""{\"data\":1}""#,
            "null",
            "-0.0",
            r#""half \ud83d""#,
            r#"{"\ude00":["\ud83d\ud83d\ude00"]}"#,
            "1e400",
            "[-1E+999, 1e-999, 0.1e400]",
        ];
        let long = "1".repeat(400);
        for data in rows.into_iter().chain([long.as_str()]) {
            let publish = PublishRequest { channel: "a", data: data.as_bytes(), ..PublishRequest::default() };
            let text = format!(r#"{{"id":1,"publish":{{"data" : {data} ,"channel":"a"}}}}"#);
            expect(&text, Command { id: 1, request: Request::Publish(publish) });
        }
    }

    #[test]
    fn an_unpaired_surrogate_outside_data_is_replaced() {
        let rows = [
            (r#"{"id":2,"unsubscribe":{"channel":"\ud83dx"}}"#, "\u{fffd}x"),
            (r#"{"id":2,"unsubscribe":{"channel":"\ud83d\ude00","x":1e400}}"#, "\u{1f600}"),
            (r#"{"id":2,"\ude00":1.5,"unsubscribe":{"channel":"\u0061\ude00"}}"#, "a\u{fffd}"),
        ];
        for (text, channel) in rows {
            expect(text, Command { id: 2, request: Request::Unsubscribe { channel } });
        }
        expect(
            r#"{"id":1,"connect":{"name":"\ud83d"}}"#,
            Command { id: 1, request: Request::Connect(ConnectRequest { name: "\u{fffd}", ..Default::default() }) },
        );
    }

    #[test]
    fn a_message_may_contain_several_commands() {
        let (commands, outcome) = read("{\"id\":1,\"ping\":{}}\n{}\n{\"id\":2,\"rpc\":{\"data\":\"\\n,\"}}\n");
        assert_eq!(outcome, Ok(()));
        let expected = [
            Command { id: 1, request: Request::Ping },
            Command { id: 0, request: Request::Pong },
            Command { id: 2, request: Request::Rpc { method: "", data: br#""\n,""# } },
        ];
        assert_eq!(commands, expected.map(|command| format!("{command:?}")));
        let mut seen = 0;
        let mut read_until = |end| {
            seen = 0;
            let outcome = JsonReader::default().read(b" {}\n{}\n{\"id\":1}\n ", |_| {
                seen += 1;
                if seen < 2 { Taken::Yes } else { end }
            });
            (seen, outcome)
        };
        assert_eq!(read_until(Taken::Last), (2, Ok(&b""[..])), "the reader stops after the last command");
        assert_eq!(
            read_until(Taken::Later),
            (2, Ok(&b"{}\n{\"id\":1}"[..])),
            "the rest begins with the command that was not taken"
        );
        let (commands, outcome) = read("{}\n{\"id\":-1}\n{}");
        assert_eq!((commands.len(), outcome), (1, Err(Malformed)), "the commands before the error count");
    }

    #[test]
    fn malformed_commands_are_rejected() {
        let deep = format!(r#"{{"id":1,"rpc":{{"data":{}1{}}}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let rows = [
            "",
            "\n",
            "1",
            "[]",
            "null",
            "x",
            "{",
            "{}{}",
            "{},{}",
            "[{}\n{}]",
            "{\"a\":[{}\n{}]}",
            r#"{"id":"1","ping":{}}"#,
            r#"{"id":-1,"ping":{}}"#,
            r#"{"id":1.5,"ping":{}}"#,
            r#"{"id":4294967296,"ping":{}}"#,
            r#"{"id":1}"#,
            r#"{"id":1,"dance":{}}"#,
            r#"{"ping":{}}"#,
            r#"{"id":1,"ping":{},"rpc":{}}"#,
            r#"{"id":1,"ping":1}"#,
            r#"{"id":1,"subscribe":[]}"#,
            r#"{"id":1,"subscribe":{"channel":1}}"#,
            r#"{"id":1,"subscribe":{"offset":-1}}"#,
            r#"{"id":1,"subscribe":{"offset":"1"}}"#,
            r#"{"id":1,"subscribe":{"recover":1}}"#,
            r#"{"id":1,"connect":{"subs":[]}}"#,
            r#"{"id":1,"connect":{"subs":{"a":1}}}"#,
            r#"{"id":1,"history":{"since":1}}"#,
            r#"{"id":1,"rpc":{"d\u0061ta":1}}"#,
            "{\"id\":1,\"rpc\":{\"data\":[1\n2]}}",
            r#"{"id":1e400,"ping":{}}"#,
            r#"{"id":100000000000000000000000,"ping":{}}"#,
            r#"{"id":1,"rpc":{"data":"\ud83d}}"#,
            r#"{"id":1,"rpc":{"data":"\ud8"}}"#,
            r#"{"id":1,"rpc":{"data":1e400e}}"#,
            r#"{"id":1,"rpc":{"data":1e400 1}}"#,
            deep.as_str(),
        ];
        for text in rows {
            let (commands, outcome) = read(text);
            assert_eq!((commands, outcome), (vec![], Err(Malformed)), "{}", &text[..text.len().min(80)]);
        }
    }

    #[test]
    fn lines_that_are_only_together_json_are_malformed() {
        let rows = [
            ("{}\n\n{}", 1),
            ("{\"id\":1},{\"id\":2}\n{\"id\":3,\"x\":[1\n2]}", 0),
            ("{}\n{\"id\":2,\"x\":[{}\n{}]}", 1),
            ("{}\n{\"id\":2,\"x\":\"\n{\"}", 1),
        ];
        for (text, count) in rows {
            let (commands, outcome) = read(text);
            assert_eq!((commands.len(), outcome), (count, Err(Malformed)), "{text}");
        }
    }

    #[test]
    fn the_last_of_duplicate_keys_counts() {
        let text = r#"{"id":1,"id":2,"publish":{"data":1,"data":2,"channel":"a","channel":"b"}}"#;
        let publish = PublishRequest { channel: "b", data: b"2", ..PublishRequest::default() };
        expect(text, Command { id: 2, request: Request::Publish(publish) });
    }

    #[test]
    fn memory_for_a_large_message_is_released() {
        let mut reader = JsonReader::default();
        let large = format!(r#"{{"id":1,"rpc":{{"data":"{}"}}}}"#, "x".repeat(1 << 20));
        assert_eq!(reader.read(large.as_bytes(), |_| Taken::Yes), Ok(&b""[..]));
        assert!(reader.input.capacity() < KEEP_BYTES);
        assert_eq!(reader.read(b"{}", |_| Taken::Yes), Ok(&b""[..]));
    }

    /// Nested JSON values, as text.
    fn any_json() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|value| value.to_string()),
            any::<i64>().prop_map(|value| value.to_string()),
            "\\PC{0,8}".prop_map(|text| serde_json::to_string(&text).unwrap()),
            "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
            r#""(\\\\u(d83d|DE00|0041)|[a-z]){0,6}""#,
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let list = proptest::collection::vec(inner.clone(), 0..4);
            let map = proptest::collection::vec(("[a-z\"\\\\\u{e9}]{0,6}", inner), 0..4);
            prop_oneof![
                list.prop_map(|items| format!("[{}]", items.join(", "))),
                map.prop_map(|items| {
                    let quoted = |key: &str| serde_json::to_string(key).unwrap();
                    let items: Vec<_> = items.iter().map(|(key, value)| format!("{}:{value}", quoted(key))).collect();
                    format!("{{{}}}", items.join(","))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_data_is_kept_verbatim(data in any_json(), extra in any_json(), count in 1..4_usize) {
            let line = format!(r#"{{"x":{extra},"id":1,"publish":{{"y":{extra},"data":{data},"channel":"a"}}}}"#);
            let publish = PublishRequest { channel: "a", data: data.as_bytes(), ..PublishRequest::default() };
            let expected = format!("{:?}", Command { id: 1, request: Request::Publish(publish) });
            let (commands, outcome) = read(&vec![line; count].join("\n"));
            prop_assert_eq!(outcome, Ok(()));
            prop_assert_eq!(commands, vec![expected; count]);
        }

        #[test]
        fn all_valid_json_is_accepted(
            text in r#"([\[\]{},:+.eE01-]|"(\\u[dD][89aAcC]00|\\|x){0,3}"|-?[01]{1,25}(\.0)?[eE]?[+-]?9{0,3}){0,4}"#,
        ) {
            let line = format!(r#"{{"id":1,"publish":{{"data":{text}}}}}"#);
            let (commands, outcome) = read(&line);
            if serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok() {
                let publish = PublishRequest { data: text.trim().as_bytes(), ..PublishRequest::default() };
                let expected = format!("{:?}", Command { id: 1, request: Request::Publish(publish) });
                prop_assert_eq!((commands, outcome), (vec![expected], Ok(())));
            } else if outcome.is_ok() {
                // The text then continues after its value.
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&line).is_ok(), "{}", line);
            }
        }

        #[test]
        fn no_text_causes_a_panic(text in "([\\[\\]{}\":,\n\\\\0-9etu. -]|\"(id|publish|data|connect|subs)\":){0,60}") {
            let _ = read(&text);
        }
    }
}
