//! Types as JSON Schema. The words are those that draft-07, which AsyncAPI uses, and 2020-12 have in common; only
//! tuples are written differently.

use serde_json::{Map, Value, json};

use super::shape::{Arrays, Objects, Shape};
use super::types::MessageType;

/// The dialects of JSON Schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Of AsyncAPI's schema objects.
    Draft07,
    Draft2020,
}

/// A document with a definition for each type.
pub fn json_schema(title: &str, types: &[MessageType]) -> Value {
    let of_any = types.iter().map(|found| json!({"$ref": format!("#/$defs/{}", found.name)}));
    let definitions = types.iter().map(|found| (found.name.clone(), of_type(found, Dialect::Draft2020)));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "anyOf": of_any.collect::<Vec<_>>(),
        "$defs": definitions.collect::<Map<_, _>>(),
    })
}

pub(super) fn of_type(found: &MessageType, dialect: Dialect) -> Value {
    let mut schema = of_shape(&found.shape, dialect);
    if let Value::Object(members) = &mut schema {
        members.insert("title".to_owned(), found.name.clone().into());
    }
    schema
}

fn of_shape(shape: &Shape, dialect: Dialect) -> Value {
    if let Some(constant) = &shape.constant {
        return json!({"const": constant});
    }
    if shape.is_anything || shape.count == 0 {
        return json!({});
    }
    let mut alternatives = Vec::new();
    if shape.has_boolean {
        alternatives.push(json!({"type": "boolean"}));
    }
    if let Some(numbers) = shape.numbers {
        alternatives.push(json!({"type": if numbers.has_fraction { "number" } else { "integer" }}));
    }
    if let Some(strings) = &shape.strings {
        let mut schema = json!({"type": "string"});
        if let Some(values) = strings.enumeration() {
            schema["enum"] = values.into();
        } else if let Some(format) = strings.format() {
            schema["format"] = format.into();
        }
        alternatives.push(schema);
    }
    if let Some(arrays) = &shape.arrays {
        alternatives.push(of_arrays(arrays, dialect));
    }
    if let Some(objects) = &shape.objects {
        alternatives.push(of_objects(objects, dialect));
    }
    if shape.has_null {
        alternatives.push(json!({"type": "null"}));
    }
    if alternatives.len() == 1 {
        return alternatives.remove(0);
    }
    let is_bare = |schema: &Value| schema.as_object().is_some_and(|members| members.len() == 1);
    if alternatives.iter().all(is_bare) {
        return json!({"type": alternatives.iter().map(|schema| schema["type"].clone()).collect::<Vec<_>>()});
    }
    json!({"anyOf": alternatives})
}

fn of_arrays(arrays: &Arrays, dialect: Dialect) -> Value {
    match arrays {
        Arrays::List(shape) => json!({"type": "array", "items": of_shape(shape, dialect)}),
        Arrays::Tuple(shapes) => {
            let items: Vec<Value> = shapes.iter().map(|shape| of_shape(shape, dialect)).collect();
            let name = if dialect == Dialect::Draft07 { "items" } else { "prefixItems" };
            json!({"type": "array", name: items, "minItems": shapes.len(), "maxItems": shapes.len()})
        }
    }
}

fn of_objects(objects: &Objects, dialect: Dialect) -> Value {
    match objects {
        Objects::Map(shape) => json!({"type": "object", "additionalProperties": of_shape(shape, dialect)}),
        Objects::Record { count, fields } => {
            let required = fields.iter().filter(|(_, shape)| shape.count == *count).map(|(name, _)| name.as_str());
            let required: Vec<&str> = required.collect();
            let properties = fields.iter().map(|(name, shape)| (name.clone(), of_shape(shape, dialect)));
            let mut schema = json!({"type": "object", "properties": properties.collect::<Map<_, _>>()});
            if !required.is_empty() {
                schema["required"] = required.into();
            }
            schema
        }
    }
}
