//! Rules about single source files, and the view of a Rust file that has only its code left.

/// The only modules that may hold `unsafe` code.
const UNSAFE_HOMES: [&str; 3] = ["src/simd/", "src/buf/", "src/ring/"];

/// Columns of a line at most.
const COLUMNS_MAX: usize = 120;

/// Findings for `unsafe` outside the modules it may live in.
pub(crate) fn misplaced_unsafe(path: &str, text: &str) -> Vec<String> {
    if UNSAFE_HOMES.iter().any(|home| path.starts_with(home)) {
        return Vec::new();
    }
    let code = code_only(text);
    let lines = code.lines().enumerate().filter(|(_, line)| {
        line.split(|character: char| !character.is_alphanumeric() && character != '_')
            .any(|word| word == "unsafe" || (word == "unsafe_code" && line.contains("allow")))
    });
    lines.map(|(index, _)| format!("line {}: unsafe outside {UNSAFE_HOMES:?}", index + 1)).collect()
}

/// A finding when the file does not start with its description.
pub(crate) fn missing_header(text: &str) -> Vec<String> {
    if text.starts_with("//! ") { Vec::new() } else { vec!["does not start with a //! description".to_owned()] }
}

/// Findings for marks of unfinished work.
pub(crate) fn leftovers(text: &str) -> Vec<String> {
    // Written in two halves, so that this file is not a finding itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("db", "g!("), concat!("unimple", "mented!(")];
    let found = text.lines().enumerate().flat_map(|(index, line)| {
        let in_line = marks.iter().filter(move |mark| line.contains(**mark));
        in_line.map(move |mark| format!("line {}: {mark}", index + 1))
    });
    found.collect()
}

/// Findings for lines wider than [`COLUMNS_MAX`]. In Rust, what cannot be broken may be wider: a row of a table in a
/// comment, and the content of a literal.
pub(crate) fn long_lines(is_rust: bool, text: &str) -> Vec<String> {
    let breakable = if is_rust { strip(text, true) } else { text.to_owned() };
    let is_table_row = |line: &str| line.starts_with("//! |") && line.ends_with('|');
    let is_long = |line: &str| line.chars().count() > COLUMNS_MAX && !is_table_row(line);
    let lines = breakable.lines().enumerate().filter(|(_, line)| is_long(line));
    lines.map(|(index, line)| format!("line {}: {} columns", index + 1, line.chars().count())).collect()
}

/// The Rust source `text` with comments and literals taken out; lines keep their numbers.
pub(crate) fn code_only(text: &str) -> String {
    strip(text, false)
}

fn strip(text: &str, keeps_comments: bool) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let comment = comment(rest);
        let stripped = if comment > 0 { comment } else { literal(rest, &code) };
        let length = stripped.max(first.len_utf8());
        if stripped == 0 || comment > 0 && keeps_comments {
            code.push_str(&rest[..length]);
        } else {
            code.extend(rest[..length].chars().filter(|character| *character == '\n'));
        }
        rest = &rest[length..];
    }
    code
}

/// Bytes of the comment at the front of `rest`; 0 when there is none.
fn comment(rest: &str) -> usize {
    if rest.starts_with("//") {
        rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        block_comment(rest)
    } else {
        0
    }
}

/// Bytes of the literal at the front of `rest`, which follows `code`; 0 when there is none.
fn literal(rest: &str, code: &str) -> usize {
    match rest.as_bytes()[0] {
        b'"' => string(rest),
        b'r' if !ends_in_word(code) => raw_string(rest),
        b'\'' => character(rest),
        _ => 0,
    }
}

fn ends_in_word(code: &str) -> bool {
    // A raw byte string's `b` is no part of a word before it.
    let before = code.strip_suffix('b').unwrap_or(code);
    before.ends_with(|character: char| character.is_alphanumeric() || character == '_')
}

/// Bytes of the comment, with those nested in it, at the front of `rest`.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0;
    for (index, _) in rest.char_indices() {
        if rest[index..].starts_with("/*") {
            depth += 1;
        } else if rest[..index + 1].ends_with("*/") {
            depth -= 1;
            if depth == 0 {
                return index + 1;
            }
        }
    }
    rest.len()
}

/// Bytes of the string literal at the front of `rest`.
fn string(rest: &str) -> usize {
    let mut is_escaped = false;
    for (index, character) in rest.char_indices().skip(1) {
        match character {
            '"' if !is_escaped => return index + 1,
            '\\' => is_escaped = !is_escaped,
            _ => is_escaped = false,
        }
    }
    rest.len()
}

/// Bytes of the raw string literal at the front of `rest`; 0 when there is none.
fn raw_string(rest: &str) -> usize {
    let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
    if !rest[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let content = 2 + hashes;
    rest[content..].find(&end).map_or(rest.len(), |index| content + index + end.len())
}

/// Bytes of the character literal at the front of `rest`; 0 when the quote starts a lifetime.
fn character(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            let end = rest[escaped + 1..].find('\'').map_or(rest.len(), |index| escaped + 1 + index);
            (end + 1).min(rest.len())
        }
        (Some(_), Some((index, '\''))) => index + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_only_keeps_code() {
        let rows = [
            ("let a = 1; // unsafe", "let a = 1; "),
            ("a /* b /* c */ d */ e", "a  e"),
            ("/*\n*/ a", "\n a"),
            (r#"f("a \" b", c)"#, "f(, c)"),
            (r###"f(r#"a " b"#, c)"###, "f(, c)"),
            (r##"f(br"a\", c)"##, "f(b, c)"),
            ("for r in x", "for r in x"),
            ("fn f<'a>(x: &'a str) -> char { 'x' }", "fn f<'a>(x: &'a str) -> char {  }"),
            (r"['\'', '\n', '\u{7f}', '/']", "[, , , ]"),
        ];
        for (text, code) in rows {
            assert_eq!(code_only(text), code, "{text}");
        }
    }

    #[test]
    fn unsafe_is_found_outside_its_homes_only() {
        let text = "fn f() {\n    unsafe { g() }\n}\n";
        let finding = ["line 2: unsafe outside [\"src/simd/\", \"src/buf/\", \"src/ring/\"]"];
        assert_eq!(misplaced_unsafe("src/conn/mod.rs", text), finding);
        assert_eq!(misplaced_unsafe("src/buffer.rs", "#![allow(unsafe_code)]").len(), 1);
        assert_eq!(misplaced_unsafe("src/ring/mod.rs", text), [""; 0]);
        assert_eq!(misplaced_unsafe("src/lib.rs", "//! unsafe\n#![deny(unsafe_code)]\n"), [""; 0]);
    }

    #[test]
    fn a_file_without_a_header_is_found() {
        assert_eq!(missing_header("//! What it is.\n"), [""; 0]);
        assert_eq!(missing_header("// What it is.\nuse a;\n").len(), 1);
        assert_eq!(missing_header("").len(), 1);
    }

    #[test]
    fn leftovers_are_found() {
        let text = format!("a\n// {}{} later\nlet x = {}{}y);\n", "TO", "DO", "db", "g!(");
        let findings = [format!("line 2: {}", concat!("TO", "DO")), format!("line 3: {}", concat!("db", "g!("))];
        assert_eq!(leftovers(&text), findings);
        assert_eq!(leftovers("all done\n"), [""; 0]);
    }

    #[test]
    fn long_lines_are_found() {
        let (fits, wide) = ("é".repeat(COLUMNS_MAX), "é".repeat(COLUMNS_MAX + 1));
        assert_eq!(long_lines(false, &format!("{fits}\n{wide}\n")), ["line 2: 121 columns"]);
        assert_eq!(long_lines(false, &format!("f(\"{wide}\")")).len(), 1);
        for long in [&wide, &format!("// \"{wide}\""), &format!("//! {wide} |"), &format!("f(\"\", {wide})")] {
            assert_eq!(long_lines(true, long).len(), 1, "{long}");
        }
        for unbreakable in [&format!("f(\"{wide}\")"), &format!("f(\"\n{wide}\n\")"), &format!("//! | {wide} |")] {
            assert_eq!(long_lines(true, unbreakable), [""; 0], "{unbreakable}");
        }
    }
}
