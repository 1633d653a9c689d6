//! Makes tokens for people who try something, and says why a token is rejected. The secret stays here.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::State;
use super::super::answer::{Answer, text};
use super::{bad_request, json};

/// The claims of a token to make.
#[derive(Deserialize)]
pub(super) struct Wish {
    claims: Map<String, Value>,
    /// When it expires, in seconds from now; never without.
    expires_in_s: Option<u64>,
}

#[derive(Serialize)]
struct Made {
    token: String,
}

/// A token to check.
#[derive(Deserialize)]
pub(super) struct Token {
    token: String,
}

#[derive(Serialize)]
struct Checked {
    is_valid: bool,
    /// `connection` or `subscription`, if it is valid.
    kind: Option<&'static str>,
    /// Why it is not.
    reason: Option<&'static str>,
}

/// `POST /admin/tokens`.
pub(super) fn make(state: &State, wish: Wish) -> Answer {
    let Wish { mut claims, expires_in_s } = wish;
    if let Some(seconds) = expires_in_s {
        let Some(expires_s) = now_s().checked_add(seconds) else { return bad_request("expires_in_s is too large") };
        claims.insert("exp".to_owned(), expires_s.into());
    }
    match state.tokens.sign(claims) {
        Ok(token) => json(&Made { token }),
        Err(error) => text(StatusCode::CONFLICT, error),
    }
}

/// `POST /admin/tokens/check`.
pub(super) fn check(state: &State, token: Token) -> Answer {
    let checked = state.tokens.check(token.token.trim(), now_s());
    json(&Checked {
        is_valid: checked.is_ok(),
        kind: checked.ok().map(|is_of_subscription| if is_of_subscription { "subscription" } else { "connection" }),
        reason: checked.err(),
    })
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
