//! What two configurations differ in, and what of it a running server can change.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Settings;
use super::show::SECRETS;

/// The keys that a running server can change, by section. Nothing is built on them when it starts.
const LIVE: [(&str, &[&str]); 4] = [
    ("tls", &["certificates", "min_version", "client_certificates", "client_ca_file", "ticket_key_file"]),
    (
        "server",
        &[
            "allowed_origins",
            "trusted_proxies",
            "forwarded_header",
            "handshakes_per_second",
            "handshake_timeout_ms",
            "subscriptions_per_connection_max",
            "message_bytes_max",
            "messages_per_second_max",
            "bytes_per_second_max",
            "drain_spread_ms",
            "drain_timeout_ms",
            "log_level",
        ],
    ),
    (
        "tokens",
        &[
            "hmac_secret",
            "rsa_public_key_file",
            "ecdsa_public_key_file",
            "jwks_file",
            "jwks_url",
            "jwks_refresh_ms",
            "audience",
            "issuer",
        ],
    ),
    ("api", &["key", "key_file", "read_key", "read_key_file"]),
];

/// The same of each namespace that both configurations have.
const LIVE_IN_NAMESPACES: &[&str] = &[
    "history_size",
    "history_ttl_ms",
    "history_bytes_max",
    "subscribe",
    "publish",
    "history",
    "presence_read",
    "slow_consumer",
    "outbox_bytes_max",
    "outbox_age_ms",
    "cache_recovery",
    "delta",
    "tags_filter",
    "keys_max",
    "value_bytes_max",
    "state_bytes_max",
    "value_ttl_ms",
];

/// What a server that runs with `running` can do of `read`: the settings that it then has, and the keys that need a
/// restart.
pub fn apply(running: &Settings, read: &Settings) -> (Settings, Vec<String>) {
    let [mut running, mut read] = [running.clone(), read.clone()];
    // There is always one, written or not.
    running.default_namespace_mut();
    read.default_namespace_mut();
    let [mut applied, wanted] = [&running, &read].map(to_table);
    for (section, keys) in LIVE {
        copy(keys, &wanted[section], &mut applied[section]);
    }
    let namespaces = applied["namespaces"].as_table_mut().expect("a section");
    for (name, namespace) in namespaces {
        if let Some(wanted) = wanted["namespaces"].get(name) {
            copy(LIVE_IN_NAMESPACES, wanted, namespace);
        }
    }
    let applied: Settings = applied.try_into().expect("values of settings are settings");
    let mut left = changed_keys(&applied, &read);
    let in_one = |name: &&String| applied.namespaces.contains_key(*name) != read.namespaces.contains_key(*name);
    for name in applied.namespaces.keys().chain(read.namespaces.keys()).filter(in_one) {
        left.retain(|key| !key.starts_with(&format!("namespaces.{name}.")));
        left.push(format!("namespaces.{name}"));
    }
    (applied, left)
}

fn copy(keys: &[&str], from: &Value, to: &mut Value) {
    let to = to.as_table_mut().expect("a section");
    for key in keys {
        to.insert((*key).to_owned(), from[*key].clone());
    }
}

fn to_table(settings: &Settings) -> Table {
    Table::try_from(settings).expect("settings are what TOML can say")
}

/// The keys, as `server.shards`, whose values differ.
fn changed_keys(one: &Settings, other: &Settings) -> Vec<String> {
    let [one, other] = [one, other].map(|settings| {
        let mut values = BTreeMap::new();
        flatten(String::new(), &to_table(settings), &mut values);
        values
    });
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    names.filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
}

/// The settings for people: each key, as `server.shards`, with its value. Secrets are dots.
pub fn shown(settings: &Settings) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    flatten(String::new(), &to_table(settings), &mut values);
    let shown = |(key, value): (String, Value)| {
        let name = key.rsplit('.').next().unwrap_or_default();
        let is_secret = SECRETS.contains(&name) && value.as_str().is_some_and(|text| !text.is_empty());
        let text = if is_secret { "••••••".to_owned() } else { value.to_string() };
        (key, text)
    };
    values.into_iter().map(shown).collect()
}

fn flatten(path: String, table: &Table, values: &mut BTreeMap<String, Value>) {
    for (name, value) in table {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match value {
            Value::Table(table) => flatten(path, table, values),
            _ => drop(values.insert(path, value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn keys_that_differ_are_named() {
        let changes = |one: &str, other: &str| changed_keys(&parse(one).unwrap(), &parse(other).unwrap());
        assert_eq!(changes("", ""), [""; 0]);
        assert_eq!(
            changes("", "[server]\necho = true\n[tls]\nmin_version = \"1.3\""),
            ["server.echo", "tls.min_version"]
        );
        assert_eq!(changes("", "[[listener]]\naddress = \"[::]:1\""), ["listener"]);
        assert_eq!(changes("", "[namespaces.a]\nhistory_size = 1").len(), changes("[namespaces.a]", "").len());
        assert_eq!(changes("[namespaces.a]\nhistory_size = 1", "[namespaces.a]"), ["namespaces.a.history_size"]);
    }

    #[test]
    fn each_live_key_is_applied_and_each_other_one_is_named() {
        let file = crate::config::example().parse::<Table>().unwrap();
        for (section, table) in &file {
            let (keys, is_namespace) = match table {
                Value::Table(table) if section == "namespaces" => (table["default"].as_table().unwrap(), true),
                Value::Table(table) => (table, false),
                _ => continue,
            };
            for (key, value) in keys.iter().filter(|(_, value)| !value.is_table()) {
                let live = match is_namespace {
                    true => LIVE_IN_NAMESPACES.contains(&key.as_str()),
                    false => LIVE.iter().any(|(name, live)| name == section && live.contains(&key.as_str())),
                };
                let mut running = Settings::default();
                running.default_namespace_mut();
                let mut changed = to_table(&running);
                let section_of = |table: &mut Table| match is_namespace {
                    true => table["namespaces"]["default"].as_table_mut().unwrap().clone(),
                    false => table[section].as_table_mut().unwrap().clone(),
                };
                let mut inner = section_of(&mut changed);
                inner.insert(key.clone(), other(key, value));
                match is_namespace {
                    true => changed["namespaces"]["default"] = Value::Table(inner),
                    false => changed[section] = Value::Table(inner),
                }
                let read: Settings = changed.try_into().unwrap_or_else(|error| panic!("{section}.{key}: {error}"));
                let (applied, left) = apply(&running, &read);
                assert_eq!(applied == read, live, "{section}.{key}");
                assert_eq!(left.is_empty(), live, "{section}.{key}: {left:?}");
            }
        }
    }

    /// Another value that the key may have.
    fn other(key: &str, value: &Value) -> Value {
        match value {
            Value::Boolean(value) => Value::Boolean(!value),
            Value::Integer(value) => Value::Integer(value ^ 1),
            Value::Array(_) if key == "certificates" => {
                let pair = [("cert_file", "a"), ("key_file", "b")];
                let pair = pair.map(|(name, file)| (name.to_owned(), Value::from(file)));
                Value::Array(vec![Value::Table(pair.into_iter().collect())])
            }
            Value::Array(_) => Value::Array(vec![Value::from("a")]),
            Value::String(_) => Value::from(match key {
                "control" => "127.0.0.1:9",
                "control_mode" => "0660",
                "forwarded_header" => "forwarded",
                "log_format" => "json",
                "log_level" => "debug",
                "min_version" => "1.3",
                "client_certificates" => "optional",
                "slow_consumer" => "conflate",
                "storage" => "memory",
                "queues" => "broker",
                "subscribe" => "nobody",
                "publish" | "history" | "presence_read" => "anyone",
                _ => "a",
            }),
            _ => panic!("{key} = {value}"),
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = parse("[api]\nkey = \"hidden1\"\nread_key = \"hidden2\"\n[tokens]\nhmac_secret = \"hidden3\"");
        let shown = shown(&settings.unwrap());
        assert!(!format!("{shown:?}").contains("hidden"), "{shown:?}");
        assert_eq!((shown["api.key"].as_str(), shown["api.key_file"].as_str()), ("••••••", "\"\""));
        assert_eq!(shown["server.shards"], "0");
        // A key whose name says that it holds a secret is in the list, or names a file.
        let is_told = |key: &&String| {
            let name = key.rsplit('.').next().unwrap();
            name.split('_').any(|part| ["secret", "password", "key", "credentials"].contains(&part))
                && !name.ends_with("_file")
                && !SECRETS.contains(&name)
        };
        assert_eq!(shown.keys().filter(is_told).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn namespaces_that_come_or_go_need_a_restart() {
        let parse = |text| parse(text).unwrap();
        let (running, read) =
            ("[namespaces.a]\nhistory_size = 1", "[namespaces.b]\n[namespaces.default]\nhistory_size = 2");
        let (applied, left) = apply(&parse(running), &parse(read));
        assert_eq!(applied.namespaces.keys().collect::<Vec<_>>(), ["a", "default"]);
        assert_eq!(applied.namespaces["default"].history_size, 2);
        assert_eq!(left, ["namespaces.a", "namespaces.b"]);
    }
}
