//! `switchboard doctor`: what is wrong with this node, and what to do about it.
//!
//! Decides how findings are printed and the exit code. Must not judge. Invariant: it changes nothing on the node.

mod gather;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::output::{Format, Tabular, print};
use super::run::port_range;
use crate::datapath::pins::DEFAULT_ROOT;
use crate::doctor::{Finding, Level, examine};

/// Looks for what keeps Services from working on this node, before Switchboard runs and while it does: the kernel,
/// what kube-proxy left, programs of others, firewalls, ports, full tables. Ends with 3 where something needs a look.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The folder that maps and links are pinned under.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pin_dir: PathBuf,
    /// The folder of the CNI's configuration.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_dir: PathBuf,
    /// Ports for masqueraded flows, where no agent has said which.
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = port_range)]
    masquerade_ports: (u16, u16),
    /// The cluster's ports for NodePorts (the API server's --service-node-port-range).
    #[arg(long, value_name = "FIRST-LAST", default_value = "30000-32767", value_parser = port_range)]
    node_ports: (u16, u16),
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Prints what was found.
///
/// # Errors
/// Where stdout cannot be written to.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let mut findings = examine(&runtime.block_on(gather::gather(args)));
    // What matters most is said last, where a terminal's reader looks first.
    findings.sort_by_key(|finding| finding.level);
    print(&findings, args.output)?;
    let code = if findings.iter().any(Finding::needs_a_look) { 3 } else { 0 };
    Ok(ExitCode::from(code))
}

impl Tabular for Finding {
    const COLUMNS: &'static [&'static str] = &["LEVEL", "AREA", "FINDING", "WHAT TO DO"];

    fn cells(&self) -> Vec<String> {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Unseen => "unseen",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        vec![level.to_owned(), self.area.to_owned(), self.finding.clone(), self.remedy.clone()]
    }
}
