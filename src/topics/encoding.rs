//! The encodings of pushes, by number: which bytes a number stands for is the gateway's business.

use std::sync::{Arc, OnceLock};

use super::Body;
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

/// How a subscriber receives publications: whole, or as deltas to the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deltas {
    /// All whole.
    None,
    /// The next one whole, since it may not have received the one before; those after that as deltas.
    First,
    /// As deltas: it has received the one before, or will before this one.
    Next,
}

/// The bits of an [`Encoding`] above its number: with deltas, and if the next publication is one. Without deltas, the
/// second one stands for a filter.
const DELTAS: u8 = 0x80;
const NEXT: u8 = 0x40;

const _: () = assert!(ENCODINGS_MAX <= NEXT as usize, "a number and the bits of deltas fit into one byte");

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
        usize::from(self.0 & !(DELTAS | NEXT))
    }

    /// The encoding of a subscriber that receives deltas, from a whole publication on.
    #[must_use]
    pub fn with_deltas(self) -> Encoding {
        Encoding(self.whole().0 | DELTAS)
    }

    /// The encoding of the same subscriber after a publication that it has received, or will before the next one.
    #[must_use]
    pub(crate) fn after_publication(self) -> Encoding {
        match self.deltas() {
            Deltas::None => self,
            Deltas::First | Deltas::Next => Encoding(self.0 | NEXT),
        }
    }

    /// The same without deltas and filter.
    #[must_use]
    pub fn whole(self) -> Encoding {
        Encoding(self.0 & !(DELTAS | NEXT))
    }

    /// The encoding of a subscriber with a filter, whose number is the label.
    #[must_use]
    pub(crate) fn filtered(self) -> Encoding {
        Encoding(self.whole().0 | NEXT)
    }

    /// Whether the label is that of a filter.
    pub(crate) fn is_filtered(self) -> bool {
        self.0 & (DELTAS | NEXT) == NEXT
    }

    /// Whether the next publication is a delta.
    pub fn deltas(self) -> Deltas {
        match (self.0 & DELTAS, self.0 & NEXT) {
            (0, _) => Deltas::None,
            (_, 0) => Deltas::First,
            _ => Deltas::Next,
        }
    }
}

/// The frames of one publication in one form: for each encoding plain, and compressed for each window.
#[derive(Debug, Default)]
struct FormFrames([OnceLock<Box<[LazyFrame; WINDOWS]>>; ENCODINGS_MAX]);

impl FormFrames {
    fn get(&self, encoding: Encoding, bits: u8) -> &LazyFrame {
        let frames = self.0[encoding.number()].get_or_init(Default::default);
        &frames[usize::from(bits.saturating_sub(8))]
    }
}

/// The frames of one publication. All shards share them.
#[derive(Clone, Debug, Default)]
pub struct Frames(Arc<Forms>);

#[derive(Debug, Default)]
struct Forms {
    whole: FormFrames,
    delta: OnceLock<Box<Delta>>,
}

/// A publication as what has changed since the one before in its topic: made once for all shards, when the first
/// subscriber needs it.
#[derive(Debug)]
pub struct Delta {
    base: Arc<Body>,
    patch: OnceLock<Option<Box<[u8]>>>,
    frames: FormFrames,
}

impl Frames {
    /// The frame of this encoding, compressed with a window of `bits`; 0 is not compressed.
    pub fn get(&self, encoding: Encoding, bits: u8) -> &LazyFrame {
        self.0.whole.get(encoding, bits)
    }

    /// Lets the publication be a delta to `base`, the one before.
    pub(super) fn begin_delta(&self, base: Arc<Body>) {
        self.0.delta.get_or_init(|| Box::new(Delta { base, patch: OnceLock::new(), frames: FormFrames::default() }));
    }

    /// The publication as a delta, if a shard knows the one before.
    pub fn delta(&self) -> Option<&Delta> {
        self.0.delta.get().map(|delta| &**delta)
    }
}

impl Delta {
    /// The publication before.
    pub fn base(&self) -> &Body {
        &self.base
    }

    /// What turns the payload of the base into that of the publication, made by `make` at the first call; `None` if
    /// `make` returned `None` then.
    pub fn patch(&self, make: impl FnOnce(&Body) -> Option<Box<[u8]>>) -> Option<&[u8]> {
        self.patch.get_or_init(|| make(&self.base)).as_deref()
    }

    /// As [`Frames::get`].
    pub fn get(&self, encoding: Encoding, bits: u8) -> &LazyFrame {
        self.frames.get(encoding, bits)
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
    fn deltas_begin_with_a_whole_publication() {
        let plain = Encoding::numbered(ENCODINGS_MAX - 1);
        let first = plain.with_deltas();
        let next = first.after_publication();
        let states = [plain, first, next, next.after_publication(), next.with_deltas()].map(Encoding::deltas);
        assert_eq!(states, [Deltas::None, Deltas::First, Deltas::Next, Deltas::Next, Deltas::First]);
        assert!([first, next].iter().all(|encoding| encoding.whole() == plain && encoding.number() == plain.number()));
        assert_eq!(plain.after_publication(), plain);
        let filtered = plain.filtered();
        assert_eq!(
            (filtered.deltas(), filtered.whole(), filtered.after_publication()),
            (Deltas::None, plain, filtered)
        );
        assert_eq!([plain, first, next, filtered].map(Encoding::is_filtered), [false, false, false, true]);
    }

    #[test]
    #[should_panic(expected = "too many encodings")]
    fn the_number_of_encodings_has_a_limit() {
        Encoding::numbered(ENCODINGS_MAX);
    }
}
