//! The lab's larger shapes, tested without any agent: tunnels, far clients, masquerade, policies, narrow links.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{SlicedPacket, TransportSlice};
use lb_tests::capture::Capture;
use lb_tests::lab::{CniMasquerade, Dropped, Lab, Layout, Netns, Node, RpFilter};
use lb_tests::traffic::{Dial, EchoServer, FailureKind, Reply, tcp_once, udp_once};

const SECOND: Duration = Duration::from_secs(1);
/// For what is to be lost.
const MOMENT: Duration = Duration::from_millis(200);
const LAYOUTS: [Layout; 3] = [Layout::Routed, Layout::Bridged, Layout::Overlay];

/// One exchange each by TCP and UDP.
fn both(from: &Netns, to: SocketAddr) -> [Reply; 2] {
    [tcp_once, udp_once].map(|once| once(from, to, 2 * SECOND).unwrap_or_else(|why| panic!("{to}: {why}")))
}

/// Two nodes of two pods each, `a1`, `a2` and `b1`, `b2`, and the far client `outside`.
fn two_nodes(layout: Layout) -> lb_tests::lab::LabBuilder {
    Lab::builder()
        .node("node1", layout, &["a1", "a2"])
        .node("node2", layout, &["b1", "b2"])
        .far_client("outside", "node1", 3)
}

fn of_pods(lab: &Lab, names: &[&str]) -> Vec<EchoServer> {
    names.iter().map(|name| EchoServer::start(&lab.pod(name).netns, name, &[8080]).unwrap()).collect()
}

/// Sends and gets back more than fits into one packet, many times over.
fn transfers_a_lot(from: &Netns, to: SocketAddr) {
    let (mut stream, _) = Dial::to(to).within(5 * SECOND).tcp_stream(from).unwrap();
    stream.set_read_timeout(Some(5 * SECOND)).unwrap();
    let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let (copy, mut back) = (sent.clone(), vec![0; sent.len()]);
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    stream.read_exact(&mut back).unwrap_or_else(|why| panic!("{to}: {why}"));
    writing.join().unwrap().unwrap();
    assert!(back == sent, "{to}: what came back differs");
}

#[test]
fn pods_of_an_overlay_reach_each_other_through_the_tunnel_whatever_the_size() {
    let lab = two_nodes(Layout::Overlay).rp_filter(RpFilter::Strict).build().unwrap();
    let _servers = of_pods(&lab, &["a1", "b1"]);
    let (node1, node2) = (lab.node("node1"), lab.node("node2"));
    let in_tunnel = |packet: &SlicedPacket<'_>| matches!(&packet.transport, Some(TransportSlice::Udp(udp)) if udp.destination_port() == 8472);
    for target in lab.pod("b1").both_at(8080) {
        let capture = Capture::start(&node1.netns, "eth0", 100, in_tunnel).unwrap();
        for reply in both(&lab.pod("a1").netns, target) {
            assert_eq!((reply.backend.as_str(), reply.seen_source), ("b1", reply.source));
        }
        assert!(!capture.stop().is_empty(), "{target} was reached without the tunnel");
        transfers_a_lot(&lab.pod("a1").netns, target);
        for reply in both(&node1.netns, target) {
            let (v4, v6) = node1.towards_pods_of(node2);
            let seen = reply.seen_source.ip();
            assert!(seen == IpAddr::V4(v4) || seen == IpAddr::V6(v6), "{reply:?}");
            assert!(node1.addresses().contains(&seen));
        }
    }
    assert_eq!(node1.tunnel().unwrap().0.to_string(), "10.244.1.254");
    assert_eq!(node1.addresses().len(), 6, "uplink, bridge, tunnel, of both families each");
}

#[test]
fn a_far_client_reaches_nodes_and_pods_with_each_of_its_addresses() {
    for layout in LAYOUTS {
        let lab = two_nodes(layout).rp_filter(RpFilter::Loose).build().unwrap();
        let (node2, outside) = (lab.node("node2"), lab.client("outside"));
        let _host_network = EchoServer::start_at(&node2.netns, "node2", &node2.both_at(9090)).unwrap();
        let _servers = of_pods(&lab, &["b1"]);
        // Pods' addresses have no route outside; a packet to one is brought to its node by hand.
        let ranges = lb_tests::lab::address::pod_ranges(2);
        outside.route(&ranges.0, node2).unwrap();
        outside.route(&ranges.1, node2).unwrap();
        let targets = [("node2", node2.both_at(9090)), ("b1", lab.pod("b1").both_at(8080))];
        assert_eq!(outside.addresses().len(), 6);
        for (name, targets) in targets {
            let pairs = targets.iter().flat_map(|to| outside.addresses().into_iter().map(move |ip| (to, ip)));
            for (target, source) in pairs.filter(|(to, ip)| to.is_ipv4() == ip.is_ipv4()) {
                let dial = Dial::to(*target).from_address(source).within(2 * SECOND);
                for reply in [dial.tcp(&outside.netns), dial.udp(&outside.netns)] {
                    let reply = reply.unwrap_or_else(|why| panic!("{layout:?} {source} -> {target}: {why}"));
                    assert_eq!((reply.backend.as_str(), reply.seen_source.ip()), (name, source));
                }
            }
        }
    }
}

#[test]
fn each_far_client_has_a_way_of_its_own_to_the_service_ranges() {
    let lab = two_nodes(Layout::Routed).far_client("other", "node2", 1).build().unwrap();
    let edge = Netns::open(&format!("{}-edge", lab.name())).unwrap();
    let way = |client: &str, to: &str, from: IpAddr| {
        let output = edge
            .command("ip")
            .args(["route", "get", to, "from", &from.to_string(), "iif", "narrow"])
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{client}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for (client, node) in [("outside", "node1"), ("other", "node2")] {
        let (client, node) = (lab.client(client), lab.node(node));
        let v4 = way(&client.name, "10.96.0.10", client.v4.into());
        assert!(v4.contains(&format!("via {} ", node.v4)), "{v4}");
        let v6 = way(&client.name, "fd00:10:96::10", client.v6.into());
        assert!(v6.contains(&format!("via {} ", node.v6)), "{v6}");
    }
    lab.client("other").route("198.51.100.0/24", lab.node("node1")).unwrap();
    let new = way("other", "198.51.100.7", lab.client("other").v4.into());
    assert!(new.contains(&format!("via {} ", lab.node("node1").v4)), "{new}");
}

#[test]
fn a_narrow_link_on_the_path_is_found_by_both_ends() {
    let builder = two_nodes(Layout::Routed).path_mtu(1300).cni_masquerade(CniMasquerade::Plain);
    let lab = builder.rp_filter(RpFilter::Strict).build().unwrap();
    let (node1, outside) = (lab.node("node1"), lab.client("outside"));
    let _host_network = EchoServer::start_at(&node1.netns, "node1", &node1.both_at(9090)).unwrap();
    let _far_away = EchoServer::start(&outside.netns, "outside", &[8080]).unwrap();
    for target in outside.both_at(8080) {
        transfers_a_lot(&lab.pod("a1").netns, target);
        let route =
            lab.pod("a1").netns.command("ip").args(["route", "get", &target.ip().to_string()]).output();
        let route = String::from_utf8(route.unwrap().stdout).unwrap();
        assert!(route.contains("mtu 1300"), "nothing told the pod: {route}");
    }
    for target in node1.both_at(9090) {
        transfers_a_lot(&outside.netns, target);
    }
}

fn sees(lab: &Lab, pod: &str, to: SocketAddr) -> [IpAddr; 2] {
    both(&lab.pod(pod).netns, to).map(|reply| reply.seen_source.ip())
}

#[test]
fn a_cni_masquerades_what_leaves_the_cluster_and_nothing_else() {
    for (layout, how) in LAYOUTS.into_iter().zip([
        CniMasquerade::Plain,
        CniMasquerade::RandomFully,
        CniMasquerade::RandomFully,
    ]) {
        let lab = two_nodes(layout).cni_masquerade(how).rp_filter(RpFilter::Strict).build().unwrap();
        let (node1, node2, outside) = (lab.node("node1"), lab.node("node2"), lab.client("outside"));
        let _servers = of_pods(&lab, &["a2", "b1"]);
        let _far_away = EchoServer::start(&outside.netns, "outside", &[8080]).unwrap();
        let _host_network = EchoServer::start_at(&node2.netns, "node2", &node2.both_at(9090)).unwrap();
        for target in outside.both_at(8080).into_iter().chain(node2.both_at(9090)) {
            assert!(sees(&lab, "a1", target).iter().all(|ip| node1.has(*ip)), "{layout:?} {target}");
        }
        for target in lab.pod("a2").both_at(8080).into_iter().chain(lab.pod("b1").both_at(8080)) {
            assert!(sees(&lab, "a1", target).iter().all(|ip| lab.pod("a1").has(*ip)), "{layout:?} {target}");
        }
    }
    let lab = two_nodes(Layout::Routed).build().unwrap();
    let outside = lab.client("outside");
    let _far_away = EchoServer::start(&outside.netns, "outside", &[8080]).unwrap();
    // Nobody outside knows the way to a pod, as long as nobody masquerades it.
    let lost = tcp_once(&lab.pod("a1").netns, outside.v4_at(8080), MOMENT).unwrap_err();
    assert_eq!(lost.kind, FailureKind::Timeout);
}

#[test]
fn random_masquerade_gives_ports_that_the_client_did_not_choose() {
    let lab = two_nodes(Layout::Routed).cni_masquerade(CniMasquerade::RandomFully).build().unwrap();
    let outside = lab.client("outside");
    let _far_away = EchoServer::start(&outside.netns, "outside", &[8080]).unwrap();
    let ports = (40_000..40_008_u16).map(|port| {
        let dial = Dial::to(outside.v4_at(8080)).from_port(port).within(2 * SECOND);
        (port, dial.tcp(&lab.pod("a1").netns).unwrap().seen_source.port())
    });
    // All eight kept by chance: once in far more runs than there will be.
    assert!(ports.into_iter().any(|(own, seen)| own != seen));
}

#[test]
fn a_policy_lets_true_addresses_pass_and_counts_what_it_drops() {
    for layout in LAYOUTS {
        let mut lab = two_nodes(layout).true_addresses_only().rp_filter(RpFilter::Strict).build().unwrap();
        let _servers = of_pods(&lab, &["a2", "b1"]);
        for name in ["a2", "b1"] {
            for target in lab.pod(name).both_at(8080) {
                both(&lab.pod("a1").netns, target);
                transfers_a_lot(&lab.pod("a1").netns, target);
            }
        }
        for node in lab.nodes() {
            assert_eq!(node.dropped().unwrap(), Dropped::default(), "{layout:?} {}", node.name);
        }
        let late = lab.add_pod("node1", "late").unwrap();
        both(&late.netns, lab.pod("b1").v4_at(8080));

        let node1 = lab.node("node1").clone();
        let forbidden: fn(&Lab, &Node) -> Vec<(IpAddr, IpAddr)> = |lab, node| {
            let to = lab.pod("b1");
            let pairs = lab.true_pairs(node).into_iter();
            pairs.filter(|(_, server)| !to.has(*server)).collect()
        };
        node1.accept_only(&forbidden(&lab, &node1)).unwrap();
        for (target, expected) in lab.pod("b1").both_at(8080).into_iter().zip([1, 2]) {
            let lost = udp_once(&lab.pod("a1").netns, target, MOMENT).unwrap_err();
            assert_eq!(lost.kind, FailureKind::Timeout, "{layout:?} {lost}");
            assert_eq!(node1.dropped().unwrap(), Dropped { invalid: 0, unstated: expected }, "{layout:?}");
        }
        for target in lab.pod("a2").both_at(8080) {
            both(&lab.pod("a1").netns, target);
        }
    }
}

#[test]
fn a_policy_counts_what_conntrack_takes_for_invalid() {
    let lab = two_nodes(Layout::Routed).true_addresses_only().build().unwrap();
    let _servers = of_pods(&lab, &["b1"]);
    let node1 = lab.node("node1");
    // Without its connection, which conntrack forgets, a packet in the middle of one has to be at
    // ease with "loose" pick-up; that is switched off.
    node1.netns.set_sysctl("netfilter/nf_conntrack_tcp_loose", "0").unwrap();
    let target = lab.pod("b1").v4_at(8080);
    let (mut stream, _) = Dial::to(target).tcp_stream(&lab.pod("a1").netns).unwrap();
    let forgot = node1.netns.command("conntrack").args(["-F"]).output().unwrap();
    assert!(forgot.status.success(), "{forgot:?}");
    stream.write_all(b"still there?").unwrap();
    lb_tests::poll::until("an invalid packet", 5 * SECOND, || match node1.dropped().unwrap() {
        Dropped { invalid: 0, .. } => Err("none".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
}

#[test]
fn a_large_lab_is_removed_entirely() {
    let lab = two_nodes(Layout::Overlay)
        .client("near", "node2")
        .path_mtu(1400)
        .cni_masquerade(CniMasquerade::Plain)
        .true_addresses_only()
        .build()
        .unwrap();
    let prefix = format!("{}-", lab.name());
    let members = || {
        let names = fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with(&prefix)).count()
    };
    assert_eq!(members(), 11, "the fabric, two routers, two nodes, two clients, four pods");
    drop(lab);
    assert_eq!(members(), 0);
    let taken = Lab::builder().node("edge", Layout::Routed, &[]).build().unwrap_err();
    assert!(format!("{taken:#}").contains("used twice"), "{taken:#}");
    let none = Lab::builder().node("node1", Layout::Routed, &[]).far_client("c", "node1", 0).build();
    assert!(format!("{:#}", none.unwrap_err()).contains("1 to 200 addresses"));
}
