//! `POST /reload` and SIGHUP: the configuration is read again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hyper::StatusCode;

use super::answer::{Answer, text};
use super::{Access, State};
use crate::topics::Namespaces;

/// Reads the configuration again and applies what can change while the server runs. If something is wrong, nothing
/// changes, and the text says what it is.
pub type Reload = Box<dyn Fn() -> Result<Reloaded, String>>;

/// A configuration that was read again and applied.
#[derive(Debug)]
pub struct Reloaded {
    /// A line for the operator.
    pub report: String,
    /// Who may use the control port now.
    pub access: Access,
    /// The settings of topics now.
    pub namespaces: Arc<Namespaces>,
    /// The settings in use, for people.
    pub settings: BTreeMap<String, String>,
}

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
    pub(super) fn reload(&self) -> Result<Reloaded, String> {
        let outcome = (self.reload)();
        match &outcome {
            Ok(Reloaded { report, .. }) => {
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

impl State {
    /// Reads the configuration again. Returns a line for the operator.
    pub(super) fn reload(&self) -> Result<String, String> {
        self.notifier.reloading();
        let outcome = self.reloader.reload();
        self.notifier.ready();
        let Reloaded { report, access, namespaces, settings } = outcome?;
        *self.settings.borrow_mut() = settings;
        *self.access.borrow_mut() = access;
        *self.namespaces.borrow_mut() = namespaces;
        Ok(report)
    }
}

/// Answers one request.
pub(super) fn post(state: &State) -> Answer {
    match state.reload() {
        Ok(report) => text(StatusCode::OK, report),
        Err(error) => text(StatusCode::UNPROCESSABLE_ENTITY, format_args!("nothing has changed: {error}")),
    }
}
