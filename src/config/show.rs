//! The settings that a server would run with, and where each comes from.

use toml::{Table, Value};

use super::settings::Settings;

/// Keys whose values are secrets.
pub(super) const SECRETS: [&str; 4] = ["hmac_secret", "key", "read_key", "secret"];

/// A configuration file with all settings, each with its origin: the default, the file, or a flag. `read` are the
/// settings of the file alone, and `file` is its text. Secrets are not shown.
pub fn show(settings: &Settings, read: &Settings, file: &str) -> String {
    let written: Table = file.parse().unwrap_or_default();
    let [settings, read, defaults] = [settings, read, &Settings::default()].map(to_table);
    let origins = Origins { written: &written, read: &read, defaults: &defaults };
    let mut text = String::new();
    origins.push(&mut text, &mut Vec::new(), &settings);
    text.trim_start().to_owned()
}

fn to_table(settings: &Settings) -> Table {
    let mut settings = settings.clone();
    // There is always one, written or not.
    settings.default_namespace_mut();
    Table::try_from(settings).expect("settings are what TOML can say")
}

struct Origins<'a> {
    written: &'a Table,
    read: &'a Table,
    defaults: &'a Table,
}

impl Origins<'_> {
    /// Appends a table: its own values, then those of the tables in it.
    fn push(&self, text: &mut String, path: &mut Vec<String>, table: &Table) {
        let is_list = |value: &Value| value.as_array().is_some_and(|list| list.iter().any(Value::is_table));
        let (tables, values): (Vec<_>, Vec<_>) =
            table.iter().partition(|(_, value)| value.is_table() || is_list(value));
        if !values.is_empty() {
            text.push_str(&format!("\n[{}]\n", path.join(".")));
        }
        for (name, value) in values {
            path.push(name.clone());
            let origin = self.origin(path, value);
            path.pop();
            text.push_str(&format!("{name} = {} # {origin}\n", shown(name, value)));
        }
        for (name, value) in tables {
            path.push(name.clone());
            match value {
                Value::Table(table) => self.push(text, path, table),
                Value::Array(list) => {
                    let origin = self.origin(path, value);
                    list.iter().filter_map(Value::as_table).for_each(|item| push_item(text, path, item, origin));
                }
                _ => {}
            }
            path.pop();
        }
    }

    /// Where a value comes from.
    fn origin(&self, path: &[String], value: &Value) -> &'static str {
        let is_written = find(self.written, path).is_some();
        if find(self.read, path) != Some(value) && (is_written || find(self.defaults, path) != Some(value)) {
            "flag or environment"
        } else if is_written {
            "file"
        } else {
            "default"
        }
    }
}

/// Appends a table of a list. Tables in it are written in line.
fn push_item(text: &mut String, path: &[String], item: &Table, origin: &str) {
    text.push_str(&format!("\n[[{}]] # {origin}\n", path.join(".")));
    for (name, value) in item {
        text.push_str(&format!("{name} = {}\n", shown(name, value)));
    }
}

fn shown(name: &str, value: &Value) -> String {
    match value.as_str() {
        Some(secret) if SECRETS.contains(&name) && !secret.is_empty() => "\"***\"".to_owned(),
        _ => value.to_string(),
    }
}

fn find<'t>(table: &'t Table, path: &[String]) -> Option<&'t Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(first)?;
    if rest.is_empty() { Some(value) } else { find(value.as_table()?, rest) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{example, parse};

    #[test]
    fn each_value_has_its_origin() {
        let file = "[server]\nshards = 3\nmax_connections = 0\n[api]\nkey = \"very secret\"\n[namespaces.a]\nhistory_size = 7\n";
        let read = parse(file).unwrap();
        let mut settings = read.clone();
        settings.server.handshakes_per_second = 9;
        settings.server.max_connections = 5;
        let text = show(&settings, &read, file);
        let lines = [
            "shards = 3 # file",
            "max_connections = 5 # flag or environment",
            "handshakes_per_second = 9 # flag or environment",
            "message_bytes_max = 16777216 # default",
            "key = \"***\" # file",
            "[namespaces.a]",
            "history_size = 7 # file",
            "history_size = 0 # default",
            "[[listener]] # default",
        ];
        for line in lines {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("very secret"));
    }

    #[test]
    fn what_is_shown_is_a_file_with_the_same_settings() {
        let read = parse(&example()).unwrap();
        assert_eq!(parse(&show(&read, &read, &example())), Ok(read));
    }
}
