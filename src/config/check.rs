//! Holds a file against the list of keys.
//!
//! Everything that can be wrong with a value by itself is found here, so that it can be told by line, key, value and
//! what is allowed. What files hold that are named is looked at when they are read.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::keys::{ANY_NAME, Key, MOVED, SECTIONS, Section, ValueKind};
use crate::gateway::OriginPattern;
use crate::server::{ListenAddress, ProxyNetwork, SocketMode};
use crate::topics::{SYSTEM_NAMESPACE, TopicName};

/// Characters of a wrong value that are repeated to whoever wrote it.
const SHOWN_CHARS_MAX: usize = 40;

/// All that is wrong with the file, from top to bottom.
pub(super) fn check(file: &str) -> Vec<Problem> {
    let document = match DeTable::parse(file) {
        Ok(document) => document,
        Err(error) => return vec![Problem::of_toml(file, &error)],
    };
    let mut checker = Checker { file, problems: Vec::new() };
    checker.check_table(&[], document.get_ref());
    checker.problems.sort_by_key(|problem| problem.line);
    checker.problems
}

struct Checker<'a> {
    file: &'a str,
    problems: Vec<Problem>,
}

/// Where a key stands: the names of the tables around it.
type Path<'p> = [&'p str];

impl Checker<'_> {
    /// Checks a table that is, or is on the way to, a section.
    fn check_table(&mut self, path: &Path<'_>, table: &DeTable<'_>) {
        for (name, value) in table {
            let byte = name.span().start;
            let name: &str = name.get_ref();
            let inner = [path, &[name]].concat();
            if let Some((_, remedy)) = MOVED.iter().find(|(moved, _)| *moved == inner) {
                self.problem(byte, (*remedy).to_owned());
            } else if let Some(key) = section(path).and_then(|section| section.keys.iter().find(|key| key.name == name))
            {
                self.check_value(&inner, key, value);
            } else if leads_to_section(&inner) {
                self.check_inner(&inner, byte, value);
            } else {
                self.problem(byte, unknown(path, name));
            }
        }
    }

    /// Checks what should be a table.
    fn check_inner(&mut self, path: &Path<'_>, byte: usize, value: &Spanned<DeValue<'_>>) {
        let dotted = path.join(".");
        if let ["namespaces", name] = path
            && (name.contains(':') || *name == SYSTEM_NAMESPACE || TopicName::new(name).is_err())
        {
            let text = format!("[{dotted}] can't be a namespace: its topics could not have such names");
            return self.problem(byte, text);
        }
        let is_list = section(path).is_some_and(|section| section.is_list);
        match value.get_ref() {
            DeValue::Table(table) if !is_list => self.check_table(path, table),
            DeValue::Array(list) if is_list => list.iter().for_each(|item| match item.get_ref().as_table() {
                Some(table) => self.check_table(path, table),
                None => self.problem(item.span().start, not_a_table(&dotted, is_list)),
            }),
            _ => self.problem(byte, not_a_table(&dotted, is_list)),
        }
    }

    fn check_value(&mut self, path: &Path<'_>, key: &Key, value: &Spanned<DeValue<'_>>) {
        if !is_taken(key.takes, value.get_ref()) {
            let shown = match key.takes {
                // They may hold a password.
                ValueKind::Servers => "…".to_owned(),
                _ => shorten(&self.file[value.span()]),
            };
            let text = format!("{} = {shown}: must be {}", path.join("."), key.takes);
            self.problem(value.span().start, text);
        }
    }

    fn problem(&mut self, byte: usize, text: String) {
        self.problems.push(Problem::at(self.file, byte, text));
    }
}

/// Tells how the section at `dotted` is written.
fn not_a_table(dotted: &str, is_list: bool) -> String {
    match is_list {
        true => format!("{dotted} is a list of sections: write [[{dotted}]] and its keys below"),
        false => format!("{dotted} is a section: write [{dotted}] and its keys below"),
    }
}

/// The section whose keys stand in the table at `path`.
fn section(path: &Path<'_>) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| fits(section.path, path))
}

/// Whether a table at `path` is a section, or has one below it.
fn leads_to_section(path: &Path<'_>) -> bool {
    SECTIONS.iter().any(|section| section.path.get(..path.len()).is_some_and(|start| fits(start, path)))
}

/// Whether `path` is this one, or one of those that it stands for.
fn fits(pattern: &[&str], path: &Path<'_>) -> bool {
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(name, other)| name == other || *name == ANY_NAME)
}

fn is_taken(takes: ValueKind, value: &DeValue<'_>) -> bool {
    match takes {
        ValueKind::ListenAddress => value.as_str().is_some_and(|text| text.parse::<ListenAddress>().is_ok()),
        ValueKind::Mode => value.as_str().is_some_and(|text| text.parse::<SocketMode>().is_ok()),
        ValueKind::Servers => {
            let is_server = |item: &Spanned<DeValue<'_>>| {
                item.get_ref().as_str().is_some_and(|text| !text.is_empty() && !text.contains('@'))
            };
            value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(is_server))
        }
        ValueKind::Routes => value.as_array().is_some_and(|list| {
            list.iter().all(|path| path.get_ref().as_str().is_some_and(|path| path.starts_with('/')))
        }),
        ValueKind::Certificates => {
            value.as_array().is_some_and(|list| list.iter().all(|pair| is_pair_of_files(pair.get_ref())))
        }
        ValueKind::Switch => value.is_bool(),
        ValueKind::Text | ValueKind::Path => value.is_str(),
        ValueKind::Word(words) => value.as_str().is_some_and(|text| words.contains(&text)),
        ValueKind::Whole(min, max) => whole(value).is_some_and(|number| (min..=max).contains(&number)),
        ValueKind::WholeOrNone(min, max) => {
            whole(value).is_some_and(|number| number == 0 || (min..=max).contains(&number))
        }
        ValueKind::Proxies => value.as_array().is_some_and(|list| {
            list.iter().all(|one| one.get_ref().as_str().is_some_and(|text| text.parse::<ProxyNetwork>().is_ok()))
        }),
        ValueKind::Words(words) => value.as_array().is_some_and(|list| {
            list.iter().all(|word| word.get_ref().as_str().is_some_and(|word| words.contains(&word)))
        }),
        ValueKind::HeaderNames => value.as_array().is_some_and(|list| {
            let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_token);
            list.iter().all(|name| name.get_ref().as_str().is_some_and(is_name))
        }),
        ValueKind::Origins => value.as_array().is_some_and(|list| {
            list.iter().all(|origin| origin.get_ref().as_str().is_some_and(|text| OriginPattern::new(text).is_ok()))
        }),
    }
}

fn is_pair_of_files(value: &DeValue<'_>) -> bool {
    value.as_table().is_some_and(|pair| {
        let is_file = |name| pair.get(name).is_some_and(|file| file.get_ref().is_str());
        pair.len() == 2 && is_file("cert_file") && is_file("key_file")
    })
}

fn whole(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// Tells that there is no such key, and which may have been meant.
fn unknown(path: &Path<'_>, name: &str) -> String {
    let written = [path, &[name]].concat().join(".");
    // The same name in another section is nearer than any other name in this one.
    let moved = all_keys().find(|(_, key)| *key == name);
    let candidates: Vec<(String, usize)> = match section(path) {
        Some(section) => section.keys.iter().map(|key| candidate(path, key.name, name)).collect(),
        None => SECTIONS.iter().map(|section| candidate(&[], section.path[0], name)).collect(),
    };
    let nearest = candidates.into_iter().min_by_key(|(_, distance)| *distance).expect("every section has keys");
    let nearest = match moved {
        Some((section, key)) => format!("{key} in [{}]", section.path.join(".").replace(ANY_NAME, "NAME")),
        None => nearest.0,
    };
    format!("there is no key {written}: did you mean {nearest}?")
}

/// A key that may have been meant by `written`, and how far it is from that.
fn candidate(path: &Path<'_>, name: &str, written: &str) -> (String, usize) {
    ([path, &[name]].concat().join("."), strsim::osa_distance(name, written))
}

fn all_keys() -> impl Iterator<Item = (&'static Section, &'static str)> {
    SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| (section, key.name)))
}

fn shorten(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return text.to_owned();
    }
    text.chars().take(SHOWN_CHARS_MAX).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_wrong_is_told_by_line_and_key() {
        let rows = [
            (
                "[[listener]]\naddress = \"nowhere\"",
                2,
                "listener.address = \"nowhere\": must be an IP address and a port",
            ),
            ("[[listener]]\n\naddress = 8000", 3, "listener.address = 8000: must be an IP address"),
            ("[[listener]]\naddress = \"unix:\"", 2, "\"unix:PATH\" or \"fd:NAME\""),
            ("[[listener]]\nmode = \"rw\"", 2, "must be octal digits"),
            (
                "[[listener]]\n[[listener]]\nroutes = [\"feed\"]",
                3,
                "listener.routes = [\"feed\"]: must be a list of paths",
            ),
            ("[listener]\naddress = \"127.0.0.1:1\"", 1, "listener is a list of sections: write [[listener]]"),
            ("[tls]\ncertificates = [{ cert_file = \"a\" }]", 2, "must be a list of pairs"),
            ("[tls]\ncertificates = [{ cert_file = \"a\", key_file = 1 }]", 2, "must be a list of pairs"),
            ("[tls]\nmin_version = \"1.1\"", 2, "must be one of \"1.2\", \"1.3\""),
            ("[[listener]]\nproxy_protocol = true", 2, "must be one of \"off\", \"require\""),
            ("[server]\ntrusted_proxies = [\"10.0.0.0/33\"]", 2, "must be a list of IP addresses and networks"),
            ("listener = [1]", 1, "listener is a list of sections"),
            (
                "[server]\nlisten = \"127.0.0.1:1\"",
                2,
                "server.listen is no key any more: write [[listener]] and address",
            ),
            ("[server]\ncontrol = \"nowhere\"", 2, "server.control = \"nowhere\": must be an IP address and a port"),
            ("server.shards = 1025", 1, "server.shards = 1025: must be a whole number from 0 to 1024"),
            ("[server]\nshards = -1", 2, "server.shards = -1: must be"),
            ("[server]\nshards = 1.5", 2, "server.shards = 1.5: must be a whole number"),
            ("[server]\nshards = 99999999999999999999", 2, "must be a whole number"),
            ("[server]\necho = \"yes\"", 2, "server.echo = \"yes\": must be true or false"),
            ("[server]\nallowed_origins = [\"*\", \"example.com\"]", 2, "must be a list of origins"),
            ("[server]\nallowed_origins = \"*\"", 2, "must be a list of origins"),
            ("[server]\nbytes_per_second_max = 1", 2, "must be 0, or a whole number from 65536 to"),
            ("[deflate]\nlevel = 10", 2, "deflate.level = 10: must be a whole number from 1 to 9"),
            ("[namespaces.a]\nslow_consumer = \"drop\"", 2, "must be one of \"close\", \"drop-oldest\", \"conflate\""),
            (
                "[namespaces.a]\nsubscribe = \"subscribers\"",
                2,
                "must be one of \"nobody\", \"users\", \"anyone\", \"backend\"",
            ),
            ("[backend.rpc]\nheaders = [\"a b\"]", 2, "must be a list of names of header fields"),
            ("[events]\ntypes = [\"connect\"]", 2, "must be a list of occupied, vacated"),
            ("[backend.rpc]\ntimeout_ms = 20000", 2, "must be a whole number from 1 to 10000"),
            ("[namespaces.\"a:b\"]", 1, "can't be a namespace"),
            ("[namespaces.\"\"]", 1, "can't be a namespace"),
            ("[namespaces]\nhistory_size = 1", 2, "namespaces.history_size is a section"),
            ("server = true", 1, "server is a section: write [server]"),
            ("[server]\nlisten 5", 2, ""),
            ("[server]\nshards = 1\nshards = 2", 3, "duplicate key"),
        ];
        for (file, line, text) in rows {
            let problems = check(file);
            assert_eq!(problems.len(), 1, "{file}: {problems:?}");
            assert_eq!(problems[0].line, Some(line), "{file}: {problems:?}");
            assert!(problems[0].text.contains(text), "{file}: {problems:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_known_one() {
        let rows = [
            ("[server]\ncontrl = 1", 2, "there is no key server.contrl: did you mean server.control?"),
            ("[[listener]]\nadress = 1", 2, "there is no key listener.adress: did you mean listener.address?"),
            ("[server]\nlevel = 1", 2, "there is no key server.level: did you mean level in [deflate]?"),
            ("[server]\nhistory_size = 1", 2, "did you mean history_size in [namespaces.NAME]?"),
            ("[namespaces.chat]\nhistory_sise = 1", 2, "did you mean namespaces.chat.history_size?"),
            ("[keepalive]\n", 1, "there is no key keepalive: did you mean keep_alive?"),
            ("[namespace.chat]\n", 1, "there is no key namespace: did you mean namespaces?"),
            ("control = \"127.0.0.1:1\"\n", 1, "there is no key control: did you mean control in [server]?"),
            ("server.control.x = 1", 1, "server.control = control: must be"),
        ];
        for (file, line, text) in rows {
            let problems = check(file);
            assert_eq!(problems.len(), 1, "{file}: {problems:?}");
            assert_eq!(problems[0].line, Some(line), "{file}: {problems:?}");
            assert!(problems[0].text.contains(text), "{file}: {problems:?}");
        }
    }

    #[test]
    fn problems_are_told_from_top_to_bottom() {
        let file = "[server]\nshards = true\necho = 1\n[api]\nkey = 5\n[deflate]\nnonsense = 1\n";
        let lines: Vec<_> = check(file).into_iter().map(|problem| problem.line.unwrap()).collect();
        assert_eq!(lines, [2, 3, 5, 7]);
    }

    #[test]
    fn long_values_are_cut_short() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"é".repeat(41)), format!("{}…", "é".repeat(40)));
        assert_eq!(shorten("\"\"\"first\nsecond\"\"\""), "\"\"\"first");
    }
}
