//! What a handler can do, in virtual time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use ringfeed::conn::KeepAliveConfig;
use ringfeed::limits::{HANDLE_BYTES_MAX, TICK_MS};
use ringfeed::testing::{Received, TestServer};
use ringfeed::{
    Accept, CloseCause, CloseCode, Context, Get, Handle, Handler, Message, Page, Refusal, Request, Response, SendError,
    ServerConfig, Stream,
};

/// Counts the states that exist.
type Alive = Rc<RefCell<usize>>;

/// A state that counts itself.
struct Counted(Alive);

impl Counted {
    fn new(alive: &Alive) -> Counted {
        *alive.borrow_mut() += 1;
        Counted(alive.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.borrow_mut() -= 1;
    }
}

struct Keeper(Alive);

impl Handler for Keeper {
    type State = (Counted, u32);

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<Self::State>, Refusal> {
        let state = (Counted::new(&self.0), 0);
        match request.rest {
            "no" => Err(Refusal::new(403, "no")),
            "close" => {
                conn.close(CloseCode::NORMAL, "");
                Ok(Accept::new(state))
            }
            _ => Ok(Accept::new(state)),
        }
    }

    fn on_message(&mut self, conn: &mut Context<'_>, (_, count): &mut Self::State, _: Message<'_>) {
        *count += 1;
        conn.send(Message::text(&count.to_string()));
    }
}

#[test]
fn each_connection_has_its_state_until_it_ends() {
    let alive = Alive::default();
    let of_handlers = alive.clone();
    let server = TestServer::builder().route("/keep/", move || Keeper(of_handlers.clone())).start();
    let mut clients = [(); 2].map(|()| server.connect("/keep/").unwrap());
    clients[0].send("x");
    clients.iter_mut().for_each(|client| client.send("x"));
    assert_eq!([clients[0].receive(), clients[0].receive()], ["1", "2"].map(|count| Some(Received::text(count))));
    assert_eq!(clients[1].receive(), Some(Received::text("1")), "each counts its own messages");
    assert!(server.connect("/keep/no").is_err());
    assert_eq!(*alive.borrow(), 2, "a refused connection keeps no state");
    let mut brief = server.connect("/keep/close").unwrap();
    assert_eq!(brief.receive(), Some(Received::Close(Some(1000), String::new())));
    drop(clients);
    server.settle();
    assert_eq!(*alive.borrow(), 0);
    // The slots are used again.
    assert!(server.connect("/keep/").is_ok());
}

/// Sets its timer to as many milliseconds as a message says, and clears it for "-".
struct Alarm;

impl Handler for Alarm {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        if let Some(ms) = request.query("ms") {
            conn.set_timer(Duration::from_millis(ms.parse().unwrap()));
        }
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        match message.as_str().unwrap() {
            "-" => conn.clear_timer(),
            "bye" => {
                conn.set_timer(Duration::from_millis(100));
                conn.close(CloseCode::NORMAL, "");
            }
            ms => conn.set_timer(Duration::from_millis(ms.parse().unwrap())),
        }
    }

    fn on_timer(&mut self, conn: &mut Context<'_>, _: &mut ()) {
        conn.send(Message::text("ring"));
    }
}

fn alarm(ping_interval_ms: u64) -> TestServer {
    let keep_alive = KeepAliveConfig { ping_interval_ms, ..KeepAliveConfig::default() };
    let config = ServerConfig { keep_alive, ..ServerConfig::default() };
    TestServer::builder().config(config).route("/alarm", || Alarm).start()
}

fn is_ring(received: Option<Received>) -> bool {
    received == Some(Received::text("ring"))
}

#[test]
fn a_timer_expires_once_and_not_early() {
    for ping_interval_ms in [0, 1000] {
        let server = alarm(ping_interval_ms);
        // Longer than the wheel of the shard, too.
        for ms in [0, 1, 400, 60_000, 200_000] {
            let mut client = server.connect(&format!("/alarm?ms={ms}")).unwrap();
            if ms >= 400 {
                server.advance(Duration::from_millis(ms - 200));
                assert_eq!(client.receive(), None, "{ms}");
            }
            server.advance(Duration::from_millis(200 + 2 * TICK_MS));
            assert!(is_ring(client.receive()), "{ms}");
            server.advance(Duration::from_secs(120));
            assert_eq!(client.receive(), None, "{ms}");
        }
    }
}

#[test]
fn a_new_time_replaces_the_earlier_one() {
    let server = alarm(0);
    let mut client = server.connect("/alarm?ms=10000").unwrap();
    client.send("300");
    server.advance(Duration::from_millis(400));
    assert!(is_ring(client.receive()), "earlier than at first");
    server.advance(Duration::from_secs(20));
    assert_eq!(client.receive(), None, "the first time is void");
    client.send("300");
    client.send("5000");
    server.advance(Duration::from_secs(4));
    assert_eq!(client.receive(), None, "later than at first");
    server.advance(Duration::from_secs(2));
    assert!(is_ring(client.receive()));
    client.send("300");
    client.send("-");
    server.advance(Duration::from_secs(60));
    assert_eq!(client.receive(), None, "cleared");
    client.send("bye");
    assert_eq!(client.receive(), Some(Received::Close(Some(1000), String::new())));
    assert_eq!(client.receive(), Some(Received::End));
}

/// Gives the handles of its connections away, and says goodbye.
struct Giver(Rc<RefCell<Vec<Handle>>>);

impl Handler for Giver {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        self.0.borrow_mut().push(conn.handle());
        if request.rest == "no" {
            return Err(Refusal::new(403, "no"));
        }
        conn.send(Message::text("welcome"));
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), _: Message<'_>) {
        self.0.borrow_mut().push(conn.handle());
    }

    fn on_close(&mut self, conn: &mut Context<'_>, _: (), _: CloseCause) {
        conn.send(Message::text("for nobody"));
        self.0.borrow_mut().push(conn.handle());
    }
}

#[test]
fn a_handle_sends_until_its_connection_ends() {
    let handles = Rc::<RefCell<Vec<Handle>>>::default();
    let of_handlers = handles.clone();
    let server = TestServer::builder().route("/give/", move || Giver(of_handlers.clone())).start();
    assert!(server.connect("/give/no").is_err());
    assert_eq!(handles.borrow_mut().pop().unwrap().send(Message::text("x")), Err(SendError::Closed));
    let mut client = server.connect("/give/").unwrap();
    client.send("x");
    let given = handles.borrow().clone();
    assert_eq!(given.len(), 2);
    given.iter().for_each(|handle| assert_eq!(handle.send(Message::text("hello")), Ok(())));
    assert_eq!(given[0].close(CloseCode(4000), "enough"), Ok(()));
    for text in ["welcome", "hello", "hello"] {
        assert_eq!(client.receive(), Some(Received::text(text)));
    }
    assert_eq!(client.receive(), Some(Received::Close(Some(4000), "enough".to_owned())));
    assert_eq!(client.receive(), Some(Received::End));
    for handle in handles.borrow().iter() {
        assert_eq!((handle.send(Message::text("x")), handle.is_open()), (Err(SendError::Closed), false));
    }
    assert_eq!(handles.borrow().len(), 3, "the one of the last call is closed, too");
}

#[test]
fn a_client_that_does_not_read_bounds_its_handles() {
    let handles = Rc::<RefCell<Vec<Handle>>>::default();
    let of_handlers = handles.clone();
    let server = TestServer::builder().route("/give/", move || Giver(of_handlers.clone())).start();
    let mut client = server.connect("/give/").unwrap();
    client.set_reading(false);
    let handle = handles.borrow()[0].clone();
    let message = vec![7; 64 * 1024];
    let mut sent = 0;
    while handle.send(Message::binary(&message)).is_ok() {
        sent += 1;
        server.settle();
    }
    assert!(sent * message.len() >= HANDLE_BYTES_MAX && sent * message.len() < 3 * HANDLE_BYTES_MAX, "{sent}");
    assert_eq!(handle.send(Message::text("x")), Err(SendError::Full));
    client.set_reading(true);
    assert_eq!(client.receive(), Some(Received::text("welcome")));
    for _ in 0..sent {
        assert_eq!(client.receive(), Some(Received::Binary(message.clone())));
    }
    assert_eq!(handle.send(Message::text("x")), Ok(()), "it has read all of it");
    assert_eq!(client.receive(), Some(Received::text("x")));
}

/// Answers with what it knows of the request.
struct Inspector;

impl Handler for Inspector {
    type State = String;

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<String>, Refusal> {
        let peer = request.peer.map(|peer| peer.to_string()).unwrap_or_default();
        conn.send(Message::text(&peer));
        let [a, b] = ["a", "b"].map(|name| request.param(name).unwrap_or_default());
        let color = request.query("color").unwrap_or_default();
        Ok(Accept::new(format!("{a} {b} {color} {}", request.header("X-Size").unwrap_or_default())))
    }

    fn on_get(&mut self, _: &mut Context<'_>, request: &Get<'_>) -> Result<Response<String>, Refusal> {
        match request.query("stream") {
            Some(_) => Ok(Stream::new("text/plain", String::new()).into()),
            None => Ok(Page::new("text/plain", &b"a page"[..]).into()),
        }
    }

    fn on_message(&mut self, conn: &mut Context<'_>, state: &mut String, _: Message<'_>) {
        conn.send(Message::text(state));
    }
}

#[test]
fn a_request_has_its_parameters() {
    let server = TestServer::builder().route("/{a}/x/{b}", || Inspector).start();
    let mut client = server.connect_with("/one%21/x/two?color=dark+red", &[], &[("X-Size", "9")]).unwrap();
    assert!(matches!(client.receive(), Some(Received::Text(peer)) if peer.starts_with("10.0.")));
    client.send("?");
    assert_eq!(client.receive(), Some(Received::text("one! two dark red 9")));
    assert_eq!(server.connect("/one/x/two/three").unwrap_err().status, 404);
}
