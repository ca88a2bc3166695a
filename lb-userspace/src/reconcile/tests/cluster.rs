//! Small clusters: decisions to plan, and random histories of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use lb_common::address::Protocol;
use proptest::prelude::*;

use crate::model::{ObjectName, TrafficPolicy};
use crate::plan::decision::{Backend, BackendSet, Decision, Frontend, FrontendKind, ServicePortName};

pub(super) type Services = Vec<(ObjectName, Vec<Decision>)>;

/// A service port in a few bits; the backends' addresses are small numbers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) serving: u8,
    pub(super) inside: u8,
    pub(super) outside: u8,
    pub(super) local: u8,
    pub(super) node_port: bool,
    /// A load balancer address, for clients in these ranges; none of them: for all.
    pub(super) load_balancer: Option<u8>,
    /// Do the other ports of the cluster address refuse?
    pub(super) whole: bool,
    pub(super) empty: BackendSet,
    pub(super) affinity: Option<u32>,
}

/// Plain: these backends for everyone.
pub(super) fn plain(backends: u8) -> Shape {
    Shape {
        serving: backends,
        inside: backends,
        outside: backends,
        local: 0,
        node_port: false,
        load_balancer: None,
        whole: false,
        empty: BackendSet::Reject,
        affinity: None,
    }
}

pub(super) fn name(service: u8) -> ObjectName {
    ObjectName::new("default", format!("svc{service}"))
}

/// A Service of two families, with a service port for each shape.
pub(super) fn service(number: u8, shapes: &[Shape]) -> (ObjectName, Vec<Decision>) {
    let decisions = (0u8..).zip(shapes).map(|(port, shape)| decision(number, port, shape)).collect();
    (name(number), decisions)
}

fn decision(service: u8, port: u8, shape: &Shape) -> Decision {
    let owner = name(service);
    let name = ServicePortName {
        service: owner,
        port: format!("p{port}").into(),
        protocol: if port.is_multiple_of(2) { Protocol::TCP } else { Protocol::UDP },
    };
    let mut frontends = Vec::new();
    let mut backends = Vec::new();
    for ipv6 in [false, true] {
        backends.extend(
            (0..8).filter(|bit| (shape.serving | shape.inside | shape.outside) >> bit & 1 == 1).map(|bit| {
                Backend {
                    addr: backend_addr(ipv6, service, bit),
                    serving: shape.serving >> bit & 1 == 1,
                    local: shape.local >> bit & 1 == 1,
                }
            }),
        );
        let frontend = |addr, port, kind| Frontend {
            addr,
            except: Vec::new(),
            ipv6,
            port,
            kind,
            external_policy: TrafficPolicy::Cluster,
            inside: set(ipv6, service, shape.inside, &shape.empty),
            outside: set(ipv6, service, shape.outside, &shape.empty),
            inside_local: false,
            outside_local: true,
            affinity_seconds: shape.affinity,
            source_ranges: Vec::new(),
        };
        frontends.push(frontend(Some(vip(ipv6, service)), 80 + u16::from(port), FrontendKind::ClusterIp));
        if shape.whole && port == 0 {
            let whole = frontend(Some(vip(ipv6, service)), 0, FrontendKind::Whole);
            let nobody = BackendSet::Reject;
            frontends.push(Frontend {
                inside: nobody.clone(),
                outside: nobody,
                outside_local: false,
                affinity_seconds: None,
                ..whole
            });
        }
        if shape.node_port {
            let node_port = 30_000 + u16::from(service) * 8 + u16::from(port);
            frontends.push(frontend(None, node_port, FrontendKind::NodePort));
        }
        if let Some(ranges) = shape.load_balancer {
            let addr = Some(load_balancer(ipv6, service));
            let open = frontend(addr, 80 + u16::from(port), FrontendKind::LoadBalancer);
            frontends.push(Frontend { source_ranges: source_ranges(ipv6, ranges), ..open });
        }
    }
    Decision { name, frontends, backends }
}

fn vip(ipv6: bool, service: u8) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0x96, 0, 0, 0, u16::from(service)).into()
    } else {
        Ipv4Addr::new(10, 96, 0, service).into()
    }
}

fn load_balancer(ipv6: bool, service: u8) -> IpAddr {
    if ipv6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, u16::from(service)).into()
    } else {
        Ipv4Addr::new(203, 0, 113, service).into()
    }
}

/// A range for each bit; IPv4 has one for the lower half only, so that families differ.
fn source_ranges(ipv6: bool, bits: u8) -> Vec<IpNet> {
    let set = (0..8u8).filter(|bit| bits >> bit & 1 == 1);
    let range = |bit: u8| {
        if ipv6 {
            IpNet::new(Ipv6Addr::new(0xfd01, bit.into(), 0, 0, 0, 0, 0, 0).into(), 32 + bit).ok()
        } else {
            IpNet::new(Ipv4Addr::new(198, 18 + bit, 0, 0).into(), 16 + bit).ok().filter(|_| bit < 4)
        }
    };
    set.filter_map(range).collect()
}

fn backend_addr(ipv6: bool, service: u8, bit: u8) -> SocketAddr {
    let ip: IpAddr = if ipv6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0x244, 0, 0, u16::from(service), u16::from(bit) + 1).into()
    } else {
        Ipv4Addr::new(10, 244, service, bit + 1).into()
    };
    SocketAddr::new(ip, 8080)
}

fn set(ipv6: bool, service: u8, bits: u8, empty: &BackendSet) -> BackendSet {
    let backends: Vec<_> =
        (0..8).filter(|bit| bits >> bit & 1 == 1).map(|bit| backend_addr(ipv6, service, bit)).collect();
    if backends.is_empty() { empty.clone() } else { BackendSet::Backends(backends) }
}

/// One change: a Service gets new service ports, or goes away.
pub(super) type Change = (ObjectName, Vec<Decision>);

/// What stands in the cluster after `changes`.
pub(super) fn outcome(changes: &[Change]) -> Services {
    let mut services = std::collections::BTreeMap::new();
    for (name, decisions) in changes {
        services.insert(name.clone(), decisions.clone());
    }
    services.retain(|_, decisions: &mut Vec<Decision>| !decisions.is_empty());
    services.into_iter().collect()
}

prop_compose! {
    fn shapes()(
        bits: (u8, u8, u8, u8), node_port: bool, drop: bool, affinity in prop::option::of(1u32..100),
        load_balancer: Option<u8>, whole: bool,
    ) -> Shape {
        let (serving, inside, outside, local) = bits;
        let empty = if drop { BackendSet::Drop } else { BackendSet::Reject };
        Shape { serving, inside, outside, local, node_port, load_balancer, whole, empty, affinity }
    }
}

/// Changes of a handful of Services.
pub(super) fn changes(at_most: usize) -> impl Strategy<Value = Vec<Change>> {
    let change = (0u8..5, prop::collection::vec(shapes(), 0..3));
    let change = change.prop_map(|(number, shapes)| service(number, &shapes));
    prop::collection::vec(change, 1..at_most)
}
