//! Rules about documents: links, the map of the crate, lock files.

use std::path::{Component, Path};

/// Findings for relative links in the Markdown `text` at `path` that lead nowhere. `exists` tells whether there
/// is something at a path from the repository's root.
pub(crate) fn dead_links(path: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let directory = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for target in link_targets(text) {
        let file = target.split('#').next().unwrap_or_default();
        if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
            continue;
        }
        match normal(&directory.join(file)) {
            Some(file) if exists(&file) => {}
            _ => findings.push(format!("the link to {target} leads nowhere")),
        }
    }
    findings
}

/// Findings for paths in backticks, in the rows of tables, that lead nowhere.
pub(crate) fn missing_places(text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let places = quoted.filter(|place| place.starts_with("src/") || place.starts_with("tests/"));
    places.filter(|place| !exists(place)).map(|place| format!("there is no {place}")).collect()
}

/// Findings for public modules that no row of the module table names.
pub(crate) fn unnamed_modules(text: &str) -> Vec<String> {
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("//! |")).collect();
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let unnamed = modules.filter(|module| !rows.iter().any(|row| row.contains(&format!("`{module}`"))));
    unnamed.map(|module| format!("no row of the module table names `{module}`")).collect()
}

/// Findings for lines of a package lock that say where packages came from: each machine has its own source.
pub(crate) fn named_hosts(text: &str) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| line.contains("\"resolved\""));
    lines.map(|(index, _)| format!("line {}: install with omit-lockfile-registry-resolved", index + 1)).collect()
}

/// The targets of inline links outside code blocks.
fn link_targets(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut targets = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let links = line.split("](").skip(1);
            targets.extend(links.filter_map(|rest| rest.split([')', ' ']).next()));
        }
    }
    targets
}

/// `path` without `.` and `..`; `None` when it leaves the repository.
fn normal(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::ParentDir => _ = parts.pop()?,
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_are_found() {
        let exists = |path: &str| ["docs/a.md", "src/lib.rs", "docs"].contains(&path);
        let text = "[a](a.md#part) [lib](../src/lib.rs) [web](https://example.org/x) [here](#part) [d](.)\n\
                    [gone](b.md) and [out](../../etc/passwd \"title\")\n```\n[code](c.md)\n```\n";
        let findings = ["the link to b.md leads nowhere", "the link to ../../etc/passwd leads nowhere"];
        assert_eq!(dead_links("docs/page.md", text, exists), findings);
    }

    #[test]
    fn a_place_that_is_not_there_is_found() {
        let text = "| a flag | `src/a.rs` (the key), `src/b.rs` |\n`src/c.rs` in a sentence, `cargo test` in none\n";
        assert_eq!(missing_places(text, |path| path == "src/a.rs"), ["there is no src/b.rs"]);
    }

    #[test]
    fn a_module_missing_from_the_table_is_found() {
        let text = "//! | [`proto`] | frames |\n//! About `simd`.\npub mod proto;\npub mod simd;\nmod private;\n";
        assert_eq!(unnamed_modules(text), ["no row of the module table names `simd`"]);
    }

    #[test]
    fn a_named_host_is_found() {
        let finding = ["line 2: install with omit-lockfile-registry-resolved"];
        assert_eq!(named_hosts("{\n  \"resolved\": \"https://example.org/ws.tgz\"\n}"), finding);
        assert_eq!(named_hosts("{ \"version\": \"8.23.0\" }"), [""; 0]);
    }
}
