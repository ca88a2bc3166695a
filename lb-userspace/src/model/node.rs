//! A Node as this program means it.
//!
//! Decides what is kept of it (contract C13, C17, C46). Invariant: addresses are parsed; names
//! in the object's address list are not addresses.

use std::net::IpAddr;

use ipnet::IpNet;

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its InternalIPs, in the object's order.
    pub internal_ips: Vec<IpAddr>,
    /// Its ExternalIPs, in the object's order.
    pub external_ips: Vec<IpAddr>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Its pods' networks.
    pub pod_cidrs: Vec<IpNet>,
    /// Is it being deleted, or about to be by the cluster autoscaler (C46)?
    pub leaving: bool,
}
