//! `bench`: hands over to the benchmarks. It must not know what is measured. Invariant: what is measured is the
//! committed way to build, `--release`.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;

use crate::handover::Program;

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
    let program = Program {
        name: "lb-bench",
        building: "switchboard and the benchmarks for speed",
        root_to: "load eBPF programs, make network namespaces and write rules in them",
        release: true,
        starts_agent: true,
    };
    program.run(&options.arguments)
}
