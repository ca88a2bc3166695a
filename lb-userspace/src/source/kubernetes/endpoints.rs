//! An EndpointSlice.
//!
//! Decides contract C1, C3, C6 and C10 (`publishNotReadyAddresses` shows in `ready`, so no code
//! asks for it). Invariant: an endpoint that cannot be used costs itself only.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::{Endpoint as SourceEndpoint, EndpointSlice as Source};

use super::fields::{address, port, protocol};
use super::service::OTHER_PROXY;
use super::{Converted, FieldPath, Report, nameless, object_name};
use crate::model::{Endpoint, EndpointPort, EndpointSlice, Endpoints, ObjectKey, ObjectName, Placement};

/// Any value of this label says that a slice is of use to cluster DNS only (C1).
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";
/// Names the Service that a slice belongs to (C3).
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Says when the change happened that a slice answers to (C47).
pub(crate) const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Turns an EndpointSlice into the model's.
#[must_use]
pub fn endpoint_slice(source: &Source) -> Converted<EndpointSlice> {
    let name = object_name(&source.metadata);
    if name.name().is_empty() {
        return nameless(ObjectKey::EndpointSlice(name));
    }
    let mut report = Report::new(ObjectKey::EndpointSlice(name.clone()));
    let version =
        source.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
    let service = service_of(source, &name);
    let triggered = triggered(source);
    let empty = EndpointSlice {
        name,
        service,
        version,
        triggered,
        ports: Arc::default(),
        endpoints: Endpoints::default(),
    };
    if empty.service.is_none() {
        return report.done(empty);
    }
    let Some(ipv6) = family(source, &mut report) else { return report.done(empty) };
    let ports = ports(source, &mut report);
    let mut endpoints = Vec::new();
    for (index, endpoint) in source.endpoints.iter().flatten().enumerate() {
        let at = || FieldPath::of("endpoints").item(index).key("addresses");
        let ip = match endpoint.addresses.first() {
            Some(text) => report.keep(|| at().item(0), address(text).and_then(|ip| of_family(ip, ipv6))),
            None => report.keep(at, Err("the endpoint has no address, left out; give it one".to_owned())),
        };
        endpoints.extend(ip.map(|ip| convert(endpoint, ip)));
    }
    report.done(EndpointSlice { ports: ports.into(), endpoints: endpoints.into(), ..empty })
}

/// RFC 3339, with or without a fraction. It is for measurements only, so what cannot be read is passed over.
fn triggered(source: &Source) -> Option<Duration> {
    let text = source.metadata.annotations.as_ref()?.get(TRIGGER_TIME)?;
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_nanosecond()).ok().map(Duration::from_nanos)
}

fn service_of(source: &Source, name: &ObjectName) -> Option<ObjectName> {
    let labels = source.metadata.labels.as_ref()?;
    if labels.contains_key(OTHER_PROXY) || labels.contains_key(HEADLESS) {
        return None;
    }
    let service = labels.get(SERVICE_NAME).filter(|service| !service.is_empty())?;
    Some(ObjectName::new(name.namespace(), service))
}

/// `Some(is IPv6)`; `None` for a slice of names, which cluster DNS answers, or of anything else.
fn family(source: &Source, report: &mut Report) -> Option<bool> {
    match source.address_type.as_str() {
        "IPv4" => Some(false),
        "IPv6" => Some(true),
        "FQDN" => None,
        other => {
            let reason = format!("{other:?} is unknown, so its endpoints are left out; write IPv4 or IPv6");
            report.reject(FieldPath::of("addressType"), reason);
            None
        }
    }
}

fn of_family(ip: IpAddr, ipv6: bool) -> Result<IpAddr, String> {
    if ip.is_ipv6() == ipv6 {
        return Ok(ip);
    }
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    Err(format!(
        "{ip} is not of the slice's addressType {family}, left out; put it into a slice of its own family"
    ))
}

fn ports(source: &Source, report: &mut Report) -> Vec<EndpointPort> {
    let mut kept: Vec<EndpointPort> = Vec::new();
    for (index, source) in source.ports.iter().flatten().enumerate() {
        let at = || FieldPath::of("ports").item(index);
        let number = source.port.ok_or_else(|| "there is no number, left out; write 1 to 65535".to_owned());
        let number = report.keep(|| at().key("port"), number.and_then(port));
        let protocol = report.keep(|| at().key("protocol"), protocol(source.protocol.as_deref()));
        if let (Some(port), Some(protocol)) = (number, protocol) {
            kept.push(EndpointPort { name: source.name.clone().unwrap_or_default(), protocol, port });
        }
    }
    kept
}

fn convert(source: &SourceEndpoint, addr: IpAddr) -> Endpoint {
    let conditions = source.conditions.as_ref();
    let hints = source.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    Endpoint {
        addr,
        ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        placement: Placement::of(
            source.node_name.as_deref(),
            zones.iter().map(|zone| zone.name.clone()),
            nodes.iter().map(|node| node.name.clone()),
        ),
    }
}
