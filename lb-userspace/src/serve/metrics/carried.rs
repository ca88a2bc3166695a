//! What Services and backends have carried, as a scrape shows it.
//!
//! Decides names and labels. Must not decide which Services are shown. Invariant: these are the only series whose number
//! grows with the cluster, up to what the options allow; how many are left out is a metric itself.

use std::fmt;
use std::net::SocketAddr;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What was carried, and how much of it is not shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// By service port.
    pub services: Vec<ServiceTraffic>,
    /// By backend.
    pub backends: Vec<BackendTraffic>,
    /// Service ports, and backends, that the options leave no room for.
    pub left_out: [u64; 2],
}

/// Of a service port, since the agent started to count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// `namespace/service:port-name/protocol`.
    pub name: String,
    /// Flows that were given a backend.
    pub connections: u64,
    /// Packets to backends, and from them.
    pub packets: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
}

/// Of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendTraffic {
    /// The service port's name.
    pub name: String,
    /// Where it listens.
    pub backend: SocketAddr,
    /// Flows that were given it.
    pub connections: u64,
}

/// Namespace, Service, port and protocol of a name.
pub(super) fn labels(name: &str) -> [(&'static str, &str); 4] {
    let (namespace, rest) = name.split_once('/').unwrap_or(("", name));
    let (service, rest) = rest.split_once(':').unwrap_or((rest, ""));
    let (port, protocol) = rest.rsplit_once('/').unwrap_or((rest, ""));
    [("namespace", namespace), ("service", service), ("port", port), ("protocol", protocol)]
}

impl Carried {
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.connections(encoder)?;
        let packets = "Packets of Services, by direction: to backends and from them";
        self.both_ways("switchboard_service_packets", packets, encoder, |service| service.packets)?;
        let bytes = "Bytes of those packets, with link headers";
        self.both_ways("switchboard_service_bytes", bytes, encoder, |service| service.bytes)?;
        let help = "Connections and datagram flows that were given a backend, by backend";
        let name = "switchboard_backend_connections";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for backend in &self.backends {
            let address = backend.backend.to_string();
            let [a, b, c, d] = labels(&backend.name);
            let labels = [a, b, c, d, ("backend", address.as_str())];
            ConstCounter::new(backend.connections).encode(family.encode_family(&labels)?)?;
        }
        let help = "Service ports and backends that are not shown, for want of room in the options";
        let name = "switchboard_carried_left_out";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, number) in ["services", "backends"].into_iter().zip(self.left_out) {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            ConstGauge::new(number).encode(family.encode_family(&[("of", of)])?)?;
        }
        Ok(())
    }

    fn connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections and datagram flows that were given a backend, by service port";
        let name = "switchboard_service_connections";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for service in &self.services {
            ConstCounter::new(service.connections).encode(family.encode_family(&labels(&service.name))?)?;
        }
        Ok(())
    }

    fn both_ways(
        &self,
        name: &str,
        help: &str,
        encoder: &mut DescriptorEncoder<'_>,
        numbers: impl Fn(&ServiceTraffic) -> [u64; 2],
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for service in &self.services {
            for (direction, number) in ["to_backend", "from_backend"].into_iter().zip(numbers(service)) {
                let [a, b, c, d] = labels(&service.name);
                let labels = [a, b, c, d, ("direction", direction)];
                ConstCounter::new(number).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
