//! What a CNI and a NetworkPolicy put into a node's netfilter.
//!
//! Decides the rules, as nftables text, and reads their counters; must not know Services: no rule
//! names a frontend. Invariant: a packet that is forwarded without standing in the stated pairs is
//! dropped and counted, so a policy that holds proves that only true addresses were seen.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Lab;
use super::address::{self, CLUSTER_RANGES};
use super::members::Node;

/// The tables' names.
const MASQUERADE: &str = "cni_masquerade";
const POLICY: &str = "pair_policy";

/// How a node's CNI masquerades its pods towards what is no pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CniMasquerade {
    /// Not at all.
    #[default]
    Off,
    /// With the uplink's address; the source port stays where it is free.
    Plain,
    /// As plain, with any source port (`--random-fully`).
    RandomFully,
}

/// Packets that a node's policy has dropped so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Those that conntrack takes for invalid.
    pub invalid: u64,
    /// Those of new connections between addresses that were not stated.
    pub unstated: u64,
}

impl CniMasquerade {
    /// The rules of one node; none if there is nothing to masquerade.
    pub(super) fn rules(self, node: &Node) -> Option<String> {
        let how = match self {
            Self::Off => return None,
            Self::Plain => "masquerade",
            Self::RandomFully => "masquerade fully-random",
        };
        let (v4, v6) = address::pod_ranges(node.number);
        let [all_v4, all_v6] = CLUSTER_RANGES;
        Some(format!(
            "table inet {MASQUERADE} {{
               chain postrouting {{
                 type nat hook postrouting priority srcnat; policy accept;
                 oifname eth0 ip saddr {v4} ip daddr != {all_v4} {how}
                 oifname eth0 ip6 saddr {v6} ip6 daddr != {all_v6} {how}
               }}
             }}"
        ))
    }
}

impl Node {
    /// From now on forwards, besides what belongs to connections it knows, only new connections from
    /// the first to the second address of one of these pairs, and nothing that conntrack takes for
    /// invalid. Takes the place of an earlier policy; counters begin anew.
    pub fn accept_only(&self, pairs: &[(IpAddr, IpAddr)]) -> Result<()> {
        if self.layout.has_bridge() {
            // Else replies from pod to pod of one bridge pass conntrack by, which takes what follows
            // for invalid.
            let through = [("bridge/bridge-nf-call-iptables", "1"), ("bridge/bridge-nf-call-ip6tables", "1")];
            self.netns.set_sysctls(&through).context("a bridge needs br_netfilter for a policy like this")?;
        }
        self.netns.nft(&policy(pairs)).with_context(|| format!("set the policy of {}", self.name))
    }

    /// What the policy of [`Node::accept_only`] has dropped.
    pub fn dropped(&self) -> Result<Dropped> {
        let output = self
            .netns
            .command("nft")
            .args(["--json", "list", "counters", "table", "inet", POLICY])
            .output()
            .context("start nsenter for nft; `cargo xtask setup` installs both")?;
        ensure!(
            output.status.success(),
            "node {} has no policy: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let listed: Value = serde_json::from_slice(&output.stdout).context("read nft's list of counters")?;
        let count = |name: &str| {
            let entries = listed["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
            let counter = entries.iter().map(|entry| &entry["counter"]).find(|one| one["name"] == name);
            counter.and_then(|counter| counter["packets"].as_u64())
        };
        match (count("invalid"), count("unstated")) {
            (Some(invalid), Some(unstated)) => Ok(Dropped { invalid, unstated }),
            _ => bail!("nft's list of counters lacks one: {listed}"),
        }
    }
}

impl Lab {
    /// The pairs of addresses, client and server, that a node may forward new connections between
    /// where every packet has its true ones: from pods, outside clients and other nodes (whose
    /// masquerade addresses are true to this one) to pods and other nodes. None has an address of the
    /// node's own.
    pub fn true_pairs(&self, node: &Node) -> Vec<(IpAddr, IpAddr)> {
        let pods = || self.pods().iter().flat_map(|pod| [IpAddr::V4(pod.v4), IpAddr::V6(pod.v6)]);
        let others = self.nodes().iter().filter(|other| other.number != node.number);
        let servers: Vec<IpAddr> = pods().chain(others.flat_map(Node::addresses)).collect();
        let outside = self.clients.iter().flat_map(super::Client::addresses);
        let clients: Vec<IpAddr> = servers.iter().copied().chain(outside).collect();
        let pairs = clients.iter().flat_map(|from| servers.iter().map(|to| (*from, *to)));
        pairs.filter(|(from, to)| from.is_ipv4() == to.is_ipv4()).collect()
    }
}

/// Neighbour discovery and multicast are no connections, and cross a bridge only.
fn policy(pairs: &[(IpAddr, IpAddr)]) -> String {
    let elements = |wanted: fn(&IpAddr) -> bool| {
        let mut text = String::new();
        for (from, to) in pairs.iter().filter(|(from, _)| wanted(from)) {
            // Writing to a text cannot fail.
            let _ = write!(text, "{}{from} . {to}", if text.is_empty() { "elements = { " } else { ", " });
        }
        if text.is_empty() { text } else { text + " }" }
    };
    let (v4, v6) = (elements(IpAddr::is_ipv4), elements(IpAddr::is_ipv6));
    format!(
        "table inet {POLICY} {{ }}
         delete table inet {POLICY}
         table inet {POLICY} {{
           counter invalid {{ }}
           counter unstated {{ }}
           set pairs_v4 {{ type ipv4_addr . ipv4_addr; {v4} }}
           set pairs_v6 {{ type ipv6_addr . ipv6_addr; {v6} }}
           chain forward {{
             type filter hook forward priority filter; policy drop;
             ct state invalid counter name invalid drop
             ct state established,related accept
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
             ip6 daddr ff00::/8 accept
             ip saddr . ip daddr @pairs_v4 accept
             ip6 saddr . ip6 daddr @pairs_v6 accept
             counter name unstated drop
           }}
         }}"
    )
}
