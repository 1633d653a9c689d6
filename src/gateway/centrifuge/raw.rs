//! Finds the text of a value in valid JSON.
//!
//! For invalid JSON, the result is another part of the text or `None`, but never a panic.

use std::ops::Range;

/// The text of `inner` in the object `outer` of the object in `text`; the last one of duplicate keys, as in parsers.
/// Does not find keys with escapes.
pub(super) fn member<'a>(text: &'a [u8], outer: &str, inner: &str) -> Option<&'a [u8]> {
    let (found, _) = scan_object(text, skip_space(text, 0), &[outer, inner])?;
    found.map(|found| &text[found])
}

/// In the object at `at`: the range of the value at `path`, and the end of the object.
fn scan_object(text: &[u8], at: usize, path: &[&str]) -> Option<(Option<Range<usize>>, usize)> {
    let (key, deeper) = path.split_first()?;
    let mut found = None;
    if text.get(at) != Some(&b'{') {
        return None;
    }
    let mut at = skip_space(text, at + 1);
    while text.get(at)? == &b'"' {
        let key_end = skip_string(text, at)?;
        let is_wanted = text[at + 1..key_end - 1] == *key.as_bytes();
        let colon = skip_space(text, key_end);
        let start = skip_space(text, colon + 1);
        let end = match deeper {
            [_, ..] if is_wanted && text.get(start) == Some(&b'{') => {
                let (inner, end) = scan_object(text, start, deeper)?;
                found = inner;
                end
            }
            _ => {
                let end = skip_value(text, start)?;
                if is_wanted {
                    found = deeper.is_empty().then_some(start..end);
                }
                end
            }
        };
        at = skip_space(text, end);
        if text.get(at) == Some(&b',') {
            at = skip_space(text, at + 1);
        }
    }
    (text[at] == b'}').then_some((found, at + 1))
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The end of the value at `at`.
fn skip_value(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match text.get(at)? {
            b'"' => at = skip_string(text, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ if depth == 0 => at = skip_scalar(text, at)?,
            // Numbers, words, commas, colons and space do not change the depth.
            _ => at += text[at..].iter().position(|byte| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']'))?,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The end of the string at `at`, which points to its quote.
fn skip_string(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// The end of the number or word at `at`: within an object another byte follows it.
fn skip_scalar(text: &[u8], at: usize) -> Option<usize> {
    let length = text[at..].iter().position(|byte| b",}] \t\n\r".contains(byte))?;
    (length > 0).then_some(at + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found() {
        let rows = [
            (r#"{"x":{"a":1}}"#, Some("1")),
            (r#" { "b" : [1,{"a":2}] , "x" : { "y" : {} , "a" : {"b":"}"} } , "c" : [] } "#, Some(r#"{"b":"}"}"#)),
            (r#"{"x":{"a":1,"a":"\"\\"}}"#, Some(r#""\"\\""#)),
            (r#"{"x":{"a":1},"x":{"a":2}}"#, Some("2")),
            (r#"{"x":{"a":1},"x":null}"#, None),
            (r#"{"x":"a","b":{"a":1}}"#, None),
            (r#"{"y":{"x":{"a":1}}}"#, None),
            (r#"{"x":{"\u0061":1}}"#, None),
            (r#"{"x":{"a":null,"b":1}}"#, Some("null")),
            (r#"{"x":{}}"#, None),
            ("{}", None),
            ("[1]", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(member(text.as_bytes(), "x", "a"), expected.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn invalid_json_has_no_members() {
        let whole = r#"{"x":{"b":["\"",1],"a":[{"c":"}"},-1.5]}}"#;
        assert!(member(whole.as_bytes(), "x", "a").is_some());
        for len in 0..whole.len() {
            assert_eq!(member(&whole.as_bytes()[..len], "x", "a"), None, "{}", &whole[..len]);
        }
        for text in [r#"{"x":{"a":]}}"#, r#"{"x":{"a":}}"#, r#"{"x" 1}"#] {
            assert_eq!(member(text.as_bytes(), "x", "a"), None, "{text}");
        }
    }
}
