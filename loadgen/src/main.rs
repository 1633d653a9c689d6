//! Load generator for WebSocket push servers.
//!
//! [`cli`] and [`options`] parse the flags. Each file of [`scenario`] is one loop on one thread: `echo`, `connect` and
//! `idle` stand alone; `fanout`, `storm`, `slow`, `churn` and `drain` publish through a `feed`. A scenario decides when
//! each client connects, and handles received messages.
//!
//! [`wire`] has the clients: one conversation per client in the protocol of its [`driver`], over the sockets of one
//! ring, with or without TLS. [`check`] defines the content of a message, tracks which subscriber has received which
//! message, and counts what went wrong. [`report`] records latencies, decides whether this program was the bottleneck,
//! and prints the result. [`host`] reads the cost of the server and of this program.
//!
//! Exit code 0: the run is valid, without faults. 1: valid, but messages or connections had faults, which the report
//! names. 2: the run could not be measured. 3: no faults, but the load generator was the bottleneck.

mod check;
mod cli;
mod driver;
mod error;
mod host;
mod options;
mod report;
mod scenario;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, CommonOptions, Task};
use error::Error;
use report::compare;
use report::{Report, Verdict};
use scenario::{acceptor, churn, connect, drain, echo, fanout, idle, slow, storm};

fn main() -> ExitCode {
    let task = match Arguments::try_parse() {
        Ok(arguments) => arguments.task,
        Err(error) if error.use_stderr() => return cannot_measure(&usage_error(&error)),
        Err(help) => help.exit(),
    };
    let result = check_outputs(&task).and_then(|()| match &task {
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
    });
    result.unwrap_or_else(|error| cannot_measure(&error.to_string()))
}

/// Fails now rather than after the run if a file of the report can't be written.
fn check_outputs(task: &Task) -> Result<(), Error> {
    let files = task.common().into_iter().flat_map(|common| [&common.json, &common.html]).flatten();
    files.into_iter().try_for_each(|path| report::check_writable(path))
}

/// Prints the report and maps its verdict to the exit code.
fn publish(result: Result<Report, Error>, common: &CommonOptions) -> Result<ExitCode, Error> {
    let verdict = result?.publish(common.json.as_deref(), common.html.as_deref())?;
    Ok(ExitCode::from(match verdict {
        Verdict::Clean => 0,
        Verdict::Faulty => 1,
        Verdict::Empty => 2,
        Verdict::ClientBound => 3,
    }))
}

fn cannot_measure(why: &str) -> ExitCode {
    eprintln!("loadgen: {why}");
    ExitCode::from(2)
}

/// The flag error on one line, without the usage text that clap appends.
fn usage_error(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no scenario given; see loadgen --help".to_owned();
    }
    let text = error.to_string();
    let paragraph: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let line = paragraph.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
