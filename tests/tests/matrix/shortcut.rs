//! Masqueraded connections from outside, by way of XDP on the node's uplink, with real traffic.
//!
//! Decides what a client and a backend must see of it; must not know how packets are rewritten. Invariant: each test
//! shows by the counter that packets did pass by the stack.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use etherparse::{SlicedPacket, TransportSlice};
use lb_tests::capture::Capture;
use lb_tests::packets::Datapath;
use lb_tests::poll;
use lb_tests::traffic::Dial;

use super::cluster::{Cluster, ROUTED, Shape, number_of};
use super::contract::{Client, Front, Place, Policy};

const XDP: Shape = Shape { xdp: Some("require"), ..ROUTED };
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes there and back.
const STREAM: usize = 2_000_000;
/// Five standard deviations of half of them: 50.
const CONNECTIONS: usize = 400;
const SPREAD: usize = 50;

fn taken(cluster: &Cluster) -> u64 {
    cluster.count(Place::Here, "shortcut_taken")
}

fn node_port(cluster: &Cluster, placement: &str, tcp: bool, v6: bool) -> SocketAddr {
    cluster.address(number_of(placement, Policy::Cluster), Front::NodePort, tcp, v6)
}

fn dial(cluster: &Cluster, number: usize, to: SocketAddr) -> Dial {
    let source = cluster.source(Client::Outside, number, to.is_ipv6()).unwrap();
    Dial::to(to).from_address(source).within(LIMIT)
}

/// A connection to the backend on the other node.
fn open(cluster: &Cluster, v6: bool) -> TcpStream {
    let to = node_port(cluster, "there-only", true, v6);
    let (stream, reply) = dial(cluster, 0, to)
        .tcp_stream(cluster.client(Client::Outside).1)
        .unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(reply.backend, "b");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Something is said and heard back.
fn exchange(mut stream: &TcpStream) {
    stream.write_all(b"once more").unwrap();
    let mut back = [0; 9];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"once more");
}

/// Exchanges until `seen` says that what is waited for has happened.
fn talk_until(stream: &TcpStream, what: &str, seen: impl Fn() -> bool) {
    poll::until(what, LIMIT, || {
        exchange(stream);
        if seen() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .unwrap();
}

#[test]
fn c25_c28_connections_pass_by_the_stack_whole_and_are_split_over_a_near_and_a_far_backend() {
    let cluster = Cluster::start(XDP, &[]).unwrap();
    let outside = cluster.client(Client::Outside).1;
    for v6 in [false, true] {
        let before = taken(&cluster);
        let there = node_port(&cluster, "there-only", true, v6);
        for number in 0..2 {
            // What comes back is compared byte by byte.
            let reply = dial(&cluster, number, there).sending(STREAM).tcp(outside).unwrap();
            assert!(cluster.node(Place::Here).has(reply.seen_source.ip()), "{reply:?}");
        }
        let packets = taken(&cluster) - before;
        assert!(packets > 2 * 2 * (STREAM as u64 / 1_500) / 2, "only {packets} packets took the shortcut");

        // Both hooks see each connection; one of them chooses.
        let both = node_port(&cluster, "both", true, v6);
        let mut shares = BTreeMap::new();
        for number in 0..CONNECTIONS {
            let reply = dial(&cluster, number, both).sending(5_000).tcp(outside).unwrap();
            *shares.entry(reply.backend).or_insert(0_usize) += 1;
        }
        println!("of {CONNECTIONS} connections: {shares:?}");
        let even = |share: &usize| share.abs_diff(CONNECTIONS / 2) <= SPREAD;
        assert!(shares.len() == 2 && shares.values().all(even), "{shares:?}");

        let datagrams = node_port(&cluster, "there-only", false, v6);
        for number in 0..20 {
            assert_eq!(dial(&cluster, number, datagrams).udp(outside).unwrap().backend, "b");
        }
    }
    cluster.assert_true_addresses();
}

#[test]
fn c25_a_shortcut_follows_routes_and_neighbours() {
    let cluster = Cluster::start(XDP, &[]).unwrap();
    let (here, there) = (cluster.node(Place::Here), cluster.node(Place::There));
    let edge = lb_tests::lab::Netns::open(&format!("{}-edge", cluster.lab.name())).unwrap();
    let (pods_v4, pods_v6) = lb_tests::lab::address::pod_ranges(there.number);
    edge.ip(&[
        format!("route add {pods_v4} via {}", there.v4),
        format!("route add {pods_v6} via {}", there.v6),
    ])
    .unwrap();
    for v6 in [false, true] {
        let stream = open(&cluster, v6);
        let so_far = taken(&cluster);
        talk_until(&stream, "the shortcut", || taken(&cluster) > so_far + 10);

        // By way of another router, which the frames name from then on.
        let to_b = move |packet: &SlicedPacket<'_>| {
            matches!(&packet.transport, Some(TransportSlice::Tcp(tcp)) if tcp.destination_port() == 8080)
                && matches!(packet.net, Some(etherparse::NetSlice::Ipv6(_))) == v6
        };
        let by_edge = Capture::start(&edge, "eth0", 1_000, to_b).unwrap();
        let (router_v4, router_v6) = lb_tests::lab::address::EDGE;
        here.netns
            .ip(&[
                format!("route replace {pods_v4} via {router_v4}"),
                format!("route replace {pods_v6} via {router_v6}"),
            ])
            .unwrap();
        let so_far = taken(&cluster);
        talk_until(&stream, "frames by the other router", || by_edge.frames().len() > 10);
        talk_until(&stream, "the shortcut by that router", || taken(&cluster) > so_far + 10);
        drop(by_edge);
        here.netns
            .ip(&[
                format!("route replace {pods_v4} via {}", there.v4),
                format!("route replace {pods_v6} via {}", there.v6),
            ])
            .unwrap();

        // The next hop gets another link-layer address, and says so.
        there
            .netns
            .set_sysctls(&[("ipv4/conf/eth0/arp_notify", "1"), ("ipv6/conf/eth0/ndisc_notify", "1")])
            .unwrap();
        let new = if v6 { "0e:00:00:00:66:66" } else { "0e:00:00:00:44:44" };
        there.netns.ip(&[format!("link set eth0 address {new}")]).unwrap();
        let so_far = taken(&cluster);
        talk_until(&stream, "the shortcut to the neighbour's new address", || taken(&cluster) > so_far + 10);
    }
    cluster.assert_true_addresses();
}

#[test]
fn c39_what_is_too_long_for_the_way_is_left_to_the_stack_which_answers() {
    let cluster = Cluster::start(XDP, &[]).unwrap();
    let (here, there) = (cluster.node(Place::Here), cluster.node(Place::There));
    let (pods_v4, pods_v6) = lb_tests::lab::address::pod_ranges(there.number);
    // A width that is not locked, the kernel's answers to XDP programs leave out (ip_mtu_from_fib_result).
    here.netns
        .ip(&[
            format!("route replace {pods_v4} via {} mtu lock 1400", there.v4),
            format!("route replace {pods_v6} via {} mtu lock 1400", there.v6),
        ])
        .unwrap();
    let outside = cluster.client(Client::Outside).1;
    for v6 in [false, true] {
        let to = node_port(&cluster, "there-only", true, v6);
        let before = taken(&cluster);
        dial(&cluster, 0, to).sending(STREAM).tcp(outside).unwrap_or_else(|why| panic!("{why}"));
        assert!(taken(&cluster) > before + 500, "what fits takes the shortcut");
        let shown = outside.command("ip").args(["route", "get", &to.ip().to_string()]).output().unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(" 1400"), "nobody told the client: {shown}");
    }
}

fn icmp_source(frame: &[u8], v6: bool) -> IpAddr {
    if v6 {
        <[u8; 16]>::try_from(&frame[22..38]).unwrap().into()
    } else {
        <[u8; 4]>::try_from(&frame[26..30]).unwrap().into()
    }
}

/// Where a packet was going that an ICMP error about it quotes, without options.
fn quoted_destination(frame: &[u8], v6: bool) -> SocketAddr {
    let quote = &frame[14 + if v6 { 48 } else { 28 }..];
    let (address, ports): (IpAddr, _) = if v6 {
        (<[u8; 16]>::try_from(&quote[24..40]).unwrap().into(), &quote[40..44])
    } else {
        (<[u8; 4]>::try_from(&quote[16..20]).unwrap().into(), &quote[20..24])
    };
    SocketAddr::new(address, u16::from_be_bytes([ports[2], ports[3]]))
}

#[test]
fn c39_c43_what_has_one_hop_left_is_left_to_the_stack_which_answers() {
    let cluster = Cluster::start(XDP, &[]).unwrap();
    let outside = cluster.client(Client::Outside).1;
    for v6 in [false, true] {
        let stream = open(&cluster, v6);
        let so_far = taken(&cluster);
        talk_until(&stream, "the shortcut", || taken(&cluster) > so_far + 10);
        let exceeded = move |packet: &SlicedPacket<'_>| match &packet.transport {
            Some(TransportSlice::Icmpv4(icmp)) => !v6 && icmp.type_u8() == 11,
            Some(TransportSlice::Icmpv6(icmp)) => v6 && icmp.type_u8() == 3,
            _ => false,
        };
        let told = Capture::start(outside, "eth0", 100, exceeded).unwrap();
        // The two routers on the way take one each, which leaves the node with the last.
        let hops = |hops| {
            let socket = socket2::SockRef::from(&stream);
            if v6 { socket.set_unicast_hops_v6(hops) } else { socket.set_ttl_v4(hops) }.unwrap();
        };
        hops(3);
        let (left, before) = (cluster.count(Place::Here, "shortcut_left"), taken(&cluster));
        (&stream).write_all(b"once more").unwrap();
        poll::until("word of it", LIMIT, || {
            if told.frames().is_empty() { Err("nothing was heard".to_owned()) } else { Ok(()) }
        })
        .unwrap();
        assert!(cluster.count(Place::Here, "shortcut_left") > left);
        assert_eq!(taken(&cluster), before, "nothing of it went on by the shortcut");
        let answer = told.frames().remove(0);
        let (by, about) = (icmp_source(&answer, v6), quoted_destination(&answer, v6));
        assert!(cluster.node(Place::Here).has(by), "{by} answered");
        assert_eq!(about, stream.peer_addr().unwrap(), "as the client dialled it");
        hops(64);
        let mut back = [0; 9];
        (&stream).read_exact(&mut back).unwrap();
        talk_until(&stream, "the shortcut again", || taken(&cluster) > before + 10);
    }
}

#[test]
fn a_foreign_xdp_program_stays_and_is_told_and_services_are_served_behind_it() {
    let mut cluster = Cluster::start(Shape { xdp: Some("off"), ..ROUTED }, &[]).unwrap();
    let node = cluster.node(Place::Here).clone();
    let mut others = Datapath::load().unwrap();
    let link = node.netns.run(|| others.attach_to_device("eth0")).unwrap();
    let outside = cluster.client(Client::Outside).1.clone();
    let serves = |cluster: &Cluster| {
        for v6 in [false, true] {
            let to = node_port(cluster, "there-only", true, v6);
            assert_eq!(dial(cluster, 0, to).tcp(&outside).unwrap().backend, "b");
        }
    };
    serves(&cluster);
    let required = cluster.config.clone().arg("--xdp").arg("require");
    cluster.agents[0].restart_with(required).unwrap();
    let named = |line: &lb_tests::agent::LogLine| line.text.contains("another XDP program hangs on eth0");
    cluster.agents[0].wait_for_line("a word on the other program", LIMIT, named).unwrap();
    serves(&cluster);
    assert_eq!(taken(&cluster), 0);
    // Gone, it makes room.
    drop(link);
    let attached = |line: &lb_tests::agent::LogLine| line.message().contains("pass by the stack (XDP)");
    cluster.agents[0].wait_for_line("that XDP is attached", LIMIT, attached).unwrap();
    serves(&cluster);
}
