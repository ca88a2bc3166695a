//! Building a lab from its description.
//!
//! Decides the order in which namespaces are made and wired; must not know what runs in them.
//! Invariant: if building fails half way, what was built is removed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::firewall::CniMasquerade;
use super::members::{Client, Layout, Node, Pod};
use super::netns::{Netns, ip_batch};
use super::outside::{self, Routers};
use super::wiring::{self, RpFilter};
use super::{Lab, address, cgroup, leftovers};

/// Labs of this process so far; part of a lab's name.
static LABS: AtomicU32 = AtomicU32::new(0);

/// Longest pod name: `veth-` and it must fit into an interface name (15 bytes).
pub(super) const POD_NAME_MAX: usize = 10;

/// Names that members of a lab's own have.
const RESERVED: [&str; 3] = ["fabric", "edge", "far"];

/// Describes a lab; see [`Lab::builder`].
#[derive(Debug, Default)]
pub struct LabBuilder {
    nodes: Vec<(String, Layout, Vec<String>)>,
    clients: Vec<(String, String)>,
    far_clients: Vec<(String, String, u8)>,
    path_mtu: Option<u32>,
    rp_filter: RpFilter,
    cni_masquerade: CniMasquerade,
    guarded: bool,
}

impl LabBuilder {
    /// Adds a node with pods. The first node is number 1, its first pod 10.244.1.2.
    pub fn node(mut self, name: &str, layout: Layout, pods: &[&str]) -> Self {
        self.nodes.push((name.to_owned(), layout, pods.iter().map(|pod| (*pod).to_owned()).collect()));
        self
    }

    /// Adds an outside client that routes the service ranges to the node `via`.
    pub fn client(mut self, name: &str, via: &str) -> Self {
        self.clients.push((name.to_owned(), via.to_owned()));
        self
    }

    /// Adds an outside client beyond two routers, with so many addresses of each family, whose way to
    /// the service ranges leads by the node `via`.
    pub fn far_client(mut self, name: &str, via: &str, addresses: u8) -> Self {
        self.far_clients.push((name.to_owned(), via.to_owned(), addresses));
        self
    }

    /// How wide the link between the two routers is, in bytes; 1500 unless told, as all others.
    pub fn path_mtu(mut self, bytes: u32) -> Self {
        self.path_mtu = Some(bytes);
        self
    }

    /// Sets reverse path filtering on all nodes.
    pub fn rp_filter(mut self, rp_filter: RpFilter) -> Self {
        self.rp_filter = rp_filter;
        self
    }

    /// Masquerades, on all nodes, what pods send to addresses that are no pods'.
    pub fn cni_masquerade(mut self, how: CniMasquerade) -> Self {
        self.cni_masquerade = how;
        self
    }

    /// Makes all nodes drop what they are to forward between addresses that are not the true ones of a
    /// client and a pod ([`Lab::true_pairs`]), and what conntrack takes for invalid.
    pub fn true_addresses_only(mut self) -> Self {
        self.guarded = true;
        self
    }

    /// Builds it, after removing what labs of dead processes left behind.
    ///
    /// # Errors
    /// Without root, without iproute2, and for names that are doubled or too long.
    pub fn build(self) -> Result<Lab> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a lab is made of network namespaces and needs root; run `cargo xtask test` (which leaves these \
             tests out without root) or run this as root"
        );
        self.check_names()?;
        let name = format!("sb{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lock = leftovers::lock()?;
        leftovers::mount_bpffs()?;
        leftovers::remove_leftovers().context("remove what earlier labs left")?;
        let built = self.assemble(&name);
        drop(lock);
        if built.is_err() {
            // The first error is the one to tell; what cannot be removed now, the next lab removes.
            let _ = leftovers::remove_lab(&name);
        }
        built.with_context(|| format!("build lab {name}"))
    }

    fn check_names(&self) -> Result<()> {
        let mut seen = std::collections::BTreeSet::from(RESERVED);
        let pods = || self.nodes.iter().flat_map(|(_, _, pods)| pods);
        let nodes = self.nodes.iter().map(|(name, ..)| name);
        for name in nodes.chain(self.client_names()).chain(pods()) {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            ensure!(plain && !name.is_empty(), "the name {name:?} is not made of letters, digits and dashes");
            ensure!(
                seen.insert(name),
                "the name {name} is used twice in this lab, or is one of {RESERVED:?}"
            );
        }
        for pod in pods() {
            ensure!(pod.len() <= POD_NAME_MAX, "the pod name {pod} has more than {POD_NAME_MAX} characters");
        }
        for (client, via) in self.ways() {
            let found = self.nodes.iter().any(|(name, ..)| name == via);
            ensure!(found, "client {client} routes through {via}, which is no node of this lab");
        }
        ensure!(self.nodes.iter().all(|(_, _, pods)| pods.len() <= 250), "more than 250 pods on a node");
        ensure!(self.nodes.len() <= 99 && self.clients.len() <= 99, "more than 99 nodes or clients");
        ensure!(self.far_clients.len() <= 99, "more than 99 far clients");
        for (client, _, addresses) in &self.far_clients {
            ensure!((1..=200).contains(addresses), "the far client {client} needs 1 to 200 addresses");
        }
        Ok(())
    }

    /// Every client with the node it finds Services behind.
    fn ways(&self) -> impl Iterator<Item = (&String, &String)> {
        let far = self.far_clients.iter().map(|(name, via, _)| (name, via));
        self.clients.iter().map(|(name, via)| (name, via)).chain(far)
    }

    fn client_names(&self) -> impl Iterator<Item = &String> {
        self.ways().map(|(name, _)| name)
    }

    fn assemble(&self, name: &str) -> Result<Lab> {
        let full = |member: &str| format!("{name}-{member}");
        let pods = self.nodes.iter().flat_map(|(_, _, pods)| pods);
        let routers = if self.far_clients.is_empty() { &[][..] } else { &["edge", "far"] };
        let members: Vec<&str> = std::iter::once("fabric")
            .chain(routers.iter().copied())
            .chain(self.nodes.iter().map(|(name, ..)| name.as_str()))
            .chain(self.client_names().map(String::as_str))
            .chain(pods.map(String::as_str))
            .collect();
        make_namespaces(&members.iter().map(|member| full(member)).collect::<Vec<_>>())?;

        let mut lab = Lab::empty(name, Netns::open(&full("fabric"))?, self.rp_filter);
        for ((name, layout, _), number) in self.nodes.iter().zip(1..) {
            lab.nodes.push(open_node(name, number, *layout, &full(name))?);
        }
        lab.guarded = self.guarded;
        if !routers.is_empty() {
            let (edge, far) = (Netns::open(&full("edge"))?, Netns::open(&full("far"))?);
            lab.routers = Some(Routers { edge, far });
        }
        for ((name, _), number) in self.clients.iter().zip(1..) {
            lab.clients.push(open_client(name, number, vec![address::client(number)], None, &full(name))?);
        }
        let edge = lab.routers.as_ref().map(|routers| routers.edge.clone());
        for ((name, _, addresses), number) in self.far_clients.iter().zip(1..) {
            let sources = (1..=*addresses).map(|host| address::far_client(number, host)).collect();
            lab.clients.push(open_client(name, number, sources, edge.clone(), &full(name))?);
        }
        for ((node, _, pods), number) in self.nodes.iter().zip(1..) {
            for (pod, host) in pods.iter().zip(2..) {
                lab.pods.push(open_pod(pod, node, address::pod(number, host), &full(pod))?);
            }
        }
        self.wire(&lab)?;
        lab.wait_for_links()?;
        lab.guard()?;
        Ok(lab)
    }

    /// Fabric first, since it makes everybody's uplink; then each node with its pods, side by side.
    fn wire(&self, lab: &Lab) -> Result<()> {
        let (near, far) = lab.clients.split_at(self.clients.len());
        let edge = lab.routers.as_ref().map(|routers| &routers.edge);
        lab.fabric.ip(&wiring::fabric(&lab.nodes, near, edge))?;
        thread::scope(|scope| {
            let mut work = Vec::new();
            for (client, (_, via)) in near.iter().zip(&self.clients) {
                work.push(scope.spawn(|| client.netns.ip(&wiring::client(client, lab.node(via)))));
            }
            for node in &lab.nodes {
                work.push(scope.spawn(|| self.wire_node(lab, node)));
            }
            if let Some(routers) = &lab.routers {
                work.push(scope.spawn(|| self.wire_far(lab, routers, far)));
            }
            work.into_iter()
                .try_for_each(|done| done.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    fn wire_node(&self, lab: &Lab, node: &Node) -> Result<()> {
        let pods: Vec<&Pod> = lab.pods.iter().filter(|pod| pod.node == node.name).collect();
        node.netns.set_sysctls(&wiring::node_settings(lab.rp_filter))?;
        let mut lines = wiring::node(node, &lab.nodes);
        if lab.routers.is_some() {
            lines.extend(outside::on_node());
        }
        lines.extend(pods.iter().flat_map(|pod| wiring::pod_on_node(pod, node.layout)));
        node.netns.ip(&lines)?;
        node.netns.bridge(&wiring::tunnel_ends(node, &lab.nodes))?;
        self.cni_masquerade.rules(node).map_or(Ok(()), |rules| node.netns.nft(&rules))?;
        pods.iter().try_for_each(|pod| pod.netns.ip(&wiring::pod_inside(pod, node.layout, node.number)))
    }

    fn wire_far(&self, lab: &Lab, routers: &Routers, clients: &[Client]) -> Result<()> {
        let via: Vec<&Node> = self.far_clients.iter().map(|(_, via, _)| lab.node(via)).collect();
        let mtu = self.path_mtu.unwrap_or(outside::FULL_MTU);
        for router in [&routers.edge, &routers.far] {
            router.set_sysctls(outside::ROUTER_SETTINGS)?;
        }
        routers.edge.ip(&outside::edge(&routers.far, clients, &via, mtu))?;
        routers.edge.ip_v6(&outside::edge_rules_v6(clients))?;
        routers.far.ip(&outside::far(clients))?;
        clients.iter().try_for_each(|client| client.netns.ip(&outside::client(client)))
    }
}

/// Makes namespaces and gives each the settings that must stand before its first interface.
pub(super) fn make_namespaces(names: &[String]) -> Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("netns add {name}")).collect();
    ip_batch(None, &lines)?;
    names.iter().try_for_each(|name| Netns::open(name)?.set_sysctls(wiring::EVERYWHERE))
}

fn open_node(name: &str, number: u8, layout: Layout, full: &str) -> Result<Node> {
    let (v4, v6) = address::node(number);
    let pin_folder = Path::new(leftovers::PIN_ROOT).join(full);
    let log_file: PathBuf = leftovers::log_folder().join(format!("{full}.log"));
    let cgroup = cgroup::make(full)?;
    Ok(Node {
        name: name.to_owned(),
        number,
        layout,
        netns: Netns::open_with(full, cgroup.clone())?,
        cgroup,
        v4,
        v6,
        pin_folder,
        log_file,
    })
}

fn open_client(
    name: &str,
    number: u8,
    sources: Vec<(std::net::Ipv4Addr, std::net::Ipv6Addr)>,
    edge: Option<Netns>,
    full: &str,
) -> Result<Client> {
    let (v4, v6) = *sources.first().context("a client has an address")?;
    Ok(Client { name: name.to_owned(), number, netns: Netns::open(full)?, v4, v6, sources, edge })
}

pub(super) fn open_pod(
    name: &str,
    node: &str,
    (v4, v6): (std::net::Ipv4Addr, std::net::Ipv6Addr),
    full: &str,
) -> Result<Pod> {
    let host_interface = format!("veth-{name}");
    Ok(Pod {
        name: name.to_owned(),
        node: node.to_owned(),
        netns: Netns::open(full)?,
        v4,
        v6,
        host_interface,
    })
}
