//! What stands in the maps beside what should, and whether more fits.
//!
//! Decides when a table without ids, of frontends or source ranges, is full. Must not know why a row is
//! wanted. Invariant: a row counts once, whether it stands, is to stand, or both.

use lb_common::abi::{FrontendKey, RangeKey};
use lb_common::address::{V4, V6};

use super::grace::{Full, Limit};
use super::ledger::{Indexed, Ledger};
use super::place::family_index;
use crate::tables::{Capacity, MapOp, Tables};

/// The two ledgers.
#[derive(Debug, Default)]
pub(super) struct Books {
    actual: Ledger,
    desired: Ledger,
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
    pub(super) fn new(actual: Ledger, desired: Ledger) -> Self {
        let coming = [count_coming::<V4>(&actual, &desired), count_coming::<V6>(&actual, &desired)];
        Self { actual, desired, coming }
    }

    /// What stands.
    pub(super) fn actual(&self) -> &Ledger {
        &self.actual
    }

    /// What should.
    pub(super) fn desired(&self) -> &Ledger {
        &self.desired
    }

    /// From now on wants what the operation does.
    pub(super) fn want(&mut self, operation: &MapOp) {
        self.recount(operation, |books| books.desired.apply(operation));
    }

    /// The operation took effect.
    pub(super) fn confirm(&mut self, operation: &MapOp) {
        self.recount(operation, |books| books.actual.apply(operation));
    }

    /// `tables` is what stands; returns what was thought to.
    pub(super) fn reload(&mut self, tables: Tables) -> Ledger {
        let before = std::mem::replace(&mut self.actual, Ledger::new(tables));
        self.coming = [
            count_coming::<V4>(&self.actual, &self.desired),
            count_coming::<V6>(&self.actual, &self.desired),
        ];
        before
    }

    /// Do these frontends fit beside all that stand or are to?
    pub(super) fn room_for_frontends<'a, A: Indexed>(
        &self,
        keys: impl Iterator<Item = &'a FrontendKey<A>>,
        capacity: Capacity,
    ) -> Result<(), Full> {
        let known = |key: &&FrontendKey<A>| {
            self.desired.frontend(key).is_some() || self.actual.frontend(key).is_some()
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
        let (stand, wanted) = (A::ranges(self.actual.tables()), A::ranges(self.desired.tables()));
        let new = keys.filter(|key| !stand.contains(key) && !wanted.contains(key)).count();
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
        let (actual, desired) = (&self.actual, &self.desired);
        match operation {
            MapOp::PutFrontendV4(key, _) | MapOp::DeleteFrontendV4(key) => {
                desired.frontend(key).is_some() && actual.frontend(key).is_none()
            }
            MapOp::PutFrontendV6(key, _) | MapOp::DeleteFrontendV6(key) => {
                desired.frontend(key).is_some() && actual.frontend(key).is_none()
            }
            MapOp::PutRangeV4(key) | MapOp::DeleteRangeV4(key) => {
                desired.tables().ranges_v4.contains(key) && !actual.tables().ranges_v4.contains(key)
            }
            MapOp::PutRangeV6(key) | MapOp::DeleteRangeV6(key) => {
                desired.tables().ranges_v6.contains(key) && !actual.tables().ranges_v6.contains(key)
            }
            _ => false,
        }
    }
}

fn fits(new: usize, there: usize, limit: Limit) -> Result<(), Full> {
    if new > 0 && there + new > limit.rows as usize { Err(Full(limit)) } else { Ok(()) }
}

fn count_coming<A: Indexed>(actual: &Ledger, desired: &Ledger) -> Coming {
    let wanted = A::frontends(desired.tables());
    let frontends = wanted.keys().filter(|key| actual.frontend(key).is_none()).count();
    let ranges = A::ranges(desired.tables()).difference(A::ranges(actual.tables())).count();
    Coming { frontends, ranges }
}
