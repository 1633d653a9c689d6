//! Requests and replies with a slow thread, such as one that queries a database: the handler hands each request over,
//! and the thread replies through the connection's handle.
//!
//! ```text
//! cargo run --example lookup
//! ```

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use ringfeed::{Accept, CloseCode, Context, Handle, Handler, Message, Refusal, Request, Server, ServerConfig};

/// Requests that may wait for the thread. The bound is the server's protection: beyond it clients receive "busy".
const WAITING_MAX: usize = 1000;

/// A request, and where its reply goes.
type Lookup = (Handle, String);

struct Lookups(SyncSender<Lookup>);

impl Handler for Lookups {
    type State = ();

    fn on_open(&mut self, _conn: &mut Context<'_>, _request: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default().message_bytes_max(1024))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        let Some(word) = message.as_str() else { return conn.close(CloseCode::UNSUPPORTED_DATA, "text only") };
        // The shard never waits for the thread.
        match self.0.try_send((conn.handle(), word.to_owned())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => conn.send(Message::text("busy: try again later")),
            Err(TrySendError::Disconnected(_)) => conn.close(CloseCode::INTERNAL_ERROR, "no database"),
        }
    }
}

/// Answers requests, one after the other, for as long as there are handlers.
fn answer(requests: &Receiver<Lookup>) {
    for (handle, word) in requests {
        let definition = look_up(&word);
        // It fails if the client has gone, or does not read: nothing is left to do for it then.
        let _ = handle.send(Message::text(&definition));
    }
}

/// Stands for a query of a database.
fn look_up(word: &str) -> String {
    format!("{word}: a word of {} letters", word.chars().count())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (sender, requests) = sync_channel(WAITING_MAX);
    thread::spawn(move || answer(&requests));
    let server = Server::builder(ServerConfig::default()).route("/lookup", move || Lookups(sender.clone())).start()?;
    println!("listening on ws://{}/lookup", server.address());
    server.wait();
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use ringfeed::testing::{Received, TestServer};

    use super::*;

    #[test]
    fn a_slow_thread_replies_when_it_can() {
        let (sender, requests) = sync_channel(2);
        let server = TestServer::builder().route("/lookup", move || Lookups(sender.clone())).start();
        let mut client = server.connect("/lookup").unwrap();
        ["sea", "lake", "pond"].into_iter().for_each(|word| client.send(word));
        assert_eq!(client.receive(), Some(Received::text("busy: try again later")), "the thread has not begun");
        thread::spawn(move || answer(&requests));
        assert_eq!(client.wait(), Received::text("sea: a word of 3 letters"));
        assert_eq!(client.wait(), Received::text("lake: a word of 4 letters"));
    }
}
