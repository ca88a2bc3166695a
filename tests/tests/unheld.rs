//! Tier 2: addresses for Services that no Service known here has (C34), in real network namespaces.
//!
//! Each test reads as what a pod sees, and what the network outside of the node does.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket};
use lb_tests::capture::Capture;
use lb_tests::lab::Layout;
use lb_tests::poll;
use lb_tests::scene::{LIMIT, POD_PORT, SOON, Scene, TCP_PORT};
use lb_tests::traffic::{Dial, FailureKind, tcp_once, udp_once};

const UNHELD: [&str; 2] = ["10.96.0.99", "fd00:10:96::99"];
const UPLINK: &str = "eth0";
const NETWORKS: [&str; 2] = ["--service-cidr", "10.96.0.0/24,fd00:10:96::/112"];

/// A scene whose node has a way to everywhere, so that what is not stopped gets out.
fn scene() -> Scene {
    let scene = Scene::start(Layout::Routed, &NETWORKS).unwrap();
    for address in UNHELD {
        // A neighbour that is known, whether or not it answers.
        let neighbour =
            format!("neigh replace {address} lladdr 02:00:00:00:00:63 dev {UPLINK} nud permanent");
        scene.node().netns.ip(&[neighbour, format!("route replace {address} dev {UPLINK}")]).unwrap();
    }
    scene
}

fn dropped(scene: &Scene) -> u64 {
    scene.tool().verdict("dropped_no_service").unwrap()
}

fn goes_to(packet: &SlicedPacket<'_>, addresses: &[IpAddr]) -> bool {
    let to: IpAddr = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => ip.header().destination_addr().into(),
        Some(NetSlice::Ipv6(ip)) => ip.header().destination_addr().into(),
        _ => return false,
    };
    addresses.contains(&to)
}

#[test]
fn c34_nothing_to_an_unheld_address_leaves_the_node_and_nobody_is_told() {
    let scene = scene();
    let addresses = UNHELD.map(|address| address.parse::<IpAddr>().unwrap());
    let seen =
        Capture::start(&scene.node().netns, UPLINK, 100, move |packet| goes_to(packet, &addresses)).unwrap();
    for address in addresses {
        let to = SocketAddr::new(address, TCP_PORT);
        for from in [&scene.client().netns, &scene.node().netns] {
            let before = dropped(&scene);
            assert_eq!(tcp_once(from, to, LIMIT / 4).unwrap_err().kind, FailureKind::Timeout, "{to}");
            assert!(dropped(&scene) > before, "a SYN to {to}");
            let before = dropped(&scene);
            assert_eq!(udp_once(from, to, LIMIT / 4).unwrap_err().kind, FailureKind::Timeout, "{to}");
            assert!(dropped(&scene) > before, "a datagram to {to}");
        }
    }
    assert_eq!(seen.stop().len(), 0, "none of it was seen on the wire");
}

#[test]
fn c1_c34_a_service_of_another_proxy_of_the_node_is_served_by_it() {
    let mut scene = scene();
    scene.manifests.service("others", |service| {
        service.label("service.kubernetes.io/service-proxy-name", "theirs").cluster_ips(&UNHELD).port(
            "http",
            TCP_PORT,
            lb_tests::manifests::Protocol::Tcp,
        );
    });
    scene.manifests.write().unwrap();
    scene.agent.wait_in_sync(SOON).unwrap();
    // The other proxy, as most are made: netfilter translates before the route is looked up.
    let pod = scene.lab.pod("a");
    let rules = format!(
        "table inet theirs {{\n\
         chain serve {{ ip daddr {0} tcp dport {port} dnat ip to {2}\n ip6 daddr {1} tcp dport {port} dnat ip6 to {3}\n}}\n\
         chain pre {{ type nat hook prerouting priority -100; jump serve; }}\n\
         chain out {{ type nat hook output priority -100; jump serve; }}\n\
         }}",
        UNHELD[0],
        UNHELD[1],
        pod.v4_at(POD_PORT),
        pod.v6_at(POD_PORT),
        port = TCP_PORT
    );
    scene.node().netns.nft(&rules).unwrap();
    let before = dropped(&scene);
    for address in UNHELD {
        let to = SocketAddr::new(address.parse().unwrap(), TCP_PORT);
        for from in [&scene.client().netns, &scene.node().netns] {
            let reply = poll::until("the other proxy to serve", SOON, || {
                Dial::to(to).within(LIMIT).tcp(from).map_err(|failure| format!("{to}: {failure:?}"))
            });
            assert_eq!(reply.unwrap().backend, "a", "{to}");
        }
    }
    assert_eq!(dropped(&scene), before);
}
