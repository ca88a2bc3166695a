//! What stands in the maps beside what should, and whether more fits.
//!
//! Decides when a table without ids, of frontends or source ranges, is full. Must not know why a row is
//! wanted. Invariant: a row counts once, whether it stands, is to stand, or both.

use lb_common::abi::{BackendId, FrontendKey, RangeKey};
use lb_common::address::{V4, V6};

use super::grace::{Full, Limit};
use super::ledger::{Indexed, Ledger};
use super::place::family_index;
use super::wanted::{Desired, Differences, Wanted as _};
use crate::tables::{Capacity, MapOp, Tables};

/// What stands, and how what should differs from it.
#[derive(Debug, Default)]
pub(super) struct Books {
    actual: Ledger,
    differences: Differences,
    /// Rows that are wanted and do not stand, IPv4 and IPv6.
    coming: [Coming; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Coming {
    frontends: usize,
    ranges: usize,
}

impl Books {
    /// What stands, and what is wanted so far.
    pub(super) fn new(actual: Ledger, desired: &Tables) -> Self {
        let coming = [count_coming::<V4>(&actual, desired), count_coming::<V6>(&actual, desired)];
        Self { differences: Differences::between(&actual, desired), actual, coming }
    }

    /// What stands.
    pub(super) fn actual(&self) -> &Ledger {
        &self.actual
    }

    /// What should.
    pub(super) fn desired(&self) -> Desired<'_> {
        Desired { actual: &self.actual, differences: &self.differences }
    }

    /// From now on wants what the operation does.
    pub(super) fn want(&mut self, operation: &MapOp) {
        self.recount(operation, |books| books.note(operation));
    }

    fn note(&mut self, operation: &MapOp) {
        let Self { actual, differences, .. } = self;
        match operation {
            MapOp::PutServicePort(owner, name) => differences.want_name(actual, *owner, Some(name.clone())),
            MapOp::DeleteServicePort(owner) => differences.want_name(actual, *owner, None),
            MapOp::PutBackendV4(id, row) => differences.want_backend(actual, *id, *row),
            MapOp::PutBackendV6(id, row) => differences.want_backend(actual, *id, *row),
            MapOp::PutSlots { start, backends } => differences.want_slots(actual, *start, backends),
            MapOp::PutFrontendV4(key, row) => differences.want_frontend(actual, *key, Some(*row)),
            MapOp::PutFrontendV6(key, row) => differences.want_frontend(actual, *key, Some(*row)),
            MapOp::DeleteFrontendV4(key) => differences.want_frontend(actual, *key, None),
            MapOp::DeleteFrontendV6(key) => differences.want_frontend(actual, *key, None),
            MapOp::PutRangeV4(key) => differences.want_range(actual, *key, true),
            MapOp::PutRangeV6(key) => differences.want_range(actual, *key, true),
            MapOp::DeleteRangeV4(key) => differences.want_range(actual, *key, false),
            MapOp::DeleteRangeV6(key) => differences.want_range(actual, *key, false),
            MapOp::PutNetworkV4(row, network) => differences.want_network(*row, *network),
            MapOp::PutNetworkV6(row, network) => differences.want_network(*row, *network),
        }
    }

    /// The operation took effect. What is wanted stays as it is.
    pub(super) fn confirm(&mut self, operation: &MapOp) {
        self.recount(operation, |books| match operation {
            MapOp::PutServicePort(owner, _) | MapOp::DeleteServicePort(owner) => {
                let want = books.desired().name(*owner).cloned();
                books.actual.apply(operation);
                books.differences.want_name(&books.actual, *owner, want);
            }
            MapOp::PutBackendV4(id, _) => books.confirm_backend::<V4>(*id, operation),
            MapOp::PutBackendV6(id, _) => books.confirm_backend::<V6>(*id, operation),
            MapOp::PutFrontendV4(key, _) | MapOp::DeleteFrontendV4(key) => {
                books.confirm_frontend(key, operation);
            }
            MapOp::PutFrontendV6(key, _) | MapOp::DeleteFrontendV6(key) => {
                books.confirm_frontend(key, operation);
            }
            MapOp::PutRangeV4(key) | MapOp::DeleteRangeV4(key) => books.confirm_range(key, operation),
            MapOp::PutRangeV6(key) | MapOp::DeleteRangeV6(key) => books.confirm_range(key, operation),
            MapOp::PutSlots { start, backends } => {
                books.actual.apply(operation);
                let len = u32::try_from(backends.len()).unwrap_or(u32::MAX);
                books.differences.written_slots(&books.actual, *start, len);
            }
            MapOp::PutNetworkV4(..) | MapOp::PutNetworkV6(..) => books.actual.apply(operation),
        });
    }

    fn confirm_backend<A: Indexed>(&mut self, id: BackendId, operation: &MapOp) {
        let want = self.desired().backend::<A>(id);
        self.actual.apply(operation);
        self.differences.want_backend(&self.actual, id, want);
    }

    fn confirm_frontend<A: Indexed>(&mut self, key: &FrontendKey<A>, operation: &MapOp) {
        let want = self.desired().frontend(key);
        self.actual.apply(operation);
        self.differences.want_frontend(&self.actual, *key, want);
    }

    fn confirm_range<A: Indexed>(&mut self, key: &RangeKey<A>, operation: &MapOp) {
        let want = self.desired().has_range(key);
        self.actual.apply(operation);
        self.differences.want_range(&self.actual, *key, want);
    }

    /// `tables` is what stands; returns what was thought to.
    pub(super) fn reload(&mut self, tables: Tables) -> Ledger {
        let desired = self.differences.whole(&self.actual);
        let reloaded = Self::new(Ledger::new(tables), &desired);
        std::mem::replace(self, reloaded).actual
    }

    /// Takes no more room than it needs.
    pub(super) fn pack(&mut self) {
        self.actual.pack();
    }

    /// Do these frontends fit beside all that stand or are to?
    pub(super) fn room_for_frontends<'a, A: Indexed>(
        &self,
        keys: impl Iterator<Item = &'a FrontendKey<A>>,
        capacity: Capacity,
    ) -> Result<(), Full> {
        let known = |key: &&FrontendKey<A>| {
            self.desired().frontend(key).is_some() || self.actual.frontend(key).is_some()
        };
        let there = A::frontends(self.actual.tables()).len() + self.coming[family_index::<A>()].frontends;
        let table = if A::IS_V6 { "IPv6 frontends" } else { "IPv4 frontends" };
        let limit = Limit { table, rows: capacity.frontends, option: "--max-frontends" };
        fits(keys.filter(|key| !known(key)).count(), there, limit)
    }

    /// Do these source ranges?
    pub(super) fn room_for_ranges<'a, A: Indexed>(
        &self,
        keys: impl Iterator<Item = &'a RangeKey<A>>,
        capacity: Capacity,
    ) -> Result<(), Full> {
        let (stand, desired) = (A::ranges(self.actual.tables()), self.desired());
        let new = keys.filter(|key| !stand.contains(key) && !desired.has_range(key)).count();
        let there = stand.len() + self.coming[family_index::<A>()].ranges;
        let table = if A::IS_V6 { "IPv6 source ranges" } else { "IPv4 source ranges" };
        fits(new, there, Limit { table, rows: capacity.ranges, option: "--max-source-ranges" })
    }

    fn recount(&mut self, operation: &MapOp, change: impl FnOnce(&mut Self)) {
        let before = self.is_coming(operation);
        change(self);
        let after = self.is_coming(operation);
        let coming = match operation {
            MapOp::PutFrontendV4(..) | MapOp::DeleteFrontendV4(_) => &mut self.coming[0].frontends,
            MapOp::PutFrontendV6(..) | MapOp::DeleteFrontendV6(_) => &mut self.coming[1].frontends,
            MapOp::PutRangeV4(_) | MapOp::DeleteRangeV4(_) => &mut self.coming[0].ranges,
            MapOp::PutRangeV6(_) | MapOp::DeleteRangeV6(_) => &mut self.coming[1].ranges,
            _ => return,
        };
        *coming = (*coming + usize::from(after)).saturating_sub(usize::from(before));
    }

    /// Is the row that the operation is about wanted, and not there?
    fn is_coming(&self, operation: &MapOp) -> bool {
        let (actual, desired) = (&self.actual, self.desired());
        match operation {
            MapOp::PutFrontendV4(key, _) | MapOp::DeleteFrontendV4(key) => {
                desired.frontend(key).is_some() && actual.frontend(key).is_none()
            }
            MapOp::PutFrontendV6(key, _) | MapOp::DeleteFrontendV6(key) => {
                desired.frontend(key).is_some() && actual.frontend(key).is_none()
            }
            MapOp::PutRangeV4(key) | MapOp::DeleteRangeV4(key) => {
                desired.has_range(key) && !actual.tables().ranges_v4.contains(key)
            }
            MapOp::PutRangeV6(key) | MapOp::DeleteRangeV6(key) => {
                desired.has_range(key) && !actual.tables().ranges_v6.contains(key)
            }
            _ => false,
        }
    }
}

fn fits(new: usize, there: usize, limit: Limit) -> Result<(), Full> {
    if new > 0 && there + new > limit.rows as usize { Err(Full(limit)) } else { Ok(()) }
}

fn count_coming<A: Indexed>(actual: &Ledger, desired: &Tables) -> Coming {
    let wanted = A::frontends(desired);
    let frontends = wanted.keys().filter(|key| actual.frontend(key).is_none()).count();
    let ranges = A::ranges(desired).difference(A::ranges(actual.tables())).count();
    Coming { frontends, ranges }
}
