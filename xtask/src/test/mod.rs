//! `test`: runs every test that this machine allows, says what was left out and why, and ends
//! with one line, `N passed, N failed, N skipped`.
//!
//! It must not know any test. Tier 0 needs nothing; the root tiers are the package lb-tests.
//! Invariant: the exit code is 0 only if at least one test ran, none failed, and (in CI) none was
//! skipped but for what its kernel lacks.

mod outcome;
mod run;
mod table;

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::{
    rights::Rights,
    setup::{self, Prepared},
    terminal::{self, Stopwatch},
    workspace,
};
use outcome::{Outcome, Suite};
use run::run_cargo_test;

/// Options of `cargo xtask test`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Run only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Run only this part (default: all that the machine allows)
    #[arg(value_enum)]
    tier: Option<Tier>,
}

/// A part of the tests, by what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Unit, property and documentation tests; needs nothing
    #[value(name = "0")]
    Unprivileged,
    /// Programs in the kernel, and the lab of network namespaces; needs root
    #[value(name = "root", aliases = ["1", "2"])]
    Root,
}

impl Options {
    fn wants(&self, tier: Tier) -> bool {
        self.tier.is_none_or(|wanted| wanted == tier)
    }
}

/// Runs the tests and prints the result.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let clock = Stopwatch::start();
    let prepared = setup::prepare();
    let mut outcome = Outcome::default();
    if options.wants(Tier::Unprivileged) {
        unprivileged(options, &prepared, &mut outcome)?;
    }
    if options.wants(Tier::Root) {
        root(options, &prepared, &mut outcome)?;
    }
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    let totals = outcome.totals(in_ci);
    println!("\n{}", table::table(&outcome.suites));
    for line in table::remarks(&outcome, in_ci) {
        println!("{line}");
    }
    println!("all tests took {}", clock.said());
    if totals.passed + totals.failed == 0 {
        println!("no test ran: is the filter spelled right?");
    }
    println!("{} passed, {} failed, {} skipped", totals.passed, totals.failed, totals.skipped);
    Ok(if totals.passed > 0 && totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unprivileged(options: &Options, prepared: &Prepared, outcome: &mut Outcome) -> Result<()> {
    terminal::heading("tier 0: unit, property and documentation tests");
    let mut cargo = workspace::cargo(["test", "-p", "lb-common", "-p", "lb-userspace", "-p", "xtask"]);
    if let Err(error) = &prepared.toolchain {
        terminal::warning(&format!(
            "the agent is tested with a stub in place of its eBPF programs: {error:#}"
        ));
        cargo.env("AYA_BUILD_SKIP", "1");
    }
    run_cargo_test(cargo, options.filter.as_deref(), outcome)?;
    if options.wants(Tier::Root) && why_not(prepared).is_none() {
        return Ok(());
    }
    // The part of lb-tests that needs no root, where the rest of it is not run.
    let mut cargo = workspace::cargo(["test", "-p", "lb-tests", "--test", "kube_source"]);
    if prepared.toolchain.is_err() {
        cargo.env("AYA_BUILD_SKIP", "1");
    }
    run_cargo_test(cargo, options.filter.as_deref(), outcome)
}

fn root(options: &Options, prepared: &Prepared, outcome: &mut Outcome) -> Result<()> {
    terminal::heading("tiers 1 and 2: programs in the kernel, traffic in network namespaces");
    if let Some(why) = why_not(prepared) {
        return leave_out(&why, options, prepared, outcome);
    }
    match build_switchboard() {
        Ok(()) => {
            let mut cargo = workspace::cargo(["test", "-p", "lb-tests"]);
            cargo.env("SWITCHBOARD_BIN", switchboard());
            run_cargo_test(cargo, options.filter.as_deref(), outcome)
        }
        Err(error) => {
            terminal::failure(&format!("{error:#}"));
            outcome.suites.push(Suite::broken("build of switchboard"));
            Ok(())
        }
    }
}

/// Why the root tiers cannot run here, if so.
fn why_not(prepared: &Prepared) -> Option<String> {
    if Rights::find() != Rights::Root {
        return Some("they need root; run `sudo -E env \"PATH=$PATH\" cargo xtask test root`".to_owned());
    }
    let error = prepared.toolchain.as_ref().err().or(prepared.programs.as_ref().err())?;
    Some(format!("{error:#}"))
}

/// Counts the tests that are not run as skipped, by asking their binaries for the names.
fn leave_out(why: &str, options: &Options, prepared: &Prepared, outcome: &mut Outcome) -> Result<()> {
    terminal::note(&format!("left out: {why}"));
    let mut cargo = workspace::cargo(["test", "--quiet", "-p", "lb-tests"]);
    if prepared.toolchain.is_err() {
        cargo.env("AYA_BUILD_SKIP", "1");
    }
    cargo.arg("--").arg("--list").args(options.filter.as_deref());
    let listed =
        cargo.stderr(std::process::Stdio::inherit()).output().context("listing the tests of lb-tests")?;
    if !listed.status.success() {
        outcome.suites.push(Suite::broken("build of lb-tests"));
        return Ok(());
    }
    let names = String::from_utf8_lossy(&listed.stdout);
    let names: Vec<String> =
        names.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    outcome.leave_out("lb-tests (root)", &names, why);
    Ok(())
}

fn switchboard() -> std::path::PathBuf {
    workspace::target_dir().join("debug/switchboard")
}

fn build_switchboard() -> Result<()> {
    terminal::note("building switchboard, with its eBPF programs");
    let status =
        workspace::cargo(["build", "-p", "lb-userspace"]).status().context("starting cargo build")?;
    ensure!(status.success(), "switchboard does not build (cargo's words are above)");
    let binary = switchboard();
    ensure!(binary.is_file(), "cargo build succeeded but {} is not there", binary.display());
    Ok(())
}
