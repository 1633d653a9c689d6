//! Hashes that all nodes of a cluster compute alike, whatever they were built with. They are part of its wire format.

use super::{Epoch, TopicName};

/// Mixes the bits of a number: each bit of the input changes about half of the output (the finalizer of SplitMix64).
pub fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of `bytes`: eight bytes at a time, little-endian, the last ones padded with zeros.
pub fn stable_hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = mix(seed ^ bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = mix(hash ^ u64::from_le_bytes(word));
    }
    hash
}

/// The bucket of a topic.
pub fn bucket_of(topic: &TopicName, buckets: u16) -> u16 {
    (stable_hash(0, topic.as_str().as_bytes()) % u64::from(buckets)) as u16
}

/// The epoch of a topic that is first published to in this `lineage` of its bucket.
pub fn epoch_of(topic: &TopicName, lineage: u64) -> Epoch {
    Epoch::new(stable_hash(lineage, topic.as_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_never_change() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        let rows: [(u64, &[u8], u64); 4] = [
            (0, b"", 0xe220_a839_7b1d_cdaf),
            (0, b"a", 0x5e02_5f9a_de9e_af3e),
            (0, b"news/of/the/day", 0x06c0_4421_85a4_ccff),
            (7, b"news/of/the/day", 0x57ce_c029_f1cc_9a4d),
        ];
        let hashes = rows.map(|(seed, bytes, _)| stable_hash(seed, bytes));
        assert_eq!(hashes, rows.map(|(_, _, hash)| hash));
        let topic = TopicName::new("chat:lobby").unwrap();
        assert_eq!([1, 4, 16, 64].map(|buckets| bucket_of(&topic, buckets)), [0, 0, 4, 4]);
        assert_eq!(epoch_of(&topic, 7), Epoch::new(0x17e1_6a3d_5116_59a1));
    }

    #[test]
    fn topics_are_spread_over_the_buckets() {
        let mut counts = [0; 16];
        for number in 0..16_000 {
            counts[usize::from(bucket_of(&TopicName::new(&format!("t{number}")).unwrap(), 16))] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
