//! A Service.
//!
//! Decides contract C1, C2, C18's `ipMode`, C20 and the defaults of C30. Invariant: an unusable
//! source range never opens what it was to guard.
//!
//! The label `service.kubernetes.io/headless` alone does not make a Service headless: kube-proxy
//! 1.36 skips the slices that carry it and keeps the Service, whose frontends then reject. The
//! recordings show it, so it is the same here; only `clusterIP: None` skips the Service.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service as Source, ServiceSpec};

use super::fields::{address, network, one_of, port, protocol};
use super::{Converted, FieldPath, Report, nameless, object_name};
use crate::model::{Families, NotProxied, ObjectKey, Service, ServicePort, TrafficPolicy};

/// Any value of this label gives a Service or slice to another proxy (C1).
pub(crate) const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// Seconds of ClientIP affinity where the object names none (C30).
const AFFINITY_SECONDS: i32 = 10_800;
/// The longest affinity that the API allows (C30).
const AFFINITY_SECONDS_MAX: i32 = 86_400;

/// Turns a Service into the model's.
#[must_use]
pub fn service(source: &Source) -> Converted<Service> {
    let name = object_name(&source.metadata);
    if name.name().is_empty() {
        return nameless(ObjectKey::Service(name));
    }
    let mut report = Report::new(ObjectKey::Service(name.clone()));
    let empty = ServiceSpec::default();
    let spec = source.spec.as_ref().unwrap_or(&empty);
    let not_proxied = not_proxied(source, spec);
    if not_proxied.is_some() {
        let service = Service { not_proxied, ..bare(name, source) };
        return report.done(service);
    }
    let cluster_ips = cluster_ips(spec, &mut report);
    let source_ranges = source_ranges(spec, &mut report);
    let mut load_balancer_ips = load_balancer_ips(source, &mut report);
    guard(spec, &source_ranges, &mut load_balancer_ips, &mut report);
    let service = Service {
        families: families(spec, &cluster_ips),
        cluster_ips,
        ports: ports(spec, &mut report),
        external_ips: addresses(spec.external_ips.as_deref(), "spec.externalIPs", &mut report).into(),
        load_balancer_ips: load_balancer_ips.into(),
        source_ranges: source_ranges.into(),
        internal_policy: policy(
            spec.internal_traffic_policy.as_deref(),
            "spec.internalTrafficPolicy",
            &mut report,
        ),
        external_policy: policy(
            spec.external_traffic_policy.as_deref(),
            "spec.externalTrafficPolicy",
            &mut report,
        ),
        affinity_seconds: affinity(spec, &mut report),
        health_check_node_port: health_check(spec, &mut report),
        ..bare(name, source)
    };
    report.done(service)
}

fn bare(name: crate::model::ObjectName, source: &Source) -> Service {
    let created = source.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    Service { created, ..Service::bare(name) }
}

fn not_proxied(source: &Source, spec: &ServiceSpec) -> Option<NotProxied> {
    let labelled =
        |label: &str| source.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(label));
    let first_listed = spec.cluster_ips.iter().flatten().map(String::as_str).next();
    let cluster_ip = spec.cluster_ip.as_deref().or(first_listed);
    if labelled(OTHER_PROXY) {
        Some(NotProxied::OtherProxy)
    } else if spec.type_.as_deref() == Some("ExternalName") {
        Some(NotProxied::ExternalName)
    } else {
        match cluster_ip {
            Some("None") => Some(NotProxied::Headless),
            None | Some("") => Some(NotProxied::NoClusterIp),
            Some(_) => None,
        }
    }
}

/// `clusterIPs`, or `clusterIP` where a person wrote only that; the first of each family.
fn cluster_ips(spec: &ServiceSpec, report: &mut Report) -> Vec<IpAddr> {
    let listed = match (spec.cluster_ips.as_deref().filter(|listed| !listed.is_empty()), &spec.cluster_ip) {
        (Some(listed), _) => addresses(Some(listed), "spec.clusterIPs", report),
        (None, Some(one)) => {
            report.keep(|| FieldPath::of("spec.clusterIP"), address(one)).into_iter().collect()
        }
        (None, None) => Vec::new(),
    };
    let mut kept: Vec<IpAddr> = Vec::new();
    for ip in listed {
        if kept.iter().any(|other| other.is_ipv6() == ip.is_ipv6()) {
            let reason =
                format!("{ip} is the second of its family, left out; a Service has one of each at most");
            report.reject(FieldPath::of("spec.clusterIPs"), reason);
        } else {
            kept.push(ip);
        }
    }
    kept
}

/// The families of the cluster addresses. Where all of those are unusable, what `ipFamilies` says,
/// so that the other frontends stay.
fn families(spec: &ServiceSpec, cluster_ips: &[IpAddr]) -> Families {
    let named = |family: &str| spec.ip_families.iter().flatten().any(|name| name == family);
    let (v4, v6) = if cluster_ips.is_empty() {
        (named("IPv4"), named("IPv6"))
    } else {
        (cluster_ips.iter().any(IpAddr::is_ipv4), cluster_ips.iter().any(IpAddr::is_ipv6))
    };
    Families { v4, v6 }
}

fn addresses(listed: Option<&[String]>, field: &str, report: &mut Report) -> Vec<IpAddr> {
    let items = listed.unwrap_or_default().iter().enumerate();
    items
        .filter_map(|(index, text)| report.keep(|| FieldPath::of(field).item(index), address(text)))
        .collect()
}

fn ports(spec: &ServiceSpec, report: &mut Report) -> Vec<ServicePort> {
    let mut kept: Vec<ServicePort> = Vec::new();
    for (index, source) in spec.ports.iter().flatten().enumerate() {
        let at = || FieldPath::of("spec.ports").item(index);
        let number = report.keep(|| at().key("port"), port(source.port));
        let protocol = report.keep(|| at().key("protocol"), protocol(source.protocol.as_deref()));
        let (Some(number), Some(protocol)) = (number, protocol) else { continue };
        let name = source.name.clone().unwrap_or_default();
        let node_port = source.node_port.filter(|&number| number != 0);
        let node_port = node_port.and_then(|number| report.keep(|| at().key("nodePort"), port(number)));
        let taken =
            |other: &ServicePort| other.protocol == protocol && (other.name == name || other.port == number);
        if kept.iter().any(taken) {
            let reason = format!(
                "another port of this Service has the name {name:?} or the number {number} with {protocol}, so this one is \
                 left out; give each its own"
            );
            report.reject(at(), reason);
        } else {
            kept.push(ServicePort { name, protocol, port: number, node_port });
        }
    }
    kept
}

fn load_balancer_ips(source: &Source, report: &mut Report) -> Vec<IpAddr> {
    let status = source.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let mut kept = Vec::new();
    for (index, entry) in ingress.iter().enumerate() {
        let at = || FieldPath::of("status.loadBalancer.ingress").item(index);
        let mode = entry.ip_mode.as_deref().unwrap_or("VIP");
        let is_vip = one_of(mode, &[("VIP", true), ("Proxy", false)], "Proxy");
        let is_vip = report.keep(|| at().key("ipMode"), is_vip).unwrap_or(false);
        let Some(text) = entry.ip.as_deref().filter(|text| !text.is_empty() && is_vip) else { continue };
        kept.extend(report.keep(|| at().key("ip"), address(text)));
    }
    kept
}

fn source_ranges(spec: &ServiceSpec, report: &mut Report) -> Vec<IpNet> {
    let listed = spec.load_balancer_source_ranges.iter().flatten().enumerate();
    let at = |index| FieldPath::of("spec.loadBalancerSourceRanges").item(index);
    listed.filter_map(|(index, text)| report.keep(|| at(index), network(text))).collect()
}

/// A family without a range is open (C35), but not because its ranges were unusable.
fn guard(spec: &ServiceSpec, ranges: &[IpNet], addresses: &mut Vec<IpAddr>, report: &mut Report) {
    let written = spec.load_balancer_source_ranges.as_ref().map_or(0, Vec::len);
    if written == ranges.len() {
        return;
    }
    let is_ipv6 = |range: &IpNet| matches!(range, IpNet::V6(_));
    addresses.retain(|ip| {
        let guarded = ranges.iter().any(|range| is_ipv6(range) == ip.is_ipv6());
        if !guarded {
            let reason = format!(
                "{ip} is not served, since the ranges that were to guard it are unusable; correct \
                 spec.loadBalancerSourceRanges"
            );
            report.reject(FieldPath::of("status.loadBalancer.ingress"), reason);
        }
        guarded
    });
}

fn policy(name: Option<&str>, field: &str, report: &mut Report) -> TrafficPolicy {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return TrafficPolicy::Cluster };
    let known = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
    report.keep(|| FieldPath::of(field), one_of(name, &known, "Cluster")).unwrap_or_default()
}

fn affinity(spec: &ServiceSpec, report: &mut Report) -> Option<u32> {
    let name = spec.session_affinity.as_deref().filter(|name| !name.is_empty())?;
    let wanted = one_of(name, &[("None", false), ("ClientIP", true)], "None");
    if !report.keep(|| FieldPath::of("spec.sessionAffinity"), wanted)? {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    let valid = if (1..=AFFINITY_SECONDS_MAX).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!(
            "{seconds} is out of range, {AFFINITY_SECONDS} is used instead; write 1 to {AFFINITY_SECONDS_MAX}"
        ))
    };
    let field = || FieldPath::of("spec.sessionAffinityConfig.clientIP.timeoutSeconds");
    Some(report.keep(field, valid).unwrap_or(AFFINITY_SECONDS).unsigned_abs())
}

/// Only load balancers ask (C45).
fn health_check(spec: &ServiceSpec, report: &mut Report) -> Option<u16> {
    if spec.type_.as_deref() != Some("LoadBalancer") {
        return None;
    }
    let number = spec.health_check_node_port.filter(|&number| number != 0)?;
    report.keep(|| FieldPath::of("spec.healthCheckNodePort"), port(number))
}
