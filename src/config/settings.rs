//! What a configuration file comes to. Sections are structures, keys are their fields, and defaults are the library's.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::conn::KeepAliveConfig;
use crate::gateway::{OriginPattern, Origins};
use crate::proto::DeflateConfig;
use crate::server::ServerConfig;
use crate::topics::{Namespace, Namespaces};

/// The namespace of topics whose name has no colon.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// All that a file can say.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    /// `[server]`
    pub server: ServerSettings,
    /// `[keep_alive]`
    pub keep_alive: KeepAliveConfig,
    /// `[deflate]`
    pub deflate: DeflateSettings,
    /// `[namespaces.default]`, and `[namespaces.NAME]` for each other.
    pub namespaces: BTreeMap<String, Namespace>,
    /// `[api]`
    pub api: ApiSettings,
}

/// `[server]`: ports, bounds and who may connect.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ServerSettings {
    /// As [`ServerConfig::listen`].
    pub listen: SocketAddr,
    /// Where HTTP for publishers and operators is served.
    pub control: SocketAddr,
    /// As [`ServerConfig::shards`].
    pub shards: usize,
    /// As [`ServerConfig::connections_max`].
    pub max_connections: usize,
    /// As [`ServerConfig::message_bytes_max`].
    pub message_bytes_max: u32,
    /// As [`ServerConfig::socket_notsent_bytes`].
    pub socket_notsent_bytes: u32,
    /// As [`ServerConfig::handshake_timeout_ms`].
    pub handshake_timeout_ms: u64,
    /// As [`ServerConfig::drain_timeout_ms`].
    pub drain_timeout_ms: u64,
    /// As [`ServerConfig::allowed_origins`], as written: each is an [`OriginPattern`].
    pub allowed_origins: Vec<String>,
    /// Whether `/echo` is served.
    pub echo: bool,
    /// Whether this host's figures are published to the topic `demo`.
    pub demo: bool,
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
}

/// `[api]`: who may use the control port.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ApiSettings {
    /// What requests must carry; empty: nothing.
    pub key: String,
    /// A file whose only line that is, instead; empty: none.
    pub key_file: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            server: ServerSettings::default(),
            keep_alive: ServerConfig::default().keep_alive,
            deflate: DeflateSettings::default(),
            namespaces: BTreeMap::new(),
            api: ApiSettings::default(),
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        let server = ServerConfig::default();
        ServerSettings {
            listen: server.listen,
            control: SocketAddr::from(([127, 0, 0, 1], 8001)),
            shards: server.shards,
            max_connections: server.connections_max,
            message_bytes_max: server.message_bytes_max,
            socket_notsent_bytes: server.socket_notsent_bytes,
            handshake_timeout_ms: server.handshake_timeout_ms,
            drain_timeout_ms: server.drain_timeout_ms,
            allowed_origins: Vec::new(),
            echo: false,
            demo: false,
        }
    }
}

impl Default for DeflateSettings {
    fn default() -> Self {
        let DeflateConfig { level, bytes_min } = DeflateConfig::default();
        DeflateSettings { enabled: false, level, bytes_min }
    }
}

impl Settings {
    /// How the shards are to run.
    ///
    /// # Panics
    /// If an origin is not an [`OriginPattern`]. Those of a file that was read are.
    pub fn server_config(&self) -> ServerConfig {
        let server = &self.server;
        let origins = server.allowed_origins.iter();
        let patterns = origins.map(|text| OriginPattern::new(text).expect("origins are checked when they are read"));
        ServerConfig {
            listen: server.listen,
            shards: server.shards,
            connections_max: server.max_connections,
            allowed_origins: Origins::new(patterns.collect()),
            message_bytes_max: server.message_bytes_max,
            namespaces: Arc::new(self.topic_namespaces()),
            socket_notsent_bytes: server.socket_notsent_bytes,
            deflate: self
                .deflate
                .enabled
                .then_some(DeflateConfig { level: self.deflate.level, bytes_min: self.deflate.bytes_min }),
            handshake_timeout_ms: server.handshake_timeout_ms,
            keep_alive: self.keep_alive,
            drain_timeout_ms: server.drain_timeout_ms,
        }
    }

    /// The settings of topics, by namespace.
    pub fn topic_namespaces(&self) -> Namespaces {
        let others = self.namespaces.iter().filter(|(name, _)| *name != DEFAULT_NAMESPACE);
        let others = others.map(|(name, namespace)| (name.clone(), namespace.clone())).collect();
        Namespaces::new(self.default_namespace(), others)
    }

    /// The settings of topics without a colon.
    pub fn default_namespace_mut(&mut self) -> &mut Namespace {
        self.namespaces.entry(DEFAULT_NAMESPACE.to_owned()).or_default()
    }

    fn default_namespace(&self) -> Namespace {
        self.namespaces.get(DEFAULT_NAMESPACE).cloned().unwrap_or_default()
    }
}

impl ApiSettings {
    /// The key, read from its file if it is in one; `None` if there is none.
    ///
    /// # Errors
    /// A text that names the file and what is wrong with it.
    pub fn key(&self) -> Result<Option<String>, String> {
        let path = &self.key_file;
        if path.as_os_str().is_empty() {
            return Ok(Some(self.key.clone()).filter(|key| !key.is_empty()));
        }
        if !self.key.is_empty() {
            return Err("[api] has a key and a key_file: leave one of them out".to_owned());
        }
        let file = fs::read_to_string(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        match file.lines().next().unwrap_or_default().trim() {
            "" => Err(format!("{}: its first line should be a key, and is empty", path.display())),
            key => Ok(Some(key.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::TopicName;

    #[test]
    fn the_defaults_are_the_librarys() {
        let config = Settings::default().server_config();
        assert_eq!(format!("{config:?}"), format!("{:?}", ServerConfig::default()));
        assert_eq!(Settings::default().topic_namespaces(), Namespaces::default());
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
