//! Carries out what `decide` chose: packages by apt-get, toolchains by rustup, bpf-linker by
//! cargo. It must not choose. Invariant: every command is announced with its reason before it
//! runs, and a failure names the command, so that a person can run it by hand.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{
    decide::{self, DEBIAN_RUST, LINKER_LLVM, LINKER_VERSION, LinkerPlan, Step, Way},
    findings::{self, Compiler, DEBIAN_TOOLCHAIN, Findings},
};
use crate::{rights::Rights, terminal, workspace};

/// Debian's package tool, its lists read at most once, and only when something is to be installed.
pub(super) struct Apt {
    rights: Rights,
    updated: bool,
    changes: u32,
}

impl Apt {
    pub(super) fn new() -> Self {
        Self { rights: Rights::find(), updated: false, changes: 0 }
    }

    /// How many commands changed this machine so far, by whatever tool.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// Installs packages; `why` completes "installing X: ...". Removes nothing to make room.
    pub(super) fn install(&mut self, packages: &[String], why: &str) -> Result<()> {
        let list = packages.join(" ");
        self.update(&list)?;
        terminal::note(&format!("installing {list}: {why}"));
        let status = self
            .command(&list)?
            .args(["install", "-y", "-qq", "--no-install-recommends", "--no-remove"])
            .args(packages)
            .stdout(Stdio::null())
            .status();
        self.changes += 1;
        ensure!(
            status.context("starting apt-get")?.success(),
            "apt-get could not install {list} (its words are above); check the network and \
             /etc/apt/sources.list.d, or install them by hand, then run this again"
        );
        Ok(())
    }

    /// Reads the package lists, once. A failure is a warning: old lists may do.
    pub(super) fn update(&mut self, wanted: &str) -> Result<()> {
        if !self.updated {
            let mut command = self.command(wanted)?;
            terminal::note("reading Debian's package lists: something is to be installed");
            let status = command.args(["update", "-qq"]).status().context("starting apt-get")?;
            if !status.success() {
                terminal::warning("apt-get update failed; trying with the package lists that are here");
            }
            self.updated = true;
        }
        Ok(())
    }

    fn command(&self, wanted: &str) -> Result<Command> {
        ensure!(
            workspace::find_program("apt-get").is_some(),
            "missing: {wanted} (Debian's names), and there is no apt-get here; install the same \
             programs with this system's package tool"
        );
        let mut command = self.rights.command("env").with_context(|| {
            format!("missing: {wanted}; installing takes root, and there is no sudo here; as root run `apt-get install {wanted}`")
        })?;
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]);
        Ok(command)
    }
}

/// Gets a compiler by the first way that works on this system.
pub(super) fn compiler(apt: &mut Apt) -> Result<Compiler> {
    let findings = Findings::look();
    for compiler in &findings.compilers {
        if let Some(lack) = decide::lack(compiler) {
            terminal::note(&format!("toolchain {} {lack}", compiler.name));
        }
    }
    if !findings.rustup {
        rustup(apt)?;
    }
    let mut failures = Vec::new();
    for &way in decide::ways(&findings) {
        match follow(way, &findings, apt) {
            Ok(compiler) => return Ok(compiler),
            Err(error) => {
                terminal::warning(&format!("{error:#}"));
                failures.push(format!("{error:#}"));
            }
        }
    }
    Err(anyhow!("there is no compiler for eBPF programs: {}", failures.join("; and ")))
}

fn follow(way: Way, findings: &Findings, apt: &mut Apt) -> Result<Compiler> {
    let missing = findings::missing_packages(&DEBIAN_RUST);
    for step in decide::steps(way, findings, way == Way::Debian && !missing.is_empty()) {
        match step {
            Step::Packages(_) => {
                apt.install(
                    &missing,
                    "Debian 12's newer Rust, with the source of core to compile for the kernel",
                )?;
            }
            Step::LinkDebian => {
                run(
                    apt,
                    Command::new("rustup").args(["toolchain", "link", DEBIAN_TOOLCHAIN, "/usr"]),
                    "the eBPF build asks rustup for its compiler",
                )?;
            }
            Step::InstallNightly => {
                let arguments =
                    ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
                run(
                    apt,
                    Command::new("rustup").args(arguments),
                    "core must be compiled for the kernel, which takes a nightly with rust-src",
                )?;
            }
        }
    }
    let now = Findings::look().compilers;
    decide::pick(&now, None)?.with_context(|| match way {
        Way::Debian => "Debian's rustc is installed but too old or without its source; are the bookworm-security packages enabled?",
        Way::Nightly => "rustup's nightly is installed but has no rust-src",
    })
}

/// rustup itself: by package where there is one, else a person has to.
fn rustup(apt: &mut Apt) -> Result<()> {
    if findings::offered("rustup") {
        return apt.install(&["rustup".to_owned()], "the eBPF build asks rustup for its compiler");
    }
    bail!(
        "rustup is not on PATH, and the eBPF build needs it to choose its compiler (`rustup run`); \
         install it as https://rustup.rs says, then run this again"
    )
}

/// Makes sure that bpf-linker is there, and returns where.
pub(super) fn linker(apt: &mut Apt, compiler: &Compiler) -> Result<PathBuf> {
    let found = findings::linker();
    let installed = findings::installed_llvm(&LINKER_LLVM);
    let mut plan = decide::linker(found.as_ref(), compiler.llvm, &installed, &[])?;
    if plan == LinkerPlan::Released && workspace::find_program("apt-get").is_some() {
        // Whether a package is offered is known only from fresh lists; without rights, as they are.
        if let Err(error) = apt.update("LLVM for bpf-linker") {
            terminal::note(&format!("{error:#}"));
        }
        let offered: Vec<u32> =
            LINKER_LLVM.into_iter().filter(|llvm| findings::offered(&format!("llvm-{llvm}-dev"))).collect();
        let usable: &[u32] = if apt.rights == Rights::None { &[] } else { &offered };
        plan = decide::linker(found.as_ref(), compiler.llvm, &installed, usable)?;
    }
    match plan {
        LinkerPlan::Keep => {}
        LinkerPlan::Build { llvm } => build_linker(apt, llvm)?,
        LinkerPlan::InstallLlvmAndBuild { llvm } => {
            let packages = ["llvm-{}-dev", "libpolly-{}-dev", "libclang-rt-{}-dev"]
                .map(|name| name.replace("{}", &llvm.to_string()));
            apt.install(&packages, "bpf-linker is built on LLVM, as new as the compiler's")?;
            build_linker(apt, llvm)?;
        }
        LinkerPlan::Released => fetch_linker(apt)?,
    }
    let linker = findings::linker().context("bpf-linker was installed but does not start")?;
    ensure!(
        linker.version == LINKER_VERSION,
        "{} is version {}, not {LINKER_VERSION}, and comes first on PATH; remove it or put cargo's bin folder first",
        linker.path.display(),
        linker.version
    );
    Ok(linker.path)
}

fn build_linker(apt: &mut Apt, llvm: u32) -> Result<()> {
    let feature = format!("llvm-{llvm}");
    let arguments = ["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"];
    let mut cargo = workspace::cargo(arguments);
    cargo.args(["--no-default-features", "--features", &feature]);
    cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    run(apt, &mut cargo, "it turns the compiler's output into eBPF programs; about a minute")
}

/// The released binary, which has its LLVM linked in.
fn fetch_linker(apt: &mut Apt) -> Result<()> {
    let bin = workspace::cargo_bin()
        .context("neither CARGO_HOME nor HOME is set, so cargo's bin folder is unknown")?;
    let name = format!("bpf-linker-{}-unknown-linux-musl.tar.zst", std::env::consts::ARCH);
    let from = format!("https://github.com/aya-rs/bpf-linker/releases/download/v{LINKER_VERSION}/{name}");
    let archive = workspace::target_dir().join(&name);
    std::fs::create_dir_all(workspace::target_dir()).context("making the target folder")?;
    let why = "bpf-linker's own release, since no LLVM is here to build it with";
    run(
        apt,
        Command::new("curl")
            .args(["--fail", "--location", "--silent", "--show-error", "--output"])
            .arg(&archive)
            .arg(&from),
        why,
    )?;
    run(
        apt,
        Command::new("tar")
            .args(["--zstd", "--extract", "--directory"])
            .arg(&bin)
            .arg("--file")
            .arg(&archive),
        why,
    )
}

/// Announces a command, runs it, and turns its failure into a sentence.
fn run(apt: &mut Apt, command: &mut Command, why: &str) -> Result<()> {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let mut line = words.join(std::ffi::OsStr::new(" ")).to_string_lossy().into_owned();
    for (name, value) in command.get_envs() {
        if let (Some("LLVM_PREFIX"), Some(value)) = (name.to_str(), value) {
            line = format!("LLVM_PREFIX={} {line}", value.to_string_lossy());
        }
    }
    terminal::note(&format!("running {line}: {why}"));
    let status =
        command.env("PATH", workspace::path()).status().with_context(|| format!("starting `{line}`"))?;
    apt.changes += 1;
    ensure!(
        status.success(),
        "`{line}` failed (its words are above); is the network or registry it needs reachable?"
    );
    Ok(())
}
