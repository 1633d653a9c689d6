//! Rewrites well-formed JSON that the parser rejects: unpaired surrogates, and numbers out of its range.
//!
//! Clients send such text: `JSON.stringify` does for a string that was cut in the middle of an emoji.

/// Maximum length of a number that stays unchanged: no integer field of a command is longer.
const DIGITS_MAX: usize = 20;

/// Replaces other numbers: it has a fraction, so no integer field accepts it.
const SOME_NUMBER: &[u8] = b"0.5";

/// Replaces in place each unpaired surrogate with the replacement character, as Centrifugo does, and each number that
/// is not a short integer with another such number. All other bytes keep their place. Invalid JSON does not become
/// valid.
pub(super) fn normalize(text: &mut [u8]) {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at = match byte {
            b'"' => normalize_string(text, at + 1),
            b'-' | b'0'..=b'9' => normalize_number(text, at),
            _ => at + 1,
        };
    }
}

/// Rewrites the string with content from `at`; returns its end.
fn normalize_string(text: &mut [u8], mut at: usize) -> usize {
    loop {
        match text.get(at) {
            None => return at,
            Some(b'"') => return at + 1,
            Some(b'\\') => at = normalize_escape(text, at),
            Some(_) => at += 1,
        }
    }
}

/// Rewrites the escape at `at`, which points to its backslash; returns its end.
fn normalize_escape(text: &mut [u8], at: usize) -> usize {
    match (code_unit(text, at), code_unit(text, at + 6)) {
        (None, _) => at + 2,
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at + 12,
        (Some(0xd800..=0xdfff), _) => {
            text[at + 2..at + 6].copy_from_slice(b"fffd");
            at + 6
        }
        (Some(_), _) => at + 6,
    }
}

/// The code unit of `\uXXXX` at `at`, if there is one.
fn code_unit(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit * 16 + char::from(*digit).to_digit(16)?))
}

/// Rewrites the number at `at`; returns its end.
fn normalize_number(text: &mut [u8], at: usize) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let end = text[at..].iter().position(|byte| !is_part(byte)).map_or(text.len(), |length| at + length);
    let number = &mut text[at..end];
    let is_integer = number.iter().all(|byte| matches!(byte, b'-' | b'0'..=b'9'));
    if is_number(number) && !(is_integer && number.len() <= DIGITS_MAX) {
        number.fill(b' ');
        number[..SOME_NUMBER.len()].copy_from_slice(SOME_NUMBER);
    }
    end
}

/// Whether the text is a JSON number (RFC 8259 §6).
fn is_number(text: &[u8]) -> bool {
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, rest) = split_digits(text);
    let is_whole = !whole.is_empty() && (whole.len() == 1 || whole[0] != b'0');
    let (fraction, rest) = match rest.split_first() {
        Some((b'.', rest)) => split_digits(rest),
        _ => (&b"0"[..], rest),
    };
    let exponent = match rest.split_first() {
        Some((b'e' | b'E', [b'+' | b'-', digits @ ..] | digits)) => digits,
        Some(_) => return false,
        None => b"0",
    };
    let (exponent, rest) = split_digits(exponent);
    is_whole && !fraction.is_empty() && !exponent.is_empty() && rest.is_empty()
}

/// Splits `text` after its leading digits.
fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        normalize(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn unpaired_surrogates_are_replaced() {
        let rows = [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\uDE00x""#, r#""\ufffdx""#),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
            (r#""\ud83d\u0041""#, r#""\ufffd\u0041""#),
            (r#""\\ud83d""#, r#""\\ud83d""#),
            (r#""\"\ud83d"#, r#""\"\ufffd"#),
            (r#"{"\ud83d":["\ud83d"]}"#, r#"{"\ufffd":["\ufffd"]}"#),
            (r#""\ud8"#, r#""\ud8"#),
            (r#""\uzzzz""#, r#""\uzzzz""#),
            (r#"\ud83d"#, r#"\ud83d"#),
            ("\"\\", "\"\\"),
        ];
        for (text, expected) in rows {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }

    #[test]
    fn numbers_that_are_not_short_integers_are_replaced() {
        let rows = [
            ("1e400", "0.5  "),
            ("[-1E+400,2]", "[0.5    ,2]"),
            ("1.5", "0.5"),
            ("123456789012345678901", "0.5                  "),
            ("18446744073709551615", "18446744073709551615"),
            ("-7", "-7"),
            (r#""1e400""#, r#""1e400""#),
            ("1e", "1e"),
            ("01.5", "01.5"),
            ("1.e5", "1.e5"),
            ("-.5", "-.5"),
            ("1e5e5", "1e5e5"),
            ("1+1.0", "1+1.0"),
        ];
        for (text, expected) in rows {
            assert_eq!(normalized(text), expected, "{text}");
        }
    }
}
