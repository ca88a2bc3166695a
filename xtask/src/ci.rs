//! `ci`: what continuous integration runs, in the order that ends with the tests' summary line.
//! It decides the order and nothing else. Invariant: the last line it prints is the one that
//! `test` ends with, also when an earlier part failed.

use std::process::ExitCode;

use anyhow::Result;

use crate::{demo, lint, setup, terminal, test};

/// Runs everything.
pub(crate) fn run() -> Result<ExitCode> {
    // First, so that lint sees the real eBPF build too, and nothing is built twice.
    if let Err(error) = setup::required() {
        terminal::warning(&format!("{error:#}"));
    }
    let lint = lint::run().unwrap_or_else(|error| {
        terminal::failure(&format!("{error:#}"));
        ExitCode::FAILURE
    });
    if lint != ExitCode::SUCCESS {
        terminal::failure("lint failed (above); the tests run all the same");
    }
    let demo = demo::run(&demo::Options { json: true, keep: false }).unwrap_or_else(|error| {
        terminal::failure(&format!("{error:#}"));
        ExitCode::FAILURE
    });
    if demo != ExitCode::SUCCESS {
        terminal::failure("the demo failed (above); the tests run all the same");
    }
    let test = test::run(&test::Options::default())?;
    let all_well = lint == ExitCode::SUCCESS && demo == ExitCode::SUCCESS;
    Ok(if all_well { test } else { ExitCode::FAILURE })
}
