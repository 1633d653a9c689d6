//! Load generator for WebSocket push servers.
//!
//! The picture: [`cli`] and [`options`] read the flags. A scenario is one loop on one thread: [`echo`], [`connect`],
//! [`idle`], and around a [`feed`] of publications [`fanout`], [`storm`], [`slow`], [`churn`], [`drain`]. It decides
//! who connects when, and hears what comes; [`clients`] joins what lies below: a [`conversation`] for each client,
//! spoken as the [`driver`] says, over [`sockets`] of one ring, with or without [`tls`], opened by [`dial`].
//!
//! [`payload`] says what a message carries, [`deliveries`] who has got which, [`faults`] names what went wrong. A
//! [`run`] goes from warm-up to measuring; each worker keeps a [`recorder`] of latencies, which hands its part to the
//! [`timeline`] once a tick; [`process`] and [`kernel_memory`] read what the server and this program cost,
//! [`self_check`] says whether this program was the bottleneck. Of the [`report`] there is a [`table`], a page
//! ([`html`]) and JSON, and [`compare`] sets two of those side by side.
//!
//! Exit code 0: measured, and every message was right. 1: measured, and something was wrong with messages or
//! connections; the report names it. 2: could not measure. 3: every message was right, but the load generator was the
//! bottleneck.

mod acceptor;
mod churn;
mod cli;
mod clients;
mod compare;
mod connect;
mod conversation;
mod deliveries;
mod dial;
mod drain;
mod driver;
mod echo;
mod error;
mod event_stream;
mod fanout;
mod faults;
mod feed;
mod figure;
mod frames;
mod html;
mod idle;
mod kernel_memory;
mod latency;
mod masking_keys;
mod meter;
mod options;
mod pace;
mod payload;
mod pin;
mod plot;
mod process;
mod progress;
mod publisher;
mod reconnect;
mod recorder;
mod report;
mod run;
mod self_check;
mod slow;
mod sockets;
mod storm;
mod table;
mod tally;
mod target;
mod text;
mod timeline;
mod tls;
mod topics;
mod window;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, CommonOptions, Task};
use error::Error;
use report::{Report, Verdict};

fn main() -> ExitCode {
    let task = match Arguments::try_parse() {
        Ok(arguments) => arguments.task,
        Err(error) if error.use_stderr() => return cannot_measure(&complaint(&error)),
        Err(help) => help.exit(),
    };
    let result = match &task {
        Task::Fanout(options) => publish(fanout::run(options), &options.common),
        Task::Echo(options) => publish(echo::run(options), &options.common),
        Task::Connect(options) => publish(connect::run(options), &options.common),
        Task::Idle(options) => publish(idle::run(options), &options.common),
        Task::Storm(options) => publish(storm::run(options), &options.common),
        Task::Slow(options) => publish(slow::run(options), &options.common),
        Task::Churn(options) => publish(churn::run(options), &options.common),
        Task::Drain(options) => publish(drain::run(options), &options.common),
        Task::Accept(options) => acceptor::run(options).map(|()| ExitCode::SUCCESS),
        Task::Compare(options) => compare::run(options).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| cannot_measure(&error.to_string()))
}

/// Shows what was found; the exit code says whether it may be used.
fn publish(result: Result<Report, Error>, common: &CommonOptions) -> Result<ExitCode, Error> {
    let verdict = result?.publish(common.json.as_deref(), common.html.as_deref())?;
    Ok(ExitCode::from(match verdict {
        Verdict::Clean => 0,
        Verdict::Faulty => 1,
        Verdict::ClientBound => 3,
    }))
}

fn cannot_measure(why: &str) -> ExitCode {
    eprintln!("loadgen: {why}");
    ExitCode::from(2)
}

/// What is wrong with the flags, in one line; the usage that follows is for `--help`.
fn complaint(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "which scenario? See loadgen --help".to_owned();
    }
    let text = error.to_string();
    let paragraph: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = paragraph.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
