//! The house rules a compiler does not check: who may import whom, where `unsafe` may live, and that every page
//! is tidy.
//!
//! Each rule is a function from a file's path and text to findings, tested on made-up files in its own
//! module; here they meet the real ones.

mod code;
mod files;
mod layers;
mod pages;
mod prose;

use std::process::Command;

use files::{File, repository_files};

/// Runs `rule` over the files that `concerns` picks, and fails with all findings at once.
fn check(concerns: impl Fn(&File) -> bool, rule: impl Fn(&File) -> Vec<String>) {
    let files: Vec<File> = repository_files().into_iter().filter(concerns).collect();
    assert!(!files.is_empty(), "the rule looks at no file at all");
    let findings: Vec<String> = files
        .iter()
        .flat_map(|file| rule(file).into_iter().map(move |finding| format!("{}: {finding}", file.path)))
        .collect();
    assert!(findings.is_empty(), "{} findings\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn imports_go_down_only() {
    check(|file| file.is_below("src/"), |file| layers::upward_imports(&file.path, &file.text));
}

#[test]
fn the_load_generator_uses_the_lower_floors() {
    check(|file| file.is_below("loadgen/src/"), |file| layers::foreign_imports(&file.text));
}

#[test]
fn unsafe_stays_where_it_belongs() {
    check(|file| file.has_extension("rs"), |file| code::misplaced_unsafe(&file.path, &file.text));
}

#[test]
fn every_source_file_says_what_it_is() {
    check(|file| file.has_extension("rs"), |file| code::missing_header(&file.text));
}

#[test]
fn nothing_is_left_for_later() {
    check(File::is_code, |file| code::leftovers(&file.text));
}

/// Habits that older files still have. The number only falls: lower it with each file that is rewritten.
const HABITS_LEFT: usize = 30;

#[test]
fn the_english_is_plain() {
    let is_page = |file: &File| file.has_extension("md") && !file.path.contains("/results/");
    // CONTRIBUTING.md quotes the habits.
    let pages = |file: &File| is_page(file) && !file.path.contains('/') && file.path != "CONTRIBUTING.md";
    check(pages, |file| prose::habits(&file.path, &file.text));
    let is_source = |file: &File| ["rs", "py", "sh", "js"].iter().any(|extension| file.has_extension(extension));
    let sources = repository_files().into_iter().filter(|file| is_source(file) || is_page(file));
    let found = sources.flat_map(|file| {
        let habits = prose::habits(&file.path, &file.text);
        habits.into_iter().map(move |habit| format!("{}: {habit}", file.path))
    });
    let found: Vec<String> = found.collect();
    assert!(found.len() <= HABITS_LEFT, "{} habits, at most {HABITS_LEFT}\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_places_that_contributing_names_exist() {
    check(|file| file.path == "CONTRIBUTING.md", |file| pages::missing_places(&file.text, files::exists));
}

#[test]
fn lines_fit_the_page() {
    check(File::is_code, |file| code::long_lines(file.has_extension("rs"), &file.text));
}

#[test]
fn links_between_pages_lead_somewhere() {
    check(|file| file.has_extension("md"), |file| pages::dead_links(&file.path, &file.text, files::exists));
}

#[test]
fn the_map_names_every_module() {
    check(|file| file.path == "src/lib.rs", |file| pages::unnamed_modules(&file.text));
}

#[test]
fn lock_files_name_no_host() {
    check(|file| file.path.ends_with("package-lock.json"), |file| pages::named_hosts(&file.text));
}

/// A bug that can't be planted any more is no evidence for the simulator.
#[test]
fn every_planted_bug_fits_the_source() {
    let root = env!("CARGO_MANIFEST_DIR");
    let check = Command::new("python3").args(["tests/sim/bugs.py", "--check"]).current_dir(root).output();
    let check = check.expect("python3 runs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
}
