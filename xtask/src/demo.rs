//! `demo`: builds the agent, becomes root, and hands over to the lab. It must not know what the
//! demo does: that is written once, in the lab's own crate. Invariant: everything is compiled
//! before root is asked for, so that no file under the target folder belongs to root.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::{rights, setup};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object with the results as the last line
    #[arg(long)]
    json: bool,
    /// Leave the lab up at the end, and print the commands to try by hand
    #[arg(long)]
    keep: bool,
}

/// Runs the demo.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::required()?;
    rights::become_root("make network namespaces and load eBPF programs")?;
    bail!(
        "the demo is not there yet (asked for: json {}, keep {}); it comes with the lab in tests/",
        options.json,
        options.keep
    )
}
