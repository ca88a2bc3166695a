//! Tables, and whose each row is.
//!
//! Decides nothing: it keeps an index beside the tables, so that a change of one Service costs what
//! that Service has, not what the cluster has. Invariant: the index says of every row what
//! its own `service_port` says; a free backend belongs to service port 0, nobody, as networks do.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{BackendId, BackendRow, FrontendKey, FrontendRow, Prefix, RangeKey, SlotRange};
use lb_common::address::{Address, V4, V6};

use super::by_id::ById;
use super::few::Few;
use super::place::Numbered;
use super::wanted::{Differing, Wanted};
use crate::tables::{Family, MapOp, PortName, Tables};

/// A family with a share of the index.
pub trait Indexed: Family + Differing + Numbered {
    /// What a service port owns in it.
    fn owned(owned: &Owned) -> Option<&OwnedRows<Self>>;
    /// What a service port owns in it, to be changed.
    fn owned_mut(owned: &mut Owned) -> &mut OwnedRows<Self>;
    /// Lets go of the place for what it owns in it, if that is nothing.
    fn drop_empty(owned: &mut Owned);
}

/// The tables with an index from service port to rows.
#[derive(Debug, Default)]
pub struct Ledger {
    tables: Tables,
    owned: ById<Owned>,
}

/// What a service port owns. Most have rows of one family only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    v4: Option<Box<OwnedRows<V4>>>,
    v6: Option<Box<OwnedRows<V6>>>,
}

/// The rows of one family that name a service port as their owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRows<A: Address> {
    pub(super) frontends: Few<FrontendKey<A>>,
    pub(super) backends: Few<BackendId>,
    pub(super) ranges: Few<RangeKey<A>>,
}

impl<A: Address> Default for OwnedRows<A> {
    fn default() -> Self {
        Self { frontends: Few::new(), backends: Few::new(), ranges: Few::new() }
    }
}

impl<A: Address> OwnedRows<A> {
    pub(super) fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.backends.is_empty() && self.ranges.is_empty()
    }
}

impl Indexed for V4 {
    fn owned(owned: &Owned) -> Option<&OwnedRows<Self>> {
        owned.v4.as_deref()
    }

    fn owned_mut(owned: &mut Owned) -> &mut OwnedRows<Self> {
        owned.v4.get_or_insert_default()
    }

    fn drop_empty(owned: &mut Owned) {
        owned.v4.take_if(|rows| rows.is_empty());
    }
}

impl Indexed for V6 {
    fn owned(owned: &Owned) -> Option<&OwnedRows<Self>> {
        owned.v6.as_deref()
    }

    fn owned_mut(owned: &mut Owned) -> &mut OwnedRows<Self> {
        owned.v6.get_or_insert_default()
    }

    fn drop_empty(owned: &mut Owned) {
        owned.v6.take_if(|rows| rows.is_empty());
    }
}

impl Ledger {
    /// Builds the index of `tables`.
    #[must_use]
    pub fn new(tables: Tables) -> Self {
        let mut owned = ById::default();
        index::<V4>(&tables, &mut owned);
        index::<V6>(&tables, &mut owned);
        Self { tables, owned }
    }

    /// The tables.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Takes no more room than it needs.
    pub(super) fn pack(&mut self) {
        self.tables.pack();
    }

    /// Applies an operation to tables and index.
    pub fn apply(&mut self, operation: &MapOp) {
        match operation {
            MapOp::PutBackendV4(id, row) => self.move_backend::<V4>(*id, row),
            MapOp::PutBackendV6(id, row) => self.move_backend::<V6>(*id, row),
            MapOp::PutFrontendV4(key, row) => self.move_frontend::<V4>(key, Some(row)),
            MapOp::PutFrontendV6(key, row) => self.move_frontend::<V6>(key, Some(row)),
            MapOp::DeleteFrontendV4(key) => self.move_frontend::<V4>(key, None),
            MapOp::DeleteFrontendV6(key) => self.move_frontend::<V6>(key, None),
            MapOp::PutRangeV4(key) => self.add_range::<V4>(key),
            MapOp::PutRangeV6(key) => self.add_range::<V6>(key),
            MapOp::DeleteRangeV4(key) => self.remove_range::<V4>(key),
            MapOp::DeleteRangeV6(key) => self.remove_range::<V6>(key),
            MapOp::PutServicePort(..)
            | MapOp::DeleteServicePort(_)
            | MapOp::PutSlots { .. }
            | MapOp::PutNetworkV4(..)
            | MapOp::PutNetworkV6(..) => {}
        }
        self.tables.apply(operation);
    }

    /// Whoever owns a row or a name, nobody (0) included where there are free backends or networks.
    #[must_use]
    pub fn owners(&self) -> BTreeSet<u32> {
        let networks = !self.tables.networks_v4.is_empty() || !self.tables.networks_v6.is_empty();
        let nobody = networks.then_some(0);
        self.owned.ids().chain(self.tables.service_ports.keys().copied()).chain(nobody).collect()
    }

    /// The frontends of a service port.
    pub fn frontends_of<A: Indexed>(
        &self,
        owner: u32,
    ) -> impl Iterator<Item = (FrontendKey<A>, FrontendRow)> + '_ {
        let rows = A::frontends(&self.tables);
        let keys =
            self.owned.get(owner).and_then(A::owned).into_iter().flat_map(|owned| owned.frontends.iter());
        keys.filter_map(|key| Some((*key, *rows.get(key)?)))
    }

    /// The backends of a service port.
    pub fn backends_of<A: Indexed>(
        &self,
        owner: u32,
    ) -> impl Iterator<Item = (BackendId, BackendRow<A>)> + '_ {
        let rows = A::backends(&self.tables);
        let ids =
            self.owned.get(owner).and_then(A::owned).into_iter().flat_map(|owned| owned.backends.iter());
        ids.filter_map(|id| Some((*id, *rows.get(id)?)))
    }

    /// The source ranges of a service port.
    pub fn ranges_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = RangeKey<A>> + '_ {
        self.owned.get(owner).and_then(A::owned).into_iter().flat_map(|owned| owned.ranges.iter()).copied()
    }

    /// A backend's row; all zero where none was ever written.
    #[must_use]
    pub fn backend<A: Indexed>(&self, id: BackendId) -> BackendRow<A> {
        A::backends(&self.tables).get(&id).copied().unwrap_or_else(bytemuck::Zeroable::zeroed)
    }

    /// A frontend's row.
    #[must_use]
    pub fn frontend<A: Indexed>(&self, key: &FrontendKey<A>) -> Option<FrontendRow> {
        A::frontends(&self.tables).get(key).copied()
    }

    /// What stands in a range of slots; `None` where a part of it was never written.
    #[must_use]
    pub fn slots(&self, range: SlotRange) -> Option<&[BackendId]> {
        let start = usize::try_from(range.start).ok()?;
        let end = start.checked_add(usize::try_from(range.len).ok()?)?;
        self.tables.slots.get(start..end)
    }

    fn move_backend<A: Indexed>(&mut self, id: BackendId, row: &BackendRow<A>) {
        let before = A::backends(&self.tables).get(&id).map(|row| row.service_port);
        if before != Some(row.service_port) {
            self.disown::<A>(before, |owned| owned.backends.remove(&id));
            A::owned_mut(self.owned.get_or_insert_with(row.service_port, Owned::default)).backends.insert(id);
        }
    }

    fn move_frontend<A: Indexed>(&mut self, key: &FrontendKey<A>, row: Option<&FrontendRow>) {
        let before = A::frontends(&self.tables).get(key).map(|row| row.service_port);
        let after = row.map(|row| row.service_port);
        if before != after {
            self.disown::<A>(before, |owned| owned.frontends.remove(key));
        }
        if let Some(after) = after {
            A::owned_mut(self.owned.get_or_insert_with(after, Owned::default)).frontends.insert(*key);
        }
    }

    fn add_range<A: Indexed>(&mut self, key: &RangeKey<A>) {
        A::owned_mut(self.owned.get_or_insert_with(range_owner(key), Owned::default)).ranges.insert(*key);
    }

    fn remove_range<A: Indexed>(&mut self, key: &RangeKey<A>) {
        self.disown::<A>(Some(range_owner(key)), |owned| owned.ranges.remove(key));
    }

    fn disown<A: Indexed>(&mut self, owner: Option<u32>, remove: impl FnOnce(&mut OwnedRows<A>) -> bool) {
        let Some(owner) = owner else { return };
        let Some(owned) = self.owned.get_mut(owner) else { return };
        remove(A::owned_mut(owned));
        A::drop_empty(owned);
        if owned.v4.is_none() && owned.v6.is_none() {
            self.owned.remove(owner);
        }
    }
}

impl Wanted for Ledger {
    fn name(&self, owner: u32) -> Option<&PortName> {
        self.tables.service_ports.get(&owner)
    }

    fn slots(&self, range: SlotRange) -> Option<&[BackendId]> {
        Self::slots(self, range)
    }

    fn networks<A: Indexed>(&self) -> &BTreeMap<u32, Prefix<A>> {
        A::networks(&self.tables)
    }

    fn backend<A: Indexed>(&self, id: BackendId) -> BackendRow<A> {
        Self::backend(self, id)
    }

    fn frontend<A: Indexed>(&self, key: &FrontendKey<A>) -> Option<FrontendRow> {
        Self::frontend(self, key)
    }

    fn has_range<A: Indexed>(&self, key: &RangeKey<A>) -> bool {
        A::ranges(&self.tables).contains(key)
    }

    fn frontends_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = (FrontendKey<A>, FrontendRow)> {
        Self::frontends_of(self, owner)
    }

    fn backends_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = (BackendId, BackendRow<A>)> {
        Self::backends_of(self, owner)
    }

    fn ranges_of<A: Indexed>(&self, owner: u32) -> impl Iterator<Item = RangeKey<A>> {
        Self::ranges_of(self, owner)
    }
}

fn index<A: Indexed>(tables: &Tables, owned: &mut ById<Owned>) {
    for (id, row) in A::backends(tables).iter() {
        A::owned_mut(owned.get_or_insert_with(row.service_port, Owned::default)).backends.insert(id);
    }
    for (key, row) in A::frontends(tables) {
        A::owned_mut(owned.get_or_insert_with(row.service_port, Owned::default)).frontends.insert(*key);
    }
    for key in A::ranges(tables) {
        A::owned_mut(owned.get_or_insert_with(range_owner(key), Owned::default)).ranges.insert(*key);
    }
}

/// Whose a source range is.
pub(super) fn range_owner<A: Address>(key: &RangeKey<A>) -> u32 {
    key.range.service_port
}
