//! Which messages are of one type: by the field that says so, or by the fields that they have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::name::{Names, pascal};
use super::shape::{Arrays, Budget, Objects, Shape};
use crate::limits::{IMPORT_EXAMPLE_BYTES_MAX, IMPORT_SHAPES_MAX, IMPORT_TYPES_MAX};

/// Names of the field that says what a message is, the likeliest first.
const DISCRIMINATORS: [&str; 18] = [
    "type",
    "event",
    "op",
    "method",
    "action",
    "kind",
    "msg",
    "messageType",
    "message_type",
    "channel",
    "topic",
    "stream",
    "cmd",
    "command",
    "e",
    "ev",
    "t",
    "T",
];

/// Different values that such a field may have.
const TAGS_MAX: usize = 40;

/// Bytes of such a value.
const TAG_BYTES_MAX: usize = 64;

/// Numbers up to here may say what a message is; larger ones are data.
const TAG_NUMBER_MAX: u64 = 1000;

/// Examples that are kept of a type.
const EXAMPLES: usize = 2;

/// One type of message.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageType {
    /// An identifier: `Trade`.
    pub name: String,
    /// The messages that were seen.
    pub count: u64,
    /// What they have in common.
    pub(super) shape: Shape,
    /// The field that says that a message is of this type, if one does.
    pub(super) tag: Option<String>,
    /// Some of them.
    pub(super) examples: Vec<Value>,
}

/// What makes messages one type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// The value of the discriminator, as JSON.
    Tag(String),
    /// The first element of an array, as JSON.
    First(String),
    /// Similar fields.
    Fields(usize),
    Array,
    Scalar,
    /// There are too many types.
    Rest,
}

/// The types of these messages, in the order of their first messages.
pub fn infer<'a>(messages: impl Iterator<Item = &'a Value> + Clone) -> Vec<MessageType> {
    let discriminator = discriminator(messages.clone());
    let has_first = has_first(messages.clone());
    let mut grouping = Grouping { discriminator, has_first, field_sets: Vec::new() };
    let mut budget = Budget { shapes_left: IMPORT_SHAPES_MAX };
    let mut order: BTreeMap<Group, usize> = BTreeMap::new();
    let mut types: Vec<(Group, MessageType)> = Vec::new();
    for message in messages {
        let mut group = grouping.group(message);
        if !order.contains_key(&group) && order.len() >= IMPORT_TYPES_MAX {
            group = Group::Rest;
        }
        let index = *order.entry(group.clone()).or_insert_with(|| {
            let empty =
                MessageType { name: String::new(), count: 0, shape: Shape::default(), tag: None, examples: Vec::new() };
            types.push((group, empty));
            types.len() - 1
        });
        types[index].1.add(message, &mut budget);
    }
    let mut names = Names::reserving(&["Message"]);
    let named = types.into_iter().map(|(group, mut found)| {
        found.settle(&group, grouping.discriminator);
        found.name = names.take(&grouping.name(&group));
        found
    });
    named.collect()
}

impl MessageType {
    fn add(&mut self, message: &Value, budget: &mut Budget) {
        self.count += 1;
        self.shape.add(message, 0, budget);
        if self.examples.len() < EXAMPLES && message.to_string().len() <= IMPORT_EXAMPLE_BYTES_MAX {
            self.examples.push(message.clone());
        }
    }

    /// All messages are known.
    fn settle(&mut self, group: &Group, discriminator: Option<&str>) {
        let constant = |text: &str| serde_json::from_str(text).ok();
        match group {
            Group::Tag(value) => {
                let Some(Objects::Record { fields, .. }) = self.shape.objects.as_deref_mut() else { return };
                if let Some(field) = discriminator.and_then(|name| fields.get_mut(name)) {
                    field.constant = constant(value);
                    self.tag = discriminator.map(str::to_owned);
                }
            }
            Group::First(value) => {
                if let Some(Arrays::Tuple(shapes)) = self.shape.arrays.as_deref_mut()
                    && let Some(first) = shapes.first_mut()
                {
                    first.constant = constant(value);
                }
            }
            Group::Fields(_) | Group::Array | Group::Scalar | Group::Rest => {}
        }
        self.shape.settle();
    }
}

struct Grouping {
    discriminator: Option<&'static str>,
    /// Whether the first elements of arrays say what they are.
    has_first: bool,
    /// The fields of each group that has only these in common.
    field_sets: Vec<BTreeSet<String>>,
}

impl Grouping {
    fn group(&mut self, message: &Value) -> Group {
        match message {
            Value::Object(members) => match self.discriminator.and_then(|name| tag(members.get(name)?)) {
                Some(tag) => Group::Tag(tag),
                None => self.by_fields(members.keys().take(crate::limits::IMPORT_FIELDS_MAX).cloned().collect()),
            },
            Value::Array(elements) => match elements.first().and_then(tag).filter(|_| self.has_first) {
                Some(first) => Group::First(first),
                None => Group::Array,
            },
            _ => Group::Scalar,
        }
    }

    /// The group of which most fields are the same: of all fields of both, seven in ten.
    fn by_fields(&mut self, fields: BTreeSet<String>) -> Group {
        let is_similar = |known: &BTreeSet<String>| {
            let same = known.intersection(&fields).count();
            let all = known.len() + fields.len() - same;
            same * 10 >= all * 7
        };
        if let Some(index) = self.field_sets.iter().position(is_similar) {
            return Group::Fields(index);
        }
        if self.field_sets.len() >= IMPORT_TYPES_MAX {
            return Group::Rest;
        }
        self.field_sets.push(fields);
        Group::Fields(self.field_sets.len() - 1)
    }

    /// A name for people; not yet the only one of its kind.
    fn name(&self, group: &Group) -> String {
        match group {
            Group::Tag(value) | Group::First(value) => {
                let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                let prefix = if is_number { self.discriminator.unwrap_or("Type") } else { "" };
                pascal(&format!("{prefix} {value}"), "Type")
            }
            Group::Fields(index) => {
                let fields = &self.field_sets[*index];
                let telling = ["error", "result", "data"].into_iter().find(|name| fields.contains(*name));
                match (telling, fields.first()) {
                    (_, Some(only)) if fields.len() == 1 => pascal(only, "Type"),
                    (Some(name), _) => pascal(name, "Type"),
                    _ => "Payload".to_owned(),
                }
            }
            Group::Array => "List".to_owned(),
            Group::Scalar => "Scalar".to_owned(),
            Group::Rest => "Other".to_owned(),
        }
    }
}

/// The field that says what a message is: the one that most objects have, and that has few values.
fn discriminator<'a>(messages: impl Iterator<Item = &'a Value> + Clone) -> Option<&'static str> {
    let objects = || messages.clone().filter_map(Value::as_object);
    let total = objects().count();
    let mut best = None;
    for name in DISCRIMINATORS {
        let mut tags = BTreeSet::new();
        let mut covered = 0;
        for value in objects().filter_map(|members| tag(members.get(name)?)) {
            covered += 1;
            if tags.len() <= TAGS_MAX {
                tags.insert(value);
            }
        }
        let is_few = tags.len() <= TAGS_MAX && (tags.len() <= 8 || tags.len() * 2 <= covered);
        if covered * 2 >= total && covered > 0 && is_few && best.is_none_or(|(most, _)| covered > most) {
            best = Some((covered, name));
        }
    }
    best.map(|(_, name)| name)
}

/// Whether the first elements of arrays are few words.
fn has_first<'a>(messages: impl Iterator<Item = &'a Value> + Clone) -> bool {
    let arrays = messages.filter_map(Value::as_array);
    let firsts: Option<Vec<String>> =
        arrays.map(|elements| elements.first().filter(|first| first.is_string())).map(|first| tag(first?)).collect();
    firsts.is_some_and(|firsts| {
        let different: BTreeSet<&String> = firsts.iter().collect();
        different.len() <= 8 || different.len() <= TAGS_MAX && different.len() * 2 <= firsts.len()
    })
}

/// The value as JSON, if it may be the name of a type.
fn tag(value: &Value) -> Option<String> {
    let is_tag = match value {
        Value::String(text) => {
            !text.is_empty() && text.len() <= TAG_BYTES_MAX && text.chars().all(|c| !c.is_control() && c != ' ')
        }
        Value::Number(number) => number.as_u64().is_some_and(|number| number <= TAG_NUMBER_MAX),
        _ => false,
    };
    is_tag.then(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(messages: &[Value]) -> Vec<(String, u64)> {
        infer(messages.iter()).into_iter().map(|found| (found.name, found.count)).collect()
    }

    fn rows(rows: &[(&str, u64)]) -> Vec<(String, u64)> {
        rows.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    #[test]
    fn a_field_says_what_a_message_is() {
        let trade = json!({"type": "trade", "channel": "a", "price": 1});
        let beat = json!({"type": "heart-beat", "channel": "a"});
        assert_eq!(names(&[trade.clone(), beat, trade]), rows(&[("Trade", 2), ("HeartBeat", 1)]));
        let ops = [json!({"op": 10, "d": {}}), json!({"op": 0, "d": 1})];
        assert_eq!(names(&ops), rows(&[("Op10", 1), ("Op0", 1)]));
    }

    #[test]
    fn without_such_a_field_similar_objects_are_one_type() {
        let messages = [json!({"id": 1, "result": {}}), json!({"push": 1}), json!({"id": 2, "result": 3})];
        assert_eq!(names(&messages), rows(&[("Result", 2), ("Push", 1)]));
        assert_eq!(names(&[json!(1), json!("a"), json!([1]), json!([2])]), rows(&[("Scalar", 2), ("List", 2)]));
        let events = [json!(["EVENT", {"a": 1}]), json!(["NOTICE", "text"])];
        assert_eq!(names(&events), rows(&[("Event", 1), ("Notice", 1)]));
    }

    #[test]
    fn values_that_are_data_make_no_types() {
        let users: Vec<Value> = (0..100).map(|n| json!({"topic": format!("user{n}"), "text": "hello"})).collect();
        assert_eq!(names(&users), rows(&[("Payload", 100)]));
        let many: Vec<Value> = (0..1000).map(|n| json!({format!("field{n}"): 1})).collect();
        assert!(names(&many).len() <= IMPORT_TYPES_MAX + 1);
        let spaces = json!({"type": "a long sentence"});
        assert_eq!(names(&[spaces]), rows(&[("Type", 1)]));
    }
}
