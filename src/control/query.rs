//! The query of a URL, as forms write it.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The names and values of a query, decoded; a name without a value has an empty one.
///
/// An error is a text for people: something is not UTF-8.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = Result<(Cow<'_, str>, Cow<'_, str>), String>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    })
}

fn decode(text: &str) -> Result<Cow<'_, str>, String> {
    let not_text = || format!("'{text}' in the query is not UTF-8");
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().map_err(|_| not_text());
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| not_text())?;
    Ok(Cow::Owned(decoded.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let rows: [(&str, &[(&str, &str)]); 6] = [
            ("", &[]),
            ("a=1&b=2", &[("a", "1"), ("b", "2")]),
            ("a", &[("a", "")]),
            ("a=b=c&&a=", &[("a", "b=c"), ("a", "")]),
            ("a+b=c%2B+d", &[("a b", "c+ d")]),
            ("%C3%A9=%26", &[("é", "&")]),
        ];
        for (query, expected) in rows {
            let found: Vec<_> = pairs(query).map(Result::unwrap).collect();
            let found: Vec<_> = found.iter().map(|(name, value)| (&**name, &**value)).collect();
            assert_eq!(found, expected, "{query}");
        }
        assert!(pairs("a=%ff").next().unwrap().unwrap_err().contains("%ff"));
        assert!(pairs("a=+%ff").next().unwrap().is_err());
    }
}
