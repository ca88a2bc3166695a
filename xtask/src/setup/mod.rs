//! `setup`: brings the machine to where eBPF programs can be built and the lab can run. Looks
//! (`findings`), decides by pure functions (`decide`), carries out (`install`), and leaves a note
//! of the toolchain for lb-userspace/build.rs (`toolchain`).
//!
//! It must not know what is built or tested with it. Invariant: on a machine that has everything
//! it changes nothing, not even the note's modification time.

mod decide;
mod findings;
mod install;
mod toolchain;

use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};

use crate::terminal::{self, Stopwatch};
use findings::Findings;
use install::Apt;
pub(crate) use toolchain::Toolchain;

/// What the machine has once setup did what it could. Each part stands alone, so that a machine
/// without root still builds and runs the tests that need none.
pub(crate) struct Prepared {
    /// The compiler and linker of the datapath, or why there is none.
    pub(crate) toolchain: Result<Toolchain>,
    /// The programs that the lab and the demo start, or which are missing and why.
    pub(crate) programs: Result<()>,
}

/// The verb: prepares, and fails if any part is missing.
pub(crate) fn run() -> Result<ExitCode> {
    required()?;
    Ok(ExitCode::SUCCESS)
}

/// Prepares the machine, and fails with what is missing.
///
/// # Errors
/// One sentence per missing part, each saying what to do.
pub(crate) fn required() -> Result<Toolchain> {
    let Prepared { toolchain, programs } = prepare();
    match (toolchain, programs) {
        (Ok(toolchain), Ok(())) => Ok(toolchain),
        (Err(first), Err(second)) => Err(anyhow!("{first:#}\n       {second:#}")),
        (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
    }
}

/// Prepares as much as the machine and its rights allow.
pub(crate) fn prepare() -> Prepared {
    let clock = Stopwatch::start();
    terminal::heading("setup: what building and testing the datapath takes");
    if let Some(problem) = findings::disk().as_ref().and_then(decide::too_little_room) {
        terminal::warning(&problem);
    }
    let mut apt = Apt::new();
    let toolchain = toolchain(&mut apt);
    let programs = programs(&mut apt);
    let time = clock.said();
    terminal::note(&match (toolchain.is_ok() && programs.is_ok(), apt.changes()) {
        (true, 0) => format!("setup: nothing to do, in {time}"),
        (true, _) => format!("setup: done in {time}; this machine now has what was missing"),
        (false, _) => format!("setup: incomplete after {time}"),
    });
    Prepared { toolchain, programs }
}

fn toolchain(apt: &mut Apt) -> Result<Toolchain> {
    let asked = std::env::var(toolchain::VARIABLE).ok();
    let compiler = match decide::pick(&Findings::look().compilers, asked.as_deref())? {
        Some(compiler) => compiler,
        None => install::compiler(apt)?,
    };
    terminal::fine(&format!(
        "eBPF compiler: toolchain {}, rustc {}, LLVM {}, with the source of core",
        compiler.name, compiler.release, compiler.llvm
    ));
    let linker = install::linker(apt, &compiler)?;
    terminal::fine(&format!("bpf-linker {}: {}", decide::LINKER_VERSION, linker.display()));
    let toolchain = Toolchain::new(&compiler, &linker);
    toolchain.write().context("leaving the toolchain's name for lb-userspace/build.rs")?;
    Ok(toolchain)
}

fn programs(apt: &mut Apt) -> Result<()> {
    let missing = findings::missing_programs();
    if !missing.is_empty() {
        apt.install(&missing, "tests and demo start their programs")?;
    }
    terminal::fine("programs for tests and demo: nft, iptables, conntrack, ip, ethtool, bpftool, tcpdump");
    Ok(())
}
