//! What is wrong with a node, and what to do about it.
//!
//! Decides by a snapshot of the node alone, so every judgement has its test without a kernel. Must not gather the
//! snapshot. Invariants: whoever is told of trouble is told what to do; what could not be seen is said, never taken
//! for well.

mod agent;
pub mod firewall;
mod hooks;
mod kernel;
mod leftovers;
mod network;
mod ports;
pub mod snapshot;

use serde::Serialize;

pub use snapshot::Snapshot;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Not seen, for want of rights or of a program.
    Unseen,
    /// Some connections may suffer, now or later.
    Warning,
    /// Services do not work, or will not.
    Problem,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What it is about.
    pub area: &'static str,
    /// What was found.
    pub finding: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    fn ok(area: &'static str, finding: impl Into<String>) -> Self {
        Self { level: Level::Ok, area, finding: finding.into(), remedy: String::new() }
    }

    fn new(level: Level, area: &'static str, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level, area, finding: finding.into(), remedy: remedy.into() }
    }

    fn unseen(area: &'static str, what: &str, why: &str) -> Self {
        Self::new(
            Level::Unseen,
            area,
            format!("{what}: not seen ({why})"),
            "run `switchboard doctor` as root on the node, with all capabilities",
        )
    }

    /// Does somebody have to look at it?
    #[must_use]
    pub fn needs_a_look(&self) -> bool {
        self.level >= Level::Warning
    }
}

/// Everything that is to be said about a node, by area.
#[must_use]
pub fn examine(node: &Snapshot) -> Vec<Finding> {
    let mut findings = kernel::examine(node);
    findings.extend(leftovers::examine(node));
    findings.extend(hooks::examine(node));
    findings.extend(firewall::examine(node));
    findings.extend(network::examine(node));
    findings.extend(ports::examine(node));
    findings.extend(agent::examine(node));
    findings
}
