//! Builds the eBPF object for the crate to embed, or an empty stub where no toolchain is known.
//!
//! Decides which toolchain builds it: the one that `cargo xtask setup` noted in the target folder
//! (`ebpf-toolchain`: name, bpf-linker's folder, `RUSTC_BOOTSTRAP=1` or nothing), unless
//! `SWITCHBOARD_EBPF_TOOLCHAIN` names another. Invariant: checking, linting and testing user space needs
//! none of it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain, build_ebpf};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

const TOOLCHAIN: &str = "SWITCHBOARD_EBPF_TOOLCHAIN";
const SKIP: &str = "AYA_BUILD_SKIP";
const INNER: &str = "SWITCHBOARD_EBPF_BUILD";
const NOTE: &str = "ebpf-toolchain";
const OBJECT: &str = "switchboard";
/// The processor that the programs are made for: with 32-bit arithmetic and jumps, which every kernel since 5.3 has, they
/// are 1 to 8 % shorter than with what the compiler would take by itself, of 2014.
const CPU: &str = "-Ctarget-cpu=v3";

struct Noted {
    toolchain: String,
    linker_folder: String,
    bootstrap: String,
}

fn main() -> anyhow::Result<()> {
    let mut words = env::args_os().skip(1);
    if let Some(rustc) = words.next() {
        return compile(&rustc, &words.collect::<Vec<_>>());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    for name in [TOOLCHAIN, SKIP] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../lb-common");
    let note = out.ancestors().map(|folder| folder.join(NOTE)).find(|path| path.is_file());
    let target = out.ancestors().nth(4).unwrap_or(&out);
    println!("cargo:rerun-if-changed={}", note.clone().unwrap_or_else(|| target.join(NOTE)).display());
    if let Ok(toolchain) = env::var(INNER) {
        return build(&toolchain);
    }
    match noted(note.as_deref())? {
        Some(noted) if env::var_os(SKIP).is_none() => {
            outer(&noted)?;
            slim(&out.join(OBJECT))
        }
        _ => std::fs::write(out.join(OBJECT), []).context("the stub of the eBPF object"),
    }
}

/// What setup noted.
fn noted(note: Option<&Path>) -> anyhow::Result<Option<Noted>> {
    let text = note.map(std::fs::read_to_string).transpose().context("reading ebpf-toolchain")?;
    let text = text.unwrap_or_default();
    let mut lines = text.lines().map(str::to_owned);
    let first = lines.next().unwrap_or_default();
    let toolchain = env::var(TOOLCHAIN).unwrap_or(first);
    let linker_folder = lines.next().unwrap_or_default();
    let bootstrap = lines.next().unwrap_or_default();
    Ok((!toolchain.is_empty()).then_some(Noted { toolchain, linker_folder, bootstrap }))
}

/// Runs this program again with the environment that the build reads, which a process cannot safely change for
/// itself.
fn outer(noted: &Noted) -> anyhow::Result<()> {
    let path = env::var("PATH").unwrap_or_default();
    let path = if noted.linker_folder.is_empty() { path } else { format!("{}:{path}", noted.linker_folder) };
    let mut inner = Command::new(env::current_exe().context("the build script's own path")?);
    inner.env(INNER, &noted.toolchain).env("PATH", path);
    // aya-build takes no options for the compiler, but leaves its wrapper alone.
    inner.env("RUSTC_WRAPPER", env::current_exe().context("the build script's own path")?);
    // Made for user space: with it the compiler puts less in line, and programs need more stack than the verifier gives.
    inner.env_remove("CARGO_INCREMENTAL");
    // The release profile is made for user space too; bpf-linker optimises the whole program anyway.
    inner.env("CARGO_PROFILE_RELEASE_LTO", "false").env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    if noted.bootstrap == "RUSTC_BOOTSTRAP=1" {
        inner.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = inner.output().context("running the build script again")?;
    // aya-build passes everything cargo says on as warnings; only what it wants rebuilt matters if all went well.
    let said = String::from_utf8_lossy(&output.stdout);
    let wanted = |line: &&str| !output.status.success() || line.starts_with("cargo:rerun-if");
    said.lines().filter(wanted).for_each(|line| println!("{line}"));
    if !output.status.success() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        bail!("building the eBPF object with toolchain {} failed; see above", noted.toolchain);
    }
    Ok(())
}

fn build(toolchain: &str) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-ebpf");
    let root_dir = root.to_str().context("the path of lb-ebpf is no UTF-8")?;
    build_ebpf([Package { name: "lb-ebpf", root_dir, ..Package::default() }], Toolchain::Custom(toolchain))
}

/// Stands in for the compiler: what is compiled for BPF is compiled for [`CPU`], all else as it is.
fn compile(rustc: &OsStr, words: &[OsString]) -> anyhow::Result<()> {
    let for_bpf = words.windows(2).any(|pair| {
        matches!(pair, [flag, target]
        if flag == "--target" && target.to_string_lossy().starts_with("bpf"))
    });
    let failed = Command::new(rustc).args(words).args(for_bpf.then_some(CPU)).exec();
    Err(failed).with_context(|| format!("running {}", rustc.display()))
}

/// Takes out of the object what neither the kernel nor aya reads: DWARF, and what it and BTF are relocated by, which are
/// three quarters of it. The rest becomes memory of every agent.
fn slim(object: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(object).with_context(|| format!("reading {}", object.display()))?;
    let mut elf = Builder::read(bytes.as_slice()).context("reading the eBPF object")?;
    for section in &mut elf.sections {
        let name = section.name.to_string();
        section.delete = [".debug_", ".rel.debug_", ".rel.BTF"].iter().any(|unread| name.starts_with(unread));
    }
    elf.delete_orphans();
    // bpf-linker keeps sections' names among the symbols', which is one table too few for the writer.
    let names = elf.sections.add();
    (names.name, names.sh_type, names.data) = (".shstrtab".into(), SHT_STRTAB, SectionData::SectionString);
    let mut slim = Vec::new();
    elf.write(&mut slim).context("writing the eBPF object")?;
    let unfinished = object.with_extension("unfinished");
    std::fs::write(&unfinished, slim).with_context(|| format!("writing {}", unfinished.display()))?;
    std::fs::rename(&unfinished, object).with_context(|| format!("naming {}", object.display()))
}
