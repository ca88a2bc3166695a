//! What a scrape reads from the kernel's maps.
//!
//! Decides how often tables are counted: once in a few seconds, however often somebody scrapes. Must not know names of
//! metrics. Invariant: it is asked from another thread than the agent's, and never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lb_common::abi::{self, Verdict};

use super::carried::{Accounts, CarriedArgs, Shown};
use crate::datapath::counters::Counters;
use crate::datapath::pins::Pins;
use crate::datapath::{census, kernel};
use crate::serve::{Carried, MapFill, Observe};
use crate::tables::Tables;

/// Counting half a million rows takes an eighth of a second.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// Rows in use of the maps whose rows are all there always; the agent's books know.
#[derive(Debug)]
pub(super) struct ArrayRows {
    rows: Mutex<BTreeMap<&'static str, u64>>,
    args: CarriedArgs,
    shown: Mutex<Shown>,
}

impl ArrayRows {
    pub(super) fn new(args: CarriedArgs) -> Self {
        Self { rows: Mutex::default(), args, shown: Mutex::default() }
    }

    /// Counts what the books say. A slot is in use if a frontend names its range.
    pub(super) fn count(&self, tables: &Tables) {
        let rows = tables.frontends_v4.values().chain(tables.frontends_v6.values());
        let ranges: BTreeSet<(u32, u32)> =
            rows.flat_map(|row| [row.inside, row.outside]).map(|range| (range.start, range.len)).collect();
        let slots = ranges.iter().map(|(_, len)| u64::from(*len)).sum();
        let v4 = tables.backends_v4.values().filter(|row| row.service_port != 0).count() as u64;
        let v6 = tables.backends_v6.values().filter(|row| row.service_port != 0).count() as u64;
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = self.args.choose(tables);
        let mut counted = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        *counted = BTreeMap::from([
            (abi::SLOTS.name, slots),
            (abi::BACKENDS_V4.name, v4),
            (abi::BACKENDS_V6.name, v6),
            (abi::NETWORKS_V4.name, tables.networks_v4.len() as u64),
            (abi::NETWORKS_V6.name, tables.networks_v6.len() as u64),
        ]);
    }

    fn of(&self, map: &str) -> Option<u64> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).get(map).copied()
    }
}

/// The pinned maps.
#[derive(Debug)]
pub(super) struct PinnedMaps {
    pins: Pins,
    arrays: Arc<ArrayRows>,
    counted: Mutex<Option<(Instant, Vec<MapFill>)>>,
    accounts: Mutex<(Option<Counters>, Accounts)>,
}

impl PinnedMaps {
    pub(super) fn new(pins: &Pins, arrays: Arc<ArrayRows>) -> Self {
        Self { pins: pins.clone(), arrays, counted: Mutex::new(None), accounts: Mutex::default() }
    }

    fn count(&self) -> Vec<MapFill> {
        let fill = |map: &abi::MapName| match census::count(&self.pins, *map) {
            Ok(fill) => {
                let rows = fill.rows.or_else(|| self.arrays.of(map.name));
                Some(MapFill { map: map.name, rows, capacity: fill.capacity.into() })
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a metric is left out");
                None
            }
        };
        abi::MAPS.iter().filter_map(fill).collect()
    }
}

impl Observe for PinnedMaps {
    fn verdicts(&self) -> Vec<(Verdict, u64)> {
        kernel::verdicts(&self.pins).unwrap_or_else(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "the counters of verdicts are left out of the metrics"
            );
            Vec::new()
        })
    }

    fn maps(&self) -> Vec<MapFill> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        match &*counted {
            Some((at, maps)) if at.elapsed() < COUNT_EVERY => maps.clone(),
            _ => {
                let maps = self.count();
                *counted = Some((Instant::now(), maps.clone()));
                maps
            }
        }
    }

    fn carried(&self) -> Carried {
        let shown = self.arrays.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let (counters, accounts) = &mut *accounts;
        if counters.is_none() {
            match Counters::open(&self.pins) {
                Ok(opened) => *counters = Some(opened),
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "what Services carry is left out of the metrics"
                    );
                }
            }
        }
        counters.as_ref().map(|counters| accounts.read(&shown, counters)).unwrap_or_default()
    }
}
