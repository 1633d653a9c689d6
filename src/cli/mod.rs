//! The command line: arguments in, exit code out. Bad input is one line on standard error and exit code 2.

mod cert;
mod config;
mod doctor;
mod publish;
mod serve;
mod subscribe;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Exit code for input that can't be used.
const BAD_INPUT: u8 = 2;

/// A WebSocket push server for Linux on io_uring.
#[derive(Debug, Parser)]
#[command(name = "ringfeed", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArguments>),
    Config(config::ConfigArguments),
    Sub(subscribe::SubArguments),
    Pub(publish::PubArguments),
    Doctor(doctor::DoctorArguments),
    Cert(cert::CertArguments),
}

/// Runs what the process was asked to.
pub fn run() -> ExitCode {
    start_logging();
    match parse(std::env::args_os()) {
        Ok(Arguments { command }) => match command {
            Command::Serve(arguments) => serve::run(*arguments),
            Command::Config(arguments) => config::run(arguments),
            Command::Sub(arguments) => subscribe::run(arguments),
            Command::Pub(arguments) => publish::run(arguments),
            Command::Doctor(arguments) => doctor::run(arguments),
            Command::Cert(arguments) => cert::run(arguments),
        },
        Err(exit_code) => exit_code,
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Arguments, ExitCode> {
    Arguments::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print!("{error}");
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprint!("{error}");
            ExitCode::from(BAD_INPUT)
        }
        _ => bad_input(&one_line(&error)),
    })
}

/// What clap says before it goes on about usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    format!("{}: see `ringfeed --help`", first.trim_start_matches("error: "))
}

fn bad_input(text: &str) -> ExitCode {
    eprintln!("ringfeed: {text}");
    ExitCode::from(BAD_INPUT)
}

/// Logs go to standard error. `RUST_LOG` chooses what: a level, or levels of modules as in `info,ringfeed=debug`. The
/// default is `info`.
fn start_logging() {
    let wanted = std::env::var("RUST_LOG").ok();
    let filter: Option<Targets> = wanted.as_deref().and_then(|wanted| wanted.parse().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    // What finds no room, on a full disk say, is left out: the default would say so on standard error, and panic when
    // that can't be written to either.
    let logs = fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal()).log_internal_errors(false);
    tracing_subscriber::registry().with(logs).with(filter).init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_bad_flag_is_one_line() {
        let error = Arguments::try_parse_from(["ringfeed", "serve", "--nonsense"]).unwrap_err();
        assert_eq!(one_line(&error), "unexpected argument '--nonsense' found: see `ringfeed --help`");
    }
}
