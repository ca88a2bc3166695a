//! Starts `cargo test`, shows its output as it comes, and feeds every line to the outcome.
//! Knows no package. Invariant: what the person sees and what is counted are the same lines, in
//! the same order, since both of cargo's outputs come through one pipe.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::outcome::Outcome;
use crate::terminal;

/// Runs a prepared `cargo test`, all suites even if one fails, and adds what it says.
pub(super) fn run_cargo_test(mut cargo: Command, filter: Option<&str>, outcome: &mut Outcome) -> Result<()> {
    let colour = if terminal::colours() { "always" } else { "never" };
    cargo.args(["--no-fail-fast", "--color", colour]);
    cargo.arg("--").args(filter).args(["--color", colour]);
    let shown = shown(&cargo);
    terminal::note(&format!("running {shown}"));

    let (reader, writer) = io::pipe().context("making a pipe for cargo's output")?;
    cargo.stdout(writer.try_clone().context("sharing the pipe")?).stderr(writer);
    let mut child = cargo.spawn().context("starting cargo test")?;
    // The command holds the writing ends too: while it lives, the reader never sees the end.
    drop(cargo);

    let mut run = Outcome::default();
    let mut lines = BufReader::new(reader);
    let mut line = Vec::new();
    let mut screen = io::stdout();
    while lines.read_until(b'\n', &mut line).context("reading cargo's output")? > 0 {
        screen.write_all(&line).and_then(|()| screen.flush()).context("showing cargo's output")?;
        run.take(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().context("waiting for cargo test")?;
    run.end(status.success(), &shown);
    outcome.suites.append(&mut run.suites);
    outcome.skipped.append(&mut run.skipped);
    outcome.failures.append(&mut run.failures);
    Ok(())
}

fn shown(cargo: &Command) -> String {
    let words = cargo.get_args().take_while(|word| *word != "--no-fail-fast");
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    format!("cargo {}", words.join(" "))
}
