//! `lint`: everything a machine can judge without running the product. Decides which checks there
//! are; each is a program of its own. Invariant: a check that could not run is named, and one
//! that fails does not keep the others from running.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{
    setup::Toolchain,
    terminal::{self, Stopwatch},
    tidy, workspace,
};

/// How a check ended.
enum Verdict {
    Good,
    Bad,
    /// Not run, with the reason.
    LeftOut(String),
}

type Check = fn() -> Result<Verdict>;

/// Runs all checks.
pub(crate) fn run() -> Result<ExitCode> {
    let clock = Stopwatch::start();
    let checks: [(&str, Check); 6] = [
        ("the house laws (cargo xtask tidy)", laws),
        ("formatting (cargo fmt)", formatting),
        ("clippy, user space", clippy),
        ("clippy, datapath", clippy_datapath),
        ("documentation links (cargo doc)", documentation),
        ("licences, advisories and sources (cargo deny)", licences),
    ];
    let mut results = Vec::new();
    for (name, check) in checks {
        terminal::heading(&format!("lint: {name}"));
        results.push((name, check()?));
    }
    terminal::heading(&format!("lint took {}", clock.said()));
    let mut code = ExitCode::SUCCESS;
    for (name, verdict) in results {
        match verdict {
            Verdict::Good => terminal::fine(name),
            Verdict::Bad => {
                terminal::failure(&format!("{name}: see above"));
                code = ExitCode::FAILURE;
            }
            Verdict::LeftOut(why) => terminal::note(&format!("left out: {name}: {why}")),
        }
    }
    Ok(code)
}

fn laws() -> Result<Verdict> {
    Ok(if tidy::run()? == ExitCode::SUCCESS { Verdict::Good } else { Verdict::Bad })
}

fn formatting() -> Result<Verdict> {
    judge(&mut workspace::cargo(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<Verdict> {
    let mut cargo = workspace::cargo(["clippy", "--quiet", "--all-targets"]);
    cargo.args(["-p", "lb-common", "-p", "lb-userspace", "-p", "lb-tests", "-p", "xtask"]);
    cargo.args(["--", "-D", "warnings"]);
    judge(without_toolchain_a_stub(&mut cargo))
}

/// With the toolchain that builds the datapath if it has clippy. Debian's has none: then with
/// the ordinary one, for this machine instead of the kernel, which sees the same source.
fn clippy_datapath() -> Result<Verdict> {
    let own = Toolchain::find().filter(|toolchain| {
        toolchain
            .command("cargo")
            .args(["clippy", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
    });
    let mut cargo = match own {
        Some(toolchain) => {
            let mut cargo = toolchain.command("cargo");
            cargo.args(["clippy", "--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
            cargo.arg("--target-dir").arg(workspace::target_dir().join("lint-ebpf"));
            cargo
        }
        None => {
            let mut cargo = workspace::cargo(["clippy"]);
            // A program without std cannot unwind, and says so even when only checked.
            cargo.env("CARGO_PROFILE_DEV_PANIC", "abort");
            cargo
        }
    };
    cargo.args(["--quiet", "-p", "lb-ebpf", "--bins", "--", "-D", "warnings"]);
    judge(&mut cargo)
}

fn documentation() -> Result<Verdict> {
    let mut cargo = workspace::cargo(["doc", "--quiet", "--no-deps", "--document-private-items"]);
    cargo.args(["-p", "lb-common", "-p", "lb-userspace", "-p", "lb-tests", "-p", "xtask"]);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    judge(without_toolchain_a_stub(&mut cargo))
}

fn licences() -> Result<Verdict> {
    if workspace::find_program("cargo-deny").is_none() {
        return Ok(Verdict::LeftOut(
            "cargo-deny is not installed (`cargo install cargo-deny` brings it; the rules are in deny.toml)"
                .to_owned(),
        ));
    }
    judge(&mut workspace::cargo(["deny", "check"]))
}

/// Where setup has not run, the agent is compiled around a stub of its eBPF programs. Where it
/// has, they are built, so that going from lint to build and back compiles nothing twice.
fn without_toolchain_a_stub(cargo: &mut Command) -> &mut Command {
    if Toolchain::find().is_none() {
        cargo.env("AYA_BUILD_SKIP", "1");
    }
    cargo
}

fn judge(command: &mut Command) -> Result<Verdict> {
    let status = command.status().with_context(|| format!("starting {:?}", command.get_program()))?;
    Ok(if status.success() { Verdict::Good } else { Verdict::Bad })
}
