//! `/` and every path without a route of its own: the demo page, and the hints of the binary's 404 responses.

use super::{Accept, Context, Get, Handler, Page, Refusal, Request, Response};
use crate::proto::Message;

/// Subscribes to a feed and shows its messages live.
const PAGE: &str = include_str!("page.html");

/// The page loads no resource and connects only to its own host.
const PAGE_HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self' \
         ws: wss:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
];

/// Serves the demo page at `/`, and rejects all other requests with 404. Register it for the prefix `/`.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoPage;

impl Handler for DemoPage {
    type State = ();

    fn on_open(&mut self, _: &mut Context<'_>, _: &Request<'_>) -> Result<Accept, Refusal> {
        Err(Refusal::new(404, "no WebSocket here: the feed of a topic is at /feed/<topic>"))
    }

    fn on_get(&mut self, _: &mut Context<'_>, request: &Get<'_>) -> Result<Response, Refusal> {
        if !request.rest.is_empty() {
            return Err(Refusal::new(404, "not found: the feed of a topic is at /feed/<topic>"));
        }
        let page = Page::new("text/html; charset=utf-8", PAGE.as_bytes());
        Ok(PAGE_HEADERS.iter().fold(page, |page, (name, value)| page.header(name, *value)).into())
    }

    fn on_message(&mut self, _: &mut Context<'_>, _: &mut (), _: Message<'_>) {}
}
