//! `POST /reload` and SIGHUP: the configuration is read again.

use std::cell::Cell;
use std::fmt;

use hyper::StatusCode;

use super::State;
use super::answer::{Answer, text};

/// Reads the configuration again and applies what can change while the server runs. Returns a line for the operator,
/// or, if nothing has changed since something is wrong, what that is.
pub type Reload = Box<dyn Fn() -> Result<String, String>>;

/// The way to reload, and how often it was taken.
pub(super) struct Reloader {
    reload: Reload,
    done: Cell<u64>,
    refused: Cell<u64>,
}

/// How often the configuration was read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReloadCounts {
    /// And applied.
    pub(super) done: u64,
    /// And refused, so that nothing changed.
    pub(super) refused: u64,
}

impl Reloader {
    pub(super) fn new(reload: Reload) -> Reloader {
        Reloader { reload, done: Cell::new(0), refused: Cell::new(0) }
    }

    pub(super) fn counts(&self) -> ReloadCounts {
        ReloadCounts { done: self.done.get(), refused: self.refused.get() }
    }

    /// Reloads; the log says how that went.
    pub(super) fn reload(&self) -> Result<String, String> {
        let outcome = (self.reload)();
        match &outcome {
            Ok(report) => {
                self.done.set(self.done.get() + 1);
                tracing::info!("reloaded: {report}");
            }
            Err(error) => {
                self.refused.set(self.refused.get() + 1);
                tracing::error!("not reloaded, nothing has changed: {error}");
            }
        }
        outcome
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

/// Answers one request.
pub(super) fn post(state: &State) -> Answer {
    match state.reloader.reload() {
        Ok(report) => text(StatusCode::OK, report),
        Err(error) => text(StatusCode::UNPROCESSABLE_ENTITY, format_args!("nothing has changed: {error}")),
    }
}
