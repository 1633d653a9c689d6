//! `ringfeed completions` and `ringfeed man`, for packages.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, bad_input};

/// Prints the completions of a shell: put them where it looks for them
#[derive(Args, Debug)]
pub(super) struct CompletionsArguments {
    /// The shell
    shell: Shell,
}

/// Writes a man page for each command into a directory
#[derive(Args, Debug)]
pub(super) struct ManArguments {
    /// The directory, which is there already
    directory: PathBuf,
}

pub(super) fn completions(arguments: CompletionsArguments) -> ExitCode {
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "ringfeed", &mut io::stdout());
    ExitCode::SUCCESS
}

pub(super) fn man(arguments: ManArguments) -> ExitCode {
    match clap_mangen::generate_to(Arguments::command(), &arguments.directory) {
        Ok(()) => {
            let pages = fs::read_dir(&arguments.directory).map_or(0, Iterator::count);
            println!("{}: {pages} pages", arguments.directory.display());
            ExitCode::SUCCESS
        }
        Err(error) => bad_input(&format!("{}: the pages cannot be written: {error}", arguments.directory.display())),
    }
}
