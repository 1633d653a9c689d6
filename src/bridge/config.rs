//! `[cluster]`: the settings of a node.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::proto::Host;

/// The settings of a node of a cluster. All nodes need the same, but for `node` and the files.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// Whether the server is a node of a cluster.
    pub enabled: bool,
    /// The cluster's name, the prefix of its subjects and streams.
    pub name: String,
    /// The node's name, for people; empty: the host's.
    pub node: String,
    /// Addresses of NATS servers.
    pub servers: Vec<String>,
    /// A file with credentials (`.creds`), or with the seed of an nkey; empty: none.
    pub credentials_file: PathBuf,
    /// A user; empty: none.
    pub user: String,
    /// A file with the user's password.
    pub password_file: PathBuf,
    /// A file with a token; empty: none.
    pub token_file: PathBuf,
    /// Certificates of authorities that the servers' certificates are from; empty: the system's.
    pub tls_ca_file: PathBuf,
    /// The node's certificate; empty: none.
    pub tls_cert_file: PathBuf,
    /// Its key.
    pub tls_key_file: PathBuf,
    /// Logs into which topics are divided.
    pub buckets: u16,
    /// Copies of each log.
    pub replicas: u16,
    /// Where logs are kept.
    pub storage: Storage,
    /// How long records are kept, in milliseconds.
    pub log_max_age_ms: u64,
    /// Bytes of each log.
    pub log_max_bytes: u64,
    /// How long a publisher waits for the log, in milliseconds.
    pub publish_timeout_ms: u64,
    /// How long a node that starts looks for others before it begins new epochs, in milliseconds.
    pub start_wait_ms: u64,
}

/// Where NATS keeps a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In memory.
    Memory,
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            enabled: false,
            name: "ringfeed".to_owned(),
            node: String::new(),
            servers: vec!["nats://127.0.0.1:4222".to_owned()],
            credentials_file: PathBuf::new(),
            user: String::new(),
            password_file: PathBuf::new(),
            token_file: PathBuf::new(),
            tls_ca_file: PathBuf::new(),
            tls_cert_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            buckets: 16,
            replicas: 3,
            storage: Storage::File,
            log_max_age_ms: 600_000,
            log_max_bytes: 256 * 1024 * 1024,
            publish_timeout_ms: 10_000,
            start_wait_ms: 5000,
        }
    }
}

/// With what a node shows who it is. It has no `Debug`: nobody can log it.
pub(super) enum Credentials {
    None,
    Password {
        user: String,
        password: String,
    },
    Token(String),
    /// The seed of an nkey.
    Seed(String),
    /// The text of a file of credentials: a token of the account's, and the seed of the user's nkey.
    File(String),
}

impl ClusterConfig {
    /// Whether the settings fit together. Reads the files with secrets.
    ///
    /// # Errors
    /// A text that says what is wrong and the remedy.
    pub fn check(&self) -> Result<(), String> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(is_name) {
            return Err(format!("name = '{}': use ASCII letters, digits, - and _", self.name));
        }
        if let Some(server) = self.servers.iter().find(|server| !is_address(server)) {
            return Err(format!("servers: '{server}': write nats://HOST:PORT, or tls://HOST:PORT"));
        }
        if self.tls_cert_file.as_os_str().is_empty() != self.tls_key_file.as_os_str().is_empty() {
            return Err("tls_cert_file and tls_key_file need each other".to_owned());
        }
        if self.user.is_empty() != self.password_file.as_os_str().is_empty() {
            return Err("user and password_file need each other".to_owned());
        }
        let is_set = |path: &Path| !path.as_os_str().is_empty();
        let ways = [is_set(&self.password_file), is_set(&self.token_file), is_set(&self.credentials_file)];
        if ways.into_iter().filter(|is_set| *is_set).count() > 1 {
            return Err("set one of user and password_file, token_file, and credentials_file".to_owned());
        }
        self.credentials().map(drop)
    }

    /// Reads the credentials.
    pub(super) fn credentials(&self) -> Result<Credentials, String> {
        if let Some(text) = content(&self.credentials_file)? {
            return match text.contains("-----BEGIN") {
                true => Ok(Credentials::File(text)),
                false => secret(&self.credentials_file, &text).map(Credentials::Seed),
            };
        }
        if let Some(text) = content(&self.token_file)? {
            return secret(&self.token_file, &text).map(Credentials::Token);
        }
        match content(&self.password_file)? {
            None => Ok(Credentials::None),
            Some(text) => {
                let password = secret(&self.password_file, &text)?;
                Ok(Credentials::Password { user: self.user.clone(), password })
            }
        }
    }

    /// The files whose content nobody else should read.
    pub fn secret_files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.credentials_file, &self.password_file, &self.token_file, &self.tls_key_file];
        files.into_iter().map(PathBuf::as_path).filter(|path| !path.as_os_str().is_empty())
    }

    /// Whether each connection must be TLS, whatever a server says.
    pub(super) fn requires_tls(&self) -> bool {
        let is_set = |path: &Path| !path.as_os_str().is_empty();
        is_set(&self.tls_ca_file)
            || is_set(&self.tls_cert_file)
            || self.servers.iter().any(|server| server.starts_with("tls://"))
    }

    /// A server on another host to which connections may be without TLS.
    pub fn exposed_server(&self) -> Option<&str> {
        let is_here = |server: &str| {
            let address = server.strip_prefix("nats://").unwrap_or(server);
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            Host::parse(host).is_some_and(|host| host.is_loopback())
        };
        if self.requires_tls() {
            return None;
        }
        self.servers.iter().map(String::as_str).find(|server| !is_here(server))
    }

    /// The node's name.
    pub fn node_name(&self) -> String {
        match self.node.as_str() {
            "" => rustix::system::uname().nodename().to_string_lossy().into_owned(),
            name => name.to_owned(),
        }
    }

    /// The subject to which a bucket's records are appended.
    pub(super) fn log_subject(&self, bucket: u16) -> String {
        format!("rf.{}.log.{bucket}", self.name)
    }

    /// The subject of the live copies of a bucket's records.
    pub(super) fn live_subject(&self, bucket: u16) -> String {
        format!("rf.{}.live.{bucket}", self.name)
    }

    /// The subject of the live copies of all records.
    pub(super) fn live_subjects(&self) -> String {
        format!("rf.{}.live.*", self.name)
    }

    /// The subject of messages to all nodes.
    pub(super) fn all_subject(&self) -> String {
        format!("rf.{}.all", self.name)
    }

    /// The subject of messages to a node.
    pub(super) fn node_subject(&self, node: u64) -> String {
        format!("rf.{}.to.{node:016x}", self.name)
    }

    /// The stream that is a bucket's log.
    pub(super) fn stream(&self, bucket: u16) -> String {
        format!("RF_{}_{bucket}", self.name)
    }

    /// What stands in the description of each stream.
    pub(super) fn description(&self) -> String {
        format!("ringfeed log, {} buckets", self.buckets)
    }
}

/// Whether it may be the address of a server. Those with a user are no addresses: secrets belong in files.
fn is_address(server: &str) -> bool {
    let (scheme, address) = server.split_once("://").unwrap_or(("nats", server));
    ["nats", "tls"].contains(&scheme) && !address.is_empty() && !address.contains(['@', '/', ' '])
}

/// The content of a file; `None` if it has no name.
fn content(path: &Path) -> Result<Option<String>, String> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    fs::read_to_string(path).map(Some).map_err(|error| format!("{}: cannot be read: {error}", path.display()))
}

/// The first line of a file.
fn secret(path: &Path, text: &str) -> Result<String, String> {
    match text.lines().next().unwrap_or_default().trim() {
        "" => Err(format!("{}: its first line should be a secret, and is empty", path.display())),
        secret => Ok(secret.to_owned()),
    }
}

/// A random number that no other process has.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_servers(servers: &[&str]) -> ClusterConfig {
        ClusterConfig {
            servers: servers.iter().map(|server| (*server).to_owned()).collect(),
            ..ClusterConfig::default()
        }
    }

    #[test]
    fn an_address_has_no_secrets_and_a_scheme_that_is_known() {
        for good in ["nats://a:4222", "tls://a:4222", "a:4222", "a", "tls://[::1]:4222"] {
            assert_eq!(with_servers(&[good]).check(), Ok(()), "{good}");
        }
        for bad in ["nats://user:secret@a:4222", "ws://a:80", "tls://", "http://a/", "nats://a/b"] {
            assert!(with_servers(&[bad]).check().unwrap_err().contains("tls://HOST:PORT"), "{bad}");
        }
    }

    #[test]
    fn one_server_with_tls_requires_it_of_all() {
        assert!(!with_servers(&["nats://a:4222"]).requires_tls());
        assert!(with_servers(&["nats://a:4222", "tls://b:4222"]).requires_tls());
        let with_authority = ClusterConfig { tls_ca_file: "ca.pem".into(), ..with_servers(&["a"]) };
        assert!(with_authority.requires_tls() && with_authority.exposed_server().is_none());
        assert_eq!(with_servers(&["nats://127.0.0.1:4222", "nats://b:4222"]).exposed_server(), Some("nats://b:4222"));
        let here = ["nats://127.0.0.1:4222", "localhost:4222", "nats://[::1]:4222"];
        assert_eq!(with_servers(&here).exposed_server(), None);
    }

    #[test]
    fn there_is_one_way_to_say_who_a_node_is() {
        let config = ClusterConfig { token_file: "a".into(), credentials_file: "b".into(), ..ClusterConfig::default() };
        assert!(config.check().unwrap_err().contains("set one of"));
        let config = ClusterConfig { user: "a".to_owned(), ..ClusterConfig::default() };
        assert!(config.check().unwrap_err().contains("need each other"));
        let config = ClusterConfig { token_file: "/nowhere/token".into(), ..ClusterConfig::default() };
        assert!(config.check().unwrap_err().contains("/nowhere/token: cannot be read"));
        let config = ClusterConfig { token_file: "/dev/null".into(), ..ClusterConfig::default() };
        assert!(config.check().unwrap_err().contains("first line should be a secret"));
    }
}
