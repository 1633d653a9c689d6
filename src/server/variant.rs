//! The frame of a publication for each subscriber: plain, or compressed for its window. The first shard that needs a
//! compressed frame makes it for all shards.

use rustix::time::{ClockId, clock_gettime};

use super::metrics::ShardMetrics;
use super::shard::Shard;
use super::slot::Slot;
use crate::buf::{LazyFrame, SharedFrame};
use crate::gateway::{self, encode_presence};
use crate::limits::DELTA_BYTES_MAX;
use crate::proto::{Deflater, FrameHeader, Message, MessageKind, Opcode, WindowBits, encode_deflated, fossil_delta};
use crate::ring::Ring;
use crate::topics::{Body, Deltas, Encoding, LabelledEncoding, Namespace, Publication, Push, TopicName, Variant};

/// The variant of pushes to a connection from topics of a namespace. `encoding` is that of the subscription, if it has
/// one of its own.
pub(super) fn variant_of(slot: &Slot, namespace: &Namespace, encoding: Option<LabelledEncoding>) -> Variant {
    let window = slot.conn.deflate_window.filter(|_| namespace.deflate);
    let of_connection = LabelledEncoding { encoding: slot.encoding, label: 0 };
    let LabelledEncoding { encoding, label } = encoding.unwrap_or(of_connection);
    Variant { encoding, window: window.map_or(0, WindowBits::get), join_leave: false, label }
}

impl<R: Ring> Shard<'_, R> {
    /// Keeps the metrics of compression up to date.
    pub(super) fn count_deflate(&mut self) {
        if self.config.deflate.is_none() {
            return;
        }
        let (deflated, inflated) = (self.deflater.totals(), self.inflater.totals());
        self.metrics.deflate_messages.set(deflated.messages);
        self.metrics.deflate_bytes_in.set(deflated.bytes_in);
        self.metrics.deflate_bytes_out.set(deflated.bytes_out);
        self.metrics.deflate_nanoseconds.set(deflated.nanoseconds);
        self.metrics.inflate_messages.set(inflated.messages);
        self.metrics.inflate_bytes_in.set(inflated.bytes_in);
        self.metrics.inflate_bytes_out.set(inflated.bytes_out);
        self.metrics.inflate_nanoseconds.set(inflated.nanoseconds);
    }
}

/// Nanoseconds of the clock that takes the time of compressing and inflating.
pub(super) fn nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The frame of `push` in `variant`, or `None` where it is not for such subscribers. A publication's is the one that is
/// not compressed also where compressing would not make it smaller. Where the connection's handler makes it, it has no
/// bytes.
pub(super) fn encode(
    topic: &TopicName,
    push: &Push,
    variant: Variant,
    deflater: &mut Deflater,
    metrics: &ShardMetrics,
) -> Option<SharedFrame> {
    if variant.encoding == Encoding::PER_CONNECTION {
        return Some(SharedFrame::new(Vec::new()));
    }
    match push {
        Push::Publication(publication) => encode_publication(publication, variant, deflater, metrics),
        Push::Joined(_) | Push::Left(_) if !variant.join_leave => None,
        Push::Joined(info) => encode_presence(variant.encoding, topic, info, true),
        Push::Left(info) => encode_presence(variant.encoding, topic, info, false),
    }
}

fn encode_publication(
    publication: &Publication,
    variant: Variant,
    deflater: &mut Deflater,
    metrics: &ShardMetrics,
) -> Option<SharedFrame> {
    if variant.label > 0 {
        return encode_labelled(publication, variant, deflater);
    }
    if variant.encoding.deltas() == Deltas::Next
        && let Some(frame) = encode_delta(publication, variant, deflater, metrics)
    {
        return Some(frame);
    }
    let frame = match variant.encoding {
        Encoding::RAW => publication.body.frame.clone(),
        encoding => {
            let frame = publication.frames.get(encoding, 0);
            frame.get_or_make(|| gateway::encode_publication(encoding, &publication.body))?.clone()
        }
    };
    let in_window = |window: WindowBits| publication.frames.get(variant.encoding, window.get());
    let deflated = WindowBits::new(variant.window)
        .and_then(|window| encode_compressed(&frame, in_window, window, deflater, metrics));
    Some(deflated.unwrap_or(frame))
}

/// The frame of a publication as a delta to the one before; `None` if it leaves whole.
fn encode_delta(
    publication: &Publication,
    variant: Variant,
    deflater: &mut Deflater,
    metrics: &ShardMetrics,
) -> Option<SharedFrame> {
    let delta = publication.frames.delta()?;
    let patch = delta.patch(|base| make_patch(base, &publication.body, metrics))?;
    let make = || gateway::encode_delta(variant.encoding, &publication.body, delta.base(), patch);
    let frame = delta.get(variant.encoding, 0).get_or_make(make)?.clone();
    let in_window = |window: WindowBits| delta.get(variant.encoding, window.get());
    let deflated = WindowBits::new(variant.window)
        .and_then(|window| encode_compressed(&frame, in_window, window, deflater, metrics));
    Some(deflated.unwrap_or(frame))
}

/// What turns the payload of `base` into that of `body`, if that is smaller.
fn make_patch(base: &Body, body: &Body, metrics: &ShardMetrics) -> Option<Box<[u8]>> {
    let payload = body.payload();
    if payload.len() > DELTA_BYTES_MAX {
        metrics.deltas_declined.add(1);
        return None;
    }
    let patch = fossil_delta(base.payload(), payload);
    if patch.len() >= payload.len() {
        metrics.deltas_declined.add(1);
        return None;
    }
    metrics.deltas.add(1);
    metrics.deltas_bytes_in.add(payload.len() as u64);
    metrics.deltas_bytes_out.add(patch.len() as u64);
    Some(patch.into())
}

/// A frame with a label is of this shard alone: the other shards may not have such subscriptions.
fn encode_labelled(publication: &Publication, variant: Variant, deflater: &mut Deflater) -> Option<SharedFrame> {
    let frame = gateway::encode_labelled(variant.encoding, variant.label, &publication.body)?;
    let deflated = WindowBits::new(variant.window).and_then(|window| {
        let message = message(&frame);
        let window = deflater.window_for(message.payload.len(), window)?;
        deflate(message, window, deflater)
    });
    Some(deflated.unwrap_or(frame))
}

/// `in_window`: where all shards find the compressed frame.
fn encode_compressed<'f>(
    frame: &SharedFrame,
    in_window: impl FnOnce(WindowBits) -> &'f LazyFrame,
    window: WindowBits,
    deflater: &mut Deflater,
    metrics: &ShardMetrics,
) -> Option<SharedFrame> {
    let message = message(frame);
    let window = deflater.window_for(message.payload.len(), window)?;
    let mut is_shared = true;
    let deflated = in_window(window).get_or_make(|| {
        is_shared = false;
        deflate(message, window, deflater)
    });
    metrics.deflate_shared.add(u64::from(is_shared && deflated.is_some()));
    deflated.cloned()
}

fn deflate(message: Message<'_>, window: WindowBits, deflater: &mut Deflater) -> Option<SharedFrame> {
    let payload = deflater.deflate(message.payload, window)?;
    let mut bytes = Vec::new();
    encode_deflated(&mut bytes, Message { payload, ..message }, None);
    Some(SharedFrame::new(bytes))
}

/// The message that a whole frame of ours is.
fn message(frame: &SharedFrame) -> Message<'_> {
    let header = FrameHeader::decode(frame).ok().flatten();
    let (header, header_len) = header.expect("a publication's frame is whole and valid");
    let kind = if header.opcode == Opcode::Text { MessageKind::Text } else { MessageKind::Binary };
    Message { kind, payload: &frame[header_len..] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{DeflateConfig, Inflater, encode_message};
    use crate::topics::{Epoch, Position, testing};

    fn publication(message: Message<'_>) -> Publication {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, message, None);
        let position = Position { epoch: Epoch::new(1), offset: 1 };
        testing::publication("a", position, &bytes)
    }

    /// A shard, as far as encoding goes.
    #[derive(Default)]
    struct Encoder {
        metrics: ShardMetrics,
        deflater: Option<Deflater>,
    }

    impl Encoder {
        fn encode(&mut self, publication: &Publication, bits: u8) -> SharedFrame {
            let deflater = self
                .deflater
                .get_or_insert_with(|| Deflater::new(DeflateConfig { level: 6, bytes_min: 10, context_takeover: 0 }));
            let (topic, push) = (&publication.body.topic, Push::Publication(publication.clone()));
            encode(topic, &push, Variant { window: bits, ..Variant::RAW }, deflater, &self.metrics).unwrap()
        }
    }

    #[test]
    fn what_is_compressed_is_compressed_once_for_all_shards() {
        let text = "compressible ".repeat(100);
        let publication = publication(Message::text(&text));
        let (mut first, mut second) = (Encoder::default(), Encoder::default());
        let frame = first.encode(&publication, 15);
        let (header, header_len) = FrameHeader::decode(&frame).unwrap().unwrap();
        assert!(header.rsv1 && header.opcode == Opcode::Text && frame.len() < text.len() / 10);
        let mut inflater = Inflater::new();
        let message = Message { kind: MessageKind::Text, payload: &frame[header_len..] };
        assert_eq!(inflater.inflate(message, 1 << 20), Ok(Message::text(&text)));

        for bits in [11, 15] {
            assert_eq!(second.encode(&publication, bits).as_ptr(), frame.as_ptr(), "{bits} bits");
        }
        assert!(second.encode(&publication, 10).as_ptr() != frame.as_ptr(), "it does not fit into 1,024 bytes");
        assert_eq!((first.metrics.deflate_shared.get(), second.metrics.deflate_shared.get()), (0, 2));
    }

    #[test]
    fn others_are_sent_the_plain_frame() {
        let mut encoder = Encoder::default();
        let long = publication(Message::text("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
        assert_eq!(encoder.encode(&long, 0).as_ptr(), long.body.frame.as_ptr(), "not agreed on");
        assert!(encoder.encode(&long, 15).as_ptr() != long.body.frame.as_ptr(), "agreed on");
        let short = publication(Message::text("aaaaaaaaa"));
        assert_eq!(encoder.encode(&short, 15).as_ptr(), short.body.frame.as_ptr(), "below the bound");
        let random = publication(Message::binary(b"\x8b\x11\x6f\xd3\x29\xe5\x4c\x90\xb7\x02\xfe\x73\x58"));
        assert_eq!(encoder.encode(&random, 15).as_ptr(), random.body.frame.as_ptr(), "does not shrink");
    }
}
