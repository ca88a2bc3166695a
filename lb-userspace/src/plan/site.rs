//! What of this node its frontends may meet.
//!
//! Decides which frontends stand on the node's own addresses, and which of those nobody may take (contract C17, C22).
//! Must not know Services. Invariant: a function of its fields.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::address::Protocol;

use super::owners::FrontendAddress;

/// The TCP ports of this program (health, metrics) and of an API server, unless an option names others.
pub const RESERVED_PORTS: [u16; 3] = [6443, 10_249, 10_256];

/// A node's addresses and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The addresses on which NodePorts are served, sorted (C17).
    pub node_port_addresses: Vec<IpAddr>,
    /// Every address of the host that others can reach, those among them.
    pub own_addresses: BTreeSet<IpAddr>,
    /// TCP ports that the agent or the API server listens on, so that no frontend may take them there.
    pub reserved_ports: BTreeSet<u16>,
}

impl Default for Site {
    fn default() -> Self {
        let reserved_ports = RESERVED_PORTS.into();
        Self { node_port_addresses: Vec::new(), own_addresses: BTreeSet::new(), reserved_ports }
    }
}

impl Site {
    /// Is it an address of the host itself?
    #[must_use]
    pub fn is_own(&self, addr: &IpAddr) -> bool {
        self.own_addresses.contains(addr) || self.node_port_addresses.contains(addr)
    }

    /// Would the frontend take a port away from the agent or the API server?
    #[must_use]
    pub fn is_reserved(&self, frontend: &FrontendAddress) -> bool {
        frontend.protocol == Protocol::TCP
            && self.reserved_ports.contains(&frontend.port)
            && frontend.addr.is_none_or(|addr| self.is_own(&addr))
    }

    /// The NodePort that covers a frontend with an address of its own.
    #[must_use]
    pub fn node_port_over(&self, frontend: &FrontendAddress) -> Option<FrontendAddress> {
        let addr = frontend.addr.filter(|addr| self.node_port_addresses.contains(addr))?;
        Some(FrontendAddress { addr: None, ipv6: addr.is_ipv6(), ..*frontend })
    }

    /// The frontends with an address of their own that a NodePort covers.
    pub fn under_node_port(&self, node_port: FrontendAddress) -> impl Iterator<Item = FrontendAddress> + '_ {
        let of_family = self.node_port_addresses.iter().filter(move |addr| addr.is_ipv6() == node_port.ipv6);
        let of_family = of_family.filter(move |_| node_port.addr.is_none());
        of_family.map(move |addr| FrontendAddress { addr: Some(*addr), ..node_port })
    }
}
