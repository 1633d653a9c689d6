//! What a configuration file comes to. Sections are structures, keys are their fields, and defaults are the library's.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use toml::Table;

use crate::backend::{BackendSettings, EventSettings};
use crate::bridge::ClusterConfig;
use crate::conn::{KeepAliveConfig, RateConfig};
use crate::control::demo_namespaces;
use crate::gateway::centrifuge::{CentrifugeConfig, Sessions, TokenKeys, TokenVerifier};
use crate::gateway::{OriginPattern, Origins};
use crate::limits::{DEMO_MESSAGES_PER_SECOND_MAX, RECV_TURN_BYTES, STOMP_BODY_BYTES_MAX, STOMP_QUEUE_DEPTH};
use crate::proto::{DeflateConfig, ForwardedHeader};
use crate::server::{
    CatchUpConfig, FanOutConfig, ListenAddress, ListenerConfig, ServerConfig, SocketMode, TrustedProxies,
};
use crate::tls::{Acceptor, TlsSettings};
use crate::topics::{Allowed, Namespace, Namespaces};

/// The namespace of topics whose name has no colon.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// All that a file can say.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    /// Each `[[listener]]`
    pub listener: Vec<ListenerConfig>,
    /// `[tls]`
    pub tls: TlsSettings,
    /// `[server]`
    pub server: ServerSettings,
    /// `[keep_alive]`
    pub keep_alive: KeepAliveConfig,
    /// `[deflate]`
    pub deflate: DeflateSettings,
    /// `[namespaces.default]`, and `[namespaces.NAME]` for each other.
    pub namespaces: BTreeMap<String, Namespace>,
    /// `[centrifuge]`
    pub centrifuge: CentrifugeSettings,
    /// `[stomp]`
    pub stomp: StompSettings,
    /// `[tokens]`
    pub tokens: TokenSettings,
    /// `[api]`
    pub api: ApiSettings,
    /// `[backend.connect]`, and so on for each kind of call.
    pub backend: BackendSettings,
    /// `[events]`
    pub events: EventSettings,
    /// `[cluster]`
    pub cluster: ClusterConfig,
}

/// `[server]`: ports, bounds and who may connect.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ServerSettings {
    /// Where HTTP for publishers and operators is served.
    pub control: ListenAddress,
    /// Who may connect to it, if it is a Unix socket that this server makes.
    pub control_mode: SocketMode,
    /// Whether it speaks TLS there, with the certificates of `[tls]`.
    pub control_tls: bool,
    /// As [`ServerConfig::shards`].
    pub shards: usize,
    /// As [`ServerConfig::connections_max`].
    pub max_connections: usize,
    /// As [`ServerConfig::handshakes_per_second`].
    pub handshakes_per_second: u64,
    /// As [`ServerConfig::connections_per_address_max`].
    pub connections_per_address_max: u32,
    /// As [`ServerConfig::subscriptions_per_connection_max`].
    pub subscriptions_per_connection_max: usize,
    /// As [`ServerConfig::message_bytes_max`].
    pub message_bytes_max: u32,
    /// As [`RateConfig::messages_per_second`].
    pub messages_per_second_max: u32,
    /// As [`RateConfig::bytes_per_second`].
    pub bytes_per_second_max: u32,
    /// As [`ServerConfig::socket_notsent_bytes`].
    pub socket_notsent_bytes: u32,
    /// As [`ServerConfig::handshake_timeout_ms`].
    pub handshake_timeout_ms: u64,
    /// As [`ServerConfig::drain_spread_ms`].
    pub drain_spread_ms: u64,
    /// As [`ServerConfig::drain_timeout_ms`].
    pub drain_timeout_ms: u64,
    /// As [`ServerConfig::allowed_origins`], as written: each is an [`OriginPattern`].
    pub allowed_origins: Vec<String>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_level: LogLevel,
    /// As [`ServerConfig::trusted_proxies`].
    pub trusted_proxies: Vec<String>,
    /// As [`ServerConfig::forwarded_header`].
    pub forwarded_header: ForwardedHeader,
    /// Whether SockJS is served.
    pub sockjs: bool,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Whether the demo pages are served, and what they show is published.
    pub demo: bool,
}

/// How log lines are written to standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// The least important log lines that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What fails.
    Error,
    /// What an operator should look at.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// For developers.
    Debug,
    /// All.
    Trace,
}

/// `[deflate]`: permessage-deflate.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct DeflateSettings {
    /// Whether it is agreed to.
    pub enabled: bool,
    /// As [`DeflateConfig::level`].
    pub level: u8,
    /// As [`DeflateConfig::bytes_min`].
    pub bytes_min: usize,
    /// As [`DeflateConfig::context_takeover`].
    pub takeover_max: usize,
}

/// `[centrifuge]`: Centrifugo's client protocol.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct CentrifugeSettings {
    /// As [`CentrifugeConfig::anonymous`].
    pub anonymous: bool,
    /// As [`CentrifugeConfig::message_bytes_max`].
    pub message_bytes_max: u32,
    /// As [`CentrifugeConfig::token_grace_ms`].
    pub token_grace_ms: u64,
    /// Whether each authenticated connection is subscribed to its user's channel.
    pub personal_channel: bool,
    /// As [`CentrifugeConfig::personal_namespace`].
    pub personal_namespace: String,
}

/// `[stomp]`: STOMP's protocol.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct StompSettings {
    /// As [`Stomp::body_bytes_max`](crate::gateway::stomp::Stomp::body_bytes_max).
    pub message_bytes_max: u32,
    /// What `/queue` is.
    pub queues: QueueKind,
    /// Messages in a queue at most, with [`QueueKind::Broker`].
    pub queue_messages_max: usize,
}

/// What destinations below `/queue` are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// Topics, as in Spring's simple broker.
    #[default]
    Spring,
    /// Queues with competing consumers.
    Broker,
}

impl Default for StompSettings {
    fn default() -> Self {
        StompSettings {
            message_bytes_max: STOMP_BODY_BYTES_MAX,
            queues: QueueKind::Spring,
            queue_messages_max: STOMP_QUEUE_DEPTH,
        }
    }
}

/// `[tokens]`: whose tokens count. What is empty is not there.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct TokenSettings {
    /// As [`TokenKeys::hmac_secret`].
    pub hmac_secret: String,
    /// The file with [`TokenKeys::rsa_public_key`].
    pub rsa_public_key_file: PathBuf,
    /// The file with [`TokenKeys::ecdsa_public_key`].
    pub ecdsa_public_key_file: PathBuf,
    /// The file with [`TokenKeys::jwks`].
    pub jwks_file: PathBuf,
    /// The URL in [`TokenKeys::jwks_url`].
    pub jwks_url: String,
    /// The time in [`TokenKeys::jwks_url`].
    pub jwks_refresh_ms: u64,
    /// As [`TokenKeys::audience`].
    pub audience: String,
    /// As [`TokenKeys::issuer`].
    pub issuer: String,
}

/// `[api]`: who may use the control port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ApiSettings {
    /// What requests must carry; empty: nothing.
    pub key: String,
    /// A file whose only line that is, instead; empty: none.
    pub key_file: PathBuf,
    /// What requests may carry instead that change nothing; empty: nothing.
    pub read_key: String,
    /// A file whose only line that is, instead; empty: none.
    pub read_key_file: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listener: ServerConfig::default().listeners,
            tls: TlsSettings::default(),
            server: ServerSettings::default(),
            keep_alive: ServerConfig::default().keep_alive,
            deflate: DeflateSettings::default(),
            namespaces: BTreeMap::new(),
            centrifuge: CentrifugeSettings::default(),
            stomp: StompSettings::default(),
            tokens: TokenSettings::default(),
            api: ApiSettings::default(),
            backend: BackendSettings::default(),
            events: EventSettings::default(),
            cluster: ClusterConfig::default(),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        let server = ServerConfig::default();
        ServerSettings {
            control: SocketAddr::from(([127, 0, 0, 1], 8001)).into(),
            control_mode: "0600".parse().expect("a mode"),
            control_tls: false,
            shards: server.shards,
            max_connections: server.connections_max,
            handshakes_per_second: server.handshakes_per_second,
            connections_per_address_max: server.connections_per_address_max,
            subscriptions_per_connection_max: server.subscriptions_per_connection_max,
            message_bytes_max: server.message_bytes_max,
            messages_per_second_max: server.rate.messages_per_second,
            bytes_per_second_max: server.rate.bytes_per_second,
            socket_notsent_bytes: server.socket_notsent_bytes,
            handshake_timeout_ms: server.handshake_timeout_ms,
            drain_spread_ms: server.drain_spread_ms,
            drain_timeout_ms: server.drain_timeout_ms,
            allowed_origins: Vec::new(),
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            trusted_proxies: Vec::new(),
            forwarded_header: server.forwarded_header,
            sockjs: false,
            echo: false,
            demo: false,
        }
    }
}

impl Default for DeflateSettings {
    fn default() -> Self {
        let DeflateConfig { level, bytes_min, context_takeover } = DeflateConfig::default();
        DeflateSettings { enabled: false, level, bytes_min, takeover_max: context_takeover }
    }
}

impl Default for TokenSettings {
    fn default() -> Self {
        TokenSettings {
            hmac_secret: String::new(),
            rsa_public_key_file: PathBuf::new(),
            ecdsa_public_key_file: PathBuf::new(),
            jwks_file: PathBuf::new(),
            jwks_url: String::new(),
            jwks_refresh_ms: 300_000,
            audience: String::new(),
            issuer: String::new(),
        }
    }
}

impl Default for CentrifugeSettings {
    fn default() -> Self {
        let centrifuge = CentrifugeConfig::default();
        CentrifugeSettings {
            anonymous: centrifuge.anonymous,
            message_bytes_max: centrifuge.message_bytes_max,
            token_grace_ms: centrifuge.token_grace_ms,
            personal_channel: false,
            personal_namespace: String::new(),
        }
    }
}

impl Settings {
    /// How the shards are to run.
    ///
    /// # Panics
    /// If an origin is not an [`OriginPattern`]. Those of a file that was read are.
    pub fn server_config(&self) -> ServerConfig {
        let Settings { server, deflate, .. } = self;
        let origins = server.allowed_origins.iter();
        let patterns = origins.map(|text| OriginPattern::new(text).expect("origins are checked when they are read"));
        let origins = Origins::new(patterns.collect());
        let proxies = server.trusted_proxies.iter();
        let proxies = proxies.map(|text| text.parse().expect("networks are checked when they are read"));
        ServerConfig {
            listeners: self.listener.clone(),
            tls: self.tls.clone(),
            shards: server.shards,
            connections_max: server.max_connections,
            handshakes_per_second: server.handshakes_per_second,
            connections_per_address_max: server.connections_per_address_max,
            subscriptions_per_connection_max: server.subscriptions_per_connection_max,
            trusted_proxies: TrustedProxies::new(proxies.collect()),
            forwarded_header: server.forwarded_header,
            allowed_origins: match server.control.resolved() {
                Some(ListenAddress::Ip(address)) => origins.with_control_port(address.port()),
                _ => origins,
            },
            message_bytes_max: server.message_bytes_max,
            rate: RateConfig {
                messages_per_second: match server.messages_per_second_max {
                    0 if server.demo => DEMO_MESSAGES_PER_SECOND_MAX,
                    messages => messages,
                },
                bytes_per_second: server.bytes_per_second_max,
            },
            namespaces: Arc::new(self.topic_namespaces()),
            events: None,
            fan_out: FanOutConfig::default(),
            catch_up: CatchUpConfig::default(),
            recv_turn_bytes: RECV_TURN_BYTES,
            socket_notsent_bytes: server.socket_notsent_bytes,
            deflate: deflate.enabled.then_some(DeflateConfig {
                level: deflate.level,
                bytes_min: deflate.bytes_min,
                context_takeover: deflate.takeover_max,
            }),
            handshake_timeout_ms: server.handshake_timeout_ms,
            keep_alive: self.keep_alive,
            drain_spread_ms: server.drain_spread_ms,
            drain_timeout_ms: server.drain_timeout_ms,
        }
    }

    /// How clients of Centrifugo's protocol are to be treated, with the keys that the files hold which are named.
    ///
    /// # Errors
    /// A text that names the file or the keys, and what is wrong with them.
    pub fn centrifuge_config(&self) -> Result<CentrifugeConfig, String> {
        let centrifuge = &self.centrifuge;
        let tokens = TokenVerifier::new(&self.tokens.keys()?).map_err(|error| format!("[tokens]: {error}"))?;
        Ok(CentrifugeConfig {
            tokens,
            // Where tokens can be checked, the demo is for their holders.
            anonymous: centrifuge.anonymous || (self.server.demo && !self.tokens.has_keys()),
            namespaces: Arc::new(self.topic_namespaces()),
            ping_interval_ms: self.keep_alive.ping_interval_ms,
            message_bytes_max: centrifuge.message_bytes_max,
            token_grace_ms: centrifuge.token_grace_ms,
            backend: None,
            events: None,
            sessions: Sessions::default(),
            personal_namespace: centrifuge.personal_channel.then(|| centrifuge.personal_namespace.clone()),
        })
    }

    /// What makes TLS sessions, if the control port or a listener speaks TLS.
    ///
    /// # Errors
    /// A text that names the file and what is wrong with it.
    pub fn acceptor(&self) -> Result<Option<Acceptor>, String> {
        let is_used = self.server.control_tls || self.listener.iter().any(|listener| listener.tls);
        is_used.then(|| Acceptor::new(&self.tls)).transpose().map_err(|error| error.to_string())
    }

    /// The settings of topics, by namespace.
    pub fn topic_namespaces(&self) -> Namespaces {
        let others = self.namespaces.iter().filter(|(name, _)| *name != DEFAULT_NAMESPACE);
        let others = others.map(|(name, namespace)| (name.clone(), namespace.clone())).collect();
        let namespaces = Namespaces::new(self.default_namespace(), others);
        if self.server.demo { namespaces.with(demo_namespaces()) } else { namespaces }
    }

    /// The settings of topics without a colon.
    pub fn default_namespace_mut(&mut self) -> &mut Namespace {
        self.namespaces.entry(DEFAULT_NAMESPACE.to_owned()).or_default()
    }

    /// Where tokens are configured, a namespace is for users only, unless `file` says who may subscribe.
    pub(super) fn require_tokens(&mut self, file: &Table) {
        self.default_namespace_mut();
        for (name, namespace) in &mut self.namespaces {
            let written = file.get("namespaces").and_then(|namespaces| namespaces.get(name));
            if written.and_then(|written| written.get("subscribe")).is_none() {
                namespace.subscribe = Allowed::Users;
            }
        }
    }

    pub(super) fn default_namespace(&self) -> Namespace {
        self.namespaces.get(DEFAULT_NAMESPACE).cloned().unwrap_or_default()
    }
}

impl TokenSettings {
    /// Whether any key is named, so that tokens can be checked.
    pub(super) fn has_keys(&self) -> bool {
        let files = [&self.rsa_public_key_file, &self.ecdsa_public_key_file, &self.jwks_file];
        !self.hmac_secret.is_empty()
            || !self.jwks_url.is_empty()
            || files.into_iter().any(|file| !file.as_os_str().is_empty())
    }

    fn keys(&self) -> Result<TokenKeys, String> {
        Ok(TokenKeys {
            hmac_secret: text(&self.hmac_secret),
            rsa_public_key: content(&self.rsa_public_key_file)?,
            ecdsa_public_key: content(&self.ecdsa_public_key_file)?,
            jwks: content(&self.jwks_file)?,
            jwks_url: text(&self.jwks_url).map(|url| (url, self.jwks_refresh_ms)),
            audience: text(&self.audience),
            issuer: text(&self.issuer),
        })
    }
}

/// `None` if it is empty.
fn text(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// What is in the file; `None` if it has no name.
fn content(path: &Path) -> Result<Option<String>, String> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    fs::read_to_string(path).map(Some).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

impl ApiSettings {
    /// The key, read from its file if it is in one; `None` if there is none.
    ///
    /// # Errors
    /// A text that names the file and what is wrong with it.
    pub fn key(&self) -> Result<Option<String>, String> {
        key("key", &self.key, &self.key_file)
    }

    /// The key that only reads, likewise.
    ///
    /// # Errors
    /// As [`key`](Self::key); and if there is no other key, without which everyone may do everything.
    pub fn read_key(&self) -> Result<Option<String>, String> {
        let read_key = key("read_key", &self.read_key, &self.read_key_file)?;
        match (&read_key, self.key()?) {
            (Some(_), None) => Err("[api] has a read_key but no key: set key or key_file, too".to_owned()),
            (Some(read_key), Some(key)) if *read_key == key => {
                Err("[api] has the same key twice: choose another read_key".to_owned())
            }
            _ => Ok(read_key),
        }
    }
}

/// A key that is written in the file, or in a file of its own.
fn key(name: &str, written: &str, path: &Path) -> Result<Option<String>, String> {
    let Some(file) = content(path)? else { return Ok(text(written)) };
    if !written.is_empty() {
        return Err(format!("[api] has a {name} and a {name}_file: leave one of them out"));
    }
    match file.lines().next().unwrap_or_default().trim() {
        "" => Err(format!("{}: its first line should be a key, and is empty", path.display())),
        key => Ok(Some(key.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::TopicName;

    #[test]
    fn the_defaults_are_the_librarys() {
        let mut config = Settings::default().server_config();
        config.allowed_origins = Origins::default();
        assert_eq!(format!("{config:?}"), format!("{:?}", ServerConfig::default()));
        assert_eq!(Settings::default().topic_namespaces(), Namespaces::default());
    }

    #[test]
    fn the_demo_is_open_unless_there_are_tokens() {
        let mut settings = Settings::default();
        let is_open = |settings: &Settings| settings.centrifuge_config().unwrap().anonymous;
        let rate = |settings: &Settings| settings.server_config().rate.messages_per_second;
        let is_known = |settings: &Settings| settings.topic_namespaces().iter().any(|(name, _)| name == "demo-chat");
        assert_eq!((is_open(&settings), rate(&settings), is_known(&settings)), (false, 0, false));
        settings.server.demo = true;
        let bound = DEMO_MESSAGES_PER_SECOND_MAX;
        assert_eq!((is_open(&settings), rate(&settings), is_known(&settings)), (true, bound, true));
        settings.server.messages_per_second_max = 7;
        settings.tokens.hmac_secret = "secret".to_owned();
        assert_eq!((is_open(&settings), rate(&settings), is_known(&settings)), (false, 7, true));
    }

    #[test]
    fn the_keys_of_tokens_are_read() {
        let keyed = |tokens| Settings { tokens, ..Settings::default() }.centrifuge_config();
        assert!(!keyed(TokenSettings::default()).unwrap().tokens.has_keys());
        let secret = TokenSettings { hmac_secret: "secret".to_owned(), ..TokenSettings::default() };
        assert!(keyed(secret).unwrap().tokens.has_keys());
        let missing = TokenSettings { jwks_file: "nowhere/keys.json".into(), ..TokenSettings::default() };
        let error = keyed(missing).unwrap_err();
        assert!(error.starts_with("nowhere/keys.json: cannot be read"), "{error}");
        let wrong = TokenSettings { rsa_public_key_file: "Cargo.toml".into(), ..TokenSettings::default() };
        let error = keyed(wrong).unwrap_err();
        assert!(error.starts_with("[tokens]: "), "{error}");
    }

    #[test]
    fn clients_are_told_of_the_pings_that_are_sent() {
        let mut settings = Settings::default();
        settings.keep_alive.ping_interval_ms = 7_000;
        assert_eq!(settings.centrifuge_config().unwrap().ping_interval_ms, 7_000);
    }

    #[test]
    fn the_key_is_in_the_file_or_beside_it_but_not_both() {
        let settings = |key: &str, key_file: &str| ApiSettings {
            key: key.to_owned(),
            key_file: key_file.into(),
            ..ApiSettings::default()
        };
        let api = |key: &str, key_file: &str| settings(key, key_file).key();
        let read =
            |key: &str, read_key: &str| ApiSettings { read_key: read_key.to_owned(), ..settings(key, "") }.read_key();
        assert_eq!((read("k", ""), read("k", "r")), (Ok(None), Ok(Some("r".to_owned()))));
        assert!(read("", "r").unwrap_err().contains("set key or key_file, too"));
        assert!(read("k", "k").unwrap_err().contains("choose another read_key"));
        assert_eq!(api("", ""), Ok(None));
        assert_eq!(api("k", ""), Ok(Some("k".to_owned())));
        assert_eq!(api("", "Cargo.toml"), Ok(Some("[workspace]".to_owned())));
        assert!(api("k", "Cargo.toml").unwrap_err().contains("leave one of them out"));
        assert!(api("", "nowhere").unwrap_err().starts_with("nowhere: cannot be read"));
        assert!(api("", "/dev/null").unwrap_err().contains("is empty"));
    }

    #[test]
    fn the_default_namespace_is_not_one_of_the_others() {
        let mut settings = Settings::default();
        let sized = |history_size| Namespace { history_size, ..Namespace::default() };
        settings.namespaces.insert("default".to_owned(), sized(7));
        let size = |namespaces: &Namespaces, topic| {
            let id = namespaces.find(&TopicName::new(topic).unwrap()).ok()?;
            Some(namespaces.get(id).history_size)
        };
        let namespaces = settings.topic_namespaces();
        assert_eq!((size(&namespaces, "a"), size(&namespaces, "default:a")), (Some(7), Some(7)));
        settings.namespaces.insert("chat".to_owned(), sized(1));
        let namespaces = settings.topic_namespaces();
        assert_eq!((size(&namespaces, "chat:a"), size(&namespaces, "default:a")), (Some(1), None));
    }
}
