//! The odd traits of a service, each with the reason.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Step;
use crate::import::mask_url;
use crate::tls::expires_at;

/// Seconds of a day.
const DAY_S: u64 = 86_400;

/// Days before a certificate's end from which it should be renewed.
const DAYS_LEFT_MIN: u64 = 14;

/// Time after which a server should have pinged.
const PING_WITHIN: Duration = Duration::from_secs(60);

/// Bytes from which on compression is worth a word.
const BYTES_COMPRESS_MIN: u64 = 10_000;

/// The traits of a service.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) url: String,
    pub(super) is_insecure: bool,
    pub(super) duration: Duration,
    pub(super) pings: u64,
    pub(super) bytes: u64,
    pub(super) is_compressed: bool,
    /// The service violated RFC 6455.
    pub(super) is_server_at_fault: bool,
    /// The code with which the service closed.
    pub(super) close_code: Option<u16>,
    /// When the certificate expires, in seconds of Unix time.
    pub(super) expires_at: Option<u64>,
    pub(super) is_old_tls: bool,
}

impl Facts {
    pub(super) fn on_step(&mut self, step: &Step) {
        if let Step::Secured { version, certificate } = step {
            self.is_old_tls = version != "TLSv1_3";
            self.expires_at = expires_at(certificate);
        }
    }
}

/// The warnings.
pub(super) fn warnings(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let (scheme, rest) = facts.url.split_once("://").unwrap_or(("", &facts.url));
    let host = rest.split(['/', '?']).next().unwrap_or_default();
    if scheme.eq_ignore_ascii_case("ws") && !is_loopback(host) {
        found.push(
            "ws:// is not encrypted: anybody on the way can read and change messages, and pages on https can't connect; \
             use wss://"
                .to_owned(),
        );
    }
    if mask_url(&facts.url) != facts.url {
        found.push(
            "the URL has a secret in it, and URLs are written to logs: use a header field or a first message"
                .to_owned(),
        );
    }
    if facts.is_insecure {
        found.push("the certificate was not checked (--insecure)".to_owned());
    }
    if let Some(expires_at) = facts.expires_at {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match expires_at.checked_sub(now_s).map(|left_s| left_s / DAY_S) {
            None => found.push("the certificate has expired".to_owned()),
            Some(days) if days < DAYS_LEFT_MIN => found.push(format!("the certificate expires in {days} days")),
            Some(_) => {}
        }
    }
    if facts.is_old_tls {
        found.push("the service does not speak TLS 1.3".to_owned());
    }
    if facts.is_server_at_fault {
        found.push("the service is at fault: it violated RFC 6455, see how it ended".to_owned());
    }
    match facts.close_code {
        Some(1002 | 1007) => found.push(
            "the service says that we violated the protocol or sent invalid text: check what --send sends".to_owned(),
        ),
        Some(1009) => found.push("the service says that a message of --send is too large".to_owned()),
        _ => {}
    }
    if facts.pings == 0 && facts.duration >= PING_WITHIN {
        found.push(format!(
            "no ping within {} s: proxies on the way end connections that are idle, and neither side notices a cut",
            facts.duration.as_secs()
        ));
    }
    if !facts.is_compressed && facts.bytes >= BYTES_COMPRESS_MIN {
        found.push("the service does not compress (permessage-deflate was offered)".to_owned());
    }
    found
}

fn is_loopback(host: &str) -> bool {
    let without_port = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let is_loopback = |address: IpAddr| address.is_loopback();
    without_port.eq_ignore_ascii_case("localhost") || without_port.parse().is_ok_and(is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(facts: &Facts) -> String {
        warnings(facts).join("\n")
    }

    #[test]
    fn warnings_have_reasons() {
        let quiet = Facts { url: "ws://127.0.0.1:1/a".to_owned(), ..Facts::default() };
        assert_eq!(found(&quiet), "");
        let of = |url: &str| found(&Facts { url: url.to_owned(), ..Facts::default() });
        assert!(of("ws://example.org/").contains("use wss://"));
        assert_eq!(of("ws://[::1]:80/"), "");
        assert!(of("wss://example.org/?token=a").contains("a secret in it"));
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let ends = |expires_at| found(&Facts { expires_at: Some(expires_at), ..quiet.clone() });
        assert!(ends(now_s + 3 * DAY_S + 60).contains("in 3 days"));
        assert!(ends(now_s - 1).contains("has expired"));
        assert_eq!(ends(now_s + 30 * DAY_S), "");
        assert!(found(&Facts { duration: PING_WITHIN, ..quiet.clone() }).contains("no ping within 60 s"));
        assert!(found(&Facts { bytes: 20_000, ..quiet.clone() }).contains("does not compress"));
        assert!(found(&Facts { close_code: Some(1002), ..quiet.clone() }).contains("we violated"));
        assert!(found(&Facts { is_server_at_fault: true, ..quiet }).contains("the service is at fault"));
    }
}
