//! Services, endpoints and nodes as this program means them.
//!
//! Decides what is kept of an object and which Services a change concerns. Must not know where
//! objects come from, nor kernels, clocks or I/O. Invariant: values here are valid: what could
//! not be understood was left out, and reported, before it came here.

mod change;
mod endpoints;
mod name;
mod networks;
mod node;
mod packed;
mod placement;
mod service;
mod shared;
mod state;

pub use change::Change;
pub use endpoints::{Endpoint, EndpointPort, EndpointRef, EndpointSlice};
pub use name::ObjectName;
pub use networks::ServiceCidr;
pub use node::Node;
pub use packed::{Endpoints, Iter as EndpointsIter};
pub use placement::Placement;
pub use service::{Families, NotProxied, Service, ServicePort, TrafficPolicy};
pub use shared::Known;
pub use state::{Relisted, State};

/// A kind that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `v1 Node`.
    Node,
    /// `networking.k8s.io/v1 ServiceCIDR`.
    ServiceCidr,
}

/// An object of one of the kinds that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Node.
    Node(Node),
    /// A ServiceCIDR.
    ServiceCidr(ServiceCidr),
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    EndpointSlice(ObjectName),
    /// A Node.
    Node(String),
    /// A ServiceCIDR.
    ServiceCidr(String),
}

impl Object {
    /// Lets go of room that it needs no longer, and of what is `known` already: for who holds many objects
    /// until they are taken in. Room that is let go of later leaves as many holes between what stays.
    pub fn settle(&mut self, known: &mut Known) {
        match self {
            Self::Service(service) => service.shrink(),
            Self::EndpointSlice(slice) => slice.settle(known),
            Self::Node(_) | Self::ServiceCidr(_) => {}
        }
    }

    /// Which object it is.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(service) => ObjectKey::Service(service.name.clone()),
            Self::EndpointSlice(slice) => ObjectKey::EndpointSlice(slice.name.clone()),
            Self::Node(node) => ObjectKey::Node(node.name.clone()),
            Self::ServiceCidr(cidr) => ObjectKey::ServiceCidr(cidr.name.clone()),
        }
    }
}

impl ObjectKey {
    /// Of which kind it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }
}

impl std::fmt::Display for Kind {
    /// `Service`, as it stands in manifests.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        })
    }
}

impl std::fmt::Display for ObjectKey {
    /// `Service namespace/name`, as people write it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Service(name) | Self::EndpointSlice(name) => write!(f, "{} {name}", self.kind()),
            Self::Node(name) | Self::ServiceCidr(name) => write!(f, "{} {name}", self.kind()),
        }
    }
}
