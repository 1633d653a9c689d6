//! Log lines on standard error. A thread writes them, so that a reader that is slow delays no shard.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{LogFormat, LogLevel};
use crate::limits::LOG_WAITING_MAX;

/// How long the end of the process waits for lines that have not been written.
const FLUSH: Duration = Duration::from_secs(1);

/// The way to the thread.
static LINES: OnceLock<SyncSender<Line>> = OnceLock::new();

enum Line {
    Text(Vec<u8>),
    /// All lines before this one are written: answer.
    Flush(SyncSender<()>),
}

/// Changes which lines are written.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging in this format. `RUST_LOG` chooses what: a level, or levels of modules as in `info,ringfeed=debug`.
/// The default is `level`.
pub(super) fn start(format: LogFormat, level: LogLevel) {
    let (sender, lines) = sync_channel(LOG_WAITING_MAX);
    // Without the thread nothing is logged, which is no reason not to serve.
    if thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&lines)).is_err() {
        return;
    }
    if LINES.set(sender).is_err() {
        return;
    }
    let (filter, handle) = reload::Layer::new(wanted().unwrap_or_else(|| only(level)));
    // Nobody else has started it.
    let _ = FILTER.set(handle);
    let logs = fmt::layer().with_writer(|| Writer).log_internal_errors(false);
    let logger = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Json => logger.with(logs.json().flatten_event(true)).init(),
        LogFormat::Text => logger.with(logs.with_ansi(io::stderr().is_terminal())).init(),
    }
}

/// Writes lines of this level from now on, unless `RUST_LOG` chooses.
pub(super) fn set_level(level: LogLevel) {
    if let Some(filter) = FILTER.get().filter(|_| wanted().is_none()) {
        // It fails only if there is no logger any more.
        let _ = filter.reload(only(level));
    }
}

/// The choice of `RUST_LOG`.
fn wanted() -> Option<Targets> {
    std::env::var("RUST_LOG").ok().and_then(|wanted| wanted.parse().ok())
}

fn only(level: LogLevel) -> Targets {
    Targets::new().with_default(match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    })
}

/// Waits until all lines are written, for up to [`FLUSH`].
pub(super) fn flush() {
    let Some(lines) = LINES.get() else { return };
    let (done, is_done) = sync_channel(1);
    if lines.try_send(Line::Flush(done)).is_ok() {
        // A reader that does not read loses the last lines.
        let _ = is_done.recv_timeout(FLUSH);
    }
}

fn write_all(lines: &Receiver<Line>) {
    for line in lines {
        match line {
            // A line for which there is no room, on a full disk for example, is left out.
            Line::Text(text) => _ = io::stderr().write_all(&text),
            Line::Flush(done) => _ = done.send(()),
        }
    }
}

/// Takes a whole line with each write.
struct Writer;

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Where too many lines wait, this one is left out.
        let _ = LINES.get().map(|lines| lines.try_send(Line::Text(line.to_vec())));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
