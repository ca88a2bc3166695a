//! Invariants 4 and 5 over restarts: what stands in the maps is all an agent needs.

use lb_common::abi::BackendId;
use proptest::prelude::*;

use super::cluster::{changes, outcome, plain, service};
use super::view::view;
use super::{empty, on, rest, seconds};
use crate::datapath::fake::Watch;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn an_unchanged_restart_writes_nothing(changes in changes(20)) {
        let mut reconciler = empty(Watch::Nothing);
        for (now, change) in (0..).zip(changes.clone()) {
            reconciler.sync([change], seconds(now));
        }
        rest(&mut reconciler, seconds(100));
        let before = reconciler.maps().tables().clone();
        let mut again = on(reconciler.into_maps());
        let report = again.sync_all(outcome(&changes), seconds(0));
        prop_assert_eq!((report.operations, report.refused, report.failed), (0, vec![], vec![]));
        prop_assert_eq!(again.sync([], seconds(100)).operations, 0);
        prop_assert_eq!(again.wake_at(), None);
        prop_assert_eq!(again.maps().tables(), &before);
    }
}

#[test]
fn until_the_first_sync_what_stands_there_stays() {
    let mut reconciler = empty(Watch::Nothing);
    reconciler.sync([service(1, &[plain(3)])], seconds(1));
    let mut again = on(reconciler.into_maps());
    assert_eq!(again.sync([], seconds(100)).operations, 0);
    assert_eq!(again.audit(seconds(200)).unwrap().drift, 0);
    assert_eq!(again.maps().tables().frontends_v4.len(), 1);
}

#[test]
fn ids_and_generations_go_on_where_the_previous_agent_left_them() {
    let mut reconciler = empty(Watch::Nothing);
    reconciler.sync([service(1, &[plain(0b011)]), service(2, &[plain(1)])], seconds(1));
    reconciler.sync([service(1, &[plain(0b001)])], seconds(2));
    rest(&mut reconciler, seconds(2));
    let before = reconciler.maps().tables().clone();

    let mut again = on(reconciler.into_maps());
    again.sync_all([service(1, &[plain(0b101)]), service(2, &[plain(1)])], seconds(0));
    let after = again.maps().tables();
    assert_eq!(after.service_ports, before.service_ports);
    assert_eq!(after.backends_v4[&BackendId(1)], before.backends_v4[&BackendId(1)]);
    assert_eq!(after.backends_v4[&BackendId(3)], before.backends_v4[&BackendId(3)]);
    // The freed id belongs to the new backend, as its second owner.
    assert_eq!({ before.backends_v4[&BackendId(2)].service_port }, 0);
    assert_eq!({ after.backends_v4[&BackendId(2)].generation }, 2);
}

#[test]
fn services_that_went_away_while_no_agent_ran_are_removed() {
    let mut reconciler = empty(Watch::Nothing);
    reconciler.sync([service(1, &[plain(3), plain(1)]), service(2, &[plain(1)])], seconds(1));
    let mut again = on(reconciler.into_maps());
    again.sync_all([service(1, &[plain(3)])], seconds(0));
    rest(&mut again, seconds(0));
    let mut fresh = empty(Watch::Nothing);
    fresh.sync_all([service(1, &[plain(3)])], seconds(0));
    assert_eq!(view(again.maps().tables()), view(fresh.maps().tables()));
}
