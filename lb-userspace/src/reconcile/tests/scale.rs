//! Ten thousand Services of ten endpoints: what a first sync takes, and that a change costs what it changes. Times
//! are printed, not asserted: the machine decides them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use lb_common::address::Protocol;

use super::{seconds, terms};
use crate::datapath::fake::{FakeMaps, Watch};
use crate::model::{ObjectName, TrafficPolicy};
use crate::plan::decision::{Backend, BackendSet, Decision, Frontend, FrontendKind, ServicePortName};
use crate::plan::rows::{DEFAULT_MAX_TABLE, Terms};
use crate::reconcile::Reconciler;
use crate::tables::Capacity;

const SERVICES: u16 = 10_000;
const NODE_PORTS: u16 = 1_000;
const ENDPOINTS: u8 = 10;

fn big_service(number: u16, endpoints: u8) -> (ObjectName, Vec<Decision>) {
    let [high, low] = number.to_be_bytes();
    let backend = |last| SocketAddr::new(Ipv4Addr::new(10, high, low, last).into(), 8080);
    let name = ServicePortName {
        service: ObjectName::new("default", format!("svc{number}")),
        port: "http".into(),
        protocol: Protocol::TCP,
    };
    let set = BackendSet::Backends((0..endpoints).map(backend).collect());
    let frontend = Frontend {
        addr: Some(Ipv4Addr::new(172, 16, high, low).into()),
        except: Vec::new(),
        ipv6: false,
        port: 80,
        kind: FrontendKind::ClusterIp,
        external_policy: TrafficPolicy::Cluster,
        inside: set.clone(),
        outside: set,
        inside_local: false,
        outside_local: false,
        affinity_seconds: None,
        source_ranges: Vec::new(),
    };
    let backends =
        (0..endpoints).map(|last| Backend { addr: backend(last), serving: true, local: last == 0 }).collect();
    let service = ObjectName::new("default", format!("svc{number}"));
    (service, vec![Decision { name, frontends: vec![frontend], backends }])
}

fn big_node_port(number: u16, endpoints: u8) -> (ObjectName, Vec<Decision>) {
    let (service, mut decisions) = big_service(number, endpoints);
    for frontend in &mut decisions[0].frontends {
        (frontend.addr, frontend.kind, frontend.port) = (None, FrontendKind::NodePort, 20_000 + number);
    }
    (service, decisions)
}

#[test]
fn c29_tables_for_a_thousand_node_ports_are_built_once() {
    let services: Vec<_> = (0..NODE_PORTS).map(|number| big_node_port(number, ENDPOINTS)).collect();
    let capacity = Capacity { slots: 1 << 21, ..Capacity::default() };
    let terms = Terms { max_table: DEFAULT_MAX_TABLE, ..terms() };
    let mut reconciler =
        Reconciler::new(FakeMaps::new(capacity, Watch::Nothing), capacity, terms.clone()).unwrap();
    let start = Instant::now();
    let report = reconciler.sync_all(services.clone(), seconds(1));
    println!(
        "note: {NODE_PORTS} NodePorts x {ENDPOINTS} endpoints planned and applied in {:?}",
        start.elapsed()
    );
    // A name, ten backends, 1021 slots and a frontend each.
    assert_eq!(report.rows_written, (1 + 10 + 1021 + 1) * usize::from(NODE_PORTS));

    let start = Instant::now();
    assert_eq!(reconciler.sync(services.clone(), seconds(2)).operations, 0);
    println!("note: planned again, unchanged: {:?}", start.elapsed());
    let start = Instant::now();
    let report = reconciler.sync([big_node_port(500, ENDPOINTS - 1)], seconds(3));
    println!("note: one endpoint less, among them: {:?}", start.elapsed());
    assert_eq!(report.operations, 3, "a table, a frontend, and the backend serves no longer");

    let start = Instant::now();
    let mut again = Reconciler::new(reconciler.into_maps(), capacity, terms).unwrap();
    let changed = services.into_iter().map(|service| {
        if service.0.name() == "svc500" { big_node_port(500, ENDPOINTS - 1) } else { service }
    });
    assert_eq!(again.sync_all(changed, seconds(0)).rows_written, 0);
    println!("note: read back and found unchanged after a restart: {:?}", start.elapsed());
}

#[test]
fn one_endpoint_among_a_hundred_thousand_costs_a_handful_of_operations() {
    let services: Vec<_> = (0..SERVICES).map(|number| big_service(number, ENDPOINTS)).collect();
    let capacity = Capacity::default();
    let mut reconciler = Reconciler::new(FakeMaps::new(capacity, Watch::Nothing), capacity, terms()).unwrap();

    let start = Instant::now();
    let report = reconciler.sync_all(services.clone(), seconds(1));
    println!(
        "note: {SERVICES} Services x {ENDPOINTS} endpoints planned and applied in {:?}",
        start.elapsed()
    );
    assert_eq!(reconciler.maps().tables().backends_v4.len(), 100_000);
    // A name, ten backends, ten slots and a frontend each.
    assert_eq!(report.rows_written, 22 * usize::from(SERVICES));

    let start = Instant::now();
    let report = reconciler.sync([big_service(5_000, ENDPOINTS + 1)], seconds(2));
    println!("note: one endpoint more, among them: {:?}", start.elapsed());
    assert_eq!(report.operations, 3, "a backend, a range of slots, a frontend");

    let report = reconciler.sync([big_service(5_000, ENDPOINTS)], seconds(3));
    assert_eq!(report.operations, 3, "a range of slots, a frontend, and the backend serves no longer");

    let start = Instant::now();
    let mut again = Reconciler::new(reconciler.into_maps(), capacity, terms()).unwrap();
    assert_eq!(again.sync_all(services, seconds(0)).operations, 0);
    println!("note: read back and found unchanged after a restart: {:?}", start.elapsed());
}

#[test]
fn a_frontend_that_changes_hands_between_two_batches_is_replaced_and_its_old_owner_settles_at_once() {
    let capacity = Capacity::default();
    let mut reconciler = Reconciler::new(FakeMaps::new(capacity, Watch::Nothing), capacity, terms()).unwrap();
    let services: Vec<_> = (0..2_000).map(|number| big_service(number, 1)).collect();
    reconciler.sync_all(services.clone(), seconds(1));
    // The first Service's frontend becomes the last one's, which is written in another batch than the first.
    let mut moved = services;
    let taken = std::mem::take(&mut moved[0].1[0].frontends);
    let last = moved.len() - 1;
    moved[last].1[0].frontends[0].addr = taken[0].addr;
    moved[0].1.clear();
    reconciler.sync(moved, seconds(2));
    assert_eq!(reconciler.failing(), 0);
    assert_eq!(reconciler.sync([], seconds(3)).operations, 0, "nothing was left for later");
    let tables = reconciler.maps().tables();
    assert_eq!(crate::datapath::fake::dangling(tables), None);
    assert_eq!(tables.frontends_v4.len(), 1_999);
}
