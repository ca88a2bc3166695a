//! One contender's node: a client pod, two backends, and as many Services as are asked for.
//!
//! Decides who translates. Must not know what is sent. Invariant: all contenders have the same Services, of which the
//! first, the last and the one for datagrams lead to the two backends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::lab::{Lab, Layout, Netns};
use lb_tests::peers::{Peer, Service};
use serde_json::{Value, json};

use super::load::{POD_PORT, Servers};

/// The pods' range; the lab's pods are in it too.
const PODS: &str = "10.128.0.0/9";
const SOON: Duration = Duration::from_secs(120);
/// Services of one file of manifests.
const PORTION: usize = 1_000;

/// Who translates addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// Nobody: the client dials a pod.
    Plain,
    Switchboard,
    Netfilter(Peer),
}

impl Contender {
    pub(super) const ALL: [Self; 5] = [
        Self::Plain,
        Self::Switchboard,
        Self::Netfilter(Peer::Nftables),
        Self::Netfilter(Peer::IptablesLegacy),
        Self::Netfilter(Peer::IptablesNft),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain routing",
            Self::Switchboard => "Switchboard",
            Self::Netfilter(peer) => peer.name(),
        }
    }
}

/// Which Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    First,
    Last,
    Datagrams,
}

/// Where a load comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// A pod.
    Pod,
    /// A process of the node's own.
    Node,
}

/// A contender, ready.
pub(super) struct Stage {
    pub(super) contender: Contender,
    services: u32,
    /// Ends before the lab goes.
    agent: Option<Agent>,
    _manifests: Option<tempfile::TempDir>,
    lab: Lab,
}

impl Stage {
    /// Builds the lab, and lets the contender take in that many Services.
    pub(super) fn build(contender: Contender, services: u32, servers: &Servers) -> Result<Self> {
        let lab = Lab::builder().node("node1", Layout::Routed, &["client", "a", "b"]).build()?;
        for pod in ["a", "b"] {
            servers.start(&lab.pod(pod).netns)?;
        }
        let mut stage = Self { contender, services, agent: None, _manifests: None, lab };
        let all = stage.services();
        match contender {
            Contender::Plain => {}
            Contender::Netfilter(peer) => {
                peer.load(&stage.lab.node("node1").netns, &peer.whole(&all, PODS), false)?;
            }
            Contender::Switchboard => stage.start_agent(&all)?,
        }
        Ok(stage)
    }

    fn start_agent(&mut self, services: &[Service]) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("switchboard-bench-").tempdir()?;
        for (number, portion) in services.chunks(PORTION).enumerate() {
            let items: Vec<Value> = portion.iter().flat_map(objects).collect();
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
            let path: PathBuf = folder.path().join(format!("services-{number}.json"));
            std::fs::write(&path, list.to_string()).with_context(|| format!("writing {}", path.display()))?;
        }
        let mut agent = Agent::start(self.lab.node("node1"), AgentConfig::new(folder.path()))?;
        agent.wait_in_sync(SOON)?;
        self.agent = Some(agent);
        self._manifests = Some(folder);
        Ok(())
    }

    /// Where loads come from.
    pub(super) fn client(&self, from: From) -> &Netns {
        match from {
            From::Pod => &self.lab.pod("client").netns,
            From::Node => &self.lab.node("node1").netns,
        }
    }

    /// What the client dials.
    pub(super) fn target(&self, which: Which) -> SocketAddr {
        match (self.contender, which) {
            (Contender::Plain, _) => self.lab.pod("a").v4_at(POD_PORT),
            (_, Which::First) => cluster_ip(0),
            (_, Which::Last) => cluster_ip(self.services.max(1) - 1),
            (_, Which::Datagrams) => datagram_ip(),
        }
    }

    /// The agent's resident memory in MiB, where there is an agent.
    pub(super) fn agent_memory_mib(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.as_ref()?.pid())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib: f64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024.0)
    }

    /// All Services, and one for datagrams.
    fn services(&self) -> Vec<Service> {
        let ours: Vec<SocketAddr> = ["a", "b"].map(|pod| self.lab.pod(pod).v4_at(POD_PORT)).to_vec();
        let others = |number: u32| {
            let pod = |index| Ipv4Addr::from_bits(0x0aa0_0001 + 2 * number + index);
            (0..2).map(|index| SocketAddr::new(IpAddr::V4(pod(index)), POD_PORT)).collect()
        };
        let all = (0..self.services).map(|number| Service {
            name: format!("bench/s{number}"),
            frontend: cluster_ip(number),
            udp: false,
            endpoints: if number == 0 || number + 1 == self.services { ours.clone() } else { others(number) },
        });
        let datagrams = Service {
            name: "bench/datagrams".to_owned(),
            frontend: datagram_ip(),
            udp: true,
            endpoints: ours.clone(),
        };
        std::iter::once(datagrams).chain(all).collect()
    }
}

fn cluster_ip(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0001 + number)), 80)
}

fn datagram_ip() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 98, 0, 1)), 53)
}

/// A Service and its slice, as the API has them.
fn objects(service: &Service) -> [Value; 2] {
    let (namespace, name) = service.name.split_once('/').unwrap_or(("default", &service.name));
    let (ip, protocol) = (service.frontend.ip(), if service.udp { "UDP" } else { "TCP" });
    let endpoints: Vec<Value> = service
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({ "addresses": [endpoint.ip()], "nodeName": "node1",
                    "conditions": { "ready": true, "serving": true, "terminating": false } })
        })
        .collect();
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
                "ports": [{ "name": "p", "port": service.frontend.port(), "protocol": protocol }],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": { "name": format!("{name}-1"), "namespace": namespace,
                          "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "p", "port": POD_PORT, "protocol": protocol }],
        }),
    ]
}
