//! A server that returns each text message on `/shout` in capitals.
//!
//! ```text
//! cargo run --example echo
//! ```

use ringfeed::{Accept, CloseCode, Context, Handler, Message, Refusal, Request, Server, ServerConfig};

struct Shout;

impl Handler for Shout {
    type State = ();

    fn on_open(&mut self, _conn: &mut Context<'_>, _request: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        match message.as_str() {
            Some(text) => conn.send(Message::text(&text.to_uppercase())),
            None => conn.close(CloseCode::UNSUPPORTED_DATA, "text only"),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder(ServerConfig::default()).route("/shout", || Shout).start()?;
    println!("listening on ws://{}/shout", server.address());
    server.wait();
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use ringfeed::testing::{Received, TestServer};

    use super::*;

    #[test]
    fn it_shouts() {
        let server = TestServer::builder().route("/shout", || Shout).start();
        let mut client = server.connect("/shout").unwrap();
        client.send("hello");
        assert_eq!(client.receive(), Some(Received::text("HELLO")));
        client.send_message(Message::binary(&[1]));
        assert_eq!(client.receive(), Some(Received::Close(Some(1003), "text only".to_owned())));
    }
}
