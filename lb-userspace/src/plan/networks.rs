//! The networks that the datapath tells apart.
//!
//! Decides which of the networks that were named get a row (contract C26, C34), and which cannot. Must not know where
//! they were named. Invariant: a network in which the node or its pods live is never taken for the
//! Services': what is no Service's there would be dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::abi::{CLUSTER_NETWORK, Prefix, SERVICE_NETWORKS};
use lb_common::address::Address;

/// The networks that have rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Where pods live; at most one of each family (C26).
    cluster: Vec<IpNet>,
    /// Where Services get their addresses, largest first (C34).
    services: Vec<IpNet>,
}

/// A network that gets no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// There are too many of its family.
    #[error(
        "the service network {0} is one too many: {limit} of a family can be told apart, so addresses in it that no \
         Service has are left to the routes instead of being dropped; name fewer, larger ones",
        limit = SERVICE_NETWORKS.len()
    )]
    TooMany(IpNet),
    /// The node's own address is in it.
    #[error(
        "the service network {0} holds the node's own address {1}, so it is left out: all else in it would be \
         dropped; correct the ServiceCIDR or --service-cidr"
    )]
    HoldsNode(IpNet, IpAddr),
    /// Pods' addresses are in it.
    #[error(
        "the service network {0} overlaps the pods' network {1}, so it is left out: all else in it would be dropped; \
         correct the ServiceCIDR or --service-cidr"
    )]
    HoldsPods(IpNet, IpNet),
}

/// Where the node and pods live.
#[derive(Clone, Copy, Debug)]
pub struct Inhabited<'a> {
    /// The node's addresses.
    pub addresses: &'a [IpAddr],
    /// Its pods' networks.
    pub pods: &'a [IpNet],
}

impl Networks {
    /// Rows for the networks where Services get their addresses and for the pods', at most one of each family.
    /// Neighbours and what is inside another are joined first.
    #[must_use]
    pub fn plan(services: &[IpNet], cluster: &[IpNet], inhabited: Inhabited<'_>) -> (Self, Vec<Unusable>) {
        let mut unusable = Vec::new();
        let mut usable: Vec<IpNet> = services.iter().map(IpNet::trunc).collect();
        usable.sort_unstable();
        usable.dedup();
        usable.retain(|network| {
            let flaw = flaw(*network, cluster, inhabited);
            unusable.extend(flaw.clone());
            flaw.is_none()
        });
        let mut joined = IpNet::aggregate(&usable);
        joined.sort_unstable_by_key(|network| (network.prefix_len(), *network));
        let (mut services, mut counts) = (Vec::new(), [0, 0]);
        for network in joined {
            let count = &mut counts[usize::from(network.addr().is_ipv6())];
            *count += 1;
            if *count <= SERVICE_NETWORKS.len() {
                services.push(network);
            } else {
                unusable.push(Unusable::TooMany(network));
            }
        }
        (Self { cluster: cluster.iter().map(IpNet::trunc).collect(), services }, unusable)
    }

    /// The rows of a family.
    #[must_use]
    pub fn rows<A: Address>(&self) -> BTreeMap<u32, Prefix<A>> {
        let prefix = |network: &IpNet| Some(Prefix::new(A::from_ip(network.addr())?, network.prefix_len()));
        let cluster = self.cluster.iter().find_map(prefix).map(|prefix| (CLUSTER_NETWORK, prefix));
        let services = SERVICE_NETWORKS.zip(self.services.iter().filter_map(prefix));
        cluster.into_iter().chain(services).collect()
    }
}

fn flaw(network: IpNet, cluster: &[IpNet], inhabited: Inhabited<'_>) -> Option<Unusable> {
    let held = inhabited.addresses.iter().find(|addr| network.contains(*addr));
    let overlaps = |pods: &&IpNet| network.contains(*pods) || pods.contains(&network);
    let pods = inhabited.pods.iter().chain(cluster).find(overlaps);
    held.map(|addr| Unusable::HoldsNode(network, *addr))
        .or_else(|| pods.map(|pods| Unusable::HoldsPods(network, *pods)))
}

#[cfg(test)]
mod tests {
    use lb_common::address::{V4, V6};

    use super::*;

    const NOBODY: Inhabited<'_> = Inhabited { addresses: &[], pods: &[] };

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn c34_service_networks_get_rows_by_family_the_largest_first() {
        let services = nets("10.96.0.0/16 fd00:96::/112 10.128.0.0/12");
        let (networks, unusable) = Networks::plan(&services, &nets("10.244.0.0/16"), NOBODY);
        assert_eq!(unusable, []);
        let v4 = networks.rows::<V4>();
        assert_eq!(v4.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(v4[&0], Prefix::new(std::net::Ipv4Addr::new(10, 244, 0, 0).into(), 16));
        assert_eq!(v4[&1], Prefix::new(std::net::Ipv4Addr::new(10, 128, 0, 0).into(), 12));
        assert_eq!(networks.rows::<V6>().keys().copied().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn c34_of_too_many_the_largest_count_and_neighbours_are_joined() {
        let (networks, unusable) =
            Networks::plan(&nets("10.0.0.0/24 10.0.1.0/24 10.0.1.128/25 10.0.3.0/24"), &[], NOBODY);
        assert_eq!((networks.services, unusable), (nets("10.0.0.0/23 10.0.3.0/24"), vec![]));
        let six = nets("10.0.0.0/24 10.0.2.0/24 10.0.4.0/24 10.0.6.0/24 10.0.8.0/22 10.0.16.0/24");
        let (networks, unusable) = Networks::plan(&six, &[], NOBODY);
        assert_eq!(networks.services, nets("10.0.8.0/22 10.0.0.0/24 10.0.2.0/24 10.0.4.0/24"));
        assert_eq!(
            unusable,
            nets("10.0.6.0/24 10.0.16.0/24").into_iter().map(Unusable::TooMany).collect::<Vec<_>>()
        );
        assert!(unusable[0].to_string().contains("4 of a family"), "{}", unusable[0]);
    }

    #[test]
    fn c34_a_network_where_somebody_lives_is_left_out() {
        let node: IpAddr = "10.0.0.7".parse().unwrap();
        let pods = nets("10.244.1.0/24");
        let inhabited = Inhabited { addresses: &[node], pods: &pods };
        let services = nets("10.0.0.0/16 10.244.0.0/16 10.96.0.0/12 fd00::/16");
        let (networks, unusable) = Networks::plan(&services, &nets("fd00:1::/32"), inhabited);
        assert_eq!(networks.services, nets("10.96.0.0/12"));
        let [.., first, second, third] = &unusable[..] else { panic!("{unusable:?}") };
        assert_eq!(first, &Unusable::HoldsNode(services[0], node));
        assert_eq!(second, &Unusable::HoldsPods(services[1], pods[0]));
        assert!(matches!(third, Unusable::HoldsPods(..)), "{third}");
        assert!(
            unusable.iter().all(|flaw| !flaw.to_string().contains('\\') && !flaw.to_string().contains("  "))
        );
    }
}
