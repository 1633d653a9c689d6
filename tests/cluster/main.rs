//! Three nodes on real NATS servers: publishers with idempotency keys on all nodes, subscribers that move between them,
//! nodes and NATS servers that are killed. At the end all nodes must hold the same.
//!
//! `RINGFEED_CLUSTER_ROUNDS` repeats the faults so many times.

#[path = "../support/mod.rs"]
mod support;

#[path = "../tls/authority.rs"]
#[allow(dead_code, reason = "shared with the tests of TLS, which use all of it")]
mod authority;
mod doctor;
mod figures;
mod members;
mod nats;
mod protocols;
mod secure;
mod subscriber;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use nats::Nats;
use protocols::{Event, Next, Protocol, Stream};
use subscriber::{Nodes, Subscriber, Truth};
use support::server::Server;
use support::{PATIENCE, http, target_dir};

const TOPICS: usize = 6;
const PUBLISHERS: usize = 3;
const SUBSCRIBERS: usize = 6;

/// Time that the cluster may take to be ready again after a fault, elections included.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(60);

/// Three nodes.
struct Cluster {
    nats: Nats,
    nodes: Vec<Option<Server>>,
    configs: Vec<std::path::PathBuf>,
    data: Nodes,
    control: Nodes,
}

impl Cluster {
    fn start(program: &Path, name: &str, servers: usize) -> Cluster {
        let nats = Nats::start(program, name, servers);
        let directory = target_dir("cluster").join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("the target directory can be written to");
        let config = |node: usize| {
            let path = directory.join(format!("{node}.toml"));
            let text = format!(
                "[[listener]]\naddress = \"127.0.0.1:0\"\n[namespaces.default]\nhistory_size = 5000\npresence = true\n\
                 outbox_bytes_max = 16777216\n[namespaces.rooms]\npresence = true\n\
                 join_leave = true\nforce_join_leave = true\n[centrifuge]\nanonymous = true\n[cluster]\nenabled = true\nnode = \"node-{node}\"\nservers = {}\n\
                 replicas = {}\nbuckets = 2\nstart_wait_ms = 2000\n",
                nats.addresses(),
                servers.min(3)
            );
            std::fs::write(&path, text).expect("the target directory can be written to");
            path
        };
        let configs: Vec<_> = (0..3).map(config).collect();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let (data, control) = (Nodes::default(), Nodes::default());
        data.lock().unwrap().resize(3, nobody);
        control.lock().unwrap().resize(3, nobody);
        let mut cluster = Cluster { nats, nodes: Vec::new(), configs, data, control };
        cluster.nodes.resize_with(3, || None);
        (0..3).for_each(|node| cluster.start_node(node));
        cluster.wait_until_ready();
        cluster
    }

    fn start_node(&mut self, node: usize) {
        let server = Server::start_with_config(&self.configs[node], &[]);
        self.data.lock().unwrap()[node] = server.data;
        self.control.lock().unwrap()[node] = server.control;
        self.nodes[node] = Some(server);
    }

    fn control(&self, node: usize) -> SocketAddr {
        self.control.lock().unwrap()[node]
    }

    #[track_caller]
    fn wait_until_ready(&self) {
        self.wait_for("all nodes are ready", |cluster| {
            (0..3).all(|node| {
                let metrics = http::get(cluster.control(node), "/metrics");
                let text = metrics.text();
                let is = |line: &str| text.lines().any(|other| other == line);
                is("ringfeed_cluster_ready 1") && is("ringfeed_cluster_connected 1") && is("ringfeed_cluster_peers 2")
            })
        });
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        let deadline = Instant::now() + CLUSTER_PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "timeout: {what}");
            sleep(Duration::from_millis(50));
        }
    }

    fn api(&self, node: usize, method: &str, request: &Value) -> Value {
        let request = request.to_string();
        let response =
            http::post(self.control(node), &format!("/api/{method}"), "application/json", request.as_bytes());
        serde_json::from_slice(&response.body).expect("JSON")
    }

    /// A number in the metrics of all nodes together.
    fn sum(&self, name: &str) -> u64 {
        let number = |node| {
            let metrics = http::get(self.control(node), "/metrics");
            let line = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            line.unwrap_or(0_u64)
        };
        (0..3).map(number).sum()
    }
}

fn topic(number: usize) -> String {
    format!("room/{number}")
}

/// Publishes until `stop`: each message to some node, and again to others until one accepts it.
fn publish(publisher: usize, control: &Nodes, truth: &Mutex<Truth>, stop: &AtomicBool, published: &AtomicU64) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        // JSON, for the subscribers of Centrifugo's protocol.
        let message = format!("\"{publisher}-{number}\"");
        let topic = topic((publisher + number) % TOPICS);
        let deadline = Instant::now() + CLUSTER_PATIENCE;
        let mut node = publisher + number;
        let position = loop {
            let address = control.lock().unwrap()[node % 3];
            match post(address, &topic, &message) {
                Some(position) => break position,
                None => node += 1,
            }
            assert!(Instant::now() < deadline, "nobody accepts {message}");
            sleep(Duration::from_millis(20));
        };
        truth.lock().unwrap().see((topic, position.0, position.1), &message);
        published.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(2));
    }
}

/// The position of a message; `None` if the node does not accept it now, or does not answer.
fn post(address: SocketAddr, topic: &str, message: &str) -> Option<(String, u64)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(15))).ok()?;
    let request = format!(
        "POST /publish/{topic} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nIdempotency-Key: {}\r\n\
         Content-Length: {}\r\n\r\n{message}",
        message.trim_matches('"'),
        message.len()
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    let (head, body) = response.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200") {
        assert!(head.starts_with("HTTP/1.1 503"), "{response}");
        return None;
    }
    let position: Value = serde_json::from_str(body).ok()?;
    Some((position["epoch"].as_str()?.to_owned(), position["offset"].as_u64()?))
}

/// Faults under load; then everybody must hold the same.
fn faults(program: &Path, name: &str) {
    let mut cluster = Cluster::start(program, name, 3);
    let (truth, stop, published) = (Arc::default(), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let subscriber = |number: usize| {
        let protocol = [Protocol::Envelope, Protocol::Centrifugo, Protocol::Sse][number % 3];
        let topics = match protocol {
            // An event stream of several topics does not say of which one a message is.
            Protocol::Sse => vec![topic(number)],
            _ => (0..TOPICS).filter(|topic| topic % 2 == number % 2).map(topic).collect(),
        };
        let (nodes, truth, stop) = (cluster.data.clone(), Arc::clone(&truth), stop.clone());
        let subscriber = Subscriber { protocol, nodes, truth, topics, node: number, stop };
        spawn(move || subscriber.run())
    };
    let subscribers: Vec<_> = (0..SUBSCRIBERS).map(subscriber).collect();
    let publisher = |number: usize| {
        let (control, truth) = (cluster.control.clone(), Arc::clone(&truth));
        let (stop, published) = (stop.clone(), published.clone());
        spawn(move || publish(number, &control, &truth, &stop, &published))
    };
    let publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();
    let more = |cluster: &Cluster, what: &str| {
        let before = published.load(Ordering::Relaxed);
        let start = Instant::now();
        cluster.wait_for(what, |_| published.load(Ordering::Relaxed) >= before + 300);
        eprintln!("{name}: {what}: 300 publications in {:.1?}", start.elapsed());
    };
    more(&cluster, "publishing");
    let rounds = std::env::var("RINGFEED_CLUSTER_ROUNDS").map_or(1, |text| text.parse().expect("a number"));
    for round in 0..rounds {
        cluster.nodes[round % 3] = None;
        more(&cluster, "a node is dead");
        cluster.start_node(round % 3);
        cluster.wait_until_ready();
        cluster.nats.kill(round % 3);
        more(&cluster, "a NATS server is dead");
        cluster.nats.start_one(round % 3);
        more(&cluster, "the NATS server is there again");
        cluster.wait_until_ready();
    }
    stop.store(true, Ordering::Relaxed);
    for thread in publishers.into_iter().chain(subscribers) {
        thread.join().expect("nobody has found anything wrong");
    }
    assert_same(&cluster);
    let truth = truth.lock().unwrap();
    let resets = cluster.sum("ringfeed_cluster_resets_total");
    eprintln!(
        "{name}: {} publications, {} deliveries, {} recoveries, {} losses told, longest pauses {:.1?}, resets {resets}",
        published.load(Ordering::Relaxed),
        truth.deliveries,
        truth.recoveries,
        truth.losses,
        truth.pauses
    );
    assert!(truth.deliveries > 1000 && truth.recoveries > 10);
    assert_eq!(truth.losses, 0, "the histories of all nodes hold everything");
    assert_eq!(cluster.sum("ringfeed_cluster_lost_logs_total"), 0, "no log was taken for rewritten");
}

/// All nodes have the same positions and the same histories, also those that started in between.
fn assert_same(cluster: &Cluster) {
    let histories = |node: usize| -> Vec<Value> {
        let request = |topic| json!({ "channel": topic, "limit": 1000, "reverse": true });
        (0..TOPICS).map(|number| cluster.api(node, "history", &request(topic(number)))["result"].clone()).collect()
    };
    cluster.wait_for("all nodes have read the same", |_| {
        let positions =
            |node| histories(node).iter().map(|page| (page["epoch"].clone(), page["offset"].clone())).collect();
        let positions: Vec<Vec<_>> = (0..3).map(positions).collect();
        positions[0] == positions[1] && positions[0] == positions[2]
    });
    let all: Vec<Vec<Value>> = (0..3).map(histories).collect();
    for (number, first) in all[0].iter().enumerate() {
        assert!(first["offset"].as_u64() > Some(0), "nothing in topic {number}");
        for other in &all[1..] {
            let pairs = |page: &Value| page["publications"].as_array().expect("a list").clone();
            assert_eq!(pairs(first), pairs(&other[number]), "two nodes hold other messages in topic {number}");
        }
    }
}

#[test]
fn faults_lose_and_repeat_nothing() {
    faults(&nats::CURRENT, "current");
}

#[test]
fn the_oldest_servers_work_as_well() {
    let Some(program) = nats::debian() else { return };
    let cluster = Cluster::start(&program, "debian", 1);
    let position = |node| post(cluster.control(node), "a", &format!("from {node}")).expect("a position");
    let positions: Vec<_> = (0..3).map(position).collect();
    assert_eq!(positions.iter().map(|position| position.1).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(positions.iter().all(|position| position.0 == positions[0].0));
    let again = post(cluster.control(1), "a", "from 0");
    assert_eq!(again.as_ref(), Some(&positions[0]), "an idempotency key counts on all nodes");

    // The history is removed everywhere, and offsets go on.
    assert_eq!(cluster.api(0, "history_remove", &json!({ "channel": "a" })), json!({ "result": {} }));
    cluster.wait_for("the history is gone", |cluster| {
        let page = |node| cluster.api(node, "history", &json!({ "channel": "a", "limit": 10 }))["result"].clone();
        (0..3).map(page).all(|page| page["offset"] == 3 && page["publications"] == json!([]))
    });
    // An operator closes connections on all nodes.
    let positions = HashMap::new();
    let mut subscribers: Vec<Stream> = (0..3)
        .map(|node| {
            let address = cluster.data.lock().unwrap()[node];
            Stream::connect(Protocol::Envelope, address, &["b".to_owned()], &positions).expect("the node accepts")
        })
        .collect();
    for subscriber in &mut subscribers {
        while !matches!(subscriber.next(), Next::Event(Event::Subscribed(..))) {}
    }
    let closed = cluster.api(0, "disconnect", &json!({ "topic": "b" }));
    assert_eq!(closed, json!({ "result": { "num_connections": 3 } }));
    for subscriber in &mut subscribers {
        while !matches!(subscriber.next(), Next::End) {}
    }
    let closed = cluster.api(1, "disconnect", &json!({ "address": "127.0.0.1" }));
    assert_eq!(closed, json!({ "result": { "num_connections": 0 } }));
    let info = cluster.api(2, "info", &json!({}));
    assert_eq!(info["result"]["nodes"].as_array().map(Vec::len), Some(3), "{info}");
}

#[test]
fn a_node_that_cannot_join_says_why() {
    let nats = Nats::start(&nats::CURRENT, "alone", 1);
    let config = target_dir("cluster").join(format!("alone-{}.toml", std::process::id()));
    let text = format!("[cluster]\nenabled = true\nservers = {}\nreplicas = 3\nbuckets = 1\n", nats.addresses());
    std::fs::write(&config, text).expect("the target directory can be written to");
    let mut command = support::server::ringfeed();
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--config"]).arg(&config);
    let mut process = support::process::Process::start("ringfeed", command);
    assert_eq!(process.wait(PATIENCE * 2).code(), Some(2));
    let errors = process.all_errors(PATIENCE);
    assert!(errors.contains("run as many NATS servers as replicas in one cluster, or set replicas = 1"), "{errors}");
}
