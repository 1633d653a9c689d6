//! Records: their framing, and the AEAD over them (RFC 8446 §5.2, RFC 5288, RFC 7905).

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

use crate::limits::{TLS_FRAGMENT_BYTES_MAX, TLS_RECORD_BYTES_MAX};

/// Bytes of a record's header.
pub(super) const HEADER_BYTES: usize = 5;

/// Bytes of an AEAD tag, in all suites.
const TAG_BYTES: usize = 16;

/// Bytes that a record of TLS 1.2 with AES-GCM spends on its explicit nonce.
const EXPLICIT_BYTES: usize = 8;

/// The content of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentType {
    Alert,
    Handshake,
    ApplicationData,
}

/// How the AEAD of a suite is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// TLS 1.3: the type of the content is encrypted, too.
    Tls13,
    /// TLS 1.2 with AES-GCM: half of the nonce is sent.
    Gcm12,
    /// TLS 1.2 with ChaCha20-Poly1305.
    ChaCha12,
}

/// The keys of one direction and the number of its next record.
pub(super) struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// Within these keys.
    pub(super) number: u64,
}

/// A record that is not authentic, or not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRecord;

impl ContentType {
    fn from_byte(byte: u8) -> Option<ContentType> {
        match byte {
            21 => Some(ContentType::Alert),
            22 => Some(ContentType::Handshake),
            23 => Some(ContentType::ApplicationData),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            ContentType::Alert => 21,
            ContentType::Handshake => 22,
            ContentType::ApplicationData => 23,
        }
    }
}

impl Framing {
    /// Of an established connection.
    pub(super) fn new(version: ProtocolVersion, secrets: &ConnectionTrafficSecrets) -> Framing {
        match (version, secrets) {
            (ProtocolVersion::TLSv1_2, ConnectionTrafficSecrets::Chacha20Poly1305 { .. }) => Framing::ChaCha12,
            (ProtocolVersion::TLSv1_2, _) => Framing::Gcm12,
            _ => Framing::Tls13,
        }
    }

    /// Bytes by which a record is longer than what is in it.
    pub(super) fn overhead(self) -> usize {
        match self {
            Framing::Tls13 => HEADER_BYTES + 1 + TAG_BYTES,
            Framing::Gcm12 => HEADER_BYTES + EXPLICIT_BYTES + TAG_BYTES,
            Framing::ChaCha12 => HEADER_BYTES + TAG_BYTES,
        }
    }

    /// What authenticates a record of TLS 1.2 besides its content (RFC 5246 §6.2.3.3).
    fn aad12(number: u64, kind: ContentType, len: usize) -> Aad<[u8; 13]> {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&number.to_be_bytes());
        aad[8..11].copy_from_slice(&[kind.byte(), 3, 3]);
        aad[11..].copy_from_slice(&(len as u16).to_be_bytes());
        Aad::from(aad)
    }
}

impl Keys {
    /// Keys that rustls has agreed on.
    pub(super) fn new((number, secrets): (u64, &ConnectionTrafficSecrets)) -> Keys {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            other => unreachable!("the provider has no other suites: {other:?}", other = std::mem::discriminant(other)),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).expect("a key has the length of its algorithm");
        let iv = iv.as_ref().try_into().expect("every suite has nonces of 12 bytes");
        Keys { key: LessSafeKey::new(key), iv, number }
    }

    /// Appends a record with `content` to `out`.
    pub(super) fn seal(&mut self, framing: Framing, kind: ContentType, content: &[u8], out: &mut Vec<u8>) {
        debug_assert!(content.len() <= TLS_FRAGMENT_BYTES_MAX);
        let nonce = self.nonce();
        let len = framing.overhead() - HEADER_BYTES + content.len();
        let outer = if framing == Framing::Tls13 { ContentType::ApplicationData } else { kind };
        let header = [outer.byte(), 3, 3, (len >> 8) as u8, len as u8];
        out.reserve(HEADER_BYTES + len);
        out.extend_from_slice(&header);
        if framing == Framing::Gcm12 {
            out.extend_from_slice(&nonce[NONCE_LEN - EXPLICIT_BYTES..]);
        }
        let start = out.len();
        out.extend_from_slice(content);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = if framing == Framing::Tls13 {
            out.push(kind.byte());
            self.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start..])
        } else {
            let aad = Framing::aad12(self.number, kind, content.len());
            self.key.seal_in_place_separate_tag(nonce, aad, &mut out[start..])
        };
        out.extend_from_slice(sealed.expect("a record is far from the AEAD's bound").as_ref());
        self.number += 1;
    }

    /// Decrypts a whole record in place: its content, and what it is.
    pub(super) fn open<'r>(
        &mut self,
        framing: Framing,
        record: &'r mut [u8],
    ) -> Result<(ContentType, &'r mut [u8]), BadRecord> {
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        let outer = ContentType::from_byte(header[0]).ok_or(BadRecord)?;
        let opened = match framing {
            Framing::Tls13 if outer != ContentType::ApplicationData => return Err(BadRecord),
            Framing::Tls13 => {
                let aad: [u8; HEADER_BYTES] = header.try_into().expect("the length of a header");
                self.key.open_in_place(Nonce::assume_unique_for_key(self.nonce()), Aad::from(aad), body)
            }
            Framing::ChaCha12 => {
                let len = body.len().checked_sub(TAG_BYTES).ok_or(BadRecord)?;
                let nonce = Nonce::assume_unique_for_key(self.nonce());
                self.key.open_in_place(nonce, Framing::aad12(self.number, outer, len), body)
            }
            Framing::Gcm12 => {
                let len = body.len().checked_sub(EXPLICIT_BYTES + TAG_BYTES).ok_or(BadRecord)?;
                let (explicit, body) = body.split_at_mut(EXPLICIT_BYTES);
                let mut nonce = self.iv;
                nonce[NONCE_LEN - EXPLICIT_BYTES..].copy_from_slice(explicit);
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.key.open_in_place(nonce, Framing::aad12(self.number, outer, len), body)
            }
        };
        let content = opened.map_err(|_| BadRecord)?;
        self.number += 1;
        let (kind, len) = match framing {
            Framing::Tls13 => {
                // Padding is zeros behind the type (RFC 8446 §5.4).
                let last = content.iter().rposition(|byte| *byte != 0).ok_or(BadRecord)?;
                (ContentType::from_byte(content[last]).ok_or(BadRecord)?, last)
            }
            Framing::Gcm12 | Framing::ChaCha12 => (outer, content.len()),
        };
        if len > TLS_FRAGMENT_BYTES_MAX {
            return Err(BadRecord);
        }
        Ok((kind, &mut content[..len]))
    }

    /// The nonce of the next record: its number is in the lower bytes (RFC 8446 §5.3).
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        let number = &mut nonce[NONCE_LEN - 8..];
        number.iter_mut().zip(self.number.to_be_bytes()).for_each(|(byte, number)| *byte ^= number);
        nonce
    }
}

/// Bytes of the record at the front of `bytes`, with its header; `None` if the header is not there as a whole.
///
/// # Errors
/// [`BadRecord`] if it is longer than records may be.
pub(super) fn record_len(bytes: &[u8]) -> Result<Option<usize>, BadRecord> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let len = HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if len > TLS_RECORD_BYTES_MAX { Err(BadRecord) } else { Ok(Some(len)) }
}
