//! `GET /connections/slow`: the connections with the largest backlogs on all shards, 20 or `?count=N`.

use std::cmp::Reverse;

use hyper::StatusCode;
use serde::Serialize;

use super::State;
use super::answer::{Answer, JSON, answer, text};
use super::query::pairs;
use crate::gateway::unknown_parameter;
use crate::limits::SLOWEST_MAX;
use crate::server::{SlowConnection, address_text};

/// Number of connections in a list without `count`.
const COUNT: usize = 20;

/// A connection, as it is written.
#[derive(Serialize)]
struct Row {
    shard: u16,
    slot: u32,
    generation: u32,
    peer: Option<String>,
    outbox_bytes: usize,
    oldest_age_ms: u64,
    topic_count: usize,
    topics: Vec<String>,
}

#[derive(Serialize)]
struct Rows {
    connections: Vec<Row>,
}

/// Answers one request.
pub(super) async fn get(state: &State, query: Option<&str>) -> Answer {
    let count = match count(query.unwrap_or_default()) {
        Ok(count) => count,
        Err(remedy) => return text(StatusCode::BAD_REQUEST, remedy),
    };
    match state.slowest(count).await {
        Ok(found) => {
            let rows = Rows { connections: slowest(found, count).into_iter().map(Row::from).collect() };
            answer(StatusCode::OK, JSON, serde_json::to_vec(&rows).expect("rows have no maps"))
        }
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, error),
    }
}

/// Number of connections that the request wants.
fn count(query: &str) -> Result<usize, String> {
    let mut count = COUNT;
    for pair in pairs(query) {
        let (name, value) = pair?;
        if name != "count" {
            return Err(unknown_parameter(&name, &["count"]));
        }
        let wanted = value.parse().ok().filter(|wanted| (1..=SLOWEST_MAX).contains(wanted));
        count = wanted.ok_or_else(|| format!("count must be a number from 1 to {SLOWEST_MAX}"))?;
    }
    Ok(count)
}

/// The slowest of those that the shards have named.
fn slowest(mut found: Vec<SlowConnection>, count: usize) -> Vec<SlowConnection> {
    found.sort_by_key(|connection| Reverse(connection.outbox_bytes));
    found.truncate(count);
    found
}

impl From<SlowConnection> for Row {
    fn from(connection: SlowConnection) -> Row {
        let SlowConnection { shard, id, peer, outbox_bytes, oldest_age_ms, topics } = connection;
        let names = topics.iter().map(|topic| topic.to_string()).collect();
        let peer = peer.map(address_text);
        let (slot, generation, topic_count) = (id.slot.0, id.generation, topics.len());
        Row { shard, slot, generation, peer, outbox_bytes, oldest_age_ms, topic_count, topics: names }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::control::fake::Shards;

    fn ask(query: Option<&str>) -> (u16, String) {
        let state = Shards::default().state();
        tokio_uring::start(async {
            let (parts, body) = get(&state, query).await.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
        })
    }

    #[test]
    fn the_slowest_of_all_shards_come_first() {
        let (status, body) = ask(None);
        assert_eq!(status, 200, "{body}");
        let rows: serde_json::Value = serde_json::from_str(&body).unwrap();
        let bytes = |row: &serde_json::Value| row["outbox_bytes"].as_u64().unwrap();
        assert_eq!(rows["connections"].as_array().unwrap().iter().map(bytes).collect::<Vec<_>>(), [300, 200, 100]);
        let first = serde_json::json!({"shard": 1, "slot": 2, "generation": 0, "peer": "192.0.2.7:40000",
                                       "outbox_bytes": 300, "oldest_age_ms": 5, "topic_count": 1, "topics": ["a"]});
        assert_eq!(rows["connections"][0], first);
        let (_, body) = ask(Some("count=1"));
        assert!(body.contains("300") && !body.contains("200"), "{body}");
    }

    #[test]
    fn counts_that_are_none_are_refused() {
        for query in ["count=0", "count=x", "count=", "count=1001", "count=%ff", "cuont=1"] {
            assert_eq!(ask(Some(query)).0, 400, "{query}");
        }
    }
}
