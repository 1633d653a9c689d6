//! Which encoding of a publication each subscriber is sent: the plain frame, or one compressed for its window. What is
//! compressed is compressed once for all shards, by the first that has a subscriber for it.

use std::time::Instant;

use super::metrics::ShardMetrics;
use super::shard::Shard;
use crate::buf::{LazyFrame, SharedFrame};
use crate::conn::Connection;
use crate::proto::{Deflater, FrameHeader, Message, MessageKind, Opcode, WindowBits, encode_deflated};
use crate::ring::Ring;
use crate::topics::{LAZY_FRAMES, Publication, Variant};

/// The variant for a connection: the window's bits where compression was agreed on.
pub(super) fn variant_of(conn: &Connection) -> Variant {
    conn.deflate_window.map_or(Variant::PLAIN, |window| Variant(window.get()))
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
        self.metrics.inflate_messages.set(inflated.messages);
        self.metrics.inflate_bytes_in.set(inflated.bytes_in);
        self.metrics.inflate_bytes_out.set(inflated.bytes_out);
    }
}

/// The frame of `publication` in `variant`: the plain one also where compressing would not make it smaller.
pub(super) fn encode(
    publication: &Publication,
    variant: Variant,
    deflater: &mut Deflater,
    metrics: &ShardMetrics,
) -> SharedFrame {
    let deflated = match (WindowBits::new(variant.0), &publication.lazy_frames) {
        (Some(window), Some(lazy_frames)) => {
            encode_compressed(&publication.frame, lazy_frames, window, deflater, metrics)
        }
        _ => None,
    };
    deflated.unwrap_or_else(|| publication.frame.clone())
}

fn encode_compressed(
    frame: &SharedFrame,
    lazy_frames: &[LazyFrame; LAZY_FRAMES],
    window: WindowBits,
    deflater: &mut Deflater,
    metrics: &ShardMetrics,
) -> Option<SharedFrame> {
    let message = message(frame);
    let window = deflater.window_for(message.payload.len(), window)?;
    let mut is_shared = true;
    let lazy_frame = &lazy_frames[usize::from(window.get() - WindowBits::MIN.get())];
    let deflated = lazy_frame.get_or_make(|| {
        is_shared = false;
        let start = Instant::now();
        let deflated = deflate(message, window, deflater);
        metrics.deflate_nanoseconds.add(start.elapsed().as_nanos() as u64);
        deflated
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
    use std::sync::Arc;

    use super::*;
    use crate::proto::{DeflateConfig, Inflater, encode_message};
    use crate::topics::{Epoch, Position, TopicName};

    fn publication(message: Message<'_>) -> Publication {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, message, None);
        Publication {
            topic: TopicName::new("a").unwrap(),
            position: Position { epoch: Epoch::new(1), offset: 1 },
            frame: SharedFrame::new(bytes),
            lazy_frames: Some(Arc::default()),
        }
    }

    /// A shard, as far as encoding goes.
    #[derive(Default)]
    struct Encoder {
        metrics: ShardMetrics,
        deflater: Option<Deflater>,
    }

    impl Encoder {
        fn encode(&mut self, publication: &Publication, bits: u8) -> SharedFrame {
            let deflater =
                self.deflater.get_or_insert_with(|| Deflater::new(DeflateConfig { level: 6, bytes_min: 10 }));
            encode(publication, Variant(bits), deflater, &self.metrics)
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
        assert!(first.metrics.deflate_nanoseconds.get() > 0);
    }

    #[test]
    fn others_are_sent_the_plain_frame() {
        let mut encoder = Encoder::default();
        let long = publication(Message::text("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
        assert_eq!(encoder.encode(&long, 0).as_ptr(), long.frame.as_ptr(), "not agreed on");
        assert!(encoder.encode(&long, 15).as_ptr() != long.frame.as_ptr(), "agreed on");
        let short = publication(Message::text("aaaaaaaaa"));
        assert_eq!(encoder.encode(&short, 15).as_ptr(), short.frame.as_ptr(), "below the bound");
        let random = publication(Message::binary(b"\x8b\x11\x6f\xd3\x29\xe5\x4c\x90\xb7\x02\xfe\x73\x58"));
        assert_eq!(encoder.encode(&random, 15).as_ptr(), random.frame.as_ptr(), "does not shrink");
        let off = Publication { lazy_frames: None, ..long };
        assert_eq!(encoder.encode(&off, 15).as_ptr(), off.frame.as_ptr(), "switched off");
    }
}
