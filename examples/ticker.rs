//! A ticker: another thread publishes each second, until SIGTERM or SIGINT stops the server gracefully.
//!
//! ```text
//! cargo run --example ticker
//! ```

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ringfeed::{
    Accept, Context, Draft, Handler, Message, PublishError, Publisher, Refusal, Request, Server, ServerConfig,
    TopicName,
};
use tokio::signal::unix::{SignalKind, signal};

/// Subscribes each connection to one topic.
struct Ticks(TopicName);

impl Handler for Ticks {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, _request: &Request<'_>) -> Result<Accept, Refusal> {
        conn.subscribe(self.0.clone())?;
        Ok(Accept::default())
    }

    fn on_message(&mut self, _conn: &mut Context<'_>, _: &mut (), _message: Message<'_>) {}
}

/// Publishes the time. Publishers are `Clone` and `Send`: each thread may have its own.
fn publish(publisher: &Publisher, topic: &TopicName) -> Result<(), PublishError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // The receiver would yield the publication's position. Here it does not matter.
    publisher.publish(Draft::new(topic.clone(), true, seconds.to_string().into())).map(drop)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let topic = TopicName::new("ticks")?;
    let of_handlers = topic.clone();
    let server =
        Server::builder(ServerConfig::default()).route("/ticks", move || Ticks(of_handlers.clone())).start()?;
    println!("listening on ws://{}/ticks", server.address());
    let publisher = server.publisher.clone();
    thread::spawn(move || {
        loop {
            match publish(&publisher, &topic) {
                // Back-pressure: the topic's shard has much to do. The next tick will do.
                Ok(()) | Err(PublishError::Busy) => thread::sleep(Duration::from_secs(1)),
                Err(_) => return,
            }
        }
    });
    wait_for_signal()?;
    server.shutdown();
    Ok(())
}

fn wait_for_signal() -> std::io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        Ok(())
    })
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use ringfeed::testing::{Received, TestServer};

    use super::*;

    #[test]
    fn another_thread_publishes() {
        let topic = TopicName::new("ticks").unwrap();
        let of_handlers = topic.clone();
        let server = TestServer::builder().route("/ticks", move || Ticks(of_handlers.clone())).start();
        let mut client = server.connect("/ticks").unwrap();
        let publisher = server.publisher();
        let thread = thread::spawn(move || publish(&publisher, &topic));
        assert!(matches!(client.wait(), Received::Text(seconds) if seconds.parse::<u64>().is_ok()));
        assert_eq!(thread.join().unwrap(), Ok(()));
        server.shutdown();
        assert_eq!(client.receive(), Some(Received::Close(Some(1001), "the server is stopping".to_owned())));
        assert_eq!(publish(&server.publisher(), &TopicName::new("ticks").unwrap()), Err(PublishError::Stopping));
    }
}
