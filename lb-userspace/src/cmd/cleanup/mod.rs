//! `switchboard cleanup`: removes what agents pinned and attached.
//!
//! Decides nothing but the order: programs first; with --drain, frontends before those, and the rest when the last
//! flow has ended. Must not need the eBPF object. Invariant: what it removed, it says; nothing outside the pin folder
//! and our own filters is touched.

mod drain;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

use super::node_settings::{NodeSettings, RECORD, SETTINGS};
use crate::datapath::attach::{self, Interface};
use crate::datapath::kernel;
use crate::datapath::pins::{DEFAULT_ROOT, Pins};
use crate::net::hold;

/// Removes the programs and maps of this node. Connections to Services stop working, unless somebody else serves them:
/// with --drain new ones are left to whoever that is, and those that exist are served until they end.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The folder that maps and links are pinned under.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pin_dir: PathBuf,
    /// Serve the connections that exist until they end, and no new ones; then remove everything. kube-proxy, or
    /// whoever takes over, has to have its rules in place before.
    #[arg(long)]
    drain: bool,
    /// Where the agent has written down what the node's settings were (`run --node-settings on`).
    #[arg(long, value_name = "FILE", default_value = RECORD)]
    node_settings_record: PathBuf,
    /// Where the kernel's settings are, as for `run`.
    #[arg(long, value_name = "DIR", default_value = SETTINGS)]
    proc_sys: PathBuf,
    /// How long --drain waits at most; connections that are left then break.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, requires = "drain")]
    drain_timeout: u32,
    /// Wait for SIGTERM when everything is removed, as a DaemonSet's container has to: one that ends is started again.
    #[arg(long)]
    then_wait: bool,
}

/// Removes everything; finding nothing is a success.
///
/// # Errors
/// Where an agent still runs or rights are missing.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    remove(args)?;
    if args.then_wait {
        // Held back before it is said that we wait, or who reads that might end us too early.
        let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        ends.thread_block().context("holding SIGTERM back")?;
        println!("waiting for SIGTERM");
        ends.wait().context("waiting for SIGTERM")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(args: &Args) -> anyhow::Result<()> {
    let pins = Pins::at(&args.pin_dir);
    if !pins.any_exist()? {
        undo_settings(args)?;
        println!("nothing to remove at {}", pins.folder().display());
        return Ok(());
    }
    // Held by whoever runs; taken again, by the same process, when the pins go.
    if pins.exist() {
        let lock = pins.lock()?;
        if args.drain {
            drain::drain(&pins, Duration::from_secs(args.drain_timeout.into()))?;
        }
        drop(lock);
    }
    if let Ok(interfaces) = kernel::interfaces(&pins)
        && let Ok(rows) = interfaces.rows()
    {
        for (index, _) in rows {
            if let Ok(name) = nix::net::if_::if_indextoname(index) {
                let name = name.to_string_lossy().into_owned();
                attach::detach(&pins, &Interface { index, name })?;
            }
        }
    }
    let removed = pins.remove_all()?;
    undo_settings(args)?;
    match hold::release() {
        Ok(false) => {}
        Ok(true) => println!("removed the nftables table {}", hold::TABLE),
        Err(error) => tracing::debug!(error = format!("{error:#}"), "no nftables to look at"),
    }
    println!(
        "removed the programs from interfaces, {} more links and {} maps at {}",
        removed.links.len(),
        removed.maps.len(),
        pins.folder().display()
    );
    Ok(())
}

fn undo_settings(args: &Args) -> anyhow::Result<()> {
    for done in NodeSettings::new(&args.proc_sys, &args.node_settings_record).undo()? {
        println!("{done}");
    }
    Ok(())
}
