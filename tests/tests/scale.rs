//! Tier 1: as many Services as a large cluster has, planned and written to the kernel's maps.
//!
//! Times are printed, not asserted: the machine decides them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use lb_common::address::{Protocol, V4};
use lb_tests::packets::{Datapath, Frame};
use lb_userspace::model::{ObjectName, TrafficPolicy};
use lb_userspace::plan::decision::{Backend, BackendSet, Decision, Frontend, FrontendKind, ServicePortName};
use lb_userspace::plan::rows::{DEFAULT_MAX_TABLE, Supported, Terms};
use lb_userspace::reconcile::Reconciler;
use lb_userspace::tables::{Capacity, Family as _};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;

fn frontend_address(service: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + service)), 80)
}

fn decision(service: u32, endpoints: u32) -> (ObjectName, Vec<Decision>) {
    let name = format!("s{service:05}");
    let address = |endpoint| {
        let bits = 0x0af4_0000 + service * ENDPOINTS + endpoint;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), 8080)
    };
    let addresses: Vec<SocketAddr> = (0..endpoints).map(address).collect();
    let frontend = Frontend {
        addr: Some(frontend_address(service).ip()),
        except: Vec::new(),
        ipv6: false,
        port: 80,
        kind: FrontendKind::ClusterIp,
        external_policy: TrafficPolicy::Cluster,
        inside: BackendSet::Backends(addresses.clone()),
        outside: BackendSet::Backends(addresses.clone()),
        inside_local: false,
        outside_local: false,
        affinity_seconds: None,
        source_ranges: Vec::new(),
    };
    let backends = addresses.into_iter().map(|addr| Backend { addr, serving: true, local: false }).collect();
    let port = ServicePortName {
        service: ObjectName::new("scale", &name),
        port: "".into(),
        protocol: Protocol::TCP,
    };
    (ObjectName::new("scale", name), vec![Decision { name: port, frontends: vec![frontend], backends }])
}

fn terms() -> Terms {
    Terms { node_addresses: Vec::new(), supported: Supported::ALL, max_table: DEFAULT_MAX_TABLE }
}

#[test]
fn ten_thousand_services_of_ten_endpoints_are_planned_and_applied() {
    let mut datapath = Datapath::load().unwrap();
    let capacity: Capacity = datapath.maps().capacity();
    let services: Vec<_> = (0..SERVICES).map(|service| decision(service, ENDPOINTS)).collect();

    let began = Instant::now();
    let mut reconciler = Reconciler::new(datapath.open_maps().unwrap(), capacity, terms()).unwrap();
    let report = reconciler.sync_all(services.clone(), Duration::ZERO);
    println!(
        "{SERVICES} x {ENDPOINTS} planned and applied in {:?}: {} rows",
        began.elapsed(),
        report.rows_written
    );
    assert_eq!((report.refused.len(), report.failed.len()), (0, 0));

    let began = Instant::now();
    let report = reconciler.sync([decision(77, ENDPOINTS - 1)], Duration::from_secs(1));
    println!("one endpoint less in {:?}: {} operations", began.elapsed(), report.operations);
    assert!(report.operations < 10, "{report:?}");
    reconciler.sync([decision(77, ENDPOINTS)], Duration::from_secs(2));

    let began = Instant::now();
    let mut again = Reconciler::new(datapath.open_maps().unwrap(), capacity, terms()).unwrap();
    let report = again.sync_all(services, Duration::ZERO);
    println!("read back after a restart in {:?}", began.elapsed());
    assert_eq!(report.rows_written, 0, "an unchanged restart writes nothing");
    assert_eq!(V4::frontends(again.tables()).len(), SERVICES as usize);

    for service in [0, SERVICES / 2, SERVICES - 1] {
        let client = "10.0.0.1:40000".parse().unwrap();
        let syn = Frame::tcp(client, frontend_address(service), "S");
        let ran = datapath.from_pod(&syn.build());
        let first = Ipv4Addr::from_bits(0x0af4_0000 + service * ENDPOINTS);
        let to: [u8; 4] = ran.frame[30..34].try_into().unwrap();
        let offset = Ipv4Addr::from(to).to_bits().checked_sub(first.to_bits());
        assert!(
            offset.is_some_and(|offset| offset < ENDPOINTS),
            "Service {service} leads to its own endpoints"
        );
    }
}
