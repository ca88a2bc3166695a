//! What the node is to its Services, as the user says it.
//!
//! Decides which addresses, ports and networks `plan` is told of, by options and by what the Node and the host say.
//! Must not decide what becomes of them. Invariant: whoever plans asks here, so `run` and `plan` agree.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use lb_common::abi::ConfigFlags;

use crate::model::{Families, Node, ObjectName, State};
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
    /// TCP ports of the node's own addresses that no Service may take, beside those that the agent itself listens on and
    /// those of an API server that runs here, as the endpoints of `default/kubernetes` tell it.
    #[arg(long, value_name = "PORT", value_delimiter = ',', default_values_t = RESERVED_PORTS)]
    reserved_ports: Vec<u16>,
    /// Networks that Services get their addresses from, beside those of ServiceCIDR objects: what is sent to an address
    /// there that no Service has is dropped (C34). At most four a family.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    service_cidr: Vec<IpNet>,
    /// What becomes of packets to such an address where they leave the node. Leave them where another proxy, elsewhere,
    /// serves some of the Services (label service.kubernetes.io/service-proxy-name); one on this node is not concerned.
    #[arg(long, value_enum, default_value = "drop")]
    unheld_addresses: Unheld,
    /// The pods' networks, one of each family at most: who reaches a cluster address from elsewhere gets the node's
    /// address (C26).
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    cluster_cidr: Vec<IpNet>,
    /// Whose source address is replaced by the node's.
    #[arg(long, value_enum, default_value = "remote")]
    masquerade: Policy,
    /// What this agent listens on.
    #[arg(skip)]
    listens: Vec<u16>,
}

/// What becomes of packets to an address of a service network that no Service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Unheld {
    /// They are dropped (C34).
    Drop,
    /// They go on, as to any other address.
    Leave,
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

    /// The same, for an agent that listens on these ports.
    pub(super) fn listening(self, ports: impl IntoIterator<Item = u16>) -> Self {
        Self { listens: ports.into_iter().collect(), ..self }
    }

    /// The node's addresses and ports. `host`: every address of the host.
    pub(super) fn site(&self, state: &State, host: &[IpAddr]) -> Site {
        let node = state.node();
        let usable = NodePortAddresses::All.choose(node, host);
        let own_addresses: BTreeSet<IpAddr> = usable.into_iter().chain(addresses(node)).collect();
        let api_servers = api_servers(state).filter(|server| own_addresses.contains(&server.ip()));
        let ports = self.reserved_ports.iter().chain(&self.listens).copied();
        let reserved_ports = ports.chain(api_servers.map(|server| server.port())).collect();
        Site {
            node_port_addresses: self.nodeport_addresses.choose(node, host),
            own_addresses,
            reserved_ports,
        }
    }

    /// The networks to tell apart, and those that cannot be. Of the node's addresses the Node's count: a host may well
    /// have a cluster address, as with a DNS cache on every node.
    pub(super) fn networks(&self, state: &State) -> (Networks, Vec<Unusable>) {
        let services = match self.unheld_addresses {
            Unheld::Drop => self.service_cidr.iter().copied().chain(state.service_networks()).collect(),
            Unheld::Leave => Vec::new(),
        };
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

/// Where API servers listen, whether they are ready or not: as they themselves say in their Service's endpoints.
fn api_servers(state: &State) -> impl Iterator<Item = SocketAddr> + '_ {
    let slices = state.slices_of(&ObjectName::new("default", "kubernetes"));
    slices.flat_map(|slice| {
        let at = |port: u16| slice.endpoints.iter().map(move |endpoint| SocketAddr::new(endpoint.addr, port));
        slice.ports.iter().flat_map(move |port| at(port.port))
    })
}

/// Might such a slice be one of the API servers' own?
pub(super) fn is_of_api_servers(slice: &ObjectName) -> bool {
    slice.namespace() == "default" && slice.name().starts_with("kubernetes")
}

/// The addresses that the Node object names.
pub(super) fn addresses(node: Option<&Node>) -> Vec<IpAddr> {
    let addresses = node.into_iter().flat_map(|node| node.internal_ips.iter().chain(&node.external_ips));
    addresses.copied().collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use lb_common::address::Protocol;

    use super::*;
    use crate::model::{Change, Endpoint, EndpointPort, EndpointSlice, Object};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn slice(service: &str, addresses: &[&str], port: u16) -> Change {
        let endpoint = |address: &&str| Endpoint {
            addr: address.parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            placement: None,
        };
        let name = ObjectName::new("default", service);
        Change::Apply(Object::EndpointSlice(EndpointSlice {
            name: name.clone(),
            service: Some(name),
            version: 1,
            triggered: None,
            ports: vec![EndpointPort { name: "https".to_owned(), protocol: Protocol::TCP, port }].into(),
            endpoints: addresses.iter().map(endpoint).collect(),
        }))
    }

    #[test]
    fn c1_c34_service_networks_are_not_told_apart_where_another_proxy_may_serve_some_of_their_addresses() {
        let networks = |args: &[&str]| {
            let args = Line::parse_from(["x", "--service-cidr", "10.96.0.0/16"].iter().chain(args)).node;
            args.networks(&State::new("here"))
                .0
                .rows::<lb_common::address::V4>()
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(networks(&[]), [1]);
        assert_eq!(networks(&["--unheld-addresses", "leave", "--cluster-cidr", "10.244.0.0/16"]), [0]);
    }

    #[test]
    fn c22_the_ports_that_the_agent_and_an_api_server_here_listen_on_are_reserved_whatever_they_are() {
        let host: Vec<IpAddr> = vec!["192.0.2.7".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        let args = Line::parse_from(["x", "--reserved-ports", "22"]).node.listening([9_256]);
        let mut state = State::new("here".to_owned());
        let reserved = |state: &State| args.site(state, &host).reserved_ports.into_iter().collect::<Vec<_>>();
        assert_eq!(reserved(&state), [22, 9_256]);
        state.take_in(slice("kubernetes", &["192.0.2.8"], 443));
        state.take_in(slice("web", &["192.0.2.7"], 80));
        assert_eq!(reserved(&state), [22, 9_256], "an API server elsewhere");
        state.take_in(slice("kubernetes", &["192.0.2.8", "192.0.2.7"], 16_443));
        assert_eq!(reserved(&state), [22, 9_256, 16_443]);
    }
}
