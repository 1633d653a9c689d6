//! A chat: a connection to `/rooms/<room>?name=<name>` receives all messages of the room, and its own messages go to
//! the room with its name.
//!
//! ```text
//! cargo run --example chat
//! ```

use ringfeed::{Accept, CloseCause, Context, Handler, Message, Refusal, Request, Server, ServerConfig, TopicName};

/// One handler per shard. All that it knows of a connection is in the connection's state.
struct Chat;

/// The state of a connection.
struct Member {
    name: String,
    room: TopicName,
}

impl Handler for Chat {
    type State = Member;

    fn on_open(&mut self, conn: &mut Context<'_>, request: &Request<'_>) -> Result<Accept<Member>, Refusal> {
        let room = TopicName::new(&request.param("room").unwrap_or_default())?;
        let Some(name) = request.query("name").filter(|name| !name.is_empty()) else {
            return Err(Refusal::new(400, "the name is missing: connect with ?name=<name>"));
        };
        let member = Member { name: name.into_owned(), room };
        conn.subscribe(member.room.clone())?;
        member.say(conn, "joins");
        Ok(Accept::new(member))
    }

    fn on_message(&mut self, conn: &mut Context<'_>, member: &mut Member, message: Message<'_>) {
        let text = format!("{}: {}", member.name, message.as_str().unwrap_or("(not text)"));
        conn.publish(member.room.clone(), Message::text(&text));
    }

    fn on_close(&mut self, conn: &mut Context<'_>, member: Member, _cause: CloseCause) {
        member.say(conn, "leaves");
    }
}

impl Member {
    /// Says in the room what this member does.
    fn say(&self, conn: &mut Context<'_>, does: &str) {
        conn.publish(self.room.clone(), Message::text(&format!("* {} {does}", self.name)));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder(ServerConfig::default()).route("/rooms/{room}", || Chat).start()?;
    println!("listening on ws://{}/rooms/<room>?name=<name>", server.address());
    server.wait();
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use ringfeed::CloseCode;
    use ringfeed::testing::{Received, TestServer};

    use super::*;

    #[test]
    fn members_of_a_room_hear_each_other() {
        let server = TestServer::builder().shards(2).route("/rooms/{room}", || Chat).start();
        let mut ann = server.connect("/rooms/garden?name=ann").unwrap();
        let mut bob = server.connect("/rooms/garden?name=bob").unwrap();
        let mut eve = server.connect("/rooms/cellar?name=eve").unwrap();
        ann.send("hello");
        for text in ["* ann joins", "* bob joins", "ann: hello"] {
            assert_eq!(ann.receive(), Some(Received::text(text)));
        }
        for text in ["* bob joins", "ann: hello"] {
            assert_eq!(bob.receive(), Some(Received::text(text)));
        }
        ann.close(CloseCode::NORMAL, "");
        assert_eq!(bob.receive(), Some(Received::text("* ann leaves")));
        assert_eq!((eve.receive(), eve.receive()), (Some(Received::text("* eve joins")), None));
    }

    #[test]
    fn a_member_has_a_name() {
        let server = TestServer::builder().route("/rooms/{room}", || Chat).start();
        let rejected = server.connect("/rooms/garden").unwrap_err();
        assert_eq!(rejected.to_string(), "400: the name is missing: connect with ?name=<name>");
        assert_eq!(server.connect("/rooms/a%20b?name=x").unwrap_err().status, 400);
        assert_eq!(server.connect("/rooms/").unwrap_err().status, 404);
    }
}
