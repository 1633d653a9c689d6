//! Whether messages still fit the document that was recorded of them.
//!
//! It reads the words of JSON Schema that [`schema`](super::schema) writes, in both dialects, and references within the
//! document; other words allow everything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::format::Formats;
use crate::limits::{IMPORT_DEPTH_MAX, IMPORT_TYPES_MAX};

/// References that are followed, one behind the other.
const REFERENCES_MAX: usize = 8;

/// Findings at most.
const FINDINGS_MAX: usize = 1000;

/// Where a message differs from a schema: the place and what is wrong there.
type Finding = (String, String);

/// How messages differ from a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drift {
    /// One line for each place where messages no longer fit.
    pub broken: Vec<String>,
    /// One line for each field that is new, which readers may ignore.
    pub new: Vec<String>,
    /// Types of the document of which no message was seen.
    pub unseen: Vec<String>,
}

/// Compares messages with a document of AsyncAPI or of JSON Schema that this program wrote.
///
/// # Errors
/// That there are no schemas in the document.
pub fn drift<'a>(document: &Value, messages: impl Iterator<Item = &'a Value>) -> Result<Drift, String> {
    let schemas = schemas(document);
    if schemas.is_empty() {
        return Err("has no messages: it must be a document of AsyncAPI 3.0 or of JSON Schema, as ringfeed test \
                    --asyncapi or --schema writes"
            .to_owned());
    }
    let mut counts: BTreeMap<(bool, Finding), usize> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for message in messages {
        total += 1;
        let checked = schemas.iter().map(|(name, schema)| {
            let mut check = Check { document, broken: Vec::new(), new: Vec::new(), is_other: false };
            check.value(schema, message, name, 0);
            (check, name)
        });
        let best = checked.min_by_key(|(check, _)| (check.is_other, check.broken.len(), check.new.len()));
        let Some((check, name)) = best else { continue };
        if check.is_other {
            let finding = (described(message), "a new type of message".to_owned());
            add(&mut counts, true, finding);
            continue;
        }
        seen.insert(name.clone());
        check.broken.into_iter().for_each(|finding| add(&mut counts, true, finding));
        check.new.into_iter().for_each(|finding| add(&mut counts, false, finding));
    }
    let line = |((_, (place, what)), count): (&(bool, Finding), &usize)| {
        format!("{place}: {what} ({count} of {total} messages)")
    };
    let lines = |is_broken| counts.iter().filter(move |((broken, _), _)| *broken == is_broken);
    Ok(Drift {
        broken: lines(true).map(line).collect(),
        new: lines(false).map(line).collect(),
        unseen: schemas.into_keys().filter(|name| !seen.contains(name)).collect(),
    })
}

fn add(counts: &mut BTreeMap<(bool, Finding), usize>, is_broken: bool, finding: Finding) {
    if counts.len() < FINDINGS_MAX || counts.contains_key(&(is_broken, finding.clone())) {
        *counts.entry((is_broken, finding)).or_default() += 1;
    }
}

/// The schemas of what a service sends, by the names of their messages.
fn schemas(document: &Value) -> BTreeMap<String, Value> {
    if let Some(definitions) = document.get("$defs").and_then(Value::as_object) {
        return definitions.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect();
    }
    let operations = document.get("operations").and_then(Value::as_object);
    let sends = operations.into_iter().flatten().filter(|(_, operation)| operation["action"] == "send");
    let references = sends.flat_map(|(_, operation)| operation["messages"].as_array().into_iter().flatten());
    let messages = references.take(2 * IMPORT_TYPES_MAX).filter_map(|reference| {
        let path = reference["$ref"].as_str()?;
        let message = resolve(document, reference);
        let is_json = message.get("contentType").is_none_or(|of| of == "application/json");
        let name = path.rsplit('/').next().unwrap_or(path);
        is_json.then(|| Some((name.to_owned(), message.get("payload")?.clone())))?
    });
    messages.collect()
}

/// What a reference within the document leads to.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let mut found = schema;
    for _ in 0..REFERENCES_MAX {
        let Some(path) = found.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#')) else {
            break;
        };
        let Some(next) = document.pointer(path) else { break };
        found = next;
    }
    found
}

struct Check<'a> {
    document: &'a Value,
    broken: Vec<Finding>,
    new: Vec<Finding>,
    /// A constant differs: the message is of another type.
    is_other: bool,
}

impl Check<'_> {
    fn say(&mut self, place: &str, what: String) {
        self.broken.push((place.to_owned(), what));
    }

    fn value(&mut self, schema: &Value, value: &Value, place: &str, depth: usize) {
        if depth > 2 * IMPORT_DEPTH_MAX {
            return;
        }
        let schema = resolve(self.document, schema);
        if let Some(constant) = schema.get("const") {
            if constant != value {
                self.is_other = true;
                self.say(place, format!("{} in place of {constant}", shown(value)));
            }
            return;
        }
        if let Some(alternatives) = schema.get("anyOf").and_then(Value::as_array) {
            return self.any_of(alternatives, value, place, depth);
        }
        let expected: Vec<&str> = match schema.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let kind = kind(value);
        let fits = expected.iter().any(|name| *name == kind || *name == "number" && kind == "integer");
        if !expected.is_empty() && !fits {
            return self.say(place, format!("{kind} in place of {}", expected.join(" or ")));
        }
        match value {
            Value::String(text) => self.text(schema, text, place),
            Value::Array(elements) => self.array(schema, elements, place, depth),
            Value::Object(_) => self.object(schema, value, place, depth),
            _ => {}
        }
    }

    fn any_of(&mut self, alternatives: &[Value], value: &Value, place: &str, depth: usize) {
        let checked = alternatives.iter().map(|alternative| {
            let mut check = Check { document: self.document, broken: Vec::new(), new: Vec::new(), is_other: false };
            check.value(alternative, value, place, depth + 1);
            check
        });
        // An alternative of another kind has one finding, of the same kind maybe several, but deeper ones.
        let is_kind =
            |check: &Check<'_>| !check.broken.iter().any(|(at, what)| at == place && what.contains(" in place"));
        let best = checked.min_by_key(|check| (check.is_other, !is_kind(check), check.broken.len()));
        if let Some(best) = best {
            self.broken.extend(best.broken);
            self.new.extend(best.new);
            self.is_other |= best.is_other;
        }
    }

    fn text(&mut self, schema: &Value, text: &str, place: &str) {
        if let Some(values) = schema.get("enum").and_then(Value::as_array)
            && !values.iter().any(|value| value == text)
        {
            self.say(place, "a new value of an enumeration".to_owned());
        }
        if let Some(format) = schema.get("format").and_then(Value::as_str)
            && !Formats::has(text, format)
            && text != super::mask::MASK
        {
            self.say(place, format!("no longer of the format {format}"));
        }
    }

    fn array(&mut self, schema: &Value, elements: &[Value], place: &str, depth: usize) {
        let tuple = schema.get("prefixItems").or(schema.get("items").filter(|items| items.is_array()));
        if let Some(tuple) = tuple.and_then(Value::as_array) {
            if schema.get("maxItems").and_then(Value::as_u64).is_some_and(|length| length != elements.len() as u64) {
                self.say(place, format!("an array of another length than {}", tuple.len()));
            }
            for (index, (schema, element)) in tuple.iter().zip(elements).enumerate() {
                self.value(schema, element, &format!("{place}[{index}]"), depth + 1);
            }
        } else if let Some(items) = schema.get("items") {
            let place = format!("{place}[]");
            elements.iter().for_each(|element| self.value(items, element, &place, depth + 1));
        }
    }

    fn object(&mut self, schema: &Value, value: &Value, place: &str, depth: usize) {
        let Value::Object(members) = value else { return };
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !members.contains_key(name) {
                // Without the field that says its type, a message is of no type.
                self.is_other |= schema["properties"][name].get("const").is_some();
                self.say(&format!("{place}.{name}"), "missing".to_owned());
            }
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        for (name, value) in members {
            match (properties.and_then(|properties| properties.get(name)), others) {
                (Some(schema), _) => self.value(schema, value, &format!("{place}.{}", printed(name)), depth + 1),
                (None, Some(schema)) => self.value(schema, value, &format!("{place}.*"), depth + 1),
                (None, None) if properties.is_some() => {
                    self.new.push((format!("{place}.{}", printed(name)), "a new field".to_owned()));
                }
                (None, None) => {}
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Text of a foreign server for one line of a terminal.
fn printed(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(80).collect()
}

fn shown(value: &Value) -> String {
    printed(&value.to_string())
}

/// What a message of an unknown type is.
fn described(message: &Value) -> String {
    match message {
        Value::Object(members) => {
            let telling = ["type", "event", "op", "method", "action", "kind", "channel"].into_iter();
            let tag = telling.filter_map(|name| Some((name, members.get(name)?))).find(|(_, tag)| !tag.is_object());
            match tag {
                Some((name, value)) => format!("{name} {}", shown(value)),
                None => printed(&members.keys().take(8).cloned().collect::<Vec<_>>().join(", ")),
            }
        }
        Value::Array(elements) => elements.first().map_or("[]".to_owned(), |first| format!("[{}, …]", shown(first))),
        scalar => kind(scalar).to_owned(),
    }
}
