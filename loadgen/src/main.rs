//! Load generator for WebSocket push servers.
//!
//! [`cli`] and [`options`] parse the flags. Each file of [`scenario`] is one loop on one thread: `echo`, `connect` and
//! `idle` stand alone; `fanout`, `storm`, `slow`, `churn` and `drain` publish through a `feed`. A scenario decides when
//! each client connects, and handles received messages. `fanout` runs a [`scenario::load`], from its flags or from the
//! file of a [`scenario::plan`].
//!
//! [`wire`] has the clients: one conversation per client in the protocol of its [`driver`], over the sockets of one
//! ring, with or without TLS. [`check`] defines the content of a message, tracks which subscriber has received which
//! message, and counts what went wrong. [`report`] records latencies, decides whether this program was the bottleneck,
//! and prints the result. [`host`] reads the cost of the server and of this program.
//!
//! [`agents`] spreads the subscribers of a run over several machines.
//!
//! `loadgen --help` and the README list the exit codes.

mod agents;
mod check;
mod cli;
mod driver;
mod error;
mod host;
mod options;
mod report;
mod scenario;
mod series;
mod wire;

use std::process::ExitCode;

use clap::Parser;

use agents::agent;
use cli::{Arguments, CommonOptions, PlanCommand, RunOptions, Task};
use error::Error;
use report::{Outcome, compare, output};
use scenario::{acceptor, churn, connect, drain, echo, fanout, idle, plan, slow, storm};
use series::{ab, repeat};

fn main() -> ExitCode {
    let task = match Arguments::try_parse() {
        Ok(arguments) => arguments.task,
        Err(error) if error.use_stderr() => return cannot_measure(&usage_error(&error)),
        Err(help) => help.exit(),
    };
    run(&task).unwrap_or_else(|error| cannot_measure(&error.to_string()))
}

fn run(task: &Task) -> Result<ExitCode, Error> {
    if let Some(common) = task.common()
        && let Some(done) = prepare(common)?
    {
        return Ok(done);
    }
    match task {
        Task::Fanout(options) => publish(fanout::run(options)?, &options.common),
        Task::Echo(options) => publish(echo::run(options)?, &options.common),
        Task::Connect(options) => publish(connect::run(options)?, &options.common),
        Task::Idle(options) => publish(idle::run(options)?, &options.common),
        Task::Storm(options) => publish(storm::run(options)?, &options.common),
        Task::Slow(options) => publish(slow::run(options)?, &options.common),
        Task::Churn(options) => publish(churn::run(options)?, &options.common),
        Task::Drain(options) => publish(drain::run(options)?, &options.common),
        Task::Run(options) => run_plan(options),
        Task::Plan(PlanCommand::Check(options)) => plan::check(options),
        Task::Agent(options) => agent::run(options),
        Task::Accept(options) => acceptor::run(options).map(|()| ExitCode::SUCCESS),
        Task::Compare(options) => compare::run(options).map(|()| ExitCode::SUCCESS),
        Task::Ab(options) => ab::run(options).map(|()| ExitCode::SUCCESS),
    }
}

/// Checks the options of a run. With `--repeat`, makes all its runs, and returns the exit code.
fn prepare(common: &CommonOptions) -> Result<Option<ExitCode>, Error> {
    output::check(&common.output)?;
    if common.repeat > 1 { repeat::run(common.repeat).map(Some) } else { Ok(None) }
}

fn run_plan(options: &RunOptions) -> Result<ExitCode, Error> {
    let (common, publishing, load) = plan::prepare(options)?;
    match prepare(&common)? {
        Some(done) => Ok(done),
        None => publish(fanout::drive(&common, &publishing, &load, &options.agents)?, &common),
    }
}

fn publish(outcome: Outcome, common: &CommonOptions) -> Result<ExitCode, Error> {
    output::publish(&common.output, outcome).map(ExitCode::from)
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
