//! Tier 2: the node's own processes reach Services, by what the system calls say.
//!
//! Decides the helpers. Must not assert but that a helper worked. Invariant: the tests' threads are in the node's network
//! namespace and in a cgroup of the lab, on which the agent hangs its hooks; no other process of the machine runs
//! through them.

mod dead_backends;
mod hooks;
mod services;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

use lb_tests::lab::Node;
use lb_tests::manifests::{Protocol as Port, Service};
use lb_tests::scene::{LIMIT, POD_PORT, SOON, Scene, vips};

/// The Service's frontends as an IPv4 socket, an IPv6 socket and an IPv6 socket that talks IPv4 name them.
fn names(port: u16) -> [SocketAddr; 3] {
    let [v4, v6] = vips(port);
    [v4, v6, mapped(v4)]
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A UDP socket of the node that can talk to `peer`.
fn udp(node: &Node, peer: SocketAddr) -> UdpSocket {
    node.netns.run(|| {
        let any: IpAddr = if peer.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    })
}

/// What an echo server said by UDP: its name.
fn heard(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 300];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    (text.split(' ').next().unwrap_or_default().to_owned(), from)
}

fn count(scene: &Scene, verdict: &str) -> u64 {
    scene.tool().verdict(verdict).unwrap()
}

/// Puts another Service behind the Scene's pods `a` and `b`.
fn service(scene: &mut Scene, name: &str, describe: impl FnOnce(&mut Service)) {
    let pods: Vec<_> = ["a", "b"].iter().map(|name| scene.lab.pod(name)).collect();
    scene.manifests.service(name, describe);
    scene.manifests.pods(name, &pods, &[("http", POD_PORT, Port::Tcp), ("dns", POD_PORT, Port::Udp)]);
    scene.manifests.write().unwrap();
    scene.agent.wait_for(SOON, |report| report.rows_written > 0).unwrap();
}
