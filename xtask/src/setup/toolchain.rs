//! The toolchain that builds the datapath, and the note about it that lb-userspace/build.rs
//! reads: the file `ebpf-toolchain` in the target folder. First line: the toolchain's name, for
//! `rustup run`. Second line: the folder of bpf-linker, for PATH. Third line: `RUSTC_BOOTSTRAP=1`
//! where the compiler is no nightly, else empty.
//!
//! The note is the only way it travels: no variable is set for the cargo commands xtask starts,
//! so that a build by hand and a build by xtask are the same build. `RUSTC_BOOTSTRAP` least of
//! all, which would change what ordinary crates are compiled to. Invariant: the file changes only
//! when its content does, since build.rs runs anew when it does.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::findings::Compiler;
use crate::workspace;

/// The variable by which a developer names a toolchain; setup and build.rs prefer it.
pub(crate) const VARIABLE: &str = "SWITCHBOARD_EBPF_TOOLCHAIN";

/// A rustup toolchain that can build for the kernel, and its linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// Its rustup name, such as `nightly` or `bpf-debian`.
    pub(crate) name: String,
    /// Whether it needs `RUSTC_BOOTSTRAP=1` to accept `-Z build-std`: true unless a nightly.
    pub(crate) rustc_bootstrap: bool,
    /// The folder that holds `bpf-linker`.
    pub(crate) linker_folder: PathBuf,
}

impl Toolchain {
    pub(super) fn new(compiler: &Compiler, linker: &Path) -> Self {
        Self {
            name: compiler.name.clone(),
            rustc_bootstrap: !compiler.nightly,
            linker_folder: linker.parent().unwrap_or(Path::new("/")).to_path_buf(),
        }
    }

    /// What an earlier setup left, or `None` where it has not run (or its toolchain is gone).
    pub(crate) fn find() -> Option<Self> {
        let found = Self::parse(&fs::read_to_string(Self::note()).ok()?)?;
        found.linker_folder.join("bpf-linker").is_file().then_some(found)
    }

    /// A program of this toolchain, for example `cargo`, ready to build for the kernel.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("rustup");
        command.args(["run", &self.name, program]).current_dir(workspace::root());
        let mut path = self.linker_folder.clone().into_os_string();
        path.push(":");
        path.push(workspace::path());
        command.env("PATH", path);
        if self.rustc_bootstrap {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// Writes the note, if it does not say the same already.
    pub(super) fn write(&self) -> Result<()> {
        let note = Self::note();
        let text = self.text();
        if fs::read_to_string(&note).is_ok_and(|now| now == text) {
            return Ok(());
        }
        fs::create_dir_all(workspace::target_dir())
            .and_then(|()| fs::write(&note, text))
            .with_context(|| format!("writing {}", note.display()))
    }

    fn note() -> PathBuf {
        workspace::target_dir().join("ebpf-toolchain")
    }

    fn text(&self) -> String {
        let bootstrap = if self.rustc_bootstrap { "RUSTC_BOOTSTRAP=1" } else { "" };
        format!("{}\n{}\n{bootstrap}\n", self.name, self.linker_folder.display())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let name = lines.next().filter(|name| !name.is_empty())?.to_owned();
        let linker_folder = PathBuf::from(lines.next()?);
        let rustc_bootstrap = lines.next() == Some("RUSTC_BOOTSTRAP=1");
        Some(Self { name, rustc_bootstrap, linker_folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_says_the_same_when_read_back() {
        for rustc_bootstrap in [true, false] {
            let toolchain = Toolchain {
                name: "bpf-debian".to_owned(),
                rustc_bootstrap,
                linker_folder: PathBuf::from("/home/dev/.cargo/bin"),
            };
            assert_eq!(Toolchain::parse(&toolchain.text()), Some(toolchain));
        }
    }

    #[test]
    fn a_truncated_note_counts_as_none() {
        assert_eq!(Toolchain::parse(""), None);
        assert_eq!(Toolchain::parse("nightly\n"), None);
        assert_eq!(Toolchain::parse("\n/bin\n"), None);
    }
}
