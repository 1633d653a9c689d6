//! The frames of SockJS: `o` opens, `h` is a heart-beat, `a[…]` has messages, `c[…]` closes.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::proto::CloseCode;

/// A receiver for a session that has one.
pub(crate) const SECOND_RECEIVER: &str = "c[2010,\"Another connection still open\"]";

/// The conversation has ended without a close frame.
pub(crate) const INTERRUPTED: &str = "c[1002,\"Connection interrupted\"]";

/// A close that the peer has requested is nothing to tell it about.
pub(crate) const CLOSED_BY_PEER: &str = "c[1000,\"\"]";

/// The input is no JSON of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenJson;

/// The frame with one message.
pub(crate) fn frame_of(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8 + 8);
    out.push_str("a[");
    push_string(&mut out, text);
    out.push(']');
    out
}

/// The frame that closes.
pub(crate) fn close_frame(code: CloseCode, reason: &str) -> String {
    let mut out = format!("c[{},", code.0);
    push_string(&mut out, reason);
    out.push(']');
    out
}

pub(crate) fn is_close_frame(frame: &str) -> bool {
    frame.starts_with('c')
}

/// Appends the messages of `next` to `last`, if both frames have messages.
pub(crate) fn merge(last: &mut String, next: &str) -> bool {
    let (true, Some(more)) = (last.starts_with('a'), next.strip_prefix("a[")) else { return false };
    last.pop();
    last.push(',');
    last.push_str(more);
    true
}

/// The messages of a client: a string or an array of strings. None at all is allowed.
pub(super) fn messages(payload: &[u8]) -> Result<Vec<Cow<'_, str>>, BrokenJson> {
    let text = std::str::from_utf8(payload).map_err(|_| BrokenJson)?.trim();
    let owned = match text.as_bytes().first() {
        None => return Ok(Vec::new()),
        Some(b'[') => serde_json::from_str::<Vec<String>>(text),
        Some(_) => serde_json::from_str::<String>(text).map(|message| vec![message]),
    };
    Ok(owned.map_err(|_| BrokenJson)?.into_iter().map(Cow::Owned).collect())
}

/// Appends a string of JSON. Escapes also what browsers and proxies have changed on the way.
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain = 0;
    for (at, character) in text.char_indices() {
        let escaped = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\0'..='\u{1f}'
            | '\u{200c}'..='\u{200f}'
            | '\u{2028}'..='\u{202f}'
            | '\u{2060}'..='\u{206f}'
            | '\u{fff0}'..='\u{ffff}' => "",
            _ => continue,
        };
        out.push_str(&text[plain..at]);
        plain = at + character.len_utf8();
        match escaped {
            "" => write!(out, "\\u{:04x}", u32::from(character)).expect("a string takes everything"),
            escaped => out.push_str(escaped),
        }
    }
    out.push_str(&text[plain..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_have_their_form() {
        assert_eq!(frame_of("x"), "a[\"x\"]");
        assert_eq!(frame_of("a\"b\\c\n\r\t\0é\u{2028}\u{ffff}😀"), r#"a["a\"b\\c\n\r\t\u0000é\u2028\uffff😀"]"#);
        assert_eq!(close_frame(CloseCode(3000), "Go \"away\"!"), r#"c[3000,"Go \"away\"!"]"#);
        let mut frame = frame_of("a");
        assert!(
            merge(&mut frame, &frame_of("b")) && !merge(&mut frame, "h") && !merge(&mut "h".to_owned(), "a[\"a\"]")
        );
        assert_eq!(frame, r#"a["a","b"]"#);
    }

    #[test]
    fn messages_are_strings() {
        let rows: [(&str, Result<&[&str], BrokenJson>); 10] = [
            ("", Ok(&[])),
            ("[]", Ok(&[])),
            ("[\"a\",\"\"]", Ok(&["a", ""])),
            (" \"a\" ", Ok(&["a"])),
            ("[\"a", Err(BrokenJson)),
            ("[\"a\"] x", Err(BrokenJson)),
            ("[1]", Err(BrokenJson)),
            ("[[\"a\"]]", Err(BrokenJson)),
            ("{\"a\":1}", Err(BrokenJson)),
            ("null", Err(BrokenJson)),
        ];
        for (text, expected) in rows {
            let expected: Result<Vec<_>, _> = expected.map(|all| all.iter().map(|one| Cow::Borrowed(*one)).collect());
            assert_eq!(messages(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(messages(b"[\"\xff\"]"), Err(BrokenJson));
        assert_eq!(messages(&[b'['; 100_000]), Err(BrokenJson), "nesting has a bound");
    }

    proptest! {
        #[test]
        fn any_text_passes(text: String) {
            let frame = frame_of(&text);
            prop_assert_eq!(messages(&frame.as_bytes()[1..]).unwrap(), vec![Cow::Borrowed(text.as_str())]);
        }
    }
}
