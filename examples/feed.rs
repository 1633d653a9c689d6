//! A chat: a connection to `/room/<name>` receives every message of the room, and its own messages go to the room.
//!
//! ```text
//! cargo run --example feed
//! ```

use std::collections::HashMap;

use ringfeed::buf::ConnId;
use ringfeed::conn::CloseCause;
use ringfeed::{Accept, Context, Handler, Message, Refusal, Request, Server, ServerConfig, TopicName};

/// The room of each connection of this shard.
#[derive(Default)]
struct Chat {
    rooms: HashMap<ConnId, TopicName>,
}

impl Handler for Chat {
    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept, Refusal> {
        let room = TopicName::from_path(request.rest).map_err(|error| Refusal::new(400, error.to_string()))?;
        conn.subscribe(room.clone()).map_err(|_| Refusal::new(400, "too many subscriptions"))?;
        conn.send(Message::text(&format!("welcome to {room}")));
        self.rooms.insert(conn.id(), room);
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
        conn.publish(self.rooms[&conn.id()].clone(), message);
    }

    fn on_close(&mut self, conn: ConnId, _cause: CloseCause) {
        self.rooms.remove(&conn);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder(ServerConfig::default()).route("/room/", Chat::default).start()?;
    println!("listening on ws://{}/room/<name>", server.address());
    let _ = server.ended.blocking_recv();
    Ok(())
}
