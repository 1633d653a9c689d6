//! Filters of publications as clients write them.

use prost::Message;
use serde::Deserialize;

use crate::limits::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_NODES_MAX};
use crate::topics::{Comparison, TagTest, TagsFilter};

/// A node of a filter, in both encodings. The field numbers are those of Centrifugo's `client.proto`.
#[derive(Clone, PartialEq, Deserialize, Message)]
#[serde(default)]
struct FilterNode {
    /// `and`, `or` or `not`; empty for the test of a tag.
    #[prost(string, tag = "1")]
    op: String,
    /// The tag's name.
    #[prost(string, tag = "2")]
    key: String,
    /// The test.
    #[prost(string, tag = "3")]
    cmp: String,
    /// What it compares with.
    #[prost(string, tag = "4")]
    val: String,
    /// The same of tests with several texts.
    #[prost(string, repeated, tag = "5")]
    vals: Vec<String>,
    /// What `op` combines.
    #[prost(message, repeated, tag = "6")]
    nodes: Vec<FilterNode>,
}

/// The filter is malformed, or above a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFilter;

/// Reads a filter in JSON: an object of at most [`FILTER_BYTES_MAX`] bytes.
pub(super) fn read_filter_json(text: &[u8]) -> Result<TagsFilter, BadFilter> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(BadFilter);
    }
    build(&serde_json::from_slice(text).map_err(|_| BadFilter)?)
}

/// The same in Protobuf.
pub(super) fn read_filter_protobuf(message: &[u8]) -> Result<TagsFilter, BadFilter> {
    if message.len() > FILTER_BYTES_MAX {
        return Err(BadFilter);
    }
    build(&FilterNode::decode(message).map_err(|_| BadFilter)?)
}

fn build(root: &FilterNode) -> Result<TagsFilter, BadFilter> {
    let mut nodes = 0;
    root.filter(FILTER_DEPTH_MAX, &mut nodes)
}

impl FilterNode {
    /// The filter of this node and those below it, at most `depth` of them in a row. `nodes` counts all.
    fn filter(&self, depth: usize, nodes: &mut usize) -> Result<TagsFilter, BadFilter> {
        *nodes += 1;
        if depth == 0 || *nodes > FILTER_NODES_MAX {
            return Err(BadFilter);
        }
        let mut below = || self.nodes.iter().map(|node| node.filter(depth - 1, nodes)).collect::<Result<Vec<_>, _>>();
        match (&*self.op, &*self.nodes) {
            ("", _) => self.test(),
            ("and", [_, ..]) => below().map(TagsFilter::And),
            ("or", [_, ..]) => below().map(TagsFilter::Or),
            ("not", [node]) => node.filter(depth - 1, nodes).map(|filter| TagsFilter::Not(Box::new(filter))),
            _ => Err(BadFilter),
        }
    }

    /// The test of a tag. What the test does not use must be empty, as in Centrifugo.
    fn test(&self) -> Result<TagsFilter, BadFilter> {
        let val = || self.val.as_str().into();
        let vals = || self.vals.iter().map(|val| val.as_str().into()).collect();
        let uses = (!self.val.is_empty(), !self.vals.is_empty());
        let compares = |comparison| TagTest::Compares(comparison, val());
        let test = match (&*self.cmp, uses) {
            ("ex", (false, false)) => TagTest::Exists,
            ("nex", (false, false)) => TagTest::Missing,
            ("in", (false, true)) => TagTest::In(vals()),
            ("nin", (false, true)) => TagTest::NotIn(vals()),
            ("eq", (true, false)) => TagTest::Equals(val()),
            ("neq", (true, false)) => TagTest::Differs(val()),
            ("sw", (true, false)) => TagTest::StartsWith(val()),
            ("ew", (true, false)) => TagTest::EndsWith(val()),
            ("ct", (true, false)) => TagTest::Contains(val()),
            ("lt", (true, false)) => compares(Comparison::Less),
            ("lte", (true, false)) => compares(Comparison::LessOrEqual),
            ("gt", (true, false)) => compares(Comparison::Greater),
            ("gte", (true, false)) => compares(Comparison::GreaterOrEqual),
            _ => return Err(BadFilter),
        };
        let is_of_presence = matches!(test, TagTest::Exists | TagTest::Missing);
        if self.key.is_empty() && !is_of_presence {
            Err(BadFilter)
        } else {
            Ok(TagsFilter::Tag(self.key.as_str().into(), test))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<TagsFilter, BadFilter> {
        let json = read_filter_json(text.as_bytes());
        // Both encodings agree.
        if let Ok(node) = serde_json::from_str::<FilterNode>(text) {
            assert_eq!(read_filter_protobuf(&node.encode_to_vec()), json, "{text}");
        }
        json
    }

    #[test]
    fn filters_are_read() {
        let tag = |test| Ok(TagsFilter::Tag("k".into(), test));
        let rows = [
            (r#"{"key":"k","cmp":"eq","val":"v"}"#, tag(TagTest::Equals("v".into()))),
            (r#"{"op":"","key":"k","cmp":"nin","vals":["v","w"]}"#, tag(TagTest::NotIn(vec!["v".into(), "w".into()]))),
            (r#"{"key":"k","cmp":"gte","val":"5"}"#, tag(TagTest::Compares(Comparison::GreaterOrEqual, "5".into()))),
            (r#"{"key":"k","cmp":"nex"}"#, tag(TagTest::Missing)),
            (
                r#"{"op":"not","nodes":[{"op":"or","nodes":[{"key":"k","cmp":"ex"},{"key":"k","cmp":"ct","val":"v"}]}]}"#,
                Ok(TagsFilter::Not(Box::new(TagsFilter::Or(vec![
                    TagsFilter::Tag("k".into(), TagTest::Exists),
                    TagsFilter::Tag("k".into(), TagTest::Contains("v".into())),
                ])))),
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_rejected() {
        let rows = [
            "{}",
            "[]",
            "",
            r#"{"key":"k","cmp":"eq"}"#,
            r#"{"cmp":"eq","val":"v"}"#,
            r#"{"key":"k","cmp":"like","val":"v"}"#,
            r#"{"key":"k","cmp":"eq","val":"v","vals":["w"]}"#,
            r#"{"key":"k","cmp":"in","val":"v","vals":["w"]}"#,
            r#"{"key":"k","cmp":"in"}"#,
            r#"{"key":"k","cmp":"ex","val":"v"}"#,
            r#"{"key":"k","cmp":"eq","val":5}"#,
            r#"{"op":"and"}"#,
            r#"{"op":"xor","nodes":[{"key":"k","cmp":"ex"}]}"#,
            r#"{"op":"not","nodes":[{"key":"k","cmp":"ex"},{"key":"k","cmp":"ex"}]}"#,
            r#"{"op":"and","nodes":[{}]}"#,
        ];
        for text in rows {
            assert_eq!(read(text), Err(BadFilter), "{text}");
        }
    }

    #[test]
    fn filters_are_bounded_in_bytes_nodes_and_depth() {
        let leaf = r#"{"key":"k","cmp":"ex"}"#.to_owned();
        let sized = |bytes: usize| format!(r#"{{"key":"k","cmp":"eq","val":"{}"}}"#, "v".repeat(bytes - 31));
        assert!(read(&sized(FILTER_BYTES_MAX)).is_ok_and(|_| sized(FILTER_BYTES_MAX).len() == FILTER_BYTES_MAX));
        assert_eq!(read_filter_json(sized(FILTER_BYTES_MAX + 1).as_bytes()), Err(BadFilter));
        let wide = |nodes: usize| format!(r#"{{"op":"or","nodes":[{}]}}"#, vec![leaf.as_str(); nodes - 1].join(","));
        assert!(read(&wide(FILTER_NODES_MAX)).is_ok());
        assert_eq!(read(&wide(FILTER_NODES_MAX + 1)), Err(BadFilter));
        let deep = |depth| (1..depth).fold(leaf.clone(), |inner, _| format!(r#"{{"op":"not","nodes":[{inner}]}}"#));
        assert!(read(&deep(FILTER_DEPTH_MAX)).is_ok());
        assert_eq!(read(&deep(FILTER_DEPTH_MAX + 1)), Err(BadFilter));
        assert_eq!(read_filter_json("[".repeat(FILTER_BYTES_MAX).as_bytes()), Err(BadFilter));
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (read_filter_json(&bytes), read_filter_protobuf(&bytes));
        }
    }
}
