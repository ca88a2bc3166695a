//! C29: what stands in the slots of external frontends.

use std::net::SocketAddr;

use lb_common::abi::{FrontendRow, SlotRange};
use lb_common::address::{Address as _, V4};
use lb_common::maglev::table_len;

use super::cluster::{Shape, name, plain, service};
use super::{Reconciler, SMALL, empty, on, rest, seconds, terms};
use crate::datapath::fake::{FakeMaps, Watch};
use crate::tables::{Capacity, Tables};

fn node_port(backends: u8) -> Shape {
    Shape { node_port: true, load_balancer: Some(0), ..plain(backends) }
}

/// The IPv4 frontends' rows: the cluster address, the NodePort, the load balancer address.
fn rows(tables: &Tables) -> [FrontendRow; 3] {
    let by_first = |octet| {
        let is_it = |addr: V4| matches!(addr.to_ip(), std::net::IpAddr::V4(ip) if ip.octets()[0] == octet);
        *tables.frontends_v4.iter().find(|(key, _)| is_it(key.addr)).unwrap().1
    };
    [by_first(10), by_first(192), by_first(203)]
}

/// The backends in a range, slot by slot.
fn addresses(tables: &Tables, range: SlotRange) -> Vec<SocketAddr> {
    let slots = &tables.slots[range.start as usize..][..range.len as usize];
    let backend = |id| tables.backends_v4[id];
    slots
        .iter()
        .map(|id| (backend(id).addr, backend(id).port))
        .map(|(addr, port)| SocketAddr::new(addr.to_ip(), port.get()))
        .collect()
}

#[test]
fn c29_external_frontends_share_a_table_and_the_cluster_address_has_a_list() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[node_port(0b111)])], seconds(1));
    let tables = reconciler.maps().tables();
    let [cluster, node, balancer] = rows(tables);
    assert_eq!((cluster.inside.len, node.inside.len), (3, 31));
    assert_eq!(table_len(3, terms().max_table), Some(31));
    assert_eq!([cluster.inside, node.inside, node.inside], [cluster.outside, node.outside, balancer.inside]);
    let table = addresses(tables, node.outside);
    for backend in addresses(tables, cluster.inside) {
        let share = table.iter().filter(|slot| **slot == backend).count();
        assert!((10..=11).contains(&share), "{backend}: {share} of 31");
    }
    assert_eq!(tables.slots.len(), 2 * (3 + 31), "both families");
}

#[test]
fn c29_one_backend_needs_one_slot_and_shares_it_with_the_list() {
    let mut reconciler = empty(Watch::Frontends);
    reconciler.sync([service(1, &[node_port(1)])], seconds(1));
    let [cluster, node, _] = rows(reconciler.maps().tables());
    assert_eq!((cluster.inside, cluster.inside.len), (node.outside, 1));
}

#[test]
fn c29_nodes_with_the_same_endpoints_have_the_same_table_whatever_their_ids() {
    let mut one = empty(Watch::Nothing);
    one.sync([service(1, &[node_port(0b1_0110)])], seconds(1));
    let mut two = empty(Watch::Nothing);
    // Another history: other ids, in another order.
    for (now, backends) in (1..).zip([0b100, 0b1_0000, 0b1_1110, 0b1_0110]) {
        two.sync([service(2, &[plain(3)]), service(1, &[node_port(backends)])], seconds(now));
    }
    let table = |reconciler: &Reconciler<FakeMaps>| {
        let tables = reconciler.maps().tables();
        let range = rows(tables)[1].outside;
        let range = if range.len == 31 { range } else { panic!("{range:?}") };
        (tables.slots[range.start as usize], addresses(tables, range))
    };
    let row = |reconciler: &Reconciler<FakeMaps>, service: u8| {
        let tables = reconciler.maps().tables();
        let owner = tables
            .service_ports
            .iter()
            .find(|(_, of)| of.name().unwrap().contains(&format!("svc{service}:")))
            .unwrap()
            .0;
        let external =
            tables.frontends_v4.values().find(|row| row.service_port == *owner && row.inside.len > 8);
        addresses(tables, external.unwrap().outside)
    };
    assert_eq!(row(&one, 1), row(&two, 1));
    assert_eq!(table(&one).1, row(&one, 1));
}

#[test]
fn c29_a_table_that_finds_no_room_becomes_a_list_and_keeps_nobody_out() {
    // A table of 31 in each family leaves a quarter of 100; the next ones do not.
    let capacity = Capacity { slots: 100, ..SMALL };
    let mut reconciler =
        Reconciler::new(FakeMaps::new(capacity, Watch::Frontends), capacity, terms()).unwrap();
    let services: Vec<_> = (1..4).map(|number| service(number, &[node_port(0b11)])).collect();
    let report = reconciler.sync(services.clone(), seconds(1));
    assert_eq!((report.refused, report.failed), (vec![], vec![]));
    let lens = |tables: &Tables| {
        let mut lens: Vec<u32> = tables.frontends_v4.values().map(|row| row.outside.len).collect();
        lens.sort_unstable();
        lens
    };
    assert_eq!(lens(reconciler.maps().tables()), [2, 2, 2, 2, 2, 2, 2, 31, 31]);
    let again = reconciler.sync(services.clone(), seconds(2));
    assert_eq!(again.operations, 0, "a list that stands stays");
    // With room again, they get tables, though nothing about them has changed.
    reconciler.sync([(name(1), vec![])], seconds(3));
    assert_eq!(lens(reconciler.maps().tables()), [2, 2, 2, 2, 2, 2], "what was given up rests first");
    rest(&mut reconciler, seconds(3));
    assert_eq!(lens(reconciler.maps().tables()), [2, 2, 2, 2, 31, 31]);
    assert_eq!(reconciler.maps().violation(), None);
}

#[test]
fn c29_after_a_restart_a_table_is_known_by_what_stands_in_it() {
    let mut reconciler = empty(Watch::Nothing);
    reconciler.sync([service(1, &[node_port(0b111)])], seconds(1));
    let before = reconciler.maps().tables().clone();
    let mut again = on(reconciler.into_maps());
    assert_eq!(again.sync_all([service(1, &[node_port(0b111)])], seconds(1)).operations, 0);
    // One that another version filled otherwise is replaced, by a fresh range.
    let [_, node, _] = rows(&before);
    again.maps_mut().tables_mut().slots.swap(node.inside.start as usize, node.inside.start as usize + 1);
    let mut swapped = on(again.into_maps());
    swapped.sync_all([service(1, &[node_port(0b111)])], seconds(1));
    let after = swapped.maps().tables();
    let range = rows(after)[1].inside;
    assert!(addresses(after, range) == addresses(&before, node.inside) || range == node.inside);
    assert_eq!(addresses(after, range), addresses(&before, node.inside));
}
