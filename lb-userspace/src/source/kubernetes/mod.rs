//! Kubernetes' objects, as the API server or a manifest has them, turned into the model's.
//!
//! Decides which kinds count (contract C5) and how a field is understood. Must not know files,
//! watches or the network. Invariant: total; whatever cannot be used is in `rejected`.

mod endpoints;
mod fields;
mod networks;
mod node;
mod service;

pub use crate::model::Kind;
pub use endpoints::endpoint_slice;
pub(super) use endpoints::{HEADLESS, SERVICE_NAME, TRIGGER_TIME};
pub use networks::service_cidr;
pub use node::node;
pub(super) use service::OTHER_PROXY;
pub use service::service;

use super::{FieldPath, Rejected};
use crate::model::{ObjectKey, ObjectName};

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted<T> {
    /// What could be used of it; `None` where it has no usable name.
    pub object: Option<T>,
    /// What could not.
    pub rejected: Vec<Rejected>,
}

impl Kind {
    /// The kind of an object, if it is one that counts.
    #[must_use]
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "Service") => Some(Self::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Self::EndpointSlice),
            ("v1", "Node") => Some(Self::Node),
            ("networking.k8s.io/v1", "ServiceCIDR") => Some(Self::ServiceCidr),
            _ => None,
        }
    }

    /// The key of an object of this kind. `namespace` is of no use to Nodes and ServiceCIDRs.
    #[must_use]
    pub fn key(self, namespace: &str, name: &str) -> ObjectKey {
        match self {
            Self::Service => ObjectKey::Service(ObjectName::new(namespace, name)),
            Self::EndpointSlice => ObjectKey::EndpointSlice(ObjectName::new(namespace, name)),
            Self::Node => ObjectKey::Node(name.to_owned()),
            Self::ServiceCidr => ObjectKey::ServiceCidr(name.to_owned()),
        }
    }
}

/// Gathers what is wrong with one object.
struct Report {
    object: ObjectKey,
    rejected: Vec<Rejected>,
}

impl Report {
    fn new(object: ObjectKey) -> Self {
        Self { object, rejected: Vec::new() }
    }

    fn reject(&mut self, field: FieldPath, reason: impl Into<String>) {
        self.rejected.push(Rejected { object: self.object.clone(), field, reason: reason.into() });
    }

    /// Takes the value, or reports why there is none. The path is made only then: a large cluster has a million values,
    /// and each path takes several allocations.
    fn keep<T>(&mut self, field: impl FnOnce() -> FieldPath, value: Result<T, String>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(reason) => {
                self.reject(field(), reason);
                None
            }
        }
    }

    fn done<T>(self, object: T) -> Converted<T> {
        Converted { object: Some(object), rejected: self.rejected }
    }
}

/// The answer to an object without a name.
fn nameless<T>(key: ObjectKey) -> Converted<T> {
    let mut report = Report::new(key);
    report.reject(FieldPath::of("metadata.name"), "the object has no name, so it is left out; give it one");
    Converted { object: None, rejected: report.rejected }
}

/// The name of a namespaced object; a missing namespace means `default`, as kubectl has it.
fn object_name(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ObjectName {
    let namespace = meta.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    ObjectName::new(namespace, meta.name.as_deref().unwrap_or_default())
}
