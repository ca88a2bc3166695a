//! The ends that packet tests talk between, the same story in both families.
//!
//! Decides the addresses. Invariant: all are documentation or cluster-private addresses, none twice.

use std::net::{IpAddr, SocketAddr};

/// The ends of a family.
pub struct Ends {
    /// A pod of this node.
    pub client: SocketAddr,
    /// A client outside of the cluster.
    pub outsider: SocketAddr,
    /// What clients dial.
    pub vip: SocketAddr,
    /// What they may dial as well.
    pub other_vip: SocketAddr,
    /// Who serves: two on this node, one on another.
    pub backends: [SocketAddr; 3],
    /// This node, with which flows are masqueraded.
    pub node: IpAddr,
    /// A router on the way.
    pub router: IpAddr,
}

impl Ends {
    /// Those of IPv4.
    pub fn v4() -> Self {
        Self::of(
            [
                "10.244.1.2:40000",
                "203.0.113.9:50000",
                "10.96.0.10:80",
                "10.96.0.11:80",
                "10.244.1.3:8080",
                "10.244.1.4:8080",
                "10.244.2.5:8080",
            ],
            ["192.0.2.1", "198.51.100.7"],
        )
    }

    /// Those of IPv6.
    pub fn v6() -> Self {
        Self::of(
            [
                "[fd00:10:244:1::2]:40000",
                "[2001:db8:9::9]:50000",
                "[fd00:10:96::10]:80",
                "[fd00:10:96::11]:80",
                "[fd00:10:244:1::3]:8080",
                "[fd00:10:244:1::4]:8080",
                "[fd00:10:244:2::5]:8080",
            ],
            ["2001:db8::1", "2001:db8:7::7"],
        )
    }

    /// A socket on the router.
    pub fn router_socket(&self) -> SocketAddr {
        SocketAddr::new(self.router, 443)
    }

    fn of(sockets: [&str; 7], addresses: [&str; 2]) -> Self {
        let at = |text: &str| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let [client, outsider, vip, other_vip, a, b, c] = sockets.map(at);
        let ip = |text: &str| text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let [node, router] = addresses.map(ip);
        Self { client, outsider, vip, other_vip, backends: [a, b, c], node, router }
    }
}

/// A law in both families: IPv4's instance and IPv6's.
pub type Law = (fn(&Ends), fn(&Ends));

/// Runs a law on both families.
pub fn both(law: Law) {
    law.0(&Ends::v4());
    law.1(&Ends::v6());
}
