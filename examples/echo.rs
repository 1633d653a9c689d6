//! A server whose `/shout` sends every text back in capitals.
//!
//! ```text
//! cargo run --example echo
//! ```

use ringfeed::gateway::{Accept, Context, Handler, Refusal, Request};
use ringfeed::proto::{CloseCode, Message};
use ringfeed::server::{Server, ServerConfig};

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
    println!("listening on ws://{}/shout", server.address);
    let _ = server.ended.blocking_recv();
    Ok(())
}
