//! Secrets in what is recorded of a foreign service: the values of fields whose names say so, and tokens that can be
//! told by their form. Masking is a help, not a promise: what is published should be looked at.

use serde_json::Value;

/// What stands in place of a secret.
pub(super) const MASK: &str = "***";

/// Parts of the names of secrets, in small letters and without separators.
const PARTS: [&str; 15] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "cookie",
    "credential",
    "signature",
    "jwt",
    "session",
];

/// Whole names of secrets.
const WHOLE: [&str; 7] = ["auth", "sid", "sig", "pass", "pwd", "pin", "bearer"];

/// Whether a field, a parameter or a header field of this name may hold a secret.
fn is_secret_name(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric).map(|letter| letter.to_ascii_lowercase());
    let name: String = letters.collect();
    WHOLE.contains(&name.as_str()) || PARTS.iter().any(|part| name.contains(part))
}

/// Whether a parameter of a URL may hold a secret: there, a `key` is one.
pub(super) fn is_secret_parameter(name: &str) -> bool {
    is_secret_name(name) || name.eq_ignore_ascii_case("key")
}

/// Replaces the secrets in a message.
pub(super) fn mask(value: &mut Value) {
    mask_below(value, false);
}

fn mask_below(value: &mut Value, is_secret: bool) {
    match value {
        Value::String(text) if is_secret && !text.is_empty() || is_token(text) => *text = MASK.to_owned(),
        Value::Number(number) if is_secret => *number = 0.into(),
        Value::Array(elements) => elements.iter_mut().for_each(|element| mask_below(element, is_secret)),
        Value::Object(members) => {
            for (name, value) in members {
                mask_below(value, is_secret || is_secret_name(name));
            }
        }
        _ => {}
    }
}

/// Whether the text is a JSON Web Token: the base64 of `{"` and what follows, in three parts.
fn is_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.split('.').count() == 3 && text.len() > 30
}

/// Masks the values of a query's parameters that may be secrets, and a user in front of the host.
pub fn mask_url(url: &str) -> String {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let address = match address.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => address.to_owned(),
    };
    if query.is_empty() {
        return address;
    }
    let masked = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if is_secret_parameter(name) || is_token(value) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    });
    format!("{address}?{}", masked.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_masked_and_nothing_else() {
        let token = format!("eyJ{}.{}.c", "a".repeat(20), "b".repeat(20));
        let mut message = json!({
            "accessToken": "abc", "key": "BTC", "price": 1, "credentials": {"user": "u", "list": ["a", 7]},
            "X-Api-Key": "k", "note": token, "password": "", "monkey": "m", "ok": [true, null]
        });
        mask(&mut message);
        let expected = json!({
            "accessToken": "***", "key": "BTC", "price": 1, "credentials": {"user": "***", "list": ["***", 0]},
            "X-Api-Key": "***", "note": "***", "password": "", "monkey": "m", "ok": [true, null]
        });
        assert_eq!(message, expected);
    }

    #[test]
    fn urls_lose_their_secrets() {
        assert_eq!(mask_url("wss://a:b@h/p?token=x&symbol=BTC&key=1"), "wss://h/p?token=***&symbol=BTC&key=***");
        assert_eq!(mask_url("ws://h/p"), "ws://h/p");
        assert_eq!(mask_url("ws://h"), "ws://h");
    }
}
