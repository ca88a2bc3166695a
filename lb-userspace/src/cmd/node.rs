//! What the node is to its Services, as the user says it.
//!
//! Decides which addresses, ports and networks `plan` is told of, by options and by what the Node and the host say.
//! Must not decide what becomes of them. Invariant: whoever plans asks here, so `run` and `plan` agree.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::abi::ConfigFlags;

use crate::model::{Families, Node, State};
use crate::plan::frontends::NodePortAddresses;
use crate::plan::networks::{Inhabited, Networks, Unusable};
use crate::plan::site::{RESERVED_PORTS, Site};
use crate::plan::truth::Masquerade;

/// What the node is to its Services.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Node and networks")]
pub(super) struct NodeArgs {
    /// The node's addresses that NodePorts are served on: primary (the Node's InternalIPs), all, or those in networks,
    /// separated by commas.
    #[arg(long, value_name = "primary|all|CIDR,...", default_value = "primary")]
    nodeport_addresses: NodePortAddresses,
    /// TCP ports of the node's own addresses that no Service may take: the agent's and the API server's.
    #[arg(long, value_name = "PORT", value_delimiter = ',', default_values_t = RESERVED_PORTS)]
    reserved_ports: Vec<u16>,
    /// Networks that Services get their addresses from, beside those of ServiceCIDR objects: what is sent to an address
    /// there that no Service has is dropped (C34). At most four a family.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    service_cidr: Vec<IpNet>,
    /// The pods' networks, one of each family at most: who reaches a cluster address from elsewhere gets the node's
    /// address (C26).
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    cluster_cidr: Vec<IpNet>,
    /// Whose source address is replaced by the node's.
    #[arg(long, value_enum, default_value = "remote")]
    masquerade: Policy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Policy {
    /// That of clients outside, towards backends of other nodes: where the reply would miss this node (C25, C26).
    Remote,
    /// Wherever kube-proxy does it.
    Always,
}

fn network(text: &str) -> Result<IpNet, String> {
    let network: IpNet =
        text.trim().parse().map_err(|_| "expected a network, as in 10.96.0.0/12 or fd00::/108".to_owned())?;
    Ok(network.trunc())
}

impl NodeArgs {
    /// The pods' networks, as far as they are known: those of the cluster if they were given, else the node's own.
    pub(super) fn pod_networks(&self, node: Option<&Node>) -> Vec<IpNet> {
        if self.cluster_cidr.is_empty() {
            return node.map(|node| node.pod_cidrs.clone()).unwrap_or_default();
        }
        self.cluster_cidr.clone()
    }

    /// Is what was said of one piece?
    ///
    /// # Errors
    /// Where two networks of pods are of one family.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for ipv6 in [false, true] {
            let of_family: Vec<_> =
                self.cluster_cidr.iter().filter(|network| network.addr().is_ipv6() == ipv6).collect();
            if let [first, second, ..] = of_family[..] {
                anyhow::bail!(
                    "--cluster-cidr names {first} and {second}: give one network of each family, which holds both"
                );
            }
        }
        Ok(())
    }

    /// The node's addresses and ports. `host`: every address of the host.
    pub(super) fn site(&self, node: Option<&Node>, host: &[IpAddr]) -> Site {
        let usable = NodePortAddresses::All.choose(node, host);
        Site {
            node_port_addresses: self.nodeport_addresses.choose(node, host),
            own_addresses: usable.into_iter().chain(addresses(node)).collect(),
            reserved_ports: self.reserved_ports.iter().copied().collect(),
        }
    }

    /// The networks to tell apart, and those that cannot be. Of the node's addresses the Node's count: a host may well
    /// have a cluster address, as with a DNS cache on every node.
    pub(super) fn networks(&self, state: &State) -> (Networks, Vec<Unusable>) {
        let mut services = self.service_cidr.clone();
        services.extend(state.service_networks());
        let addresses = addresses(state.node());
        let pods = state.node().map(|node| node.pod_cidrs.as_slice()).unwrap_or_default();
        Networks::plan(&services, &self.cluster_cidr, Inhabited { addresses: &addresses, pods })
    }

    /// Who is masqueraded.
    pub(super) fn masquerade(&self) -> Masquerade {
        let known = |ipv6| self.cluster_cidr.iter().any(|network| network.addr().is_ipv6() == ipv6);
        let pods_known = Families { v4: known(false), v6: known(true) };
        Masquerade { always: self.masquerade == Policy::Always, pods_known }
    }

    /// The same, for the datapath.
    pub(super) fn flags(&self) -> ConfigFlags {
        ConfigFlags(if self.masquerade == Policy::Always { ConfigFlags::MASQUERADE_ALWAYS } else { 0 })
    }
}

/// The addresses that the Node object names.
pub(super) fn addresses(node: Option<&Node>) -> Vec<IpAddr> {
    let addresses = node.into_iter().flat_map(|node| node.internal_ips.iter().chain(&node.external_ips));
    addresses.copied().collect()
}
