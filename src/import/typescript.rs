//! Types as TypeScript.

use serde_json::Value;

use super::name::{Names, comment, pascal};
use super::shape::{Arrays, Objects, Shape};
use super::types::MessageType;

/// Names that mean something to TypeScript, or to this file.
const RESERVED: [&str; 10] =
    ["Message", "Record", "Array", "Object", "String", "Number", "Boolean", "Symbol", "Function", "Promise"];

/// A module with an interface for each type of message and for each object in them, and their union `Message`.
pub fn typescript(source: &str, types: &[MessageType]) -> String {
    let mut writer = Writer { names: Names::reserving(&RESERVED), declarations: Vec::new() };
    let named: Vec<String> = types.iter().map(|found| writer.names.take(&found.name)).collect();
    for (found, name) in types.iter().zip(&named) {
        writer.declare(&found.shape, name);
    }
    let union = match named.is_empty() {
        true => "unknown".to_owned(),
        false => named.join(" | "),
    };
    format!(
        "// The messages of {}, as ringfeed test has seen them.\n\nexport type Message = {union};\n\n{}\n",
        comment(source),
        writer.declarations.join("\n\n")
    )
}

struct Writer {
    names: Names,
    declarations: Vec<String>,
}

impl Writer {
    /// Declares a type of this name.
    fn declare(&mut self, shape: &Shape, name: &str) {
        let place = self.declarations.len();
        self.declarations.push(String::new());
        let record = match shape.objects.as_deref() {
            Some(objects @ Objects::Record { .. }) if shape.kinds() == 1 && !shape.has_null => Some(objects),
            _ => None,
        };
        self.declarations[place] = match record.filter(|_| !shape.is_anything) {
            Some(objects) => self.interface(objects, name),
            None => format!("export type {name} = {};", self.expression(shape, name)),
        };
    }

    fn interface(&mut self, objects: &Objects, name: &str) -> String {
        let Objects::Record { count, fields } = objects else { unreachable!("only records are interfaces") };
        let mut text = format!("export interface {name} {{\n");
        for (field, shape) in fields {
            let mark = if shape.count < *count { "?" } else { "" };
            let value = self.expression(shape, &format!("{name}{}", pascal(field, "Field")));
            text.push_str(&format!("  {}{mark}: {value};\n", property(field)));
        }
        text.push('}');
        text
    }

    /// The type of a value; its objects are declared with names that begin with `name`.
    fn expression(&mut self, shape: &Shape, name: &str) -> String {
        if let Some(constant) = &shape.constant {
            return literal(constant);
        }
        if shape.is_anything || shape.count == 0 {
            return "unknown".to_owned();
        }
        let mut alternatives = Vec::new();
        if shape.has_boolean {
            alternatives.push("boolean".to_owned());
        }
        if shape.numbers.is_some() {
            alternatives.push("number".to_owned());
        }
        if let Some(strings) = &shape.strings {
            match strings.enumeration() {
                Some(values) => alternatives.extend(values.into_iter().map(|value| literal(&value.into()))),
                None => alternatives.push("string".to_owned()),
            }
        }
        if let Some(arrays) = shape.arrays.as_deref() {
            alternatives.push(match arrays {
                Arrays::List(shape) => format!("({})[]", self.expression(shape, &format!("{name}Item"))),
                Arrays::Tuple(shapes) => {
                    let of = |(index, shape): (usize, &Shape)| self.expression(shape, &format!("{name}{}", index + 1));
                    format!("[{}]", shapes.iter().enumerate().map(of).collect::<Vec<_>>().join(", "))
                }
            });
        }
        if let Some(objects) = shape.objects.as_deref() {
            alternatives.push(match objects {
                Objects::Map(shape) => {
                    format!("{{ [key: string]: {} }}", self.expression(shape, &format!("{name}Value")))
                }
                Objects::Record { .. } => {
                    let name = self.names.take(&format!("{name}{}", if shape.kinds() > 1 { "Object" } else { "" }));
                    let place = self.declarations.len();
                    self.declarations.push(String::new());
                    self.declarations[place] = self.interface(objects, &name);
                    name
                }
            });
        }
        if shape.has_null {
            alternatives.push("null".to_owned());
        }
        alternatives.join(" | ")
    }
}

/// The name of a property: bare if it is an identifier.
fn property(name: &str) -> String {
    let is_bare = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_bare { name.to_owned() } else { literal(&name.into()) }
}

/// JSON, in which line separators and what could end a comment or a script are escaped too.
fn literal(value: &Value) -> String {
    let escape = |character: char| match character {
        ' '..='~' if character != '<' => character.to_string(),
        _ => character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    value.to_string().chars().map(escape).collect()
}
