//! A client with presence: subscribes and unsubscribes by Centrifugo's protocol, and checks the joins and leaves
//! of others.

use std::collections::HashMap;

use ringfeed::ring::sim::Rng;
use ringfeed::topics::SlowConsumer;
use serde_json::{Value, json};

use crate::model::Model;
use crate::namespaces::{topic_name, topic_number};

#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Commands sent.
    commands: u64,
    /// Whether the last push about a client was a join, by topic and client; since the last subscription began.
    is_present: HashMap<(usize, String), bool>,
    /// Topics of subscribe commands without a reply, by command.
    pending: HashMap<u64, usize>,
}

impl Guest {
    /// The first message after the handshake.
    pub(crate) fn greeting(&mut self) -> String {
        self.command(json!({"connect": {}}))
    }

    fn command(&mut self, mut command: Value) -> String {
        self.commands += 1;
        command["id"] = self.commands.into();
        command.to_string()
    }

    fn subscribe(&mut self, topic: usize, rng: &mut Rng) -> String {
        let mut request = json!({"channel": topic_name(topic), "join_leave": rng.chance(800)});
        if rng.chance(300) {
            // Requests recovery from an unknown position, which must fail.
            request["recover"] = true.into();
            request["epoch"] = "never".into();
            request["flag"] = 2.into();
        }
        self.pending.insert(self.commands + 1, topic);
        self.command(json!({"subscribe": request}))
    }

    fn unsubscribe(&mut self, topic: usize) -> String {
        self.command(json!({"unsubscribe": {"channel": topic_name(topic)}}))
    }

    /// The next message, with one or several commands.
    pub(crate) fn next_message(&mut self, topics: usize, rng: &mut Rng) -> String {
        let topic = rng.below(topics as u64) as usize;
        let mut commands = Vec::new();
        for _ in 0..rng.between(1, 3) {
            if rng.chance(600) {
                commands.push(self.subscribe(topic, rng));
            }
            if rng.chance(600) {
                commands.push(self.unsubscribe(topic));
            }
        }
        if commands.is_empty() {
            commands.push(self.subscribe(topic, rng));
        }
        commands.join("\n")
    }

    /// Receives a message. Returns the replies to send.
    pub(crate) fn on_message(&mut self, model: &Model, text: &str) -> Vec<String> {
        let mut answers = Vec::new();
        for line in text.lines() {
            let reply: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            if reply.as_object().is_some_and(serde_json::Map::is_empty) {
                answers.push("{}".to_owned());
            }
            if let Some(topic) = reply["id"].as_u64().and_then(|id| self.pending.remove(&id)) {
                self.on_answer(topic, &reply);
            }
            let push = &reply["push"];
            for (kind, is_join) in [("join", true), ("leave", false)] {
                if push[kind].is_object() {
                    let topic = topic_number(push["channel"].as_str().expect("a channel"));
                    let client = push[kind]["info"]["client"].as_str().expect("a name");
                    self.on_presence(model, topic, client, is_join);
                }
            }
        }
        answers
    }

    /// The reply to a subscribe command.
    fn on_answer(&mut self, topic: usize, reply: &Value) {
        if reply["subscribe"].is_object() {
            self.is_present.retain(|(other, _), _| *other != topic);
            return;
        }
        let code = reply["error"]["code"].as_u64();
        // Already subscribed; the server is stopping; the missed messages are gone.
        assert!(matches!(code, Some(105 | 100 | 112)), "the server rejected a command: {reply}");
    }

    /// Joins and leaves of a client alternate, unless the server drops pushes for slow subscribers.
    fn on_presence(&mut self, model: &Model, topic: usize, client: &str, is_join: bool) {
        let before = self.is_present.insert((topic, client.to_owned()), is_join);
        let is_lossless = model.namespace(topic).slow_consumer == SlowConsumer::Close;
        let is_next = before != Some(is_join);
        assert!(is_next || !is_lossless, "two joins or two leaves in a row: topic {topic}, join: {is_join}");
    }
}
