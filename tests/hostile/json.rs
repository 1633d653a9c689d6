//! Centrifugo's client protocol in JSON: commands to the server, and its replies.

use serde_json::Value;

use crate::peer::{FIN, Frame, Peer, TEXT, frame};

/// Sends `text` as one message.
pub(crate) fn send_text(peer: &mut Peer, text: &str) {
    peer.send(&frame(FIN | TEXT, text.as_bytes()));
}

/// Sends one command.
pub(crate) fn send_command(peer: &mut Peer, command: &Value) {
    send_text(peer, &command.to_string());
}

/// The next message, which must be one reply.
pub(crate) fn read_reply(peer: &mut Peer) -> Value {
    let Frame { first_byte, payload } = peer.next_frame().expect("a reply");
    assert_eq!(first_byte, FIN | TEXT, "{}", payload.escape_ascii());
    serde_json::from_slice(&payload).expect("a reply in JSON")
}

/// The replies of the next message.
pub(crate) fn read_replies(peer: &mut Peer) -> Vec<Value> {
    let (_, message) = peer.next_message();
    let lines = std::str::from_utf8(&message).expect("text").lines();
    lines.map(|line| serde_json::from_str(line).expect("a reply in JSON")).collect()
}
