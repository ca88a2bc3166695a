//! What a process of the node gets from a Service's frontends, and what it is told of its peer.
//!
//! Decides nothing. Invariant: each frontend is asked for by an IPv4 socket, an IPv6 one, and IPv4 from an IPv6 one.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use lb_tests::lab::Layout;
use lb_tests::manifests::{Endpoint, Family, Protocol as Port};
use lb_tests::poll;
use lb_tests::scene::{LIMIT, POD_PORT, SOON, Scene, TCP_PORT, UDP_PORT};
use lb_tests::traffic::{FailureKind, Reply, tcp_once, udp_once};
use serde_json::json;

use super::{count, heard, mapped, names, service, udp};

#[test]
fn c24_c26_c28_the_node_reaches_every_backend_with_its_own_address() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let scene = Scene::start(layout, &[]).unwrap();
        let node = scene.node();
        let dials: [(_, fn(_, _, _) -> _); 2] = [(TCP_PORT, tcp_once), (UDP_PORT, udp_once)];
        for (port, once) in dials {
            for vip in names(port) {
                let mut seen = BTreeSet::new();
                for _ in 0..60 {
                    let reply: Reply = once(&node.netns, vip, LIMIT).unwrap();
                    let source = reply.seen_source.ip().to_canonical();
                    assert!(node.has(source) || layout == Layout::Bridged, "{vip}: {source}");
                    seen.insert(reply.backend);
                }
                // Missing one of three in 60 tries: once in 10^10 runs.
                assert_eq!(seen.len(), 3, "{vip} {layout:?}: {seen:?}");
            }
        }
    }
}

#[test]
fn a_connected_socket_is_told_that_its_peer_is_the_frontend() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    let node = scene.node();
    for vip in names(TCP_PORT) {
        let mut stream = node.netns.run(|| TcpStream::connect_timeout(&vip, LIMIT)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), vip);
        stream.write_all(b"x").unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        assert_ne!(stream.read(&mut [0; 100]).unwrap(), 0);
    }
    for vip in names(UDP_PORT) {
        let socket = udp(node, vip);
        socket.connect(vip).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), vip);
        let mut backends = BTreeSet::new();
        for _ in 0..10 {
            socket.send(b"x").unwrap();
            let (backend, from) = heard(&socket);
            assert_eq!(from, vip, "a datagram comes from the frontend");
            backends.insert(backend);
        }
        assert_eq!(backends.len(), 1, "{vip}: it stays with its backend");
    }
}

#[test]
fn an_unconnected_socket_stays_with_its_backend_and_hears_from_the_frontend() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    for vip in names(UDP_PORT) {
        let socket = udp(scene.node(), vip);
        let mut backends = BTreeSet::new();
        for _ in 0..20 {
            socket.send_to(b"x", vip).unwrap();
            let (backend, from) = heard(&socket);
            assert_eq!(from, vip);
            backends.insert(backend);
        }
        assert_eq!(backends.len(), 1, "{vip}: {backends:?}");
    }
    // One socket, both families' frontends and a backend without any: each answer is told apart.
    let socket = udp(scene.node(), names(UDP_PORT)[1]);
    let direct = mapped(scene.lab.pod("a").v4_at(POD_PORT));
    for peer in [names(UDP_PORT)[1], names(UDP_PORT)[2], direct, names(UDP_PORT)[2], direct] {
        socket.send_to(b"x", peer).unwrap();
        assert_eq!(heard(&socket).1, peer);
    }
}

#[test]
fn c32_c34_where_nobody_serves_the_call_is_refused() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let refused = |scene: &Scene, tcp_port: u16, udp_port: u16| {
        let node = scene.node();
        for vip in names(tcp_port) {
            let failure = tcp_once(&node.netns, vip, LIMIT).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Refused, "{vip} {failure:?}");
        }
        for vip in names(udp_port) {
            let socket = udp(node, vip);
            assert_eq!(socket.send_to(b"x", vip).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{vip}");
            assert_eq!(socket.connect(vip).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{vip}");
        }
    };
    refused(&scene, 4_711, 4_711);
    scene.set_backends(&[]).unwrap();
    refused(&scene, TCP_PORT, UDP_PORT);
    assert_eq!((count(&scene, "rejected_no_endpoint"), count(&scene, "rejected_no_port")), (9, 9));
    scene.set_backends(&["c"]).unwrap();
    for vip in names(UDP_PORT) {
        assert_eq!(udp_once(&scene.node().netns, vip, LIMIT).unwrap().backend, "c");
    }
}

#[test]
fn c33_where_the_policy_says_local_and_none_is_local_nothing_answers() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.manifests.service("far", |service| {
        service.cluster_ips(&["10.96.0.33"]).port("http", 80, Port::Tcp);
        service.set("/spec/internalTrafficPolicy", json!("Local"));
    });
    let elsewhere = [Endpoint::at("10.244.9.2").on("node9")];
    scene.manifests.endpoints("far", Family::V4, &elsewhere, &[("http", 8080, Port::Tcp)]);
    scene.manifests.write().unwrap();
    scene.agent.wait_for(SOON, |report| report.rows_written > 0).unwrap();
    let vip = "10.96.0.33:80".parse().unwrap();
    let failure = tcp_once(&scene.node().netns, vip, Duration::from_millis(300)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout, "{failure:?}");
    assert_eq!(count(&scene, "socket_left"), 1);
    assert!(count(&scene, "dropped_refused_socket") > 0, "its SYN went no further than the uplink");
}

#[test]
fn c17_loopback_reaches_node_ports_and_what_listens_on_it() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    service(&mut scene, "np", |service| {
        service.cluster_ips(&["10.96.0.17", "fd00:10:96::17"]);
        service.port("http", 80, Port::Tcp).port("dns", 53, Port::Udp);
        service.set("/spec/type", json!("NodePort"));
        service.set("/spec/ports/0/nodePort", json!(30_080)).set("/spec/ports/1/nodePort", json!(30_053));
    });
    let node = scene.node();
    for ip in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.9.9.9"] {
        let ip: IpAddr = ip.parse().unwrap();
        let (tcp, dns) = (SocketAddr::new(ip, 30_080), SocketAddr::new(ip, 30_053));
        let reply = tcp_once(&node.netns, tcp, LIMIT).unwrap();
        assert!(node.has(reply.seen_source.ip().to_canonical()), "{tcp}: {reply:?}");
        let stream = node.netns.run(|| TcpStream::connect_timeout(&tcp, LIMIT)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), tcp);
        let socket = udp(node, dns);
        socket.send_to(b"x", dns).unwrap();
        assert_eq!(heard(&socket).1, dns);
    }
    for address in node.both_at(30_080) {
        tcp_once(&node.netns, address, LIMIT).unwrap();
    }
    let listener = node.netns.run(|| TcpListener::bind("127.0.0.1:8081")).unwrap();
    let local = listener.local_addr().unwrap();
    let stream = node.netns.run(|| TcpStream::connect_timeout(&local, LIMIT)).unwrap();
    assert_eq!(stream.peer_addr().unwrap(), local);
}

#[test]
fn c17_loopback_reaches_node_ports_wherever_on_the_node_they_are_served() {
    let mut scene =
        Scene::start(Layout::Routed, &["--nodeport-addresses", "192.0.2.0/24,2001:db8::/32"]).unwrap();
    let second = ["192.0.2.77", "2001:db8::77"];
    let add = |ip: &&str| format!("addr add {ip} dev lo{}", if ip.contains(':') { " nodad" } else { "" });
    scene.node().netns.ip(&second.iter().map(add).collect::<Vec<_>>()).unwrap();
    service(&mut scene, "np", |service| {
        service.cluster_ips(&["10.96.0.17", "fd00:10:96::17"]).port("http", 80, Port::Tcp);
        service.set("/spec/type", json!("NodePort")).set("/spec/ports/0/nodePort", json!(30_080));
    });
    for name in ["192.0.2.77:30080", "127.0.0.1:30080", "[2001:db8::77]:30080", "[::1]:30080"] {
        poll::until(name, SOON, || {
            tcp_once(&scene.node().netns, name.parse().unwrap(), LIMIT)
                .map_err(|failure| format!("{failure:?}"))
        })
        .unwrap();
    }
}

#[test]
fn c30_the_node_keeps_its_backend_over_protocols_frontends_and_sockets() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    service(&mut scene, "sticky", |service| {
        service.cluster_ips(&["10.96.0.30", "fd00:10:96::30"]).port("http", 80, Port::Tcp);
        service.set("/spec/type", json!("NodePort")).set("/spec/ports/0/nodePort", json!(30_030));
        service.set("/spec/sessionAffinity", json!("ClientIP"));
    });
    let node = scene.node();
    for names in [["10.96.0.30:80", "127.0.0.1:30030"], ["[fd00:10:96::30]:80", "[::1]:30030"]] {
        let all: BTreeSet<String> = names
            .iter()
            .cycle()
            .take(30)
            .map(|name| tcp_once(&node.netns, name.parse().unwrap(), LIMIT).unwrap().backend)
            .collect();
        assert_eq!(all.len(), 1, "{names:?}: {all:?}");
    }
}

#[test]
fn c35_source_ranges_count_for_the_node_too() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let own = format!("{}/32", scene.node().v4);
    for (name, vip, lb, range) in [
        ("open", "10.96.0.35", "192.0.2.35", own.as_str()),
        ("shut", "10.96.0.36", "192.0.2.36", "192.0.2.0/24"),
    ] {
        service(&mut scene, name, |service| {
            service.cluster_ips(&[vip]).port("http", 80, Port::Tcp);
            service.set("/spec/type", json!("LoadBalancer"));
            service.set("/spec/loadBalancerSourceRanges", json!([range]));
            service.set("/status/loadBalancer/ingress", json!([{ "ip": lb }]));
        });
    }
    let netns = &scene.node().netns;
    tcp_once(netns, "192.0.2.35:80".parse().unwrap(), LIMIT).unwrap();
    let shut = tcp_once(netns, "192.0.2.36:80".parse().unwrap(), Duration::from_millis(300)).unwrap_err();
    assert_eq!(shut.kind, FailureKind::Timeout, "{shut:?}");
    tcp_once(netns, "10.96.0.36:80".parse().unwrap(), LIMIT).unwrap();
}

#[test]
fn what_is_no_services_is_as_it_was_asked_for() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    let node = scene.node();
    for address in scene.lab.pod("a").both_at(POD_PORT) {
        let stream = node.netns.run(|| TcpStream::connect_timeout(&address, LIMIT)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        let socket = udp(node, address);
        socket.send_to(b"x", address).unwrap();
        assert_eq!(heard(&socket).1, address);
    }
}
