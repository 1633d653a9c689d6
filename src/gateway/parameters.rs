//! The parameters of a request's query. An unknown one is rejected, since a misspelt parameter would be ignored in
//! silence.

use super::Refusal;
use crate::proto::RequestHead;

/// Characters of an unknown name that the error repeats.
const SHOWN_CHARS_MAX: usize = 40;

/// The value of a parameter, not percent-decoded.
pub(super) fn parameter<'a>(head: &RequestHead<'a>, name: &str) -> Option<&'a str> {
    pairs(head).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Rejects a request with a parameter that is none of these.
pub(super) fn check_parameters(head: &RequestHead<'_>, known: &[&str]) -> Result<(), Refusal> {
    match pairs(head).find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => Err(Refusal::new(400, unknown_parameter(name, known))),
        None => Ok(()),
    }
}

/// Names an unknown parameter and the known one that is meant most likely.
pub(crate) fn unknown_parameter(name: &str, known: &[&str]) -> String {
    let shown: String = name.chars().take(SHOWN_CHARS_MAX).collect();
    match known.iter().min_by_key(|known| strsim::osa_distance(known, &shown)) {
        Some(nearest) => format!("there is no parameter '{shown}': did you mean '{nearest}'?"),
        None => format!("there is no parameter '{shown}': leave it out"),
    }
}

/// Whether the query has this parameter more than once.
pub(super) fn repeats(head: &RequestHead<'_>, name: &str) -> bool {
    pairs(head).filter(|(key, _)| *key == name).count() > 1
}

fn pairs<'a>(head: &RequestHead<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let pairs = head.query.into_iter().flat_map(|query| query.split('&'));
    pairs.filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::decode_request_head;

    fn checked(query: &str, known: &[&str]) -> Result<(), Refusal> {
        let request = format!("GET /{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        let (head, _) = decode_request_head(request.as_bytes()).unwrap().unwrap();
        check_parameters(&head, known)
    }

    #[test]
    fn an_unknown_parameter_is_rejected_with_the_nearest_known_one() {
        for good in ["", "?", "?since=a", "?since=a&history=1", "?history", "?&since=a&"] {
            assert!(checked(good, &["since", "history"]).is_ok(), "{good}");
        }
        let refusal = checked("?sinse=a", &["since", "history"]).unwrap_err();
        assert_eq!((refusal.status, &*refusal.text), (400, "there is no parameter 'sinse': did you mean 'since'?"));
        assert!(checked("?since=a&x", &["since"]).is_err());
        let long = checked(&format!("?{}", "x".repeat(1000)), &["since"]).unwrap_err();
        assert!(long.text.len() < 100, "{}", long.text);
    }
}
