//! The configuration file.

use ringfeed::config::parse;

/// Any text as a configuration file: errors are reported by line, and a server can be started with a file without
/// errors.
pub(crate) fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match parse(text) {
        Ok(settings) => {
            let config = settings.server_config();
            assert!(config.message_bytes_max >= 125, "control frames would not fit");
            let _ = settings.topic_namespaces();
        }
        Err(problems) => assert!(!problems.is_empty(), "it was rejected without a reason"),
    }
}
