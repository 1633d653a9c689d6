//! A client that comes and goes under its name: what it says in Centrifugo's protocol, and what it learns of others.

use std::collections::HashMap;

use ringfeed::ring::sim::Rng;
use ringfeed::topics::SlowConsumer;
use serde_json::{Value, json};

use crate::model::Model;
use crate::namespaces::{topic_name, topic_number};

#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// Commands so far.
    commands: u64,
    /// Whether a client was last seen coming, by topic and name; since this one's last subscription began.
    is_present: HashMap<(usize, String), bool>,
    /// The topics of its commands to subscribe that have not been answered.
    asked: HashMap<u64, usize>,
}

impl Guest {
    /// What it says once it was let in.
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
            // It says where it was, of which nothing is known, and would rather not subscribe then.
            request["recover"] = true.into();
            request["epoch"] = "never".into();
            request["flag"] = 2.into();
        }
        self.asked.insert(self.commands + 1, topic);
        self.command(json!({"subscribe": request}))
    }

    fn unsubscribe(&mut self, topic: usize) -> String {
        self.command(json!({"unsubscribe": {"channel": topic_name(topic)}}))
    }

    /// What it says next: commands in one message.
    pub(crate) fn say(&mut self, topics: usize, rng: &mut Rng) -> String {
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

    /// A message came. Returns what it says to it.
    pub(crate) fn on_message(&mut self, model: &Model, text: &str) -> Vec<String> {
        let mut answers = Vec::new();
        for line in text.lines() {
            let reply: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            if reply.as_object().is_some_and(serde_json::Map::is_empty) {
                answers.push("{}".to_owned());
            }
            if let Some(topic) = reply["id"].as_u64().and_then(|id| self.asked.remove(&id)) {
                self.on_answer(topic, &reply);
            }
            let push = &reply["push"];
            for (kind, is_coming) in [("join", true), ("leave", false)] {
                if push[kind].is_object() {
                    let topic = topic_number(push["channel"].as_str().expect("a channel"));
                    let client = push[kind]["info"]["client"].as_str().expect("a name");
                    self.on_presence(model, topic, client, is_coming);
                }
            }
        }
        answers
    }

    /// It has subscribed, or may not.
    fn on_answer(&mut self, topic: usize, reply: &Value) {
        if reply["subscribe"].is_object() {
            self.is_present.retain(|(other, _), _| *other != topic);
            return;
        }
        let code = reply["error"]["code"].as_u64();
        // It is subscribed; the server stops; what it has missed can't be had.
        assert!(matches!(code, Some(105 | 100 | 112)), "a command was refused: {reply}");
    }

    /// A client comes and goes by turns, as far as pushes are not dropped for who is slow.
    fn on_presence(&mut self, model: &Model, topic: usize, client: &str, is_coming: bool) {
        let before = self.is_present.insert((topic, client.to_owned()), is_coming);
        let is_lossless = model.namespace(topic).slow_consumer == SlowConsumer::Close;
        let is_next = before != Some(is_coming);
        assert!(is_next || !is_lossless, "a client came or went twice: topic {topic}, coming: {is_coming}");
    }
}
