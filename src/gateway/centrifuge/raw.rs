//! Finds the text of a value in JSON that is known to be valid.
//!
//! Where it is not, the answer is some other part of the text or none, but never a panic.

/// The text of the value of `key` in the object that `text` begins with; the last one if there are several, as
/// parsers have it. Keys written with escapes are not found.
pub(super) fn member<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut found = None;
    let mut at = skip_space(text, 0);
    if text.get(at) != Some(&b'{') {
        return None;
    }
    loop {
        at = skip_space(text, at + 1);
        let key_end = match text.get(at)? {
            b'"' => skip_string(text, at)?,
            _ => return found,
        };
        let is_wanted = text[at + 1..key_end - 1] == *key.as_bytes();
        let colon = skip_space(text, key_end);
        let start = skip_space(text, colon + 1);
        let end = skip_value(text, start)?;
        if is_wanted {
            found = Some(&text[start..end]);
        }
        at = skip_space(text, end);
        if text.get(at) != Some(&b',') {
            return found;
        }
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Behind the value that begins at `at`.
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
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// Behind the string that begins at `at` with its quote.
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

/// Behind the number or word that begins at `at`: in an object something follows it.
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
            (r#"{"a":1}"#, Some("1")),
            (r#" { "b" : [1,{"a":2}] , "a" : {"b":"}"} } "#, Some(r#"{"b":"}"}"#)),
            (r#"{"a":1,"a":"\"\\"}"#, Some(r#""\"\\""#)),
            (r#"{"x":"a","b":{"a":1}}"#, None),
            (r#"{"\u0061":1}"#, None),
            (r#"{"a":null,"b":1}"#, Some("null")),
            ("{}", None),
            ("[1]", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(member(text.as_bytes(), "a"), expected.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn other_text_has_no_members() {
        for text in [r#"{"a"#, r#"{"a":"#, r#"{"a":["#, r#"{"a":]}"#, r#"{"a":1"#, r#"{"a":"\"#, "{", r#"{"a":}"#] {
            assert_eq!(member(text.as_bytes(), "a"), None, "{text}");
        }
    }
}
