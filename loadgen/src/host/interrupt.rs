//! The first SIGINT or SIGTERM ends a run early, with its report; the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::error::Error;

/// Whether a signal has come. One for the whole program, as signals are.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Exit code after a second signal.
const CANNOT_MEASURE: i32 = 2;

/// Heeds signals from now on.
///
/// # Errors
/// If the kernel refuses it.
pub(crate) fn heed() -> Result<(), Error> {
    let interrupted = Arc::clone(INTERRUPTED.get_or_init(Arc::default));
    for signal in [SIGINT, SIGTERM] {
        // In this order, the first signal only sets the flag.
        flag::register_conditional_shutdown(signal, CANNOT_MEASURE, Arc::clone(&interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(&interrupted)))
            .map_err(|error| Error::new(format!("can't handle signals: {error}")))?;
    }
    Ok(())
}

/// Ends the run early, as a signal does.
pub(crate) fn end_run() {
    INTERRUPTED.get_or_init(Arc::default).store(true, Ordering::Relaxed);
}

/// Whether the run has to end.
pub(crate) fn has_come() -> bool {
    INTERRUPTED.get().is_some_and(|interrupted| interrupted.load(Ordering::Relaxed))
}
