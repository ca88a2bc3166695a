//! The `ip` lines and settings that make a namespace into a fabric, a node, a pod or a client.
//!
//! Decides how a CNI's usual layouts look on the wire; pure, runs nothing. Invariant: a line names
//! only interfaces that earlier lines have made.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::address;
use super::members::{Client, Layout, Node, Pod};
use super::netns::Netns;

/// MAC of the host side of every routed pod's veth, so that pods can hold a permanent neighbour.
const ROUTED_HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// The tunnel of an overlay's node, and what it takes of each packet for its own headers.
const TUNNEL: &str = "vxlan0";
const TUNNEL_ID: u32 = 244;
const TUNNEL_PORT: u16 = 8472;
const TUNNEL_MTU: u32 = 1450;

/// The bridge of a bridged node.
pub(super) const POD_BRIDGE: &str = "cni0";

/// Reverse path filtering on the nodes (`net.ipv4.conf.*.rp_filter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RpFilter {
    /// No check: the kernel's own default.
    #[default]
    Off,
    /// The source must be reachable at all: what systemd sets.
    Loose,
    /// The route back to the source must lead through the interface it came in by.
    Strict,
}

/// Settings of every namespace, before it gets any interface: addresses usable at once, no router
/// solicitations, and client ports usable again a second after they were closed, so that a load
/// of thousands of connections a second does not run out of them.
pub(super) const EVERYWHERE: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/tcp_tw_reuse", "1"),
];

/// Settings of a node, besides those of everywhere.
pub(super) fn node_settings(rp_filter: RpFilter) -> Vec<(&'static str, &'static str)> {
    let value = match rp_filter {
        RpFilter::Off => "0",
        RpFilter::Strict => "1",
        RpFilter::Loose => "2",
    };
    vec![
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", value),
        ("ipv4/conf/default/rp_filter", value),
    ]
}

/// The fabric: a bridge that joins nodes, clients and the router `edge`, and the address that leads
/// nowhere.
pub(super) fn fabric(nodes: &[Node], clients: &[Client], edge: Option<&Netns>) -> Vec<String> {
    let (v4, v6) = address::NOWHERE;
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add br0 type bridge".to_owned(),
        format!("addr add {v4}/24 dev br0"),
        format!("addr add {v6}/64 dev br0 nodad"),
        "link set br0 up".to_owned(),
    ];
    let members = nodes
        .iter()
        .map(|node| (format!("up-n{}", node.number), node.netns.name()))
        .chain(clients.iter().map(|client| (format!("up-c{}", client.number), client.netns.name())))
        .chain(edge.map(|edge| ("up-edge".to_owned(), edge.name())));
    for (port, netns) in members {
        lines.push(format!("link add {port} type veth peer name eth0 netns {netns}"));
        lines.push(format!("link set {port} master br0"));
        lines.push(format!("link set {port} up"));
    }
    lines
}

/// A node's uplink, its bridge and its tunnel if it has one, and its routes to the other nodes' pods.
pub(super) fn node(node: &Node, all: &[Node]) -> Vec<String> {
    let mut lines = uplink(node.v4, node.v6);
    if let Some((v4, v6)) = node.tunnel() {
        lines.extend([
            format!(
                "link add {TUNNEL} address {} mtu {TUNNEL_MTU} type vxlan id {TUNNEL_ID} dev eth0 local {} \
                 dstport {TUNNEL_PORT} nolearning",
                tunnel_mac(node),
                node.v4
            ),
            format!("addr add {v4}/32 dev {TUNNEL}"),
            format!("addr add {v6}/128 dev {TUNNEL} nodad"),
            format!("link set {TUNNEL} up"),
        ]);
    }
    for other in all.iter().filter(|other| other.number != node.number) {
        let (v4, v6) = address::pod_ranges(other.number);
        match other.tunnel().filter(|_| node.layout.has_tunnel()) {
            None => {
                lines.push(format!("route add {v4} via {}", other.v4));
                lines.push(format!("route add {v6} via {}", other.v6));
            }
            Some((gateway_v4, gateway_v6)) => {
                let mac = tunnel_mac(other);
                lines.extend([
                    format!("neigh add {gateway_v4} lladdr {mac} dev {TUNNEL} nud permanent"),
                    format!("neigh add {gateway_v6} lladdr {mac} dev {TUNNEL} nud permanent"),
                    format!("route add {v4} via {gateway_v4} dev {TUNNEL} onlink"),
                    format!("route add {v6} via {gateway_v6} dev {TUNNEL} onlink"),
                ]);
            }
        }
    }
    if let Some((v4, v6)) = node.bridge() {
        lines.extend([
            // Else it has the lowest of its ports' addresses, and pods' neighbours are wrong after the next pod.
            format!(
                "link add {POD_BRIDGE} address 0a:00:00:00:00:{:02x} {}type bridge",
                node.number,
                pod_mtu(node.layout)
            ),
            format!("addr add {v4}/24 dev {POD_BRIDGE}"),
            format!("addr add {v6}/64 dev {POD_BRIDGE} nodad"),
            format!("link set {POD_BRIDGE} up"),
        ]);
    }
    lines
}

/// Lines of `bridge`: behind which node each tunnel's other ends are.
pub(super) fn tunnel_ends(node: &Node, all: &[Node]) -> Vec<String> {
    let others = all.iter().filter(|other| other.number != node.number && other.layout.has_tunnel());
    let line = |other: &Node| format!("fdb append {} dev {TUNNEL} dst {}", tunnel_mac(other), other.v4);
    others.filter(|_| node.layout.has_tunnel()).map(line).collect()
}

/// Locally administered, so that each node knows every other's without asking.
fn tunnel_mac(node: &Node) -> String {
    format!("0e:00:00:00:00:{:02x}", node.number)
}

/// What a pod's link must leave free for the tunnel, as a part of an `ip link add` line.
fn pod_mtu(layout: Layout) -> String {
    if layout.has_tunnel() { format!("mtu {TUNNEL_MTU} ") } else { String::new() }
}

/// An outside client: an uplink, and the service ranges by way of node `via`.
pub(super) fn client(client: &Client, via: &Node) -> Vec<String> {
    let mut lines = uplink(client.v4, client.v6);
    let [v4, v6] = address::SERVICE_RANGES;
    lines.push(format!("route add {v4} via {}", via.v4));
    lines.push(format!("route add {v6} via {}", via.v6));
    lines
}

/// An address on the nodes' network, and a default route that leads nowhere.
fn uplink(v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<String> {
    let (nowhere_v4, nowhere_v6) = address::NOWHERE;
    vec![
        "link set lo up".to_owned(),
        format!("addr add {v4}/24 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        format!("route add default via {nowhere_v4}"),
        format!("route add default via {nowhere_v6}"),
    ]
}

/// The node's side of a pod.
pub(super) fn pod_on_node(pod: &Pod, layout: Layout) -> Vec<String> {
    let (host, netns) = (&pod.host_interface, pod.netns.name());
    match layout {
        Layout::Routed => vec![
            format!("link add {host} address {ROUTED_HOST_MAC} type veth peer name eth0 netns {netns}"),
            format!("link set {host} up"),
            format!("addr add fe80::1/64 dev {host} nodad"),
            format!("route add {}/32 dev {host} scope link", pod.v4),
            format!("route add {}/128 dev {host}", pod.v6),
        ],
        Layout::Bridged | Layout::Overlay => {
            let mtu = pod_mtu(layout);
            vec![
                format!("link add {host} {mtu}type veth peer name eth0 {mtu}netns {netns}"),
                format!("link set {host} master {POD_BRIDGE}"),
                format!("link set {host} up"),
            ]
        }
    }
}

/// The pod's own side. The host side exists already.
pub(super) fn pod_inside(pod: &Pod, layout: Layout, node_number: u8) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    match layout {
        Layout::Routed => lines.extend([
            format!("addr add {}/32 dev eth0", pod.v4),
            format!("addr add {}/128 dev eth0 nodad", pod.v6),
            "link set eth0 up".to_owned(),
            format!("neigh add 169.254.1.1 lladdr {ROUTED_HOST_MAC} dev eth0 nud permanent"),
            format!("neigh add fe80::1 lladdr {ROUTED_HOST_MAC} dev eth0 nud permanent"),
            "route add default via 169.254.1.1 dev eth0 onlink".to_owned(),
            "route add default via fe80::1 dev eth0".to_owned(),
        ]),
        Layout::Bridged | Layout::Overlay => {
            let (v4, v6) = address::pod(node_number, address::BRIDGE);
            lines.extend([
                format!("addr add {}/24 dev eth0", pod.v4),
                format!("addr add {}/64 dev eth0 nodad", pod.v6),
                "link set eth0 up".to_owned(),
                format!("route add default via {v4}"),
                format!("route add default via {v6}"),
            ]);
        }
    }
    lines
}
