//! The figures of all nodes, on each node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::Value;

use crate::protocols::{Event, Next, Stream};
use crate::support::http;
use crate::{CLUSTER_PATIENCE, Cluster, nats};

/// The names of the nodes whose figures arrive on the topic until `is_enough`, each with its last counter `turns`.
fn read(
    cluster: &Cluster,
    node: usize,
    topic: &str,
    is_enough: impl Fn(&BTreeMap<String, u64>) -> bool,
) -> Vec<String> {
    let session = http::post(cluster.control(node), "/admin/session", "application/json", b"");
    let session: Value = serde_json::from_slice(&session.body).expect("JSON");
    assert_eq!(session["topic"], "$sys:stats");
    let token = session["token"].as_str().expect("a token");
    let address = cluster.data.lock().unwrap()[node];
    let mut stream = Stream::connect_with_token(address, &[topic.to_owned()], token).expect("the node accepts");
    let (mut turns, mut runs, deadline) = (BTreeMap::new(), BTreeSet::new(), Instant::now() + CLUSTER_PATIENCE);
    while !is_enough(&turns) {
        assert!(Instant::now() < deadline, "timeout: figures of {turns:?} alone");
        let Next::Event(Event::Message(from, _, _, text)) = stream.next() else { continue };
        assert_eq!(from, topic);
        let figures: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(figures["schema"], 1);
        runs.insert(figures["node"].as_str().expect("an id").to_owned());
        let name = figures["name"].as_str().expect("a name").to_owned();
        let before = turns.insert(name, figures["counters"]["turns"].as_u64().expect("a number"));
        assert!(before.is_none_or(|before| before > 0));
    }
    assert_eq!(runs.len(), turns.len(), "each node has one id");
    turns.into_keys().collect()
}

#[test]
fn each_node_has_the_figures_of_all_nodes() {
    let mut cluster = Cluster::start(&nats::CURRENT, "figures", 1);
    let all = ["node-0", "node-1", "node-2"];
    for node in 0..2 {
        assert_eq!(read(&cluster, node, "$sys:nodes", |turns| turns.len() == 3), all);
    }
    // That of a node is its own, also without NATS: nothing of it is in the log.
    cluster.nats.kill(0);
    cluster.wait_for("the node notices", |cluster| {
        http::get(cluster.control(1), "/metrics").text().contains("\nringfeed_cluster_connected 0\n")
    });
    assert_eq!(read(&cluster, 1, "$sys:stats", |turns| !turns.is_empty()), ["node-1"]);
    assert_eq!(cluster.sum("ringfeed_cluster_figures_rejected_total"), 0);
}
