//! `fuzz`: random clusters and packets through the kernel and the reference model; or, with `--parser`, libFuzzer on the
//! packet parser. It must not know what is tried. Invariant: what a target of libFuzzer needs is named before it is
//! missed.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::handover::Program;
use crate::workspace;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// What to try and for how long: `cargo xtask fuzz --help` shows it once it is built. With `--parser` first:
    /// libFuzzer's own options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Fuzzes.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match options.arguments.split_first() {
        Some((first, rest)) if first == "--parser" => parser(rest),
        _ => packets(&options.arguments),
    }
}

fn packets(arguments: &[OsString]) -> Result<ExitCode> {
    let program = Program {
        name: "lb-fuzz",
        building: "the reference model, and the programs that it is compared with",
        root_to: "load eBPF programs and run them on packets",
        // As the tests are built: most of the time is the kernel's.
        release: false,
        starts_agent: false,
    };
    program.run(arguments)
}

fn parser(arguments: &[OsString]) -> Result<ExitCode> {
    let missing = missing();
    ensure!(
        missing.is_empty(),
        "libFuzzer on the parser needs what is not here. Install it with: {}",
        missing.join("; ")
    );
    // A minute, where nothing else is said.
    let limit = arguments.is_empty().then(|| OsString::from("-max_total_time=60"));
    let status = Command::new("rustup")
        .args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir", "tests/fuzz", "parser", "--"])
        .args(arguments)
        .args(limit)
        .current_dir(workspace::root())
        .env("PATH", workspace::path())
        .env_remove("CARGO")
        .status()
        .context("starting cargo fuzz")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What has to be installed first.
fn missing() -> Vec<&'static str> {
    let works = |program: &str, arguments: &[&str]| {
        let found = Command::new(program).args(arguments).env("PATH", workspace::path()).output();
        found.is_ok_and(|output| output.status.success())
    };
    let mut missing = Vec::new();
    if !works("rustup", &["run", "nightly", "rustc", "--version"]) {
        missing.push("rustup toolchain install nightly");
    }
    if !works("cargo-fuzz", &["--version"]) {
        missing.push("cargo install cargo-fuzz");
    }
    missing
}
