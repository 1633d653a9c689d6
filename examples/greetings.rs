//! Spring's sample for STOMP without Spring: a page sends a name to `/app/hello`, and all pages that are subscribed to
//! `/topic/greetings` receive a greeting, a second later.
//!
//! ```text
//! cargo run --example greetings
//! ```

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ringfeed::gateway::stomp::{Answer, Application, Call, Reply, Stomp};
use ringfeed::gateway::{Later, Readers};
use ringfeed::server::ServeError;
use ringfeed::{Context, Get, Handler, Message, Namespaces, Page, Refusal, Response, Server, ServerConfig};
use serde_json::{Value, json};

/// Greets, after a while.
#[derive(Debug)]
struct Greetings {
    delay: Duration,
}

impl Application for Greetings {
    fn on_send(&self, call: Call, later: Later<Answer>) -> Option<Answer> {
        if call.destination != "/app/hello" {
            return Some(Answer::rejected("send a name to /app/hello"));
        }
        let (delay, responder) = (self.delay, later.responder());
        // Spring's sample simulates a slow service. The shard never waits for it; this client's next frame does.
        thread::spawn(move || {
            thread::sleep(delay);
            responder.answer(greeting(&call.body));
        });
        None
    }

    /// The latest news of the application, for one subscription.
    fn on_subscribe(&self, call: Call, _: Later<Answer>) -> Option<Answer> {
        match &*call.destination {
            "/app/rules" => Some(Reply::answer("Names have at most 40 characters.").into()),
            _ => Some(Answer::rejected("subscribe to /app/rules or to /topic/greetings")),
        }
    }
}

/// The greeting for everybody, or an error for the sender.
fn greeting(body: &[u8]) -> Answer {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = request["name"].as_str().map(str::trim).unwrap_or_default();
    if name.is_empty() || name.chars().count() > 40 {
        let error = json!({"content": "Send a name of 1 to 40 characters."});
        return json_to(Reply::to_session, "/user/queue/errors", &error).into();
    }
    json_to(Reply::to, "/topic/greetings", &json!({"content": format!("Hello, {name}!")})).into()
}

fn json_to(to: impl Fn(String, String) -> Reply, destination: &str, body: &Value) -> Reply {
    to(destination.to_owned(), body.to_string()).header("content-type", "application/json")
}

/// Serves the page.
struct GreetingsPage;

impl Handler for GreetingsPage {
    type State = ();

    fn on_get(&mut self, _: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        match request.rest {
            "" => Ok(Page::new("text/html; charset=utf-8", include_bytes!("greetings.html").as_slice()).into()),
            _ => Err(Refusal::new(404, "the page is at /")),
        }
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
}

fn stomp(delay: Duration) -> Stomp {
    Stomp::new(Readers::new(Arc::new(Namespaces::default()))).with_application(Arc::new(Greetings { delay }))
}

/// Starts the server.
pub(crate) fn start(config: ServerConfig, delay: Duration) -> Result<Server, ServeError> {
    let stomp = stomp(delay);
    Server::builder(config).route("/", || GreetingsPage).route("/stomp", move || stomp.clone()).start()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = start(ServerConfig::default(), Duration::from_secs(1))?;
    println!("open http://{}/", server.address());
    server.wait();
    Ok(())
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use ringfeed::testing::{Received, TestClient, TestServer};

    use super::*;

    fn connect(server: &TestServer) -> TestClient {
        let mut client = server.connect("/stomp").unwrap();
        client.send("CONNECT\naccept-version:1.2\nhost:a\n\n\0");
        assert!(text(&mut client).starts_with("CONNECTED\n"));
        client.send("SUBSCRIBE\nid:0\ndestination:/topic/greetings\nreceipt:r\n\n\0");
        assert_eq!(text(&mut client), "RECEIPT\nreceipt-id:r\n\n\0");
        client
    }

    fn text(client: &mut TestClient) -> String {
        match client.wait() {
            Received::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_greeting_reaches_everybody_and_an_error_its_sender() {
        let stomp = stomp(Duration::ZERO);
        let server = TestServer::builder().shards(2).route("/stomp", move || stomp.clone()).start();
        let (mut ann, mut bob) = (connect(&server), connect(&server));
        ann.send("SEND\ndestination:/app/hello\nreceipt:sent\n\n{\"name\":\"Ann\"}\0");
        let first = [text(&mut ann), text(&mut ann)];
        assert!(first.contains(&"RECEIPT\nreceipt-id:sent\n\n\0".to_owned()), "{first:?}");
        for message in [&first[0], &first[1], &text(&mut bob)] {
            let is_greeting = message.contains("\ndestination:/topic/greetings\n")
                && message.contains("\ncontent-type:application/json\n")
                && message.ends_with("\n\n{\"content\":\"Hello, Ann!\"}\0");
            assert!(is_greeting || message.starts_with("RECEIPT"), "{message}");
        }
        ann.send("SUBSCRIBE\nid:1\ndestination:/user/queue/errors\n\n\0SEND\ndestination:/app/hello\n\n{}\0");
        let error = text(&mut ann);
        assert!(error.contains("\nsubscription:1\n") && error.contains("Send a name"), "{error}");
        assert_eq!(bob.receive(), None, "the error is not for others");
    }

    #[test]
    fn a_subscription_has_an_answer_of_its_own() {
        let stomp = stomp(Duration::ZERO);
        let server = TestServer::builder().route("/stomp", move || stomp.clone()).start();
        let mut client = connect(&server);
        client.send("SUBSCRIBE\nid:7\ndestination:/app/rules\nreceipt:r\n\n\0");
        let answer = text(&mut client);
        assert!(answer.starts_with("MESSAGE\nsubscription:7\n") && answer.contains("at most 40"), "{answer}");
        assert_eq!(text(&mut client), "RECEIPT\nreceipt-id:r\n\n\0");
        client.send("UNSUBSCRIBE\nid:7\nreceipt:u\n\n\0SEND\ndestination:/app/bye\n\n\0");
        assert_eq!(text(&mut client), "RECEIPT\nreceipt-id:u\n\n\0");
        let error = text(&mut client);
        assert!(error.contains("message:the application rejects the frame\n"), "{error}");
        assert!(error.contains("send a name to /app/hello"), "{error}");
        assert!(matches!(client.wait(), Received::Close(Some(1002), _)));
    }
}
