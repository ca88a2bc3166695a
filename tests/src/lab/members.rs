//! Who lives in a lab: nodes, pods, outside clients.
//!
//! Decides what a test may ask of each; must not know how they are wired. Invariant: a member is a
//! cheap handle; only the lab adds and removes members.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::netns::Netns;
use super::{address, outside};

/// How a node's pods are connected to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each pod has a veth of its own, a /32 and a /128 route on the node, and a default route
    /// through a link-local gateway; the host side has no global address. As Calico does.
    Routed,
    /// The pods are ports of a bridge `cni0` that has the gateway's address. As flannel with host
    /// routes and the bridge plugin do.
    Bridged,
    /// As bridged, and between nodes of this layout pods' packets go through a tunnel `vxlan0`, which
    /// has an address of its own. Pods' links are 50 bytes narrower. As flannel does.
    Overlay,
}

impl Layout {
    /// Are its pods ports of a bridge?
    pub fn has_bridge(self) -> bool {
        matches!(self, Self::Bridged | Self::Overlay)
    }

    /// Does it have a tunnel to other nodes of its kind?
    pub fn has_tunnel(self) -> bool {
        self == Self::Overlay
    }
}

/// A node: a namespace that forwards between its pods and its uplink `eth0`, itself a veth.
#[derive(Clone, Debug)]
pub struct Node {
    /// Name as in a Node object.
    pub name: String,
    /// Position in the lab, from 1; the third part of its pods' addresses.
    pub number: u8,
    /// How its pods are connected.
    pub layout: Layout,
    /// Its namespace.
    pub netns: Netns,
    /// Address of its uplink, its InternalIP.
    pub v4: Ipv4Addr,
    /// The IPv6 one.
    pub v6: Ipv6Addr,
    /// Where an agent of this node is to pin; not created by the lab, but removed by it.
    pub pin_folder: PathBuf,
    /// The cgroup that whoever enters its namespace joins, for the hooks of an agent of this node; none on a machine
    /// without cgroup2.
    pub cgroup: Option<PathBuf>,
    /// Where an agent of this node logs to.
    pub log_file: PathBuf,
}

/// A pod: a namespace with an `eth0`, whose other end is `host_interface` in the node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Name, unique in the lab.
    pub name: String,
    /// Name of its node.
    pub node: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub v4: Ipv4Addr,
    /// The IPv6 one.
    pub v6: Ipv6Addr,
    /// Name of the veth end in the node's namespace: `veth-<pod>`.
    pub host_interface: String,
}

/// A machine outside of the cluster: on the nodes' network, or beyond two routers.
#[derive(Clone, Debug)]
pub struct Client {
    /// Name, unique in the lab.
    pub name: String,
    /// Position among the clients of its sort, from 1.
    pub number: u8,
    /// Its namespace.
    pub netns: Netns,
    /// Its address.
    pub v4: Ipv4Addr,
    /// The IPv6 one.
    pub v6: Ipv6Addr,
    /// All addresses it may dial from, that one first.
    pub sources: Vec<(Ipv4Addr, Ipv6Addr)>,
    /// The router that finds its way into the cluster; none if it does so itself.
    pub(super) edge: Option<Netns>,
}

macro_rules! addressed {
    ($($member:ty),*) => {$(
        impl $member {
            /// Its IPv4 address with a port, for dialling.
            pub fn v4_at(&self, port: u16) -> SocketAddr {
                (self.v4, port).into()
            }

            /// Its IPv6 address with a port, for dialling.
            pub fn v6_at(&self, port: u16) -> SocketAddr {
                (self.v6, port).into()
            }

            /// Both addresses with a port, IPv4 first.
            pub fn both_at(&self, port: u16) -> [SocketAddr; 2] {
                [self.v4_at(port), self.v6_at(port)]
            }

            /// Whether `address` is one of the two.
            pub fn has(&self, address: IpAddr) -> bool {
                address == IpAddr::V4(self.v4) || address == IpAddr::V6(self.v6)
            }
        }
    )*};
}
addressed!(Node, Pod, Client);

impl Node {
    /// The address in its own pod range that its bridge has, if there is a bridge.
    pub fn bridge(&self) -> Option<(Ipv4Addr, Ipv6Addr)> {
        self.layout.has_bridge().then(|| address::pod(self.number, address::BRIDGE))
    }

    /// The address in its own pod range that its tunnel has, if there is a tunnel.
    pub fn tunnel(&self) -> Option<(Ipv4Addr, Ipv6Addr)> {
        self.layout.has_tunnel().then(|| address::pod(self.number, address::TUNNEL))
    }

    /// All its addresses, those of its uplink first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let pairs = [Some((self.v4, self.v6)), self.bridge(), self.tunnel()];
        pairs.into_iter().flatten().flat_map(|(v4, v6)| [IpAddr::V4(v4), IpAddr::V6(v6)]).collect()
    }

    /// The addresses of the device by which its packets to `other`'s pods leave.
    pub fn towards_pods_of(&self, other: &Node) -> (Ipv4Addr, Ipv6Addr) {
        self.tunnel().filter(|_| other.layout.has_tunnel()).unwrap_or((self.v4, self.v6))
    }
}

impl Pod {
    /// Switches the offload of checksums on what the pod sends. On (the kernel's default) a
    /// packet's checksum field holds only the pseudo-header's sum until it leaves the machine.
    pub fn set_tx_checksum_offload(&self, on: bool) -> Result<()> {
        set_tx_checksum_offload(&self.netns, on)
    }
}

impl Client {
    /// As [`Pod::set_tx_checksum_offload`].
    pub fn set_tx_checksum_offload(&self, on: bool) -> Result<()> {
        set_tx_checksum_offload(&self.netns, on)
    }

    /// Adds (or replaces) a route to `prefix` through a node.
    pub fn route(&self, prefix: &str, via: &Node) -> Result<()> {
        let gateway = if prefix.contains(':') { IpAddr::V6(via.v6) } else { IpAddr::V4(via.v4) };
        match &self.edge {
            None => self.netns.ip(&[format!("route replace {prefix} via {gateway}")]),
            Some(edge) => edge.ip(&outside::into_cluster(self.number, prefix, gateway)),
        }
    }

    /// All addresses it may dial from, each by itself.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.sources.iter().flat_map(|(v4, v6)| [IpAddr::V4(*v4), IpAddr::V6(*v6)]).collect()
    }
}

fn set_tx_checksum_offload(netns: &Netns, on: bool) -> Result<()> {
    ethtool(netns, &["-K", "eth0", "tx", if on { "on" } else { "off" }])
}

/// Runs `ethtool` in a namespace.
pub(super) fn ethtool(netns: &Netns, words: &[&str]) -> Result<()> {
    let output = netns
        .command("ethtool")
        .args(words)
        .output()
        .context("start nsenter for ethtool; `cargo xtask setup` installs both")?;
    if !output.status.success() {
        bail!(
            "ethtool {} in {}: {} (`cargo xtask setup` installs ethtool)",
            words.join(" "),
            netns.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
