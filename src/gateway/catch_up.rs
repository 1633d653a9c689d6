//! The parameters of feed and event stream requests: topics, and the client's position in each.

use super::Refusal;
use crate::topics::{CatchUp, Epoch, NameError, Namespaces, Position, TopicName};

/// The topics of a path, `a` or `a,b`, in its order.
pub(super) fn topics(list: &str) -> Result<Vec<TopicName>, NameError> {
    list.split(',').map(TopicName::from_path).collect()
}

/// Rejects a request for the history of a topic that keeps none.
pub(super) fn check_history(namespaces: &Namespaces, topic: &TopicName) -> Result<(), Refusal> {
    match namespaces.find(topic).map(|id| namespaces.get(id).history_size) {
        Ok(_) if namespaces.is_keyed(topic) => {
            let text = format!("'{topic}' is keyed, and begins with its state: leave the history out");
            Err(Refusal::new(400, text))
        }
        Ok(0) => Err(Refusal::new(400, format!("'{topic}' keeps no history: history_size of its namespace is 0"))),
        _ => Ok(()),
    }
}

/// What a client without a position reads first: the state of a keyed topic.
pub(super) fn from_start(namespaces: &Namespaces, topic: &TopicName) -> CatchUp {
    if namespaces.is_keyed(topic) { CatchUp::State(None) } else { CatchUp::None }
}

/// Parses a client's position in each of `count` topics: `<epoch>:<offset>`, separated by commas.
///
/// `None` if the text is malformed. An unknown epoch is not: the missed publications are lost then.
pub(super) fn positions(text: &str, count: usize) -> Option<Vec<CatchUp>> {
    let since = |text: &str| {
        let (epoch, offset) = text.split_once([':'])?;
        Some(CatchUp::Since { epoch: Some(Epoch::from_text(epoch)), offset: offset.parse().ok()? })
    };
    // Colons and commas may be percent-encoded.
    let text = text.replace("%3A", ":").replace("%3a", ":").replace("%2C", ",").replace("%2c", ",");
    let positions: Option<Vec<CatchUp>> = text.split(',').map(since).collect();
    positions.filter(|positions| positions.len() == count)
}

/// Maximum length of [`position_text`], in bytes.
pub(super) const POSITION_BYTES_MAX: usize = 13 + 1 + 20;

/// A position in the form that clients receive and send: `<epoch>:<offset>`.
pub(super) fn position_text(position: Position) -> String {
    format!("{}:{}", position.epoch, position.offset)
}

/// Formats positions for [`positions`].
pub(super) fn positions_text(positions: &[Position]) -> String {
    positions.iter().map(|position| position_text(*position)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_as_they_are_written() {
        let position = |epoch, offset| Position { epoch: Epoch::new(epoch), offset };
        let since = |epoch, offset| CatchUp::Since { epoch: Some(Epoch::new(epoch)), offset };
        let text = positions_text(&[position(5, 0), position(33, u64::MAX)]);
        assert_eq!(positions(&text, 2), Some(vec![since(5, 0), since(33, u64::MAX)]));
        assert_eq!(positions(&text.replace(':', "%3A").replace(',', "%2C"), 2), positions(&text, 2));
        assert_eq!(positions(&text, 1), None);
        for bad in ["", "5", ":", "5:", "5:-1", "5:1:1", "5:1,", "5:18446744073709551616"] {
            assert_eq!(positions(bad, 1), None, "{bad}");
        }
        let never = CatchUp::Since { epoch: Some(Epoch::NEVER), offset: 1 };
        assert_eq!(positions("other:1", 1), Some(vec![never]));
    }

    #[test]
    fn a_path_names_its_topics_in_order() {
        let names = |list| topics(list).map(|topics| topics.iter().map(|topic| topic.to_string()).collect::<Vec<_>>());
        assert_eq!(names("a"), Ok(vec!["a".to_owned()]));
        assert_eq!(names("b,a"), Ok(vec!["b".to_owned(), "a".to_owned()]));
        assert_eq!(names("chat%3Aroom/1"), Ok(vec!["chat:room/1".to_owned()]));
        assert_eq!(names(""), Err(NameError::Empty));
        assert_eq!(names("a,,b"), Err(NameError::Empty));
        assert_eq!(names("a%20b"), Err(NameError::Character));
    }
}
