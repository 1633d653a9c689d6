//! What `ringfeed test` prints: each step as it happens, and the findings at the end; or all of it as JSON.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::session::Session;
use crate::client::{Step, printable};
use crate::import::{Drift, MessageType, json_schema};

/// A report under way.
pub(super) struct Report {
    is_json: bool,
    url: String,
    steps: Vec<Value>,
    last: Instant,
}

impl Report {
    pub(super) fn new(is_json: bool) -> Report {
        Report { is_json, url: String::new(), steps: Vec::new(), last: Instant::now() }
    }

    /// The connection begins.
    pub(super) fn begin(&mut self, url: &str) {
        self.url = url.to_owned();
        self.last = Instant::now();
        self.print(url);
    }

    /// A step is done.
    pub(super) fn step(&mut self, step: &Step) {
        match step {
            Step::Resolved(address) => self.add("DNS", &address.ip().to_string()),
            Step::Connected => self.add("TCP", ""),
            Step::Tunnelled => self.add("proxy", "a tunnel"),
            Step::Secured { version, .. } => self.add("TLS", version),
            Step::Upgraded => self.add("upgrade", ""),
        }
    }

    /// The WebSocket is open.
    pub(super) fn opened(&mut self, subprotocol: Option<&str>, is_compressed: bool) {
        let compression = if is_compressed { "compressed" } else { "not compressed" };
        match subprotocol {
            Some(name) => self.print(&format!("  subprotocol {name}, {compression}")),
            None => self.print(&format!("  no subprotocol, {compression}")),
        }
    }

    pub(super) fn first_message(&mut self) {
        self.add("message", "the first");
    }

    fn add(&mut self, name: &str, what: &str) {
        let ms = self.last.elapsed().as_secs_f64() * 1000.0;
        self.last = Instant::now();
        self.steps.push(json!({"step": name, "ms": (ms * 1000.0).round() / 1000.0, "detail": what}));
        self.print(&format!("  {name:<8} {ms:>9.3} ms  {what}"));
    }

    fn print(&self, line: &str) {
        if !self.is_json {
            println!("{}", printable(line.as_bytes()));
        }
    }

    /// Everything is known.
    pub(super) fn end(&self, session: &Session, types: &[MessageType], drift: Option<&Drift>) {
        if self.is_json {
            return println!("{}", self.as_json(session, types, drift));
        }
        session.warnings.iter().for_each(|warning| self.print(&format!("warning: {warning}")));
        if let Some(ended) = &session.ended {
            self.print(&format!("ended: {ended}"));
        }
        self.print(&format!("protocol: {} ({})", session.protocol, session.because));
        if let Some(advice) = session.protocol.advice() {
            self.print(&format!("  {advice}"));
        }
        let Session { messages, bytes, pings, other_text, other_binary, .. } = session;
        self.print(&format!("messages: {messages}, {bytes} bytes, {pings} pings"));
        if *other_text + *other_binary > 0 {
            self.print(&format!("  without JSON: {other_text} text, {other_binary} binary"));
        }
        if session.samples.left_out > 0 {
            self.print(&format!("  {} were only counted: too many for types", session.samples.left_out));
        }
        types.iter().for_each(|found| self.print(&format!("  {:<24} {:>8}", found.name, found.count)));
        if let Some(drift) = drift {
            drift.broken.iter().for_each(|line| self.print(&format!("drift: {line}")));
            drift.new.iter().for_each(|line| self.print(&format!("new: {line}")));
            drift.unseen.iter().for_each(|name| self.print(&format!("not seen: {name}")));
            if drift.broken.is_empty() {
                self.print("all messages fit the document");
            }
        }
    }

    fn as_json(&self, session: &Session, types: &[MessageType], drift: Option<&Drift>) -> Value {
        let counts = types.iter().map(|found| (found.name.clone(), found.count.into()));
        let mut all = json!({
            "url": self.url,
            "steps": self.steps,
            "protocol": session.protocol.to_string(),
            "because": session.because,
            "advice": session.protocol.advice(),
            "messages": session.messages,
            "bytes": session.bytes,
            "pings": session.pings,
            "other_text": session.other_text,
            "other_binary": session.other_binary,
            "left_out": session.samples.left_out,
            "ended": session.ended,
            "warnings": session.warnings,
            "types": counts.collect::<Map<String, Value>>(),
            "schema": json_schema("Messages", types),
        });
        if let Some(Drift { broken, new, unseen }) = drift {
            all["drift"] = json!({"broken": broken, "new": new, "unseen": unseen});
        }
        all
    }
}
