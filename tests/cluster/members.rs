//! Joins and leaves of clients on other nodes, also of those whose node dies.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::nats;
use crate::protocols::{Positions, Protocol, Stream};
use crate::{CLUSTER_PATIENCE, Cluster};

/// A topic whose namespace announces joins and leaves.
const ROOM: &str = "rooms:a";

/// A client in the room, and what it learned of others and of itself.
struct Member {
    stream: Stream,
    expected: Vec<(String, bool)>,
}

impl Member {
    /// Connects and subscribes; returns when it has received its own join.
    fn join(cluster: &Cluster, node: usize) -> Member {
        let address = cluster.data.lock().unwrap()[node];
        let topics = [ROOM.to_owned()];
        let stream = Stream::connect(Protocol::Centrifugo, address, &topics, &Positions::new());
        let mut member = Member { stream: stream.expect("the node accepts"), expected: Vec::new() };
        member.read_until(|stream| !stream.members.is_empty());
        let own = (member.id().to_owned(), true);
        member.expect(&own.0, true);
        member
    }

    fn id(&self) -> &str {
        &self.stream.client
    }

    #[track_caller]
    fn read_until(&mut self, is_there: impl Fn(&Stream) -> bool) {
        let deadline = Instant::now() + CLUSTER_PATIENCE;
        while !is_there(&self.stream) {
            assert!(Instant::now() < deadline, "timeout: only {:?}", self.stream.members);
            self.stream.next();
        }
    }

    /// The next thing that it learns.
    #[track_caller]
    fn expect(&mut self, client: &str, has_joined: bool) {
        self.expected.push((client.to_owned(), has_joined));
        let count = self.expected.len();
        self.read_until(|stream| stream.members.len() >= count);
        assert_eq!(self.stream.members[..count], self.expected);
    }

    /// The next things that it learns, in any order.
    #[track_caller]
    fn expect_leaves(&mut self, clients: &[&str]) {
        let before = self.expected.len();
        self.read_until(|stream| stream.members.len() >= before + clients.len());
        let mut left: Vec<_> = self.stream.members[before..].to_vec();
        left.sort();
        let mut expected: Vec<_> = clients.iter().map(|client| ((*client).to_owned(), false)).collect();
        expected.sort();
        assert_eq!(left, expected);
        self.expected = self.stream.members.clone();
    }
}

#[test]
fn joins_and_leaves_reach_all_nodes_once_also_when_a_node_dies() {
    let mut cluster = Cluster::start(&nats::CURRENT, "members", 1);
    let mut ann = Member::join(&cluster, 0);
    let mut bob = Member::join(&cluster, 1);
    ann.expect(bob.id(), true);
    let carl = Member::join(&cluster, 2);
    let dora = Member::join(&cluster, 2);
    for other in [carl.id(), dora.id()] {
        ann.expect(other, true);
        bob.expect(other, true);
    }
    let eve = Member::join(&cluster, 1);
    ann.expect(eve.id(), true);
    bob.expect(eve.id(), true);
    let gone = eve.id().to_owned();
    drop(eve);
    ann.expect(&gone, false);
    bob.expect(&gone, false);
    assert_eq!(cluster.sum("ringfeed_cluster_members"), 3 + 3 + 2, "four clients, those of other nodes each");

    // A node dies, and with it its clients.
    cluster.nodes[2] = None;
    ann.expect_leaves(&[carl.id(), dora.id()]);
    bob.expect_leaves(&[carl.id(), dora.id()]);
    cluster.start_node(2);
    cluster.wait_until_ready();
    let mut fred = Member::join(&cluster, 2);
    ann.expect(fred.id(), true);
    bob.expect(fred.id(), true);
    let stats = cluster.api(2, "presence_stats", &json!({ "channel": ROOM }));
    assert_eq!(stats, json!({ "result": { "num_clients": 3, "num_users": 1 } }));
    // The clients from before the start of a node are no news on it, but their leaves are.
    let gone = ann.id().to_owned();
    drop(ann);
    fred.expect(&gone, false);
    bob.expect(&gone, false);
    // Nothing arrives twice.
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end {
        bob.stream.next();
        fred.stream.next();
    }
    assert_eq!((bob.stream.members, fred.stream.members), (bob.expected, fred.expected));
    assert_eq!(cluster.sum("ringfeed_cluster_members_left_out_total"), 0);
}
