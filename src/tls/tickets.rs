//! Session tickets (RFC 8446 §4.6.1, RFC 5077): a returning client resumes its session without a signature.
//!
//! A ticket is the session itself, encrypted. Its keys are random and end with the process, or those of a file, so that
//! sessions survive a restart and other servers with the same file resume them, too.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::ring as provider;
use rustls::server::ProducesTickets;

use super::certificates::warn_of_readers;
use super::model::TlsError;
use crate::limits::{TLS_TICKET_KEYS_MAX, TLS_TICKET_SECONDS};

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// Bytes by which a ticket names its key.
const NAME_BYTES: usize = 16;

/// Bytes of the time at which a ticket was made.
const TIME_BYTES: usize = 8;

/// What makes and reads tickets.
#[derive(Clone)]
pub(super) struct Tickets {
    producer: Arc<dyn ProducesTickets>,
    /// Its keys are this process's own.
    is_random: bool,
    /// Of the settings for clients' certificates.
    context: [u8; 32],
}

impl Tickets {
    /// With the keys of `file`, or with random ones if it has no name: those of `before`, unless these are for another
    /// `context`.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(super) fn new(file: &Path, context: [u8; 32], before: Option<Tickets>) -> Result<Tickets, TlsError> {
        if !file.as_os_str().is_empty() {
            let producer = Arc::new(KeyedTickets { keys: read_keys(file)?, context, random: SystemRandom::new() });
            return Ok(Tickets { producer, is_random: false, context });
        }
        if let Some(before) = before.filter(|before| before.is_random && before.context == context) {
            return Ok(before);
        }
        let producer = provider::Ticketer::new();
        let producer = producer.map_err(|error| TlsError(format!("no keys for session tickets: {error}")))?;
        Ok(Tickets { producer, is_random: true, context })
    }

    pub(super) fn producer(&self) -> Arc<dyn ProducesTickets> {
        self.producer.clone()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("is_random", &self.is_random).finish_non_exhaustive()
    }
}

/// Tickets under the keys of a file. The first key encrypts, and all decrypt.
struct KeyedTickets {
    keys: Vec<TicketKey>,
    context: [u8; 32],
    random: SystemRandom,
}

struct TicketKey {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl TicketKey {
    fn new(key: &[u8; KEY_BYTES]) -> TicketKey {
        // A name that tells nothing of the key.
        let hash = digest(&SHA256, &[b"ringfeed ticket key name".as_slice(), key].concat());
        let name = hash.as_ref()[..NAME_BYTES].try_into().expect("a hash is longer");
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key has the length of its algorithm");
        TicketKey { name, key: LessSafeKey::new(key) }
    }
}

impl KeyedTickets {
    /// A ticket: the name of its key, a nonce, then the encrypted time and session.
    fn encrypt_at(&self, session: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let TicketKey { name, key } = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = [&now_s.to_be_bytes(), session].concat();
        let nonce_of_key = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce_of_key, self.aad(name), &mut sealed).ok()?;
        Some([name.as_slice(), &nonce, &sealed].concat())
    }

    /// The session of a ticket; `None` if it is not of these keys, for other clients' certificates, or too old.
    fn decrypt_at(&self, ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = self.keys.iter().find(|key| key.name == *name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key.key.open_in_place(nonce, self.aad(name), &mut opened).ok()?;
        let (made_s, session) = opened.split_first_chunk::<TIME_BYTES>()?;
        let made_s = u64::from_be_bytes(*made_s);
        let is_fresh = now_s < made_s.saturating_add(TLS_TICKET_SECONDS.into());
        is_fresh.then(|| session.to_vec())
    }

    fn aad(&self, name: &[u8; NAME_BYTES]) -> Aad<Vec<u8>> {
        Aad::from([name.as_slice(), &self.context].concat())
    }
}

impl ProducesTickets for KeyedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TLS_TICKET_SECONDS
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, now_s())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, now_s())
    }
}

impl fmt::Debug for KeyedTickets {
    /// Without the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTickets").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// The keys in a file, one a line.
fn read_keys(file: &Path) -> Result<Vec<TicketKey>, TlsError> {
    let path = file.display();
    let text = fs::read_to_string(file).map_err(|error| TlsError(format!("{path}: cannot be read: {error}")))?;
    warn_of_readers(file, "the keys of session tickets");
    parse_keys(&text).map_err(|problem| TlsError(format!("{path}{problem}")))
}

fn parse_keys(text: &str) -> Result<Vec<TicketKey>, String> {
    let mut keys = Vec::new();
    let lines = text.lines().map(str::trim).enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let Some(key) = decode_hex(line) else {
            return Err(format!(":{}: a key has 64 hexadecimal digits: make one with openssl rand -hex 32", index + 1));
        };
        if keys.len() == TLS_TICKET_KEYS_MAX {
            return Err(format!(": there are more than {TLS_TICKET_KEYS_MAX} keys in it: remove old ones"));
        }
        keys.push(TicketKey::new(&key));
    }
    match keys.is_empty() {
        true => Err(": there is no key in it: make one with openssl rand -hex 32".to_owned()),
        false => Ok(keys),
    }
}

fn decode_hex(text: &str) -> Option<[u8; KEY_BYTES]> {
    let digits: Vec<u8> =
        text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().ok().filter(|_| digits.len() == 2 * KEY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tickets with a key for each digit.
    fn tickets(digits: &str, context: u8) -> KeyedTickets {
        let lines: Vec<String> = digits.chars().map(|digit| digit.to_string().repeat(64)).collect();
        let keys = parse_keys(&lines.join("\n")).unwrap();
        KeyedTickets { keys, context: [context; 32], random: SystemRandom::new() }
    }

    #[test]
    fn a_key_that_is_still_in_the_file_decrypts() {
        let ticket = tickets("ab", 0).encrypt_at(b"session", 100).unwrap();
        for (keys, is_read) in [("a", true), ("ab", true), ("cba", true), ("b", false), ("c", false)] {
            let read = tickets(keys, 0).decrypt_at(&ticket, 100);
            assert_eq!(read.as_deref(), is_read.then_some(b"session".as_slice()), "{keys}");
        }
    }

    #[test]
    fn a_ticket_is_good_for_a_time_and_for_the_same_clients() {
        let own = tickets("a", 0);
        let ticket = own.encrypt_at(b"session", 100).unwrap();
        let end_s = 100 + u64::from(TLS_TICKET_SECONDS);
        assert!(own.decrypt_at(&ticket, end_s - 1).is_some());
        assert_eq!(own.decrypt_at(&ticket, end_s), None);
        assert_eq!(tickets("a", 1).decrypt_at(&ticket, 100), None);
    }

    #[test]
    fn a_changed_or_cut_ticket_is_none() {
        let own = tickets("a", 0);
        let ticket = own.encrypt_at(b"", 100).unwrap();
        assert_eq!(own.decrypt_at(&ticket, 100), Some(Vec::new()));
        for index in 0..ticket.len() {
            assert_eq!(own.decrypt_at(&ticket[..index], 100), None);
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(own.decrypt_at(&changed, 100), None, "{index}");
        }
        assert_ne!(own.encrypt_at(b"", 100), own.encrypt_at(b"", 100), "nonces differ");
    }

    #[test]
    fn files_with_errors_are_refused_by_line() {
        let key = "0f".repeat(32);
        assert_eq!(parse_keys(&format!("# today's\n{key}\n\n# yesterday's\n  {key}  \n")).unwrap().len(), 2);
        let many = format!("{key}\n").repeat(TLS_TICKET_KEYS_MAX + 1);
        let rows = [
            ("", "there is no key"),
            ("# none\n", "there is no key"),
            (&key[1..], ":1: a key has 64"),
            (&format!("{key}\n{key}0"), ":2: a key has 64"),
            (&key.replace('f', "g"), ":1: a key has 64"),
            (&many, "more than"),
        ];
        for (text, problem) in rows {
            let error = parse_keys(text).err().unwrap();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn random_keys_stay_while_the_clients_certificates_do() {
        let none = Path::new("");
        let first = Tickets::new(none, [0; 32], None).unwrap();
        let kept = Tickets::new(none, [0; 32], Some(first.clone())).unwrap();
        assert!(Arc::ptr_eq(&first.producer, &kept.producer));
        let other = Tickets::new(none, [1; 32], Some(first.clone())).unwrap();
        assert!(!Arc::ptr_eq(&first.producer, &other.producer));
    }
}
