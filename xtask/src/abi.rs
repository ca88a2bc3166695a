//! `abi`: compares the layout of every map with the golden file lb-common/abi.txt, which review
//! sees as a diff. The comparison itself is a test of lb-common; this verb only runs it, or lets
//! it rewrite the file. Invariant: without `--bless` nothing is written.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::{terminal, workspace};

const TEST: &str = "abi_matches_the_golden_file";

/// Options of `cargo xtask abi`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rewrite lb-common/abi.txt from the code (raise ABI_VERSION if running agents would misread it)
    #[arg(long)]
    bless: bool,
}

/// Runs the comparison, or the rewriting.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut cargo = workspace::cargo(["test", "--quiet", "-p", "lb-common", TEST]);
    if options.bless {
        cargo.env("BLESS", "1");
    } else {
        cargo.env_remove("BLESS");
    }
    let output =
        cargo.stderr(std::process::Stdio::inherit()).output().context("starting cargo test for lb-common")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        print!("{text}");
        terminal::failure(
            "the maps' layout is not what lb-common/abi.txt says; if that is meant, run \
             `cargo xtask abi --bless`, look at the diff, and commit it with the change",
        );
        return Ok(ExitCode::FAILURE);
    }
    if !text.contains("1 passed") {
        anyhow::bail!("lb-common has no test named {TEST}, so nothing was compared; it must be there");
    }
    terminal::fine(if options.bless {
        "lb-common/abi.txt is written; commit it with the change that made it differ"
    } else {
        "the maps' layout is what lb-common/abi.txt says"
    });
    Ok(ExitCode::SUCCESS)
}
