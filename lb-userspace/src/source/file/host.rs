//! A Node for a host that has none among its objects (contract C4).
//!
//! Decides which of the host's addresses stand for InternalIPs. Must not ask for them where the
//! caller knows better. Invariant: at most one address of each family, none of them loopback or
//! link-local.

use std::net::IpAddr;

use anyhow::Context as _;

use crate::model::Node;

/// What a Node is made of where the folder has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The node's name.
    pub name: String,
    /// Its addresses, the preferred first.
    pub addresses: Vec<IpAddr>,
}

impl Host {
    /// This host, under `name` or its own host name.
    ///
    /// # Errors
    /// If the kernel does not tell the host's name or addresses.
    pub fn this(name: Option<String>) -> anyhow::Result<Self> {
        let name = match name {
            Some(name) => name,
            None => host_name()?,
        };
        Ok(Self { name, addresses: host_addresses()? })
    }

    /// The Node: of each family the first address that another host can reach.
    #[must_use]
    pub fn node(&self) -> Node {
        let reachable = |ip: &&IpAddr| !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip);
        let first = |ipv6| self.addresses.iter().filter(reachable).find(|ip| ip.is_ipv6() == ipv6).copied();
        Node {
            name: self.name.clone(),
            internal_ips: [first(false), first(true)].into_iter().flatten().collect(),
            external_ips: Vec::new(),
            zone: None,
            pod_cidrs: Vec::new(),
            leaving: false,
        }
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The host's name as the kernel has it (uname(2)), in lower case as Nodes are named.
///
/// # Errors
/// If it cannot be read or is no UTF-8.
pub fn host_name() -> anyhow::Result<String> {
    let names =
        nix::sys::utsname::uname().context("asking for the host's name failed; name the node with --node")?;
    let name = names.nodename().to_str().context("the host's name is no UTF-8; name the node with --node")?;
    Ok(name.to_lowercase())
}

/// Every address of the host (getifaddrs(3)), in the kernel's order of interfaces.
///
/// # Errors
/// If the kernel does not list them.
pub fn host_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs().context("listing the host's addresses failed")?;
    let storages = interfaces.filter_map(|interface| interface.address);
    Ok(storages
        .filter_map(|storage| {
            let v4 = storage.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
            let v6 = || storage.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip()));
            v4.or_else(v6)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c4_a_node_is_made_of_the_first_address_of_each_family_that_others_can_reach() {
        let list = ["127.0.0.1", "::1", "fe80::1", "169.254.1.1", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
        let host =
            Host { name: "here".to_owned(), addresses: list.iter().map(|ip| ip.parse().unwrap()).collect() };
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(host.node().internal_ips, expected);
    }

    #[test]
    fn the_host_tells_its_name_and_addresses() {
        let host = Host::this(None).unwrap();
        assert!(!host.name.is_empty());
        assert!(Host::this(Some("other".to_owned())).unwrap().name == "other");
    }
}
