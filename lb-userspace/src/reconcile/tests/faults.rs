//! Invariant 3: whatever fails, and wherever the agent stops, the maps converge.

use lb_common::address::{V4, V6};
use proptest::prelude::*;

use super::cluster::{Change, Shape, changes, outcome, plain, service};
use super::view::{View, view};
use super::{SMALL, empty, on, rest, seconds};
use crate::datapath::fake::{FakeMaps, Watch};
use crate::datapath::faulty::{Fault, FaultyMaps};
use crate::tables::{Family, MapOp, Maps, Seen, Stopped, Tables};

fn faulty(fault: Fault) -> FaultyMaps<FakeMaps> {
    FaultyMaps::new(FakeMaps::new(SMALL, Watch::Frontends), fault)
}

fn history() -> Vec<Change> {
    vec![
        service(1, &[plain(0b0111), plain(0b1)]),
        service(2, &[guarded(0b1, 0b11)]),
        service(2, &[guarded(0b1, 0b110)]),
        service(1, &[guarded(0b1110, 0)]),
        service(3, &[]),
        service(2, &[]),
        service(3, &[plain(0b11), guarded(0b1111, 0b1)]),
        service(1, &[plain(0), plain(0b1100)]),
        service(3, &[plain(0b11), guarded(0b1111, 0b0)]),
    ]
}

fn guarded(backends: u8, ranges: u8) -> Shape {
    Shape { load_balancer: Some(ranges), whole: ranges != 0, ..plain(backends) }
}

fn goal(changes: &[Change]) -> View {
    let mut fresh = empty(Watch::Nothing);
    fresh.sync_all(outcome(changes), seconds(0));
    view(fresh.maps().tables())
}

/// Every id has one owner, and every owner one id.
fn ids_are_unique(tables: &Tables) -> bool {
    fn family<A: Family>(tables: &Tables) -> bool {
        let owned = A::backends(tables).values().filter(|row| row.service_port != 0);
        let mut owners: Vec<_> = owned.map(|row| (row.service_port, row.addr, row.port)).collect();
        let all = owners.len();
        owners.sort_unstable();
        owners.dedup();
        owners.len() == all
    }
    family::<V4>(tables) && family::<V6>(tables)
}

fn live_with(
    maps: FaultyMaps<FakeMaps>,
    changes: &[Change],
) -> (super::Reconciler<FaultyMaps<FakeMaps>>, u64) {
    let mut reconciler = on(maps);
    let mut now = 0;
    for change in changes {
        now += 1;
        reconciler.sync([change.clone()], seconds(now));
    }
    (reconciler, now)
}

#[test]
fn stopping_at_any_operation_and_starting_again_converges() {
    let mut n = 1;
    loop {
        let (reconciler, now) = live_with(faulty(Fault::From(n)), &history());
        let maps = reconciler.into_maps().into_inner();
        assert_eq!(maps.violation(), None, "stopped at {n}");
        let done = maps.operations() < n - 1;

        let mut again = on(maps);
        let report = again.sync_all(outcome(&history()), seconds(now + 1));
        assert_eq!((report.refused, report.failed), (vec![], vec![]), "stopped at {n}");
        rest(&mut again, seconds(now + 1));
        assert_eq!(again.maps().violation(), None, "stopped at {n}");
        assert!(ids_are_unique(again.maps().tables()), "stopped at {n}");
        assert_eq!(view(again.maps().tables()), goal(&history()), "stopped at {n}");
        if done {
            break;
        }
        n += 1;
    }
    assert!(n > 50, "the history is long enough to mean something: {n}");
}

#[test]
fn an_operation_that_fails_once_is_made_good_at_once() {
    for n in 1..100 {
        let (mut reconciler, now) = live_with(faulty(Fault::At(n)), &history());
        assert_eq!(reconciler.failing(), 0, "the second try, by itself, goes through");
        rest(&mut reconciler, seconds(now));
        assert_eq!(reconciler.maps().inner().violation(), None, "failed at {n}");
        assert_eq!(view(reconciler.maps().inner().tables()), goal(&history()), "failed at {n}");
    }
}

#[test]
fn maps_that_fail_for_long_recover_without_using_anything_too_early() {
    let mut reconciler = on(faulty(Fault::Never));
    reconciler.sync([service(1, &[plain(0b1111)]), service(2, &[plain(0b1)])], seconds(1));
    reconciler.maps_mut().set_fault(Fault::Every(1));
    let report = reconciler.sync([service(1, &[plain(0b0011)]), service(2, &[])], seconds(2));
    assert_eq!(report.failed.len(), 2);
    assert_eq!(reconciler.wake_at(), Some(seconds(3)));
    // Long after the grace period the old rows still stand, so nothing of theirs may be used.
    for now in 3..40 {
        reconciler.sync([service(3, &[plain(1 << (now % 8))])], seconds(now));
    }
    reconciler.maps_mut().set_fault(Fault::Never);
    let last = [service(1, &[plain(0b0011)]), service(2, &[]), service(3, &[plain(0b11)])];
    reconciler.sync(last.clone(), seconds(200));
    assert_eq!(reconciler.failing(), 0);
    rest(&mut reconciler, seconds(200));
    assert_eq!(reconciler.maps().inner().violation(), None);
    assert_eq!(view(reconciler.maps().inner().tables()), goal(&last));
}

/// Maps that take everything but the frontends of one service port.
struct Picky {
    inner: FakeMaps,
    refuses: Option<u32>,
}

impl Maps for Picky {
    type Place = ();

    fn look(&mut self, _thought: &Tables, _place: &mut ()) -> anyhow::Result<Seen> {
        Ok(Seen::End)
    }

    fn load(&mut self) -> anyhow::Result<Tables> {
        self.inner.load()
    }

    fn apply(&mut self, operations: &[MapOp]) -> Result<(), Stopped> {
        let refused = |operation: &MapOp| match operation {
            MapOp::PutFrontendV4(_, row) | MapOp::PutFrontendV6(_, row) => {
                Some(row.service_port) == self.refuses
            }
            _ => false,
        };
        let applied = operations.iter().position(refused).unwrap_or(operations.len());
        self.inner.apply(&operations[..applied])?;
        let Some(operation) = operations.get(applied) else { return Ok(()) };
        Err(Stopped { applied, operation: format!("{operation:?}"), reason: "refused".to_owned() })
    }
}

#[test]
fn what_a_frontend_still_names_is_not_freed_while_its_new_owner_cannot_be_written() {
    let inner = FakeMaps::new(SMALL, Watch::Frontends);
    let mut reconciler = on(Picky { inner, refuses: None });
    let (before, mut after) = (service(1, &[plain(0b11)]), service(2, &[plain(0b11)]));
    after.1[0].frontends.clone_from(&before.1[0].frontends);
    after.1[0].backends.clone_from(&before.1[0].backends);
    reconciler.sync([before], seconds(1));
    // Service 2, with the next id, takes both addresses over and cannot be written; Service 1 is done.
    reconciler.maps_mut().refuses = Some(2);
    let report = reconciler.sync([service(1, &[]), after.clone()], seconds(2));
    assert_eq!(report.failed.len(), 1);
    for now in [20, 40] {
        reconciler.sync([service(3, &[plain(now)])], seconds(now.into()));
    }
    assert_eq!(reconciler.maps().inner.violation(), None);
    reconciler.maps_mut().refuses = None;
    let last = [service(1, &[]), after, service(3, &[plain(1)])];
    reconciler.sync(last.clone(), seconds(200));
    rest(&mut reconciler, seconds(200));
    assert_eq!(reconciler.maps().inner.violation(), None);
    assert_eq!(view(reconciler.maps().inner.tables()), goal(&last));
}

#[test]
fn one_services_trouble_does_not_hold_up_another() {
    let mut maps = FakeMaps::new(SMALL, Watch::Frontends);
    // Behind the agent's back somebody filled the frontends, so that one of two fits.
    let mut other = empty(Watch::Nothing);
    other.sync([service(9, &[plain(1)])], seconds(0));
    let (&key, &row) = other.maps().tables().frontends_v4.first_key_value().unwrap();
    let mut reconciler = on(std::mem::take(&mut maps));
    *reconciler.maps_mut() = FakeMaps::new(SMALL, Watch::Nothing);
    for port in 1..SMALL.frontends {
        let key = lb_common::abi::FrontendKey {
            port: lb_common::address::Port::new(u16::try_from(port).unwrap()),
            ..key
        };
        reconciler.maps_mut().tables_mut().frontends_v4.insert(key, row);
    }
    let report = reconciler.sync([service(1, &[plain(1)]), service(2, &[plain(1)])], seconds(1));
    assert_eq!(report.failed.len(), 1);
    assert!(report.failed[0].reason.contains("E2BIG"), "{:?}", report.failed);
    // An audit finds the strangers, removes them, and the one that failed is written in time.
    assert!(reconciler.audit(seconds(2)).unwrap().drift >= 255);
    reconciler.sync([], seconds(10));
    assert_eq!(view(reconciler.maps().tables()), goal(&[service(1, &[plain(1)]), service(2, &[plain(1)])]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_histories_on_maps_that_keep_failing_converge(changes in changes(15), every in 2usize..9) {
        let (mut reconciler, now) = live_with(faulty(Fault::Every(every)), &changes);
        prop_assert_eq!(reconciler.maps().inner().violation(), None);
        reconciler.maps_mut().set_fault(Fault::Never);
        reconciler.sync([], seconds(now + 120));
        rest(&mut reconciler, seconds(now + 120));
        prop_assert_eq!(reconciler.maps().inner().violation(), None);
        prop_assert_eq!(view(reconciler.maps().inner().tables()), goal(&changes));
        let tables = reconciler.maps_mut().load().unwrap();
        prop_assert_eq!(reconciler.tables(), &tables, "what is known is what stands there");
    }
}
