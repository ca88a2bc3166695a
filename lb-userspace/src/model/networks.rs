//! Where Services get their addresses.
//!
//! Decides what is kept of a ServiceCIDR (contract C34). Invariant: networks have no host bits.

use ipnet::IpNet;

/// A ServiceCIDR: what the API server gives Services their cluster addresses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: String,
    /// Its networks, in the object's order; at most one of each family where the API server had a say.
    pub networks: Vec<IpNet>,
}
