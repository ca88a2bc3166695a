//! The `ip` lines of what lies beyond the nodes' network: two routers, and clients behind them.
//!
//! Decides how a packet from far away reaches a node: by route, over a link that may be narrower
//! than those at both ends. Pure, runs nothing. Invariant: each far client has a network and a
//! routing table of its own, so one client's routes into the cluster are not another's.
//!
//! ```text
//!   [ fabric ] br0 --- eth0 [ edge ] narrow --- eth0 [ far ] to-1 --- eth0 [ client ]
//! ```

use std::net::IpAddr;

use super::address::{self, FAR_GATEWAY, FAR_RANGES, SERVICE_RANGES};
use super::members::{Client, Node};
use super::netns::Netns;

/// Width of a link, in bytes, if nobody says otherwise.
pub(super) const FULL_MTU: u32 = 1500;

/// Settings of the routers, besides those of everywhere.
pub(super) const ROUTER_SETTINGS: &[(&str, &str)] =
    &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// The two routers.
#[derive(Clone, Debug)]
pub(super) struct Routers {
    /// On the nodes' network.
    pub edge: Netns,
    /// Where the far clients are.
    pub far: Netns,
}

/// The routing table of router `edge` for what far client `number` sends.
fn table(number: u8) -> u32 {
    1000 + u32::from(number)
}

/// The router on the nodes' network. `via[i]` is the node that client `i` finds Services behind.
pub(super) fn edge(far: &Netns, clients: &[Client], via: &[&Node], mtu: u32) -> Vec<String> {
    let (own_v4, own_v6) = address::EDGE;
    let (near_v4, near_v6) = address::narrow(1);
    let (far_v4, far_v6) = address::narrow(2);
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("addr add {own_v4}/24 dev eth0"),
        format!("addr add {own_v6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        format!("link add narrow mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}", far.name()),
        format!("addr add {near_v4}/24 dev narrow"),
        format!("addr add {near_v6}/64 dev narrow nodad"),
        "link set narrow up".to_owned(),
        format!("route add {} via {far_v4}", FAR_RANGES[0]),
        format!("route add {} via {far_v6}", FAR_RANGES[1]),
    ];
    for (client, node) in clients.iter().zip(via) {
        let table = table(client.number);
        let (v4, _) = address::far_client(client.number, 0);
        lines.push(format!("rule add from {v4}/24 lookup {table}"));
        lines.extend(into_cluster(client.number, SERVICE_RANGES[0], node.v4.into()));
        lines.extend(into_cluster(client.number, SERVICE_RANGES[1], node.v6.into()));
    }
    lines
}

/// Lines for that router: where a client's packets to `prefix` go; and, by the same way, what the router
/// itself has to say to whoever answers from there (that a packet was too big, say).
pub(super) fn into_cluster(number: u8, prefix: &str, gateway: IpAddr) -> [String; 2] {
    let route = format!("route replace {prefix} via {gateway}");
    [format!("{route} table {}", table(number)), route]
}

/// Lines of `ip -6` for that router: whose packets go by which table.
pub(super) fn edge_rules_v6(clients: &[Client]) -> Vec<String> {
    let line = |client: &Client| {
        let (_, v6) = address::far_client(client.number, 0);
        format!("rule add from {v6}/64 lookup {}", table(client.number))
    };
    clients.iter().map(line).collect()
}

/// The router where the clients are.
pub(super) fn far(clients: &[Client]) -> Vec<String> {
    let (own_v4, own_v6) = address::narrow(2);
    let (edge_v4, edge_v6) = address::narrow(1);
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("addr add {own_v4}/24 dev eth0"),
        format!("addr add {own_v6}/64 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        format!("route add default via {edge_v4}"),
        format!("route add default via {edge_v6}"),
    ];
    for client in clients {
        let port = format!("to-{}", client.number);
        let (v4, v6) = address::far_client(client.number, FAR_GATEWAY);
        lines.extend([
            format!("link add {port} type veth peer name eth0 netns {}", client.netns.name()),
            format!("addr add {v4}/24 dev {port}"),
            format!("addr add {v6}/64 dev {port} nodad"),
            format!("link set {port} up"),
        ]);
    }
    lines
}

/// A far client, with all its addresses.
pub(super) fn client(client: &Client) -> Vec<String> {
    let mut lines = vec!["link set lo up".to_owned()];
    for (v4, v6) in &client.sources {
        lines.push(format!("addr add {v4}/24 dev eth0"));
        lines.push(format!("addr add {v6}/64 dev eth0 nodad"));
    }
    let (v4, v6) = address::far_client(client.number, FAR_GATEWAY);
    lines.extend([
        "link set eth0 up".to_owned(),
        format!("route add default via {v4}"),
        // Of several addresses the kernel would take the one that was added last.
        format!("route add default via {v6} src {}", client.v6),
    ]);
    lines
}

/// A node's routes to all far clients.
pub(super) fn on_node() -> Vec<String> {
    let (v4, v6) = address::EDGE;
    vec![format!("route add {} via {v4}", FAR_RANGES[0]), format!("route add {} via {v6}", FAR_RANGES[1])]
}
