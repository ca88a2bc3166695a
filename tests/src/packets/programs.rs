//! The loaded programs themselves: what they cost before any packet, and descriptors of them.
//!
//! Decides nothing. Must not run them. Invariant: every program that the agent loads is among them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramFd, ProgramInfo};
use lb_common::abi::MapName;
use lb_userspace::datapath::{cgroup, object};

use super::Datapath;

/// What a program costs before any packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instructions {
    /// Its name.
    pub program: &'static str,
    /// Its instructions as the kernel keeps them: helpers written in place, dead code gone.
    pub translated: u32,
    /// How many the verifier looked at, over all paths.
    pub verified: u32,
    /// The kernel's number for it.
    pub id: u32,
}

impl Instructions {
    fn of(program: &'static str, info: &ProgramInfo) -> Self {
        Self {
            program,
            translated: info.size_translated().unwrap_or(0) / 8,
            verified: info.verified_instruction_count().unwrap_or(0),
            id: info.id(),
        }
    }
}

impl Datapath {
    /// The programs that the agent loads, by what they cost.
    pub fn instructions(&mut self) -> Result<Vec<Instructions>> {
        let mut all = Vec::new();
        for program in object::CLASSIFIERS {
            let info = object::classifier(&mut self.programs, program)?.info()?;
            all.push(Instructions::of(program, &info));
        }
        let info = object::xdp(&mut self.programs, object::XDP_PROGRAM)?.info()?;
        all.push(Instructions::of(object::XDP_PROGRAM, &info));
        for hook in cgroup::HOOKS {
            all.push(Instructions::of(hook, &cgroup::program(&mut self.programs, hook)?.info()?));
        }
        Ok(all)
    }

    /// A program, to be called by another.
    pub fn program(&mut self, name: &str) -> Result<ProgramFd> {
        let fd = if name == object::XDP_PROGRAM {
            object::xdp(&mut self.programs, name)?.fd()
        } else {
            object::classifier(&mut self.programs, name)?.fd()
        };
        let fd = fd.context("it was just loaded")?;
        fd.try_clone().with_context(|| format!("another descriptor of the program {name}"))
    }

    /// Hangs the XDP program on a device of the caller's network namespace, until the link is dropped.
    pub fn attach_to_device(&mut self, name: &str) -> Result<XdpLink> {
        let program = object::xdp(&mut self.programs, object::XDP_PROGRAM)?;
        let id = program.attach(name, XdpMode::Driver).with_context(|| format!("attaching to {name}"))?;
        program.take_link(id).context("taking the link of the program just attached")
    }

    /// Where a map is pinned.
    pub fn pin(&self, map: MapName) -> PathBuf {
        self.pins.map(map)
    }
}
