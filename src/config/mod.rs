//! The configuration file: one TOML file, all of whose keys have defaults.
//!
//! `settings` are what a file comes to, `keys` is the list of all keys with what each takes and does. A file is held
//! against the list first (`check`), so that whatever is wrong with it is told by line and key, all at once;
//! after that nothing can be wrong with its structure. `preflight` checks what several keys, and the files that they
//! name, come to; `serve` and `config check` both run it. `example` writes the list out as a file. Nothing here starts
//! anything, and flags of the command line know how to change the settings, not the other way round.

mod changes;
mod check;
mod doc;
mod error;
mod example;
mod keys;
mod preflight;
mod settings;
mod show;

use std::fs;
use std::path::Path;

pub use changes::{apply, shown};
pub use doc::doc;
pub use error::{ConfigError, Problem};
pub use example::example;
pub use preflight::{Preflight, open_namespaces, preflight};
pub use settings::{
    ApiSettings, CentrifugeSettings, DeflateSettings, LogFormat, LogLevel, QueueKind, ServerSettings, Settings,
    TokenSettings,
};
pub use show::show;

/// Reads and checks the file at `path`.
///
/// # Errors
/// [`ConfigError`], with all that is wrong with the file.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, &error))?;
    parse(&text).map_err(|problems| ConfigError::new(path, problems))
}

/// Reads the text of a file.
///
/// # Errors
/// All that is wrong with it, by line.
pub fn parse(text: &str) -> Result<Settings, Vec<Problem>> {
    let problems = check::check(text);
    if !problems.is_empty() {
        return Err(problems);
    }
    let of_toml = |error| vec![Problem::of_toml(text, &error)];
    let mut settings: Settings = toml::from_str(text).map_err(of_toml)?;
    if settings.tokens.has_keys() {
        settings.require_tokens(&text.parse().map_err(of_toml)?);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ListenerConfig;
    use crate::topics::{Namespace, SlowConsumer};

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Settings::default());
        assert_eq!(parse("[server]\n[deflate]\n").unwrap(), Settings::default());
    }

    #[test]
    fn what_a_file_says_is_taken_and_the_rest_is_left() {
        let text = "[[listener]]\naddress = \"[::1]:9000\"\n[[listener]]\naddress = \"unix:feed\"\nroutes = [\"/feed/\"]\ntls = true\n\
                    [server]\nallowed_origins = [\"https://*.example.com\"]\n\
                    [namespaces.chat]\nhistory_size = 10\nslow_consumer = \"drop-oldest\"\n\
                    [namespaces.default]\npresence = true\n";
        let settings = parse(text).unwrap();
        let address = |text: &str| ListenerConfig::new(text.parse().unwrap());
        let feed = ListenerConfig { tls: true, routes: vec!["/feed/".to_owned()], ..address("unix:feed") };
        assert_eq!(settings.listener, [address("[::1]:9000"), feed]);
        assert_eq!(settings.server.allowed_origins, ["https://*.example.com"]);
        assert_eq!(settings.server.control, Settings::default().server.control);
        let chat = Namespace { history_size: 10, slow_consumer: SlowConsumer::DropOldest, ..Namespace::default() };
        assert_eq!(settings.namespaces["chat"], chat);
        assert_eq!(settings.namespaces["default"], Namespace { presence: true, ..Namespace::default() });
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = load(Path::new("nowhere/ringfeed.toml")).unwrap_err().to_string();
        assert!(error.starts_with("nowhere/ringfeed.toml: cannot be read: "), "{error}");
    }

    #[test]
    fn every_line_of_an_error_names_the_file() {
        let problems = parse("[server]\ncontrol = 1\nshards = true\n").unwrap_err();
        let text = ConfigError::new(Path::new("a.toml"), problems).to_string();
        let lines: Vec<&str> = text.lines().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(lines, ["a.toml:2", "a.toml:3"]);
    }
}
