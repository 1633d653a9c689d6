//! What rustls does not tell of a certificate: when it expires, whose it is and from whom, and its key (RFC 5280 §4.1,
//! X.690).

use std::fmt::Write;

use crate::limits::TLS_SUBJECT_BYTES_MAX;

/// Tags of DER.
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// Types of a name's attributes that have a short name (RFC 4514 §3), with their identifiers.
const ATTRIBUTES: [(&[u8], &str); 9] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
];

/// What a certificate says.
pub(super) struct Fields<'c> {
    /// The issuer's name, as it is written.
    pub(super) issuer: &'c [u8],
    /// The subject's name, likewise.
    pub(super) subject: &'c [u8],
    validity: &'c [u8],
    /// The algorithm of the key, and the key.
    key: &'c [u8],
}

/// The key of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// RSA, with a modulus of so many bits.
    Rsa(usize),
    /// ECDSA on a curve, or Ed25519.
    Elliptic,
    /// Any other.
    Other,
}

/// When a certificate expires, in seconds of Unix time.
pub(super) fn not_after(certificate: &[u8]) -> Option<u64> {
    validity(&Fields::read(certificate)?).map(|(_, end)| end)
}

/// When a certificate begins to be valid and when it expires, in seconds of Unix time. A time before 1970 is 0.
pub(super) fn validity(fields: &Fields<'_>) -> Option<(u64, u64)> {
    let (tag, begin, rest) = element(fields.validity)?;
    let begin = time(tag, std::str::from_utf8(begin).ok()?).unwrap_or(0);
    let (tag, end, _) = element(rest)?;
    Some((begin, time(tag, std::str::from_utf8(end).ok()?)?))
}

/// The type of a certificate's key (RFC 3279 §2.3, RFC 5480, RFC 8410).
pub(super) fn key_type(fields: &Fields<'_>) -> Option<KeyType> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let (_, algorithm, rest) = element(fields.key)?;
    let (_, identifier, _) = element(algorithm)?;
    let (_, bits, _) = element(rest)?;
    Some(match identifier {
        RSA => {
            // A byte of the bit string, then a sequence with the modulus.
            let (_, numbers, _) = element(bits.get(1..)?)?;
            let (_, modulus, _) = element(numbers)?;
            let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
            KeyType::Rsa(8 * (modulus.len() - zeros))
        }
        ECDSA | ED25519 => KeyType::Elliptic,
        _ => KeyType::Other,
    })
}

/// The subject of a certificate as text (RFC 4514), `CN=ann,O=Example`: the last part first. `None` if it is not well
/// formed, or longer than [`TLS_SUBJECT_BYTES_MAX`].
pub(super) fn subject(certificate: &[u8]) -> Option<String> {
    let mut names = Fields::read(certificate)?.subject;
    let mut parts = Vec::new();
    while !names.is_empty() {
        let (tag, mut set, rest) = element(names)?;
        let mut part = String::new();
        while !set.is_empty() {
            let (inner, attribute, others) = element(set)?;
            if tag != SET || inner != SEQUENCE {
                return None;
            }
            if !part.is_empty() {
                part.push('+');
            }
            push_attribute(&mut part, attribute)?;
            set = others;
        }
        parts.push(part);
        names = rest;
    }
    parts.reverse();
    Some(parts.join(",")).filter(|text| text.len() <= TLS_SUBJECT_BYTES_MAX)
}

/// Appends type and value of an attribute.
fn push_attribute(text: &mut String, attribute: &[u8]) -> Option<()> {
    let (tag, identifier, rest) = element(attribute)?;
    let (kind, value, behind) = element(rest)?;
    if tag != OBJECT_IDENTIFIER || !behind.is_empty() {
        return None;
    }
    let known = ATTRIBUTES.iter().find(|(known, _)| *known == identifier);
    match known {
        Some((_, name)) => text.push_str(name),
        None => push_identifier(text, identifier)?,
    }
    text.push('=');
    let is_text = matches!(kind, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
    match std::str::from_utf8(value).ok().filter(|_| is_text && known.is_some()) {
        Some(value) => push_escaped(text, value),
        // Other values are their encoding (RFC 4514 §2.4).
        None => {
            text.push('#');
            rest.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a text grows"));
        }
    }
    Some(())
}

/// Appends an identifier as numbers with dots.
fn push_identifier(text: &mut String, identifier: &[u8]) -> Option<()> {
    let (mut number, mut is_first) = (0_u64, true);
    for byte in identifier {
        number = number.checked_mul(128)? | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if is_first {
            let root = (number / 40).min(2);
            write!(text, "{root}.{}", number - 40 * root).expect("a text grows");
        } else {
            write!(text, ".{number}").expect("a text grows");
        }
        (number, is_first) = (0, false);
    }
    (!is_first).then_some(())
}

/// Appends a value. Characters that separate parts, and those that a log can't show, are escaped (RFC 4514 §2.4).
fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => text.extend(['\\', character]),
            ' ' if index == 0 || index == last => text.extend(['\\', ' ']),
            '#' if index == 0 => text.push_str("\\#"),
            _ if character.is_control() => {
                let mut bytes = [0; 4];
                let encoded = character.encode_utf8(&mut bytes);
                encoded.bytes().for_each(|byte| write!(text, "\\{byte:02x}").expect("a text grows"));
            }
            _ => text.push(character),
        }
    }
}

impl<'c> Fields<'c> {
    /// Takes a certificate apart (RFC 5280 §4.1).
    pub(super) fn read(certificate: &'c [u8]) -> Option<Fields<'c>> {
        let (_, certificate, _) = element(certificate)?;
        let (tag, mut rest, _) = element(certificate)?;
        if tag != SEQUENCE {
            return None;
        }
        // The version has a tag of its own, and may be missing.
        let (first, _, behind) = element(rest)?;
        if first == 0xa0 {
            rest = behind;
        }
        let mut next = || {
            let (_, content, behind) = element(rest)?;
            rest = behind;
            Some(content)
        };
        let (_serial, _signature) = (next()?, next()?);
        Some(Fields { issuer: next()?, validity: next()?, subject: next()?, key: next()? })
    }
}

/// The first element of DER: its tag, its content, and what comes behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut len = usize::from(*first);
    if len >= 0x80 {
        let (bytes, behind) = rest.split_at_checked(len - 0x80).filter(|(bytes, _)| bytes.len() <= 4)?;
        len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        rest = behind;
    }
    let (content, rest) = rest.split_at_checked(len)?;
    Some((*tag, content, rest))
}

/// A `UTCTime` (`YYMMDDHHMMSSZ`) or `GeneralizedTime` (with four digits of the year) in seconds of Unix time.
fn time(tag: u8, text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let (year, rest) = match tag {
        0x17 => text.split_at_checked(2).and_then(|(year, rest)| {
            let year: i64 = year.parse().ok()?;
            Some((if year < 50 { 2000 + year } else { 1900 + year }, rest))
        })?,
        0x18 => text.split_at_checked(4).and_then(|(year, rest)| Some((year.parse().ok()?, rest)))?,
        _ => return None,
    };
    let field = |index: usize| rest.get(2 * index..2 * index + 2)?.parse::<i64>().ok();
    let (month, day) = (field(0)?, field(1)?);
    let seconds = field(2)? * 3600 + field(3)? * 60 + field(4)?;
    // Days since 1970: years begin in March here, so that leap days are the last of theirs.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(days * 86_400 + seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        let rows = [
            (0x17, "700101000000Z", Some(0)),
            (0x17, "491231235959Z", Some(2_524_607_999)),
            (0x18, "20500101000000Z", Some(2_524_608_000)),
            (0x18, "20240229120000Z", Some(1_709_208_000)),
            (0x18, "99991231235959Z", Some(253_402_300_799)),
            (0x17, "7001010000Z", None),
            (0x17, "700101000000", None),
            (0x18, "2024022912000aZ", None),
            (0x16, "700101000000Z", None),
            (0x17, "691231235959Z", None),
        ];
        for (tag, text, seconds) in rows {
            assert_eq!(time(tag, text), seconds, "{text}");
        }
    }

    #[test]
    fn cut_certificates_have_no_time() {
        for bytes in [&[][..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 2, 0x30, 0], &[0x30, 0x89]] {
            assert_eq!(not_after(bytes), None, "{bytes:?}");
        }
    }

    /// DER with this content.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, 0x82, (content.len() >> 8) as u8, content.len() as u8], content].concat()
    }

    fn attribute(identifier: &[u8], kind: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &[der(OBJECT_IDENTIFIER, identifier), der(kind, value)].concat())
    }

    /// A certificate with a subject of these parts.
    fn certificate(parts: &[Vec<u8>]) -> Vec<u8> {
        let subject = der(SEQUENCE, &parts.concat());
        let fields = [der(0xa0, &[2, 1, 2]), der(2, &[1]), der(SEQUENCE, &[]), der(SEQUENCE, &[])].concat();
        let inner = [fields, der(SEQUENCE, &[]), subject, der(SEQUENCE, &[])].concat();
        der(SEQUENCE, &der(SEQUENCE, &inner))
    }

    #[test]
    fn a_subject_is_text_with_the_last_part_first() {
        let cn: &[u8] = &[0x55, 4, 3];
        let part = |identifier, kind, value: &[u8]| der(SET, &attribute(identifier, kind, value));
        let rows: [(Vec<Vec<u8>>, &str); 7] = [
            (
                vec![part(&[0x55, 4, 10], UTF8_STRING, b"Example"), part(cn, PRINTABLE_STRING, b"ann")],
                "CN=ann,O=Example",
            ),
            (vec![part(cn, UTF8_STRING, "Zoë, \"Z\"".as_bytes())], "CN=Zoë\\, \\\"Z\\\""),
            (vec![part(cn, UTF8_STRING, b" a,O=b\n ")], "CN=\\ a\\,O\\=b\\0a\\ "),
            (vec![part(cn, UTF8_STRING, b"#1")], "CN=\\#1"),
            (
                vec![part(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], IA5_STRING, b"a")],
                "1.2.840.113549.1.9.1=#1682000161",
            ),
            (
                vec![der(SET, &[attribute(cn, UTF8_STRING, b"a"), attribute(cn, UTF8_STRING, b"b")].concat())],
                "CN=a+CN=b",
            ),
            (vec![], ""),
        ];
        for (parts, expected) in rows {
            assert_eq!(subject(&certificate(&parts)).as_deref(), Some(expected));
        }
    }

    #[test]
    fn a_subject_has_a_bound_and_cut_ones_are_none() {
        let cn: &[u8] = &[0x55, 4, 3];
        let of = |len: usize| certificate(&[der(SET, &attribute(cn, UTF8_STRING, &vec![b'a'; len]))]);
        assert_eq!(subject(&of(TLS_SUBJECT_BYTES_MAX - 3)).map(|text| text.len()), Some(TLS_SUBJECT_BYTES_MAX));
        assert_eq!(subject(&of(TLS_SUBJECT_BYTES_MAX - 2)), None);
        let whole = of(5);
        for len in 0..whole.len() {
            assert_eq!(subject(&whole[..len]), None, "{len}");
        }
    }
}
