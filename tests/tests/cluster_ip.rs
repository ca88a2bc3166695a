//! Tier 2: a ClusterIP, from manifests to packets, with the real agent, in real network namespaces.
//!
//! Each test reads as what a pod sees.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::lab::{Layout, Pod};
use lb_tests::manifests::Protocol as Port;
use lb_tests::scene::{BACKENDS, LIMIT, POD_PORT, SOON, Scene, TCP_PORT, UDP_PORT, vips};
use lb_tests::traffic::{Dial, EchoServer, Failure, FailureKind, Load, Protocol, Reply, tcp_once, udp_once};

const LAYOUTS: [Layout; 2] = [Layout::Routed, Layout::Bridged];

fn ok(vip: SocketAddr, result: Result<Reply, Failure>) -> Reply {
    result.unwrap_or_else(|failure| panic!("{vip}: {failure:?}"))
}

#[test]
fn c16_c26_c28_a_pod_reaches_every_backend_with_its_own_address() {
    for layout in LAYOUTS {
        let scene = Scene::start(layout, &[]).unwrap();
        let client = scene.client();
        let dials: [(_, fn(_, _, _) -> _); 2] = [(TCP_PORT, tcp_once), (UDP_PORT, udp_once)];
        for (port, once) in dials {
            for vip in vips(port) {
                let mut seen = BTreeSet::new();
                for _ in 0..60 {
                    let reply = ok(vip, once(&client.netns, vip, LIMIT));
                    assert!(client.has(reply.seen_source.ip()), "the backend sees the pod itself");
                    seen.insert(reply.backend);
                }
                // Missing one of three in 60 tries: once in 10^10 runs.
                assert_eq!(seen.len(), 3, "{vip} {layout:?}: {seen:?}");
            }
        }
    }
}

#[test]
fn c23_a_pod_reaches_itself_through_its_own_service() {
    for layout in LAYOUTS {
        let mut scene = Scene::start(layout, &[]).unwrap();
        scene.set_backends(&["a"]).unwrap();
        let own = scene.lab.pod("a");
        for vip in vips(TCP_PORT) {
            let reply = ok(vip, tcp_once(&own.netns, vip, LIMIT));
            assert_eq!(reply.backend, "a");
            assert!(scene.node().has(reply.seen_source.ip()) || !own.has(reply.seen_source.ip()));
            assert!((61_000..=65_535).contains(&reply.seen_source.port()), "{layout:?} {reply:?}");
        }
        for vip in vips(UDP_PORT) {
            let reply = ok(vip, udp_once(&own.netns, vip, LIMIT));
            assert_eq!(reply.backend, "a");
        }
        let load = Load::builder(&own.netns, Protocol::Tcp, vips(TCP_PORT)[0])
            .workers(4)
            .count(400)
            .start()
            .unwrap();
        let totals = load.finish(SOON).unwrap();
        assert_eq!(totals.failed(), 0, "{}", totals.describe_failures());
    }
}

/// A packet on its way to a backend may have the very ends of a reply to that backend.
#[test]
fn c26_two_sockets_that_dial_each_others_services_see_each_others_own_address() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let (one, other) = (scene.client().clone(), scene.lab.pod("a").clone());
    for (name, pod, vips) in
        [("one", &one, ["10.96.0.21", "fd00:10:96::21"]), ("other", &other, ["10.96.0.22", "fd00:10:96::22"])]
    {
        scene.manifests.service(name, |service| {
            service.cluster_ips(&vips).port("dns", 53, Port::Udp);
        });
        scene.manifests.pods(name, &[pod], &[("dns", 7_001, Port::Udp)]);
    }
    scene.set_backends(&["a"]).unwrap();
    let families = [("10.96.0.21", "10.96.0.22"), ("fd00:10:96::21", "fd00:10:96::22")];
    for (index, (to_one, to_other)) in families.into_iter().enumerate() {
        let bind = |pod: &Pod| {
            let socket = pod.netns.run(|| UdpSocket::bind(pod.both_at(7_001)[index])).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        };
        let sockets = [bind(&one), bind(&other)];
        let ways = [(0, 1, to_other, one.both_at(7_001)), (1, 0, to_one, other.both_at(7_001))];
        for round in 0..3u8 {
            for (from, to, vip, own) in ways {
                let vip = SocketAddr::new(vip.parse().unwrap(), 53);
                sockets[from].send_to(&[round], vip).unwrap();
                let mut byte = [9];
                let (_, seen) = sockets[to].recv_from(&mut byte).unwrap();
                assert_eq!((byte, seen), ([round], own[index]), "{vip}, datagram {round}");
            }
        }
    }
}

#[test]
fn rule_1_c27_one_client_port_to_two_frontends_of_one_backend() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.manifests.service("other", |service| {
        service.cluster_ips(&["10.96.0.11", "fd00:10:96::11"]).port("http", 80, Port::Tcp).port(
            "dns",
            53,
            Port::Udp,
        );
    });
    let only = scene.lab.pod("a").clone();
    let ports = [("http", POD_PORT, Port::Tcp), ("dns", POD_PORT, Port::Udp)];
    scene.manifests.pods("other", &[&only], &ports);
    scene.set_backends(&["a"]).unwrap();
    let netns = &scene.client().netns;
    for (index, other) in ["10.96.0.11", "fd00:10:96::11"].into_iter().enumerate() {
        let first = vips(TCP_PORT)[index];
        let second = SocketAddr::new(other.parse().unwrap(), TCP_PORT);
        let direct = only.both_at(POD_PORT)[index];
        let dial = |to| Dial::to(to).within(LIMIT).from_port(40_000);
        let (held, one) = dial(first).tcp_stream(netns).unwrap();
        let (held_too, two) = dial(second).tcp_stream(netns).unwrap();
        let (held_three, three) = dial(direct).tcp_stream(netns).unwrap();
        let seen: BTreeSet<u16> = [&one, &two, &three].map(|reply| reply.seen_source.port()).into();
        assert_eq!(seen.len(), 3, "each connection has a source port of its own at the backend: {seen:?}");
        assert!(seen.contains(&40_000), "the first keeps the client's");
        drop((held, held_too, held_three));
        let udp =
            |to: SocketAddr, port| Dial::to(SocketAddr::new(to.ip(), port)).within(LIMIT).from_port(40_001);
        for _ in 0..3 {
            assert_eq!(ok(first, udp(first, UDP_PORT).udp(netns)).backend, "a");
            assert_eq!(ok(second, udp(second, UDP_PORT).udp(netns)).backend, "a");
            assert_eq!(ok(direct, udp(direct, POD_PORT).udp(netns)).backend, "a");
        }
    }
}

#[test]
fn rule_11_c23_where_no_address_is_fit_to_masquerade_with_the_packet_goes_nowhere() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.set_backends(&["a"]).unwrap();
    // Pods' links have no addresses of their own, and now the Node has none of IPv6.
    let node = scene.node().v4.to_string();
    scene.manifests.node("node1", &[&node]).write().unwrap();
    let own = scene.lab.pod("a").netns.clone();
    let [v4, v6] = vips(TCP_PORT);
    lb_tests::poll::until("a hairpin of IPv6 to be dropped", SOON, || {
        match tcp_once(&own, v6, Duration::from_millis(300)) {
            Err(failure) if failure.kind == FailureKind::Timeout => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    let verdicts = scene.tool().get("verdicts").unwrap();
    let dropped = |row: &serde_json::Value| row["verdict"] == "dropped_no_masquerade_address";
    assert!(verdicts.as_array().unwrap().iter().any(dropped), "{verdicts}");
    assert_eq!(ok(v4, tcp_once(&own, v4, LIMIT)).backend, "a");
    // Whoever needs no masquerade goes on in both.
    assert_eq!(ok(v6, tcp_once(&scene.client().netns, v6, LIMIT)).backend, "a");
}

#[test]
fn c31_c37_a_connection_stays_with_its_backend_when_the_set_changes() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let vip = vips(TCP_PORT)[0];
    let talk = Load::builder(&scene.client().netns, Protocol::Tcp, vip)
        .workers(0)
        .conversations(12)
        .start()
        .unwrap();
    lb_tests::poll::until("twelve conversations", SOON, || {
        let open = talk.snapshot().conversations.open;
        if open == 12 { Ok(()) } else { Err(format!("{open} are open")) }
    })
    .unwrap();
    scene.set_backends(&["a"]).unwrap();
    let so_far = talk.snapshot().conversations.messages;
    lb_tests::poll::until("more messages", SOON, || {
        let messages = talk.snapshot().conversations.messages;
        if messages > so_far + 120 { Ok(()) } else { Err(format!("{messages} messages")) }
    })
    .unwrap();
    for _ in 0..20 {
        assert_eq!(
            ok(vip, tcp_once(&scene.client().netns, vip, LIMIT)).backend,
            "a",
            "new ones go to what is left"
        );
    }
    let totals = talk.stop();
    assert!(totals.conversations.broken.is_empty(), "{:?}", totals.conversations.broken);
}

#[test]
fn c32_c36_nobody_serves_is_refused_at_once_and_somebody_again_is_reached_at_once() {
    for layout in LAYOUTS {
        let mut scene = Scene::start(layout, &[]).unwrap();
        scene.set_backends(&[]).unwrap();
        let netns = scene.client().netns.clone();
        for vip in vips(TCP_PORT) {
            let failure = tcp_once(&netns, vip, LIMIT).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Refused, "{vip}: {failure:?}");
        }
        for vip in vips(UDP_PORT) {
            let failure = Dial::to(vip).within(LIMIT).from_port(40_000).udp(&netns).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Refused, "{vip}: {failure:?}");
        }
        scene.set_backends(&["b"]).unwrap();
        for (tcp, udp) in vips(TCP_PORT).into_iter().zip(vips(UDP_PORT)) {
            assert_eq!(ok(tcp, tcp_once(&netns, tcp, LIMIT)).backend, "b");
            assert_eq!(ok(udp, Dial::to(udp).within(LIMIT).from_port(40_000).udp(&netns)).backend, "b");
        }
        // The same source port, and the backend it had is gone: the next datagram chooses again.
        scene.set_backends(&["c"]).unwrap();
        for udp in vips(UDP_PORT) {
            assert_eq!(ok(udp, Dial::to(udp).within(LIMIT).from_port(40_000).udp(&netns)).backend, "c");
        }
    }
}

#[test]
fn rule_10_c38_a_client_port_used_again_chooses_anew() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let netns = scene.client().netns.clone();
    for vip in vips(TCP_PORT) {
        scene.set_backends(&["a"]).unwrap();
        let dial = || Dial::to(vip).within(LIMIT).from_port(41_000).reset_on_close().tcp(&netns);
        assert_eq!(ok(vip, dial()).backend, "a");
        scene.set_backends(&["b"]).unwrap();
        assert_eq!(ok(vip, dial()).backend, "b");
    }
}

#[test]
fn c30_a_client_stays_with_its_backend() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.manifests.service("web", |service| {
        service
            .cluster_ips(&["10.96.0.10", "fd00:10:96::10"])
            .port("http", TCP_PORT, Port::Tcp)
            .port("dns", UDP_PORT, Port::Udp)
            .set("/spec/sessionAffinity", serde_json::json!("ClientIP"))
            .set("/spec/sessionAffinityConfig", serde_json::json!({"clientIP": {"timeoutSeconds": 600}}));
    });
    scene.set_backends(&BACKENDS).unwrap();
    let netns = scene.client().netns.clone();
    for vip in vips(TCP_PORT) {
        let seen: BTreeSet<String> = (0..20).map(|_| ok(vip, tcp_once(&netns, vip, LIMIT)).backend).collect();
        assert_eq!(seen.len(), 1, "{vip}: {seen:?}");
        let had = seen.first().unwrap().as_str();
        let others: Vec<&str> = BACKENDS.into_iter().filter(|name| *name != had).collect();
        scene.set_backends(&others).unwrap();
        let now: BTreeSet<String> = (0..20).map(|_| ok(vip, tcp_once(&netns, vip, LIMIT)).backend).collect();
        assert_eq!(now.len(), 1, "{vip}: {now:?}");
        assert!(!now.contains(had), "the one it had is gone");
        scene.set_backends(&BACKENDS).unwrap();
    }
}

#[test]
fn c42_checksums_hold_with_and_without_offload() {
    for layout in LAYOUTS {
        let scene = Scene::start(layout, &[]).unwrap();
        for name in ["client", "a", "b", "c"] {
            scene.lab.pod(name).set_tx_checksum_offload(false).unwrap();
        }
        for (tcp, udp) in vips(TCP_PORT).into_iter().zip(vips(UDP_PORT)) {
            for _ in 0..9 {
                ok(tcp, tcp_once(&scene.client().netns, tcp, LIMIT));
                ok(udp, udp_once(&scene.client().netns, udp, LIMIT));
            }
        }
    }
}

#[test]
fn c44_pods_still_reach_each_other_and_the_node_directly() {
    for layout in LAYOUTS {
        let scene = Scene::start(layout, &[]).unwrap();
        let _on_the_node = EchoServer::start(&scene.node().netns, "node", &[9000]).unwrap();
        for address in scene.lab.pod("b").both_at(POD_PORT) {
            let reply = ok(address, tcp_once(&scene.client().netns, address, LIMIT));
            assert!(scene.client().has(reply.seen_source.ip()));
            ok(address, udp_once(&scene.client().netns, address, LIMIT));
        }
        for address in scene.node().both_at(9000) {
            assert_eq!(ok(address, tcp_once(&scene.client().netns, address, LIMIT)).backend, "node");
        }
    }
}
