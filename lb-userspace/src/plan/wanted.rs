//! What should stand in the maps, kept as what differs from what does.
//!
//! Decides nothing: it answers as if all that should stand were written down a second time, which would take as much
//! room again. Must not know why a row is wanted. Invariant: nothing is kept here that is as it stands, so what is wanted stays the same
//! while rows are written, and this becomes empty.

use std::collections::BTreeMap;

use lb_common::abi::{BackendId, BackendRow, FrontendKey, FrontendRow, Prefix, RangeKey, SlotRange};
use lb_common::address::{Address, V4, V6};

use super::diff::ranges_of;
use super::ledger::{Indexed, Ledger, OwnedRows, range_owner};
use crate::tables::{PortName, Tables};

/// What should stand in the maps.
pub trait Wanted {
    /// The name of a service port.
    fn name(&self, owner: u32) -> Option<&PortName>;
    /// What stands in a range of slots; `None` where a part of it was never written.
    fn slots(&self, range: SlotRange) -> Option<&[BackendId]>;
    /// All networks.
    fn networks<A: Indexed>(&self) -> &BTreeMap<u32, Prefix<A>>;
    /// A backend's row; all zero where there is none.
    fn backend<A: Indexed>(&self, id: BackendId) -> BackendRow<A>;
    /// A frontend's row.
    fn frontend<A: Indexed>(&self, key: &FrontendKey<A>) -> Option<FrontendRow>;
    /// Is that source range let in?
    fn has_range<A: Indexed>(&self, key: &RangeKey<A>) -> bool;
    /// The frontends of a service port.
    fn frontends_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = (FrontendKey<A>, FrontendRow)>;
    /// The backends of a service port.
    fn backends_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = (BackendId, BackendRow<A>)>;
    /// The source ranges of a service port.
    fn ranges_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = RangeKey<A>>;
}

/// What is wanted and does not stand, or stands and is not wanted.
#[derive(Debug, Default)]
pub struct Differences {
    names: BTreeMap<u32, Option<PortName>>,
    /// By first slot; they do not overlap.
    slots: BTreeMap<u32, Vec<BackendId>>,
    v4: Rows<V4>,
    v6: Rows<V6>,
}

/// The differences of a family; its networks, of which there are few, are all here.
#[derive(Debug)]
pub struct Rows<A: Address> {
    frontends: BTreeMap<FrontendKey<A>, Option<FrontendRow>>,
    /// All zero: none.
    backends: BTreeMap<BackendId, BackendRow<A>>,
    ranges: BTreeMap<RangeKey<A>, bool>,
    /// Whose the wanted ones are.
    owned: BTreeMap<u32, OwnedRows<A>>,
    networks: BTreeMap<u32, Prefix<A>>,
}

impl<A: Address> Default for Rows<A> {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            backends: BTreeMap::new(),
            ranges: BTreeMap::new(),
            owned: BTreeMap::new(),
            networks: BTreeMap::new(),
        }
    }
}

impl<A: Address> Rows<A> {
    fn own(&mut self, owner: u32, change: impl FnOnce(&mut OwnedRows<A>) -> bool) {
        let owned = self.owned.entry(owner).or_default();
        let _was_another = change(owned);
        if owned.is_empty() {
            self.owned.remove(&owner);
        }
    }
}

/// A family's share of the differences.
pub trait Differing: Address {
    /// Its rows.
    fn rows(differences: &Differences) -> &Rows<Self>;
    /// Its rows, to be changed.
    fn rows_mut(differences: &mut Differences) -> &mut Rows<Self>;
}

impl Differing for V4 {
    fn rows(differences: &Differences) -> &Rows<Self> {
        &differences.v4
    }

    fn rows_mut(differences: &mut Differences) -> &mut Rows<Self> {
        &mut differences.v4
    }
}

impl Differing for V6 {
    fn rows(differences: &Differences) -> &Rows<Self> {
        &differences.v6
    }

    fn rows_mut(differences: &mut Differences) -> &mut Rows<Self> {
        &mut differences.v6
    }
}

impl Differences {
    /// What `desired` differs in from `actual`; of its slots those count that its frontends name.
    pub(super) fn between(actual: &Ledger, desired: &Tables) -> Self {
        let mut all = Self::default();
        for owner in actual.tables().service_ports.keys().chain(desired.service_ports.keys()) {
            all.want_name(actual, *owner, desired.service_ports.get(owner).cloned());
        }
        all.add_family::<V4>(actual, desired);
        all.add_family::<V6>(actual, desired);
        all
    }

    fn add_family<A: Indexed>(&mut self, actual: &Ledger, desired: &Tables) {
        let stand = actual.tables();
        for key in A::frontends(stand).keys().chain(A::frontends(desired).keys()) {
            self.want_frontend::<A>(actual, *key, A::frontends(desired).get(key).copied());
        }
        for (id, _) in A::backends(stand).iter().chain(A::backends(desired).iter()) {
            let want = A::backends(desired).get(&id).copied();
            self.want_backend::<A>(actual, id, want.unwrap_or_else(bytemuck::Zeroable::zeroed));
        }
        for key in A::ranges(stand).iter().chain(A::ranges(desired)) {
            self.want_range::<A>(actual, *key, A::ranges(desired).contains(key));
        }
        A::rows_mut(self).networks.clone_from(A::networks(desired));
        for range in A::frontends(desired).values().copied().flat_map(ranges_of) {
            let slots = range.start as usize..(range.start + range.len) as usize;
            if let Some(wanted) = desired.slots.get(slots) {
                self.want_slots(actual, range.start, wanted);
            }
        }
    }

    /// Everything that is wanted, written down.
    pub(super) fn whole(&self, actual: &Ledger) -> Tables {
        let mut tables = actual.tables().clone();
        for (owner, name) in &self.names {
            match name {
                Some(name) => tables.service_ports.insert(*owner, name.clone()),
                None => tables.service_ports.remove(owner),
            };
        }
        for (start, backends) in &self.slots {
            tables.apply(&crate::tables::MapOp::PutSlots { start: *start, backends: backends.clone() });
        }
        self.add_whole::<V4>(&mut tables);
        self.add_whole::<V6>(&mut tables);
        (tables.networks_v4, tables.networks_v6) = (self.v4.networks.clone(), self.v6.networks.clone());
        tables
    }

    fn add_whole<A: Indexed>(&self, tables: &mut Tables) {
        let rows = A::rows(self);
        for (key, row) in &rows.frontends {
            tables.apply(&row.map_or_else(|| A::delete_frontend(*key), |row| A::put_frontend(*key, row)));
        }
        rows.backends.iter().for_each(|(id, row)| tables.apply(&A::put_backend(*id, *row)));
        for (key, wanted) in &rows.ranges {
            tables.apply(&if *wanted { A::put_range(*key) } else { A::delete_range(*key) });
        }
    }

    pub(super) fn want_name(&mut self, actual: &Ledger, owner: u32, want: Option<PortName>) {
        if actual.tables().service_ports.get(&owner) == want.as_ref() {
            self.names.remove(&owner);
        } else {
            self.names.insert(owner, want);
        }
    }

    pub(super) fn want_slots(&mut self, actual: &Ledger, start: u32, want: &[BackendId]) {
        let len = u32::try_from(want.len()).unwrap_or(u32::MAX);
        // What lies in between was given up by whoever had it.
        self.drop_slots(start, len);
        if actual.slots(SlotRange { start, len }) != Some(want) {
            self.slots.insert(start, want.to_vec());
        }
    }

    /// These slots were written.
    pub(super) fn written_slots(&mut self, actual: &Ledger, start: u32, len: u32) {
        let as_wanted = |at: &u32, want: &Vec<BackendId>| {
            let len = u32::try_from(want.len()).unwrap_or(u32::MAX);
            actual.slots(SlotRange { start: *at, len }) == Some(want)
        };
        let done: Vec<u32> = self
            .overlapping(start, len)
            .filter(|at| self.slots.get(at).is_some_and(|want| as_wanted(at, want)))
            .collect();
        done.iter().for_each(|at| drop(self.slots.remove(at)));
    }

    fn drop_slots(&mut self, start: u32, len: u32) {
        let gone: Vec<u32> = self.overlapping(start, len).collect();
        gone.iter().for_each(|at| drop(self.slots.remove(at)));
    }

    fn overlapping(&self, start: u32, len: u32) -> impl Iterator<Item = u32> + '_ {
        let before = self.slots.range(..start).next_back();
        let reaches = |(at, slots): &(&u32, &Vec<BackendId>)| **at as usize + slots.len() > start as usize;
        let within = self.slots.range(start..start.saturating_add(len));
        before.filter(reaches).into_iter().chain(within).map(|(at, _)| *at)
    }

    pub(super) fn want_network<A: Indexed>(&mut self, row: u32, network: Prefix<A>) {
        let networks = &mut A::rows_mut(self).networks;
        if network.present == 0 {
            networks.remove(&row);
        } else {
            networks.insert(row, network);
        }
    }

    pub(super) fn want_frontend<A: Indexed>(
        &mut self,
        actual: &Ledger,
        key: FrontendKey<A>,
        want: Option<FrontendRow>,
    ) {
        let rows = A::rows_mut(self);
        let known = if actual.frontend(&key) == want {
            rows.frontends.remove(&key)
        } else {
            let known = rows.frontends.insert(key, want);
            if let Some(row) = want {
                rows.own(row.service_port, |owned| owned.frontends.insert(key));
            }
            known
        };
        let kept = rows.frontends.get(&key).copied().flatten().map(|row| row.service_port);
        if let Some(old) = known.flatten().filter(|old| Some(old.service_port) != kept) {
            rows.own(old.service_port, |owned| owned.frontends.remove(&key));
        }
    }

    pub(super) fn want_backend<A: Indexed>(&mut self, actual: &Ledger, id: BackendId, want: BackendRow<A>) {
        let rows = A::rows_mut(self);
        let known = if actual.backend(id) == want {
            rows.backends.remove(&id)
        } else {
            rows.own(want.service_port, |owned| owned.backends.insert(id));
            rows.backends.insert(id, want)
        };
        let kept = rows.backends.get(&id).map(|row| row.service_port);
        if let Some(old) = known.map(|old| old.service_port).filter(|old| Some(*old) != kept) {
            rows.own(old, |owned| owned.backends.remove(&id));
        }
    }

    pub(super) fn want_range<A: Indexed>(&mut self, actual: &Ledger, key: RangeKey<A>, want: bool) {
        let rows = A::rows_mut(self);
        let differs = A::ranges(actual.tables()).contains(&key) != want;
        if differs {
            rows.ranges.insert(key, want);
        } else {
            rows.ranges.remove(&key);
        }
        let owned = |owned: &mut OwnedRows<A>| {
            if differs && want { owned.ranges.insert(key) } else { owned.ranges.remove(&key) }
        };
        rows.own(range_owner(&key), owned);
    }
}

/// What should stand, by what does and what differs.
#[derive(Clone, Copy, Debug)]
pub struct Desired<'a> {
    pub(super) actual: &'a Ledger,
    pub(super) differences: &'a Differences,
}

impl Wanted for Desired<'_> {
    fn name(&self, owner: u32) -> Option<&PortName> {
        match self.differences.names.get(&owner) {
            Some(name) => name.as_ref(),
            None => self.actual.tables().service_ports.get(&owner),
        }
    }

    fn slots(&self, range: SlotRange) -> Option<&[BackendId]> {
        let wanted = self.differences.slots.get(&range.start).map(Vec::as_slice);
        wanted.filter(|slots| slots.len() == range.len as usize).or_else(|| self.actual.slots(range))
    }

    fn networks<A: Indexed>(&self) -> &BTreeMap<u32, Prefix<A>> {
        &A::rows(self.differences).networks
    }

    fn backend<A: Indexed>(&self, id: BackendId) -> BackendRow<A> {
        A::rows(self.differences).backends.get(&id).copied().unwrap_or_else(|| self.actual.backend(id))
    }

    fn frontend<A: Indexed>(&self, key: &FrontendKey<A>) -> Option<FrontendRow> {
        match A::rows(self.differences).frontends.get(key) {
            Some(row) => *row,
            None => self.actual.frontend(key),
        }
    }

    fn has_range<A: Indexed>(&self, key: &RangeKey<A>) -> bool {
        let wanted = A::rows(self.differences).ranges.get(key).copied();
        wanted.unwrap_or_else(|| A::ranges(self.actual.tables()).contains(key))
    }

    fn frontends_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = (FrontendKey<A>, FrontendRow)> {
        let rows = A::rows(self.differences);
        let stand = self.actual.frontends_of::<A>(owner);
        let new = rows.owned.get(&owner).into_iter().flat_map(|owned| owned.frontends.iter());
        stand
            .filter(|(key, _)| !rows.frontends.contains_key(key))
            .chain(new.filter_map(|key| Some((*key, (*rows.frontends.get(key)?)?))))
    }

    fn backends_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = (BackendId, BackendRow<A>)> {
        let rows = A::rows(self.differences);
        let stand = self.actual.backends_of::<A>(owner);
        let new = rows.owned.get(&owner).into_iter().flat_map(|owned| owned.backends.iter());
        stand
            .filter(|(id, _)| !rows.backends.contains_key(id))
            .chain(new.filter_map(|id| Some((*id, *rows.backends.get(id)?))))
    }

    fn ranges_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = RangeKey<A>> {
        let rows = A::rows(self.differences);
        let stand = self.actual.ranges_of::<A>(owner);
        let new = rows.owned.get(&owner).into_iter().flat_map(|owned| owned.ranges.iter()).copied();
        stand.filter(|key| !rows.ranges.contains_key(key)).chain(new)
    }
}
