//! `ringfeed config`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use clap::{Args, Subcommand};

use super::bad_input;
use crate::config::{self, ConfigError};

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
}

pub(super) fn run(arguments: ConfigArguments) -> ExitCode {
    match arguments.command {
        ConfigCommand::Check { file } => check(&file),
        ConfigCommand::Example => {
            print!("{}", config::example());
            ExitCode::SUCCESS
        }
    }
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
