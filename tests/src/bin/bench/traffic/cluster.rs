//! The Services that all contenders have, as rules are made of them and as the API has them.
//!
//! Decides names, addresses and node ports. Must not know who translates. Invariant: the first, the last and the one
//! for datagrams lead to the node's own backends, the two remote ones to another node's; nobody dials the others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_tests::lab::{Lab, Node};
use lb_tests::peers::Service;
use serde_json::{Value, json};

use super::load::POD_PORT;

/// The pods' range; endpoints that nobody dials are outside of it.
pub(super) const PODS: &str = "10.244.0.0/16";
/// Services that have a node port: about as many as there are such ports.
const NODE_PORTS: u32 = 2_000;
/// The first of them; behind those of the Services that are counted come the three others.
const FIRST_NODE_PORT: u16 = 30_000;
const DATAGRAMS_NODE_PORT: u16 = 32_500;
const REMOTE_NODE_PORT: u16 = 32_501;
const REMOTE_DATAGRAMS_NODE_PORT: u16 = 32_502;

/// Which Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    First,
    Last,
    Datagrams,
    /// Behind all others, with its backends on another node.
    Remote,
    RemoteDatagrams,
}

impl Which {
    /// The Service's own address.
    pub(super) fn cluster_ip(self, services: u32) -> SocketAddr {
        match self {
            Self::First => cluster_ip(0),
            Self::Last => cluster_ip(services.max(1) - 1),
            Self::Datagrams => special_ip(1, 53),
            Self::Remote => special_ip(2, 80),
            Self::RemoteDatagrams => special_ip(3, 53),
        }
    }

    /// Its port on the nodes.
    pub(super) fn node_port(self, services: u32) -> u16 {
        match self {
            Self::First => FIRST_NODE_PORT,
            Self::Last => node_port(services.max(1) - 1, services).unwrap_or(FIRST_NODE_PORT),
            Self::Datagrams => DATAGRAMS_NODE_PORT,
            Self::Remote => REMOTE_NODE_PORT,
            Self::RemoteDatagrams => REMOTE_DATAGRAMS_NODE_PORT,
        }
    }

    /// Are its backends on another node?
    pub(super) fn is_remote(self) -> bool {
        matches!(self, Self::Remote | Self::RemoteDatagrams)
    }
}

/// That many Services, and those for datagrams and remote ones; in the order in which rules list them.
pub(super) fn services(lab: &Lab, services: u32) -> Vec<Service> {
    let pods = |names: [&str; 2]| names.map(|pod| lab.pod(pod).v4_at(POD_PORT)).to_vec();
    let (near, far) = (pods(["a", "b"]), pods(["c", "d"]));
    let others = |number: u32| {
        let pod = |index| Ipv4Addr::from_bits(0x0aa0_0001 + 2 * number + index);
        (0..2).map(|index| SocketAddr::new(IpAddr::V4(pod(index)), POD_PORT)).collect()
    };
    let counted = (0..services).map(|number| Service {
        name: format!("bench/s{number}"),
        frontend: cluster_ip(number),
        udp: false,
        node_port: node_port(number, services),
        endpoints: if number == 0 || number + 1 == services { near.clone() } else { others(number) },
    });
    let special = |name: &str, which: Which, udp: bool| Service {
        name: format!("bench/{name}"),
        frontend: which.cluster_ip(services),
        udp,
        node_port: Some(which.node_port(services)),
        endpoints: if which.is_remote() { far.clone() } else { near.clone() },
    };
    let first = [special("datagrams", Which::Datagrams, true)];
    let last =
        [special("remote", Which::Remote, false), special("remote-datagrams", Which::RemoteDatagrams, true)];
    first.into_iter().chain(counted).chain(last).collect()
}

/// The first Services have a node port, and the last one.
fn node_port(number: u32, services: u32) -> Option<u16> {
    let place = if number + 1 == services { number.min(NODE_PORTS - 1) } else { number };
    let last = place + 1 == NODE_PORTS && number + 1 < services;
    (place < NODE_PORTS && !last).then(|| FIRST_NODE_PORT + u16::try_from(place).unwrap_or(0))
}

fn cluster_ip(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0001 + number)), 80)
}

fn special_ip(number: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 98, 0, number)), port)
}

/// A Service and its slice, as the API has them.
pub(super) fn objects(lab: &Lab, service: &Service) -> [Value; 2] {
    let (namespace, name) = service.name.split_once('/').unwrap_or(("default", &service.name));
    let (ip, protocol) = (service.frontend.ip(), if service.udp { "UDP" } else { "TCP" });
    let node_of = |ip: IpAddr| lab.pods().iter().find(|pod| pod.has(ip)).map_or("node1", |pod| &pod.node);
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({ "addresses": [endpoint.ip()], "nodeName": node_of(endpoint.ip()),
                    "conditions": { "ready": true, "serving": true, "terminating": false } })
        })
        .collect();
    let mut port = json!({ "name": "p", "port": service.frontend.port(), "protocol": protocol,
                           "targetPort": POD_PORT });
    let mut kind = "ClusterIP";
    if let Some(node_port) = service.node_port {
        (port["nodePort"], kind) = (json!(node_port), "NodePort");
    }
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "type": kind, "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster",
                "ports": [port],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("{name}-1"), "namespace": namespace,
                          "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "p", "port": POD_PORT, "protocol": protocol }],
        }),
    ]
}

/// A Node, as the API has it.
pub(super) fn node_object(node: &Node) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": node.name, "labels": { "kubernetes.io/hostname": node.name } },
        "spec": { "podCIDR": format!("10.244.{}.0/24", node.number),
                  "podCIDRs": [format!("10.244.{}.0/24", node.number)] },
        "status": { "addresses": [{ "type": "InternalIP", "address": node.v4 },
                                  { "type": "Hostname", "address": node.name }] },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_first_and_the_last_service_have_a_node_port_and_no_two_have_the_same() {
        for services in [1, 2, 1_999, 2_000, 2_001, 50_000] {
            let ports: Vec<u16> = (0..services).filter_map(|number| node_port(number, services)).collect();
            assert_eq!(ports.len(), ports.iter().collect::<BTreeSet<_>>().len(), "{services}");
            assert_eq!(ports.first(), Some(&Which::First.node_port(services)), "{services}");
            assert_eq!(ports.last(), Some(&Which::Last.node_port(services)), "{services}");
            assert!(ports.iter().all(|port| (30_000..32_000).contains(port)), "{services}");
        }
    }
}
