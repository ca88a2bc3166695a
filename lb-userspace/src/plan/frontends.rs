//! What clients dial to reach a Service.
//!
//! Decides contract C16 to C21, C34's addresses and C35's ranges. Must not know endpoints or other Services.
//! Invariant: a service port names each of its frontends once; where an address has several
//! origins, the one that guards it most counts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::decision::{FrontendKind, ServicePortName};
use super::owners::FrontendAddress;
use crate::model::{Node, Service, ServicePort};

/// On which of its addresses a node answers NodePorts (C17).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// The Node's InternalIPs.
    #[default]
    Primary,
    /// Every address of the host.
    All,
    /// Those of the host's addresses that are in one of these.
    Networks(Vec<IpNet>),
}

impl NodePortAddresses {
    /// The chosen addresses, sorted. `host` is every address of the host. Loopback is never one of
    /// them; from the node itself `127.0.0.1` works by the socket hooks.
    #[must_use]
    pub fn choose(&self, node: Option<&Node>, host: &[IpAddr]) -> Vec<IpAddr> {
        let mut chosen: Vec<IpAddr> = match self {
            Self::Primary => node.map(|node| node.internal_ips.clone()).unwrap_or_default(),
            Self::All => host.to_vec(),
            Self::Networks(networks) => host
                .iter()
                .copied()
                .filter(|ip| networks.iter().any(|network| network.contains(ip)))
                .collect(),
        };
        chosen.retain(|ip| !ip.is_loopback() && !is_link_local(ip));
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

impl std::str::FromStr for NodePortAddresses {
    type Err = String;

    /// `primary`, `all`, or networks separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            _ => text
                .split(',')
                .map(|network| {
                    network.trim().parse::<IpNet>().map(|network| network.trunc()).map_err(|_| {
                        format!("{network:?} is no network; write primary, all, or networks like 10.0.0.0/8,fd00::/64")
                    })
                })
                .collect::<Result<_, _>>()
                .map(Self::Networks),
        }
    }
}

/// The name of a service port.
#[must_use]
pub fn port_name(service: &Service, port: &ServicePort) -> ServicePortName {
    ServicePortName {
        service: service.name.clone(),
        port: port.name.as_str().into(),
        protocol: port.protocol,
    }
}

/// The frontends of one port of a Service, and where each comes from. Only the families that
/// the Service has; none for one that is left alone (C1, C2).
#[must_use]
pub fn frontends(service: &Service, port: &ServicePort) -> BTreeMap<FrontendAddress, FrontendKind> {
    let mut frontends = BTreeMap::new();
    if service.not_proxied.is_some() {
        return frontends;
    }
    let at = |addr: &IpAddr| FrontendAddress {
        addr: Some(*addr),
        ipv6: addr.is_ipv6(),
        protocol: port.protocol,
        port: port.port,
    };
    // An address may be listed twice; the guarded origin goes before the open one.
    let origins: [(&[IpAddr], FrontendKind); 3] = [
        (&service.cluster_ips, FrontendKind::ClusterIp),
        (&service.load_balancer_ips, FrontendKind::LoadBalancer),
        (&service.external_ips, FrontendKind::ExternalIp),
    ];
    for (addresses, kind) in origins {
        for addr in addresses.iter().filter(|addr| service.families.of(addr)) {
            frontends.entry(at(addr)).or_insert(kind);
        }
    }
    if let Some(node_port) = port.node_port {
        let families = [(service.families.v4, false), (service.families.v6, true)];
        for (_, ipv6) in families.into_iter().filter(|(has, _)| *has) {
            let frontend = FrontendAddress { addr: None, ipv6, protocol: port.protocol, port: node_port };
            frontends.insert(frontend, FrontendKind::NodePort);
        }
    }
    frontends
}

/// The addresses of a Service whose other ports refuse (C34).
pub fn whole_addresses(service: &Service) -> impl Iterator<Item = FrontendAddress> + '_ {
    let proxied = service.cluster_ips.iter().filter(|_| service.not_proxied.is_none());
    proxied.filter(|addr| service.families.of(addr)).map(|addr| FrontendAddress::whole(*addr))
}

/// Who may use a load balancer address of this family; empty: everyone (C35). A range of all
/// addresses opens its family.
#[must_use]
pub fn source_ranges(service: &Service, ipv6: bool) -> Vec<IpNet> {
    let of_family = |range: &&IpNet| matches!(range, IpNet::V6(_)) == ipv6;
    let mut ranges: Vec<IpNet> = service.source_ranges.iter().filter(of_family).copied().collect();
    if ranges.iter().any(|range| range.prefix_len() == 0) {
        return Vec::new();
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c17_node_port_addresses_are_chosen_by_the_option() {
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = Node {
            name: "here".to_owned(),
            internal_ips: ips(&["10.0.0.1", "fd00::1"]),
            external_ips: Vec::new(),
            zone: None,
            pod_cidrs: Vec::new(),
            leaving: false,
        };
        let host = ips(&["127.0.0.1", "10.0.0.1", "192.0.2.7", "fe80::1", "fd00::1", "::1"]);
        let table = [
            ("primary", ips(&["10.0.0.1", "fd00::1"])),
            ("all", ips(&["10.0.0.1", "192.0.2.7", "fd00::1"])),
            ("192.0.2.0/24, fd00::/16", ips(&["192.0.2.7", "fd00::1"])),
            ("127.0.0.0/8", Vec::new()),
        ];
        for (option, expected) in table {
            let option: NodePortAddresses = option.parse().unwrap();
            assert_eq!(option.choose(Some(&node), &host), expected, "{option:?}");
        }
        assert!("some".parse::<NodePortAddresses>().unwrap_err().contains("primary"));
    }
}
