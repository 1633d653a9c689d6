//! Fan-out and echo on axum, one thread (tokio's `current_thread`), as in its chat example: a broadcast channel with
//! one task per subscriber.

use std::error::Error;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::broadcast;

/// Messages that a subscriber may lag behind; far more than are ever in flight.
const BEHIND_MAX: usize = 4096;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let (publications, _) = broadcast::channel::<Utf8Bytes>(BEHIND_MAX);
    let routes = Router::new()
        .route("/feed/{topic}", get(subscribe))
        .route("/publish", get(publish))
        .route("/echo", get(echo))
        .with_state(publications);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on ws://{}\nready", listener.local_addr()?);
    let without_delay = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            eprintln!("axum: {error}");
        }
    });
    axum::serve(without_delay, routes).await?;
    Ok(())
}

type Publications = State<broadcast::Sender<Utf8Bytes>>;

async fn subscribe(upgrade: WebSocketUpgrade, State(publications): Publications) -> Response {
    // Subscribes before the response is sent, so that the subscriber receives all later publications.
    let mut received = publications.subscribe();
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        loop {
            tokio::select! {
                publication = received.recv() => {
                    let Ok(text) = publication else { return };
                    if socket.send(Message::Text(text)).await.is_err() {
                        return;
                    }
                }
                message = socket.recv() => {
                    if !matches!(message, Some(Ok(_))) {
                        return;
                    }
                }
            }
        }
    })
}

async fn publish(upgrade: WebSocketUpgrade, State(publications): Publications) -> Response {
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if let Message::Text(text) = message {
                // An error means that there are no subscribers.
                let _ = publications.send(text);
            }
        }
    })
}

async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if matches!(message, Message::Text(_) | Message::Binary(_)) && socket.send(message).await.is_err() {
                return;
            }
        }
    })
}
