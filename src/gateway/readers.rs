//! Who may read a topic at `/feed` and `/sse`: anyone, or a client whose token says so.
//!
//! A client sends its token in one of three ways: `?token=TOKEN`, `Authorization: Bearer TOKEN` (RFC 6750 §2.1), or the
//! subprotocol `ringfeed.token.TOKEN`, since a page can set no header field of a WebSocket. A page that offers a
//! subprotocol expects the server to choose one, which never is the token: so it offers another one, too.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::parameters::repeats;
use super::refused::{self, SubscribeCause};
use super::{Clock, Get, Refusal};
use crate::topics::{Namespaces, PublishError, TopicName};

/// The subprotocol in which a page sends its token begins like this.
const TOKEN_PROTOCOL: &str = "ringfeed.token.";

/// Verifies the tokens of clients that read a feed.
pub trait VerifyReader: fmt::Debug + Send + Sync {
    /// Whether there are keys to verify tokens with. Without keys, the server ignores `Authorization`, which may be
    /// meant for somebody else.
    fn has_keys(&self) -> bool;

    /// Verifies a token at the time `now_s`, in seconds of Unix time.
    ///
    /// # Errors
    /// The response to the request: 401 for a token that is not valid.
    fn verify(&self, token: &str, now_s: u64) -> Result<ReaderClaims, Refusal>;
}

/// The rights of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReaderClaims {
    /// Its user; empty if it names none.
    pub user: String,
    /// The only topics that it opens, whatever their namespace says. `None`: those that are open to its user.
    pub topics: Option<Vec<String>>,
    /// When the server ends the connection, in seconds of Unix time; `None` is never.
    pub expires_s: Option<u64>,
}

/// The rights of clients of `/feed` and `/sse`.
#[derive(Clone, Debug, Default)]
pub struct Readers {
    namespaces: Arc<Namespaces>,
    tokens: Option<Arc<dyn VerifyReader>>,
}

impl Readers {
    /// Clients read the topics that [`Allowed::Anyone`](crate::topics::Allowed::Anyone) may subscribe to.
    pub fn new(namespaces: Arc<Namespaces>) -> Readers {
        Readers { namespaces, tokens: None }
    }

    /// Clients with a token that `tokens` verifies read more.
    pub fn with_tokens(self, tokens: Arc<dyn VerifyReader>) -> Readers {
        Readers { tokens: Some(tokens), ..self }
    }

    /// The settings of topics.
    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The settings of topics have changed.
    pub(super) fn set_namespaces(&mut self, namespaces: &Arc<Namespaces>) {
        self.namespaces = namespaces.clone();
    }

    /// Checks whether a client may read all these topics. Returns for how long.
    ///
    /// # Errors
    /// 401 without a token, or with one that is not valid; 403 for a token that does not open a topic; 404 for a topic
    /// of an unknown namespace.
    pub(super) fn check<'a>(
        &self,
        request: &Get<'a>,
        subprotocols: impl Iterator<Item = &'a str>,
        topics: impl Iterator<Item = &'a TopicName>,
        clock: Clock,
    ) -> Result<Option<Duration>, Refusal> {
        let tokens = self.tokens.as_deref().filter(|tokens| tokens.has_keys());
        let token = token(request, subprotocols)?;
        let claims = match (tokens, token) {
            (None, Some(Token { is_explicit: true, .. })) => return Err(no_keys()),
            (None, _) | (Some(_), None) => None,
            (Some(tokens), Some(token)) => Some(tokens.verify(&token.text, clock.unix_ms / 1000)?),
        };
        for topic in topics {
            self.check_topic(topic, claims.as_ref())?;
        }
        let expires_ms = claims.and_then(|claims| claims.expires_s).map(|expires_s| expires_s.saturating_mul(1000));
        Ok(expires_ms.map(|expires_ms| Duration::from_millis(expires_ms.saturating_sub(clock.unix_ms))))
    }

    /// Verifies the token of a client that sends it in its own protocol, at the time `now_s` of Unix time. Without
    /// keys, any password is as good as none.
    ///
    /// # Errors
    /// 401 for a token that is not valid.
    pub(super) fn verify(&self, token: Option<&str>, now_s: u64) -> Result<Option<ReaderClaims>, Refusal> {
        match (self.tokens.as_deref().filter(|tokens| tokens.has_keys()), token) {
            (Some(tokens), Some(token)) => tokens.verify(token, now_s).map(Some),
            _ => Ok(None),
        }
    }

    /// Checks whether a client with these claims may read a topic.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(super) fn check_topic(&self, topic: &TopicName, claims: Option<&ReaderClaims>) -> Result<(), Refusal> {
        self.check_topic_rights(topic, claims).map_err(|(cause, refusal)| {
            refused::SUBSCRIPTIONS.count(cause as usize);
            refusal
        })
    }

    fn check_topic_rights(
        &self,
        topic: &TopicName,
        claims: Option<&ReaderClaims>,
    ) -> Result<(), (SubscribeCause, Refusal)> {
        let has_keys = self.tokens.as_deref().is_some_and(|tokens| tokens.has_keys());
        let Ok(namespace) = self.namespaces.find(topic) else {
            let refusal = Refusal::new(404, format!("'{topic}': {}", PublishError::UnknownNamespace));
            return Err((SubscribeCause::UnknownNamespace, refusal));
        };
        let allowed = self.namespaces.get(namespace).subscribe;
        let is_open_to = |user: &str| allowed.includes(topic, user, false);
        // Operators read the server's own topics by Centrifugo's protocol.
        if topic.is_system() {
            let text = format!("'{topic}' is for operators: read it with a token of the control port");
            return Err((SubscribeCause::PermissionDenied, Refusal::new(403, text)));
        }
        let is_open = is_open_to("")
            || claims.is_some_and(|claims| match &claims.topics {
                Some(topics) => topics.iter().any(|opened| opened == topic.as_str()),
                None => is_open_to(&claims.user),
            });
        let (cause, status, text) = match claims {
            _ if is_open => return Ok(()),
            Some(_) => (SubscribeCause::PermissionDenied, 403, format!("the token does not open '{topic}'")),
            None if has_keys => {
                let text = format!(
                    "'{topic}' requires a token: send ?token=TOKEN, or the header field Authorization: Bearer TOKEN"
                );
                (SubscribeCause::TokenRequired, 401, text)
            }
            None => {
                let text = format!("'{topic}' requires authorization: connect with a token at /connection/websocket");
                (SubscribeCause::PermissionDenied, 403, text)
            }
        };
        Err((cause, Refusal::new(status, text)))
    }
}

/// A token as a client has sent it.
struct Token<'a> {
    text: Cow<'a, str>,
    /// It can only be meant for this server.
    is_explicit: bool,
}

/// The token of a request, if it has one.
fn token<'a>(request: &Get<'a>, subprotocols: impl Iterator<Item = &'a str>) -> Result<Option<Token<'a>>, Refusal> {
    let twice = || Refusal::new(400, "send the token once: with two of them, it is not clear whose rights count");
    if repeats(request.head, "token") {
        return Err(twice());
    }
    let explicit = |text| Token { text, is_explicit: true };
    let in_query = request.query("token").map(explicit);
    let in_header = request.header("Authorization").and_then(bearer);
    let in_header = in_header.map(|text| Token { text: text.into(), is_explicit: false });
    let in_protocol = subprotocols.filter_map(|name| name.strip_prefix(TOKEN_PROTOCOL));
    let in_protocol = in_protocol.map(|text| explicit(text.into()));
    let mut all = in_query.into_iter().chain(in_header).chain(in_protocol);
    match (all.next(), all.next()) {
        (token, None) => Ok(token),
        (_, Some(_)) => Err(twice()),
    }
}

/// The token of an `Authorization` field; its scheme is case-insensitive (RFC 9110 §11.1).
pub(super) fn bearer(field: &str) -> Option<&str> {
    let (scheme, token) = field.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

fn no_keys() -> Refusal {
    Refusal::new(401, "this server has no key to verify tokens with: configure one in [tokens], or leave the token out")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::decode_request_head;
    use crate::topics::{Allowed, Namespace};

    /// Accepts `USER`, and `USER/TOPIC,TOPIC` for these topics only.
    #[derive(Debug)]
    struct Names;

    impl VerifyReader for Names {
        fn has_keys(&self) -> bool {
            true
        }

        fn verify(&self, token: &str, now_s: u64) -> Result<ReaderClaims, Refusal> {
            let (user, topics) = token.split_once('/').map_or((token, None), |(user, topics)| (user, Some(topics)));
            match user {
                "bad" => Err(Refusal::new(401, "bad")),
                user => Ok(ReaderClaims {
                    user: user.to_owned(),
                    topics: topics.map(|topics| topics.split(',').map(str::to_owned).collect()),
                    expires_s: Some(now_s + 2),
                }),
            }
        }
    }

    fn readers() -> Readers {
        let of = |subscribe| Namespace { subscribe, ..Namespace::default() };
        let others = [("members", Allowed::Users), ("closed", Allowed::Nobody)];
        let others = others.map(|(name, subscribe)| (name.to_owned(), of(subscribe))).into();
        Readers::new(Arc::new(Namespaces::new(of(Allowed::Anyone), others)))
    }

    /// The status of a request with this query, these fields and subprotocols; 200 if the topic may be read.
    fn status(readers: &Readers, topic: &str, query: &str, fields: &str, subprotocols: &[&str]) -> u16 {
        let head = format!("GET /feed/a{query} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let (head, _) = decode_request_head(head.as_bytes()).unwrap().unwrap();
        let get = Get { route: "/feed/", rest: "a", head: &head, peer: None, client_subject: None };
        let topics = [TopicName::new(topic).unwrap()];
        let clock = Clock { unix_ms: 5500, ..Clock::default() };
        match readers.check(&get, subprotocols.iter().copied(), topics.iter(), clock) {
            Ok(None) => 200,
            Ok(Some(time)) => {
                assert_eq!(time, Duration::from_millis(1500));
                200
            }
            Err(refusal) => refusal.status,
        }
    }

    #[test]
    fn an_anonymous_client_may_read_open_topics_that_admit_it() {
        let rows = [
            ("a", 200),
            ("a$b", 200),
            ("dialog#42", 403),
            ("dialog#", 403),
            ("$private", 403),
            ("$members:a", 403),
            ("members:a", 403),
            ("closed:a", 403),
            ("other:a", 404),
        ];
        for (topic, expected) in rows {
            assert_eq!(status(&readers(), topic, "", "", &[]), expected, "{topic}");
            let with_keys = if expected == 403 { 401 } else { expected };
            assert_eq!(status(&readers().with_tokens(Arc::new(Names)), topic, "", "", &[]), with_keys, "{topic}");
        }
    }

    #[test]
    fn a_token_opens_what_is_its_users_or_what_it_names() {
        let readers = readers().with_tokens(Arc::new(Names));
        let rows = [
            ("a", "42", 200),
            ("a", "bad", 401),
            ("members:a", "42", 200),
            ("members:a", "bad", 401),
            ("members:a", "", 403),
            ("members:a#42", "42", 200),
            ("members:a#42", "43", 403),
            ("$members:a", "42", 403),
            ("$members:a", "42/$members:a", 200),
            ("$members:b", "42/$members:a", 403),
            ("members:b", "42/members:a", 403),
            ("closed:a", "42", 403),
            ("closed:a", "42/members:a,closed:a", 200),
            ("a", "42/members:a", 200),
            ("other:a", "42/other:a", 404),
        ];
        for (topic, token, expected) in rows {
            let field = format!("Authorization: Bearer {token}\r\n");
            if !token.is_empty() {
                assert_eq!(status(&readers, topic, "", &field, &[]), expected, "{topic} {token}");
            }
            assert_eq!(status(&readers, topic, &format!("?token={token}"), "", &[]), expected, "{topic} {token}");
            let protocol = format!("ringfeed.token.{token}");
            let protocols = ["ringfeed.envelope", &protocol];
            assert_eq!(status(&readers, topic, "", "", &protocols), expected, "{topic} {token}");
        }
    }

    #[test]
    fn one_token_counts_and_other_fields_are_no_token() {
        let (open, with_tokens) = (readers(), readers().with_tokens(Arc::new(Names)));
        let field = "Authorization: Bearer 42\r\n";
        let rows: [(&str, &str, &[&str], u16, u16); 9] = [
            ("?token=42", field, &[], 400, 400),
            ("?token=42&token=43", "", &[], 400, 400),
            ("?token=42", "", &["ringfeed.token.42"], 400, 400),
            ("", "", &["ringfeed.token.42", "ringfeed.token.43"], 400, 400),
            ("?token=42", "", &[], 200, 401),
            ("", "", &["ringfeed.token.42"], 200, 401),
            ("", "authorization: BEARER  42\r\n", &[], 200, 403),
            ("", "Authorization: Basic NDI6\r\n", &[], 401, 403),
            ("", "Authorization: Bearer 42\r\nAuthorization: Bearer 43\r\n", &[], 401, 403),
        ];
        for (query, fields, protocols, expected, without_keys) in rows {
            assert_eq!(status(&with_tokens, "members:a", query, fields, protocols), expected, "{query} {fields}");
            assert_eq!(status(&open, "members:a", query, fields, protocols), without_keys, "{query} {fields}");
        }
        assert_eq!(status(&open, "a", "", field, &[]), 200, "a field for a proxy in front");
    }
}
