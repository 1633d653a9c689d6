//! Fetches the keys of tokens from `jwks_url`: when the server starts, from time to time, and when a token names a key
//! that is not among them. It runs beside the control plane; what has been fetched stays while fetches fail.

use std::io;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::LengthLimitError;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client::{ClientError, HttpClient, Network};
use crate::gateway::centrifuge::{FetchOutcome, TokenVerifier};
use crate::limits::{JWKS_BACKOFF_MS, JWKS_BACKOFF_MS_MAX, JWKS_BYTES_MAX, JWKS_FETCH_MS, JWKS_FRESH_MS};
use crate::server::Random;

/// Why a fetch failed.
struct Failed {
    outcome: FetchOutcome,
    text: String,
}

/// Fetches the keys as long as the server runs. A reload may change the URL.
pub(super) async fn run(tokens: TokenVerifier) {
    let fetched = tokens.fetched();
    let mut random = Random::new(std::process::id().into());
    let (mut url, mut backoff_ms) = (String::new(), JWKS_BACKOFF_MS);
    loop {
        let Some((wanted, refresh_ms)) = tokens.jwks_url() else {
            fetched.forget();
            url.clear();
            fetched.wanted().await;
            continue;
        };
        if wanted != url {
            fetched.forget();
            (url, backoff_ms) = (wanted, JWKS_BACKOFF_MS);
        }
        let is_news = fetched.is_empty() || backoff_ms > JWKS_BACKOFF_MS;
        match fetch(&url, &tokens).await {
            Ok(keys) => {
                if is_news {
                    tracing::info!(url, keys, "keys of tokens fetched");
                }
                backoff_ms = JWKS_BACKOFF_MS;
                wait_while_fresh(&tokens, &url, refresh_ms).await;
            }
            Err(Failed { outcome, text }) => {
                let kept = fetched.len();
                tracing::warn!(url, outcome = outcome.label(), kept, "keys of tokens not fetched: {text}");
                // Not all servers at the same time.
                let pause = Duration::from_millis(backoff_ms / 2 + random.below(backoff_ms / 2 + 1));
                backoff_ms = (2 * backoff_ms).min(JWKS_BACKOFF_MS_MAX);
                wait_unless_moved(&tokens, &url, pause).await;
            }
        }
    }
}

/// Waits until the keys must be fetched again: after `refresh_ms`, or once a token names an unknown one, but not at
/// once.
async fn wait_while_fresh(tokens: &TokenVerifier, url: &str, refresh_ms: u64) {
    let due = Instant::now() + Duration::from_millis(refresh_ms);
    wait_unless_moved(tokens, url, Duration::from_millis(JWKS_FRESH_MS.min(refresh_ms))).await;
    tokens.fetched().expire();
    tokio::select! {
        () = sleep_until(due) => {}
        () = tokens.fetched().wanted() => {}
    }
}

/// Waits, unless a reload changes the URL.
async fn wait_unless_moved(tokens: &TokenVerifier, url: &str, pause: Duration) {
    let mut over = pin!(sleep(pause));
    let is_moved = || tokens.jwks_url().is_none_or(|(other, _)| other != url);
    loop {
        tokio::select! {
            () = &mut over => return,
            () = tokens.fetched().wanted() => {}
        }
        if is_moved() {
            return;
        }
    }
}

/// Fetches the keys once. Returns their number.
async fn fetch(url: &str, tokens: &TokenVerifier) -> Result<usize, Failed> {
    let failed = |outcome: FetchOutcome, text: String| {
        tokens.fetched().count(outcome);
        Failed { outcome, text }
    };
    let body = match timeout(Duration::from_millis(JWKS_FETCH_MS), get(url)).await {
        Err(_) => return Err(failed(FetchOutcome::Timeout, "the response takes too long".to_owned())),
        Ok(Err(error @ ClientError::Refused { .. })) => return Err(failed(FetchOutcome::Status, error.to_string())),
        Ok(Err(ClientError::Lost(error))) if is_too_large(&error) => {
            let text = format!("the response has more than {JWKS_BYTES_MAX} bytes");
            return Err(failed(FetchOutcome::Invalid, text));
        }
        Ok(Err(error)) => return Err(failed(FetchOutcome::Unreachable, error.to_string())),
        Ok(Ok(body)) => body,
    };
    let now_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let taken = tokens.fetched().take(&String::from_utf8_lossy(&body), now_s);
    taken.map_err(|error| Failed { outcome: FetchOutcome::Invalid, text: error.to_string() })
}

fn is_too_large(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<LengthLimitError>())
}

async fn get(url: &str) -> Result<Bytes, ClientError> {
    HttpClient::connect(url, &[], Network::default()).await?.with_body_max(JWKS_BYTES_MAX).get("").await
}
