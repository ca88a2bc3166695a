//! `demo`: hands over to the lab. It must not know what the demo does: that is written once, in the lab's own crate.
//! Invariant: the options here are those of `lb-demo`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::handover::Program;

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
    let program = Program {
        name: "lb-demo",
        building: "switchboard and the demo",
        root_to: "make network namespaces and load eBPF programs",
        release: false,
        starts_agent: true,
    };
    let given = [options.json.then_some("--json"), options.keep.then_some("--keep")];
    program.run(&given.into_iter().flatten().map(OsString::from).collect::<Vec<_>>())
}
