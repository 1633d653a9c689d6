//! Commands of Centrifugo's clients, in JSON and in Protobuf.

use serde_json::value::RawValue;

use ringfeed::gateway::centrifuge::{Command, JsonReader, Request, Taken, read_protobuf};

/// The bytes of a command that other clients receive unchanged.
fn forwarded_data<'a>(command: &Command<'a>) -> Option<&'a [u8]> {
    match &command.request {
        Request::Publish(publish) => Some(publish.data),
        Request::Send { data } | Request::Rpc { data, .. } => Some(data),
        _ => None,
    }
}

/// Any bytes as commands in JSON: all data passed on to others is JSON, and each command is a line that is JSON by
/// itself. After any input, a reader decodes the next message like a new reader.
pub(crate) fn json(input: &[u8]) {
    let mut reader = JsonReader::default();
    let mut count = 0;
    let outcome = reader.read(input, |command| {
        count += 1;
        let data = forwarded_data(&command).filter(|data| !data.is_empty());
        let is_json = data.is_none_or(|data| serde_json::from_slice::<&RawValue>(data).is_ok());
        assert!(is_json, "the data passed on is not JSON: {command:?}");
        Taken::Yes
    });
    let lines = input.trim_ascii().split(|byte| *byte == b'\n').count();
    assert!(count <= lines && (outcome.is_err() || count == lines), "{count} commands in {lines} lines");
    let mut ids = Vec::new();
    let next = reader.read(b"{\"id\":7,\"ping\":{}}\n{}", |command| {
        ids.push(command.id);
        Taken::Yes
    });
    assert_eq!((next, &ids[..]), (Ok(&b""[..]), &[7, 0][..]), "the previous message left state");
}

/// Any bytes as commands in Protobuf.
pub(crate) fn protobuf(input: &[u8]) {
    let mut count = 0;
    let _ = read_protobuf(input, |command| {
        count += 1;
        assert!(forwarded_data(&command).is_none_or(|data| data.len() <= input.len()));
        Taken::Yes
    });
    assert!(count <= input.len(), "a command takes at least the byte of its length");
}
