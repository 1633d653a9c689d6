//! JSON Web Tokens (RFC 7519): a client's identity and the channels it may subscribe to.
//!
//! This module reads no clock: the time is an argument. It checks a token's signature before it reads any field except
//! the key's name, and uses a key only for the algorithms of its family.

use std::fmt;
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jsonwebtoken::dangerous::insecure_decode;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, decode_header};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::config::TokenKeys;
use super::fetched::{FetchedKeys, NamedKeys};
use super::signature::{KeyKind, is_signed, public_key, sign_claims};
use crate::gateway::refused::{self, TokenCause};
use crate::gateway::{ReaderClaims, Refusal, VerifyReader};
use crate::limits::JWKS_KEYS_MAX;
use crate::log;

/// Verifies tokens. Clones share the keys, which can be replaced.
#[derive(Clone, Debug, Default)]
pub struct TokenVerifier {
    keys: Arc<RwLock<Arc<Keys>>>,
    fetched: Arc<FetchedKeys>,
    operator: Arc<OperatorKey>,
}

/// Signs the tokens of operators. Each verifier has a key of its own, which no configuration names.
struct OperatorKey {
    secret: [u8; OPERATOR_KEY_BYTES],
    key: DecodingKey,
}

/// Bytes of an operator key: as long as what HS256 signs with (RFC 7518 §3.2).
const OPERATOR_KEY_BYTES: usize = 32;

/// The name of an operator key in tokens.
const OPERATOR_KID: &str = "ringfeed-operator";

#[derive(Debug, Default)]
struct Keys {
    /// At most one for each family of algorithms.
    by_family: Vec<DecodingKey>,
    /// Named keys, from a JWKS file.
    by_name: NamedKeys,
    /// Where further named keys come from, and the milliseconds after which they are fetched again.
    jwks_url: Option<(String, u64)>,
    /// The HMAC secret, which also signs.
    secret: Option<Secret>,
    audience: Option<String>,
    issuer: Option<String>,
}

/// A secret, which does not belong in a log.
struct Secret(Box<[u8]>);

/// There is no HMAC secret to sign a token with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSecret;

/// A key is not usable. The text names the key and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenKeyError(String);

/// Why a token is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// The text is not a token, or has a wrong signature, audience or issuer.
    Invalid,
    /// The token was valid, but has expired.
    Expired,
    /// The signature is valid, but a claim is not supported. The text names the claim and the remedy.
    Unsupported(&'static str),
    /// It names a key that is not there yet: keys are being fetched. Try again in a second.
    KeyAwaited,
}

/// The claims of a connection token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionClaims {
    /// The user (`sub`).
    pub user: String,
    /// The expiry of the connection or subscription, in seconds of Unix time (`expire_at`, otherwise `exp`).
    pub expires_s: Option<u64>,
    /// Information for other clients (`b64info`, any bytes, otherwise `info`, JSON).
    pub info: Bytes,
    /// The server-side subscriptions (`channels`).
    pub channels: Vec<String>,
    /// The control port has signed the token for an operator.
    pub is_operator: bool,
}

/// The claims of a subscription token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionClaims {
    /// The user (`sub`).
    pub user: String,
    /// The channel (`channel`).
    pub channel: String,
    /// The only connection that may use it (`client`); empty for any of the user's.
    pub client: String,
    /// The expiry of the connection or subscription, in seconds of Unix time (`expire_at`, otherwise `exp`).
    pub expires_s: Option<u64>,
    /// Information for other clients (`b64info`, any bytes, otherwise `info`, JSON).
    pub info: Bytes,
}

/// All claims that the server reads, of either kind of token.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: String,
    /// Seconds, possibly with a fraction (RFC 7519 §2, NumericDate).
    exp: Option<f64>,
    nbf: Option<f64>,
    aud: Option<Audience>,
    iss: Option<String>,
    /// The expiry of the connection or subscription, which may be before or after that of the token; 0 is never.
    expire_at: Option<f64>,
    info: Option<Box<RawValue>>,
    /// Base64.
    b64info: Option<String>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    client: String,
    subs: Option<IgnoredAny>,
    #[serde(rename = "override")]
    overrides: Option<IgnoredAny>,
}

/// The claim `aud`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl TokenVerifier {
    /// Parses the keys.
    ///
    /// # Errors
    /// [`TokenKeyError`]: a key is malformed or of the wrong kind.
    pub fn new(keys: &TokenKeys) -> Result<TokenVerifier, TokenKeyError> {
        let mut by_family = Vec::new();
        if let Some(secret) = &keys.hmac_secret {
            if secret.is_empty() {
                return Err(TokenKeyError("the HMAC secret is empty: anyone could sign tokens with it".to_owned()));
            }
            by_family.push(DecodingKey::from_secret(secret.as_bytes()));
        }
        let not_pem =
            |kind: &str, error: String| TokenKeyError(format!("the {kind} key is not a public key as PEM: {error}"));
        if let Some(pem) = &keys.rsa_public_key {
            by_family.push(public_key(pem, KeyKind::Rsa).map_err(|error| not_pem("RSA", error))?);
        }
        if let Some(pem) = &keys.ecdsa_public_key {
            by_family.push(public_key(pem, KeyKind::Ecdsa).map_err(|error| not_pem("ECDSA", error))?);
        }
        let by_name = keys.jwks.as_deref().map(named_keys).transpose()?.unwrap_or_default();
        let (audience, issuer) = (keys.audience.clone(), keys.issuer.clone());
        let secret = keys.hmac_secret.as_ref().map(|secret| Secret(secret.as_bytes().into()));
        let keys = Keys { by_family, by_name, jwks_url: keys.jwks_url.clone(), secret, audience, issuer };
        Ok(TokenVerifier { keys: Arc::new(RwLock::new(Arc::new(keys))), ..TokenVerifier::default() })
    }

    /// Whether there is a key, or a URL that keys come from; without one every token is invalid.
    pub fn has_keys(&self) -> bool {
        let keys = self.keys();
        !(keys.by_family.is_empty() && keys.by_name.is_empty() && keys.jwks_url.is_none())
    }

    /// Replaces the keys, audience and issuer by those of another verifier, for all clones. Keys that have been fetched
    /// stay.
    pub fn replace(&self, other: &TokenVerifier) {
        let keys = other.keys();
        *self.keys.write().expect("nobody panics with the lock") = keys;
        // The URL may be another one.
        self.fetched.want();
    }

    /// The keys that have been fetched, for the task that fetches them.
    pub fn fetched(&self) -> &FetchedKeys {
        &self.fetched
    }

    /// Where keys come from, and the milliseconds after which they are fetched again.
    pub fn jwks_url(&self) -> Option<(String, u64)> {
        self.keys().jwks_url.clone()
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().expect("nobody panics with the lock").clone()
    }

    /// A connection token for an operator, who may read any topic until `expires_s`, in seconds of Unix time.
    pub fn operator_token(&self, expires_s: u64) -> String {
        sign_claims(Some(OPERATOR_KID), &serde_json::json!({"exp": expires_s}), &self.operator.secret)
    }

    /// A token with these claims, signed with the HMAC secret. It has the configured audience and issuer unless the
    /// claims say otherwise.
    ///
    /// # Errors
    /// [`NoSecret`]
    pub fn sign(&self, mut claims: serde_json::Map<String, serde_json::Value>) -> Result<String, NoSecret> {
        let keys = self.keys();
        let secret = keys.secret.as_ref().ok_or(NoSecret)?;
        for (name, value) in [("aud", &keys.audience), ("iss", &keys.issuer)] {
            if let Some(value) = value {
                claims.entry(name).or_insert_with(|| value.as_str().into());
            }
        }
        Ok(sign_claims(None, &claims.into(), &secret.0))
    }

    /// Checks a token at the time `now_s`, in seconds of Unix time, without a line in the log. Returns whether it is
    /// for a subscription.
    ///
    /// # Errors
    /// Why the server rejects the token.
    pub fn check(&self, token: &str, now_s: u64) -> Result<bool, &'static str> {
        let reason = |rejection: Rejection| rejection.reason;
        let is_of_subscription = !self.claims(token, now_s).map_err(reason)?.channel.is_empty();
        match is_of_subscription {
            true => self.subscription_claims(token, now_s).map(drop),
            false => self.connection_claims(token, now_s).map(drop),
        }
        .map_err(reason)?;
        Ok(is_of_subscription)
    }

    /// Verifies a connection token at the time `now_s`, in seconds of Unix time.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn connection(&self, token: &str, now_s: u64) -> Result<ConnectionClaims, TokenError> {
        self.connection_claims(token, now_s).map_err(logged)
    }

    fn connection_claims(&self, token: &str, now_s: u64) -> Result<ConnectionClaims, Rejection> {
        if let Some(claims) = self.operator.claims(token, now_s) {
            return claims;
        }
        let claims = self.claims(token, now_s)?;
        if !claims.channel.is_empty() {
            let text = "invalid token: a token with the claim 'channel' is for a subscription";
            return Err(TokenError::Unsupported(text).into());
        }
        if claims.subs.is_some() {
            let text = "invalid token: use the claim 'channels' instead of 'subs'";
            return Err(TokenError::Unsupported(text).into());
        }
        let (expires_s, info) = (claims.end_s(now_s)?, claims.info()?);
        let Claims { sub: user, channels, .. } = claims;
        Ok(ConnectionClaims { user, expires_s, info, channels, is_operator: false })
    }

    /// Verifies a subscription token at the time `now_s`, in seconds of Unix time.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn subscription(&self, token: &str, now_s: u64) -> Result<SubscriptionClaims, TokenError> {
        self.subscription_claims(token, now_s).map_err(logged)
    }

    fn subscription_claims(&self, token: &str, now_s: u64) -> Result<SubscriptionClaims, Rejection> {
        let claims = self.claims(token, now_s)?;
        if claims.overrides.is_some() {
            let text = "invalid token: the claim 'override' is not supported; configure a namespace";
            return Err(TokenError::Unsupported(text).into());
        }
        let (expires_s, info) = (claims.end_s(now_s)?, claims.info()?);
        let Claims { sub: user, channel, client, .. } = claims;
        Ok(SubscriptionClaims { user, channel, client, expires_s, info })
    }

    /// The claims of a token at `/feed` and `/sse`: a subscription token opens its channel; a connection token the
    /// channels that it names, or else those of its user.
    fn reader_claims(&self, token: &str, now_s: u64) -> Result<ReaderClaims, Rejection> {
        let claims = self.claims(token, now_s)?;
        if claims.subs.is_some() || claims.overrides.is_some() {
            let text = "invalid token: use the claim 'channels' instead of 'subs' and 'override'";
            return Err(TokenError::Unsupported(text).into());
        }
        if !claims.client.is_empty() {
            let text = "invalid token: a token with the claim 'client' is for a connection to /connection/websocket";
            return Err(TokenError::Unsupported(text).into());
        }
        let expires_s = claims.end_s(now_s)?;
        let Claims { sub: user, mut channels, channel, .. } = claims;
        if !channel.is_empty() {
            channels = vec![channel];
        }
        Ok(ReaderClaims { user, topics: Some(channels).filter(|topics| !topics.is_empty()), expires_s })
    }

    fn claims(&self, token: &str, now_s: u64) -> Result<Claims, Rejection> {
        let malformed = || Rejection::invalid(TokenCause::Malformed, "it is malformed");
        let header = decode_header(token).map_err(|_| malformed())?;
        let keys = self.keys();
        let fetched = keys.jwks_url.as_ref().map(|_| self.fetched.keys()).unwrap_or_default();
        let key = keys.find(&header, &fetched).ok_or_else(|| self.no_key(&keys, &header))?;
        if !is_signed(token, header.alg, key) {
            return Err(Rejection::invalid(TokenCause::Signature, "its signature is wrong"));
        }
        // "Insecure" as long as nobody has checked the signature.
        let claims = insecure_decode::<Claims>(token).map_err(|_| malformed())?.claims;
        if !keys.is_meant(&claims) {
            let reason = "its audience (aud) or issuer (iss) is another one";
            return Err(Rejection::invalid(TokenCause::Audience, reason));
        }
        if claims.nbf.is_some_and(|from_s| from_s > now_s as f64) {
            return Err(Rejection::invalid(TokenCause::NotYetValid, "it is not valid yet (nbf)"));
        }
        match claims.expires_s() {
            Some(expires_s) if expires_s <= now_s => Err(TokenError::Expired.into()),
            _ => Ok(claims),
        }
    }

    /// There is no key for this token. One that it names may be among those that are fetched next.
    fn no_key(&self, keys: &Keys, header: &Header) -> Rejection {
        let may_come = keys.jwks_url.is_some() && header.kid.is_some() && header.alg.family() != AlgorithmFamily::Hmac;
        if may_come && self.fetched.want() {
            return TokenError::KeyAwaited.into();
        }
        Rejection::invalid(TokenCause::NoKey, "no key is configured for its algorithm or kid")
    }
}

impl OperatorKey {
    /// The claims of an operator's token; `None` if it names another key.
    fn claims(&self, token: &str, now_s: u64) -> Option<Result<ConnectionClaims, Rejection>> {
        let header = decode_header(token).ok()?;
        if header.kid.as_deref() != Some(OPERATOR_KID) {
            return None;
        }
        if header.alg != Algorithm::HS256 || !is_signed(token, header.alg, &self.key) {
            return Some(Err(Rejection::invalid(TokenCause::Signature, "its signature is wrong")));
        }
        let expires_s = insecure_decode::<Claims>(token).ok().and_then(|token| token.claims.expires_s());
        Some(match expires_s {
            None => Err(Rejection::invalid(TokenCause::Malformed, "it is malformed")),
            Some(expires_s) if expires_s <= now_s => Err(TokenError::Expired.into()),
            expires_s => Ok(ConnectionClaims { expires_s, is_operator: true, ..ConnectionClaims::default() }),
        })
    }
}

impl Default for OperatorKey {
    fn default() -> OperatorKey {
        let mut secret = [0; OPERATOR_KEY_BYTES];
        SystemRandom::new().fill(&mut secret).expect("the system has random bytes");
        OperatorKey { secret, key: DecodingKey::from_secret(&secret) }
    }
}

impl fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorKey")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl VerifyReader for TokenVerifier {
    fn has_keys(&self) -> bool {
        TokenVerifier::has_keys(self)
    }

    fn verify(&self, token: &str, now_s: u64) -> Result<ReaderClaims, Refusal> {
        self.reader_claims(token, now_s).map_err(logged).map_err(|error| {
            let text = match error {
                TokenError::Invalid => "invalid token",
                TokenError::Expired => "the token has expired: request a new one",
                TokenError::Unsupported(text) => text,
                TokenError::KeyAwaited => {
                    return Refusal::new(503, "the key of this token is being fetched: try again");
                }
            };
            Refusal::new(401, text)
        })
    }
}

/// Why a token is rejected: for its client, and for the log, which may know more.
struct Rejection {
    error: TokenError,
    cause: TokenCause,
    reason: &'static str,
}

impl Rejection {
    fn invalid(cause: TokenCause, reason: &'static str) -> Rejection {
        Rejection { error: TokenError::Invalid, cause, reason }
    }
}

impl From<TokenError> for Rejection {
    fn from(error: TokenError) -> Rejection {
        let (cause, reason) = match error {
            TokenError::Invalid => (TokenCause::Malformed, "a claim is malformed"),
            TokenError::Expired => (TokenCause::Expired, "it has expired"),
            TokenError::Unsupported(reason) => (TokenCause::Unsupported, reason),
            TokenError::KeyAwaited => (TokenCause::NoKey, "its key is unknown, and the keys are being fetched again"),
        };
        Rejection { error, cause, reason }
    }
}

/// The error for the client, counted and after a line in the log.
fn logged(rejection: Rejection) -> TokenError {
    refused::TOKENS.count(rejection.cause as usize);
    if let Some(left_out) = log::TOKENS.take() {
        tracing::info!(reason = rejection.reason, left_out, "token rejected");
    }
    rejection.error
}

impl Keys {
    /// The key that the token's header names, if it is configured.
    fn find<'k>(&'k self, header: &Header, fetched: &'k NamedKeys) -> Option<&'k DecodingKey> {
        let mut all = self.by_name.iter().chain(fetched);
        let named = header.kid.as_ref().and_then(|kid| all.find(|(name, _)| name == kid));
        let key = named.map(|(_, key)| key);
        let is_usable = |key: &&DecodingKey| key.family() == header.alg.family();
        key.or_else(|| self.by_family.iter().find(is_usable)).filter(is_usable)
    }

    /// Whether the token has the configured audience (RFC 7519 §4.1.3) and issuer (§4.1.1).
    fn is_meant(&self, claims: &Claims) -> bool {
        let has_audience = self.audience.as_ref().is_none_or(|audience| match &claims.aud {
            Some(Audience::One(one)) => one == audience,
            Some(Audience::Several(several)) => several.contains(audience),
            None => false,
        });
        has_audience && self.issuer.as_ref().is_none_or(|issuer| claims.iss.as_ref() == Some(issuer))
    }
}

/// The named signature keys of a JWKS. Skips keys of unknown kinds (RFC 7517 §5).
///
/// # Errors
/// [`TokenKeyError`]
pub(super) fn named_keys(jwks: &str) -> Result<NamedKeys, TokenKeyError> {
    let set: JwkSet = serde_json::from_str(jwks).map_err(|error| TokenKeyError(format!("not a JWKS: {error}")))?;
    if set.keys.len() > JWKS_KEYS_MAX {
        return Err(TokenKeyError(format!("the JWKS has more than {JWKS_KEYS_MAX} keys")));
    }
    let named = set.keys.iter().filter_map(|key| {
        let name = key.common.key_id.clone()?;
        DecodingKey::from_jwk(key).ok().map(|key| (name, key))
    });
    let named: Vec<_> = named.filter(|(_, key)| key.family() != AlgorithmFamily::Hmac).collect();
    if named.is_empty() {
        return Err(TokenKeyError("the JWKS has no RSA, EC or OKP key with a kid".to_owned()));
    }
    Ok(named)
}

impl Claims {
    /// The expiry of the token itself.
    fn expires_s(&self) -> Option<u64> {
        self.exp.map(|seconds| seconds as u64)
    }

    /// The expiry of the connection or subscription.
    fn end_s(&self, now_s: u64) -> Result<Option<u64>, TokenError> {
        match self.expire_at.map(|seconds| seconds as u64) {
            None => Ok(self.expires_s()),
            Some(0) => Ok(None),
            Some(end_s) if end_s <= now_s => Err(TokenError::Expired),
            Some(end_s) => Ok(Some(end_s)),
        }
    }

    fn info(&self) -> Result<Bytes, TokenError> {
        match (self.b64info.as_deref().unwrap_or_default(), &self.info) {
            ("", None) => Ok(Bytes::new()),
            ("", Some(info)) => Ok(Bytes::copy_from_slice(info.get().as_bytes())),
            (text, _) => STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|_| TokenError::Unsupported("invalid token: the claim 'b64info' is not base64")),
        }
    }
}

impl fmt::Display for NoSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no secret to sign tokens with: set hmac_secret in [tokens]")
    }
}

impl std::error::Error for NoSecret {}

impl fmt::Display for TokenKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TokenKeyError {}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::signature::testing::{SigningKey, sign};
    use super::*;

    const RSA: &str = include_str!("testdata/rsa.pub.pem");
    const EC: &str = include_str!("testdata/ec.pub.pem");
    const JWKS: &str = include_str!("testdata/jwks.json");

    fn hmac(secret: &str) -> SigningKey {
        SigningKey::secret(secret)
    }

    fn rsa() -> SigningKey {
        SigningKey::rsa(include_str!("testdata/rsa.pem"))
    }

    fn ec() -> SigningKey {
        SigningKey::ec(include_str!("testdata/ec.pem"))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn with_secret() -> TokenVerifier {
        TokenVerifier::new(&TokenKeys { hmac_secret: some("s3cret"), ..TokenKeys::default() }).unwrap()
    }

    fn user(verifier: &TokenVerifier, token: &str) -> Result<String, TokenError> {
        verifier.connection(token, 1000).map(|claims| claims.user)
    }

    #[test]
    fn only_the_control_port_signs_tokens_of_operators() {
        let (verifier, other) = (with_secret(), with_secret());
        let token = verifier.operator_token(1060);
        let claims = verifier.clone().connection(&token, 1000).unwrap();
        assert_eq!((claims.is_operator, claims.user.as_str(), claims.expires_s), (true, "", Some(1060)));
        verifier.replace(&TokenVerifier::default());
        assert!(verifier.connection(&token, 1000).is_ok(), "a reload changes no operator's token");
        assert_eq!(verifier.connection(&token, 1060), Err(TokenError::Expired));
        assert_eq!(other.connection(&token, 1000), Err(TokenError::Invalid), "another server");
        let forged = sign(Algorithm::HS256, Some(OPERATOR_KID), &hmac("s3cret"), &json!({"exp": 1060}));
        assert_eq!(with_secret().connection(&forged, 1000), Err(TokenError::Invalid));
        assert_eq!(verifier.subscription(&token, 1000), Err(TokenError::Invalid), "not for one topic");
        assert!(VerifyReader::verify(&verifier, &token, 1000).is_err(), "not for raw feeds");
        assert!(!format!("{verifier:?} {:?}", with_secret()).contains("s3cret"));
    }

    #[test]
    fn tokens_are_made_and_checked_for_people() {
        let keys = TokenKeys { hmac_secret: some("s3cret"), audience: some("us"), ..TokenKeys::default() };
        let verifier = TokenVerifier::new(&keys).unwrap();
        let make = |claims: Value| verifier.sign(claims.as_object().unwrap().clone()).unwrap();
        assert_eq!(verifier.check(&make(json!({"sub": "42", "exp": 2000})), 1000), Ok(false));
        assert_eq!(verifier.check(&make(json!({"sub": "42", "channel": "a"})), 1000), Ok(true));
        let rows = [
            (make(json!({"exp": 999})), "it has expired"),
            (make(json!({"aud": "them"})), "its audience (aud) or issuer (iss) is another one"),
            (make(json!({"nbf": 1001})), "it is not valid yet (nbf)"),
            (format!("{}x", make(json!({}))), "its signature is wrong"),
            ("nonsense".to_owned(), "it is malformed"),
        ];
        for (token, reason) in rows {
            assert_eq!(verifier.check(&token, 1000), Err(reason), "{token}");
        }
        assert_eq!(TokenVerifier::default().sign(serde_json::Map::new()), Err(NoSecret));
    }

    #[test]
    fn a_key_verifies_only_its_own_algorithms() {
        let keys = TokenKeys {
            hmac_secret: some("s3cret"),
            rsa_public_key: some(RSA),
            ecdsa_public_key: some(EC),
            ..TokenKeys::default()
        };
        let (all, named) = (TokenVerifier::new(&keys).unwrap(), TokenKeys { jwks: some(JWKS), ..TokenKeys::default() });
        let named = TokenVerifier::new(&named).unwrap();
        let claims = json!({"sub": "42"});
        let (ok, invalid) = (Ok("42".to_owned()), Err(TokenError::Invalid));
        let rows = [
            (Algorithm::HS256, None, hmac("s3cret"), &ok, &invalid),
            (Algorithm::HS512, None, hmac("s3cret"), &ok, &invalid),
            (Algorithm::RS256, None, rsa(), &ok, &invalid),
            (Algorithm::RS256, Some("rsa-1"), rsa(), &ok, &ok),
            (Algorithm::ES256, Some("ec-1"), ec(), &ok, &ok),
            (Algorithm::ES256, Some("ec-2"), ec(), &ok, &invalid),
            (Algorithm::ES256, Some("rsa-1"), ec(), &ok, &invalid),
            (Algorithm::HS256, None, hmac("guess"), &invalid, &invalid),
            // Signed with the public key as if it were the secret.
            (Algorithm::HS256, None, hmac(RSA), &invalid, &invalid),
            (Algorithm::HS256, Some("rsa-1"), hmac(RSA), &invalid, &invalid),
        ];
        for (algorithm, kid, key, with_all, with_named) in rows {
            let token = sign(algorithm, kid, &key, &claims);
            assert_eq!(&user(&all, &token), with_all, "{algorithm:?} {kid:?}");
            assert_eq!(&user(&named, &token), with_named, "{algorithm:?} {kid:?}, JWKS");
        }
    }

    #[test]
    fn tokens_without_a_valid_signature_are_rejected() {
        let good = sign(Algorithm::HS256, None, &hmac("s3cret"), &json!({"sub": "42"}));
        let (head, signature) = good.rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        let other_claims = base64_url(br#"{"sub":"1"}"#);
        let unsigned = base64_url(br#"{"alg":"none","typ":"JWT"}"#);
        let tokens = [
            String::new(),
            "a.b.c".to_owned(),
            head.to_owned(),
            format!("{head}."),
            format!("{header}.{other_claims}.{signature}"),
            format!("{unsigned}.{other_claims}."),
            format!("{good}x"),
        ];
        assert_eq!(user(&with_secret(), &good), Ok("42".to_owned()));
        for token in tokens {
            assert_eq!(user(&with_secret(), &token), Err(TokenError::Invalid), "{token}");
        }
        assert_eq!(user(&TokenVerifier::default(), &good), Err(TokenError::Invalid), "without keys");
    }

    fn base64_url(bytes: &[u8]) -> String {
        use base64::Engine;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn claims_are_read() {
        let verifier = with_secret();
        let sign = |claims: &Value| sign(Algorithm::HS256, None, &hmac("s3cret"), claims);
        let all = json!({"sub": "42", "exp": 2000, "info": {"name": "Ada"}, "channels": ["a", "b"], "else": 1});
        let expected = ConnectionClaims {
            user: "42".to_owned(),
            expires_s: Some(2000),
            info: Bytes::from_static(br#"{"name":"Ada"}"#),
            channels: vec!["a".to_owned(), "b".to_owned()],
            is_operator: false,
        };
        assert_eq!(verifier.connection(&sign(&all), 1000), Ok(expected));
        assert_eq!(verifier.connection(&sign(&json!({})), 1000), Ok(ConnectionClaims::default()));
        let subscription = sign(&json!({"sub": "42", "channel": "a", "exp": 1000.5}));
        let expected = SubscriptionClaims {
            user: "42".to_owned(),
            channel: "a".to_owned(),
            client: String::new(),
            expires_s: Some(1000),
            info: Bytes::new(),
        };
        assert_eq!(verifier.subscription(&subscription, 999), Ok(expected));
    }

    #[test]
    fn each_kind_of_token_is_valid_only_for_its_purpose() {
        let verifier = with_secret();
        let sign = |claims: &Value| sign(Algorithm::HS256, None, &hmac("s3cret"), claims);
        let rows = [
            (json!({"sub": "42", "channel": "a"}), false, true),
            (json!({"sub": "42", "channel": ""}), true, true),
            (json!({"sub": "42", "subs": {"a": {}}}), false, true),
            (json!({"sub": "42", "subs": {}}), false, true),
            (json!({"sub": "42", "subs": null}), true, true),
            (json!({"sub": "42", "channel": "a", "override": {"presence": {"value": true}}}), false, false),
            (json!({"sub": "42", "override": null}), true, true),
            (json!({"sub": "42", "b64info": "%"}), false, false),
        ];
        for (claims, as_connection, as_subscription) in rows {
            let token = sign(&claims);
            assert_eq!(verifier.connection(&token, 0).is_ok(), as_connection, "{claims}");
            assert_eq!(verifier.subscription(&token, 0).is_ok(), as_subscription, "{claims}");
        }
        let Err(TokenError::Unsupported(reason)) = verifier.connection(&sign(&json!({"channel": "a"})), 0) else {
            panic!("a subscription's token")
        };
        assert!(reason.contains("'channel'"), "{reason}");
    }

    #[test]
    fn expire_at_overrides_the_expiry_of_the_token() {
        let verifier = with_secret();
        let rows = [
            (json!({"exp": 2000}), Ok(Some(2000))),
            (json!({"exp": 2000, "expire_at": 1500}), Ok(Some(1500))),
            (json!({"exp": 2000, "expire_at": 1500.5}), Ok(Some(1500))),
            (json!({"exp": 2000, "expire_at": 3000}), Ok(Some(3000))),
            (json!({"exp": 2000, "expire_at": 0}), Ok(None)),
            (json!({"expire_at": 1500}), Ok(Some(1500))),
            (json!({"exp": 2000, "expire_at": 1000}), Err(TokenError::Expired)),
            (json!({"exp": 1000, "expire_at": 0}), Err(TokenError::Expired)),
        ];
        for (claims, expected) in rows {
            let token = sign(Algorithm::HS256, None, &hmac("s3cret"), &claims);
            assert_eq!(verifier.connection(&token, 1000).map(|claims| claims.expires_s), expected, "{claims}");
            assert_eq!(verifier.subscription(&token, 1000).map(|claims| claims.expires_s), expected, "{claims}");
        }
    }

    #[test]
    fn information_may_be_any_bytes() {
        let rows = [
            (json!({"info": 1, "b64info": "/wA="}), &b"\xff\0"[..]),
            (json!({"info": {"a": 1}, "b64info": ""}), br#"{"a":1}"#),
            (json!({"b64info": null}), b""),
        ];
        for (claims, expected) in rows {
            let token = sign(Algorithm::HS256, None, &hmac("s3cret"), &claims);
            assert_eq!(with_secret().connection(&token, 0).unwrap().info, expected, "{claims}");
        }
    }

    #[test]
    fn the_caller_provides_the_time() {
        let verifier = with_secret();
        let token = sign(Algorithm::HS256, None, &hmac("s3cret"), &json!({"exp": 2000, "nbf": 1500}));
        let at = |now_s| verifier.connection(&token, now_s).map(drop);
        assert_eq!(at(1499), Err(TokenError::Invalid));
        assert_eq!(at(1500), Ok(()));
        assert_eq!(at(1999), Ok(()));
        assert_eq!(at(2000), Err(TokenError::Expired));
    }

    #[test]
    fn audience_and_issuer_are_required_if_configured() {
        let keys = TokenKeys {
            hmac_secret: some("s3cret"),
            audience: some("ringfeed"),
            issuer: some("shop"),
            ..TokenKeys::default()
        };
        let strict = TokenVerifier::new(&keys).unwrap();
        let rows = [
            (json!({"aud": "ringfeed", "iss": "shop"}), true),
            (json!({"aud": ["other", "ringfeed"], "iss": "shop"}), true),
            (json!({"aud": "other", "iss": "shop"}), false),
            (json!({"aud": "ringfeed", "iss": "other"}), false),
            (json!({"aud": "ringfeed"}), false),
            (json!({}), false),
        ];
        for (claims, is_accepted) in rows {
            let token = sign(Algorithm::HS256, None, &hmac("s3cret"), &claims);
            assert_eq!(strict.connection(&token, 0).is_ok(), is_accepted, "{claims}");
            assert!(with_secret().connection(&token, 0).is_ok(), "{claims}");
        }
    }

    #[test]
    fn unusable_keys_are_rejected_with_a_reason() {
        let rows = [
            (TokenKeys { hmac_secret: some(""), ..TokenKeys::default() }, "the HMAC secret is empty"),
            (TokenKeys { rsa_public_key: some("x"), ..TokenKeys::default() }, "the RSA key is not"),
            (TokenKeys { rsa_public_key: some(EC), ..TokenKeys::default() }, "the RSA key is not"),
            (TokenKeys { ecdsa_public_key: some(RSA), ..TokenKeys::default() }, "the ECDSA key is not"),
            (TokenKeys { jwks: some("{}"), ..TokenKeys::default() }, "not a JWKS"),
            (TokenKeys { jwks: some(r#"{"keys":[]}"#), ..TokenKeys::default() }, "the JWKS has no"),
        ];
        for (keys, reason) in rows {
            let error = TokenVerifier::new(&keys).unwrap_err().to_string();
            assert!(error.starts_with(reason), "{error}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let keys = TokenKeys { hmac_secret: some("s3cret"), ..TokenKeys::default() };
        assert!(!format!("{keys:?} {:?}", TokenVerifier::new(&keys).unwrap()).contains("s3cret"));
    }
}
