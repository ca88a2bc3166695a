//! Rows that others changed are found, counted and repaired.

use std::net::Ipv6Addr;

use lb_common::abi::{BackendId, FrontendKey, RangeKey, ServicePortName};
use lb_common::address::{Port, Protocol};

use super::cluster::{Shape, plain, service};
use super::{Reconciler, empty, on, seconds};
use crate::datapath::fake::{FakeMaps, Watch};
use crate::tables::{Seen, Tables};

fn services() -> [(crate::model::ObjectName, Vec<crate::plan::decision::Decision>); 2] {
    let guarded = Shape { load_balancer: Some(0b101), ..plain(3) };
    [service(1, &[guarded]), service(2, &[Shape { whole: true, ..plain(1) }])]
}

fn two_services() -> Reconciler<FakeMaps> {
    let mut reconciler = empty(Watch::Nothing);
    reconciler.sync(services(), seconds(1));
    reconciler
}

type Damage = (&'static str, fn(&mut Tables));

const DAMAGE: [Damage; 12] = [
    ("a frontend is gone", |tables| {
        tables.frontends_v4.pop_first();
    }),
    ("an address no longer refuses its other ports", |tables| {
        tables.frontends_v4.retain(|key, _| *key != FrontendKey::whole(key.addr));
    }),
    ("a frontend has another's row", |tables| {
        let row = *tables.frontends_v6.first_key_value().unwrap().1;
        *tables.frontends_v6.last_entry().unwrap().get_mut() = row;
    }),
    ("a frontend is a stranger", |tables| {
        let (key, row) = tables.frontends_v4.first_key_value().unwrap();
        let key = FrontendKey::new(key.addr, Port::new(9), Protocol::UDP);
        let row = *row;
        tables.frontends_v4.insert(key, row);
    }),
    ("two families share a range", |tables| {
        let range = tables.frontends_v4.first_key_value().unwrap().1.inside;
        tables.frontends_v6.first_entry().unwrap().get_mut().inside = range;
    }),
    ("a slot names another backend", |tables| tables.slots[0] = BackendId(2)),
    ("the slots are gone", |tables| tables.slots.clear()),
    ("a backend is gone", |tables| {
        tables.backends_v4.remove(&BackendId(1));
    }),
    ("a source range is gone", |tables| {
        tables.ranges_v4.pop_first();
    }),
    ("a source range is a stranger", |tables| {
        tables.ranges_v6.insert(RangeKey::new(2, "fd09::".parse::<Ipv6Addr>().unwrap().into(), 16));
    }),
    ("all source ranges of a family are gone", |tables| tables.ranges_v6.clear()),
    ("a name is another's", |tables| {
        tables.service_ports.insert(1, ServicePortName::new("x/y:z/TCP").unwrap().into());
    }),
];

#[test]
fn drift_is_counted_and_repaired() {
    for (what, damage) in DAMAGE {
        let mut reconciler = two_services();
        let before = reconciler.maps().tables().clone();
        damage(reconciler.maps_mut().tables_mut());
        let audit = reconciler.audit(seconds(2)).unwrap();
        assert!(audit.drift > 0, "{what}");
        assert_eq!(audit.report.operations, audit.drift, "{what}");
        assert_eq!(reconciler.maps().tables(), &before, "{what}");
        assert_eq!(reconciler.audit(seconds(3)).unwrap().drift, 0, "{what}");
    }
}

/// Looks to the end, or to the first difference; says how many steps that took.
fn look(
    reconciler: &mut Reconciler<FakeMaps>,
    mut between: impl FnMut(&mut Reconciler<FakeMaps>),
) -> (Seen, u32) {
    for step in 1.. {
        match reconciler.look().unwrap() {
            Seen::More => between(reconciler),
            seen => return (seen, step),
        }
    }
    unreachable!("a look ends")
}

#[test]
fn all_damage_is_seen_by_a_look_in_steps() {
    for (what, damage) in DAMAGE {
        let mut reconciler = two_services();
        let (seen, steps) = look(&mut reconciler, |_| {});
        assert_eq!(seen, Seen::End, "{what}");
        assert!(steps > 5, "a step looks at a part");
        damage(reconciler.maps_mut().tables_mut());
        assert_eq!(look(&mut reconciler, |_| {}).0, Seen::Drift, "{what}");
        reconciler.audit(seconds(2)).unwrap();
        assert_eq!(look(&mut reconciler, |_| {}).0, Seen::End, "{what}");
    }
}

#[test]
fn changes_between_the_steps_of_a_look_are_written_and_no_drift() {
    let mut reconciler = two_services();
    let mut now = 10;
    let (seen, steps) = look(&mut reconciler, |reconciler| {
        now += 10;
        let report =
            reconciler.sync([service(1, &[plain(if now % 20 == 0 { 0b11 } else { 0b110 })])], seconds(now));
        assert!(report.operations > 0);
    });
    assert_eq!(seen, Seen::End);
    assert!(steps > 5);
}

#[test]
fn an_agent_that_starts_on_damaged_maps_makes_them_good() {
    for (what, damage) in DAMAGE {
        let mut reconciler = two_services();
        let good = super::view::view(reconciler.maps().tables());
        damage(reconciler.maps_mut().tables_mut());
        let mut again = on(reconciler.into_maps());
        again.sync_all(services(), seconds(0));
        super::rest(&mut again, seconds(0));
        assert_eq!(super::view::view(again.maps().tables()), good, "{what}");
        // Nothing was taken over twice: what changes now does not tread on anything.
        for (now, backends) in [(20, 0b111), (30, 0b11), (40, 0b110)] {
            again.sync([service(1, &[plain(backends)]), service(3, &[plain(backends)])], seconds(now));
            assert_eq!(crate::datapath::fake::dangling(again.maps().tables()), None, "{what}");
        }
    }
}
