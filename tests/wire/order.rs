//! The seam for the giver of offsets: an order outside of the shards, which decides late.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ringfeed::gateway::{Feed, Sse};
use ringfeed::server::{Order, OrderRequest, Placement, Publisher, Server, ServerConfig, Status, Waiter};
use ringfeed::topics::{
    Answer, ClientInfo, Draft, HistoryQuery, Namespace, Namespaces, Position, PublishError, Query, TopicName, epoch_of,
};
use serde_json::{Value, json};

use crate::inside::without_pings;
use crate::peer::Peer;

/// Keeps all requests until a test takes them.
#[derive(Default)]
struct Kept(Mutex<Vec<(OrderRequest, Waiter)>>);

impl Order for Kept {
    fn buckets(&self) -> u16 {
        1
    }

    fn submit(&self, request: OrderRequest, waiter: Waiter) -> Result<(), (Waiter, PublishError)> {
        match &request {
            OrderRequest::Publish(draft) if draft.payload == "rejected" => Err((waiter, PublishError::NoLog)),
            _ => {
                self.0.lock().unwrap().push((request, waiter));
                Ok(())
            }
        }
    }

    fn on_member(&self, _: &TopicName, _: &Arc<ClientInfo>, _: bool) {}
}

/// A server on two shards whose order a test gives.
struct Ordered {
    data: SocketAddr,
    publisher: Publisher,
    status: Status,
    kept: Arc<Kept>,
}

impl Ordered {
    fn start() -> Ordered {
        let namespace = Namespace { history_size: 5, ..Namespace::default() };
        let namespaces = Arc::new(Namespaces::new(namespace, Vec::new()));
        let listeners = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
        let config = ServerConfig { namespaces: namespaces.clone(), listeners, shards: 2, ..without_pings() };
        let kept = Arc::new(Kept::default());
        let sse = namespaces.clone();
        let server = Server::builder(config)
            .route("/feed/", move || Feed::new(namespaces.clone()))
            .route("/sse/", move || Sse::new(sse.clone()))
            .order(kept.clone())
            .start()
            .expect("the server starts");
        Ordered { data: server.address(), status: server.status.clone(), publisher: server.publisher, kept }
    }

    fn place(&self, placement: Placement) {
        let mut left = Err(Box::new(placement));
        while let Err(placement) = left {
            left = self.publisher.place(placement);
        }
    }

    fn rebase(&self, lineage: u64, positions: Vec<(TopicName, Position)>) {
        let count = positions.len() as u64;
        self.place(Placement::Rebased { bucket: 0, lineage, positions: positions.into() });
        self.place(Placement::Settled { bucket: 0 });
        // A connection's shard may handle its request before it takes this.
        let query = Query::History(HistoryQuery::default());
        let is_settled = |answer: Answer| match answer {
            Answer::History(page) => count == 0 || page.is_some_and(|page| page.position.offset > 0),
            _ => false,
        };
        while !is_settled(self.publisher.ask(topic(), query.clone()).unwrap().blocking_recv().unwrap()) {
            std::thread::yield_now();
        }
    }

    /// The oldest request that nobody has decided, once it is there.
    fn next(&self) -> (OrderRequest, Waiter) {
        loop {
            let mut kept = self.kept.0.lock().unwrap();
            if !kept.is_empty() {
                return kept.remove(0);
            }
            drop(kept);
            std::thread::yield_now();
        }
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        while self.publisher.drain() == Err(PublishError::Busy) {
            std::thread::yield_now();
        }
    }
}

fn topic() -> TopicName {
    TopicName::new("a").unwrap()
}

fn at(lineage: u64, offset: u64) -> Position {
    Position { epoch: epoch_of(&topic(), lineage), offset }
}

fn draft(text: &'static str) -> Draft {
    Draft::new(topic(), true, Bytes::from_static(text.as_bytes()))
}

fn placed(text: &'static str, position: Position, waiter: Option<Waiter>) -> Placement {
    Placement::Published { draft: draft(text), position, time_ms: 77, waiter }
}

/// The next message of an envelope peer: its head, and the payload.
fn next(peer: &mut Peer) -> (Value, String) {
    let message = String::from_utf8(peer.next_message().1).unwrap();
    let (head, payload) = message.split_once('\n').unwrap();
    (serde_json::from_str(head).unwrap(), payload.to_owned())
}

#[test]
fn a_publication_may_get_its_position_later_and_from_elsewhere() {
    let server = Ordered::start();
    let refused = server.publisher.publish(draft("rejected")).unwrap().blocking_recv().unwrap();
    assert_eq!(refused, Err(PublishError::NoLog));
    server.rebase(5, Vec::new());
    let mut peer = Peer::open_envelope(server.data, "/feed/a?history=5");
    let epoch = epoch_of(&topic(), 5).to_string();
    let (head, _) = next(&mut peer);
    assert_eq!((&head["epoch"], &head["offset"]), (&json!(epoch), &json!(0)));

    let mut outcome = server.publisher.publish(draft("mine")).unwrap();
    let (_, waiter) = server.next();
    assert!(outcome.try_recv().is_err(), "nobody has decided");
    server.place(placed("theirs", at(5, 1), None));
    server.place(placed("mine", at(5, 2), Some(waiter)));
    assert_eq!(outcome.blocking_recv().unwrap(), Ok(at(5, 2)));
    for (offset, text) in [(1, "theirs"), (2, "mine")] {
        let (head, payload) = next(&mut peer);
        assert_eq!(head, json!({"topic": "a", "epoch": epoch, "offset": offset, "time": 77}));
        assert_eq!(payload, text);
    }

    let repeated = server.publisher.publish(draft("mine")).unwrap();
    let (_, waiter) = server.next();
    server.place(Placement::Answered { waiter, result: Ok(at(5, 2)) });
    assert_eq!(repeated.blocking_recv().unwrap(), Ok(at(5, 2)));

    let removed = server.publisher.ask(topic(), Query::RemoveHistory).unwrap();
    let (request, waiter) = server.next();
    assert!(matches!(request, OrderRequest::RemoveHistory(_)));
    server.place(Placement::HistoryRemoved { topic: topic(), waiter: Some(waiter) });
    assert!(matches!(removed.blocking_recv().unwrap(), Answer::HistoryRemoved));
}

#[test]
fn subscribers_reconnect_when_positions_have_changed_and_learn_of_the_loss() {
    let server = Ordered::start();
    let epoch = epoch_of(&topic(), 5);
    let mut early = Peer::open_envelope(server.data, "/feed/a?history=1");
    early.expect_close(1013);
    server.rebase(5, Vec::new());
    server.place(placed("1", at(5, 1), None));
    let mut peer = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:0"));
    assert_eq!(next(&mut peer).0["recovered"], json!(true));
    assert_eq!(next(&mut peer).1, "1");
    server.place(Placement::Unsettled { bucket: 0 });
    server.rebase(5, vec![(topic(), at(5, 3))]);
    assert_eq!(peer.expect_close_reason(1013), "messages may be missing: reconnect and state your position");
    let mut peer = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:1"));
    let (head, _) = next(&mut peer);
    assert_eq!((&head["recovered"], &head["offset"]), (&json!(false), &json!(3)));
    server.place(placed("4", at(5, 4), None));
    assert_eq!(next(&mut peer).1, "4");
}

#[test]
fn a_subscriber_that_is_ahead_of_the_log_waits_for_it() {
    let server = Ordered::start();
    server.rebase(5, vec![(topic(), at(5, 3))]);
    let epoch = epoch_of(&topic(), 5);
    let mut peer = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:5"));
    let mut ended = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:4"));
    let mut removed = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:9"));
    let waiting = |count: u64| {
        let ahead = || server.status.shards.iter().map(|shard| shard.requests_ahead.get()).sum::<u64>();
        while ahead() < count {
            std::thread::yield_now();
        }
    };
    waiting(3);
    server.place(placed("4", at(5, 4), None));
    let (head, _) = next(&mut ended);
    assert_eq!((&head["recovered"], &head["offset"]), (&json!(true), &json!(4)));
    server.place(placed("5", at(5, 5), None));
    server.place(placed("6", at(5, 6), None));
    let (head, _) = next(&mut peer);
    assert_eq!((&head["recovered"], &head["offset"]), (&json!(true), &json!(5)));
    assert_eq!(next(&mut peer).1, "6", "each publication once, from the position on");
    assert_eq!((next(&mut ended).1, next(&mut ended).1), ("5".to_owned(), "6".to_owned()));

    // Nothing brings this position: the log has lost it.
    let (head, _) = next(&mut removed);
    assert_eq!((&head["recovered"], &head["offset"]), (&json!(false), &json!(6)));

    // Positions that are unknown end the wait.
    let mut late = Peer::open_envelope(server.data, &format!("/feed/a?since={epoch}:8"));
    waiting(4);
    server.place(Placement::Unsettled { bucket: 0 });
    late.expect_close(1013);
}
