//! A foreign service as a document of AsyncAPI 3.0, with the WebSockets binding 0.1.0. The document describes the
//! service: what it sends has the action `send`.

use serde_json::{Map, Value, json};

use super::mask::is_secret_parameter;
use super::schema::{Dialect, of_type};
use super::types::MessageType;

/// All of a service but its messages.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// Whether it speaks TLS.
    pub is_secure: bool,
    /// Host and port.
    pub host: String,
    /// The path, with `{name}` for each parameter.
    pub path: String,
    /// The parameters of the path: names and values.
    pub path_parameters: Vec<(String, String)>,
    /// The parameters of the query: names and values.
    pub query: Vec<(String, String)>,
    /// The names of the header fields that were sent.
    pub headers: Vec<String>,
    /// What it speaks.
    pub protocol: String,
    /// Whether it sent text that is not JSON.
    pub has_text: bool,
    /// Whether it sent binary messages that are not JSON.
    pub has_binary: bool,
}

/// The document. `received` are the types of the service's messages, `sent` those of the requests to it.
pub fn asyncapi(service: &Service, received: &[MessageType], sent: &[MessageType]) -> Value {
    let mut messages = Map::new();
    let mut from_service = Vec::new();
    for found in received {
        messages.insert(found.name.clone(), message(found));
        from_service.push(found.name.clone());
    }
    let others = [
        (service.has_text, "PlainText", "text/plain", "text that is not JSON"),
        (service.has_binary, "Bytes", "application/octet-stream", "binary messages"),
    ];
    for (_, name, content_type, summary) in others.into_iter().filter(|(is_there, ..)| *is_there) {
        let name = free(&messages, name);
        messages.insert(
            name.clone(),
            json!({"contentType": content_type, "summary": summary, "payload": {"type": "string"}}),
        );
        from_service.push(name);
    }
    let mut to_service = Vec::new();
    for found in sent {
        let name = free(&messages, &format!("{}Request", found.name));
        messages.insert(name.clone(), message(found));
        to_service.push(name);
    }
    let of_channel = messages.keys().map(|name| (name.clone(), reference(&format!("/components/messages/{name}"))));
    let mut channel = json!({
        "address": service.path,
        "messages": of_channel.collect::<Map<_, _>>(),
        "bindings": {"ws": binding(service)},
    });
    if !service.path_parameters.is_empty() {
        let parameters = service.path_parameters.iter().map(|(name, value)| {
            let examples = if is_secret_parameter(name) { vec![] } else { vec![value.as_str()] };
            (name.clone(), json!({"examples": examples}))
        });
        channel["parameters"] = parameters.collect::<Map<_, _>>().into();
    }
    let mut operations = Map::new();
    for (name, action, summary, of) in [
        ("messages", "send", "What the service sends.", from_service),
        ("requests", "receive", "What was sent to the service.", to_service),
    ] {
        if !of.is_empty() {
            let of: Vec<Value> =
                of.iter().map(|name| reference(&format!("/channels/service/messages/{name}"))).collect();
            let channel = reference("/channels/service");
            let operation = json!({"action": action, "summary": summary, "channel": channel, "messages": of});
            operations.insert(name.to_owned(), operation);
        }
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": format!("WebSocket of {}", service.host),
            "version": "1.0.0",
            "description": format!("Recorded by ringfeed test. The service speaks {}.", service.protocol),
        },
        "defaultContentType": "application/json",
        "servers": {
            "service": {"host": service.host, "protocol": if service.is_secure { "wss" } else { "ws" }},
        },
        "channels": {"service": channel},
        "operations": operations,
        "components": {"messages": messages},
    })
}

fn reference(path: &str) -> Value {
    json!({"$ref": format!("#{path}")})
}

/// The name, or with more behind it if it is taken.
fn free(messages: &Map<String, Value>, name: &str) -> String {
    let mut name = name.to_owned();
    while messages.contains_key(&name) {
        name.push('2');
    }
    name
}

fn message(found: &MessageType) -> Value {
    let examples: Vec<Value> = found.examples.iter().map(|example| json!({"payload": example})).collect();
    json!({
        "name": found.name,
        "title": found.name,
        "contentType": "application/json",
        "payload": of_type(found, Dialect::Draft07),
        "examples": examples,
    })
}

fn binding(service: &Service) -> Value {
    let mut binding = json!({"method": "GET", "bindingVersion": "0.1.0"});
    let object = |names: Vec<(&str, Value)>| {
        let properties = names.into_iter().map(|(name, schema)| (name.to_owned(), schema));
        json!({"type": "object", "properties": properties.collect::<Map<_, _>>()})
    };
    if !service.query.is_empty() {
        let parameters = service.query.iter().map(|(name, value)| match is_secret_parameter(name) {
            true => (name.as_str(), json!({"type": "string"})),
            false => (name.as_str(), json!({"type": "string", "examples": [value]})),
        });
        binding["query"] = object(parameters.collect());
    }
    if !service.headers.is_empty() {
        let headers = service.headers.iter().map(|name| (name.as_str(), json!({"type": "string"})));
        binding["headers"] = object(headers.collect());
    }
    binding
}
