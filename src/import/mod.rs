//! Foreign WebSocket services: which protocol one speaks, which types its messages have, and documents and code for
//! these. Pure: messages in, text out.
//!
//! ```text
//! messages ─► recognise (protocol, payloads) ─► mask ─► types (shape, format) ─► schema, asyncapi, typescript, rust
//!                                                                            └─► drift (with a document of before)
//! ```
//!
//! All names and values come from a server that may be hostile: every step has its bounds in [`limits`](crate::limits).

mod asyncapi;
mod drift;
mod format;
mod mask;
mod name;
mod recognise;
mod rust;
mod samples;
mod schema;
mod shape;
mod types;
mod typescript;

pub use asyncapi::{Service, asyncapi};
pub use drift::{Drift, drift};
pub use mask::mask_url;
pub use recognise::{Evidence, Protocol, recognise};
pub use rust::rust;
pub use samples::Samples;
pub use schema::json_schema;
pub use types::{MessageType, infer};
pub use typescript::typescript;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let key = prop_oneof!["[a-zA-Z_]{1,4}", "\\PC{0,6}", Just("type".to_owned()), Just("password".to_owned())];
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(|number: f64| json!(number)),
            "[a-c]{1,2}".prop_map(Value::from),
            "[0-9]{1,2}\\.[0-9]".prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::vec((key.clone(), inner), 0..6)
                    .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_sample_fits_both_documents(messages in proptest::collection::vec(value(), 1..30)) {
            let types = infer(messages.iter());
            prop_assert_eq!(types.iter().map(|found| found.count).sum::<u64>(), messages.len() as u64);
            let service = Service { host: "example.org".to_owned(), path: "/".to_owned(), ..Service::default() };
            for document in [json_schema("title", &types), asyncapi(&service, &types, &types)] {
                let found = drift(&document, messages.iter()).unwrap();
                prop_assert_eq!(&found.broken, &Vec::<String>::new(), "{:#}", document);
                prop_assert_eq!(&found.new, &Vec::<String>::new());
            }
        }

        #[test]
        fn generated_code_has_no_foreign_characters(messages in proptest::collection::vec(value(), 1..30)) {
            let types = infer(messages.iter());
            for code in [typescript("a\nb*/", &types), rust("a\nb", &types)] {
                prop_assert!(code.lines().next().unwrap().starts_with("// The messages of a"));
                prop_assert!(code.chars().all(|character| character == '\n' || !character.is_control()));
            }
        }
    }

    #[test]
    fn a_change_of_a_field_is_drift() {
        let before = [
            json!({"type": "trade", "price": "1.5", "side": {"maker": true}}),
            json!({"type": "trade", "price": "2.5", "side": {"maker": false}, "id": 7}),
            json!({"type": "beat"}),
        ];
        let document = json_schema("title", &infer(before.iter()));
        let found = |message: Value| drift(&document, [message].iter()).unwrap();
        let broken = |message: Value| found(message).broken;
        assert_eq!(broken(before[0].clone()), Vec::<String>::new());
        let changed = broken(json!({"type": "trade", "price": 1.5, "side": {"maker": true}}));
        assert_eq!(changed, ["Trade.price: number in place of string (1 of 1 messages)"]);
        let gone = broken(json!({"type": "trade", "price": "1.5", "side": {}}));
        assert_eq!(gone, ["Trade.side.maker: missing (1 of 1 messages)"]);
        let no_format = broken(json!({"type": "trade", "price": "much", "side": {"maker": true}}));
        assert_eq!(no_format, ["Trade.price: no longer of the format decimal (1 of 1 messages)"]);
        let other = broken(json!({"type": "quote", "price": "1.5"}));
        assert_eq!(other, ["type \"quote\": a new type of message (1 of 1 messages)"]);
        let more = found(json!({"type": "beat", "at": 1}));
        assert_eq!(more.broken, Vec::<String>::new());
        assert_eq!(more.new, ["Beat.at: a new field (1 of 1 messages)"]);
        assert_eq!(more.unseen, ["Trade"]);
        assert!(drift(&json!({}), [].iter()).is_err());
    }

    #[test]
    fn code_reads_as_written_by_hand() {
        let messages = [
            json!({"type": "trade", "lastPrice": 1.5, "E": 1, "e": 2, "tags": ["a"], "pair": ["a", 1], "any": null}),
            json!({"type": "trade", "lastPrice": 2, "E": 1, "e": 2, "tags": [], "pair": ["b", 2], "any": {"x-y": 1}}),
        ];
        let types = infer(messages.iter());
        let typescript = typescript("example.org", &types);
        for line in [
            "export type Message = Trade;",
            "export interface Trade {",
            "  type: \"trade\";",
            "  lastPrice: number;",
            "  tags: (string)[];",
            "  pair: [string, number];",
            "  any: TradeAny | null;",
            "  \"x-y\": number;",
        ] {
            assert!(typescript.lines().any(|found| found == line), "{line} is not in\n{typescript}");
        }
        let rust = rust("example.org", &types);
        for line in [
            "#[serde(tag = \"type\")]",
            "    #[serde(rename = \"trade\")]",
            "    #[serde(rename = \"lastPrice\")]",
            "    pub last_price: f64,",
            "    pub pair: (String, i64,),",
            "    pub any: Option<TradeAny>,",
            "    pub e2: i64,",
        ] {
            assert!(rust.lines().any(|found| found == line), "{line} is not in\n{rust}");
        }
    }
}
