//! Load generator for WebSocket push servers.
//!
//! The picture: [`cli`] reads the flags, [`fanout`] and [`echo`] are the two scenarios, each one loop over one ring on
//! one thread. What they share: [`clients`] opens connections and talks to the server as its [`driver`] says,
//! [`sockets`] moves the bytes, [`payload`] says what a message carries, [`faults`] names what went wrong, [`process`]
//! reads what the server and this program cost, [`report`] prints it.
//!
//! Exit code 0: measured and every message was right. 1: measured, and something was wrong with the messages; the
//! report names it. 2: could not measure.

mod cli;
mod clients;
mod conversation;
mod deliveries;
mod dial;
mod driver;
mod echo;
mod error;
mod event_stream;
mod fanout;
mod faults;
mod figure;
mod frames;
mod masking_keys;
mod options;
mod pace;
mod payload;
mod pin;
mod process;
mod publisher;
mod report;
mod sockets;
mod target;
mod tls;
mod topics;
mod window;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, Scenario};

fn main() -> ExitCode {
    let scenario = match Arguments::try_parse() {
        Ok(arguments) => arguments.scenario,
        Err(error) if error.use_stderr() => return cannot_measure(first_line(&error.to_string())),
        Err(help) => help.exit(),
    };
    let result = match &scenario {
        Scenario::Fanout(options) => fanout::run(options),
        Scenario::Echo(options) => echo::run(options),
    };
    match result.and_then(|report| report.publish(scenario.common().json.as_deref())) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => cannot_measure(&error.to_string()),
    }
}

fn cannot_measure(why: &str) -> ExitCode {
    eprintln!("loadgen: {why}");
    ExitCode::from(2)
}

/// What is wrong with the flags; the usage that follows is for `--help`.
fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line)
}
