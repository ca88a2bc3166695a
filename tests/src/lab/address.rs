//! The lab's address plan.
//!
//! Decides which address belongs to whom; pure, must not know namespaces. Invariant: an address
//! follows from the numbers of node and pod alone, so tests may name addresses literally.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The range of ClusterIPs that outside clients route to a node: IPv4, IPv6.
pub const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

/// Where every default route of the fabric leads: an address that answers ARP and ND and forwards
/// nothing, so that a packet which leaves the cluster by mistake is lost in silence.
pub const NOWHERE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 199, 0, 254), Ipv6Addr::new(0xfd00, 0x199, 0, 0, 0, 0, 0, 0xfe));

/// Uplink addresses of node `number` (from 1), in 10.199.0.0/24 and fd00:199::/64.
pub fn node(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 199, 0, number), Ipv6Addr::new(0xfd00, 0x199, 0, 0, 0, 0, 0, u16::from(number)))
}

/// Addresses of outside client `number` (from 1), in the nodes' network, from .101 on.
pub fn client(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    node(100 + number)
}

/// The router `edge`, on the nodes' network: the way to all far clients.
pub const EDGE: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 199, 0, 253), Ipv6Addr::new(0xfd00, 0x199, 0, 0, 0, 0, 0, 0xfd));

/// Where far clients are: `10.200.0.0/16` and `fd00:200::/32`.
pub const FAR_RANGES: [&str; 2] = ["10.200.0.0/16", "fd00:200::/32"];

/// The link between the routers `edge` (1) and `far` (2), a /24 and a /64.
pub fn narrow(end: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 198, 0, end), Ipv6Addr::new(0xfd00, 0x198, 0, 0, 0, 0, 0, u16::from(end)))
}

/// Address `host` of far client `number` (both from 1), in a /24 and a /64 of the client's own;
/// [`FAR_GATEWAY`] is its router's.
pub fn far_client(number: u8, host: u8) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(10, 200, number, host),
        Ipv6Addr::new(0xfd00, 0x200, u16::from(number), 0, 0, 0, 0, u16::from(host)),
    )
}

/// The router's host number in each far client's network.
pub const FAR_GATEWAY: u8 = 254;

/// The bridge's host number in a node's pod range.
pub const BRIDGE: u8 = 1;

/// The tunnel device's host number in a node's pod range. Pods have the numbers between.
pub const TUNNEL: u8 = 254;

/// All pods of all nodes: IPv4, IPv6.
pub const CLUSTER_RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// Addresses of a pod: `host` counts from 2, as .1 is the bridge's ([`BRIDGE`]).
pub fn pod(node: u8, host: u8) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(10, 244, node, host),
        Ipv6Addr::new(0xfd00, 0x10, 0x244, u16::from(node), 0, 0, 0, u16::from(host)),
    )
}

/// Pod ranges of a node: `10.244.N.0/24` and `fd00:10:244:N::/64`.
///
/// The number stands in IPv6 as hexadecimal; below 10 the two look alike.
pub fn pod_ranges(node: u8) -> (String, String) {
    (format!("10.244.{node}.0/24"), format!("fd00:10:244:{node:x}::/64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_ones_tests_write_down() {
        assert_eq!(node(2), ("10.199.0.2".parse().unwrap(), "fd00:199::2".parse().unwrap()));
        assert_eq!(client(1), ("10.199.0.101".parse().unwrap(), "fd00:199::65".parse().unwrap()));
        assert_eq!(pod(1, 2), ("10.244.1.2".parse().unwrap(), "fd00:10:244:1::2".parse().unwrap()));
        assert_eq!(far_client(1, 2), ("10.200.1.2".parse().unwrap(), "fd00:200:1::2".parse().unwrap()));
        assert_eq!(narrow(1), ("10.198.0.1".parse().unwrap(), "fd00:198::1".parse().unwrap()));
        assert_eq!(EDGE, ("10.199.0.253".parse().unwrap(), "fd00:199::fd".parse().unwrap()));
        assert_eq!(NOWHERE, ("10.199.0.254".parse().unwrap(), "fd00:199::fe".parse().unwrap()));
    }
}
