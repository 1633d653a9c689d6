//! Parses comma-separated lists of HTTP fields: tokens, and extension offers (RFC 6455 §9.1). It does not negotiate.
//!
//! The results borrow from the request. A quoted parameter value is returned without its quotes; backslash escapes,
//! which the grammar of quoted strings allows, are rejected, since an unquoted value must be a token and never needs
//! them.

/// One extension that a client offers, with its parameters (RFC 6455 §9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionOffer<'a> {
    /// The name of the extension, such as `permessage-deflate`.
    pub name: &'a str,
    /// Its parameters in order: name, and value if there is one.
    pub params: Vec<(&'a str, Option<&'a str>)>,
}

/// A list that doesn't follow its grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidList;

/// Appends the offers of one `Sec-WebSocket-Extensions` field to `offers`.
pub(super) fn decode_extensions<'a>(value: &'a str, offers: &mut Vec<ExtensionOffer<'a>>) -> Result<(), InvalidList> {
    for element in elements(value) {
        let mut parts = element.split(';').map(str::trim_ascii);
        let name = parts.next().filter(|name| is_token(name)).ok_or(InvalidList)?;
        let params = parts.map(decode_param).collect::<Result<_, _>>()?;
        offers.push(ExtensionOffer { name, params });
    }
    Ok(())
}

/// Appends the tokens of one list-valued field to `tokens`.
pub(super) fn decode_tokens<'a>(value: &'a str, tokens: &mut Vec<&'a str>) -> Result<(), InvalidList> {
    for token in elements(value) {
        if !is_token(token) {
            return Err(InvalidList);
        }
        tokens.push(token);
    }
    Ok(())
}

/// The elements of a comma-separated list; empty ones don't count (RFC 9110 §5.6.1).
///
/// Splits at commas within quotes, too: no valid element contains one, since even a quoted value must be a token.
pub(super) fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim_ascii).filter(|element| !element.is_empty())
}

/// A parameter: `name`, `name=value` or `name="value"`.
fn decode_param(param: &str) -> Result<(&str, Option<&str>), InvalidList> {
    let (name, value) = match param.split_once('=') {
        None => (param, None),
        Some((name, value)) => (name.trim_ascii_end(), Some(unquote(value.trim_ascii_start())?)),
    };
    if is_token(name) && value.is_none_or(is_token) { Ok((name, value)) } else { Err(InvalidList) }
}

fn unquote(value: &str) -> Result<&str, InvalidList> {
    match value.strip_prefix('"') {
        None => Ok(value),
        Some(rest) => rest.strip_suffix('"').ok_or(InvalidList),
    }
}

/// Whether `text` is a token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    const PUNCTUATION: &[u8] = b"!#$%&'*+-.^_`|~";
    let is_token_byte = |byte: u8| byte.is_ascii_alphanumeric() || PUNCTUATION.contains(&byte);
    !text.is_empty() && text.bytes().all(is_token_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_with_and_without_parameters() {
        let mut offers = Vec::new();
        let value = "permessage-deflate; client_max_window_bits; server_max_window_bits=\"10\" , ,x-plain;a = b";
        assert_eq!(decode_extensions(value, &mut offers), Ok(()));
        let deflate = ExtensionOffer {
            name: "permessage-deflate",
            params: vec![("client_max_window_bits", None), ("server_max_window_bits", Some("10"))],
        };
        let plain = ExtensionOffer { name: "x-plain", params: vec![("a", Some("b"))] };
        assert_eq!(offers, [deflate, plain]);
    }

    #[test]
    fn offers_outside_the_grammar() {
        for value in [";a", "a;", "a;b=", "a b", "a;=b", "a;b=\"c", "a;b=\"\\c\"", "a;b=\"c,d\"", "é", "a;b=\""] {
            assert_eq!(decode_extensions(value, &mut Vec::new()), Err(InvalidList), "{value}");
        }
    }
}
