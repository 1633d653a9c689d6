//! Who may import whom.
//!
//! A module is a directory or file right below `src/`. Within a module anybody may import anybody.

use crate::code::code_only;

/// The floors of the house from the ground up: each module, and the modules it may import. `limits` and `log`
/// are open to all.
const MODULES: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("log", &[]),
    ("counts", &[]),
    ("version", &[]),
    ("simd", &[]),
    ("proto", &["simd"]),
    ("buf", &[]),
    ("tls", &[]),
    ("ring", &["buf"]),
    ("conn", &["proto", "buf"]),
    ("topics", &["buf"]),
    ("import", &["proto"]),
    ("cluster", &["topics"]),
    ("gateway", &["counts", "proto", "buf", "conn", "topics"]),
    ("server", &["counts", "simd", "proto", "buf", "tls", "ring", "conn", "topics", "gateway"]),
    ("backend", &["topics", "gateway"]),
    ("relay", &["proto", "gateway", "server"]),
    ("bridge", &["proto", "topics", "cluster", "gateway", "server"]),
    (
        "control",
        &["counts", "version", "proto", "buf", "tls", "topics", "cluster", "gateway", "server", "backend", "bridge"],
    ),
    ("client", &["proto", "buf"]),
    ("testing", &["proto", "ring", "gateway", "server"]),
    ("config", &["proto", "tls", "conn", "topics", "gateway", "server", "backend", "bridge", "control"]),
    (
        "cli",
        &[
            "version", "simd", "proto", "buf", "tls", "ring", "conn", "topics", "gateway", "server", "backend",
            "relay", "bridge", "control", "client", "config", "import",
        ],
    ),
];

/// What the load generator may use of the library: the floors a server's behaviour cannot hide in.
const LOAD_GENERATOR: [&str; 5] = ["limits", "simd", "proto", "buf", "ring"];

/// Findings for imports of the file at `path` that do not go down.
pub(crate) fn upward_imports(path: &str, text: &str) -> Vec<String> {
    let module = module_of(path);
    if module == "lib" || module == "main" {
        return Vec::new();
    }
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
        return vec![format!("module {module} has no floor yet: add it to the table in tests/tidy/layers.rs")];
    };
    let code = code_only(text);
    let mut findings = climbing(path, &code);
    for imported in roots(&code, "crate") {
        if imported != module
            && !["limits", "log"].contains(&imported.as_str())
            && !allowed.contains(&imported.as_str())
        {
            findings.push(format!("{module} must not import {imported}, only {allowed:?}, limits and log"));
        }
    }
    findings
}

/// Findings for what the load generator imports of the library beyond [`LOAD_GENERATOR`].
pub(crate) fn foreign_imports(text: &str) -> Vec<String> {
    let imported = roots(&code_only(text), "ringfeed").into_iter();
    let foreign = imported.filter(|name| !LOAD_GENERATOR.contains(&name.as_str()));
    foreign.map(|name| format!("the load generator must not import {name}, only {LOAD_GENERATOR:?}")).collect()
}

/// Findings for paths of `super` that climb to the crate's root, where what they import has no name in the code.
fn climbing(path: &str, code: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let mut open_braces = Vec::new();
    for (index, character) in code.char_indices() {
        let before = &code[..index];
        match character {
            '{' => open_braces.push(opens_module(before)),
            '}' => _ = open_braces.pop(),
            's' if !before.ends_with("super::") => {
                let inner_modules = open_braces.iter().filter(|is_module| **is_module).count();
                if climbed_floors(&code[index..]) >= file_depth(path) + inner_modules {
                    let line = before.matches('\n').count() + 1;
                    findings.push(format!("line {line}: name the module from the root, with crate::"));
                }
            }
            _ => {}
        }
    }
    findings
}

/// How many modules a file's items are in: one for `src/conn/mod.rs`, two for `src/conn/recv.rs`.
fn file_depth(path: &str) -> usize {
    let parts = path.matches('/').count();
    if path.ends_with("/mod.rs") { parts - 1 } else { parts }
}

/// How many times `super::` stands at the front of `code`.
fn climbed_floors(code: &str) -> usize {
    (code.len() - code.trim_start_matches("super::").len()) / "super::".len()
}

/// Whether the brace behind `before` opens a module.
fn opens_module(before: &str) -> bool {
    let mut words = before.split_whitespace().rev();
    words.next().is_some() && words.next() == Some("mod")
}

fn module_of(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
}

/// The first names after `root::` wherever it stands in `code`: of `crate::a::b` it is `a`, of
/// `crate::{a::b, c}` they are `a` and `c`.
fn roots(code: &str, root: &str) -> Vec<String> {
    let path_start = format!("{root}::");
    let mut names = Vec::new();
    for (index, _) in code.match_indices(&path_start) {
        let is_longer_word = code[..index].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let rest = &code[index + path_start.len()..];
        if is_longer_word {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_heads(group)),
            None => names.extend(head(rest)),
        }
    }
    names
}

/// The first name of each path in a group, of which `group` is what follows the opening brace.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                heads.extend(head(&group[start..index]));
                break;
            }
            ',' if depth == 0 => {
                heads.extend(head(&group[start..index]));
                start = index + 1;
            }
            _ => {}
        }
    }
    heads
}

fn head(path: &str) -> Option<String> {
    let path = path.trim_start();
    let end = path.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upward_import_is_found_however_it_is_written() {
        let upward = [
            "use crate::server::Shard;",
            "use crate::{proto::Frame, server::Shard};",
            "use crate::{\n    proto::{Frame, Opcode},\n    server,\n};",
            "fn f() -> crate::server::Shard { todo() }",
            "#[cfg(test)]\nmod tests {\n    use crate::server;\n}",
            "pub(crate) use crate::server as s;",
        ];
        for text in upward {
            let finding = r#"conn must not import server, only ["proto", "buf"], limits and log"#;
            assert_eq!(upward_imports("src/conn/recv.rs", text), [finding], "{text}");
        }
    }

    #[test]
    fn imports_that_go_down_or_stay_are_fine() {
        let text = "//! See [`crate::server`].\nuse crate::{buf, limits::A, proto};\nuse crate::conn::B;\n\
                    use super::C;\nuse mycrate::server;\nmod tests {\n    use super::*;\n}\n";
        assert_eq!(upward_imports("src/conn/recv.rs", text), [""; 0]);
        assert_eq!(upward_imports("src/lib.rs", "pub use crate::server::Server;"), [""; 0]);
    }

    #[test]
    fn siblings_do_not_know_each_other() {
        assert_eq!(upward_imports("src/topics/table.rs", "use crate::conn::Conn;").len(), 1);
        assert_eq!(upward_imports("src/conn/mod.rs", "use crate::topics::Table;").len(), 1);
    }

    #[test]
    fn climbing_out_of_a_module_is_found() {
        let rows = [
            ("src/conn/recv.rs", "use super::super::server::Shard;"),
            ("src/conn/mod.rs", "use super::server::Shard;"),
            ("src/limits.rs", "fn f() { super::server::start() }"),
            ("src/limits.rs", "mod tests {\n use super::super::server::Shard;\n}"),
            ("src/simd/mask/x86.rs", "use super::super::super::server;"),
        ];
        for (path, text) in rows {
            let findings = upward_imports(path, text);
            assert_eq!(findings.len(), 1, "{path}: {text}");
            assert!(findings[0].ends_with("name the module from the root, with crate::"), "{findings:?}");
        }
    }

    #[test]
    fn climbing_within_a_module_is_fine() {
        let rows = [
            ("src/conn/recv.rs", "use super::Outbox;\nmod tests {\n use super::super::Outbox;\n}"),
            ("src/conn/mod.rs", "mod tests {\n use super::*;\n}"),
            ("src/limits.rs", "fn f() {}\nmod tests {\n use super::*;\n}"),
            ("src/simd/mask/x86.rs", "use super::super::Kernel;"),
        ];
        for (path, text) in rows {
            assert_eq!(upward_imports(path, text), [""; 0], "{path}: {text}");
        }
    }

    #[test]
    fn a_module_without_a_floor_is_found() {
        let finding = ["module attic has no floor yet: add it to the table in tests/tidy/layers.rs"];
        assert_eq!(upward_imports("src/attic/mod.rs", ""), finding);
    }

    #[test]
    fn the_table_itself_goes_down() {
        for (floor, (module, allowed)) in MODULES.iter().enumerate() {
            for name in *allowed {
                let below = MODULES[..floor].iter().any(|(lower, _)| lower == name);
                assert!(below, "{module} imports {name}, which is not below it");
            }
        }
    }

    #[test]
    fn the_load_generator_may_not_use_the_server() {
        let finding = foreign_imports("use ringfeed::{proto, server::Shard};");
        assert_eq!(finding.len(), 1, "{finding:?}");
        assert_eq!(foreign_imports("use ringfeed::proto::Decoder;"), [""; 0]);
    }
}
