//! Keys of tokens that are fetched from a URL: what a verifier and the task that fetches them share.
//!
//! A verifier never waits. A token that names an unknown key is rejected for the moment, and the keys are fetched
//! again. Soon after a fetch such a token is rejected for good, so that strangers can't cause one fetch after the
//! other.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::DecodingKey;
use tokio::sync::Notify;

use super::token::{TokenKeyError, named_keys};

/// Keys by name.
pub(super) type NamedKeys = Vec<(String, DecodingKey)>;

/// How a fetch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// With keys.
    Fetched,
    /// The host could not be reached.
    Unreachable,
    /// The response took too long.
    Timeout,
    /// The response has another status than 200.
    Status,
    /// The response is not a JWKS with usable keys, or is too large.
    Invalid,
}

/// The keys, and the counts of the fetches.
#[derive(Default)]
pub struct FetchedKeys {
    keys: RwLock<Arc<NamedKeys>>,
    /// Somebody wants the keys to be fetched again.
    wanted: Notify,
    /// They were fetched a moment ago.
    is_fresh: AtomicBool,
    /// When, in seconds of Unix time; 0: never.
    fetched_s: AtomicU64,
    outcomes: [AtomicU64; FetchOutcome::ALL.len()],
}

impl FetchOutcome {
    /// All, in the order of their values.
    pub const ALL: [FetchOutcome; 5] = [
        FetchOutcome::Fetched,
        FetchOutcome::Unreachable,
        FetchOutcome::Timeout,
        FetchOutcome::Status,
        FetchOutcome::Invalid,
    ];

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            FetchOutcome::Fetched => "fetched",
            FetchOutcome::Unreachable => "unreachable",
            FetchOutcome::Timeout => "timeout",
            FetchOutcome::Status => "status",
            FetchOutcome::Invalid => "invalid",
        }
    }
}

impl FetchedKeys {
    /// Takes the keys of a JWKS that was fetched at `now_s`, in seconds of Unix time. Returns their number.
    ///
    /// # Errors
    /// The text is not a JWKS with usable keys; the keys before stay.
    pub fn take(&self, jwks: &str, now_s: u64) -> Result<usize, TokenKeyError> {
        let keys = named_keys(jwks).inspect_err(|_| self.count(FetchOutcome::Invalid))?;
        let count = keys.len();
        self.set(keys);
        self.fetched_s.store(now_s, Ordering::Relaxed);
        self.is_fresh.store(true, Ordering::Relaxed);
        self.count(FetchOutcome::Fetched);
        Ok(count)
    }

    /// The keys are from another URL than those to come.
    pub fn forget(&self) {
        self.set(Vec::new());
        self.fetched_s.store(0, Ordering::Relaxed);
        self.is_fresh.store(false, Ordering::Relaxed);
    }

    /// Counts a fetch. [`take`](Self::take) counts its own.
    pub fn count(&self, outcome: FetchOutcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// From now on, an unknown key is a reason to fetch the keys again.
    pub fn expire(&self) {
        self.is_fresh.store(false, Ordering::Relaxed);
    }

    /// Resolves when a verifier wants the keys to be fetched again.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Fetches that have ended like this.
    pub fn outcome(&self, outcome: FetchOutcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
    }

    /// When the keys were fetched, in seconds of Unix time; 0: never.
    pub fn fetched_s(&self) -> u64 {
        self.fetched_s.load(Ordering::Relaxed)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn keys(&self) -> Arc<NamedKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wants the keys to be fetched again. Returns whether an unknown key may be among those to come.
    pub(super) fn want(&self) -> bool {
        let is_due = !self.is_fresh.load(Ordering::Relaxed);
        if is_due {
            self.wanted.notify_one();
        }
        is_due
    }

    fn set(&self, keys: NamedKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

impl fmt::Debug for FetchedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedKeys").field("keys", &self.len()).finish_non_exhaustive()
    }
}
