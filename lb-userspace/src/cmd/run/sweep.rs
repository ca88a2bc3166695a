//! The flow tables are swept: rows of flows that are over go.
//!
//! Decides when; which rows, `flows::sweep` says. Invariants: a row that was seen since it was read stays; no change
//! waits for a sweep, which is done beside the loop.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use lb_common::abi::{FlowEntry, FlowKey};
use lb_common::address::{Address, V4, V6};
use lb_common::flow_state::Timeouts;

use super::beside::Beside;
use crate::datapath::clock::Clock;
use crate::datapath::kernel::{self, FlowTables};
use crate::datapath::pins::Pins;
use crate::datapath::table::Table;
use crate::flows::sweep::expired;

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// The settled flow tables.
struct Sweeper {
    v4: FlowTables<V4>,
    v6: FlowTables<V6>,
    clock: Clock,
    timeouts: Timeouts,
}

/// Sweeps for as long as the result is held.
///
/// # Errors
/// Where the tables are not there, or there can be no thread.
pub(super) fn start(pins: &Pins, clock: Clock, timeouts: Timeouts) -> anyhow::Result<Beside> {
    let sweeper = Sweeper { v4: kernel::flows_v4(pins)?, v6: kernel::flows_v6(pins)?, clock, timeouts };
    Beside::start("sweep", Some(EVERY), move || sweeper.sweep())
}

impl Sweeper {
    /// Removes what has expired from both families' tables.
    fn sweep(&self) {
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

    fn table<A: Address>(&self, table: &Table<FlowKey<A>, FlowEntry<A>>) -> anyhow::Result<usize> {
        let doing = || format!("sweeping the map {}", table.name());
        let mut rows = HashMap::new();
        let keep = |key: &FlowKey<A>, entry: &FlowEntry<A>| {
            rows.insert(*key, entry.row);
        };
        table.each(keep).with_context(doing)?;
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
