//! `ringfeed config`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use clap::{Arg, Args, CommandFactory, Subcommand};

use super::serve::{self, ServeArguments};
use super::{Arguments, bad_input, with_environment};
use crate::config::{self, ConfigError, Settings};

/// Checks a configuration file, or prints one
#[derive(Args, Debug)]
pub(super) struct ConfigArguments {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Tells what is wrong with a configuration file; the exit code is 2 if anything is
    Check {
        /// The file; `-` reads standard input
        file: PathBuf,
    },
    /// Prints a configuration file with every key, what it does, and its default
    Example,
    /// Prints the settings that `serve` would run with under the same flags, and where each comes from
    Show(Box<ServeArguments>),
    /// Prints a page in Markdown about every key
    Doc,
    /// Prints the environment variables that `serve` takes instead of flags, and which of them are set
    Env,
}

pub(super) fn run(arguments: ConfigArguments) -> ExitCode {
    match arguments.command {
        ConfigCommand::Check { file } => check(&file),
        ConfigCommand::Example => {
            print!("{}", config::example());
            ExitCode::SUCCESS
        }
        ConfigCommand::Show(arguments) => match show(*arguments) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(text) => bad_input(&text),
        },
        ConfigCommand::Doc => {
            print!("{}", config::doc());
            ExitCode::SUCCESS
        }
        ConfigCommand::Env => {
            print!("{}", environment());
            ExitCode::SUCCESS
        }
    }
}

fn show(arguments: ServeArguments) -> Result<String, String> {
    let file = arguments.config.clone();
    let settings = serve::settings(arguments)?;
    let (read, text) = match &file {
        Some(file) => {
            let read = config::load(file).map_err(|error| error.to_string())?;
            (read, fs::read_to_string(file).map_err(|error| ConfigError::unreadable(file, &error).to_string())?)
        }
        None => (Settings::default(), String::new()),
    };
    Ok(config::show(&settings, &read, &text))
}

/// A line for each flag of `serve`.
fn environment() -> String {
    let command = with_environment(Arguments::command());
    let serve = command.find_subcommand("serve").expect("there is such a command");
    let line = |argument: &Arg| {
        let variable = argument.get_env()?.to_string_lossy().into_owned();
        let set = if std::env::var_os(&variable).is_some() { "set" } else { "" };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        Some(format!("{variable:<38} {set:<4} {}\n", help.replace('\n', " ")))
    };
    serve.get_arguments().filter_map(line).collect()
}

fn check(file: &Path) -> ExitCode {
    let (name, text) = match read(file) {
        Ok(read) => read,
        Err(text) => return bad_input(&text),
    };
    let settings = match config::parse(&text) {
        Ok(settings) => settings,
        Err(problems) => return bad_input(&ConfigError::new(name, problems).to_string()),
    };
    if let Err(text) = config::preflight(&settings) {
        return bad_input(&format!("{}: {text}", name.display()));
    }
    match &config::open_namespaces(&settings)[..] {
        [] => println!("{}: nobody can subscribe without a token", name.display()),
        open => println!("{}: anyone can subscribe, without a token, in {}", name.display(), open.join(", ")),
    }
    println!("{}: good", name.display());
    ExitCode::SUCCESS
}

/// The file's name in messages, and its text.
fn read(file: &Path) -> Result<(&Path, String), String> {
    let is_input = file == Path::new("-");
    let name = if is_input { Path::new("standard input") } else { file };
    let text = if is_input { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    text.map(|text| (name, text)).map_err(|error| ConfigError::unreadable(name, &error).to_string())
}
