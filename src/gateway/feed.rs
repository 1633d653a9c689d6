//! `/feed/<topic>[,<topic>…]`: the raw feed. Each publication is one message, its payload verbatim.

use super::{Accept, Context, Handler, Refusal, Request};
use crate::limits::{CONN_TOPICS_MAX, FEED_MESSAGE_BYTES_MAX};
use crate::proto::{CloseCode, Message};
use crate::topics::{NameError, TopicName};

/// Subscribes each connection to the topics in its path. The feed is one-way: whoever sends a message is told so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Feed;

impl Handler for Feed {
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        let topics = topics(request.rest).map_err(|error| Refusal::new(400, error.to_string()))?;
        for topic in topics {
            let too_many = || format!("at most {CONN_TOPICS_MAX} topics on one connection: open another for the rest");
            conn.subscribe(topic).map_err(|_| Refusal::new(400, too_many()))?;
        }
        Ok(Accept { message_bytes_max: Some(FEED_MESSAGE_BYTES_MAX), ..Accept::default() })
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _message: Message<'_>) {
        conn.close(CloseCode::POLICY_VIOLATION, "this feed is read-only: publish on the control port");
    }
}

/// The topics of a path, each once.
fn topics(list: &str) -> Result<Vec<TopicName>, NameError> {
    let mut topics = list.split(',').map(TopicName::from_path).collect::<Result<Vec<_>, _>>()?;
    topics.sort_unstable();
    topics.dedup();
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_topics_once_each() {
        let names = |list| topics(list).map(|topics| topics.iter().map(|topic| topic.to_string()).collect::<Vec<_>>());
        assert_eq!(names("a"), Ok(vec!["a".to_owned()]));
        assert_eq!(names("b,a,b"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(names("chat%3Aroom/1"), Ok(vec!["chat:room/1".to_owned()]));
        assert_eq!(names(""), Err(NameError::Empty));
        assert_eq!(names("a,,b"), Err(NameError::Empty));
        assert_eq!(names("a%20b"), Err(NameError::Character));
    }
}
