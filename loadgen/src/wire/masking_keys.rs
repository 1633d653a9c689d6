//! Masking keys of client frames (RFC 6455 §5.3).

/// A fresh key for every frame. The RFC requires unpredictable keys, to protect proxies between a browser and a server.
/// A load generator has neither, so a fast generator with a fixed seed suffices and makes runs repeatable.
pub(crate) struct MaskingKeys(u64);

impl MaskingKeys {
    /// Generates the same keys in every run.
    pub(crate) fn new() -> MaskingKeys {
        MaskingKeys(0x2545_f491_4f6c_dd1d)
    }

    /// The next key.
    pub(crate) fn next(&mut self) -> [u8; 4] {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) as u32).to_ne_bytes()
    }

    /// Sixteen random bytes for the key of an opening handshake (§4.1).
    pub(crate) fn handshake_key(&mut self) -> [u8; 16] {
        let mut key = [0; 16];
        key.chunks_exact_mut(4).for_each(|part| part.copy_from_slice(&self.next()));
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ() {
        let mut keys = MaskingKeys::new();
        let mut seen: Vec<_> = (0..1000).map(|_| keys.next()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
        assert_ne!(keys.handshake_key(), keys.handshake_key());
    }
}
