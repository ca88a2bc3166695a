//! C34, C35: who is let in, before, while and after source ranges change; and what refuses everyone.

use std::collections::BTreeSet;

use lb_common::abi::{FrontendFlags, FrontendKey, FrontendRow, RangeKey};
use lb_common::address::V4;

use super::cluster::{Shape, plain, service};
use super::{empty, rest, seconds};
use crate::datapath::fake::Watch;
use crate::tables::Tables;

fn guarded(ranges: u8) -> Shape {
    Shape { load_balancer: Some(ranges), node_port: true, ..plain(1) }
}

fn let_in(tables: &Tables) -> BTreeSet<RangeKey<V4>> {
    tables.ranges_v4.clone()
}

fn guarded_frontends(tables: &Tables) -> (usize, usize) {
    let guarded = |row: &&FrontendRow| row.flags.has(FrontendFlags::GUARDED);
    (
        tables.frontends_v4.values().filter(guarded).count(),
        tables.frontends_v6.values().filter(guarded).count(),
    )
}

#[test]
fn c35_load_balancer_addresses_are_guarded_and_nothing_else_is() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[guarded(0b11)])], seconds(1));
    let tables = reconciler.maps().tables();
    assert_eq!((tables.frontends_v4.len(), tables.frontends_v6.len()), (3, 3));
    assert_eq!(guarded_frontends(tables), (1, 1));
    assert_eq!((tables.ranges_v4.len(), tables.ranges_v6.len()), (2, 2));
    let expected = RangeKey::<V4>::new(1, "198.18.0.0".parse::<std::net::Ipv4Addr>().unwrap().into(), 16);
    assert!(tables.ranges_v4.contains(&expected), "{:?}", tables.ranges_v4);
    assert_eq!({ expected.prefix_len }, 48);
}

#[test]
fn c35_a_family_without_any_range_is_open() {
    let mut reconciler = empty(Watch::Frontends);
    // From bit 4 on there are IPv6 ranges only.
    reconciler.sync([service(1, &[guarded(0b0011_0000)])], seconds(1));
    let tables = reconciler.maps().tables();
    assert_eq!(guarded_frontends(tables), (0, 1));
    assert_eq!((tables.ranges_v4.len(), tables.ranges_v6.len()), (0, 2));
}

#[test]
fn c35_while_ranges_change_nobody_waits_outside_who_may_enter_before_and_after() {
    let mut reconciler = empty(Watch::States);
    reconciler.sync([service(1, &[guarded(0b0011)])], seconds(1));
    let before = let_in(reconciler.maps().tables());
    reconciler.maps_mut().take_states();
    reconciler.sync([service(1, &[guarded(0b0110)])], seconds(2));
    let after = let_in(reconciler.maps().tables());
    let states = reconciler.maps_mut().take_states();
    assert_eq!(states.len(), 4, "one in and one out, in each family");
    for state in &states {
        let now = let_in(state);
        assert!(now.is_superset(&(&before & &after)) && now.is_subset(&(&before | &after)));
        assert_eq!(guarded_frontends(state), (1, 1));
    }
}

#[test]
fn c35_a_guard_is_up_before_its_frontend_is_and_down_after_it() {
    let mut reconciler = empty(Watch::States);
    for (now, ranges) in (1..).zip([0b1, 0, 0b1]) {
        reconciler.sync([service(1, &[guarded(ranges)])], seconds(now));
    }
    reconciler.sync([service(1, &[])], seconds(9));
    for state in reconciler.maps_mut().take_states() {
        let guarded = guarded_frontends(&state);
        assert!(guarded.0 == 0 || !state.ranges_v4.is_empty(), "IPv4 clients would all be shut out");
        assert!(guarded.1 == 0 || !state.ranges_v6.is_empty(), "IPv6 clients would all be shut out");
    }
    rest(&mut reconciler, seconds(9));
    assert!(
        reconciler.maps().tables().ranges_v4.is_empty() && reconciler.maps().tables().ranges_v6.is_empty()
    );
    assert_eq!(reconciler.maps().violation(), None);
}

#[test]
fn c34_an_address_as_a_whole_has_a_row_without_sets_flags_or_affinity() {
    let mut reconciler = empty(Watch::Frontends);
    let shape = Shape { whole: true, affinity: Some(60), ..plain(0b11) };
    reconciler.sync([service(1, std::slice::from_ref(&shape))], seconds(1));
    let key = FrontendKey::<V4>::whole(std::net::Ipv4Addr::new(10, 96, 0, 1).into());
    let row = reconciler.maps().tables().frontends_v4[&key];
    let expected = FrontendRow { tag: key.tag(), service_port: 1, ..FrontendRow::default() };
    assert_eq!(row, expected);
    // It is the Service's like its other frontends: shared sets, gone with it.
    reconciler.sync([service(1, &[Shape { whole: false, ..shape }])], seconds(2));
    assert!(!reconciler.maps().tables().frontends_v4.contains_key(&key));
}
