//! The command line: arguments in, exit code out. Bad input is a text on standard error and exit code 2.
//!
//! Each flag has an environment variable: `RINGFEED_` and its name.

mod cert;
mod config;
mod doctor;
mod drain;
mod generate;
mod jwks;
mod lists;
mod log;
mod network;
mod publish;
mod reload;
mod serve;
mod server;
mod subscribe;
mod test;
mod token;
mod top;
mod version;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::ring::StartError;

/// The exit code for input that can't be used.
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
    Test(Box<test::TestArguments>),
    Doctor(doctor::DoctorArguments),
    Cert(cert::CertArguments),
    Reload(reload::ReloadArguments),
    Drain(drain::DrainArguments),
    Top(top::TopArguments),
    Connections(lists::ConnectionsArguments),
    Topics(lists::TopicsArguments),
    Token(token::TokenArguments),
    Version(version::VersionArguments),
    #[command(hide = true)]
    Completions(generate::CompletionsArguments),
    #[command(hide = true)]
    Man(generate::ManArguments),
}

/// Runs the command of the process's arguments.
pub fn run() -> ExitCode {
    let exit_code = match parse(std::env::args_os()) {
        Ok(Arguments { command }) => match command {
            Command::Serve(arguments) => serve::run(*arguments),
            Command::Config(arguments) => config::run(arguments),
            Command::Sub(arguments) => subscribe::run(arguments),
            Command::Pub(arguments) => publish::run(arguments),
            Command::Test(arguments) => test::run(*arguments),
            Command::Doctor(arguments) => doctor::run(arguments),
            Command::Cert(arguments) => cert::run(arguments),
            Command::Reload(arguments) => reload::run(arguments),
            Command::Drain(arguments) => drain::run(arguments),
            Command::Top(arguments) => top::run(arguments),
            Command::Connections(arguments) => lists::connections(arguments),
            Command::Topics(arguments) => lists::topics(arguments),
            Command::Token(arguments) => token::run(arguments),
            Command::Version(arguments) => version::run(arguments),
            Command::Completions(arguments) => generate::completions(arguments),
            Command::Man(arguments) => generate::man(arguments),
        },
        Err(exit_code) => exit_code,
    };
    log::flush();
    exit_code
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Arguments, ExitCode> {
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = with_environment(Arguments::command());
    let matches = command.try_get_matches_from_mut(&arguments);
    let parsed = matches.and_then(|matches| Arguments::from_arg_matches(&matches));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            print!("{error}");
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            eprint!("{error}");
            ExitCode::from(BAD_INPUT)
        }
        _ => {
            eprint!("{}", with_help_of(&called(&arguments), &error.to_string()));
            ExitCode::from(BAD_INPUT)
        }
    })
}

/// Lets each flag of all commands be set by an environment variable. The command line wins.
fn with_environment(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| match argument.get_long() {
        Some(name) => {
            let variable = format!("RINGFEED_{}", name.replace('-', "_").to_uppercase());
            argument.env(&*variable.leak()).hide_env_values(true)
        }
        None => argument,
    });
    command.mut_subcommands(with_environment)
}

/// The command that the arguments call: `ringfeed config check`.
fn called(arguments: &[OsString]) -> String {
    let mut command = &Arguments::command();
    let mut words = vec![command.get_name().to_owned()];
    for argument in arguments.iter().skip(1) {
        let Some(found) = command.get_subcommands().find(|found| argument == found.get_name()) else { break };
        words.push(found.get_name().to_owned());
        command = found;
    }
    words.join(" ")
}

/// clap's text. Its last line says `--help` without the command.
fn with_help_of(called: &str, text: &str) -> String {
    text.replace("try '--help'", &format!("try '{called} --help'"))
}

/// Bad input: what to change.
fn bad_input(text: &str) -> ExitCode {
    eprintln!("ringfeed: {text}");
    ExitCode::from(BAD_INPUT)
}

/// The input was good, but its purpose could not be reached.
fn failed(text: &str) -> ExitCode {
    eprintln!("ringfeed: {text}");
    ExitCode::FAILURE
}

/// The runtime of a command.
///
/// # Errors
/// Why there can be no ring on this host, and the remedy.
fn runtime() -> Result<tokio_uring::Runtime, String> {
    tokio_uring::Runtime::new(&tokio_uring::builder())
        .map_err(|error| StartError::diagnose("io_uring_setup", error).to_string())
}

/// A header field of the command line: `NAME: VALUE`.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("must be a name, a colon and a value, as in 'X-API-Key: KEY'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// A duration in seconds of the command line: `30s`, `15m`, `12h` or `7d`.
fn duration_s(text: &str) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let unit = units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)));
    let duration = unit.and_then(|(count, seconds)| count.parse::<u64>().ok()?.checked_mul(seconds));
    duration.filter(|seconds| *seconds > 0).ok_or_else(|| "must be a number and s, m, h or d, as in 15m".to_owned())
}

/// The first line of a file: a key or a token.
fn first_line(file: &Path) -> Result<String, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
    match text.lines().next().unwrap_or_default().trim() {
        "" => Err(format!("{}: its first line must be the key or the token", file.display())),
        line => Ok(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_the_first_line_of_its_file() {
        assert_eq!(first_line(Path::new("Cargo.toml")), Ok("[workspace]".to_owned()));
        assert!(first_line(Path::new("/dev/null")).unwrap_err().contains("first line"));
        assert!(first_line(Path::new("nowhere")).unwrap_err().starts_with("nowhere: cannot be read"));
    }

    #[test]
    fn durations_have_a_unit() {
        let rows = [("30s", Some(30)), ("15m", Some(900)), ("12h", Some(43_200)), ("7d", Some(604_800))];
        for (text, seconds) in
            rows.into_iter().chain(["", "5", "s", "-1s", "0s", "1.5h", "99999999999999999d"].map(|text| (text, None)))
        {
            assert_eq!(duration_s(text).ok(), seconds, "{text}");
        }
    }

    #[test]
    fn arguments_are_consistent() {
        with_environment(Arguments::command()).debug_assert();
    }

    #[test]
    fn an_error_has_all_that_clap_says_and_names_the_help_of_its_command() {
        let error = |arguments: &[&str]| {
            let arguments: Vec<OsString> = ["ringfeed"].iter().chain(arguments).map(OsString::from).collect();
            let error = Arguments::try_parse_from(&arguments).unwrap_err();
            with_help_of(&called(&arguments), &error.to_string())
        };
        let rows: [(&[&str], &[&str]); 8] = [
            (&["serve", "--lisen", "a"], &["'--lisen'", "'--listen'", "try 'ringfeed serve --help'"]),
            (&["sub"], &["<URL>", "try 'ringfeed sub --help'"]),
            (&["serve", "--deflate", "yes"], &["'yes'", "on, off"]),
            (&["serve", "--listen", "localhost:9000"], &["127.0.0.1:8000", "try 'ringfeed serve --help'"]),
            (&["serve", "--shards", "1025"], &["1025 is not in 0..=1024"]),
            (&["config", "chek"], &["'check'", "try 'ringfeed config --help'"]),
            (&["sevre"], &["'serve'", "try 'ringfeed --help'"]),
            (&["pub", "a", "--header", "b"], &["X-API-Key: KEY"]),
        ];
        for (arguments, texts) in rows {
            let error = error(arguments);
            for text in texts {
                assert!(error.contains(text), "{arguments:?}: {text} is not in {error}");
            }
        }
    }

    #[test]
    fn each_flag_has_an_environment_variable() {
        let command = with_environment(Arguments::command());
        let mut count = 0;
        for command in command.get_subcommands() {
            for argument in command.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let variable = argument.get_env().unwrap_or_else(|| panic!("{argument} has none")).to_str().unwrap();
                assert_eq!(variable.to_lowercase()[9..], argument.get_long().unwrap().replace('-', "_"));
                count += 1;
            }
        }
        assert!(count > 30);
    }
}
