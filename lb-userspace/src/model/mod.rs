//! Services, endpoints and nodes as this program means them.
//!
//! Decides what is kept of an object and which Services a change concerns. Must not know where
//! objects come from, nor kernels, clocks or I/O. Invariant: values here are valid: what could
//! not be understood was left out, and reported, before it came here.

mod change;
mod endpoints;
mod networks;
mod node;
mod placement;
mod service;
mod state;

use std::sync::Arc;

pub use change::Change;
pub use endpoints::{Endpoint, EndpointPort, EndpointSlice};
pub use networks::ServiceCidr;
pub use node::Node;
pub use placement::{Placement, Placements};
pub use service::{Families, NotProxied, Service, ServicePort, TrafficPolicy};
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

/// A namespace and a name. Sorts by namespace, then name. Copies share the text: an object's name stands in many
/// places at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Arc<NameParts>);

/// What an [`ObjectName`] is made of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameParts {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
}

impl ObjectName {
    /// The name of an object.
    #[must_use]
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self(Arc::new(NameParts { namespace: namespace.as_ref().into(), name: name.as_ref().into() }))
    }
}

impl std::ops::Deref for ObjectName {
    type Target = NameParts;

    fn deref(&self) -> &NameParts {
        &self.0
    }
}

impl std::fmt::Display for ObjectName {
    /// `namespace/name`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
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
    /// Lets go of room that it needs no longer, and of placements that are `known` already: for who holds many objects
    /// until they are taken in. Room that is let go of later leaves as many holes between what stays.
    pub fn settle(&mut self, known: &mut Placements) {
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
