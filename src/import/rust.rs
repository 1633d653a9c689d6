//! Types as Rust with serde.

use serde_json::Value;

use super::name::{Names, comment, pascal, snake};
use super::shape::{Arrays, Numbers, Objects, Shape};
use super::types::MessageType;

/// Names that mean something in Rust's prelude, to derived code or to this file.
const RESERVED: [&str; 24] = [
    "Message",
    "Self",
    "Option",
    "Some",
    "None",
    "Result",
    "Ok",
    "Err",
    "Vec",
    "String",
    "Box",
    "Serialize",
    "Deserialize",
    "Clone",
    "Copy",
    "Debug",
    "Default",
    "PartialEq",
    "Drop",
    "Fn",
    "From",
    "Into",
    "Iterator",
    "Send",
];

/// Words that are no names of fields; also those that are reserved for later.
const KEYWORDS: [&str; 54] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod",
    "move", "mut", "override", "priv", "pub", "ref", "return", "safe", "self", "static", "struct", "super", "trait",
    "true", "try", "type", "typeof", "union", "unsafe", "unsized", "use", "virtual", "where", "while", "yield", "raw",
];

const DERIVE: &str = "#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]\n";

/// A module with a type for each type of message and for each object in them, and the enum `Message` of all. It needs
/// serde with the feature `derive`, and serde_json.
pub fn rust(source: &str, types: &[MessageType]) -> String {
    let mut writer = Writer { names: Names::reserving(&RESERVED), declarations: Vec::new() };
    let named: Vec<String> = types.iter().map(|found| writer.names.take(&found.name)).collect();
    let tag = common_tag(types);
    for (found, name) in types.iter().zip(&named) {
        writer.declare(&found.shape, name, tag);
    }
    // The enum tries one type after the other, so those that demand the most come first.
    let mut order: Vec<(&MessageType, &String)> = types.iter().zip(&named).collect();
    order.sort_by_key(|(found, _)| std::cmp::Reverse(demands(&found.shape)));
    let mut variants = String::new();
    for (found, name) in order {
        if tag.is_some() {
            let value = constant(&found.shape, tag).and_then(Value::as_str).unwrap_or_default();
            variants.push_str(&format!("    #[serde(rename = {value:?})]\n"));
        }
        variants.push_str(&format!("    {name}({name}),\n"));
    }
    let how = match tag {
        Some(tag) => format!("tag = {tag:?}"),
        None => "untagged".to_owned(),
    };
    let last = match tag {
        Some(_) => format!(
            "    /// Of a type that was not seen.\n    #[serde(other)]\n    {},\n",
            writer.names.take("Unknown")
        ),
        None => String::new(),
    };
    let any = "    /// Of a type that was not seen.\n    Unknown(serde_json::Value),\n";
    let last = if tag.is_none() { any.replace("Unknown", &writer.names.take("Unknown")) } else { last };
    format!(
        "// The messages of {}, as ringfeed test has seen them.\n\nuse serde::{{Deserialize, Serialize}};\n\n\
         {DERIVE}#[serde({how})]\npub enum Message {{\n{variants}{last}}}\n\n{}\n",
        comment(source),
        writer.declarations.join("\n\n")
    )
}

/// The field that says what each message is, if all types are records with a text in that field.
fn common_tag(types: &[MessageType]) -> Option<&str> {
    let tag = types.first()?.tag.as_deref()?;
    let has = |found: &MessageType| {
        let is_record = matches!(found.shape.objects.as_deref(), Some(Objects::Record { .. }))
            && found.shape.kinds() == 1
            && !found.shape.has_null;
        is_record
            && found.tag.as_deref() == Some(tag)
            && constant(&found.shape, Some(tag)).is_some_and(Value::is_string)
    };
    types.iter().all(has).then_some(tag)
}

fn constant<'a>(shape: &'a Shape, tag: Option<&str>) -> Option<&'a Value> {
    let Some(Objects::Record { fields, .. }) = shape.objects.as_deref() else { return None };
    fields.get(tag?)?.constant.as_ref()
}

/// How many things a value must have to be read as this.
fn demands(shape: &Shape) -> usize {
    match shape.objects.as_deref() {
        Some(Objects::Record { count, fields }) => {
            let required = fields.values().filter(|shape| shape.count == *count);
            required.map(|shape| if shape.constant.is_some() { 1000 } else { 1 }).sum()
        }
        _ => 0,
    }
}

struct Writer {
    names: Names,
    declarations: Vec<String>,
}

impl Writer {
    /// Declares a type of this name. The field `tag` belongs to the enum.
    fn declare(&mut self, shape: &Shape, name: &str, tag: Option<&str>) {
        let place = self.declarations.len();
        self.declarations.push(String::new());
        let is_record = matches!(shape.objects.as_deref(), Some(Objects::Record { .. }))
            && shape.kinds() == 1
            && !shape.has_null
            && !shape.is_anything;
        self.declarations[place] = match shape.objects.as_deref().filter(|_| is_record) {
            Some(objects) => self.record(objects, name, tag),
            None => format!("pub type {name} = {};", self.expression(shape, &format!("{name}Value"))),
        };
    }

    fn record(&mut self, objects: &Objects, name: &str, tag: Option<&str>) -> String {
        let Objects::Record { count, fields } = objects else { unreachable!("only records are structs") };
        let mut text = format!("{DERIVE}pub struct {name} {{\n");
        let mut taken = Names::reserving(&KEYWORDS);
        for (field, shape) in fields.iter().filter(|(field, _)| Some(field.as_str()) != tag) {
            let value = self.expression(shape, &format!("{name}{}", pascal(field, "Field")));
            let (is_optional, is_option) = (shape.count < *count, value.starts_with("Option<"));
            let value = if is_optional && !is_option { format!("Option<{value}>") } else { value };
            let ident = taken.take(&snake(field));
            let mut attributes = Vec::new();
            if ident != *field {
                attributes.push(format!("rename = {field:?}"));
            }
            if is_optional {
                attributes.push("default, skip_serializing_if = \"Option::is_none\"".to_owned());
            }
            if !attributes.is_empty() {
                text.push_str(&format!("    #[serde({})]\n", attributes.join(", ")));
            }
            text.push_str(&format!("    pub {ident}: {value},\n"));
        }
        text.push('}');
        text
    }

    /// The type of a value; what it is made of is declared with names that begin with `name`.
    fn expression(&mut self, shape: &Shape, name: &str) -> String {
        if let Some(constant) = &shape.constant {
            return match constant {
                Value::String(text) => self.enumeration(&[text.as_str()], name),
                _ => "u64".to_owned(),
            };
        }
        if shape.is_unknown() {
            return "serde_json::Value".to_owned();
        }
        let value = if shape.kinds() == 1 { self.single(shape, name) } else { self.union(shape, name) };
        if shape.has_null { format!("Option<{value}>") } else { value }
    }

    /// The type of values of one kind.
    fn single(&mut self, shape: &Shape, name: &str) -> String {
        if let Some(numbers) = shape.numbers {
            return number(numbers).to_owned();
        }
        if let Some(strings) = &shape.strings {
            return match strings.enumeration() {
                Some(values) => self.enumeration(&values, name),
                None => "String".to_owned(),
            };
        }
        match (shape.arrays.as_deref(), shape.objects.as_deref()) {
            (Some(Arrays::List(shape)), _) => format!("Vec<{}>", self.expression(shape, &format!("{name}Item"))),
            (Some(Arrays::Tuple(shapes)), _) => {
                let of = |(index, shape): (usize, &Shape)| self.expression(shape, &format!("{name}{}", index + 1));
                format!("({},)", shapes.iter().enumerate().map(of).collect::<Vec<_>>().join(", "))
            }
            (_, Some(Objects::Map(shape))) => {
                let value = self.expression(shape, &format!("{name}Value"));
                format!("std::collections::BTreeMap<String, {value}>")
            }
            (_, Some(objects)) => {
                let name = self.names.take(name);
                let place = self.declarations.len();
                self.declarations.push(String::new());
                self.declarations[place] = self.record(objects, &name, None);
                name
            }
            _ => "bool".to_owned(),
        }
    }

    /// An enum of several kinds.
    fn union(&mut self, shape: &Shape, name: &str) -> String {
        let name = self.names.take(name);
        let place = self.declarations.len();
        self.declarations.push(String::new());
        let mut variants = String::new();
        let parts = [
            ("Boolean", Shape { has_boolean: shape.has_boolean, ..Shape::default() }),
            ("Number", Shape { numbers: shape.numbers, ..Shape::default() }),
            ("Text", Shape { strings: shape.strings.clone(), ..Shape::default() }),
            ("Array", Shape { arrays: shape.arrays.clone(), ..Shape::default() }),
            ("Object", Shape { objects: shape.objects.clone(), ..Shape::default() }),
        ];
        for (variant, part) in parts.iter().filter(|(_, part)| part.kinds() == 1) {
            let value = self.single(part, &format!("{name}{variant}"));
            variants.push_str(&format!("    {variant}({value}),\n"));
        }
        self.declarations[place] = format!("{DERIVE}#[serde(untagged)]\npub enum {name} {{\n{variants}}}");
        name
    }

    /// An enum of these texts.
    fn enumeration(&mut self, values: &[&str], name: &str) -> String {
        let name = self.names.take(name);
        let mut taken = Names::reserving(&["Self"]);
        let variants = values
            .iter()
            .map(|value| format!("    #[serde(rename = {value:?})]\n    {},\n", taken.take(&pascal(value, "Value"))));
        self.declarations.push(format!("{DERIVE}pub enum {name} {{\n{}}}", variants.collect::<String>()));
        name
    }
}

fn number(numbers: Numbers) -> &'static str {
    match numbers {
        Numbers { has_fraction: true, .. } | Numbers { has_negative: true, has_large: true, .. } => "f64",
        Numbers { has_large: true, .. } => "u64",
        _ => "i64",
    }
}
