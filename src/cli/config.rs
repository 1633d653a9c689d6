//! `ringfeed config`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::bad_input;
use crate::config;

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
        /// The file
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
    let settings = match config::load(file) {
        Ok(settings) => settings,
        Err(error) => return bad_input(&error.to_string()),
    };
    let certificates = || settings.server_config().acceptor().map_err(|error| error.to_string());
    let files = settings.api.key().map(drop).and(settings.centrifuge_config().map(drop));
    match files.and_then(|()| certificates().map(drop)) {
        Ok(()) => {
            println!("{}: good", file.display());
            ExitCode::SUCCESS
        }
        Err(text) => bad_input(&format!("{}: {text}", file.display())),
    }
}
