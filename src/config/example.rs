//! The list of keys as a file: every key with what it does, what it takes, and its default.

use toml::{Table, Value};

use super::keys::{ANY_NAME, SECTIONS};
use super::settings::{DEFAULT_NAMESPACE, Settings};
use crate::topics::Namespace;

const HEAD: &str = "\
# Ringfeed's configuration: every key, with its default. Keys that are left out have theirs, and flags of the command
# line win over all of them. Use it with `ringfeed serve --config FILE`; `ringfeed config check FILE` tells what is
# wrong with one. Paths that are not absolute begin where the server is started.
";

/// A file with every key at its default, explained.
pub fn example() -> String {
    let defaults = defaults();
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        let path: Vec<&str> =
            section.path.iter().map(|name| if *name == ANY_NAME { DEFAULT_NAMESPACE } else { name }).collect();
        text.push('\n');
        push_comment(&mut text, section.about);
        let head =
            if section.is_list { format!("[[{}]]\n", path.join(".")) } else { format!("[{}]\n", path.join(".")) };
        text.push_str(&head);
        for key in section.keys {
            text.push('\n');
            push_comment(&mut text, key.about);
            push_comment(&mut text, &format!("Takes {}.", key.takes));
            text.push_str(&format!("{} = {}\n", key.name, default(&defaults, &path, key.name)));
        }
    }
    text
}

fn push_comment(text: &mut String, comment: &str) {
    for line in comment.lines() {
        text.push_str(&format!("# {line}\n"));
    }
}

/// The defaults, with the namespace that is there when none is listed.
pub(super) fn defaults() -> Table {
    let mut settings = Settings::default();
    settings.namespaces.insert(DEFAULT_NAMESPACE.to_owned(), Namespace::default());
    Table::try_from(settings).expect("settings are what TOML can say")
}

pub(super) fn default<'a>(defaults: &'a Table, path: &[&str], key: &str) -> &'a Value {
    let table = path.iter().fold(defaults, |table, name| {
        let value = table.get(*name);
        let value = value.and_then(|value| value.as_array().map_or(Some(value), |list| list.first()));
        value.and_then(Value::as_table).unwrap_or_else(|| panic!("the settings have no section {name}"))
    });
    table.get(key).unwrap_or_else(|| panic!("the settings have no field for {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn the_example_is_the_defaults() {
        let mut settings = parse(&example()).unwrap();
        assert_eq!(settings.namespaces.remove(DEFAULT_NAMESPACE), Some(Namespace::default()));
        assert_eq!(settings, Settings::default());
    }

    /// The names of all values below `table`, with those of the tables around them.
    fn names(table: &Table, path: &str) -> Vec<String> {
        let inner = |(name, value): (&String, &Value)| match value {
            Value::Table(table) => names(table, &format!("{path}{name}.")),
            Value::Array(list) if list.iter().any(Value::is_table) => {
                list.iter().flat_map(|item| names(item.as_table().unwrap(), &format!("{path}{name}."))).collect()
            }
            _ => vec![format!("{path}{name}")],
        };
        table.iter().flat_map(inner).collect()
    }

    #[test]
    fn the_example_names_every_key_of_the_settings() {
        let example: Table = example().parse().unwrap();
        assert_eq!(names(&example, ""), names(&defaults(), ""));
    }

    #[test]
    fn every_key_is_explained_in_lines_that_are_not_too_long() {
        for line in example().lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
        for key in SECTIONS.iter().flat_map(|section| section.keys) {
            assert!(key.about.ends_with('.'), "{}: {}", key.name, key.about);
        }
    }
}
