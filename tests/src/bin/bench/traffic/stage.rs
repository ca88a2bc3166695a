//! One contender's nodes: a client pod and backends on the first, backends on the second, a client outside, and as many
//! Services as are asked for.
//!
//! Decides who translates. Must not know what is sent. Invariant: all contenders have the same Services, and packets of
//! all of them take as many hops.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::apiserver::{ApiServer, Settings};
use lb_tests::lab::{Lab, Layout, Netns};
use lb_tests::peers::kube_proxy::{self, KubeProxy};
use lb_tests::peers::{self, Peer, Service};
use serde_json::{Value, json};

use super::cluster::{self, PODS, Which};
use super::load::{POD_PORT, Servers};
use crate::{RealProxy, process};

const SOON: Duration = Duration::from_secs(120);
/// For kube-proxy, which loads 50,000 Services for many minutes.
const PATIENCE: Duration = Duration::from_secs(1_800);
const ASK: Duration = Duration::from_millis(500);
/// Services of one file of manifests.
const PORTION: usize = 1_000;
const NODE: &str = "node1";
/// Else the node tells the client of a shorter way to the other node's pods.
const NO_REDIRECTS: [(&str, &str); 2] =
    [("ipv4/conf/all/send_redirects", "0"), ("ipv4/conf/eth0/send_redirects", "0")];

/// Who translates addresses.
#[derive(Clone, Debug)]
pub(super) enum Contender {
    /// Nobody: the client dials a pod.
    Plain,
    Switchboard,
    Netfilter(Peer),
    KubeProxy(RealProxy),
}

impl Contender {
    /// All of them; the real kube-proxy if there is one.
    pub(super) fn all(kube_proxy: Option<&RealProxy>) -> Vec<Self> {
        let peers = Peer::ALL.map(Self::Netfilter);
        let known = [Self::Plain, Self::Switchboard].into_iter().chain(peers);
        known.chain(kube_proxy.cloned().map(Self::KubeProxy)).collect()
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Plain => "plain routing",
            Self::Switchboard => "Switchboard",
            Self::Netfilter(peer) => peer.name(),
            Self::KubeProxy(proxy) => match proxy.mode {
                kube_proxy::Mode::Nftables => "kube-proxy, nftables",
                kube_proxy::Mode::Iptables => "kube-proxy, iptables",
            },
        }
    }
}

/// Where a load comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// A pod.
    Pod,
    /// A process of the node's own.
    Node,
    /// A machine that is none of the cluster's, to a port of the node.
    Outside,
}

impl From {
    /// In tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
            Self::Outside => "outside",
        }
    }
}

/// A contender, ready.
pub(super) struct Stage {
    pub(super) contender: Contender,
    services: u32,
    /// They end before the lab goes.
    agent: Option<Agent>,
    kube_proxy: Option<(KubeProxy, ApiServer)>,
    _manifests: Option<tempfile::TempDir>,
    lab: Lab,
}

impl Stage {
    /// Builds the lab, and lets the contender take in that many Services.
    pub(super) fn build(contender: Contender, services: u32, servers: &Servers) -> Result<Self> {
        let lab = Lab::builder()
            .node(NODE, Layout::Routed, &["client", "a", "b"])
            .node("node2", Layout::Routed, &["c", "d"])
            .client("outside", NODE)
            .build()?;
        for pod in ["a", "b", "c", "d"] {
            servers.start(&lab.pod(pod).netns)?;
        }
        equal_ways(&lab)?;
        let all = cluster::services(&lab, services);
        let mut stage = Self { contender, services, agent: None, kube_proxy: None, _manifests: None, lab };
        let node = stage.lab.node(NODE);
        match stage.contender.clone() {
            Contender::Plain => {}
            Contender::Netfilter(peer) => {
                let around = peers::Node { pods: PODS, address: IpAddr::V4(node.v4) };
                let portions = peer.portions(&all, around);
                portions.iter().try_for_each(|rules| peer.load(&node.netns, rules, false))?;
            }
            Contender::Switchboard => stage.start_agent(&all)?,
            Contender::KubeProxy(proxy) => stage.start_kube_proxy(&proxy, &all)?,
        }
        Ok(stage)
    }

    fn start_agent(&mut self, services: &[Service]) -> Result<()> {
        let folder = tempfile::Builder::new().prefix("switchboard-bench-").tempdir()?;
        let write = |name: String, items: Vec<Value>| {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
            let path: PathBuf = folder.path().join(name);
            std::fs::write(&path, list.to_string()).with_context(|| format!("writing {}", path.display()))
        };
        write("nodes.json".to_owned(), self.lab.nodes().iter().map(cluster::node_object).collect())?;
        for (number, portion) in services.chunks(PORTION).enumerate() {
            let items = portion.iter().flat_map(|service| cluster::objects(&self.lab, service)).collect();
            write(format!("services-{number}.json"), items)?;
        }
        let mut agent = Agent::start(self.lab.node(NODE), AgentConfig::new(folder.path()))?;
        agent.wait_in_sync(SOON)?;
        self.agent = Some(agent);
        self._manifests = Some(folder);
        Ok(())
    }

    fn start_kube_proxy(&mut self, proxy: &RealProxy, services: &[Service]) -> Result<()> {
        let node = self.lab.node(NODE);
        let listener = node.netns.run(|| TcpListener::bind("127.0.0.1:0"))?;
        let server = ApiServer::start_on(listener, Settings::default())?;
        self.lab.nodes().iter().try_for_each(|node| server.apply(cluster::node_object(node)))?;
        let objects = services.iter().flat_map(|service| cluster::objects(&self.lab, service));
        objects.into_iter().try_for_each(|object| server.apply(object))?;
        let mut running = KubeProxy::start(&proxy.program, proxy.mode, node, &server.url(), PODS)?;
        let last = [(From::Pod, Which::Last), (From::Pod, Which::Remote), (From::Outside, Which::Remote)];
        running.wait_until_synced(PATIENCE, || {
            let asked = last.iter().flat_map(|(from, which)| {
                self.targets(*from, *which).into_iter().map(move |target| (from, target))
            });
            asked.into_iter().try_for_each(|(from, target)| {
                let connected = self.client(*from).run(|| std::net::TcpStream::connect_timeout(&target, ASK));
                connected.map(|_| ()).map_err(|error| format!("connecting to {target}: {error}"))
            })
        })?;
        self.kube_proxy = Some((running, server));
        Ok(())
    }

    /// Where loads come from.
    pub(super) fn client(&self, from: From) -> &Netns {
        match from {
            From::Pod => &self.lab.pod("client").netns,
            From::Node => &self.lab.node(NODE).netns,
            From::Outside => &self.lab.client("outside").netns,
        }
    }

    /// What the client dials. Where nobody chooses a backend for it, it has to: two servers take turns in waking up,
    /// which costs more than one that stays awake.
    pub(super) fn targets(&self, from: From, which: Which) -> Vec<SocketAddr> {
        match (&self.contender, from) {
            (Contender::Plain, _) => {
                let pods = if which.is_remote() { ["c", "d"] } else { ["a", "b"] };
                pods.map(|pod| self.lab.pod(pod).v4_at(POD_PORT)).into()
            }
            (_, From::Outside) => vec![self.lab.node(NODE).v4_at(which.node_port(self.services))],
            _ => vec![which.cluster_ip(self.services)],
        }
    }

    /// The resident memory of whoever keeps the Services up to date, in MB, where that is a process.
    pub(super) fn memory(&self) -> Option<f64> {
        let agent = self.agent.as_ref().map(Agent::pid);
        let pid = agent.or_else(|| self.kube_proxy.as_ref().map(|(proxy, _)| proxy.pid()))?;
        Some(process::memory(pid, "VmRSS").ok()? / 1e6)
    }
}

/// Whoever dials a pod from outside goes by the first node too, there and back, as translated packets do.
fn equal_ways(lab: &Lab) -> Result<()> {
    let (node, outside) = (lab.node(NODE), lab.client("outside"));
    outside.route(PODS, node)?;
    node.netns.set_sysctls(&NO_REDIRECTS)?;
    lab.node("node2").netns.ip(&[format!("route add {}/32 via {}", outside.v4, node.v4)])
}
