//! A Node.
//!
//! Decides which of its addresses, labels and taints count (contract C13, C17, C46).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Node as Source;

use super::fields::{address, network};
use super::{Converted, FieldPath, Report, nameless};
use crate::model::{Node, ObjectKey};

const ZONE: &str = "topology.kubernetes.io/zone";
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// Turns a Node into the model's.
#[must_use]
pub fn node(source: &Source) -> Converted<Node> {
    let name = source.metadata.name.clone().unwrap_or_default();
    if name.is_empty() {
        return nameless(ObjectKey::Node(name));
    }
    let mut report = Report::new(ObjectKey::Node(name.clone()));
    let (mut internal_ips, mut external_ips): (Vec<IpAddr>, Vec<IpAddr>) = Default::default();
    let addresses = source.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    for (index, entry) in addresses.iter().enumerate() {
        let kept = match entry.type_.as_str() {
            "InternalIP" => &mut internal_ips,
            "ExternalIP" => &mut external_ips,
            _ => continue,
        };
        let at = || FieldPath::of("status.addresses").item(index).key("address");
        kept.extend(report.keep(at, address(&entry.address)));
    }
    let spec = source.spec.as_ref();
    let mut pod_cidrs = Vec::new();
    for (index, text) in
        spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default().iter().enumerate()
    {
        pod_cidrs.extend(report.keep(|| FieldPath::of("spec.podCIDRs").item(index), network(text)));
    }
    let taints = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let leaving =
        source.metadata.deletion_timestamp.is_some() || taints.iter().any(|taint| taint.key == LEAVING);
    let zone = source.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned();
    report.done(Node { name, internal_ips, external_ips, zone, pod_cidrs, leaving })
}
