//! `/echo`: returns every message unchanged.

use super::{Accept, Context, Handler, Refusal, Request};
use crate::proto::Message;

/// Returns each message to its sender. For conformance suites and benchmarks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Handler for Echo {
    type State = ();

    fn on_open(&mut self, _conn: &mut Context<'_>, _request: &Request<'_>) -> Result<Accept, Refusal> {
        Ok(Accept::default())
    }

    fn on_message(&mut self, conn: &mut Context<'_>, _: &mut (), message: Message<'_>) {
        conn.send(message);
    }
}
