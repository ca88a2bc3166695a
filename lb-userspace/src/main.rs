//! The `switchboard` binary.
//!
//! Decides how an error ends the process: one line on stderr, exit code 1 (clap's usage errors: 2).

use std::process::ExitCode;

use lb_userspace::cmd::Cli;

fn main() -> ExitCode {
    Cli::read().and_then(|cli| cli.run()).unwrap_or_else(|error| {
        eprintln!("switchboard: {error:#}");
        ExitCode::FAILURE
    })
}
