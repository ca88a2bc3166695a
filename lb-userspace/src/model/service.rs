//! A Service as this program means it.
//!
//! Decides which of its fields count (contract C1, C2, C16 to C20, C30, C35). Must not know
//! endpoints. Invariant: ports are 1 to 65535, addresses are parsed and may be dialled, source
//! ranges are networks.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::address::Protocol;
use thin_vec::ThinVec;

use super::ObjectName;

/// A Service. There may be tens of thousands: lists that most have nothing in are a pointer each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// When it was created, in seconds since 1970; `None` where the object does not say, which
    /// counts as later than any (C22).
    pub created: Option<i64>,
    /// Why it is left alone, if it is (C1, C2).
    pub not_proxied: Option<NotProxied>,
    /// Its cluster addresses, at most one of each family (C16).
    pub cluster_ips: Vec<IpAddr>,
    /// The families it serves.
    pub families: Families,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Addresses that lead here by the network's own doing (C19).
    pub external_ips: ThinVec<IpAddr>,
    /// Load balancer addresses whose packets arrive with that destination (C18).
    pub load_balancer_ips: ThinVec<IpAddr>,
    /// Who may use the load balancer addresses; a family without any is open (C35).
    pub source_ranges: ThinVec<IpNet>,
    /// For clients of the cluster address (C14).
    pub internal_policy: TrafficPolicy,
    /// For clients of every other address (C15).
    pub external_policy: TrafficPolicy,
    /// Seconds of ClientIP affinity; `None`: no affinity (C30).
    pub affinity_seconds: Option<u32>,
    /// Where load balancers ask for local endpoints (C45).
    pub health_check_node_port: Option<u16>,
}

impl Service {
    /// Lets go of the room that lists were given in advance: there are many Services, with lists of one item each.
    pub(super) fn shrink(&mut self) {
        self.cluster_ips.shrink_to_fit();
        self.ports.shrink_to_fit();
        self.ports.iter_mut().for_each(|port| port.name.shrink_to_fit());
        self.external_ips.shrink_to_fit();
        self.load_balancer_ips.shrink_to_fit();
        self.source_ranges.shrink_to_fit();
    }

    /// A Service of that name without addresses and ports, and with what the API takes for granted otherwise.
    #[must_use]
    pub fn bare(name: ObjectName) -> Self {
        Self {
            name,
            created: None,
            not_proxied: None,
            cluster_ips: Vec::new(),
            families: Families::default(),
            ports: Vec::new(),
            external_ips: ThinVec::new(),
            load_balancer_ips: ThinVec::new(),
            source_ranges: ThinVec::new(),
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            affinity_seconds: None,
            health_check_node_port: None,
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// What clients dial.
    pub port: u16,
    /// What they dial on a node's address; `None`: no NodePort (C20).
    pub node_port: Option<u16>,
}

/// Which address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Is the family of `ip` among them?
    #[must_use]
    pub fn of(self, ip: &IpAddr) -> bool {
        if ip.is_ipv6() { self.v6 } else { self.v4 }
    }
}

/// Whose endpoints may serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any node's.
    #[default]
    Cluster,
    /// This node's only.
    Local,
}

/// Why a Service is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotProxied {
    /// It carries `service.kubernetes.io/service-proxy-name`: another proxy's.
    OtherProxy,
    /// `clusterIP: None`: cluster DNS answers with the endpoints.
    Headless,
    /// It has no cluster address yet.
    NoClusterIp,
    /// `type: ExternalName`: cluster DNS answers with the name.
    ExternalName,
}

impl NotProxied {
    /// For people.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::OtherProxy => {
                "the label service.kubernetes.io/service-proxy-name gives it to another proxy"
            }
            Self::Headless => "it is headless (clusterIP: None): cluster DNS answers with its endpoints",
            Self::NoClusterIp => "it has no clusterIP yet: the API server assigns one, or write one",
            Self::ExternalName => "its type is ExternalName: cluster DNS answers with that name",
        }
    }
}
