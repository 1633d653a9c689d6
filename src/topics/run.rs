//! The pushes of one topic that are due to a subscriber: their frames, concatenated.

use std::rc::Rc;

use smallvec::SmallVec;

use super::{NamespaceId, Push, TopicId, Variant};
use crate::buf::SharedFrame;

/// One push of a run, as it would leave alone.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its index in [`Run::pushes`].
    pub push: usize,
    /// Its frame.
    pub frame: SharedFrame,
}

/// Pushes of one topic in one variant: subscribers with the same due pushes share these bytes.
#[derive(Debug)]
pub struct Run {
    /// The topic.
    pub topic: TopicId,
    /// The topic's namespace.
    pub namespace: NamespaceId,
    /// The variant of its subscribers.
    pub variant: Variant,
    /// The pushes of all variants, in order.
    pub pushes: Rc<[Push]>,
    /// The frames of this variant's pushes, in order.
    pub parts: SmallVec<[Part; 1]>,
    /// These frames, concatenated.
    pub bytes: SharedFrame,
}

impl Run {
    /// A run of `parts`; `None` if `parts` is empty.
    pub(super) fn new(
        topic: TopicId,
        namespace: NamespaceId,
        variant: Variant,
        pushes: Rc<[Push]>,
        parts: SmallVec<[Part; 1]>,
    ) -> Option<Run> {
        if parts.is_empty() {
            return None;
        }
        let frames: SmallVec<[SharedFrame; 1]> = parts.iter().map(|part| part.frame.clone()).collect();
        let bytes = SharedFrame::concat(&frames);
        Some(Run { topic, namespace, variant, pushes, parts, bytes })
    }

    /// Splits the run after its first `sent` bytes: the partly sent part with the number of its sent bytes, unless the
    /// split is between two parts; and the unsent parts.
    pub fn cut(&self, sent: usize) -> (Option<(&Part, usize)>, &[Part]) {
        let mut start = 0;
        for (index, part) in self.parts.iter().enumerate() {
            let end = start + part.frame.len();
            if sent <= start {
                return (None, &self.parts[index..]);
            }
            if sent < end {
                return (Some((part, sent - start)), &self.parts[index + 1..]);
            }
            start = end;
        }
        (None, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_cut_between_its_parts_or_within_one() {
        let part = |(push, bytes): (usize, &[u8])| Part { push, frame: SharedFrame::new(bytes.to_vec()) };
        let parts = [&b"one"[..], b"two!"].into_iter().enumerate().map(part).collect();
        let (topic, pushes) = (TopicId::default(), Vec::new().into());
        let run = Run::new(topic, NamespaceId::default(), Variant::RAW, pushes, parts).unwrap();
        let rows = [
            (0, None, &[3, 4][..]),
            (1, Some((3, 1)), &[4]),
            (3, None, &[4]),
            (5, Some((4, 2)), &[]),
            (6, Some((4, 3)), &[]),
            (7, None, &[]),
        ];
        for (sent, begun, rest) in rows {
            let (part, parts) = run.cut(sent);
            let lens: Vec<usize> = parts.iter().map(|part| part.frame.len()).collect();
            assert_eq!((part.map(|(part, skip)| (part.frame.len(), skip)), &lens[..]), (begun, rest), "after {sent}");
        }
    }
}
