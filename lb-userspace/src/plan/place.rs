//! Places for a decision: which ids and ranges its rows get.
//!
//! Decides by asking the allocators, so that what a service port has already is used again and only
//! what is new is new: a set that changed always gets a fresh range. Must not know what stands in
//! the maps. Invariant: the desired tables are untouched; what was claimed for a Service that
//! does not fit is given back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::abi::{BackendId, BackendRow, FrontendKey, FrontendRow, RangeKey, ServicePortName, SlotRange};
use lb_common::address::{Address, V4, V6};

use super::decision::{BackendSet, Decision};
use super::grace::{Full, Limit};
use super::ids::Ids;
use super::ledger::{Indexed, Ledger};
use super::rows::{self, Terms};
use super::slots::Slots;
use crate::tables::Capacity;

/// Why a Service is not programmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A table has no room for it.
    #[error(transparent)]
    Full(#[from] Full),
    /// Its name does not fit a row.
    #[error("the name of service port {0} is too long for its row: shorten the Service's or the port's name")]
    NameTooLong(String),
}

/// All that can run out.
#[derive(Debug)]
pub(super) struct Allocators {
    /// Service port ids by name.
    pub(super) service_ports: Ids<String>,
    /// Backend ids by service port id and address, IPv4 and IPv6.
    pub(super) backends: [Ids<(u32, SocketAddr)>; 2],
    /// Ranges for backend sets.
    pub(super) slots: Slots,
}

impl Allocators {
    pub(super) fn new(capacity: Capacity) -> Self {
        let service_ports =
            Limit { table: "service ports", rows: capacity.service_ports, option: "--max-service-ports" };
        let backends = |table| {
            let limit = Limit { table, rows: capacity.backends, option: "--max-backends" };
            // Row 0 of the array is never used.
            Ids::new(limit, capacity.backends.saturating_sub(1))
        };
        let slots = Limit { table: "backend slots", rows: capacity.slots, option: "--max-slots" };
        Self {
            service_ports: Ids::new(service_ports, capacity.service_ports),
            backends: [backends("IPv4 backends"), backends("IPv6 backends")],
            slots: Slots::new(slots),
        }
    }

    pub(super) fn backends_of<A: Address>(&mut self) -> &mut Ids<(u32, SocketAddr)> {
        &mut self.backends[family_index::<A>()]
    }

    pub(super) fn commit(&mut self) {
        self.service_ports.commit();
        self.backends.iter_mut().for_each(Ids::commit);
        self.slots.commit();
    }

    pub(super) fn roll_back(&mut self) {
        self.service_ports.roll_back();
        self.backends.iter_mut().for_each(Ids::roll_back);
        self.slots.roll_back();
    }
}

/// 0 for IPv4, 1 for IPv6: the place in a pair.
pub(super) fn family_index<A: Address>() -> usize {
    usize::from(A::IS_V6)
}

/// The rows of a service port, with their places.
pub(super) struct Placed {
    /// Its id.
    pub(super) owner: u32,
    /// Its name.
    pub(super) name: ServicePortName,
    pub(super) v4: PlacedRows<V4>,
    pub(super) v6: PlacedRows<V6>,
}

/// The rows of a service port in one family.
pub(super) struct PlacedRows<A: Address> {
    pub(super) backends: BTreeMap<BackendId, BackendRow<A>>,
    pub(super) sets: Vec<(SlotRange, Vec<BackendId>)>,
    pub(super) frontends: BTreeMap<FrontendKey<A>, FrontendRow>,
    pub(super) source_ranges: BTreeSet<RangeKey<A>>,
}

impl<A: Address> Default for PlacedRows<A> {
    fn default() -> Self {
        Self {
            backends: BTreeMap::new(),
            sets: Vec::new(),
            frontends: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
        }
    }
}

/// Where the rows of decisions are placed.
pub(super) struct Placing<'a> {
    pub(super) allocators: &'a mut Allocators,
    pub(super) terms: &'a Terms,
    /// What stands in the slots that are in use.
    pub(super) desired: &'a Ledger,
}

impl Placing<'_> {
    /// Places a decision; `ranges` says which ranges a service port has, IPv4 and IPv6. `None`: the
    /// decision has no frontend that the datapath can serve, so it needs no row.
    pub(super) fn place<'h>(
        &mut self,
        decision: &Decision,
        ranges: impl FnOnce(u32) -> Option<&'h [BTreeSet<SlotRange>; 2]>,
    ) -> Result<Option<Placed>, Refusal> {
        let (v4, v6) =
            (rows::frontends::<V4>(decision, self.terms), rows::frontends::<V6>(decision, self.terms));
        if v4.is_empty() && v6.is_empty() {
            return Ok(None);
        }
        let text = decision.name.to_string();
        let name = ServicePortName::new(&text).ok_or_else(|| Refusal::NameTooLong(text.clone()))?;
        let owner = self.allocators.service_ports.claim(&text)?.id;
        let none = [BTreeSet::new(), BTreeSet::new()];
        let [ranges_v4, ranges_v6] = ranges(owner).unwrap_or(&none);
        Ok(Some(Placed {
            owner,
            name,
            v4: self.place_family(decision, owner, &v4, ranges_v4)?,
            v6: self.place_family(decision, owner, &v6, ranges_v6)?,
        }))
    }

    fn place_family<A: Indexed>(
        &mut self,
        decision: &Decision,
        owner: u32,
        frontends: &BTreeMap<FrontendKey<A>, &super::decision::Frontend>,
        ranges: &BTreeSet<SlotRange>,
    ) -> Result<PlacedRows<A>, Refusal> {
        let mut placed = PlacedRows::default();
        if frontends.is_empty() {
            return Ok(placed);
        }
        placed.source_ranges = rows::source_ranges(frontends.values().copied(), owner);
        let bits = rows::set_bits(frontends.values().copied());
        let mut ids = BTreeMap::new();
        for backend in &decision.backends {
            let Some(addr) = A::from_ip(backend.addr.ip()) else { continue };
            let held = self.allocators.backends_of::<A>().claim(&(owner, backend.addr))?;
            let sets = bits.get(&backend.addr).copied().unwrap_or(0);
            ids.insert(backend.addr, BackendId(held.id));
            placed.backends.insert(BackendId(held.id), rows::backend_row(addr, backend, held, owner, sets));
        }
        for (key, frontend) in frontends {
            let mut range =
                |set: &BackendSet| self.place_set(rows::slots(set, &ids), ranges, &mut placed.sets);
            let (inside, outside) = (range(&frontend.inside)?, range(&frontend.outside)?);
            placed.frontends.insert(*key, rows::frontend_row(key, frontend, owner, inside, outside));
        }
        Ok(placed)
    }

    /// The range of a set: one that this service port has with just these backends, else a fresh one.
    fn place_set(
        &mut self,
        set: Vec<BackendId>,
        ranges: &BTreeSet<SlotRange>,
        placed: &mut Vec<(SlotRange, Vec<BackendId>)>,
    ) -> Result<SlotRange, Refusal> {
        if set.is_empty() {
            return Ok(SlotRange::default());
        }
        if let Some((range, _)) = placed.iter().find(|(_, backends)| *backends == set) {
            return Ok(*range);
        }
        let range = match ranges.iter().find(|range| self.desired.slots(**range) == Some(&set)) {
            Some(range) => *range,
            None => self.allocators.slots.allocate(u32::try_from(set.len()).unwrap_or(u32::MAX))?,
        };
        placed.push((range, set));
        Ok(range)
    }
}
