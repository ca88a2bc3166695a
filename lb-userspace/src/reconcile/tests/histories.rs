//! Random histories: the order of operations, the order of events, what is used again and when.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::abi::{BackendFlags, BackendId, BackendRow, SlotRange};
use lb_common::address::{V4, V6};
use proptest::prelude::*;

use super::cluster::{Change, changes, name, outcome, plain, service};
use super::view::{View, view};
use super::{GRACE, Reconciler, SMALL, empty, rest, seconds, terms};
use crate::datapath::fake::{FakeMaps, Watch};
use crate::plan::decision::FrontendKind;
use crate::plan::diff::diff;
use crate::plan::rows::Terms;
use crate::tables::{Family, Tables};

/// Applies changes two seconds apart; the time of the last one comes with it.
fn live_through(changes: Vec<Change>, watch: Watch) -> (Reconciler<FakeMaps>, Duration) {
    let mut reconciler = empty(watch);
    let mut now = seconds(0);
    for change in changes {
        now += seconds(2);
        let report = reconciler.sync([change], now);
        assert_eq!((report.refused, report.failed), (vec![], vec![]));
    }
    (reconciler, now)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_frontend_has_its_name_slots_and_backends_after_every_single_operation(changes in changes(20)) {
        let (reconciler, _) = live_through(changes, Watch::Frontends);
        prop_assert_eq!(reconciler.maps().violation(), None);
        prop_assert_eq!(reconciler.tables(), reconciler.maps().tables());
    }

    #[test]
    fn the_same_objects_mean_the_same_rows_whatever_came_before(changes in changes(20)) {
        let services = outcome(&changes);
        let (mut reconciler, now) = live_through(changes, Watch::Nothing);
        rest(&mut reconciler, now);
        let mut fresh = empty(Watch::Nothing);
        fresh.sync_all(services.clone(), seconds(0));
        prop_assert_eq!(view(reconciler.maps().tables()), view(fresh.maps().tables()));
        // Planned afresh the rows are the same to the bit, in whatever order the objects come.
        let mut reversed = empty(Watch::Nothing);
        reversed.sync_all(services.into_iter().rev(), seconds(0));
        prop_assert_eq!(reversed.maps().tables(), fresh.maps().tables());
    }

    #[test]
    fn what_was_added_and_deleted_leaves_no_trace_and_moves_no_other_row(
        others in changes(6), added in changes(6),
    ) {
        let (mut reconciler, now) = live_through(others, Watch::Frontends);
        rest(&mut reconciler, now);
        let before = reconciler.maps().tables().clone();
        reconciler.pack();
        prop_assert_eq!(reconciler.tables(), &before);
        let mut now = now + GRACE;
        for (service, decisions) in &added {
            let (service, decisions) = (format!("extra-{}", service.name()), decisions.clone());
            now += seconds(1);
            reconciler.sync([(crate::model::ObjectName::new("default", service), moved(decisions))], now);
            prop_assert!(stands_in(&before, reconciler.maps().tables()), "another Service's row moved");
        }
        reconciler.sync(added.iter().map(|(service, _)| {
            (crate::model::ObjectName::new("default", format!("extra-{}", service.name())), Vec::new())
        }), now);
        rest(&mut reconciler, now);
        prop_assert_eq!(without_free_rows(reconciler.maps().tables()), without_free_rows(&before));
    }

    #[test]
    fn the_whole_difference_of_two_tables_turns_one_into_the_other(a in changes(8), b in changes(8)) {
        let (a, _) = live_through(a, Watch::Nothing);
        let (b, _) = live_through(b, Watch::Nothing);
        let (mut tables, goal) = (a.maps().tables().clone(), b.maps().tables());
        for operation in diff(&tables.clone(), goal) {
            tables.apply(&operation);
        }
        prop_assert_eq!(diff(&tables, goal), []);
        prop_assert_eq!(&tables.frontends_v4, &goal.frontends_v4);
        prop_assert_eq!(&tables.frontends_v6, &goal.frontends_v6);
        prop_assert_eq!(&tables.service_ports, &goal.service_ports);
    }
}

proptest! {
    // Few cases: each is hundreds of steps, and every state in between is looked at.
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_used_again_within_its_grace_period(changes in changes(150)) {
        // Short tables: every slot of every state is looked at.
        let terms = Terms { max_table: 5, ..terms() };
        let mut reconciler = Reconciler::new(FakeMaps::new(SMALL, Watch::States), SMALL, terms).unwrap();
        let mut named = LastNamed::default();
        let mut now = seconds(0);
        let mut before = Tables::default();
        for change in changes {
            now += seconds(1);
            reconciler.sync([change], now);
            for after in reconciler.maps_mut().take_states() {
                named.check(&before, &after, now);
                named.note(&after, now);
                before = after;
            }
        }
        prop_assert_eq!(reconciler.maps().violation(), None);
    }
}

/// The same decisions for a Service of another name, on frontends of its own.
fn moved(mut decisions: Vec<crate::plan::decision::Decision>) -> Vec<crate::plan::decision::Decision> {
    for decision in &mut decisions {
        let service = &decision.name.service;
        decision.name.service =
            crate::model::ObjectName::new(service.namespace(), format!("extra-{}", service.name()));
        decision.frontends.retain(|frontend| frontend.kind != FrontendKind::Whole);
        decision.frontends.iter_mut().for_each(|frontend| frontend.port += 1_000);
    }
    decisions
}

/// Are all of the rows and sets of `before` in `after`, as they were?
fn stands_in(before: &Tables, after: &Tables) -> bool {
    fn family<A: Family>(before: &Tables, after: &Tables) -> bool {
        let slots = |tables: &Tables, range: SlotRange| {
            tables.slots[range.start as usize..(range.start + range.len) as usize].to_vec()
        };
        A::frontends(before).iter().all(|(key, row)| {
            A::frontends(after).get(key) == Some(row)
                && slots(before, row.inside) == slots(after, row.inside)
                && slots(before, row.outside) == slots(after, row.outside)
        }) && A::backends(before)
            .iter()
            .all(|(id, row)| row.service_port == 0 || A::backends(after).get(&id) == Some(row))
    }
    family::<V4>(before, after) && family::<V6>(before, after)
}

/// Tables without the generations of free ids and the contents of free slots: neither can be undone.
fn without_free_rows(tables: &Tables) -> Tables {
    let mut tables = Tables { slots: Vec::new(), ..tables.clone() };
    tables.backends_v4.retain(|_, row| row.service_port != 0);
    tables.backends_v6.retain(|_, row| row.service_port != 0);
    tables
}

/// When a slot and a backend could last be found by way of a frontend.
#[derive(Default)]
struct LastNamed {
    slots: BTreeMap<u32, Duration>,
    backends: BTreeMap<(bool, BackendId), Duration>,
}

impl LastNamed {
    fn note(&mut self, tables: &Tables, now: Duration) {
        self.note_family::<V4>(tables, now);
        self.note_family::<V6>(tables, now);
    }

    fn note_family<A: Family>(&mut self, tables: &Tables, now: Duration) {
        for row in A::frontends(tables).values() {
            for range in [row.inside, row.outside] {
                for slot in range.start..range.start + range.len {
                    self.slots.insert(slot, now);
                    self.backends.insert((A::IS_V6, tables.slots[slot as usize]), now);
                }
            }
        }
    }

    fn check(&self, before: &Tables, after: &Tables, now: Duration) {
        for (slot, (old, new)) in (0u32..).zip(before.slots.iter().zip(&after.slots)) {
            let named = self.slots.get(&slot);
            let rested = named.is_none_or(|at| *at + GRACE <= now);
            assert!(old == new || rested, "slot {slot}, last named at {named:?}, changed at {now:?}");
        }
        self.check_family::<V4>(before, after, now);
        self.check_family::<V6>(before, after, now);
    }

    fn check_family<A: Family>(&self, before: &Tables, after: &Tables, now: Duration) {
        for (id, old) in A::backends(before).iter() {
            let new = A::backends(after)[&id];
            let named = self.backends.get(&(A::IS_V6, id));
            let same = BackendRow { flags: old.flags, ..new } == *old;
            let rested = named.is_none_or(|at| *at + GRACE <= now);
            assert!(same || rested, "backend {}, last named at {named:?}, changed at {now:?}", id.0);
            let (old, new) = ({ old.generation }, { new.generation });
            assert!(new == old || new == old + 1, "generations go up by one: {old} to {new}");
        }
    }
}

#[test]
fn a_frontend_that_changes_its_owner_is_replaced_and_never_gone() {
    let (before, after) = (service(1, &[plain(3)]), service(2, &[plain(1)]));
    let mut taken = after.clone();
    // Service 2 takes over the address of Service 1; both orders of the two changes.
    taken.1[0].frontends.clone_from(&before.1[0].frontends);
    taken.1[0].backends.clone_from(&before.1[0].backends);
    for reversed in [false, true] {
        let mut reconciler = empty(Watch::States);
        reconciler.sync([before.clone()], seconds(1));
        reconciler.maps_mut().take_states();
        let mut changes = vec![(name(1), vec![]), taken.clone()];
        if reversed {
            changes.reverse();
        }
        reconciler.sync(changes, seconds(2));
        for state in reconciler.maps_mut().take_states() {
            assert_eq!((state.frontends_v4.len(), state.frontends_v6.len()), (1, 1));
        }
        rest(&mut reconciler, seconds(2));
        assert_eq!(reconciler.maps().violation(), None);
        let mut fresh = empty(Watch::Nothing);
        fresh.sync([taken.clone()], seconds(1));
        assert_eq!(view(reconciler.maps().tables()), view(fresh.maps().tables()));
    }
}

#[test]
fn an_unchanged_decision_writes_nothing() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[plain(7), plain(1)])], seconds(1));
    let report = reconciler.sync([service(1, &[plain(7), plain(1)])], seconds(2));
    assert_eq!((report.services, report.operations), (1, 0));
    assert_eq!(reconciler.wake_at(), None, "nothing was released");
}

#[test]
fn c36_c37_a_backend_that_left_vanishes_at_once_and_its_row_rests_before_it_is_cleared() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[plain(3)])], seconds(1));
    reconciler.sync([service(1, &[plain(1)])], seconds(2));
    let left = reconciler.maps().tables().backends_v4[&BackendId(2)];
    let flags = { left.flags }.0;
    assert_eq!((flags, { left.service_port }, { left.generation }), (BackendFlags::VANISHED, 1, 1));
    assert_eq!(reconciler.wake_at(), Some(seconds(2) + GRACE + super::super::GATHER));
    rest(&mut reconciler, seconds(2));
    let cleared = reconciler.maps().tables().backends_v4[&BackendId(2)];
    assert_eq!(({ cleared.service_port }, { cleared.generation }), (0, 1));
    assert_eq!({ cleared.flags }.0, BackendFlags::VANISHED, "whoever had it is gone for good");
    reconciler.sync([service(1, &[plain(5)])], seconds(20));
    assert_eq!({ reconciler.maps().tables().backends_v4[&BackendId(2)].generation }, 2);
}

#[test]
fn a_backend_that_serves_outside_of_any_set_keeps_its_row() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[plain(3)])], seconds(1));
    let shape = super::cluster::Shape { serving: 3, ..plain(1) };
    reconciler.sync([service(1, &[shape])], seconds(2));
    rest(&mut reconciler, seconds(2));
    let row = reconciler.maps().tables().backends_v4[&BackendId(2)];
    assert_eq!({ row.flags }.0, BackendFlags::SERVING);
}

#[test]
fn deleting_everything_leaves_nothing() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[plain(3)]), service(2, &[plain(7), plain(1)])], seconds(1));
    reconciler.sync_all([], seconds(2));
    rest(&mut reconciler, seconds(2));
    assert_eq!(view(reconciler.maps().tables()), View::default());
    assert_eq!(reconciler.wake_at(), None);
}

#[test]
fn asking_again_for_what_is_leaving_already_does_not_make_it_rest_longer() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[plain(3)]), service(2, &[plain(3)])], seconds(1));
    reconciler.sync([service(1, &[]), service(2, &[plain(1)])], seconds(2));
    for now in 3..7 {
        reconciler.sync([service(1, &[])], seconds(now));
        reconciler.sync([service(2, &[plain(1)])], seconds(now));
    }
    rest(&mut reconciler, seconds(2));
    let tables = reconciler.maps().tables();
    assert_eq!(tables.service_ports.len(), 1);
    assert_eq!(tables.backends_v4.values().filter(|row| row.service_port != 0).count(), 1);
}
