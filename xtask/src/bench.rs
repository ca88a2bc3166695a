//! `bench`: builds the agent and the benchmarks for speed, becomes root, and hands over. It must not know what
//! is measured. Invariant: what is measured is the committed way to build, `--release`.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{rights, setup, terminal, workspace};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// What to measure and how: `cargo xtask bench --help` shows it once it is built
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs the benchmarks.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::required()?;
    terminal::note("building switchboard and the benchmarks for speed");
    let build =
        workspace::cargo(["build", "--release", "--quiet", "-p", "lb-userspace", "-p", "lb-tests", "--bins"])
            .status()
            .context("starting cargo")?;
    ensure!(build.success(), "the benchmarks do not build (cargo's words are above)");
    let asks = options.arguments.iter().any(|argument| argument == "--help" || argument == "-h");
    if !asks {
        rights::become_root("load eBPF programs, make network namespaces and write rules in them")?;
    }
    let folder = workspace::target_dir().join("release");
    let status = Command::new(folder.join("lb-bench"))
        .env("SWITCHBOARD_BIN", folder.join("switchboard"))
        .env("PATH", workspace::path())
        .args(&options.arguments)
        .status()
        .context("starting the benchmarks")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
