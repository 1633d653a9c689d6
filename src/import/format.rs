//! Formats of strings, by the names that JSON Schema and its registries have for them.

/// Formats, each a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Formats(u8);

const DATE_TIME: u8 = 1;
const DATE: u8 = 2;
const UUID: u8 = 4;
const URI: u8 = 8;
/// A number in a string, as prices often are.
const DECIMAL: u8 = 16;
/// Not a format: all are decimal without a fraction, which may as well be an identifier.
const WHOLE: u8 = 32;

const NAMES: [(&str, u8); 5] =
    [("date-time", DATE_TIME), ("date", DATE), ("uuid", UUID), ("uri", URI), ("decimal", DECIMAL)];

impl Formats {
    /// Those that a string has.
    pub(super) fn of(text: &str) -> Formats {
        let found = [
            (is_date_time(text), DATE_TIME),
            (is_date(text.as_bytes()), DATE),
            (is_uuid(text.as_bytes()), UUID),
            (is_uri(text), URI),
            (is_decimal(text), DECIMAL),
            (text.bytes().all(|byte| byte.is_ascii_digit()), WHOLE),
        ];
        Formats(found.into_iter().filter(|(has, _)| *has).map(|(_, bit)| bit).sum())
    }

    /// Those that both have.
    pub(super) fn both(self, other: Formats) -> Formats {
        Formats(self.0 & other.0)
    }

    /// The one to write down.
    pub(super) fn name(self) -> Option<&'static str> {
        let bits = if self.0 & WHOLE != 0 { self.0 & !DECIMAL } else { self.0 };
        NAMES.iter().find(|(_, bit)| bits & bit != 0).map(|(name, _)| *name)
    }

    /// Whether it identifies one thing.
    pub(super) fn is_identifier(self) -> bool {
        self.0 & (UUID | DATE | DATE_TIME) != 0
    }

    /// Whether a string has the format of this name; any has one that is unknown.
    pub(super) fn has(text: &str, name: &str) -> bool {
        NAMES.iter().find(|(known, _)| *known == name).is_none_or(|(_, bit)| Formats::of(text).0 & bit != 0)
    }
}

/// Whether `text` has digits where the pattern has `0`, and otherwise the pattern's characters.
fn is_like(text: &[u8], pattern: &[u8]) -> bool {
    let matches = |(byte, like): (&u8, &u8)| if *like == b'0' { byte.is_ascii_digit() } else { byte == like };
    text.len() == pattern.len() && text.iter().zip(pattern).all(matches)
}

fn is_date(text: &[u8]) -> bool {
    is_like(text, b"0000-00-00")
}

/// RFC 3339 §5.6.
fn is_date_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some((head, rest)) = bytes.split_at_checked(19) else { return false };
    if !is_like(head, b"0000-00-00T00:00:00") {
        return false;
    }
    let digits = match rest.strip_prefix(b".") {
        Some(fraction) => 1 + fraction.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        None => 0,
    };
    let zone = &rest[digits..];
    digits != 1 && (zone == b"Z" || is_like(zone, b"+00:00") || is_like(zone, b"-00:00"))
}

fn is_uuid(text: &[u8]) -> bool {
    let is_dash = |index| [8, 13, 18, 23].contains(&index);
    let fits = |(index, byte): (usize, &u8)| if is_dash(index) { *byte == b'-' } else { byte.is_ascii_hexdigit() };
    text.len() == 36 && text.iter().enumerate().all(fits)
}

fn is_uri(text: &str) -> bool {
    let schemes = ["http://", "https://", "ws://", "wss://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '['))
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte))
}

fn is_decimal(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.len() <= 40 && text.bytes().all(|b| b.is_ascii_digit());
    is_digits(whole) && is_digits(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised() {
        let rows = [
            ("2026-11-30T22:00:00Z", Some("date-time")),
            ("2026-11-30T22:00:00.123+01:00", Some("date-time")),
            ("2026-11-30T22:00:00.", None),
            ("2026-11-30T22:00:00", None),
            ("2026-11-30", Some("date")),
            ("123e4567-e89b-12d3-a456-426614174000", Some("uuid")),
            ("https://example.org/a?b", Some("uri")),
            ("https:// example", None),
            ("https://", None),
            ("12.50", Some("decimal")),
            ("-0.1", Some("decimal")),
            ("12", None),
            ("", None),
            ("é2026-11-30T22:00:0", None),
        ];
        for (text, name) in rows {
            assert_eq!(Formats::of(text).name(), name, "{text}");
        }
        assert_eq!(Formats::of("12").both(Formats::of("1.5")).name(), Some("decimal"));
        assert!(Formats::has("12", "decimal") && !Formats::has("x", "decimal") && Formats::has("x", "password"));
    }
}
