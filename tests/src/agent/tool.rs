//! The binary's one-shot commands, run in a node.
//!
//! Decides where they run; must not know what they print.

use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::binary::binary;
use crate::lab::Node;

/// Runs `switchboard <command>` in a node's namespace.
#[derive(Clone, Debug)]
pub struct Tool {
    node: Node,
}

/// What a command said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolOutput {
    /// Exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Tool {
    /// The tool on this node.
    pub fn new(node: &Node) -> Self {
        Self { node: node.clone() }
    }

    /// Runs it with exactly these arguments.
    pub fn run(&self, args: &[&str]) -> Result<ToolOutput> {
        let mut command = self.node.netns.command(binary());
        command.args(args).stdin(Stdio::null());
        let Output { status, stdout, stderr } =
            command.output().with_context(|| format!("run `switchboard {}`", args.join(" ")))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(ToolOutput { code: status.code(), stdout: text(stdout), stderr: text(stderr) })
    }

    /// As [`Tool::run`], with `--pin-dir` of the node's agent added: for `get`, `cleanup` and all
    /// that reads maps.
    pub fn run_on_pins(&self, args: &[&str]) -> Result<ToolOutput> {
        let folder = self.node.pin_folder.to_string_lossy();
        self.run(&[args, &["--pin-dir", &folder]].concat())
    }

    /// Runs `get WHAT --output json` on the node's pins and reads what it prints.
    pub fn get(&self, what: &str) -> Result<Value> {
        let output = self.run_on_pins(&["get", what, "--output", "json"])?;
        if output.code != Some(0) {
            bail!("`switchboard get {what}` ended with {:?}: {}", output.code, output.stderr.trim());
        }
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("read what `switchboard get {what}` printed"))
    }

    /// How many packets or calls have had this verdict so far; 0 where none has.
    pub fn verdict(&self, name: &str) -> Result<u64> {
        let rows = self.get("verdicts")?;
        let mut rows = rows.as_array().into_iter().flatten();
        let row = rows.find(|row| row["verdict"] == name);
        Ok(row.and_then(|row| row["packets"].as_u64()).unwrap_or(0))
    }
}
