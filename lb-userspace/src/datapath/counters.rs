//! What service ports and backends have carried, read from the datapath's counters.
//!
//! Decides how the parts of all CPUs become one number. Must not know whose an id is. Invariant: reads only, one id at
//! a time, so its cost is that of the ids asked for, not of the tables.

use anyhow::Context as _;
use aya::maps::{Map, MapData, PerCpuArray};
use lb_common::abi::{self, BackendCounters, ServiceCounters};

use super::pins::Pins;

/// What service ports and backends have carried.
pub struct Counters {
    services: PerCpuArray<MapData, [u64; 5]>,
    backends: PerCpuArray<MapData, [u64; 1]>,
}

const _: () = assert!(size_of::<ServiceCounters>() == 40 && size_of::<BackendCounters>() == 8);

impl Counters {
    /// Opens the pinned counters.
    ///
    /// # Errors
    /// Where they are not there or rights are missing.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        let map = |name: abi::MapName| {
            let data = MapData::from_pin(pins.map(name))
                .with_context(|| format!("opening the map {}", name.name))?;
            anyhow::Ok(Map::PerCpuArray(data))
        };
        Ok(Self {
            services: map(abi::SERVICE_COUNTERS)?.try_into().context("opening the map SERVICE_COUNTERS")?,
            backends: map(abi::BACKEND_COUNTERS)?.try_into().context("opening the map BACKEND_COUNTERS")?,
        })
    }

    /// The fields of [`ServiceCounters`] of an id, over all CPUs; `None`: beyond the table.
    #[must_use]
    pub fn service(&self, id: u32) -> Option<[u64; 5]> {
        let per_cpu = self.services.get(&id, 0).ok()?;
        Some(per_cpu.iter().fold([0; 5], |sum, one| std::array::from_fn(|field| sum[field] + one[field])))
    }

    /// The field of [`BackendCounters`] of an id, over all CPUs; `None`: beyond the table.
    #[must_use]
    pub fn backend(&self, id: u32) -> Option<[u64; 1]> {
        Some([self.backends.get(&id, 0).ok()?.iter().map(|one| one[0]).sum()])
    }
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}
