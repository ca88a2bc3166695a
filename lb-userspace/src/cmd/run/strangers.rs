//! Who has rows is looked up in all tables now and then: everybody else is a stranger to the datapath.
//!
//! Decides when. Must not know how strangers are marked. Invariants: reading the tables, flows among them, holds up no
//! change, being done beside the loop; whoever gets a row meanwhile is no stranger when it is over.

use std::ops::RangeInclusive;

use anyhow::Context as _;
use lb_common::abi::{Config, FlowEntry, FlowKey, FlowRow, FrontendKey, FrontendRow};
use lb_common::address::{Address, V4, V6};
use tokio::sync::mpsc::{Receiver, channel};

use super::beside::Beside;
use crate::datapath::kernel::{self, ForeignTables, KernelMaps};
use crate::datapath::pins::Pins;
use crate::datapath::strangers::Acquaintances;
use crate::datapath::table::Table;

/// Other masquerade ports than before: rows of flows behind the old ones are found by their addresses from now on.
///
/// # Errors
/// Where the maps cannot be read or written.
pub(super) fn before_config(pins: &Pins, maps: &mut KernelMaps, next: &Config) -> anyhow::Result<()> {
    let ports = |config: &Config| (config.masquerade_port_first, config.masquerade_port_last);
    if ports(&kernel::config(pins)?) != ports(next) {
        maps.set_strangers(&Acquaintances::everybody())?;
    }
    Ok(())
}

/// Looks for strangers.
pub(super) struct Strangers {
    reading: Beside,
    read: Receiver<anyhow::Result<Acquaintances>>,
    sought: bool,
}

impl Strangers {
    pub(super) fn new(pins: &Pins, (first, last): (u16, u16)) -> anyhow::Result<Self> {
        let (v4, v6) = (tables_v4(pins)?, tables_v6(pins)?);
        let (tell, read) = channel(1);
        let work = move || {
            // The loop is gone: so is this thread, soon.
            let _gone = tell.blocking_send(acquaintances(&v4, &v6, first..=last));
        };
        Ok(Self { reading: Beside::start("strangers", None, work)?, read, sought: false })
    }

    /// Begins to read who has rows, unless that is going on.
    pub(super) fn seek(&mut self, maps: &mut KernelMaps) {
        if !std::mem::replace(&mut self.sought, true) {
            maps.remember_whom_it_meets();
            self.reading.ask();
        }
    }

    /// Waits until that is read. Cancel safe.
    pub(super) async fn found(&mut self) -> anyhow::Result<Acquaintances> {
        match self.read.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// Tells the datapath whose packets it need not look up.
    pub(super) fn mark(&mut self, found: anyhow::Result<Acquaintances>, maps: &mut KernelMaps) {
        self.sought = false;
        if let Err(error) = found.and_then(|known| maps.set_strangers(&known)) {
            tracing::warn!(
                error = format!("{error:#}"),
                "whose packets need no lookup is not known; all are looked up, which takes longer"
            );
        }
    }
}

/// All tables of a family that say who has a row.
struct Tables<A: Address> {
    /// Half-open rows first: one that settles meanwhile is found in the other table.
    half_open: Table<FlowKey<A>, FlowRow<A>>,
    settled: Table<FlowKey<A>, FlowEntry<A>>,
    services: ForeignTables<A>,
}

fn tables_v4(pins: &Pins) -> anyhow::Result<Tables<V4>> {
    let flows = kernel::flows_v4(pins)?;
    Ok(Tables { half_open: flows.embryonic, settled: flows.settled, services: kernel::foreign_v4(pins)? })
}

fn tables_v6(pins: &Pins) -> anyhow::Result<Tables<V6>> {
    let flows = kernel::flows_v6(pins)?;
    Ok(Tables { half_open: flows.embryonic, settled: flows.settled, services: kernel::foreign_v6(pins)? })
}

fn acquaintances(
    v4: &Tables<V4>,
    v6: &Tables<V6>,
    masquerade_ports: RangeInclusive<u16>,
) -> anyhow::Result<Acquaintances> {
    let mut known = Acquaintances::nobody(masquerade_ports);
    v4.read(&mut known)?;
    v6.read(&mut known)?;
    Ok(known)
}

impl<A: Address> Tables<A> {
    fn read(&self, known: &mut Acquaintances) -> anyhow::Result<()> {
        fn doing(map: &str) -> String {
            format!("reading the map {map}")
        }
        let Self { half_open, settled, services: ForeignTables { frontends, backends, .. } } = self;
        let add_frontend = |key: &FrontendKey<A>, _: &FrontendRow| known.add_frontend(key);
        frontends.each(add_frontend).with_context(|| doing(frontends.name()))?;
        backends.each(|_, row| known.add_backend(row)).with_context(|| doing(backends.name()))?;
        half_open.each(|key, row| known.add_flow(key, row)).with_context(|| doing(half_open.name()))?;
        settled.each(|key, entry| known.add_flow(key, &{ entry.row })).with_context(|| doing(settled.name()))
    }
}
