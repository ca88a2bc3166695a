//! Full tables refuse what does not fit and nothing else, and take it once there is room.

use super::cluster::{Shape, name, plain, service};
use super::view::view;
use super::{Reconciler, SMALL, rest, seconds, terms};
use crate::datapath::fake::{FakeMaps, Watch};
use crate::tables::Capacity;

/// Maps in which one Service of three backends in both families fits, and a second one does not.
const TIGHT: [(&str, &str, Capacity); 5] = [
    ("service ports", "--max-service-ports", Capacity { service_ports: 1, ..SMALL }),
    ("IPv4 frontends", "--max-frontends", Capacity { frontends: 2, ..SMALL }),
    ("IPv4 backends", "--max-backends", Capacity { backends: 5, ..SMALL }),
    ("backend slots", "--max-slots", Capacity { slots: 9, ..SMALL }),
    ("IPv4 source ranges", "--max-source-ranges", Capacity { ranges: 3, ..SMALL }),
];

/// Three backends, and two source ranges in each family.
fn guarded() -> Shape {
    Shape { load_balancer: Some(0b11), ..plain(7) }
}

fn with(capacity: Capacity) -> Reconciler<FakeMaps> {
    Reconciler::new(FakeMaps::new(capacity, Watch::Frontends), capacity, terms()).unwrap()
}

#[test]
fn a_full_table_refuses_the_new_service_only_and_takes_it_after_a_delete() {
    for (table, option, capacity) in TIGHT {
        let mut reconciler = with(capacity);
        assert_eq!(reconciler.sync([service(1, &[guarded()])], seconds(1)).refused, []);
        let before = reconciler.maps().tables().clone();

        let report = reconciler.sync([service(2, &[guarded()])], seconds(2));
        let reason = &report.refused[0].reason;
        assert_eq!(report.refused[0].service, name(2), "{table}");
        assert!(reason.contains(table) && reason.contains(option), "{reason}");
        assert_eq!((report.operations, report.failed.len()), (0, 0), "{table}");
        assert_eq!(reconciler.maps().tables(), &before, "{table}");
        assert_eq!(reconciler.refused().count(), 1, "{table}");

        reconciler.sync([(name(1), vec![])], seconds(3));
        rest(&mut reconciler, seconds(3));
        assert_eq!(reconciler.refused().count(), 0, "{table}: there is room");
        rest(&mut reconciler, seconds(20));
        let mut fresh = with(capacity);
        fresh.sync([service(2, &[guarded()])], seconds(1));
        assert_eq!(view(reconciler.maps().tables()), view(fresh.maps().tables()), "{table}");
        assert_eq!(reconciler.maps().violation(), None, "{table}");
    }
}

#[test]
fn a_refused_service_takes_nothing_from_the_others() {
    // Six slots in use; the big one does not fit, the small one after it does.
    let mut reconciler = with(Capacity { slots: 10, ..SMALL });
    reconciler.sync([service(1, &[plain(7)])], seconds(1));
    let report = reconciler.sync([service(2, &[plain(7)]), service(3, &[plain(3)])], seconds(2));
    assert_eq!(report.refused.len(), 1);
    assert_eq!(report.refused[0].service, name(2));
    assert_eq!(reconciler.maps().tables().frontends_v4.len(), 2);
}

#[test]
fn a_change_that_does_not_fit_leaves_the_service_as_it_was() {
    let mut reconciler = with(Capacity { backends: 4, ..SMALL });
    reconciler.sync([service(1, &[plain(0b11)])], seconds(1));
    let before = reconciler.maps().tables().clone();
    let report = reconciler.sync([service(1, &[plain(0b1111)])], seconds(2));
    assert_eq!((report.refused.len(), report.operations), (1, 0));
    assert_eq!(reconciler.maps().tables(), &before);
    let report = reconciler.sync([service(1, &[plain(0b111)])], seconds(3));
    assert_eq!((report.refused.len(), reconciler.refused().count()), (0, 0), "it fits now");
}

#[test]
fn a_name_too_long_for_its_row_is_refused_by_name() {
    let mut reconciler = with(SMALL);
    let (name, mut decisions) = service(1, &[plain(1)]);
    decisions[0].name.port = "p".repeat(300).into();
    let report = reconciler.sync([(name, decisions)], seconds(1));
    assert!(report.refused[0].reason.contains("too long"), "{:?}", report.refused);
    assert_eq!(report.operations, 0);
}
