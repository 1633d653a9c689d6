//! `[cluster]`: the settings of a node.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
    /// A file with credentials (`.creds`); empty: none.
    pub credentials_file: PathBuf,
    /// A user; empty: none.
    pub user: String,
    /// A file with the user's password.
    pub password_file: PathBuf,
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

impl ClusterConfig {
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

/// A random number that no other process has.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
