//! Places for a decision: which ids and ranges its rows get.
//!
//! Decides by asking the allocators, so that what a service port has already is used again and only
//! what is new is new: a set that changed always gets a fresh range. Must not know what stands in
//! the maps. Invariant: the desired tables are untouched; what was claimed for a Service that
//! does not fit is given back.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::num::NonZeroU16;

use lb_common::abi::{BackendId, BackendRow, FrontendKey, FrontendRow, RangeKey, SlotRange};
use lb_common::address::{Address, V4, V6};

use super::decision::{BackendSet, Decision};
use super::grace::{Full, Limit};
use super::ids::Ids;
use super::ledger::Indexed;
use super::rows::{self, Terms};
use super::sets::{Layout, Member};
use super::slots::Slots;
use super::wanted::{Desired, Wanted as _};
use crate::tables::{Capacity, PortName};

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

/// Who has a backend's id: the service port, and where the backend listens. There are as many as endpoints: none takes
/// room for the other family's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendOwner<A> {
    service_port: u32,
    addr: A,
    port: NonZeroU16,
}

impl<A> BackendOwner<A> {
    /// `None` where the port is 0, which nobody listens on.
    pub(super) fn new(service_port: u32, addr: A, port: u16) -> Option<Self> {
        Some(Self { service_port, addr, port: NonZeroU16::new(port)? })
    }
}

/// All that can run out.
#[derive(Debug)]
pub struct Allocators {
    /// Service port ids by name.
    pub(super) service_ports: Ids<PortName>,
    /// Ids of IPv4 backends.
    pub(super) backends_v4: Ids<BackendOwner<V4>>,
    /// Ids of IPv6 backends.
    pub(super) backends_v6: Ids<BackendOwner<V6>>,
    /// Ranges for backend sets.
    pub(super) slots: Slots,
}

impl Allocators {
    pub(super) fn new(capacity: Capacity) -> Self {
        let service_ports =
            Limit { table: "service ports", rows: capacity.service_ports, option: "--max-service-ports" };
        let backends = |table| Limit { table, rows: capacity.backends, option: "--max-backends" };
        // Row 0 of the array is never used.
        let last_backend = capacity.backends.saturating_sub(1);
        let slots = Limit { table: "backend slots", rows: capacity.slots, option: "--max-slots" };
        Self {
            service_ports: Ids::new(service_ports, capacity.service_ports),
            backends_v4: Ids::new(backends("IPv4 backends"), last_backend),
            backends_v6: Ids::new(backends("IPv6 backends"), last_backend),
            slots: Slots::new(slots),
        }
    }

    pub(super) fn commit(&mut self) {
        self.service_ports.commit();
        self.backends_v4.commit();
        self.backends_v6.commit();
        self.slots.commit();
    }

    pub(super) fn roll_back(&mut self) {
        self.service_ports.roll_back();
        self.backends_v4.roll_back();
        self.backends_v6.roll_back();
        self.slots.roll_back();
    }
}

/// A family with ids of its own.
pub trait Numbered: Address + Eq + Hash {
    /// Those of its backends.
    fn backend_ids(allocators: &mut Allocators) -> &mut Ids<BackendOwner<Self>>;
}

impl Numbered for V4 {
    fn backend_ids(allocators: &mut Allocators) -> &mut Ids<BackendOwner<Self>> {
        &mut allocators.backends_v4
    }
}

impl Numbered for V6 {
    fn backend_ids(allocators: &mut Allocators) -> &mut Ids<BackendOwner<Self>> {
        &mut allocators.backends_v6
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
    pub(super) name: PortName,
    pub(super) v4: PlacedRows<V4>,
    pub(super) v6: PlacedRows<V6>,
}

/// The rows of a service port in one family.
pub(super) struct PlacedRows<A: Address> {
    /// Sorted by id.
    pub(super) backends: Vec<(BackendId, BackendRow<A>)>,
    pub(super) sets: Vec<PlacedSet>,
    pub(super) frontends: BTreeMap<FrontendKey<A>, FrontendRow>,
    pub(super) source_ranges: BTreeSet<RangeKey<A>>,
}

impl<A: Address> Default for PlacedRows<A> {
    fn default() -> Self {
        Self {
            backends: Vec::new(),
            sets: Vec::new(),
            frontends: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
        }
    }
}

/// A backend set, with its place.
pub(super) struct PlacedSet {
    pub(super) range: SlotRange,
    pub(super) layout: Layout,
    /// What is to stand there; `None`: it does.
    pub(super) contents: Option<Vec<BackendId>>,
}

/// The ranges of a service port in one family, each once, of which there are few: each with what lies there; `None`: a previous process left it.
pub(super) type Ranges = Box<[(SlotRange, Option<Box<Layout>>)]>;

/// Where the rows of decisions are placed.
pub(super) struct Placing<'a> {
    pub(super) allocators: &'a mut Allocators,
    pub(super) terms: &'a Terms,
    /// What stands in the slots that are in use.
    pub(super) desired: Desired<'a>,
    /// The shortest table that found no room, so that its set became a list.
    pub(super) missing: Option<u32>,
}

impl Placing<'_> {
    /// Places a decision; `ranges` says which ranges a service port has, IPv4 and IPv6. `None`: the
    /// decision has no frontend that the datapath can serve, so it needs no row.
    pub(super) fn place<'h>(
        &mut self,
        decision: &Decision,
        ranges: impl FnOnce(u32) -> Option<&'h [Ranges; 2]>,
    ) -> Result<Option<Placed>, Refusal> {
        let (v4, v6) =
            (rows::frontends::<V4>(decision, self.terms), rows::frontends::<V6>(decision, self.terms));
        if v4.is_empty() && v6.is_empty() {
            return Ok(None);
        }
        let text = decision.name.to_string();
        let name = PortName::new(&text).ok_or_else(|| Refusal::NameTooLong(text.clone()))?;
        let owner = self.allocators.service_ports.claim(&name)?.id;
        let none = <[Ranges; 2]>::default();
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
        ranges: &Ranges,
    ) -> Result<PlacedRows<A>, Refusal> {
        let mut placed = PlacedRows::default();
        if frontends.is_empty() {
            return Ok(placed);
        }
        placed.source_ranges = rows::source_ranges(frontends.values().copied(), owner);
        let bits = rows::set_bits(frontends.values().copied());
        let mut ids: Vec<Member> = Vec::with_capacity(decision.backends.len());
        for backend in &decision.backends {
            let Some(addr) = A::from_ip(backend.addr.ip()) else { continue };
            let Some(at) = BackendOwner::new(owner, addr, backend.addr.port()) else { continue };
            let held = A::backend_ids(self.allocators).claim(&at)?;
            let sets = bits.binary_search_by_key(&backend.addr, |(addr, _)| *addr);
            let sets = sets.ok().and_then(|at| bits.get(at)).map_or(0, |(_, sets)| *sets);
            ids.push((backend.addr, BackendId(held.id)));
            let row = rows::backend_row(addr, backend, held, owner, sets);
            placed.backends.push((BackendId(held.id), row));
        }
        ids.sort_unstable();
        placed.backends.sort_by_key(|(id, _)| *id);
        for (key, frontend) in frontends {
            let spreads = rows::is_external(frontend.kind);
            let mut range = |set: &BackendSet| {
                self.place_set(&rows::members(set, &ids), spreads, ranges, &mut placed.sets)
            };
            let inside = range(&frontend.inside)?;
            let same = frontend.outside == frontend.inside;
            let outside = if same { inside } else { range(&frontend.outside)? };
            placed.frontends.insert(*key, rows::frontend_row(key, frontend, owner, inside, outside));
        }
        Ok(placed)
    }

    /// The range of a set: one that this service port has with just these backends, else a fresh one. A table that
    /// finds no room is no reason to refuse: the list does.
    fn place_set(
        &mut self,
        members: &[Member],
        spreads: bool,
        ranges: &Ranges,
        placed: &mut Vec<PlacedSet>,
    ) -> Result<SlotRange, Refusal> {
        if members.is_empty() {
            return Ok(SlotRange::default());
        }
        let mut full = None;
        for layout in Layout::of(members, spreads, self.terms.max_table) {
            if let Some(set) = placed.iter().find(|set| set.layout == layout) {
                return Ok(set.range);
            }
            if let Some(range) = self.standing(members, &layout, ranges) {
                placed.push(PlacedSet { range, layout, contents: None });
                return Ok(range);
            }
            let slots = &mut self.allocators.slots;
            let range = if layout.is_table() {
                slots.allocate_sparingly(layout.slots)
            } else {
                slots.allocate(layout.slots).map_err(|error| full = Some(error)).ok()
            };
            if let Some(range) = range {
                let contents = Some(layout.contents(members));
                placed.push(PlacedSet { range, layout, contents });
                return Ok(range);
            }
            if layout.is_table() {
                self.missing = Some(self.missing.map_or(layout.slots, |least| least.min(layout.slots)));
            }
        }
        full.map_or(Ok(SlotRange::default()), |full| Err(full.into()))
    }

    /// Where the set stands already.
    fn standing(&self, members: &[Member], layout: &Layout, ranges: &Ranges) -> Option<SlotRange> {
        let known = ranges.iter().find(|(_, known)| known.as_deref() == Some(layout));
        if let Some((range, _)) = known {
            return Some(*range);
        }
        let mut left =
            ranges.iter().filter(|(range, known)| known.is_none() && range.len == layout.slots).peekable();
        left.peek()?;
        let contents = layout.contents(members);
        left.map(|(range, _)| *range).find(|range| self.desired.slots(*range) == Some(contents.as_slice()))
    }
}
