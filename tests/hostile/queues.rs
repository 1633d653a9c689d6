//! STOMP's queues with competing consumers, `queues = "broker"`: on TCP, over both shards, with clients that break off,
//! do not acknowledge and do not read.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Instant;

use crate::metrics::total;
use crate::support::server::Server;
use crate::support::{PATIENCE, target_dir};

const CONFIG: &str = r#"
[[listener]]
address = "127.0.0.1:0"

[[listener]]
address = "127.0.0.1:0"
protocol = "stomp"

[namespaces.default]
publish = "anyone"

[stomp]
queues = "broker"
queue_messages_max = 50
"#;

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut client = Client(BufReader::new(stream));
        client.send("CONNECT\naccept-version:1.2\nhost:a\n\n");
        assert!(client.next().starts_with("CONNECTED\n"));
        client
    }

    fn send(&mut self, frame: &str) {
        self.0.get_mut().write_all(format!("{frame}\0").as_bytes()).expect("the server reads");
    }

    fn subscribe(&mut self, more: &str) {
        self.send(&format!("SUBSCRIBE\nid:s\ndestination:/queue/jobs\nreceipt:r\n{more}\n"));
        assert_eq!(self.next(), "RECEIPT\nreceipt-id:r\n\n");
    }

    fn publish(&mut self, body: &str) {
        self.send(&format!("SEND\ndestination:/queue/jobs\nkind:a\nreceipt:{body}\n\n{body}"));
        assert_eq!(self.next(), format!("RECEIPT\nreceipt-id:{body}\n\n"));
    }

    /// The next frame, without its NUL and without heart-beats before it.
    fn next(&mut self) -> String {
        let mut frame = Vec::new();
        self.0.read_until(0, &mut frame).expect("a frame");
        assert_eq!(frame.pop(), Some(0), "the server has closed");
        String::from_utf8(frame).expect("text").trim_start_matches('\n').to_owned()
    }

    /// The next message: its body, the id to acknowledge, and whether it is redelivered.
    fn message(&mut self) -> (String, String, bool) {
        let frame = self.next();
        let (head, body) = frame.split_once("\n\n").expect("a head");
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        assert!(head.starts_with("MESSAGE\nsubscription:s\n"), "{frame}");
        assert_eq!((header("destination"), header("kind")), (Some("/queue/jobs"), Some("a")), "{frame}");
        let id = header("ack").unwrap_or_default().to_owned();
        (body.to_owned(), id, header("redelivered") == Some("true"))
    }

    /// Sends a frame with a receipt, and waits for it.
    fn settle(&mut self, command: &str, id: &str, more: &str) {
        self.send(&format!("{command}\nid:{id}\n{more}receipt:done\n\n"));
        assert_eq!(self.next(), "RECEIPT\nreceipt-id:done\n\n");
    }
}

fn start(name: &str) -> (Server, SocketAddr) {
    let path = target_dir("hostile").join(name);
    fs::write(&path, CONFIG).expect("the target directory can be written to");
    let server = Server::start_with_config(&path, &["--shards", "2"]);
    let address = server.listeners[1].strip_prefix("stomp://").expect("the listener of STOMP").parse();
    (server, address.expect("an address"))
}

#[test]
fn each_message_goes_to_one_consumer_and_again_without_an_acknowledgement() {
    let (_server, address) = start("queue.toml");
    let mut sender = Client::connect(address);
    sender.publish("0");
    let (mut first, mut second) = (Client::connect(address), Client::connect(address));
    first.subscribe("ack:client-individual\n");
    let (body, waiting, _) = first.message();
    assert_eq!(body, "0", "it has waited for a consumer");
    second.subscribe("ack:client-individual\n");
    // One after the other.
    for body in ["1", "2", "3", "4"] {
        sender.publish(body);
    }
    let mut bodies = Vec::new();
    for client in [&mut first, &mut second] {
        let messages = [client.message(), client.message()];
        for (body, id, is_redelivered) in messages {
            client.settle("ACK", &id, "");
            assert!(!is_redelivered);
            bodies.push(body);
        }
    }
    bodies.sort();
    assert_eq!(bodies, ["1", "2", "3", "4"]);
    first.settle("NACK", &waiting, "");
    // The next one receives it; if it breaks off, the other one does.
    let (holder, mut second) = if is_first_next(&first, &second) { (first, second) } else { (second, first) };
    drop(holder);
    let (body, id, is_redelivered) = second.message();
    assert_eq!((&*body, is_redelivered), ("0", true));
    second.settle("ACK", &id, "");
    second.send(&format!("ACK\nid:{id}\n\n"));
    assert!(second.next().contains("message:cannot acknowledge\n"), "once is enough");
}

/// Whether the first of two clients has something to read, or else the second one.
fn is_first_next(first: &Client, second: &Client) -> bool {
    let has_bytes = |client: &Client| {
        let stream = client.0.get_ref();
        stream.set_nonblocking(true).expect("a mode");
        let has_bytes = !client.0.buffer().is_empty() || stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).expect("a mode");
        has_bytes
    };
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match (has_bytes(first), has_bytes(second)) {
            (false, false) => thread::yield_now(),
            (is_first, _) => return is_first,
        }
    }
    panic!("nobody receives it");
}

#[test]
fn a_cumulative_acknowledgement_and_a_transaction_settle_several() {
    let (_server, address) = start("cumulative.toml");
    let (mut sender, mut reader) = (Client::connect(address), Client::connect(address));
    reader.subscribe("ack:client\nprefetch-count:3\n");
    for body in ["1", "2", "3", "4", "5"] {
        sender.publish(body);
    }
    let ids: Vec<String> = (0..3).map(|_| reader.message().1).collect();
    reader.settle("ACK", &ids[1], "");
    assert_eq!((reader.message().0, reader.message().0), ("4".to_owned(), "5".to_owned()), "its window has room");
    reader.send("BEGIN\ntransaction:t\n\n");
    reader.settle("ACK", &ids[2], "transaction:t\n");
    reader.send("SEND\ndestination:/queue/jobs\nkind:a\ntransaction:t\n\n6");
    reader.send("COMMIT\ntransaction:t\nreceipt:c\n\n");
    let mut frames = [reader.next(), reader.next()];
    frames.sort();
    assert!(frames[0].ends_with("\n\n6") && frames[1].starts_with("RECEIPT\nreceipt-id:c\n"), "{frames:?}");
    // Messages without an acknowledgement come again, in order, to the next consumer.
    reader.send("UNSUBSCRIBE\nid:s\n\n");
    sender.subscribe("");
    let again: Vec<String> = (0..3).map(|_| sender.message().0).collect();
    assert_eq!(again, ["4", "5", "6"]);
}

#[test]
fn a_full_queue_rejects_and_a_user_has_no_queue_of_others() {
    let (server, address) = start("full.toml");
    let mut sender = Client::connect(address);
    for number in 0..50 {
        sender.publish(&number.to_string());
    }
    sender.send("SEND\ndestination:/queue/jobs\nreceipt:r\n\n51");
    let error = sender.next();
    assert!(error.contains("message:cannot publish\n") && error.contains("the queue is full"), "{error}");
    assert_eq!(total(&server, "ringfeed_stomp_errors_total", "cannot_publish"), 1);
    // A consumer of another one's delivery.
    let (mut first, mut second) = (Client::connect(address), Client::connect(address));
    first.subscribe("ack:client\nprefetch-count:1\n");
    let (_, id, _) = first.message();
    second.subscribe("ack:client\nprefetch-count:1\n");
    let (body, own, _) = second.message();
    second.settle("ACK", &id, "");
    second.settle("ACK", &own, "");
    assert_eq!((&*body, &*second.message().0), ("1", "2"), "the first one still has its message");
}

/// A consumer that does not read has a bound, and the others receive the rest.
#[test]
fn a_consumer_that_does_not_read_leaves_the_rest_to_others() {
    let (_server, address) = start("slow.toml");
    let (mut sender, mut slow, mut fast) =
        (Client::connect(address), Client::connect(address), Client::connect(address));
    slow.subscribe("");
    fast.subscribe("");
    let body = "x".repeat(60_000);
    let reader = thread::spawn(move || {
        let mut count = 1;
        while fast.message().0 != "last" {
            count += 1;
        }
        count
    });
    // More than the slow one's buffers take, and what may be unsent for it.
    for number in 0..400 {
        sender.send(&format!("SEND\ndestination:/queue/jobs\nkind:a\nreceipt:{number}\n\n{body}"));
        assert_eq!(sender.next(), format!("RECEIPT\nreceipt-id:{number}\n\n"));
    }
    // The slow one may be next.
    sender.publish("last");
    sender.publish("last");
    assert!(reader.join().expect("the last message arrives") > 200);
}
