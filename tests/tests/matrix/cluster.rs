//! The cluster that the matrix is played in: two nodes with an agent each, servers, and one Service for
//! each placement of backends and each policy.
//!
//! Decides addresses and manifests; must not know what is expected of them. Invariant: dropping it
//! leaves nothing behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Agent, AgentConfig, Tool};
use lb_tests::lab::{CniMasquerade, Dropped, Lab, Layout, Netns, Node, RpFilter};
use lb_tests::manifests::{Endpoint, Family, Manifests, Protocol};
use lb_tests::packets::{Datapath, XdpLink};
use lb_tests::scene::{POD_PORT, TCP_PORT, UDP_PORT};
use lb_tests::traffic::EchoServer;
use serde_json::json;

use super::contract::{Backend, Client, Cni, Front, Place, Policy};

/// Which servers a Service has.
pub(crate) type Placement = (&'static str, &'static [Backend]);

const fn pod(name: &'static str, place: Place) -> Backend {
    Backend { name, place, host_network: false, ready: true }
}

const fn host(name: &'static str, place: Place) -> Backend {
    Backend { name, place, host_network: true, ready: true }
}

const fn leaving(backend: Backend) -> Backend {
    Backend { ready: false, ..backend }
}

/// The pods that dial are `here` and `there`.
pub(crate) const PLACEMENTS: [Placement; 8] = [
    ("both", &[pod("a", Place::Here), pod("b", Place::There)]),
    ("here-only", &[pod("a", Place::Here)]),
    ("there-only", &[pod("b", Place::There)]),
    ("clients", &[pod("here", Place::Here), pod("there", Place::There)]),
    ("hosts", &[host("node1", Place::Here), host("node2", Place::There)]),
    ("leaving", &[leaving(pod("a", Place::Here)), pod("b", Place::There)]),
    ("last", &[leaving(pod("a", Place::Here))]),
    ("nobody", &[]),
];
pub(crate) const POLICIES: [Policy; 2] = [Policy::Cluster, Policy::Local];

const PORTS: [(&str, u16, Protocol); 2] =
    [("http", POD_PORT, Protocol::Tcp), ("dns", POD_PORT, Protocol::Udp)];
/// Networks of load balancer IPs and externalIPs, by family.
const EXTERNAL_RANGES: [&str; 4] =
    ["198.51.100.0/24", "2001:db8:51::/64", "203.0.113.0/24", "2001:db8:113::/64"];
const FIRST_NODE_PORT: u16 = 30_000;
/// Two agents have all their programs verified at once, on a machine that may be busy.
const START: Duration = Duration::from_secs(60);
/// Addresses that the outside client dials from, of each family.
const SOURCES: u8 = 3;

pub(crate) const ROUTED: Shape = Shape {
    layout: Layout::Routed,
    rp_filter: RpFilter::Strict,
    cni_masquerade: CniMasquerade::Off,
    path_mtu: 1500,
    xdp: None,
};
pub(crate) const BRIDGED: Shape = Shape {
    layout: Layout::Bridged,
    rp_filter: RpFilter::Loose,
    cni_masquerade: CniMasquerade::Plain,
    path_mtu: 1500,
    xdp: None,
};
pub(crate) const OVERLAY: Shape = Shape {
    layout: Layout::Overlay,
    rp_filter: RpFilter::Strict,
    cni_masquerade: CniMasquerade::RandomFully,
    path_mtu: 1500,
    xdp: None,
};

/// How pods are connected, and what else the nodes' kernels do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    pub(crate) rp_filter: RpFilter,
    pub(crate) cni_masquerade: CniMasquerade,
    /// Width of the narrowest link between the outside client and the nodes, in bytes.
    pub(crate) path_mtu: u32,
    /// The agents' `--xdp`, where uplinks are to be fit for XDP programs.
    pub(crate) xdp: Option<&'static str>,
}

/// Everything, running and in sync.
pub(crate) struct Cluster {
    /// Of the node here, and of the one there.
    pub(crate) agents: Vec<Agent>,
    /// What the agents run with, but for `--xdp`.
    pub(crate) config: AgentConfig,
    _servers: Vec<EchoServer>,
    _manifests: Manifests,
    _passes_all: Option<PassesAll>,
    pub(crate) lab: Lab,
    pub(crate) shape: Shape,
}

/// On the fabric's side of the nodes' uplinks: the datapath's own program, which passes what it has no flow of.
struct PassesAll {
    _links: Vec<XdpLink>,
    _datapath: Datapath,
}

impl PassesAll {
    fn prepare(lab: &Lab) -> anyhow::Result<Self> {
        let mut datapath = Datapath::load()?;
        let links = lab.prepare_for_xdp(|port| datapath.attach_to_device(port))?;
        Ok(Self { _links: links, _datapath: datapath })
    }
}

impl Cluster {
    /// Sets it up; `args` are for both agents.
    pub(crate) fn start(shape: Shape, args: &[&str]) -> anyhow::Result<Self> {
        let lab = Lab::builder()
            .node("node1", shape.layout, &["here", "a"])
            .node("node2", shape.layout, &["there", "b"])
            .far_client("outside", "node1", SOURCES)
            .path_mtu(shape.path_mtu)
            .rp_filter(shape.rp_filter)
            .cni_masquerade(shape.cni_masquerade)
            .true_addresses_only()
            .build()?;
        let passes_all = shape.xdp.map(|_| PassesAll::prepare(&lab)).transpose()?;
        for range in EXTERNAL_RANGES {
            lab.client("outside").route(range, lab.node("node1"))?;
        }
        let pods = lab.pods().iter().map(|pod| EchoServer::start(&pod.netns, &pod.name, &[POD_PORT]));
        let hosts = lab
            .nodes()
            .iter()
            .map(|node| EchoServer::start_at(&node.netns, &node.name, &node.both_at(POD_PORT)));
        let servers = pods.chain(hosts).collect::<anyhow::Result<_>>()?;
        let mut manifests = Manifests::new()?;
        for node in lab.nodes() {
            manifests.lab_node(node);
        }
        for (number, (placement, policy)) in services().enumerate() {
            describe(&lab, &mut manifests, number, placement, policy);
        }
        manifests.write()?;
        let with = |config: AgentConfig, arg: &str| config.arg(arg);
        let config = args.iter().copied().fold(AgentConfig::new(manifests.path()), with);
        let xdp = shape.xdp.iter().flat_map(|mode| ["--xdp", mode]);
        let started = xdp.fold(config.clone(), with);
        let start = |node: &Node| Agent::start(node, started.clone());
        let mut agents = lab.nodes().iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
        for agent in &mut agents {
            agent.wait_in_sync(START)?;
        }
        Ok(Self {
            agents,
            config,
            _servers: servers,
            _manifests: manifests,
            _passes_all: passes_all,
            lab,
            shape,
        })
    }

    pub(crate) fn cni(&self) -> Cni {
        Cni { masquerades: self.shape.cni_masquerade != CniMasquerade::Off }
    }

    pub(crate) fn node(&self, place: Place) -> &Node {
        self.lab.node(match place {
            Place::Here => "node1",
            Place::There => "node2",
        })
    }

    /// No node has dropped anything for its addresses, or as invalid.
    pub(crate) fn assert_true_addresses(&self) {
        for node in self.lab.nodes() {
            assert_eq!(node.dropped().unwrap(), Dropped::default(), "on {}", node.name);
        }
    }

    /// How often packets on a node have ended in a verdict.
    pub(crate) fn count(&self, place: Place, verdict: &str) -> u64 {
        Tool::new(self.node(place)).verdict(verdict).unwrap_or_else(|why| panic!("{why:#}"))
    }

    /// A client's name and namespace.
    pub(crate) fn client(&self, client: Client) -> (&str, &Netns) {
        let name = match client {
            Client::PodHere => "here",
            Client::PodThere => "there",
            Client::NodeHere => return ("node1", &self.node(Place::Here).netns),
            Client::Outside => return ("outside", &self.lab.client("outside").netns),
        };
        (name, &self.lab.pod(name).netns)
    }

    /// The address that a client's dial number `dial` is to come from; none: the kernel chooses.
    pub(crate) fn source(&self, client: Client, dial: usize, v6: bool) -> Option<IpAddr> {
        let sources = &self.lab.client("outside").sources;
        let (ip4, ip6) = *sources.get(dial % sources.len())?;
        let ip = if v6 { IpAddr::V6(ip6) } else { IpAddr::V4(ip4) };
        (client == Client::Outside).then_some(ip)
    }

    /// Where the Service of that number is dialled.
    pub(crate) fn address(&self, service: usize, front: Front, tcp: bool, v6: bool) -> SocketAddr {
        let family = usize::from(v6);
        let port = if tcp { TCP_PORT } else { UDP_PORT };
        let [cluster, balancer, external] = addresses(service).map(|both| both[family]);
        match front {
            Front::ClusterIp => SocketAddr::new(cluster, port),
            Front::LoadBalancerIp => SocketAddr::new(balancer, port),
            Front::ExternalIp => SocketAddr::new(external, port),
            Front::NodePort => self.node(Place::Here).both_at(node_port(service))[family],
            Front::Loopback => {
                let own = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
                SocketAddr::new(own[family], node_port(service))
            }
        }
    }
}

/// Every Service: who is behind it, and the policy for packets from inside and from outside alike.
pub(crate) fn services() -> impl Iterator<Item = (Placement, Policy)> {
    PLACEMENTS.into_iter().flat_map(|placement| POLICIES.map(|policy| (placement, policy)))
}

/// The number of the Service of that placement and policy.
pub(crate) fn number_of(placement: &str, policy: Policy) -> usize {
    let found = services().position(|((name, _), of)| name == placement && of == policy);
    found.unwrap_or_else(|| panic!("no Service is {placement}"))
}

/// ClusterIPs, load balancer IPs, externalIPs of a Service, IPv4 first.
fn addresses(service: usize) -> [[IpAddr; 2]; 3] {
    let last = u8::try_from(service + 1).unwrap_or_else(|_| panic!("too many Services for a /24"));
    let v4 = |a, b, c| IpAddr::from([a, b, c, last]);
    let v6 = |a, b, c| IpAddr::from([a, b, c, 0, 0, 0, 0, u16::from(last)]);
    [
        [v4(10, 96, 1), v6(0xfd00, 0x10, 0x96)],
        [v4(198, 51, 100), v6(0x2001, 0xdb8, 0x51)],
        [v4(203, 0, 113), v6(0x2001, 0xdb8, 0x113)],
    ]
}

fn node_port(service: usize) -> u16 {
    FIRST_NODE_PORT + u16::try_from(service).unwrap_or_else(|_| panic!("too many Services for NodePorts"))
}

fn describe(
    lab: &Lab,
    manifests: &mut Manifests,
    number: usize,
    (placement, backends): Placement,
    policy: Policy,
) {
    let word = match policy {
        Policy::Cluster => "Cluster",
        Policy::Local => "Local",
    };
    let name = format!("{placement}-{}", word.to_lowercase());
    let [cluster, balancer, external] = addresses(number).map(|both| both.map(|ip| ip.to_string()));
    manifests.service(&name, |service| {
        service
            .cluster_ips(&cluster.each_ref().map(String::as_str))
            .port("http", TCP_PORT, Protocol::Tcp)
            .port("dns", UDP_PORT, Protocol::Udp)
            .set("/spec/type", json!("LoadBalancer"))
            .set("/spec/internalTrafficPolicy", json!(word))
            .set("/spec/externalTrafficPolicy", json!(word))
            .set("/spec/ports/0/nodePort", json!(node_port(number)))
            .set("/spec/ports/1/nodePort", json!(node_port(number)))
            .set("/spec/externalIPs", json!(external))
            .set(
                "/status/loadBalancer/ingress",
                json!(balancer.map(|ip| json!({ "ip": ip, "ipMode": "VIP" }))),
            );
    });
    for family in [Family::V4, Family::V6] {
        let endpoint = |backend: &Backend| {
            let (v4, v6, node) = if backend.host_network {
                let node = lab.node(backend.name);
                (node.v4, node.v6, &node.name)
            } else {
                let pod = lab.pod(backend.name);
                (pod.v4, pod.v6, &pod.node)
            };
            let address = if family == Family::V4 { v4.to_string() } else { v6.to_string() };
            let endpoint = Endpoint::at(&address).on(node);
            if backend.ready { endpoint } else { endpoint.terminating() }
        };
        let endpoints: Vec<Endpoint> = backends.iter().map(endpoint).collect();
        manifests.endpoints(&name, family, &endpoints, &PORTS);
    }
}
