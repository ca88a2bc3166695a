//! A whole run: the machine, the sections, and the targets beside the figures.
//!
//! Decides what a run consists of. Must not know how it looks. Invariant: sections of a run were all measured by the
//! same command.

use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::figures::{Section, Table};
use crate::machine::Machine;

/// What was measured by one command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) command: String,
    pub(crate) date: String,
    pub(crate) machine: Machine,
    /// What is aimed at, with what was reached.
    pub(crate) targets: Option<Table>,
    pub(crate) sections: Vec<Section>,
}

impl Run {
    /// A run without sections yet.
    pub(crate) fn begin(command: String) -> Self {
        let date = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
        let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        Self {
            command,
            date: date.unwrap_or_default(),
            machine: Machine::look(),
            targets: None,
            sections: Vec::new(),
        }
    }

    /// Did anything else take the machine's time?
    pub(crate) fn was_disturbed(&self) -> bool {
        self.sections.iter().any(|section| !section.disturbances.is_empty())
    }
}
