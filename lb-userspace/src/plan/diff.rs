//! The difference between what stands in the maps and what should, as operations in a safe order.
//!
//! Decides the order alone. Must not know why a row should be as it is. Invariant: after every
//! prefix of the operations, a frontend that stands in the maps has its name, its source ranges, its slots and
//! its backends there; a key that stays or changes its owner is replaced, never deleted first.
//!
//! ```text
//! name -> ranges let in -> backends gain -> slots -> frontends replaced -> networks
//!      -> frontends retracted -> ranges shut out -> backends lose -> freed
//! ```
//!
//! Networks come behind the frontends, since an address in them that no frontend has yet is dropped.
//!
//! A backend gains flags before and loses them after the frontends have changed, so that it
//! stands in every set that a reader can find it in. Where another service port takes a frontend over
//! that is not among those asked for, the backends and ranges of the old owner lose nothing yet.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{BackendFlags, BackendId, BackendRow, FrontendRow, Prefix, SlotRange};
use lb_common::address::{V4, V6};

use super::ledger::{Indexed, Ledger};
use super::wanted::Wanted;
use crate::tables::{MapOp, Tables};

/// What turns all of `actual` into `desired`.
#[must_use]
pub fn diff(actual: &Tables, desired: &Tables) -> Vec<MapOp> {
    let (actual, desired) = (Ledger::new(actual.clone()), Ledger::new(desired.clone()));
    let owners = actual.owners().union(&desired.owners()).copied().collect::<Vec<_>>();
    operations(&actual, &desired, &owners)
}

/// What turns the rows of `owners`, service port ids, from `actual` into `desired`.
#[must_use]
pub fn operations(actual: &Ledger, desired: &impl Wanted, owners: &[u32]) -> Vec<MapOp> {
    let mut phases = Phases::default();
    for &owner in owners {
        names(actual, desired, owner, &mut phases);
    }
    rows::<V4>(actual, desired, owners, &mut phases);
    rows::<V6>(actual, desired, owners, &mut phases);
    phases.in_order()
}

#[derive(Default)]
struct Phases {
    names: Vec<MapOp>,
    let_in: Vec<MapOp>,
    gain: Vec<MapOp>,
    slots: Vec<MapOp>,
    publish: Vec<MapOp>,
    networks: Vec<MapOp>,
    retract: Vec<MapOp>,
    shut_out: Vec<MapOp>,
    lose: Vec<MapOp>,
    free: Vec<MapOp>,
    forget: Vec<MapOp>,
}

impl Phases {
    fn in_order(self) -> Vec<MapOp> {
        let Self { names, let_in, gain, slots, publish, networks, retract, shut_out, lose, free, forget } =
            self;
        [names, let_in, gain, slots, publish, networks, retract, shut_out, lose, free, forget]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn names(actual: &Ledger, desired: &impl Wanted, owner: u32, phases: &mut Phases) {
    let (have, want) = (actual.tables().service_ports.get(&owner), desired.name(owner));
    match want {
        Some(name) if have != want => phases.names.push(MapOp::PutServicePort(owner, name.clone())),
        None if have.is_some() => phases.forget.push(MapOp::DeleteServicePort(owner)),
        _ => {}
    }
}

fn rows<A: Indexed>(actual: &Ledger, desired: &impl Wanted, owners: &[u32], phases: &mut Phases) {
    for &owner in owners {
        gain::<A>(actual, desired, owner, phases);
        lose::<A>(actual, desired, owners, owner, phases);
    }
    if owners.contains(&0) {
        networks::<A>(A::networks(actual.tables()), desired.networks::<A>(), phases);
    }
}

fn networks<A: Indexed>(
    have: &BTreeMap<u32, Prefix<A>>,
    want: &BTreeMap<u32, Prefix<A>>,
    phases: &mut Phases,
) {
    let rows: BTreeSet<u32> = have.keys().chain(want.keys()).copied().collect();
    for row in rows.into_iter().filter(|row| have.get(row) != want.get(row)) {
        let network = want.get(&row).copied().unwrap_or_else(bytemuck::Zeroable::zeroed);
        phases.networks.push(A::put_network(row, network));
    }
}

fn gain<A: Indexed>(actual: &Ledger, desired: &impl Wanted, owner: u32, phases: &mut Phases) {
    for (id, want) in desired.backends_of::<A>(owner).filter(|_| owner != 0) {
        let have = actual.backend::<A>(id);
        let row =
            if same_backend(have, want) { BackendRow { flags: gained(have, want), ..want } } else { want };
        if row != have {
            phases.gain.push(A::put_backend(id, row));
        }
    }
    let have = A::ranges(actual.tables());
    phases.let_in.extend(desired.ranges_of::<A>(owner).filter(|key| !have.contains(key)).map(A::put_range));
    let mut ranges = BTreeSet::new();
    for (key, want) in desired.frontends_of::<A>(owner) {
        if actual.frontend(&key) != Some(want) {
            phases.publish.push(A::put_frontend(key, want));
        }
        ranges.extend(ranges_of(want));
    }
    for range in ranges {
        let want = desired.slots(range).unwrap_or_default();
        if actual.slots(range) != Some(want) {
            phases.slots.push(MapOp::PutSlots { start: range.start, backends: want.to_vec() });
        }
    }
}

fn lose<A: Indexed>(actual: &Ledger, desired: &impl Wanted, owners: &[u32], owner: u32, phases: &mut Phases) {
    let mut taken_over_later = false;
    for (key, _) in actual.frontends_of::<A>(owner) {
        match desired.frontend::<A>(&key).map(|row| row.service_port) {
            None => phases.retract.push(A::delete_frontend(key)),
            // Replaced with its new owner's rows. Until then its backends are named.
            Some(other) if other != owner => taken_over_later |= !owners.contains(&other),
            Some(_) => {}
        }
    }
    if taken_over_later {
        return;
    }
    let shut_out = actual.ranges_of::<A>(owner).filter(|key| !desired.has_range(key));
    phases.shut_out.extend(shut_out.map(A::delete_range));
    for (id, have) in actual.backends_of::<A>(owner) {
        let want = desired.backend::<A>(id);
        if want.service_port == 0 && have != want {
            phases.free.push(A::put_backend(id, want));
        } else if same_backend(have, want) && gained(have, want) != { want.flags } {
            phases.lose.push(A::put_backend(id, want));
        }
    }
    if owner == 0 {
        let unknown = |id: &BackendId| !A::backends(actual.tables()).contains_key(id);
        let free = desired.backends_of::<A>(owner).filter(|(id, _)| unknown(id));
        phases.free.extend(free.map(|(id, row)| A::put_backend(id, row)));
    }
}

/// The flags of a backend that has what it is to get, and still all that it is to lose: that it vanished comes last.
fn gained<A: Indexed>(have: BackendRow<A>, want: BackendRow<A>) -> BackendFlags {
    let vanished = have.flags.0 & want.flags.0 & BackendFlags::VANISHED;
    BackendFlags((have.flags.0 | want.flags.0) & !BackendFlags::VANISHED | vanished)
}

/// Do these differ in their flags at most?
fn same_backend<A: Indexed>(one: BackendRow<A>, other: BackendRow<A>) -> bool {
    BackendRow { flags: other.flags, ..one } == other
}

/// The ranges that a frontend names.
pub(super) fn ranges_of(row: FrontendRow) -> impl Iterator<Item = SlotRange> {
    [row.inside, row.outside].into_iter().filter(|range| range.len > 0)
}
