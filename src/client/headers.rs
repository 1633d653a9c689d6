//! Header fields that a user adds to a request.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::ClientError;

/// Fields that the client sets itself.
const OWN: [&str; 7] =
    ["connection", "content-length", "content-type", "host", "transfer-encoding", "upgrade", "sec-websocket-"];

/// The fields as HTTP knows them.
///
/// # Errors
/// [`ClientError::Header`] for a name or value that HTTP does not allow, and for a field that the client sets itself.
pub(super) fn check(fields: &[(String, String)]) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let error = |reason: &str| ClientError::Header(format!("the header field '{name}' {reason}"));
        let checked = HeaderName::from_bytes(name.as_bytes()).map_err(|_| error("has no valid name"))?;
        if OWN.iter().any(|own| checked.as_str().starts_with(own)) {
            return Err(error("is the client's own: leave it out"));
        }
        let value = HeaderValue::from_str(value).map_err(|_| error("has a value that is not visible ASCII"))?;
        headers.append(checked, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_would_break_the_request_are_rejected() {
        let checked = |name: &str, value: &str| check(&[(name.to_owned(), value.to_owned())]);
        assert_eq!(checked("X-API-Key", "secret").unwrap()["x-api-key"], "secret");
        let rows = [
            ("", "a"),
            ("a b", "c"),
            ("a:", "b"),
            ("a\r\nb", "c"),
            ("a", "b\r\nc: d"),
            ("a", "\0"),
            ("Host", "a"),
            ("Sec-WebSocket-Key", "a"),
            ("Content-Length", "1"),
        ];
        for (name, value) in rows {
            assert!(matches!(checked(name, value), Err(ClientError::Header(_))), "{name}: {value}");
        }
    }
}
