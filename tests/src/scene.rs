//! The scene that most tests of the agent begin with: a node, a client, three backends, a Service of them.
//!
//! Decides names and addresses once. Must not assert anything. Invariant: dropping it leaves nothing behind.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::agent::{Agent, AgentConfig, Tool};
use crate::lab::{Lab, Layout, Node, Pod};
use crate::manifests::{Family, Manifests, Protocol};
use crate::poll;
use crate::traffic::EchoServer;

/// How long anything that ought to happen may take, on a machine that builds something else meanwhile.
pub const SOON: Duration = Duration::from_secs(30);
/// How long one exchange may take.
pub const LIMIT: Duration = Duration::from_secs(2);
/// The Service's addresses.
pub const VIPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];
/// The pods behind it.
pub const BACKENDS: [&str; 3] = ["a", "b", "c"];
/// The pods' port.
pub const POD_PORT: u16 = 8080;
/// The Service's ports, TCP and UDP.
pub const TCP_PORT: u16 = 80;
/// The Service's UDP port.
pub const UDP_PORT: u16 = 53;

const PORTS: [(&str, u16, Protocol); 2] =
    [("http", POD_PORT, Protocol::Tcp), ("dns", POD_PORT, Protocol::Udp)];

/// The Service's frontends on `port`, IPv4 first.
pub fn vips(port: u16) -> [SocketAddr; 2] {
    VIPS.map(|ip| SocketAddr::new(ip.parse().unwrap_or_else(|_| unreachable!("written above")), port))
}

/// A node of four pods, the Service `web` of three of them, and an agent that is in sync.
pub struct Scene {
    /// The agent; declared first, so that it ends first.
    pub agent: Agent,
    /// What it reads.
    pub manifests: Manifests,
    /// The pods' servers.
    pub servers: Vec<EchoServer>,
    /// The network.
    pub lab: Lab,
}

impl Scene {
    /// Sets it up; `args` are for the agent.
    pub fn start(layout: Layout, args: &[&str]) -> anyhow::Result<Self> {
        let lab = Lab::builder().node("node1", layout, &["client", "a", "b", "c"]).build()?;
        let servers = BACKENDS
            .iter()
            .map(|name| EchoServer::start(&lab.pod(name).netns, name, &[POD_PORT]))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut manifests = Manifests::new()?;
        manifests.lab_node(lab.node("node1"));
        manifests.service("web", |service| {
            service.cluster_ips(&VIPS).port("http", TCP_PORT, Protocol::Tcp).port(
                "dns",
                UDP_PORT,
                Protocol::Udp,
            );
        });
        let mut config = AgentConfig::new(manifests.path());
        for arg in args {
            config = config.arg(*arg);
        }
        let backends: Vec<&Pod> = BACKENDS.iter().map(|name| lab.pod(name)).collect();
        manifests.pods("web", &backends, &PORTS);
        manifests.write()?;
        let agent = Agent::start(lab.node("node1"), config)?;
        let mut scene = Self { agent, manifests, servers, lab };
        scene.agent.wait_in_sync(SOON)?;
        Ok(scene)
    }

    /// The pod that dials.
    pub fn client(&self) -> &Pod {
        self.lab.pod("client")
    }

    /// The node.
    pub fn node(&self) -> &Node {
        self.lab.node("node1")
    }

    /// The command-line tool on the node.
    pub fn tool(&self) -> Tool {
        Tool::new(self.node())
    }

    /// Leaves only these pods in the Service and waits until the kernel's maps say so, in both families.
    pub fn set_backends(&mut self, names: &[&str]) -> anyhow::Result<()> {
        let backends: Vec<&Pod> = names.iter().map(|name| self.lab.pod(name)).collect();
        let mut expected: Vec<String> = backends
            .iter()
            .flat_map(|pod| pod.both_at(POD_PORT))
            .map(|address| address.to_string())
            .collect();
        if backends.is_empty() {
            self.manifests.endpoints("web", Family::V4, &[], &PORTS);
            self.manifests.endpoints("web", Family::V6, &[], &PORTS);
            expected = vec!["reject".to_owned()];
        } else {
            self.manifests.pods("web", &backends, &PORTS);
        }
        self.manifests.write()?;
        expected.sort();
        let tool = self.tool();
        poll::until("the Service's backends in the maps", SOON, || {
            let now = inside_sets(&tool.get("frontends").map_err(|error| error.to_string())?);
            if now == expected { Ok(()) } else { Err(format!("{now:?} instead of {expected:?}")) }
        })
    }
}

/// Where connections to the Service `web` go, each place once.
fn inside_sets(frontends: &Value) -> Vec<String> {
    let rows = frontends.as_array().map(Vec::as_slice).unwrap_or_default();
    let web = rows
        .iter()
        .filter(|row| row["service"].as_str().is_some_and(|name| name.starts_with("default/web:")));
    let places = web.flat_map(|row| row["inside"].as_array().cloned().unwrap_or_default());
    let places: BTreeSet<String> = places.filter_map(|place| place.as_str().map(str::to_owned)).collect();
    places.into_iter().collect()
}
