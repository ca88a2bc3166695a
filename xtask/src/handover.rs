//! Handing over to one of the lab's programs: build it, become root, start it, pass on how it ended.
//!
//! It must not know what the programs do. Invariant: everything is compiled before root is asked for, so that no file
//! under the target folder belongs to root; and who only asks for help needs no root.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{rights, setup, terminal, workspace};

/// A program of the lab's crate, and what it needs.
pub(crate) struct Program<'a> {
    /// Its name under the target folder.
    pub(crate) name: &'a str,
    /// Completes the sentence "building ...".
    pub(crate) building: &'a str,
    /// Completes the sentence "root is needed to ...".
    pub(crate) root_to: &'a str,
    /// Built for speed.
    pub(crate) release: bool,
    /// It starts the agent, which is built too.
    pub(crate) starts_agent: bool,
}

impl Program<'_> {
    /// Builds it and runs it.
    pub(crate) fn run(&self, arguments: &[OsString]) -> Result<ExitCode> {
        setup::required()?;
        terminal::note(&format!("building {}", self.building));
        let mut build = workspace::cargo(["build", "--quiet", "-p", "lb-tests"]);
        if self.starts_agent {
            build.args(["-p", "lb-userspace", "--bins"]);
        } else {
            build.args(["--bin", self.name]);
        }
        let built = build.args(self.release.then_some("--release")).status().context("starting cargo")?;
        ensure!(built.success(), "{} does not build (cargo's words are above)", self.name);
        let asks = arguments.iter().any(|argument| argument == "--help" || argument == "-h");
        if !asks {
            rights::become_root(self.root_to)?;
        }
        let folder = workspace::target_dir().join(if self.release { "release" } else { "debug" });
        let mut command = Command::new(folder.join(self.name));
        command.env("PATH", workspace::path()).args(arguments);
        if self.starts_agent {
            command.env("SWITCHBOARD_BIN", folder.join("switchboard"));
        }
        let status = command.status().with_context(|| format!("starting {}", self.name))?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
