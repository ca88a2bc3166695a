//! What to install, as pure functions from findings to steps: which compiler to take, which way
//! to get one, where bpf-linker comes from. Runs nothing and looks at nothing itself. Invariant:
//! what is installed and good enough is always preferred to installing.

use anyhow::{Result, bail};

use super::findings::{Compiler, DEBIAN_TOOLCHAIN, Disk, Findings, Linker, Release};

/// The version of bpf-linker that the datapath is built and tested with.
pub(super) const LINKER_VERSION: &str = "0.13.0";

/// Versions of LLVM that this bpf-linker can be built with, the best known one first.
pub(super) const LINKER_LLVM: [u32; 3] = [22, 23, 21];

/// Debian's packages with a compiler new enough, and the source of its standard library.
pub(super) const DEBIAN_RUST: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Bytes of the target folder once `cargo xtask ci` has built everything from nothing: 4.3 GiB, as measured, and some.
const BUILD: u64 = 9 << 29;
/// Bytes that tests, programs and cargo itself write besides, and that a linker needs for a moment.
const BESIDES: u64 = 1 << 30;

/// `rust-version` of the workspace.
const OLDEST: Release = Release(1, 95);

/// One way to an eBPF compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Debian 12's own packages, linked into rustup.
    Debian,
    /// A nightly with rust-src, by rustup.
    Nightly,
}

/// One thing to do on a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Install those of the packages that are missing.
    Packages(&'static [&'static str]),
    /// `rustup toolchain link bpf-debian /usr`.
    LinkDebian,
    /// `rustup toolchain install nightly` with rust-src.
    InstallNightly,
}

/// Where bpf-linker comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkerPlan {
    /// It is there.
    Keep,
    /// `cargo install` against an LLVM that is installed.
    Build { llvm: u32 },
    /// The same, after installing that LLVM's packages.
    InstallLlvmAndBuild { llvm: u32 },
    /// The released binary, with LLVM linked in.
    Released,
}

/// Why a full build may run out of disk, and what to do, if it may. What was built before is built over.
pub(super) fn too_little_room(disk: &Disk) -> Option<String> {
    let needed = BUILD.saturating_sub(disk.built) + BESIDES;
    let size = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    (disk.free < needed).then(|| {
        format!(
            "{} has {} left, and a full build takes {} more: a linker that runs out of it dies of a bus error. Make room \
             (`cargo clean` frees {}), or build on another disk with CARGO_TARGET_DIR",
            disk.folder.display(),
            size(disk.free),
            size(needed),
            size(disk.built)
        )
    })
}

/// The compiler to use among those found: the one asked for by name, else a nightly, else
/// another one that has what it takes; `None` if one must be installed.
///
/// # Errors
/// If one was asked for by name and is no use.
pub(super) fn pick(compilers: &[Compiler], asked: Option<&str>) -> Result<Option<Compiler>> {
    if let Some(asked) = asked {
        let Some(found) = compilers.iter().find(|compiler| compiler.name.starts_with(asked)) else {
            bail!("SWITCHBOARD_EBPF_TOOLCHAIN names {asked}, which `rustup toolchain list` does not show");
        };
        if let Some(lack) = lack(found) {
            bail!(
                "SWITCHBOARD_EBPF_TOOLCHAIN names {asked}, which {lack}; unset it or repair that toolchain"
            );
        }
        return Ok(Some(found.clone()));
    }
    let usable = || compilers.iter().filter(|compiler| lack(compiler).is_none());
    Ok(usable().find(|compiler| compiler.nightly).or_else(|| usable().next()).cloned())
}

/// What keeps a compiler from building the datapath.
pub(super) fn lack(compiler: &Compiler) -> Option<String> {
    if compiler.release < OLDEST {
        Some(format!("is rustc {}, older than the {OLDEST} this project asks for", compiler.release))
    } else if !compiler.source {
        Some("has no rust-src component, and core must be compiled for the kernel".to_owned())
    } else {
        None
    }
}

/// The ways to try on this system, in order.
pub(super) fn ways(findings: &Findings) -> &'static [Way] {
    if findings.system == "debian 12" { &[Way::Debian, Way::Nightly] } else { &[Way::Nightly] }
}

/// The steps of one way, without those that are done already.
pub(super) fn steps(way: Way, findings: &Findings, missing_debian_rust: bool) -> Vec<Step> {
    match way {
        Way::Nightly => vec![Step::InstallNightly],
        Way::Debian => {
            let linked = findings.compilers.iter().any(|compiler| compiler.name == DEBIAN_TOOLCHAIN);
            let mut steps = Vec::new();
            if missing_debian_rust {
                steps.push(Step::Packages(&DEBIAN_RUST));
            }
            if !linked {
                steps.push(Step::LinkDebian);
            }
            steps
        }
    }
}

/// Where to take bpf-linker from, for a compiler with LLVM `needed`: its own must be as new.
/// `installed` and `offered` are the versions of LLVM on this machine and in its package lists.
///
/// # Errors
/// If the compiler is newer than any LLVM this bpf-linker knows.
pub(super) fn linker(
    found: Option<&Linker>,
    needed: u32,
    installed: &[u32],
    offered: &[u32],
) -> Result<LinkerPlan> {
    if found.is_some_and(|linker| {
        linker.version == LINKER_VERSION && linker.llvm.is_none_or(|llvm| llvm >= needed)
    }) {
        return Ok(LinkerPlan::Keep);
    }
    let fits =
        |versions: &[u32]| LINKER_LLVM.into_iter().find(|llvm| *llvm >= needed && versions.contains(llvm));
    if let Some(llvm) = fits(installed) {
        Ok(LinkerPlan::Build { llvm })
    } else if let Some(llvm) = fits(offered) {
        Ok(LinkerPlan::InstallLlvmAndBuild { llvm })
    } else if LINKER_LLVM.iter().any(|llvm| *llvm >= needed) {
        Ok(LinkerPlan::Released)
    } else {
        bail!(
            "the eBPF compiler uses LLVM {needed}, newer than bpf-linker {LINKER_VERSION} reads; \
             name an older toolchain with rust-src in SWITCHBOARD_EBPF_TOOLCHAIN"
        )
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
