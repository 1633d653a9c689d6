//! What two configurations differ in.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Settings;

/// The keys, as `server.shards`, whose values differ.
pub fn changed_keys(one: &Settings, other: &Settings) -> Vec<String> {
    let [one, other] = [one, other].map(|settings| {
        let mut values = BTreeMap::new();
        let table = Table::try_from(settings).expect("settings are what TOML can say");
        flatten(String::new(), &table, &mut values);
        values
    });
    let names = one.keys().chain(other.keys().filter(|name| !one.contains_key(*name)));
    names.filter(|name| one.get(*name) != other.get(*name)).cloned().collect()
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
}
