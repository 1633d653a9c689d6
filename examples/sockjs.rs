//! SockJS in a server of your own: `/echo` returns messages, and `/close` closes at once. The tests of the protocol,
//! `sockjs-protocol`, know these two.
//!
//! ```text
//! cargo run --example sockjs [ADDRESS [ORIGIN]]
//! ```

use ringfeed::gateway::sockjs::Sessions;
use ringfeed::gateway::{Echo, OriginPattern, Origins, SockJs};
use ringfeed::relay::RelaySocket;
use ringfeed::{Accept, CloseCode, Context, Handler, Message, Refusal, Request, Server, ServerConfig};

/// Closes all connections.
struct Closed;

impl Handler for Closed {
    type State = ();

    fn on_open(&mut self, conn: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        conn.close(CloseCode(3000), "Go away!");
        Ok(Accept::default())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8081".to_owned());
    // HTTP transports have sessions, and each is a WebSocket on this socket. Without them, WebSockets are left.
    let (relay, (sessions, requests)) = (RelaySocket::new()?, Sessions::new(0));
    let paths = ["/echo/", "/close/"].map(str::to_owned);
    let listener = ringfeed::server::ListenerConfig::new(address.parse()?);
    let origins = std::env::args().nth(2).map(|origin| OriginPattern::new(&origin)).transpose();
    let allowed_origins = Origins::new(origins.map_err(|error| error.to_string())?.into_iter().collect());
    let listeners = vec![listener, relay.listener(paths.into())];
    let config = ServerConfig { listeners, allowed_origins, ..ServerConfig::default() };
    let of_close = sessions.clone();
    let server = Server::builder(config)
        .route("/echo/", move || SockJs::new(Echo, Some(sessions.clone())))
        .route("/close/", move || SockJs::new(Closed, Some(of_close.clone())))
        .start()?;
    relay.start(requests)?;
    println!("new SockJS('http://{}/echo')", server.addresses[0]);
    server.wait();
    Ok(())
}
