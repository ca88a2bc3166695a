//! The incremental planner: what should stand in the maps, what does, and what to write next.
//!
//! Decides which rows a Service has from now on and when ids and ranges become free. Must not know
//! how operations are applied, nor clocks: times are values of the caller. Invariants: an id or
//! a range that a row in the maps may still name is not given away; `actual` holds what was
//! confirmed to be written and nothing else.
//!
//! The life of a change: [`Publisher::plan`] says what is wanted, [`Publisher::operations`] what to
//! write, [`Publisher::confirm`] what was written, [`Publisher::settle`] lets go of what nobody
//! names any longer, [`Publisher::reclaim`] frees it a grace period later. Whatever fails in
//! between, the next `operations` are what is left to do.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{BackendFlags, BackendId, BackendRow, FrontendKey, Prefix, SERVICE_NETWORKS, SlotRange};
use lb_common::address::{V4, V6};

use super::books::Books;
use super::by_id::ById;
use super::decision::Decision;
use super::diff;
use super::few::Few;
use super::grace::{Epoch, Full};
use super::ledger::Indexed;
use super::networks::Networks;
use super::place::{Allocators, Placed, PlacedRows, PlacedSet, Placing, Ranges, Refusal, family_index};
use super::rows::{self, Terms};
use super::wanted::Wanted as _;
use crate::model::ObjectName;
use crate::tables::{Capacity, MapOp, Tables};
use crate::trees::pack;

/// The owner of free backends and of networks.
const NOBODY: u32 = 0;

/// What should stand in the service maps and what does.
#[derive(Debug)]
pub struct Publisher {
    pub(super) capacity: Capacity,
    pub(super) terms: Terms,
    pub(super) books: Books,
    pub(super) allocators: Allocators,
    pub(super) holdings: ById<Holding>,
    pub(super) services: BTreeMap<ObjectName, Few<u32>>,
    /// Service ports whose rows may not yet stand as wanted.
    pub(super) unsettled: BTreeSet<u32>,
}

/// How a Service lies in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As it should.
    Whole,
    /// A set is a list because its Maglev table (C29) of so many slots found no room; to be planned again when there
    /// is some ([`Publisher::has_room_for_table`]).
    Cramped(u32),
}

/// What a service port holds.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) service: ObjectName,
    /// Is it wanted?
    pub(super) live: bool,
    /// Ranges that its frontends name, IPv4 and IPv6.
    pub(super) ranges: [Ranges; 2],
    /// What is no longer wanted, but perhaps still named in the maps.
    leaving: Few<Leaving>,
}

/// Something to be released once the maps name it no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leaving {
    Range(SlotRange),
    /// Is it of IPv6?
    Backend(bool, BackendId),
    ServicePort,
}

impl Holding {
    pub(super) fn new(service: ObjectName) -> Self {
        Self { service, live: true, ranges: Default::default(), leaving: Few::new() }
    }
}

impl Publisher {
    /// Wants `decisions` for a Service, and nothing else for it; none at all removes it. Costs what
    /// the Service has. A frontend must be in one Service's decisions only (C22). Says how it lies.
    ///
    /// # Errors
    /// When the Service does not fit; what was wanted for it before is then still wanted.
    pub fn plan(&mut self, service: &ObjectName, decisions: &[Decision]) -> Result<Fit, Refusal> {
        let (placed, fit) = match self.place(decisions) {
            Ok(placed) => placed,
            Err(refusal) => {
                self.allocators.roll_back();
                return Err(refusal);
            }
        };
        self.allocators.commit();
        let mut gone = self.services.get(service).cloned().unwrap_or_default();
        for placed in placed {
            gone.remove(&placed.owner);
            self.adopt(service, placed);
        }
        for owner in gone.iter() {
            self.withdraw(*owner);
        }
        Ok(fit)
    }

    /// Might a table of so many slots find room?
    #[must_use]
    pub fn has_room_for_table(&self, slots: u32) -> bool {
        self.allocators.slots.may_spare(slots)
    }

    /// Removes the Services that are not in `keep`: what a previous process left.
    pub fn retain(&mut self, keep: &BTreeSet<ObjectName>) {
        let gone = |(service, owners): (&ObjectName, &Few<u32>)| {
            (!keep.contains(service)).then(|| owners.iter().copied().collect::<Vec<_>>())
        };
        let gone: Vec<u32> = self.services.iter().filter_map(gone).flatten().collect();
        for owner in gone {
            self.withdraw(owner);
        }
    }

    /// Serves NodePorts on these addresses from the next [`Self::plan`] of each Service on.
    pub fn set_node_addresses(&mut self, addresses: Vec<std::net::IpAddr>) {
        self.terms.node_addresses = addresses;
    }

    /// Wants rows for these networks, and for no others.
    pub fn set_networks(&mut self, networks: &Networks) {
        self.want_networks::<V4>(&networks.rows());
        self.want_networks::<V6>(&networks.rows());
    }

    fn want_networks<A: Indexed>(&mut self, wanted: &BTreeMap<u32, Prefix<A>>) {
        for row in 0..SERVICE_NETWORKS.end {
            let network = wanted.get(&row).copied().unwrap_or_else(bytemuck::Zeroable::zeroed);
            self.books.want(&A::put_network(row, network));
        }
        self.unsettled.insert(NOBODY);
    }

    /// Does no frontend stand in the maps?
    #[must_use]
    pub fn serves_nothing(&self) -> bool {
        let stands = self.books.actual().tables();
        stands.frontends_v4.is_empty() && stands.frontends_v6.is_empty()
    }

    /// The service ports that may have something to write, by id; among them 0 for what is no service port's.
    #[must_use]
    pub fn unsettled(&self) -> &BTreeSet<u32> {
        &self.unsettled
    }

    /// What to write for these service ports, in an order that is safe after every prefix.
    #[must_use]
    pub fn operations(&self, owners: &[u32]) -> Vec<MapOp> {
        diff::operations(self.books.actual(), &self.books.desired(), owners)
    }

    /// These operations took effect.
    pub fn confirm(&mut self, operations: &[MapOp]) {
        operations.iter().for_each(|operation| self.books.confirm(operation));
    }

    /// Does nothing of a service port wait for another that takes a frontend over? Asked when all of its operations
    /// were confirmed: then its rows stand as wanted.
    #[must_use]
    pub fn waits_for_nobody(&self, owner: u32) -> bool {
        self.keeps_its_own::<V4>(owner) && self.keeps_its_own::<V6>(owner)
    }

    /// Releases, as of `at`, what the maps name no longer: of each service port whose rows stand as
    /// wanted, what it gave up. Those of `standing` are known to.
    pub fn settle(&mut self, at: Epoch, standing: &BTreeSet<u32>) {
        let stands = |owner: &u32| standing.contains(owner) || self.stands(*owner);
        let settled: Vec<u32> = self.unsettled.iter().copied().filter(stands).collect();
        for owner in settled {
            self.unsettled.remove(&owner);
            let Some(holding) = self.holdings.get_mut(owner) else { continue };
            for leaving in std::mem::take(&mut holding.leaving).iter() {
                match *leaving {
                    Leaving::Range(range) => self.allocators.slots.release(range, at),
                    Leaving::Backend(false, id) => self.allocators.backends_v4.release(id.0, at),
                    Leaving::Backend(true, id) => self.allocators.backends_v6.release(id.0, at),
                    Leaving::ServicePort => self.allocators.service_ports.release(owner, at),
                }
            }
        }
    }

    /// Frees what was released at `until` or before; `true` if that made room. Ids that become free have
    /// rows to clear, which the next [`Self::operations`] do.
    pub fn reclaim(&mut self, until: Epoch) -> bool {
        let v4 = self.reclaim_backends::<V4>(until);
        let v6 = self.reclaim_backends::<V6>(until);
        let ranges = self.allocators.slots.reclaim(until);
        let service_ports = self.allocators.service_ports.reclaim(until);
        for held in &service_ports {
            self.books.want(&MapOp::DeleteServicePort(held.id));
            self.unsettled.insert(held.id);
            let Some(holding) = self.holdings.remove(held.id) else { continue };
            if let Some(owners) = self.services.get_mut(&holding.service) {
                owners.remove(&held.id);
                if owners.is_empty() {
                    self.services.remove(&holding.service);
                }
            }
        }
        v4 + v6 + ranges + service_ports.len() > 0
    }

    /// When the oldest release that waits to be reclaimed was.
    #[must_use]
    pub fn oldest_release(&self) -> Option<Epoch> {
        let Allocators { service_ports, backends_v4: v4, backends_v6: v6, slots } = &self.allocators;
        [service_ports.oldest_release(), v4.oldest_release(), v6.oldest_release(), slots.oldest_release()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The maps were read back: `tables` is what stands there. Says how many operations it takes to
    /// make it what it was thought to be; the service ports concerned become unsettled.
    pub fn reload(&mut self, tables: Tables) -> usize {
        let before = self.books.reload(tables);
        let owners: BTreeSet<u32> = &self.books.actual().owners() | &before.owners();
        let unsettled: Vec<u32> = owners.iter().copied().filter(|owner| !self.stands(*owner)).collect();
        self.unsettled.extend(unsettled);
        diff::operations(self.books.actual(), &before, &owners.into_iter().collect::<Vec<_>>()).len()
    }

    /// Takes no more room than it needs, after many Services.
    pub fn pack(&mut self) {
        pack(&mut self.services);
        self.books.pack();
    }

    /// The Service of a service port.
    #[must_use]
    pub fn service_of(&self, owner: u32) -> Option<&ObjectName> {
        self.holdings.get(owner).map(|holding| &holding.service)
    }

    /// What stands in the maps, as far as was confirmed.
    #[must_use]
    pub fn actual(&self) -> &Tables {
        self.books.actual().tables()
    }

    fn place(&mut self, decisions: &[Decision]) -> Result<(Vec<Placed>, Fit), Refusal> {
        let mut placing = Placing {
            allocators: &mut self.allocators,
            terms: &self.terms,
            desired: self.books.desired(),
            missing: None,
        };
        let mut all = Vec::new();
        for decision in decisions {
            let ranges = |owner| self.holdings.get(owner).map(|holding| &holding.ranges);
            all.extend(placing.place(decision, ranges)?);
        }
        let fit = placing.missing.map_or(Fit::Whole, Fit::Cramped);
        self.room_for(all.iter().map(|placed| &placed.v4))?;
        self.room_for(all.iter().map(|placed| &placed.v6))?;
        Ok((all, fit))
    }

    fn room_for<'a, A: Indexed>(
        &self,
        placed: impl Iterator<Item = &'a PlacedRows<A>> + Clone,
    ) -> Result<(), Full> {
        let frontends = placed.clone().flat_map(|rows| rows.frontends.keys());
        self.books.room_for_frontends(frontends, self.capacity)?;
        self.books.room_for_ranges(placed.flat_map(|rows| &rows.source_ranges), self.capacity)
    }

    fn adopt(&mut self, service: &ObjectName, placed: Placed) {
        let Placed { owner, name, v4, v6 } = placed;
        self.services.entry(service.clone()).or_default().insert(owner);
        let holding = self.holdings.get_or_insert_with(owner, || Holding::new(service.clone()));
        holding.live = true;
        holding.leaving.remove(&Leaving::ServicePort);
        if self.books.desired().name(owner) != Some(&name) {
            self.books.want(&MapOp::PutServicePort(owner, name));
        }
        self.want::<V4>(owner, v4);
        self.want::<V6>(owner, v6);
        self.unsettled.insert(owner);
    }

    fn withdraw(&mut self, owner: u32) {
        let Some(holding) = self.holdings.get_mut(owner).filter(|holding| holding.live) else { return };
        holding.live = false;
        holding.leaving.insert(Leaving::ServicePort);
        self.want::<V4>(owner, PlacedRows::default());
        self.want::<V6>(owner, PlacedRows::default());
        self.unsettled.insert(owner);
    }

    /// Wants these rows of a service port in one family, and no others.
    fn want<A: Indexed>(&mut self, owner: u32, rows: PlacedRows<A>) {
        let Some(holding) = self.holdings.get_mut(owner) else { return };
        let family = family_index::<A>();
        // What a list is of can be read in its slots.
        let known = |set: &PlacedSet| set.layout.is_table().then(|| Box::new(set.layout.clone()));
        let ranges: Ranges = rows.sets.iter().map(|set| (set.range, known(set))).collect();
        let ids = A::backend_ids(&mut self.allocators);
        let is_kept = |id: &BackendId| rows.backends.binary_search_by_key(id, |(id, _)| *id).is_ok();
        let is_gone = |(id, _): &(BackendId, BackendRow<A>)| !is_kept(id) && !ids.rests(id.0);
        let gone: Vec<(BackendId, BackendRow<A>)> =
            self.books.desired().backends_of::<A>(owner).filter(is_gone).collect();
        let stays = |range: &SlotRange| ranges.iter().any(|(other, _)| other == range);
        let left = holding.ranges[family].iter().map(|(range, _)| *range).filter(|range| !stays(range));
        holding.leaving.extend(left.map(Leaving::Range));
        holding.leaving.extend(gone.iter().map(|(id, _)| Leaving::Backend(A::IS_V6, *id)));
        for (id, _) in &rows.backends {
            holding.leaving.remove(&Leaving::Backend(A::IS_V6, *id));
        }
        holding.ranges[family] = ranges;

        for (id, row) in gone {
            // Its row stays for those who still hold the id, but says that it is no more.
            let row = BackendRow { flags: BackendFlags(BackendFlags::VANISHED), ..row };
            self.books.want(&A::put_backend(id, row));
        }
        for (id, row) in rows.backends {
            self.books.want(&A::put_backend(id, row));
        }
        for set in rows.sets {
            if let Some(backends) = set.contents {
                self.books.want(&MapOp::PutSlots { start: set.range.start, backends });
            }
        }
        let desired = self.books.desired();
        let before: Vec<_> = desired.frontends_of::<A>(owner).map(|(key, _)| key).collect();
        let shut_out: Vec<_> = desired.ranges_of::<A>(owner).collect();
        for key in before.into_iter().filter(|key| !rows.frontends.contains_key(key)) {
            self.books.want(&A::delete_frontend(key));
        }
        for (key, row) in rows.frontends {
            self.books.want(&A::put_frontend(key, row));
        }
        for key in shut_out.into_iter().filter(|key| !rows.source_ranges.contains(key)) {
            self.books.want(&A::delete_range(key));
        }
        for key in rows.source_ranges {
            self.books.want(&A::put_range(key));
        }
    }

    /// Do the rows of a service port stand as wanted, and none of its own in the place of another's?
    fn stands(&self, owner: u32) -> bool {
        self.waits_for_nobody(owner) && self.operations(&[owner]).is_empty()
    }

    fn keeps_its_own<A: Indexed>(&self, owner: u32) -> bool {
        let wanted = |key: FrontendKey<A>| self.books.desired().frontend(&key).map(|row| row.service_port);
        self.books.actual().frontends_of::<A>(owner).all(|(key, _)| wanted(key) == Some(owner))
    }

    fn reclaim_backends<A: Indexed>(&mut self, until: Epoch) -> usize {
        let freed = A::backend_ids(&mut self.allocators).reclaim(until);
        for held in &freed {
            let id = BackendId(held.id);
            self.unsettled.insert(self.books.desired().backend::<A>(id).service_port);
            self.books.want(&A::put_backend(id, rows::free_backend_row(held.generation)));
        }
        freed.len()
    }
}
