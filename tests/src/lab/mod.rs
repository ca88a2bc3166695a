//! A small cluster made of network namespaces.
//!
//! Decides what lives in a lab and for how long; must not know traffic or the agent. Invariant:
//! dropping a lab removes its processes, namespaces and pins, unless it is to be kept.
//!
//! ```text
//!   pod eth0 --- veth-<pod> [ node1 ] eth0 ---+
//!   pod eth0 --- veth-<pod> [       ]         |
//!                                             +--- br0 [ fabric ]
//!   pod eth0 --- veth-<pod> [ node2 ] eth0 ---+
//!                           [ client] eth0 ---+
//!        [ client ] eth0 --- [ far ] --- [ edge ] eth0
//! ```
//!
//! What is not asked for is not there: a lab with one node has neither routers nor rules of
//! netfilter, and its nodes do not filter by reverse path.

pub mod address;
mod builder;
mod cgroup;
mod firewall;
mod interrupted;
mod leftovers;
mod members;
mod netns;
mod outside;
mod ready;
mod wiring;

use anyhow::{Context, Result, ensure};

pub use self::builder::LabBuilder;
pub use self::firewall::{CniMasquerade, Dropped};
pub use self::interrupted::{Interruptible, clean_up_when_interrupted};
pub(crate) use self::leftovers::programs_folder;
pub use self::leftovers::{LOCK_FILE, PIN_ROOT, remove_leftovers};
pub use self::members::{Client, Layout, Node, Pod};
pub use self::netns::Netns;
pub use self::wiring::RpFilter;

/// A running lab. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    name: String,
    fabric: Netns,
    routers: Option<outside::Routers>,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    pods: Vec<Pod>,
    rp_filter: RpFilter,
    /// Do its nodes forward only between true addresses?
    guarded: bool,
    kept: bool,
}

impl Lab {
    /// Starts the description of a lab.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// Brings the nodes' policies to what the lab's members are, if it was built with such.
    fn guard(&self) -> Result<()> {
        let nodes = self.nodes.iter().filter(|_| self.guarded);
        nodes.into_iter().try_for_each(|node| node.accept_only(&self.true_pairs(node)))
    }

    /// Waits until every link made so far carries packets.
    fn wait_for_links(&self) -> Result<()> {
        for node in &self.nodes {
            let podless = self.pods.iter().all(|pod| pod.node != node.name);
            ready::wait_for_links(&node.netns, podless.then_some(wiring::POD_BRIDGE))?;
        }
        let others =
            self.clients.iter().map(|client| &client.netns).chain(self.pods.iter().map(|pod| &pod.netns));
        let routers = self.routers.iter().flat_map(|routers| [&routers.edge, &routers.far]);
        others.chain([&self.fabric]).chain(routers).try_for_each(|netns| ready::wait_for_links(netns, None))
    }

    fn empty(name: &str, fabric: Netns, rp_filter: RpFilter) -> Self {
        Self {
            name: name.to_owned(),
            fabric,
            routers: None,
            nodes: Vec::new(),
            clients: Vec::new(),
            pods: Vec::new(),
            rp_filter,
            guarded: false,
            kept: false,
        }
    }

    /// `sb<pid>-<n>`, what the names of its namespaces begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace with the bridge that joins nodes and clients.
    pub fn fabric(&self) -> &Netns {
        &self.fabric
    }

    /// All nodes, in order of their numbers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All pods, in the order they were added.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// The node of that name.
    ///
    /// # Panics
    /// When the lab has no such node: a mistake in the test.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("lab has no node {name}"))
    }

    /// The pod of that name.
    ///
    /// # Panics
    /// When the lab has no such pod: a mistake in the test.
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).unwrap_or_else(|| panic!("lab has no pod {name}"))
    }

    /// The outside client of that name.
    ///
    /// # Panics
    /// When the lab has no such client: a mistake in the test.
    pub fn client(&self, name: &str) -> &Client {
        self.clients
            .iter()
            .find(|client| client.name == name)
            .unwrap_or_else(|| panic!("lab has no client {name}"))
    }

    /// Prepares the nodes' uplinks for XDP programs that send: `accept` is to hang a program that passes everything on
    /// the interface of that name, in the namespace that it is called in. A veth takes what its peer's XDP program sends
    /// back only where it has such a program itself; and an XDP program sees the checksums that a sender left
    /// unfinished, so the fabric finishes them.
    pub fn prepare_for_xdp<T: Send>(
        &self,
        mut accept: impl FnMut(&str) -> Result<T> + Send,
    ) -> Result<Vec<T>> {
        let prepare = |node: &Node| {
            let port = format!("up-n{}", node.number);
            members::ethtool(&self.fabric, &["-K", &port, "tx", "off"])?;
            self.fabric.run(|| accept(&port))
        };
        self.nodes.iter().map(prepare).collect()
    }

    /// Adds a pod to a node of the running lab. Its address is the first that no pod of the node has.
    pub fn add_pod(&mut self, node: &str, name: &str) -> Result<Pod> {
        let node = self.node(node).clone();
        let others = || self.pods.iter().filter(|pod| pod.node == node.name);
        let host = (address::BRIDGE + 1..address::TUNNEL)
            .find(|host| others().all(|pod| pod.v4 != address::pod(node.number, *host).0))
            .with_context(|| format!("node {} has no address left for pod {name}", node.name))?;
        ensure!(name.len() <= builder::POD_NAME_MAX, "the pod name {name} is too long for an interface name");
        let full = format!("{}-{name}", self.name);
        builder::make_namespaces(std::slice::from_ref(&full)).with_context(|| format!("add pod {name}"))?;
        let pod = builder::open_pod(name, &node.name, address::pod(node.number, host), &full)?;
        self.pods.push(pod.clone());
        node.netns.ip(&wiring::pod_on_node(&pod, node.layout))?;
        pod.netns.ip(&wiring::pod_inside(&pod, node.layout, node.number))?;
        ready::wait_for_links(&pod.netns, None)?;
        ready::wait_for_links(&node.netns, None)?;
        self.guard()?;
        Ok(pod)
    }

    /// Removes a pod: first its veth, as a CNI does, then its namespace. Servers and loads that run
    /// in it lose their network at once, without a FIN or a reset.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name).clone();
        self.node(&pod.node).netns.ip(&[format!("link del {}", pod.host_interface)])?;
        self.pods.retain(|other| other.name != name);
        leftovers::remove_namespace(pod.netns.name())
    }

    /// Leaves the lab up when this value is dropped. What runs as a thread of this process still
    /// ends with it. The next lab that is built after this process has ended removes it.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = leftovers::remove_lab(&self.name) {
            eprintln!("lab {} was not removed entirely: {error:#}; the next lab will try again", self.name);
        }
    }
}
