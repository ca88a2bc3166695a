//! What a link leads to.
//!
//! Decides which links are the host's side of pods, and which address a link masquerades with. Pure. Invariant: a
//! link has one role at most, and none of them is a link that carries the node's own traffic taken for a pod's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wildmatch::WildMatch;

use super::links::Link;

/// What a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A pod.
    Pod,
    /// Off the node: an uplink or a tunnel.
    Net,
}

impl Role {
    /// Where it leads, for people.
    #[must_use]
    pub fn leads(self) -> &'static str {
        match self {
            Self::Pod => "to a pod",
            Self::Net => "off the node",
        }
    }
}

/// Kinds of links that lead off the node whatever their routes.
const TUNNELS: [&str; 8] = ["vxlan", "geneve", "ipip", "sit", "gre", "ip6tnl", "ip6gre", "wireguard"];

/// Kinds of links that lead off the node where they have an address: the host speaks through them to others, be it to
/// its own network only, without any router.
const OUTER: [&str; 8] = ["bond", "team", "vlan", "macvlan", "ipvlan", "ipoib", "tun", "xfrm"];

/// How roles are told.
#[derive(Clone, Debug)]
pub struct Roles {
    patterns: Option<Vec<WildMatch>>,
    node_addresses: Vec<IpAddr>,
}

impl Roles {
    /// By `patterns` of names if there are any, else by what links are.
    ///
    /// # Errors
    /// Where a pattern is empty.
    pub fn new(patterns: Option<&[String]>, node_addresses: &[IpAddr]) -> anyhow::Result<Self> {
        let patterns = patterns.map(|patterns| {
            let compiled = patterns.iter().map(|pattern| {
                anyhow::ensure!(
                    !pattern.is_empty(),
                    "--pod-interfaces has an empty pattern: write names with * and ?"
                );
                Ok(WildMatch::new(pattern))
            });
            compiled.collect::<anyhow::Result<Vec<_>>>()
        });
        Ok(Self { patterns: patterns.transpose()?, node_addresses: node_addresses.to_vec() })
    }

    /// The role of `link`, if it has one.
    #[must_use]
    pub fn of(&self, link: &Link) -> Option<Role> {
        let is_pod = match &self.patterns {
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(&link.name)),
            None => link.kind.as_deref() == Some("veth") && link.peer_elsewhere && !self.is_uplink(link),
        };
        if link.loopback {
            None
        } else if is_pod {
            Some(Role::Pod)
        } else if self.is_uplink(link) || is_tunnel(link) {
            Some(Role::Net)
        } else {
            None
        }
    }

    /// A node that is itself a container has a veth for its uplink. Not every uplink has a default route: policy routing
    /// sends replies by another one.
    fn is_uplink(&self, link: &Link) -> bool {
        // Some CNIs send everything for pods through a pair of links of the host's own.
        let stays_here = link.kind.as_deref() == Some("veth") && !link.peer_elsewhere;
        let outer = link.kind.as_deref().is_none_or(|kind| OUTER.contains(&kind));
        let speaks = link.master.is_none() && !link.addresses.is_empty();
        (link.leads_to_router && !stays_here)
            || (outer && speaks)
            || link.addresses.iter().any(|address| self.node_addresses.contains(&address.addr()))
    }
}

/// Does it wrap its packets in others that leave by another link?
#[must_use]
pub fn is_tunnel(link: &Link) -> bool {
    link.kind.as_deref().is_some_and(|kind| TUNNELS.contains(&kind))
}

/// The addresses that packets leaving by `link` are masqueraded with: of each family the node's if the link has it, else
/// the link's first global one, else the node's. What else a link has may be there for a time only, as the address of a
/// load balancer that another node takes over.
#[must_use]
pub fn masquerade_addresses(link: &Link, node_addresses: &[IpAddr]) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let own: Vec<IpAddr> = link.addresses.iter().map(ipnet::IpNet::addr).collect();
    let both = node_addresses.iter().filter(|address| own.contains(address));
    let candidates: Vec<IpAddr> = both.chain(&own).chain(node_addresses).copied().collect();
    let v4 = candidates.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let v6 = candidates.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    });
    (v4, v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(name: &str) -> Link {
        Link {
            name: name.to_owned(),
            kind: Some("veth".to_owned()),
            peer_elsewhere: true,
            ethernet: true,
            up: true,
            ..Link::default()
        }
    }

    fn node() -> Vec<IpAddr> {
        vec!["10.199.0.1".parse().unwrap(), "fd00:199::1".parse().unwrap()]
    }

    fn role(link: &Link, patterns: Option<&[&str]>) -> Option<Role> {
        let patterns: Option<Vec<String>> =
            patterns.map(|patterns| patterns.iter().map(|&pattern| pattern.to_owned()).collect());
        Roles::new(patterns.as_deref(), &node()).unwrap().of(link)
    }

    #[test]
    fn a_veth_into_another_namespace_is_a_pods_unless_it_is_the_nodes_own() {
        let uplink = Link { leads_to_router: true, ..veth("eth0") };
        let second = Link { kind: None, addresses: vec!["10.5.0.1/24".parse().unwrap()], ..veth("eth2") };
        let bonded = Link { kind: None, master: Some(7), ..veth("eth3") };
        let cni = Link { leads_to_router: true, peer_elsewhere: false, ..veth("cni_host") };
        let addressed = Link { addresses: vec!["10.199.0.1/24".parse().unwrap()], ..veth("eth1") };
        let here = Link { peer_elsewhere: false, ..veth("veth1") };
        let bridge = Link { kind: Some("bridge".to_owned()), peer_elsewhere: false, ..veth("cni0") };
        let tunnel = Link { kind: Some("vxlan".to_owned()), peer_elsewhere: false, ..veth("flannel.1") };
        let of = |kind: &str, address: &[&str]| Link {
            kind: Some(kind.to_owned()),
            peer_elsewhere: false,
            addresses: address.iter().map(|address| address.parse().unwrap()).collect(),
            ..veth("other")
        };
        let loopback = Link { loopback: true, kind: None, ..veth("lo") };
        for (link, expected) in [
            (veth("veth-a"), Some(Role::Pod)),
            (Link { master: Some(3), ..veth("veth-b") }, Some(Role::Pod)),
            (uplink, Some(Role::Net)),
            (second, Some(Role::Net)),
            (bonded, None),
            (cni, None),
            (addressed, Some(Role::Net)),
            (tunnel, Some(Role::Net)),
            (here, None),
            (bridge, None),
            (of("bond", &["10.6.0.1/24"]), Some(Role::Net)),
            (of("vlan", &["10.7.0.1/24"]), Some(Role::Net)),
            (of("vlan", &[]), None),
            (Link { master: Some(9), ..of("vlan", &["10.7.0.1/24"]) }, None),
            (of("bridge", &["172.17.0.1/16"]), None),
            (of("dummy", &["169.254.20.10/32"]), None),
            (loopback, None),
        ] {
            assert_eq!(role(&link, None), expected, "{link:?}");
        }
    }

    #[test]
    fn patterns_take_the_place_of_the_rule() {
        assert_eq!(role(&veth("cali123"), Some(&["cali*", "lxc?"])), Some(Role::Pod));
        assert_eq!(role(&veth("lxc7"), Some(&["cali*", "lxc?"])), Some(Role::Pod));
        assert_eq!(role(&veth("veth-a"), Some(&["cali*", "lxc?"])), None);
        assert!(Roles::new(Some(&[String::new()]), &[]).is_err());
    }

    #[test]
    fn a_link_masquerades_with_its_own_address_or_the_nodes() {
        assert_eq!(
            masquerade_addresses(&veth("a"), &node()),
            (Some("10.199.0.1".parse().unwrap()), Some("fd00:199::1".parse().unwrap()))
        );
        let own = Link { addresses: vec!["10.244.1.1/24".parse().unwrap()], ..veth("b") };
        assert_eq!(masquerade_addresses(&own, &node()).0, Some("10.244.1.1".parse().unwrap()));
        assert_eq!(masquerade_addresses(&veth("a"), &[]), (None, None));
        let addresses = ["fd00:199::99/128", "fd00:199::1/64"].map(|address| address.parse().unwrap());
        let shared = Link { addresses: addresses.into(), ..veth("c") };
        assert_eq!(
            masquerade_addresses(&shared, &node()).1,
            Some("fd00:199::1".parse().unwrap()),
            "not what a load balancer may take elsewhere"
        );
    }
}
