//! A server that returns each text message on `/shout` in capitals.
//!
//! ```text
//! cargo run --example echo
//! ```

use ringfeed::{Accept, CloseCode, Context, Handler, Message, Refusal, Request, Server, ServerConfig};

struct Shout;

impl Handler for Shout {
    fn on_open(&mut self, _conn: &mut Context<'_>, _request: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, message: Message<'_>) {
        match message.as_str() {
            Some(text) => conn.send(Message::text(&text.to_uppercase())),
            None => conn.close(CloseCode::UNSUPPORTED_DATA, "text only"),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder(ServerConfig::default()).route("/shout", || Shout).start()?;
    println!("listening on ws://{}/shout", server.address());
    let _ = server.ended.blocking_recv();
    Ok(())
}
