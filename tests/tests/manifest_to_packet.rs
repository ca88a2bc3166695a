//! Tier 1: from a manifest to what becomes of a packet: objects are planned, written to the kernel's maps, and the
//! programs run on them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::abi::{BackendId, FrontendKey, RangeKey, ServicePortName, Verdict};
use lb_common::address::{Port, V6};
use lb_tests::packets::{Datapath, Frame, sockets_of};
use lb_userspace::datapath::kernel::KernelMaps;
use lb_userspace::model::{ObjectName, State};
use lb_userspace::plan::decide;
use lb_userspace::plan::decision::{BackendSet, Decision};
use lb_userspace::plan::networks::{Inhabited, Networks};
use lb_userspace::plan::owners::Owners;
use lb_userspace::plan::rows::{DEFAULT_MAX_TABLE, Supported, Terms};
use lb_userspace::plan::site::Site;
use lb_userspace::reconcile::{GRACE, Reconciler};
use lb_userspace::source::file::read_once;
use lb_userspace::tables::{MapOp, Maps as _, Seen};

const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A guarded Service of both families, with every kind of frontend.
const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.10, 'fd00:96::10']
  clusterIP: 10.96.0.10
  ipFamilies: [IPv4, IPv6]
  externalIPs: [198.51.100.7]
  loadBalancerSourceRanges: [RANGES]
  ports: [{port: 80, nodePort: 30080}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.10}, {ip: '2001:db8:1::10'}]}}
";

const SLICES: &str = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.1], nodeName: here}, {addresses: [10.244.0.2], nodeName: here}, {addresses: [10.244.0.3], nodeName: here}]
ports: [{port: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
endpoints: [{addresses: ['fd00:244::1'], nodeName: here}]
ports: [{port: 8080}]
";

const FEW: &str = "192.168.0.0/16, 10.1.0.0/16, 10.1.2.0/24, 'fd01::/32'";

fn planned(ranges: &str) -> Vec<(ObjectName, Vec<Decision>)> {
    planned_of(&(SERVICE.replace("RANGES", ranges) + SLICES))
}

fn planned_of(text: &str) -> Vec<(ObjectName, Vec<Decision>)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("web.yaml"), text).unwrap();
    let snapshot = read_once(folder.path()).unwrap();
    assert!(!snapshot.has_problems(), "{:?}", snapshot.findings);
    let mut state = State::new("here");
    state.replace_all(snapshot.objects);
    let own: BTreeSet<IpAddr> = NODE.iter().map(|addr| addr.parse().unwrap()).collect();
    let site =
        Site { node_port_addresses: own.iter().copied().collect(), own_addresses: own, ..Site::default() };
    let planned = decide::dirty(&mut state, &mut Owners::on(site));
    planned.into_iter().map(|(name, planned)| (name, planned.decisions)).collect()
}

fn networks() -> Networks {
    let services = ["10.96.0.0/12", "fd00:96::/108"].map(|network| network.parse().unwrap());
    Networks::plan(&services, &[], Inhabited { addresses: &[], pods: &[] }).0
}

fn reconciler(datapath: &mut Datapath) -> Reconciler<KernelMaps> {
    let capacity = datapath.maps().capacity();
    let terms = Terms {
        node_addresses: NODE.iter().map(|addr| addr.parse().unwrap()).collect(),
        supported: Supported::ALL,
        max_table: DEFAULT_MAX_TABLE,
    };
    Reconciler::new(datapath.open_maps().unwrap(), capacity, terms).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// All steps of a look at the maps, up to its end or the first difference.
fn looked(reconciler: &mut Reconciler<KernelMaps>) -> Seen {
    // A bound: every table is far smaller than so many steps of a thousand rows.
    let mut steps = (0..10_000).map(|_| reconciler.look().unwrap());
    steps.find(|seen| *seen != Seen::More).expect("a look ends")
}

/// Programs that go by the Service's rows.
fn served(ranges: &str) -> (Datapath, Reconciler<KernelMaps>) {
    let mut datapath = Datapath::load().unwrap();
    let mut reconciler = reconciler(&mut datapath);
    reconciler.set_networks(&networks());
    let report = reconciler.sync_all(planned(ranges), seconds(1));
    assert_eq!((report.refused, report.failed), (vec![], vec![]));
    (datapath, reconciler)
}

#[test]
fn a_look_in_small_steps_sees_what_others_did_to_rows_of_every_kind() {
    let (_datapath, mut reconciler) = served(FEW);
    assert_eq!(looked(&mut reconciler), Seen::End);
    let rows = reconciler.tables().clone();
    let (service_port, name) = rows.service_ports.first_key_value().unwrap();
    let (key, frontend) = rows.frontends_v4.first_key_value().unwrap();
    let (id, backend) = rows.backends_v6.iter().find(|(_, row)| row.service_port != 0).unwrap();
    let name = name.row();
    let renamed = ServicePortName { len: name.len - 1, ..name };
    let (mut longer, mut elsewhere) = (*frontend, *backend);
    longer.affinity_seconds += 1;
    elsewhere.port = Port::new(1);
    let unknown =
        FrontendKey::new(V6::from("fd0a::1".parse::<std::net::Ipv6Addr>().unwrap()), key.port, key.protocol);
    let range = RangeKey::<V6>::new(1, unknown.addr, 16);
    let network = *rows.networks_v4.first_key_value().unwrap().0;
    let slot = rows.frontends_v4.values().find(|row| row.inside.len > 0).unwrap().inside.start;
    for damage in [
        MapOp::PutServicePort(*service_port, renamed.into()),
        MapOp::DeleteServicePort(*service_port),
        MapOp::PutFrontendV4(*key, longer),
        MapOp::DeleteFrontendV4(*key),
        MapOp::PutFrontendV6(unknown, *frontend),
        MapOp::PutBackendV6(id, elsewhere),
        MapOp::PutSlots { start: slot, backends: vec![BackendId(4_711)] },
        MapOp::DeleteRangeV4(*rows.ranges_v4.first().unwrap()),
        MapOp::PutRangeV6(range),
        MapOp::PutNetworkV4(network, bytemuck::Zeroable::zeroed()),
    ] {
        reconciler.maps_mut().apply(std::slice::from_ref(&damage)).unwrap();
        assert_eq!(looked(&mut reconciler), Seen::Drift, "{damage:?}");
        assert!(reconciler.audit(seconds(2)).unwrap().drift > 0, "{damage:?}");
        assert_eq!(looked(&mut reconciler), Seen::End, "after {damage:?} was repaired");
    }
    assert_eq!(reconciler.tables(), &rows);
}

#[test]
fn rows_of_every_kind_are_read_back_as_they_were_written_and_repaired() {
    // More ranges than one batch holds.
    let many: Vec<String> = (0..5_000).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let many = many.join(", ") + ", " + FEW;
    let (mut datapath, mut first) = served(&many);
    let written = first.tables().clone();
    assert_eq!((written.ranges_v4.len(), written.ranges_v6.len()), (5_000 + 2, 1));
    assert_eq!((written.networks_v4.len(), written.networks_v6.len()), (1, 1));
    assert_eq!(first.audit(seconds(2)).unwrap().drift, 0);

    let mut again = reconciler(&mut datapath);
    again.set_networks(&networks());
    assert_eq!(
        again.sync_all(planned(&many), seconds(0)).operations,
        0,
        "an unchanged restart writes nothing"
    );

    let stranger = RangeKey::<V6>::new(1, V6::from("fd0a::".parse::<std::net::Ipv6Addr>().unwrap()), 16);
    let (range, network) =
        (*written.ranges_v4.first().unwrap(), *written.networks_v4.first_key_value().unwrap().0);
    let damage = [
        MapOp::DeleteRangeV4(range),
        MapOp::PutRangeV6(stranger),
        MapOp::PutNetworkV4(network, bytemuck::Zeroable::zeroed()),
    ];
    again.maps_mut().apply(&damage).unwrap();
    assert_eq!(again.audit(seconds(1)).unwrap().drift, 3);
    assert_eq!(again.tables(), &written);
    assert_eq!(again.audit(seconds(2)).unwrap().drift, 0);

    again.set_networks(&Networks::default());
    again.sync_all([], seconds(3));
    again.sync([], seconds(3) + GRACE);
    let left = again.maps_mut().load().unwrap();
    assert!(left.frontends_v4.is_empty() && left.frontends_v6.is_empty() && left.service_ports.is_empty());
    assert!(left.ranges_v4.is_empty() && left.ranges_v6.is_empty());
    assert!(left.networks_v4.is_empty() && left.networks_v6.is_empty());
}

#[test]
fn c35_a_load_balancer_address_lets_in_who_is_in_a_range_and_nothing_else_is_guarded() {
    let (mut datapath, _reconciler) = served(FEW);
    let mut from = |client: &str, to: &str| {
        let syn = Frame::tcp(at(client), at(to), "S").build();
        datapath.from_net(&syn).verdict
    };
    for inside in ["192.168.255.255:1000", "10.1.0.1:1000", "10.1.2.3:1000"] {
        assert_eq!(from(inside, "203.0.113.10:80"), Verdict::ForwardedNew, "{inside}");
    }
    for outside in ["192.167.255.255:1000", "10.2.0.1:1000", "8.8.8.8:1000"] {
        assert_eq!(from(outside, "203.0.113.10:80"), Verdict::DroppedSourceRange, "{outside}");
    }
    assert_eq!(from("[fd01:0:1::1]:1000", "[2001:db8:1::10]:80"), Verdict::ForwardedNew);
    assert_eq!(from("[fd01:1::1]:1000", "[2001:db8:1::10]:80"), Verdict::DroppedSourceRange);
    for open in ["192.0.2.1:30080", "198.51.100.7:80", "10.96.0.10:80", "[2001:db8::1]:30080"] {
        let client = if open.starts_with('[') { "[2001:db8:7::1]:1000" } else { "8.8.8.8:2000" };
        assert_eq!(from(client, open), Verdict::ForwardedNew, "{open}");
    }
    let pod = Frame::tcp(at("10.244.0.9:1000"), at("203.0.113.10:80"), "S").build();
    assert_eq!(datapath.from_pod(&pod).verdict, Verdict::DroppedSourceRange, "pods are no exception");
}

#[test]
fn c35_ranges_that_change_hold_for_the_next_connection() {
    let (mut datapath, mut reconciler) = served("192.168.0.0/16");
    let syn =
        |port| Frame::tcp(SocketAddr::new([8, 8, 8, 8].into(), port), at("203.0.113.10:80"), "S").build();
    assert_eq!(datapath.from_net(&syn(1)).verdict, Verdict::DroppedSourceRange);
    reconciler.sync(planned("8.8.0.0/16"), seconds(2));
    assert_eq!(datapath.from_net(&syn(2)).verdict, Verdict::ForwardedNew);
    reconciler.sync(planned("192.168.0.0/16, 0.0.0.0/0"), seconds(3));
    assert_eq!(datapath.from_net(&syn(3)).verdict, Verdict::ForwardedNew, "a range of everybody opens");
    reconciler.sync(planned("'fd01::/32'"), seconds(4));
    assert_eq!(datapath.from_net(&syn(4)).verdict, Verdict::ForwardedNew, "a family without a range is open");
    let v6 = Frame::tcp(at("[fd02::1]:1000"), at("[2001:db8:1::10]:80"), "S").build();
    assert_eq!(datapath.from_net(&v6).verdict, Verdict::DroppedSourceRange);
}

#[test]
fn c34_undefined_ports_are_rejected_and_unheld_addresses_dropped() {
    let (mut datapath, _reconciler) = served(FEW);
    let mut syn =
        |client: &str, to: &str| datapath.from_pod(&Frame::tcp(at(client), at(to), "S").build()).verdict;
    assert_eq!(syn("10.244.0.9:1000", "10.96.0.10:81"), Verdict::RejectedNoPort);
    assert_eq!(syn("[fd00:244::9]:1000", "[fd00:96::10]:81"), Verdict::RejectedNoPort);
    // Another proxy of the node may have it: it is dropped where it leaves.
    assert_eq!(syn("10.244.0.9:1001", "10.96.0.11:80"), Verdict::NotService);
    assert_eq!(syn("[fd00:244::9]:1001", "[fd00:96::11]:80"), Verdict::NotService);
    // The node's and the load balancer's own other ports are nobody's business.
    assert_eq!(syn("10.244.0.9:1002", "192.0.2.1:22"), Verdict::NotService);
    assert_eq!(syn("10.244.0.9:1003", "203.0.113.10:22"), Verdict::NotService);
}

#[test]
fn c34_whatever_goes_to_an_unheld_address_does_not_leave_the_node() {
    let (mut datapath, _reconciler) = served(FEW);
    let [pods, unheld, held, others] = [
        ["10.244.0.9:61001", "[fd00:244::9]:61001"],
        ["10.96.0.11:80", "[fd00:96::11]:80"],
        ["10.96.0.10:81", "[fd00:96::10]:81"],
        ["10.112.0.11:80", "[fd00:97::11]:80"],
    ]
    .map(|both| both.map(at));
    for (index, from) in pods.into_iter().enumerate() {
        let mut all = |to: SocketAddr, expected: Verdict| {
            let syn = Frame::tcp(from, to, "S").build();
            let segment = Frame::tcp(from, to, "A").payload(b"stray").build();
            let datagram = Frame::udp(from, to).payload(&[7; 64]);
            let [_, later] = datagram.build_fragments(32);
            // Of no protocol that Services have.
            let mut echo = datagram.build();
            let (protocol, icmp) = if from.is_ipv4() { (14 + 9, [1, 8]) } else { (14 + 6, [58, 128]) };
            let l4 = 14 + if from.is_ipv4() { 20 } else { 40 };
            (echo[protocol], echo[l4], echo[l4 + 1]) = (icmp[0], icmp[1], 0);
            let mut tunnelled = datagram.build();
            tunnelled[protocol] = 47;
            let frames = [
                ("a SYN", syn.clone()),
                ("a stray segment", segment),
                ("a datagram", datagram.build()),
                ("a tagged one", datagram.build_tagged()),
                ("a later fragment", later),
                ("an echo request", echo),
                ("GRE", tunnelled),
            ];
            for (what, frame) in frames {
                let left = match what {
                    "a later fragment" => Verdict::PassedFragment,
                    "GRE" => Verdict::NotTransport,
                    _ => Verdict::NotTranslated,
                };
                let expected = if expected == Verdict::NotTranslated { left } else { expected };
                assert_eq!(datapath.to_net(&frame).verdict, expected, "{what} to {to}");
                assert_eq!(datapath.to_pod(&frame).verdict, left, "{what} to {to} at a pod");
            }
        };
        all(unheld[index], Verdict::DroppedNoService);
        all(others[index], Verdict::NotTranslated);
        all(held[index], Verdict::NotTranslated);
    }
}

#[test]
fn c29_two_nodes_with_other_histories_give_a_flow_the_same_backend() {
    let (mut one, _kept) = served(FEW);
    let mut two = Datapath::load().unwrap();
    let mut other = reconciler(&mut two);
    // The last endpoint came first, so that ids are others.
    let full = planned(FEW);
    let mut one_by_one = full.clone();
    let backends = &mut one_by_one[0].1[0].backends;
    backends.retain(|backend| backend.addr == at("10.244.0.3:8080"));
    let last = backends[0].addr;
    for frontend in &mut one_by_one[0].1[0].frontends {
        frontend.inside = BackendSet::Backends(vec![last]);
        frontend.outside = BackendSet::Backends(vec![last]);
    }
    other.sync_all(one_by_one, seconds(1));
    other.sync(full, seconds(2));
    let mut seen = BTreeSet::new();
    for port in 1..=200 {
        let client = SocketAddr::new([198, 18, 0, 1].into(), 2_000 + port);
        let syn = Frame::tcp(client, at("192.0.2.1:30080"), "S").build();
        let (here, there) = (one.from_net(&syn), two.from_net(&syn));
        assert_eq!((here.verdict, there.verdict), (Verdict::ForwardedNew, Verdict::ForwardedNew));
        assert_eq!(sockets_of(&here.frame).1, sockets_of(&there.frame).1, "port {port}");
        seen.insert(sockets_of(&here.frame).1);
    }
    assert_eq!(seen.len(), 3, "and all backends have their share");
}

#[test]
fn c14_c30_affinity_and_a_local_policy_go_together() {
    let text = |slices: &str| {
        let local = "internalTrafficPolicy: Local\n  sessionAffinity: ClientIP\n  ports:";
        SERVICE.replace("RANGES", "").replace("ports:", local) + slices
    };
    // Two here, two elsewhere.
    let slices = SLICES
        .replace("nodeName: here}, {addresses: [10.244.0.2]", "nodeName: there}, {addresses: [10.244.0.2]");
    let slices = slices.replace(
        "[{addresses: [10.244.0.1]",
        "[{addresses: [10.244.0.4], nodeName: there}, {addresses: [10.244.0.1]",
    );
    let mut datapath = Datapath::load().unwrap();
    let mut reconciler = reconciler(&mut datapath);
    reconciler.sync_all(planned_of(&text(&slices)), seconds(1));
    let mut port = 1_000;
    let mut backend = |frontend: &str| {
        port += 1;
        let client = SocketAddr::new([10, 244, 0, 9].into(), port);
        let ran = datapath.from_pod(&Frame::tcp(client, at(frontend), "S").build());
        assert_eq!(ran.verdict, Verdict::ForwardedNew, "{frontend}");
        sockets_of(&ran.frame).1
    };
    let here = ["10.244.0.2:8080", "10.244.0.3:8080"].map(at);
    let first = backend("10.96.0.10:80");
    assert!(here.contains(&first), "{first}");
    for _ in 0..20 {
        assert_eq!(backend("10.96.0.10:80"), first);
        assert_eq!(backend("198.51.100.7:80"), first, "all frontends share it (C30)");
    }
    // It is ready no longer: the other one here, not one elsewhere; and that is kept then.
    let endpoint = format!("{{addresses: [{}]", first.ip());
    let unready = slices.replace(
        &endpoint,
        &format!("{{conditions: {{ready: false, serving: false}}, addresses: [{}]", first.ip()),
    );
    reconciler.sync(planned_of(&text(&unready)), seconds(2));
    let second = backend("10.96.0.10:80");
    assert!(here.contains(&second) && second != first, "{second}");
    assert_eq!(backend("198.51.100.7:80"), second);
    // A client whose backend is elsewhere, by a frontend without that policy, gets one here by the other.
    reconciler.sync(planned_of(&text(&slices)), seconds(3));
    for last in 10..40 {
        let mut chosen = |port, frontend: &str| {
            let client = SocketAddr::new([10, 244, 0, last].into(), port);
            sockets_of(&datapath.from_pod(&Frame::tcp(client, at(frontend), "S").build()).frame).1
        };
        let anywhere = chosen(1, "198.51.100.7:80");
        let local = chosen(2, "10.96.0.10:80");
        assert!(here.contains(&local), "{local}");
        assert_eq!(local == anywhere, here.contains(&anywhere), "what is here may be kept");
        assert_eq!(chosen(3, "198.51.100.7:80"), local);
    }
}
