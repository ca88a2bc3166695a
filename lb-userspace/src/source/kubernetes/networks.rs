//! A ServiceCIDR.
//!
//! Decides which of its networks count (contract C34).

use k8s_openapi::api::networking::v1::ServiceCIDR as Source;

use super::fields::network;
use super::{Converted, FieldPath, Report, nameless};
use crate::model::{ObjectKey, ServiceCidr};

/// Turns a ServiceCIDR into the model's. One that is being deleted counts until it is gone: Services may
/// still have addresses of it.
#[must_use]
pub fn service_cidr(source: &Source) -> Converted<ServiceCidr> {
    let name = source.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        return nameless(ObjectKey::ServiceCidr(name));
    }
    let mut report = Report::new(ObjectKey::ServiceCidr(name.clone()));
    let listed = source.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    let mut networks = Vec::new();
    for (index, text) in listed.iter().enumerate() {
        networks.extend(report.keep(|| FieldPath::of("spec.cidrs").item(index), network(text)));
    }
    report.done(ServiceCidr { name, networks })
}
