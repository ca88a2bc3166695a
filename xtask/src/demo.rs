//! `demo`: builds the agent, becomes root, and hands over to the lab. It must not know what the
//! demo does: that is written once, in the lab's own crate. Invariant: everything is compiled
//! before root is asked for, so that no file under the target folder belongs to root.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{rights, setup, terminal, workspace};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object with the results as the last line
    #[arg(long)]
    pub(crate) json: bool,
    /// Leave the lab up at the end, and print the commands to try by hand
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::required()?;
    terminal::note("building switchboard and the demo");
    let build = workspace::cargo(["build", "--quiet", "-p", "lb-userspace", "-p", "lb-tests", "--bins"])
        .status()
        .context("starting cargo")?;
    ensure!(build.success(), "the demo does not build (cargo's words are above)");
    rights::become_root("make network namespaces and load eBPF programs")?;
    let folder = workspace::target_dir().join("debug");
    let status = Command::new(folder.join("lb-demo"))
        .env("SWITCHBOARD_BIN", folder.join("switchboard"))
        .args(options.json.then_some("--json"))
        .args(options.keep.then_some("--keep"))
        .status()
        .context("starting the demo")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
