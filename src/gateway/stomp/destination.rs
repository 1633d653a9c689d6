//! Destinations of STOMP and topics.
//!
//! | destination | topic |
//! |---|---|
//! | `/topic/prices` | `prices`, so that the subscribers of all protocols meet |
//! | `/queue/jobs` | `queue/jobs`: a broadcast, as from Spring's simple broker |
//! | `/user/queue/reply` | `queue/reply#USER`, which only this user may read, on every transport |
//! | `/user/ann/queue/reply` | `queue/reply#ann` |

use crate::topics::{NameError, TopicName};

/// Destinations of other brokers, and what to use instead.
const UNSUPPORTED: [(&str, &str); 6] = [
    ("/app/", "no application is configured behind /app: set [backend.rpc], or publish to /topic"),
    ("/exchange/", "exchanges are RabbitMQ's: use /topic"),
    ("/amq/", "queues of AMQP are RabbitMQ's: use /topic"),
    ("/temp-queue/", "there are no temporary queues: use /user/queue"),
    ("/reply-queue/", "there are no reply queues: use /user/queue"),
    ("/dsub/", "there are no durable subscriptions: SUBSCRIBE with the header since"),
];

/// The purpose of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access<'u> {
    /// A subscriber; its user, empty if anonymous.
    Subscribe(&'u str),
    /// A publisher.
    Send,
}

/// The topic of a destination.
///
/// # Errors
/// Why there is none, and the remedy.
pub(super) fn topic(destination: &str, access: Access<'_>) -> Result<TopicName, String> {
    if let Some((_, remedy)) = UNSUPPORTED.iter().find(|(prefix, _)| destination.starts_with(prefix)) {
        return Err((*remedy).to_owned());
    }
    let of = |name: &str| TopicName::new(name).map_err(|error: NameError| error.to_string());
    if let Some(name) = destination.strip_prefix("/topic/") {
        return of(name);
    }
    if destination.starts_with("/queue/") {
        return of(&destination[1..]);
    }
    let Some(rest) = destination.strip_prefix("/user/") else {
        return Err("the destination must begin with /topic/, /queue/ or /user/".to_owned());
    };
    let (user, rest) = match access {
        Access::Subscribe("") => return Err("a user destination requires a token that names a user".to_owned()),
        Access::Subscribe(user) => (user, rest),
        Access::Send => rest.split_once('/').ok_or("the destination must be /user/USER/QUEUE")?,
    };
    let topic = of(&format!("{rest}#{user}"))?;
    // The name of a user with another boundary would admit somebody else.
    if topic.admits(user) { Ok(topic) } else { Err(format!("the user '{user}' can't be part of a destination")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_have_topics() {
        let rows = [
            ("/topic/prices", Access::Send, Ok("prices")),
            ("/topic/a/b", Access::Subscribe(""), Ok("a/b")),
            ("/queue/jobs", Access::Send, Ok("queue/jobs")),
            ("/user/queue/reply", Access::Subscribe("ann"), Ok("queue/reply#ann")),
            ("/user/queue/reply", Access::Subscribe(""), Err("a user destination requires")),
            ("/user/ann/queue/reply", Access::Send, Ok("queue/reply#ann")),
            ("/user/ann", Access::Send, Err("the destination must be /user/USER/")),
            ("/app/hello", Access::Send, Err("no application")),
            ("/exchange/a/b", Access::Send, Err("exchanges are")),
            ("/topic/", Access::Send, Err("")),
            ("/topic/a b", Access::Send, Err("")),
            ("news", Access::Send, Err("the destination must begin")),
        ];
        for (destination, access, expected) in rows {
            match (topic(destination, access), expected) {
                (Ok(topic), Ok(expected)) => assert_eq!(topic.as_str(), expected),
                (Err(error), Err(expected)) => assert!(error.starts_with(expected), "{destination}: {error}"),
                other => panic!("{destination}: {other:?}"),
            }
        }
    }

    #[test]
    fn nobody_else_reads_a_users_destination() {
        let topic_of = |user| topic("/user/queue/x", Access::Subscribe(user));
        let of_ann = topic_of("ann").unwrap();
        assert!(of_ann.admits("ann") && !of_ann.admits("") && !of_ann.admits("eve"));
        for user in ["ann,eve", "ann#eve", "#", "a b"] {
            assert!(topic_of(user).is_err(), "{user}");
        }
        assert!(topic("/user/ann#eve/queue/x", Access::Send).is_err());
    }
}
