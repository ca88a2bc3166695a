//! `switchboard get`: what stands in the pinned maps, whether an agent runs or not.
//!
//! Decides which maps a question needs and how rows read. Must not write. Invariant: what is shown was read
//! from the kernel now, never from manifests.

mod views;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use lb_common::address::Address;

use super::output::{Format, print};
use crate::datapath::clock::Clock;
use crate::datapath::kernel::{self, FlowTables, KernelMaps};
use crate::datapath::pins::{DEFAULT_ROOT, Pins};
use crate::flows::view::{FlowView, flows};
use crate::tables::{Maps as _, Tables};

/// Shows what is in force on this node.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What to show.
    #[arg(value_enum)]
    what: What,
    /// The folder that maps are pinned under.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pin_dir: PathBuf,
    /// Only what belongs to this Service.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    /// Frontends: also the rows by which a cluster address refuses ports that its Services do not have.
    #[arg(long)]
    all: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Service ports, with how many frontends and backends they have.
    Services,
    /// Where connections may go.
    Backends,
    /// What clients dial, and what becomes of it.
    Frontends,
    /// Connections and datagram flows that are translated now.
    Flows,
    /// How often packets met which end: forwarded, rejected, dropped and why.
    Verdicts,
}

/// Prints it.
///
/// # Errors
/// Where nothing is pinned or rights are missing.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let pins = Pins::in_use(&args.pin_dir)?;
    if args.what == What::Verdicts {
        print(&views::verdicts(kernel::verdicts(&pins)?), args.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let tables = KernelMaps::open(&pins)?.load()?;
    let wanted = |name: &str| {
        args.service.as_ref().is_none_or(|service| name.split(':').next() == Some(service.as_str()))
    };
    match args.what {
        What::Services => print(&kept(views::services(&tables), |row| wanted(&row.service)), args.output),
        What::Backends => print(&kept(views::backends(&tables), |row| wanted(&row.service)), args.output),
        What::Frontends => {
            print(&kept(views::frontends(&tables, args.all), |row| wanted(&row.service)), args.output)
        }
        What::Verdicts => Ok(()),
        What::Flows => print(&kept(all_flows(&pins, &tables)?, |row| wanted(&row.service)), args.output),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn kept<T>(mut rows: Vec<T>, wanted: impl Fn(&T) -> bool) -> Vec<T> {
    rows.retain(wanted);
    rows
}

pub(super) fn all_flows(pins: &Pins, tables: &Tables) -> anyhow::Result<Vec<FlowView>> {
    let mut all = read_flows(&kernel::flows_v4(pins)?)?;
    all.extend(read_flows(&kernel::flows_v6(pins)?)?);
    for flow in &mut all {
        flow.service = views::service_name(tables, flow.service_port);
    }
    Ok(all)
}

fn read_flows<A: Address>(maps: &FlowTables<A>) -> anyhow::Result<Vec<FlowView>> {
    let clock = Clock::read()?;
    let now = clock.now()?;
    let mut rows = HashMap::new();
    let (embryonic, settled) = (&maps.embryonic, &maps.settled);
    rows.extend(embryonic.rows().with_context(|| format!("reading the map {}", embryonic.name()))?);
    let entries = settled.rows().with_context(|| format!("reading the map {}", settled.name()))?;
    rows.extend(entries.into_iter().map(|(key, entry)| (key, entry.row)));
    Ok(flows(&rows, |last_seen| clock.seconds_since(last_seen, now)))
}
