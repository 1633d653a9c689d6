//! `ringfeed connections` and `ringfeed topics`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum, value_parser};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::bad_input;
use super::server::ServerArguments;
use crate::client::{ClientError, HttpClient, printable};
use crate::limits::LIST_ROWS_MAX;

/// Lists the connections of a running server: all, or those of an address, a user or a topic.
///
/// The exit code is 1 if the server cannot be reached or rejects the request.
#[derive(Args, Debug)]
pub(super) struct ConnectionsArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Those from this address, without a port
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// Those of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Those that have subscribed to this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Those with the largest backlogs
    #[arg(long, conflicts_with_all = ["address", "user", "topic", "close"])]
    slow: bool,
    /// Close them: all that the one choice of address, user or topic names, listed or not
    #[arg(long)]
    close: bool,
    /// Rows at most
    #[arg(long, value_name = "N", default_value = "100", value_parser = value_parser!(u32).range(1..))]
    limit: u32,
    /// Print the rows as JSON, one a line
    #[arg(long)]
    json: bool,
}

/// Lists the topics of a running server: those with subscribers, a history, or publications that it remembers.
///
/// The exit code is 1 if the server cannot be reached or rejects the request.
#[derive(Args, Debug)]
pub(super) struct TopicsArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// Those that match: `*` stands for any characters
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<String>,
    /// The order, the largest first [default: as the shards have them]
    #[arg(long, value_name = "ORDER", value_enum)]
    sort: Option<Order>,
    /// Look twice, a second apart, and show the publications of that second
    #[arg(long)]
    rates: bool,
    /// Rows to read at most; the order is among these
    #[arg(long, value_name = "N", default_value = "1000", value_parser = value_parser!(u32).range(1..))]
    limit: u32,
    /// Print the rows as JSON, one a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// By subscribers.
    Subscribers,
    /// By publications: those of the second with --rates, those since the topic's epoch began without.
    Publications,
    /// By bytes of the history.
    History,
}

pub(super) fn connections(arguments: ConnectionsArguments) -> ExitCode {
    let choices = [
        ("address", arguments.address.map(|address| address.to_string())),
        ("user", arguments.user.clone()),
        ("topic", arguments.topic.clone()),
    ];
    let chosen: Vec<(&str, String)> = choices.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    if arguments.close && chosen.len() != 1 {
        return bad_input("--close closes connections by one choice: --address, --user or --topic");
    }
    let ConnectionsArguments { server, slow, close, limit, json, .. } = arguments;
    server.run(async |server| {
        let rows = match slow {
            true => {
                let answer = server.get(&format!("/connections/slow?count={limit}")).await?;
                rows_of(&answer, "connections").0
            }
            false => pages(server, "/admin/connections", "connections", &chosen, limit as usize).await?,
        };
        print(&rows, json, if slow { SLOW_COLUMNS } else { CONNECTION_COLUMNS });
        if let Some((name, value)) = chosen.first().filter(|_| close) {
            let body = Bytes::from(json!({ *name: value }).to_string());
            let answer = server.post("/api/disconnect", "application/json", body).await?;
            eprintln!("disconnect {name} {value}: {}", printable(&answer));
        }
        Ok(())
    })
}

pub(super) fn topics(arguments: TopicsArguments) -> ExitCode {
    let TopicsArguments { server, pattern, sort, rates, limit, json } = arguments;
    let chosen: Vec<(&str, String)> = pattern.into_iter().map(|pattern| ("match", pattern)).collect();
    server.run(async |server| {
        let path = "/admin/topics";
        let before = match rates {
            true => pages(server, path, "topics", &chosen, limit as usize).await?,
            false => Vec::new(),
        };
        if rates {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let mut rows = pages(server, path, "topics", &chosen, limit as usize).await?;
        if rates {
            add_rates(&before, &mut rows);
        }
        if let Some(sort) = sort {
            let key = match (sort, rates) {
                (Order::Subscribers, _) => "subscribers",
                (Order::Publications, true) => RATE,
                (Order::Publications, false) => "offset",
                (Order::History, _) => "history_bytes",
            };
            rows.sort_by_key(|row| std::cmp::Reverse(row[key].as_u64()));
        }
        print(&rows, json, if rates { TOPIC_RATE_COLUMNS } else { TOPIC_COLUMNS });
        Ok(())
    })
}

/// Reads pages of a list until there are `limit` rows, or no more.
async fn pages(
    server: &mut HttpClient,
    path: &str,
    name: &str,
    chosen: &[(&str, String)],
    limit: usize,
) -> Result<Vec<Value>, ClientError> {
    let query: String = chosen.iter().map(|(name, value)| format!("&{name}={}", encoded(value))).collect();
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let count = (limit - rows.len()).min(LIST_ROWS_MAX);
        let answer = server.get(&format!("{path}?limit={count}&cursor={}{query}", encoded(&cursor))).await?;
        let (more, next) = rows_of(&answer, name);
        rows.extend(more);
        match next {
            Some(next) if rows.len() < limit => cursor = next,
            _ => return Ok(rows),
        }
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The rows of an answer, and where the next page begins.
fn rows_of(answer: &[u8], name: &str) -> (Vec<Value>, Option<String>) {
    let mut answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let next = answer["cursor"].as_str().map(str::to_owned);
    match answer[name].take() {
        Value::Array(rows) => (rows, next),
        _ => (Vec::new(), next),
    }
}

/// The field with the publications of a second.
const RATE: &str = "publications_per_s";

/// Adds the publications since an earlier look. A topic whose epoch is another one has begun anew.
fn add_rates(before: &[Value], rows: &mut [Value]) {
    let key = |row: &Value| (row["name"].to_string(), row["epoch"].to_string());
    let before: HashMap<_, u64> = before.iter().map(|row| (key(row), row["offset"].as_u64().unwrap_or(0))).collect();
    for row in rows {
        let offset = row["offset"].as_u64().unwrap_or(0);
        row[RATE] = offset.saturating_sub(before.get(&key(row)).copied().unwrap_or(0)).into();
    }
}

/// A column: the field, its head, and its width. Numbers stand at the right.
type Column = (&'static str, &'static str, usize);

const CONNECTION_COLUMNS: &[Column] = &[
    ("shard", "shard", 5),
    ("address", "address", 24),
    ("route", "route", 24),
    ("state", "state", 9),
    ("user", "user", 16),
    ("subscriptions", "topics", 6),
    ("outbox_bytes", "backlog", 10),
    ("topics", "names", 0),
];

const SLOW_COLUMNS: &[Column] = &[
    ("shard", "shard", 5),
    ("peer", "address", 24),
    ("outbox_bytes", "backlog", 10),
    ("oldest_age_ms", "age ms", 8),
    ("topic_count", "topics", 6),
    ("topics", "names", 0),
];

const TOPIC_COLUMNS: &[Column] = &[
    ("subscribers", "subscribers", 11),
    ("offset", "offset", 12),
    ("history_len", "history", 8),
    ("history_bytes", "bytes", 10),
    ("epoch", "epoch", 13),
    ("name", "topic", 0),
];

const TOPIC_RATE_COLUMNS: &[Column] = &[
    (RATE, "in 1 s", 8),
    ("subscribers", "subscribers", 11),
    ("offset", "offset", 12),
    ("history_bytes", "bytes", 10),
    ("epoch", "epoch", 13),
    ("name", "topic", 0),
];

/// Prints rows, and in a table their heads.
fn print(rows: &[Value], as_json: bool, columns: &[Column]) {
    let text: String = match as_json {
        true => rows.iter().map(|row| format!("{row}\n")).collect(),
        false => table(rows, columns),
    };
    // A reader that has seen enough closes the pipe.
    let _ = io::stdout().lock().write_all(text.as_bytes());
}

fn table(rows: &[Value], columns: &[Column]) -> String {
    let mut text = line(columns.iter().map(|(_, head, width)| (head.to_string(), *width, false)));
    for row in rows {
        text.push_str(&line(
            columns.iter().map(|(field, _, width)| (shown(&row[field]), *width, row[field].is_number())),
        ));
    }
    text
}

fn line(cells: impl Iterator<Item = (String, usize, bool)>) -> String {
    let cell = |(text, width, is_right): (String, usize, bool)| match is_right {
        true => format!("{text:>width$}"),
        false => format!("{text:<width$}"),
    };
    cells.map(cell).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
}

/// A value of a row for people. Names come from clients: control characters would change the terminal.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    };
    text.chars()
        .flat_map(|character| match character.is_control() {
            true => character.escape_default().collect::<Vec<_>>(),
            false => vec![character],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_a_table_without_control_characters() {
        let rows = [
            json!({"subscribers": 3, "offset": 12, "history_len": 0, "history_bytes": 0, "epoch": "e", "name": "a\u{1b}[2J"}),
            json!({"subscribers": 1000, "name": ""}),
        ];
        let text = table(&rows, TOPIC_COLUMNS);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("subscribers  offset") && lines[0].ends_with("topic"), "{text}");
        assert!(lines[1].starts_with("          3  ") && lines[1].ends_with("a\\u{1b}[2J"), "{text}");
        assert!(lines[2].starts_with("       1000  -") && lines[2].ends_with("-"), "{text}");
    }

    #[test]
    fn rates_are_differences_within_an_epoch() {
        let before = [json!({"name": "a", "epoch": "1", "offset": 5}), json!({"name": "b", "epoch": "1", "offset": 5})];
        let mut rows = [
            json!({"name": "a", "epoch": "1", "offset": 9}),
            json!({"name": "b", "epoch": "2", "offset": 3}),
            json!({"name": "c", "epoch": "1", "offset": 1}),
        ];
        add_rates(&before, &mut rows);
        assert_eq!(rows.map(|row| row[RATE].as_u64()), [Some(4), Some(3), Some(1)]);
    }

    #[test]
    fn a_page_that_is_no_list_is_empty() {
        assert_eq!(
            rows_of(b"{\"topics\":[1,2],\"cursor\":\"0.5\"}", "topics"),
            (vec![json!(1), json!(2)], Some("0.5".to_owned()))
        );
        assert_eq!(rows_of(b"oops", "topics"), (Vec::new(), None));
    }
}
