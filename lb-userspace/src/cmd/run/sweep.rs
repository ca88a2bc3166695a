//! The flow tables are swept: rows of flows that are over go. And read for those who have rows: all others are strangers.
//!
//! Decides when; which rows, `flows::sweep` says. Invariant: a row that was seen since it was read stays.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context as _;
use lb_common::abi::{Config, FlowEntry, FlowKey};
use lb_common::address::{Address, V4, V6};
use lb_common::flow_state::Timeouts;

use crate::datapath::clock::Clock;
use crate::datapath::kernel::{self, FlowTables, KernelMaps};
use crate::datapath::pins::Pins;
use crate::datapath::strangers::Acquaintances;
use crate::datapath::table::Table;
use crate::flows::sweep::expired;
use crate::reconcile::Reconciler;

/// How often.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// The settled flow tables.
pub(super) struct Sweeper {
    v4: FlowTables<V4>,
    v6: FlowTables<V6>,
    clock: Clock,
    timeouts: Timeouts,
    masquerade_ports: RangeInclusive<u16>,
}

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

impl Sweeper {
    pub(super) fn new(
        pins: &Pins,
        clock: Clock,
        timeouts: Timeouts,
        (first, last): (u16, u16),
    ) -> anyhow::Result<Self> {
        let (v4, v6) = (kernel::flows_v4(pins)?, kernel::flows_v6(pins)?);
        Ok(Self { v4, v6, clock, timeouts, masquerade_ports: first..=last })
    }

    /// Removes what has expired from both families' tables.
    pub(super) fn sweep(&self) {
        for swept in [self.table(&self.v4.settled), self.table(&self.v6.settled)] {
            match swept {
                Ok(0) => {}
                Ok(rows) => tracing::debug!(rows, "swept"),
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "a flow table could not be swept; tried again later"
                    );
                }
            }
        }
    }

    /// Tells the datapath whose packets it need not look up.
    pub(super) fn find_strangers(&self, reconciler: &mut Reconciler<KernelMaps>) {
        let mut known = Acquaintances::of(reconciler.tables(), self.masquerade_ports.clone());
        let found = acquaint(&self.v4, &mut known)
            .and_then(|()| acquaint(&self.v6, &mut known))
            .and_then(|()| reconciler.maps_mut().set_strangers(&known));
        if let Err(error) = found {
            tracing::warn!(
                error = format!("{error:#}"),
                "whose packets need no lookup is not known; all are looked up, which takes longer"
            );
        }
    }

    fn table<A: Address>(&self, table: &Table<FlowKey<A>, FlowEntry<A>>) -> anyhow::Result<usize> {
        let doing = || format!("sweeping the map {}", table.name());
        let rows: HashMap<_, _> =
            table.rows().with_context(doing)?.into_iter().map(|(key, entry)| (key, entry.row)).collect();
        let now = self.clock.now()?;
        let gone = expired(&rows, &self.timeouts, |last_seen| self.clock.seconds_since(last_seen, now));
        for (key, last_seen) in &gone {
            if table
                .get(key)
                .with_context(doing)?
                .is_some_and(|entry| { { entry.row }.last_seen } == *last_seen)
            {
                table.delete(key).with_context(doing)?;
            }
        }
        Ok(gone.len())
    }
}

fn acquaint<A: Address>(tables: &FlowTables<A>, known: &mut Acquaintances) -> anyhow::Result<()> {
    // Half-open rows first: one that settles meanwhile is found in the other table.
    let FlowTables { settled, embryonic, .. } = tables;
    let half_open = embryonic.rows().with_context(|| format!("reading the map {}", embryonic.name()))?;
    half_open.iter().for_each(|(key, row)| known.add_flow(key, row));
    let rows = settled.rows().with_context(|| format!("reading the map {}", settled.name()))?;
    rows.iter().for_each(|(key, entry)| known.add_flow(key, &{ entry.row }));
    Ok(())
}
