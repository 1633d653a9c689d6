//! A stand-in for a server, for tests: it serves one connection by a script and says what it received.

use std::future::Future;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::proto::{
    CloseCode, Decoder, Event, Role, Upgrade, decode_request_head, encode_accept, encode_close, encode_refusal,
};

/// A listener on a free port of loopback, and where it is.
pub(super) async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    (listener, authority)
}

/// Runs a client of `ws://…/feed` beside a server, and returns what each returns.
pub(super) fn run<C, S: Future>(
    server: impl FnOnce(TcpListener) -> S,
    client: impl AsyncFnOnce(&str) -> C,
) -> (C, S::Output) {
    tokio_uring::start(async {
        let (listener, authority) = listen().await;
        let url = format!("ws://{authority}/feed");
        tokio::join!(client(&url), server(listener))
    })
}

/// The server's end of a WebSocket.
pub(super) struct Peer {
    stream: TcpStream,
    decoder: Decoder,
    /// Path and query of the request.
    pub(super) target: String,
    /// Bytes that were read with the handshake.
    input: Vec<u8>,
}

impl Peer {
    /// Accepts a connection and opens the WebSocket; `subprotocol` is what it chooses.
    pub(super) async fn accept(listener: &TcpListener, subprotocol: Option<&str>) -> Peer {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut input = Vec::new();
        let (answer, target, head_len) = loop {
            stream.read_buf(&mut input).await.unwrap();
            let Some((head, head_len)) = decode_request_head(&input).unwrap() else { continue };
            let mut answer = Vec::new();
            let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
            let target = format!("{}{query}", head.path);
            match Upgrade::from_request(&head) {
                Ok(upgrade) => encode_accept(&mut answer, &upgrade, subprotocol, None),
                Err(error) => encode_refusal(&mut answer, error),
            }
            break (answer, target, head_len);
        };
        input.drain(..head_len);
        stream.write_all(&answer).await.unwrap();
        Peer { stream, decoder: Decoder::new(Role::Server, 1024), target, input }
    }

    /// Sends bytes as they are.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Everything that the client still sends, as text. A close frame is answered unless `closing`, then the
    /// connection ends.
    pub(super) async fn finish(mut self, closing: bool) -> Vec<String> {
        let mut events = Vec::new();
        loop {
            let mut input = &mut self.input[..];
            while let Some(event) = self.decoder.decode(&mut input).unwrap() {
                events.push(format!("{event:?}"));
                if let Event::Close(_) = event {
                    let mut answer = Vec::new();
                    encode_close(&mut answer, Some(CloseCode::NORMAL), "bye", None);
                    if !closing {
                        self.stream.write_all(&answer).await.unwrap();
                    }
                    return events;
                }
            }
            self.input.clear();
            if self.stream.read_buf(&mut self.input).await.unwrap() == 0 {
                return events;
            }
        }
    }
}
