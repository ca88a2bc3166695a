//! A publisher from what a previous process left in the maps.
//!
//! Decides which rows can be taken over as they are. Must not know what they should become: until told
//! otherwise, what stands there is wanted (C4). Invariant: only rows that make sense together
//! are taken over; the others are removed with the first change that is written.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{BackendId, FrontendFlags, FrontendKey, FrontendRow, SlotRange};
use lb_common::address::{V4, V6};

use super::books::Books;
use super::by_id::ById;
use super::diff::ranges_of;
use super::ids::Held;
use super::ledger::{Indexed, Ledger};
use super::place::{Allocators, BackendOwner, family_index};
use super::publish::{Holding, Publisher};
use super::rows::{Terms, free_backend_row};
use crate::model::ObjectName;
use crate::tables::{Capacity, MapOp, PortName, Tables};

impl Publisher {
    /// Takes over what stands in the maps.
    #[must_use]
    pub fn new(tables: Tables, capacity: Capacity, terms: Terms) -> Self {
        let desired = Tables {
            slots: tables.slots.clone(),
            networks_v4: tables.networks_v4.clone(),
            networks_v6: tables.networks_v6.clone(),
            ..Tables::default()
        };
        let (actual, mut desired) = (Ledger::new(tables), Ledger::new(desired));
        let mut publisher = Self {
            capacity,
            terms,
            books: Books::default(),
            allocators: Allocators::new(capacity),
            holdings: ById::default(),
            services: BTreeMap::new(),
            unsettled: BTreeSet::new(),
        };
        publisher.restore_service_ports(&actual, &mut desired);
        publisher.restore_family::<V4>(&actual, &mut desired);
        publisher.restore_family::<V6>(&actual, &mut desired);
        let mut ranges = BTreeMap::new();
        publisher.restore_frontends::<V4>(&actual, &mut desired, &mut ranges);
        publisher.restore_frontends::<V6>(&actual, &mut desired, &mut ranges);
        publisher.books = Books::new(actual, desired.tables());
        let owners = publisher.books.actual().owners();
        publisher.unsettled =
            owners.into_iter().filter(|id| !publisher.operations(&[*id]).is_empty()).collect();
        publisher
    }

    fn restore_service_ports(&mut self, actual: &Ledger, desired: &mut Ledger) {
        for (&id, name) in &actual.tables().service_ports {
            let Some(text) = name.name() else { continue };
            let Some(service) = service_of(text) else { continue };
            // As it is written anew, should there be anything behind the text.
            let Some(owner) = PortName::new(text) else { continue };
            let owner = if owner == *name { name } else { &owner };
            if self.allocators.service_ports.restore(Held { id, generation: 1 }, owner) {
                self.services.entry(service.clone()).or_default().insert(id);
                self.holdings.get_or_insert_with(id, || Holding::new(service));
                desired.apply(&MapOp::PutServicePort(id, name.clone()));
            }
        }
    }

    fn restore_family<A: Indexed>(&mut self, actual: &Ledger, desired: &mut Ledger) {
        for (id, row) in A::backends(actual.tables()).iter() {
            let held = Held { id: id.0, generation: row.generation };
            let owner = row.service_port;
            let ids = A::backend_ids(&mut self.allocators);
            let at = BackendOwner::new(owner, row.addr, { row.port }.get());
            match at.filter(|_| self.holdings.get(owner).is_some()) {
                Some(at) if ids.restore(held, &at) => desired.apply(&A::put_backend(id, *row)),
                _ => {
                    ids.restore_free(held);
                    desired.apply(&A::put_backend(id, free_backend_row(row.generation)));
                }
            }
        }
        for owner in self.holdings.ids() {
            actual.ranges_of::<A>(owner).for_each(|key| desired.apply(&A::put_range(key)));
        }
    }

    /// `taken` says which range is whose, over both families.
    fn restore_frontends<A: Indexed>(
        &mut self,
        actual: &Ledger,
        desired: &mut Ledger,
        taken: &mut BTreeMap<SlotRange, (u32, bool)>,
    ) {
        for (key, row) in A::frontends(actual.tables()) {
            let owner = row.service_port;
            let Some(holding) = self.holdings.get_mut(owner) else { continue };
            if !makes_sense(key, row, desired) {
                continue;
            }
            let mut mine = true;
            for range in ranges_of(*row) {
                mine &= match taken.get(&range) {
                    Some(whose) => *whose == (owner, A::IS_V6),
                    None => self.allocators.slots.restore(range),
                };
                if mine {
                    taken.insert(range, (owner, A::IS_V6));
                    let known = &mut holding.ranges[family_index::<A>()];
                    if !known.iter().any(|(other, _)| *other == range) {
                        let mut more = std::mem::take(known).into_vec();
                        more.push((range, None));
                        *known = more.into_boxed_slice();
                    }
                }
            }
            if mine {
                desired.apply(&A::put_frontend(*key, *row));
            }
        }
    }
}

/// Does a frontend name slots, backends and source ranges that are there, and are its owner's?
fn makes_sense<A: Indexed>(key: &FrontendKey<A>, row: &FrontendRow, ledger: &Ledger) -> bool {
    let is_its = |slot: &BackendId| ledger.backend::<A>(*slot).service_port == row.service_port;
    let all_there = |range| ledger.slots(range).is_some_and(|slots| slots.iter().all(is_its));
    let guarded = row.flags.has(FrontendFlags::GUARDED);
    row.tag == key.tag()
        && ranges_of(*row).all(all_there)
        && (!guarded || ledger.ranges_of::<A>(row.service_port).next().is_some())
}

/// The Service in `namespace/service:port/protocol`.
fn service_of(service_port: &str) -> Option<ObjectName> {
    let (namespace, rest) = service_port.split_once('/')?;
    let (service, _) = rest.split_once(':')?;
    Some(ObjectName::new(namespace, service))
}
