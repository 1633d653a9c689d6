//! The list of keys as a page.

use super::example::{default, defaults};
use super::keys::{ANY_NAME, SECTIONS};
use super::settings::DEFAULT_NAMESPACE;

const HEAD: &str = "\
# Configuration

All keys of the configuration file, made by `ringfeed config doc`. `ringfeed config example` prints them as a file,
`ringfeed config check FILE` checks one, and `ringfeed config show` prints what a server would run with. Keys that are left
out have their defaults; flags and their environment variables (`ringfeed config env`) win over the file.
";

/// A page in Markdown with every key, what it does, what it takes, and its default.
pub fn doc() -> String {
    let defaults = defaults();
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        let shown: Vec<&str> = section.path.iter().map(|name| if *name == ANY_NAME { "NAME" } else { name }).collect();
        let path: Vec<&str> =
            section.path.iter().map(|name| if *name == ANY_NAME { DEFAULT_NAMESPACE } else { name }).collect();
        let brackets = if section.is_list { ("[[", "]]") } else { ("[", "]") };
        text.push_str(&format!("\n## `{}{}{}`\n\n{}\n", brackets.0, shown.join("."), brackets.1, section.about));
        for key in section.keys {
            let default = default(&defaults, &path, key.name);
            text.push_str(&format!("\n### {}\n\n{}\n\n", key.name, key.about));
            text.push_str(&format!("Takes {}. Default: `{default}`\n", key.takes));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_what_the_command_prints() {
        let page = std::fs::read_to_string("docs/configuration.md").expect("the page is there");
        assert!(page == doc(), "write it again: ringfeed config doc > docs/configuration.md");
    }
}
