//! What a prototype was seen to break without, rule by rule, where the matrix's clusters show it.
//!
//! Decides one sight of a packet for each rule; must not know what else a row of the matrix is about. Invariant: each
//! test fails without its rule.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{Icmpv4Type, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice};
use lb_tests::agent::LogLine;
use lb_tests::capture::Capture;
use lb_tests::lab::CniMasquerade;
use lb_tests::poll;
use lb_tests::scene::POD_PORT;
use lb_tests::traffic::{Dial, Reply};
use serde_json::Value;

use super::cluster::{BRIDGED, Cluster, OVERLAY, ROUTED, Shape, number_of};
use super::contract::{Client, Front, Place, Policy};

const LIMIT: Duration = Duration::from_secs(10);
/// Frames that a capture keeps.
const FRAMES: usize = 1_000;

/// A connection that stays open, and how its server saw it.
fn open(cluster: &Cluster, client: Client, to: SocketAddr) -> (std::net::TcpStream, Reply) {
    let mut dial = Dial::to(to).within(LIMIT);
    if let Some(source) = cluster.source(client, 0, to.is_ipv6()) {
        dial = dial.from_address(source);
    }
    let (stream, reply) =
        dial.tcp_stream(cluster.client(client).1).unwrap_or_else(|why| panic!("{to}: {why}"));
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    (stream, reply)
}

/// Says something and hears it back.
fn goes_on(mut stream: &std::net::TcpStream) {
    stream.write_all(b"and on").unwrap();
    let mut back = [0; 6];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"and on");
}

/// Source and destination address.
fn ends(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        NetSlice::Ipv6(ip) => Some((ip.header().source_addr().into(), ip.header().destination_addr().into())),
        _ => None,
    }
}

#[test]
fn rule_2_the_nodes_own_connection_gives_way_to_a_masqueraded_flow_of_its_port() {
    let cluster = Cluster::start(ROUTED, &[]).unwrap();
    let node = cluster.node(Place::Here);
    for v6 in [false, true] {
        let to = cluster.address(number_of("there-only", Policy::Cluster), Front::NodePort, true, v6);
        let (held, flow) = open(&cluster, Client::Outside, to);
        let (address, port) = (flow.seen_source.ip(), flow.seen_source.port());
        assert!(node.has(address) && port >= 61_000, "{flow:?}");
        // Of all ports the node's own process takes the one that the flow goes out by, to the same server.
        let server = cluster.lab.pod("b").both_at(POD_PORT)[usize::from(v6)];
        let (own, seen) = Dial::to(server).from_port(port).within(LIMIT).tcp_stream(&node.netns).unwrap();
        own.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!((seen.source.port(), seen.seen_source.ip()), (port, address));
        assert_ne!(seen.seen_source.port(), port, "the server tells the two apart");
        for _ in 0..3 {
            goes_on(&held);
            goes_on(&own);
        }
        // One whose tuple nobody has is held as it is.
        let free = Dial::to(server).from_port(if port == 65_000 { 65_001 } else { 65_000 }).within(LIMIT);
        let seen = free.tcp(&node.netns).unwrap();
        assert_eq!(seen.seen_source.port(), seen.source.port());
    }
    assert!(cluster.count(Place::Here, "port_held") >= 4);
}

#[test]
fn rule_3_a_redirect_about_a_translated_flow_never_reaches_the_pod() {
    // Where netfilter translates too, it drops redirects itself.
    let shape = Shape { cni_masquerade: CniMasquerade::Off, ..BRIDGED };
    let cluster = Cluster::start(shape, &[]).unwrap();
    // Client and backend are ports of one bridge: a router's first thought is to tell the one of the other.
    let is_redirect = |packet: &SlicedPacket<'_>| match &packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => matches!(icmp.icmp_type(), Icmpv4Type::Redirect(_)),
        Some(TransportSlice::Icmpv6(icmp)) => {
            matches!(icmp.icmp_type(), Icmpv6Type::Redirect) || icmp.type_u8() == 137
        }
        _ => false,
    };
    let pod = cluster.client(Client::PodHere).1;
    let capture = Capture::start(pod, "eth0", FRAMES, is_redirect).unwrap();
    for v6 in [false, true] {
        let to = cluster.address(number_of("here-only", Policy::Cluster), Front::ClusterIp, true, v6);
        poll::until("a redirect to be dropped", LIMIT, || {
            let before = cluster.count(Place::Here, "dropped_redirect");
            Dial::to(to).within(LIMIT).tcp(pod).map_err(|why| why.to_string())?;
            let now = cluster.count(Place::Here, "dropped_redirect");
            if now > before { Ok(()) } else { Err(format!("none about {to}")) }
        })
        .unwrap();
    }
    let told: Vec<String> = capture.stop().iter().map(|frame| format!("{frame:02x?}")).collect();
    assert!(told.is_empty(), "{told:#?}");
}

#[test]
fn rule_7_the_source_is_the_address_of_the_device_or_the_nodes_where_that_has_none() {
    let cluster = Cluster::start(OVERLAY, &[]).unwrap();
    let (here, there) = (cluster.node(Place::Here), cluster.node(Place::There));
    let tunnel = here.towards_pods_of(there);
    let seen = |cluster: &Cluster, client, service: &str, front, v6| {
        let to = cluster.address(number_of(service, Policy::Cluster), front, true, v6);
        open(cluster, client, to).1.seen_source.ip()
    };
    for v6 in [false, true] {
        let through = seen(&cluster, Client::Outside, "there-only", Front::NodePort, v6);
        assert!(through == IpAddr::V4(tunnel.0) || through == IpAddr::V6(tunnel.1), "{through}");
        // A client of the other node's pod is as good as outside.
        let to_pod = seen(&cluster, Client::PodThere, "there-only", Front::NodePort, v6);
        assert!(to_pod == IpAddr::V4(tunnel.0) || to_pod == IpAddr::V6(tunnel.1), "{to_pod}");
    }
    drop(cluster);
    let cluster = Cluster::start(ROUTED, &[]).unwrap();
    for v6 in [false, true] {
        // A routed pod's link has no address of its own.
        let to = cluster.address(number_of("clients", Policy::Local), Front::ClusterIp, true, v6);
        let (_, reply) = open(&cluster, Client::PodHere, to);
        assert_eq!(reply.backend, "here");
        assert!(cluster.node(Place::Here).has(reply.seen_source.ip()), "{reply:?}");
    }
}

#[test]
fn rule_8_a_reply_that_leaves_by_a_second_uplink_is_translated_too() {
    let mut cluster = Cluster::start(ROUTED, &[]).unwrap();
    let netns = &cluster.node(Place::Here).netns.clone();
    cluster
        .lab
        .fabric()
        .ip(&[
            format!("link add up-second type veth peer name eth1 netns {}", netns.name()),
            "link set up-second master br0".to_owned(),
            "link set up-second up".to_owned(),
        ])
        .unwrap();
    let (v4, v6) = lb_tests::lab::address::EDGE;
    let [far_v4, far_v6] = lb_tests::lab::address::FAR_RANGES;
    netns.set_sysctls(&[("ipv4/conf/all/rp_filter", "2"), ("ipv4/conf/eth1/rp_filter", "2")]).unwrap();
    netns
        .ip(&[
            "addr add 10.199.0.201/24 dev eth1 noprefixroute".to_owned(),
            "addr add fd00:199::c9/64 dev eth1 nodad noprefixroute".to_owned(),
            "link set eth1 up".to_owned(),
            // No default route, and no address of the Node's: only what goes far leaves here.
            format!("route replace {far_v4} via {v4} dev eth1 onlink"),
            // An address of a network that two devices are on is found by a route of its own.
            format!("route add {v6}/128 dev eth1"),
            format!("route replace {far_v6} via {v6} dev eth1"),
        ])
        .unwrap();
    let says = |line: &LogLine, field, text| line.field(field).and_then(Value::as_str) == Some(text);
    // Before its routes are there, it looks like a pod's.
    let attached = |line: &LogLine| says(line, "interface", "eth1") && says(line, "leads", "off the node");
    cluster.agents[0].wait_for_line("the second uplink to be attached to", LIMIT, attached).unwrap();
    let outward = |packet: &SlicedPacket<'_>| matches!(packet.transport, Some(TransportSlice::Tcp(_)));
    for v6 in [false, true] {
        let capture = Capture::start(netns, "eth1", FRAMES, outward).unwrap();
        let to = cluster.address(number_of("here-only", Policy::Cluster), Front::NodePort, true, v6);
        goes_on(&open(&cluster, Client::Outside, to).0);
        let frames = capture.stop();
        let seen = frames.iter().filter_map(|frame| ends(&SlicedPacket::from_ethernet(frame).ok()?));
        // The router may find the node's address behind either link.
        let out = seen.filter(|(_, to)| cluster.lab.client("outside").addresses().contains(to));
        let sources: Vec<IpAddr> = out.map(|(from, _)| from).collect();
        assert!(!sources.is_empty(), "the reply went by the second uplink");
        assert!(sources.iter().all(|source| *source == to.ip()), "{sources:?}");
    }
}

#[test]
fn rule_12_a_reply_is_translated_where_it_leaves_and_not_where_it_comes_in() {
    let cluster = Cluster::start(ROUTED, &[]).unwrap();
    let (client, server) = (cluster.lab.pod("here"), cluster.lab.pod("a"));
    let tcp = |packet: &SlicedPacket<'_>| matches!(packet.transport, Some(TransportSlice::Tcp(_)));
    for v6 in [false, true] {
        let to = cluster.address(number_of("here-only", Policy::Cluster), Front::ClusterIp, true, v6);
        let [own, backend] = [client, server].map(|pod| pod.both_at(0)[usize::from(v6)].ip());
        let node = &cluster.node(Place::Here).netns;
        let near_client = Capture::start(node, &client.host_interface, FRAMES, tcp).unwrap();
        let near_server = Capture::start(node, &server.host_interface, FRAMES, tcp).unwrap();
        goes_on(&open(&cluster, Client::PodHere, to).0);
        // A reply is the same packet at the server's interface, where it comes in, and at the client's, where it
        // leaves; what is kept of its flow must not be.
        for (capture, frontend) in [(near_client, to.ip()), (near_server, backend)] {
            let frames = capture.stop();
            assert!(frames.len() >= 6, "{} frames", frames.len());
            for frame in frames {
                let seen = SlicedPacket::from_ethernet(&frame).ok().and_then(|packet| ends(&packet)).unwrap();
                assert!(seen == (own, frontend) || seen == (frontend, own), "{seen:?}, not {frontend}");
            }
        }
    }
    cluster.assert_true_addresses();
}
