//! `switchboard complete`: completions for a shell.
//!
//! Decides nothing; clap knows. Invariant: needs no rights.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Prints completions for a shell, as in `source <(switchboard complete bash)`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints them.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    clap_complete::generate(args.shell, &mut super::Cli::command(), "switchboard", &mut std::io::stdout());
    ExitCode::SUCCESS
}
