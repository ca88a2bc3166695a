//! The same Services as the agent's objects and as its peers' rules.
//!
//! Decides addresses and names. Must not know who takes them in. Invariant: service `n` is the same in both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::address::Protocol;
use lb_tests::peers;
use lb_userspace::model::{
    Endpoint, EndpointPort, EndpointSlice, Families, Object, ObjectName, Placement, Service, ServicePort,
};

/// The node and its pods' range.
pub(crate) const NODE: peers::Node<'_> =
    peers::Node { pods: "10.128.0.0/9", address: IpAddr::V4(Ipv4Addr::new(10, 199, 0, 1)) };
/// Endpoints of a slice, as the controller fills them.
const SLICE: u32 = 100;
const NAMESPACE: &str = "bench";

/// How many Services of how many endpoints each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) services: u32,
    pub(crate) endpoints: u32,
}

impl Scale {
    /// Does making and loading it take so long that fewer rounds must do?
    pub(crate) fn is_large(self) -> bool {
        self.services * self.endpoints > 20_000
    }

    /// `10 k x 2`.
    pub(crate) fn name(self) -> String {
        let count =
            |count: u32| if count >= 1_000 { format!("{} k", count / 1_000) } else { count.to_string() };
        format!("{} x {}", count(self.services), count(self.endpoints))
    }

    /// All objects.
    pub(crate) fn objects(self) -> Vec<Object> {
        (0..self.services)
            .flat_map(|number| {
                let slices = self.slices(number, self.endpoints);
                std::iter::once(Object::Service(service(number))).chain(slices)
            })
            .collect()
    }

    /// The slices of Service `number` when it has only the first `endpoints`.
    pub(crate) fn slices(self, number: u32, endpoints: u32) -> Vec<Object> {
        let slices = endpoints.div_ceil(SLICE).max(1);
        let slice = |index: u32| {
            let range = index * SLICE..((index + 1) * SLICE).min(endpoints);
            Object::EndpointSlice(EndpointSlice {
                name: ObjectName::new(NAMESPACE, format!("s{number}-{index}")),
                service: Some(name(number)),
                version: 1,
                triggered: None,
                ports: vec![EndpointPort { name: "http".to_owned(), protocol: Protocol::TCP, port: 8_080 }]
                    .into(),
                endpoints: range.map(|index| endpoint(self.pod(number, index).ip())).collect(),
            })
        };
        (0..slices).map(slice).collect()
    }

    /// All Services, for the peers.
    pub(crate) fn peers(self) -> Vec<peers::Service> {
        (0..self.services).map(|number| self.peer(number, self.endpoints)).collect()
    }

    /// Service `number` with only the first `endpoints`, for the peers.
    pub(crate) fn peer(self, number: u32, endpoints: u32) -> peers::Service {
        peers::Service {
            name: format!("{NAMESPACE}/s{number}"),
            frontend: SocketAddr::new(cluster_ip(number), 80),
            udp: false,
            node_port: None,
            endpoints: (0..endpoints).map(|index| self.pod(number, index)).collect(),
        }
    }

    fn pod(self, number: u32, index: u32) -> SocketAddr {
        let ip = Ipv4Addr::from_bits(0x0a80_0001 + number * self.endpoints + index);
        SocketAddr::new(IpAddr::V4(ip), 8_080)
    }
}

fn cluster_ip(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0001 + number))
}

fn name(number: u32) -> ObjectName {
    ObjectName::new(NAMESPACE, format!("s{number}"))
}

/// Service `number`.
pub(crate) fn service(number: u32) -> Service {
    Service {
        created: Some(1_700_000_000 + i64::from(number)),
        cluster_ips: vec![cluster_ip(number)],
        families: Families { v4: true, v6: false },
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::TCP,
            port: 80,
            node_port: None,
        }],
        ..Service::bare(name(number))
    }
}

fn endpoint(addr: IpAddr) -> Endpoint {
    Endpoint { addr, ready: true, serving: true, terminating: false, placement: Placement::on("elsewhere") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_rules_tell_of_the_same_endpoints() {
        let scale = Scale { services: 3, endpoints: 250 };
        assert_eq!(scale.objects().len(), 3 * (1 + 3));
        let of_slices: Vec<IpAddr> = scale
            .slices(2, 250)
            .into_iter()
            .flat_map(|object| match object {
                Object::EndpointSlice(slice) => {
                    slice.endpoints.iter().map(|endpoint| endpoint.addr).collect()
                }
                _ => Vec::new(),
            })
            .collect();
        let of_rules: Vec<IpAddr> = scale.peers()[2].endpoints.iter().map(SocketAddr::ip).collect();
        assert_eq!(of_slices, of_rules);
    }
}
