//! The encodings of pushes, by number: which bytes a number stands for is the gateway's business.

use std::sync::{Arc, OnceLock};

use crate::buf::LazyFrame;
use crate::limits::ENCODINGS_MAX;

/// The encoding of pushes for a subscriber. Subscribers with the same encoding share the bytes of each push.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Encoding(u8);

/// The encoding of one subscription, for protocols whose messages name the subscription. The label stands for that
/// name: subscribers of a topic with the same label share the bytes of each push.
///
/// Each label of a topic costs an encoding and a copy of the payload for each push and shard, so a protocol has labels
/// for frequent names, and [`Encoding::PER_CONNECTION`] for all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LabelledEncoding {
    /// The encoding.
    pub encoding: Encoding,
    /// The label, for its encoder; 0 is none.
    pub label: u8,
}

/// Number of compression windows: 9 to 15 bits, and none.
const WINDOWS: usize = 8;

impl Encoding {
    /// The payload verbatim, as one WebSocket message: [`Body::frame`](super::Body::frame).
    pub const RAW: Encoding = Encoding(0);

    /// The connection's handler encodes each push for each connection: costs one call and one copy per subscriber.
    pub const PER_CONNECTION: Encoding = Encoding(1);

    /// Number of the encodings above.
    pub(crate) const BUILT_IN: usize = 2;

    /// The encoding with this number.
    ///
    /// # Panics
    /// If it is [`ENCODINGS_MAX`] or more.
    pub(crate) fn numbered(number: usize) -> Encoding {
        assert!(number < ENCODINGS_MAX, "too many encodings");
        Encoding(number as u8)
    }

    /// Its number, below [`ENCODINGS_MAX`].
    pub(crate) fn number(self) -> usize {
        usize::from(self.0)
    }
}

/// The frames of one publication: for each encoding plain, and compressed for each window. All shards share them.
#[derive(Clone, Debug, Default)]
pub struct Frames(Arc<[OnceLock<Box<[LazyFrame; WINDOWS]>>; ENCODINGS_MAX]>);

impl Frames {
    /// The frame of this encoding, compressed with a window of `bits`; 0 is not compressed.
    pub fn get(&self, encoding: Encoding, bits: u8) -> &LazyFrame {
        let frames = self.0[encoding.number()].get_or_init(Default::default);
        &frames[usize::from(bits.saturating_sub(8))]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_encoding_and_window_has_its_own_frame() {
        let frames = Frames::default();
        let encodings = [Encoding::RAW, Encoding::PER_CONNECTION, Encoding::numbered(ENCODINGS_MAX - 1)];
        let found: HashSet<*const LazyFrame> = encodings
            .into_iter()
            .flat_map(|encoding| [0, 9, 12, 15].map(|bits| std::ptr::from_ref(frames.get(encoding, bits))))
            .collect();
        assert_eq!(found.len(), 3 * 4);
    }

    #[test]
    #[should_panic(expected = "too many encodings")]
    fn the_number_of_encodings_has_a_limit() {
        Encoding::numbered(ENCODINGS_MAX);
    }
}
