//! What a scrape reads from the kernel's maps.
//!
//! Decides how often tables are counted: once in a few seconds, however often somebody scrapes. Must not know names of
//! metrics. Invariant: it is asked from another thread than the agent's, and never writes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_common::abi::{
    self, BackendId, BackendRow, FrontendKey, FrontendRow, MapName, Prefix, ServicePortName, SlotRange,
    Verdict,
};
use lb_common::address::{Address, V4, V6};

use super::carried::{Accounts, CarriedArgs, Choice, Shown};
use crate::datapath::counters::Counters;
use crate::datapath::pins::Pins;
use crate::datapath::table::Table;
use crate::datapath::{census, kernel};
use crate::serve::{Carried, MapFill, Observe};

/// Counting half a million rows takes an eighth of a second.
const COUNT_EVERY: Duration = Duration::from_secs(5);

/// The pinned maps.
#[derive(Debug)]
pub(super) struct PinnedMaps {
    pins: Pins,
    args: CarriedArgs,
    counted: Mutex<Option<(Instant, Counted)>>,
    accounts: Mutex<(Option<Counters>, Accounts)>,
}

/// What was last counted.
#[derive(Clone, Debug, Default)]
struct Counted {
    maps: Vec<MapFill>,
    shown: Shown,
}

impl PinnedMaps {
    pub(super) fn new(pins: &Pins, args: CarriedArgs) -> Self {
        Self { pins: pins.clone(), args, counted: Mutex::new(None), accounts: Mutex::default() }
    }

    fn counted<T>(&self, what: impl FnOnce(&Counted) -> T) -> T {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, counted)) = &*counted
            && at.elapsed() < COUNT_EVERY
        {
            return what(counted);
        }
        let (_, counted) = counted.insert((Instant::now(), self.count()));
        what(counted)
    }

    fn count(&self) -> Counted {
        let (arrays, shown) = self.look().unwrap_or_else(|error| {
            tracing::warn!(error = format!("{error:#}"), "metrics of service maps are left out");
            Default::default()
        });
        let fill = |map: &MapName| match census::count(&self.pins, *map) {
            Ok(fill) => {
                let rows = fill.rows.or_else(|| arrays.get(map.name).copied());
                Some(MapFill { map: map.name, rows, capacity: fill.capacity.into() })
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a metric is left out");
                None
            }
        };
        Counted { maps: abi::MAPS.iter().filter_map(fill).collect(), shown }
    }

    /// Counts the rows in use of the maps whose rows are all there always, and chooses whose counters are shown.
    fn look(&self) -> anyhow::Result<(BTreeMap<&'static str, u64>, Shown)> {
        let mut choice = Choice::new(self.args);
        let names: Table<u32, ServicePortName> = Table::open(&self.pins.map(abi::SERVICE_PORTS))?;
        names
            .each(|id, name| choice.offer_service_port(*id, name))
            .context("reading the map SERVICE_PORTS")?;
        let mut ranges = BTreeSet::new();
        let rows = BTreeMap::from([
            (
                abi::BACKENDS_V4.name,
                self.family::<V4>(abi::FRONTENDS_V4, abi::BACKENDS_V4, &mut choice, &mut ranges)?,
            ),
            (
                abi::BACKENDS_V6.name,
                self.family::<V6>(abi::FRONTENDS_V6, abi::BACKENDS_V6, &mut choice, &mut ranges)?,
            ),
            (abi::NETWORKS_V4.name, self.networks::<V4>(abi::NETWORKS_V4)?),
            (abi::NETWORKS_V6.name, self.networks::<V6>(abi::NETWORKS_V6)?),
            (abi::SLOTS.name, ranges.iter().map(|(_, len)| u64::from(*len)).sum()),
        ]);
        let name = |id| names.get(&id).ok()??.name().map(str::to_owned);
        Ok((rows, choice.made(name)))
    }

    /// Counts the backends that somebody owns. A slot is in use if a frontend names its range.
    fn family<A: Address>(
        &self,
        frontends: MapName,
        backends: MapName,
        choice: &mut Choice,
        ranges: &mut BTreeSet<(u32, u32)>,
    ) -> anyhow::Result<u64> {
        let rows: Table<FrontendKey<A>, FrontendRow> = Table::open(&self.pins.map(frontends))?;
        let name = |range: SlotRange| (range.start, range.len);
        let named =
            |_: &FrontendKey<A>, row: &FrontendRow| ranges.extend([name(row.inside), name(row.outside)]);
        rows.each(named).with_context(|| format!("reading the map {}", frontends.name))?;
        let rows: Table<BackendId, BackendRow<A>> = Table::open(&self.pins.map(backends))?;
        let mut owned = 0;
        let seen = |id: &BackendId, row: &BackendRow<A>| {
            owned += u64::from(row.service_port != 0);
            choice.offer_backend(*id, row);
        };
        rows.each(seen).with_context(|| format!("reading the map {}", backends.name))?;
        Ok(owned)
    }

    fn networks<A: Address>(&self, map: MapName) -> anyhow::Result<u64> {
        let rows: Table<u32, Prefix<A>> = Table::open(&self.pins.map(map))?;
        let mut present = 0;
        let seen = |_: &u32, network: &Prefix<A>| present += u64::from(network.present != 0);
        rows.each(seen).with_context(|| format!("reading the map {}", map.name))?;
        Ok(present)
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
        self.counted(|counted| counted.maps.clone())
    }

    fn carried(&self) -> Carried {
        let shown = self.counted(|counted| counted.shown.clone());
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
