//! What a service port is to be on this node, before any id or row exists.
//!
//! The hinge between choosing (contract C1 to C22, C30, C32, C33) and laying out rows. Must not
//! know maps. Invariant: addresses in a set are sorted and unique, and each is in `backends`.

use std::net::{IpAddr, SocketAddr};

use lb_common::address::Protocol;

use crate::model::{ObjectName, TrafficPolicy};

/// The name of a service port: what owns frontends, ids and affinity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: ObjectName,
    /// The port's name; empty where it has none.
    pub port: Box<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
}

impl std::fmt::Display for ServicePortName {
    /// `namespace/service:port/protocol`, also the text in the `SERVICE_PORTS` map.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.service, self.port, self.protocol)
    }
}

/// What a service port is to be on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whose it is.
    pub name: ServicePortName,
    /// What clients dial, both families, sorted by address and port.
    pub frontends: Vec<Frontend>,
    /// Every backend that is listed, both families, sorted by address. A superset of all sets: one that serves outside
    /// of any set still keeps its UDP flows (C36), and one that does not serve is not one that vanished (C37).
    pub backends: Vec<Backend>,
}

/// What a client dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The address; `None` for a NodePort, which stands for every chosen node address of `ipv6`.
    pub addr: Option<IpAddr>,
    /// Of a NodePort: the node addresses at which another Service was first (C22).
    pub except: Vec<IpAddr>,
    /// The family.
    pub ipv6: bool,
    /// The port.
    pub port: u16,
    /// Where it comes from.
    pub kind: FrontendKind,
    /// The Service's `externalTrafficPolicy`; with `Local` an external frontend keeps its clients' source address (C24).
    pub external_policy: TrafficPolicy,
    /// For pods of this node and the node itself.
    pub inside: BackendSet,
    /// For everyone else.
    pub outside: BackendSet,
    /// Is `inside` the service port's local set (C12), not its cluster set (C11)?
    pub inside_local: bool,
    /// The same of `outside`.
    pub outside_local: bool,
    /// Seconds of ClientIP affinity (C30).
    pub affinity_seconds: Option<u32>,
    /// `loadBalancerSourceRanges` of the frontend's family (C35); empty: open.
    pub source_ranges: Vec<ipnet::IpNet>,
}

/// Where a frontend comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `clusterIPs` (C16).
    ClusterIp,
    /// `nodePort` (C17).
    NodePort,
    /// `status.loadBalancer.ingress` (C18).
    LoadBalancer,
    /// `externalIPs` (C19).
    ExternalIp,
    /// What of an address in `clusterIPs` no port is of (C34): refuses all. Its port is 0.
    Whole,
}

/// What a class of clients gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendSet {
    /// One of these; never empty.
    Backends(Vec<SocketAddr>),
    /// A refusal (C32).
    Reject,
    /// Silence (C33).
    Drop,
}

/// An endpoint of the service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Does it serve (C36)?
    pub serving: bool,
    /// Is it on this node (C9)?
    pub local: bool,
}
