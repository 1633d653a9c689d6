//! The encoders of pushes: each protocol registers its own.
//!
//! The server encodes a push once for all subscribers with the same [`Encoding`], and each of their sends points to
//! the same bytes. The policies for slow subscribers, batches and compression work for every encoding.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::envelope::ENVELOPE;
use crate::buf::SharedFrame;
use crate::limits::ENCODINGS_MAX;
use crate::topics::{Body, ClientInfo, Encoding, StatePage, TopicName};

/// Encodes the pushes of a protocol, from any shard's thread.
///
/// ```
/// use std::sync::LazyLock;
///
/// use ringfeed::gateway::{Encoder, register};
/// use ringfeed::topics::{Body, Encoding};
///
/// /// An event stream's line with the payload.
/// struct DataLine;
///
/// impl Encoder for DataLine {
///     fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
///         out.extend_from_slice(b"data: ");
///         out.extend_from_slice(body.payload());
///         out.extend_from_slice(b"\n\n");
///     }
/// }
///
/// /// For [`Accept::encoding`](ringfeed::Accept::encoding).
/// static DATA_LINE: LazyLock<Encoding> = LazyLock::new(|| register(DataLine));
/// # assert_ne!(*DATA_LINE, Encoding::RAW);
/// ```
pub trait Encoder: Send + Sync + 'static {
    /// Appends a publication: on a WebSocket one whole message in one unmasked frame, see
    /// [`encode_message`](crate::proto::encode_message).
    fn encode_publication(&self, out: &mut Vec<u8>, body: &Body);

    /// Appends a publication for the subscriptions with a label: see
    /// [`LabelledEncoding`](crate::topics::LabelledEncoding). The default is the same for all labels.
    fn encode_labelled(&self, out: &mut Vec<u8>, body: &Body, label: u8) {
        let _ = label;
        self.encode_publication(out, body);
    }

    /// Appends a publication as a delta: `patch` turns the payload of `base`, the publication before, into that of
    /// `body`. For subscribers with [`Encoding::with_deltas`]. The default appends nothing: the publication leaves
    /// whole.
    fn encode_delta(&self, out: &mut Vec<u8>, body: &Body, base: &Body, patch: &[u8]) {
        let _ = (out, body, base, patch);
    }

    /// Names the protocol and its encoding, for people.
    fn name(&self) -> &'static str {
        "other"
    }

    /// Maximum bytes of the publication in this encoding. The default encodes it and counts; a bound without encoding
    /// is faster where subscribers recover histories.
    fn publication_bytes_max(&self, body: &Body) -> usize {
        let mut out = Vec::new();
        self.encode_publication(&mut out, body);
        out.len()
    }

    /// Appends a join or a leave. The default appends nothing: subscribers receive no such push.
    fn encode_presence(&self, out: &mut Vec<u8>, topic: &TopicName, info: &ClientInfo, has_joined: bool) {
        let _ = (out, topic, info, has_joined);
    }
}

static ENCODERS: [OnceLock<Box<dyn Encoder>>; ENCODINGS_MAX] = [const { OnceLock::new() }; ENCODINGS_MAX];
static COUNT: AtomicUsize = AtomicUsize::new(Encoding::BUILT_IN);

/// Registers an encoder for all servers of the process. A process registers each encoder once: keep the result in a
/// [`LazyLock`](std::sync::LazyLock).
///
/// # Panics
/// If the process has registered [`ENCODINGS_MAX`] encoders, the two of the server among them.
pub fn register(encoder: impl Encoder) -> Encoding {
    let encoding = Encoding::numbered(COUNT.fetch_add(1, Ordering::Relaxed));
    let is_new = ENCODERS[encoding.number()].set(Box::new(encoder)).is_ok();
    assert!(is_new, "each number is given once");
    encoding
}

/// The encoder; `None` for the built-in encodings.
fn encoder(encoding: Encoding) -> Option<&'static dyn Encoder> {
    ENCODERS[encoding.number()].get().map(|encoder| &**encoder)
}

/// Names an encoding, for people.
pub fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::RAW => "raw",
        Encoding::PER_CONNECTION => "per connection",
        _ => encoder(encoding).map_or("other", |encoder| encoder.name()),
    }
}

/// The wire bytes of a publication; `None` for [`Encoding::PER_CONNECTION`].
pub fn encode_publication(encoding: Encoding, body: &Body) -> Option<SharedFrame> {
    if encoding == Encoding::RAW {
        return Some(body.frame.clone());
    }
    let mut out = Vec::new();
    encoder(encoding)?.encode_publication(&mut out, body);
    Some(SharedFrame::new(out))
}

/// The wire bytes of a publication as a delta; `None` if it leaves whole.
pub fn encode_delta(encoding: Encoding, body: &Body, base: &Body, patch: &[u8]) -> Option<SharedFrame> {
    let mut out = Vec::new();
    encoder(encoding)?.encode_delta(&mut out, body, base, patch);
    Some(out).filter(|out| !out.is_empty()).map(SharedFrame::new)
}

/// The wire bytes of a page of a state: its publications, one after the other. The first reader of the page encodes it.
///
/// # Panics
/// With a built-in encoding.
pub(super) fn encode_page(encoding: Encoding, page: &StatePage) -> &SharedFrame {
    page.frame(encoding, |page| {
        let encoder = encoder(encoding).expect("a state has no built-in encoding");
        let mut out = Vec::with_capacity(2 * page.bytes);
        page.bodies.iter().for_each(|body| encoder.encode_publication(&mut out, body));
        SharedFrame::new(out)
    })
}

/// The wire bytes of a publication for subscriptions with a label; `None` for the built-in encodings.
pub fn encode_labelled(encoding: Encoding, label: u8, body: &Body) -> Option<SharedFrame> {
    let mut out = Vec::new();
    encoder(encoding)?.encode_labelled(&mut out, body, label);
    Some(SharedFrame::new(out))
}

/// Maximum bytes of a publication in an encoding; a handler that encodes it itself is taken to send an envelope.
pub(super) fn publication_bytes_max(encoding: Encoding, body: &Body) -> usize {
    match encoding {
        Encoding::RAW => body.frame.len(),
        Encoding::PER_CONNECTION => publication_bytes_max(*ENVELOPE, body),
        _ => encoder(encoding).map_or(0, |encoder| encoder.publication_bytes_max(body)),
    }
}

/// The wire bytes of a join or a leave; `None` if the encoding has no such message.
pub fn encode_presence(
    encoding: Encoding,
    topic: &TopicName,
    info: &ClientInfo,
    has_joined: bool,
) -> Option<SharedFrame> {
    let mut out = Vec::new();
    encoder(encoding)?.encode_presence(&mut out, topic, info, has_joined);
    Some(out).filter(|out| !out.is_empty()).map(SharedFrame::new)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    #[cfg(feature = "centrifuge")]
    use super::super::centrifuge::{JSON, PROTOBUF};
    use super::super::event::EVENT;
    use super::*;
    use crate::topics::{Epoch, Position, testing::body};

    struct Topic;

    impl Encoder for Topic {
        fn encode_publication(&self, out: &mut Vec<u8>, body: &Body) {
            out.extend_from_slice(body.topic.as_str().as_bytes());
        }
    }

    #[test]
    fn an_encoding_has_the_bytes_of_its_encoder() {
        let (one, other) = (register(Topic), register(Topic));
        assert!(one != other && ![Encoding::RAW, Encoding::PER_CONNECTION].contains(&one));
        let body = body("news", Position { epoch: Epoch::new(1), offset: 1 }, 0, b"x");
        assert_eq!(&*encode_publication(one, &body).unwrap(), b"news");
        assert_eq!(publication_bytes_max(one, &body), 4);
        assert_eq!(encode_publication(Encoding::RAW, &body).unwrap().as_ptr(), body.frame.as_ptr());
        assert!(encode_publication(Encoding::PER_CONNECTION, &body).is_none());
        assert!(encode_presence(one, &body.topic, &ClientInfo::default(), true).is_none());
    }

    proptest! {
        #[test]
        fn no_publication_takes_more_than_its_bound(
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            text in "[\"\\\\\n\r\x00-\x1fa-zé☃]{0,100}",
            lines in "[\n\r]{0,50}",
            is_text in any::<bool>(),
            has_more in any::<bool>(),
            offset in any::<u64>(),
        ) {
            let position = Position { epoch: Epoch::new(u64::MAX), offset };
            for payload in [&payload[..], text.as_bytes(), lines.as_bytes(), &vec![b'"'; 300], &vec![1; 300]] {
                let mut body = body("a", position, u64::MAX, payload);
                let entry = Arc::get_mut(&mut body).unwrap();
                entry.is_text = is_text && std::str::from_utf8(payload).is_ok();
                if has_more {
                    entry.key = Some(text.as_str().into());
                    entry.tags = Some([(text.clone(), lines.clone()), (lines.clone(), text.clone())].into());
                    let bytes = Some(payload.into());
                    let (client, user) = (text.as_str().into(), lines.as_str().into());
                    let info = ClientInfo { client, user, conn_info: bytes.clone(), chan_info: bytes };
                    entry.info = Some(Arc::new(info));
                }
                for encoding in [Encoding::RAW, *ENVELOPE, *EVENT] {
                    let len = encode_publication(encoding, &body).unwrap().len();
                    let max = publication_bytes_max(encoding, &body);
                    prop_assert!(len <= max, "{encoding:?}: {len} of {max}");
                }
                // A missed publication in a subscribe reply has no channel.
                #[cfg(feature = "centrifuge")]
                {
                let publication = super::super::centrifuge::Publication::from(&*body);
                let json = serde_json::to_vec(&publication).unwrap().len() + 1;
                prop_assert!(json <= publication_bytes_max(*JSON, &body), "{json}");
                let protobuf = prost::Message::encoded_len(&publication) + 4;
                let max = publication_bytes_max(*PROTOBUF, &body);
                prop_assert!(protobuf <= max, "{protobuf}");
                }
            }
        }
    }
}
