//! What a node's tables say, as the contract talks of it.
//!
//! Decides nothing. Must not know rows, ids' maps or packets. Invariant: within one set no two backends have the same
//! address and port.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// A node's tables.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Service ports.
    pub services: Vec<ServicePort>,
    /// Service addresses, of whose other ports is known that nobody serves them (C34).
    pub whole: BTreeSet<IpAddr>,
    /// Where Services get their addresses (C34).
    pub service_networks: Vec<IpNet>,
    /// The cluster's pods, by family, where the option `clusterCIDR` names them (C26).
    pub pod_networks: Vec<IpNet>,
    /// Connections to frontends that netfilter translates since before: protocol, client, frontend.
    pub foreign: Vec<(u8, SocketAddr, SocketAddr)>,
    /// The option `masquerade: always` (C25).
    pub masquerade_always: bool,
    /// The option `resetOnBackendDelete` (C37).
    pub reset_vanished: bool,
    /// Are the node's own processes served in their system calls?
    pub sockets: bool,
    /// What the outgoing interface masquerades with, by family; none: it has no address.
    pub node: Vec<IpAddr>,
    /// Ports for masqueraded connections.
    pub masquerade_ports: RangeInclusive<u16>,
    /// Seconds after which a connection that nobody answered gives way to another.
    pub opening_timeout: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            whole: BTreeSet::new(),
            service_networks: Vec::new(),
            pod_networks: Vec::new(),
            foreign: Vec::new(),
            masquerade_always: false,
            reset_vanished: false,
            sockets: false,
            node: Vec::new(),
            masquerade_ports: 61_000..=61_999,
            opening_timeout: 60,
        }
    }
}

/// A service port: who serves, and where clients dial.
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// Its number.
    pub id: u32,
    /// [`super::protocol`].
    pub protocol: u8,
    /// Who serves it, of one family.
    pub backends: Vec<Backend>,
    /// Where clients dial.
    pub frontends: Vec<Frontend>,
    /// Seconds that a client stays with its backend; 0: no affinity (C30).
    pub affinity_seconds: u32,
    /// Who may use the guarded frontends (C35).
    pub ranges: Vec<IpNet>,
}

/// Who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its number.
    pub id: u32,
    /// Goes up when the number gets a new owner.
    pub generation: u32,
    /// Where.
    pub address: SocketAddr,
    /// Ready, or terminating and still serving.
    pub serving: bool,
    /// Listed no more (C37).
    pub vanished: bool,
    /// In the cluster set (C11).
    pub in_cluster_set: bool,
    /// In the local set (C12).
    pub in_local_set: bool,
    /// On this node.
    pub here: bool,
}

/// Where clients dial.
#[derive(Clone, Debug)]
pub struct Frontend {
    /// The address and port.
    pub address: SocketAddr,
    /// A NodePort, load balancer IP or external IP; else a ClusterIP.
    pub external: bool,
    /// Only for clients in the service port's ranges (C35).
    pub guarded: bool,
    /// For clients on this node.
    pub inside: Policy,
    /// For everybody else.
    pub outside: Policy,
}

/// What one side of a frontend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The local set, else the cluster set.
    pub local: bool,
    /// Where that is empty: silence (C33) instead of an answer (C32).
    pub silent: bool,
}

impl ServicePort {
    /// The backends that a policy gives.
    pub fn set(&self, policy: Policy) -> impl Iterator<Item = &Backend> {
        self.backends.iter().filter(move |backend| backend.is_in(policy))
    }
}

impl Backend {
    /// Is it in the set that a policy gives?
    #[must_use]
    pub fn is_in(&self, policy: Policy) -> bool {
        if policy.local { self.in_local_set } else { self.in_cluster_set }
    }
}

impl Cluster {
    /// The frontend at that address, port and protocol, and whose it is.
    #[must_use]
    pub fn frontend(&self, protocol: u8, at: SocketAddr) -> Option<(&ServicePort, &Frontend)> {
        let services = self.services.iter().filter(|service| service.protocol == protocol);
        let mut all = services.flat_map(|service| service.frontends.iter().map(move |one| (service, one)));
        all.find(|(_, frontend)| frontend.address == at)
    }

    /// The backend of that service port and number.
    #[must_use]
    pub fn backend(&self, service: u32, id: u32) -> Option<&Backend> {
        let service = self.services.iter().find(|one| one.id == service)?;
        service.backends.iter().find(|backend| backend.id == id)
    }

    /// Is it an address for Services that none has (C34)?
    #[must_use]
    pub fn is_unheld(&self, address: IpAddr) -> bool {
        self.service_networks.iter().any(|network| network.contains(&address))
            && !self.whole.contains(&address)
    }

    /// Is it known to be no pod's?
    #[must_use]
    pub fn is_foreign(&self, address: IpAddr) -> bool {
        let mut known = self.pod_networks.iter().filter(|net| net.addr().is_ipv4() == address.is_ipv4());
        known.next().is_some_and(|network| !network.contains(&address))
    }

    /// What the interface masquerades that family with.
    #[must_use]
    pub fn node_address(&self, v4: bool) -> Option<IpAddr> {
        self.node.iter().copied().find(|address| address.is_ipv4() == v4)
    }
}
