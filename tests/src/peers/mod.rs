//! The peers: what kube-proxy would load into netfilter for the same Services, for benchmarks to compare with.
//!
//! Decides the rules' shape, after kube-proxy 1.36: the same tables, chains, maps and order of evaluation, so that a
//! packet passes as many lookups and the kernel is given as much to commit. Must not know who measures. Invariant: rules are
//! loaded into a network namespace only, never into the host's own.

mod iptables;
pub mod kube_proxy;
mod nftables;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::lab::Netns;

/// The signal that cannot be caught.
const KILL: i32 = 9;
/// Services of a portion: a program's start takes milliseconds, as these do.
const PORTION: usize = 500;

/// A Service of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`, unique.
    pub name: String,
    /// Its ClusterIP and port. All Services of a ruleset are of one family.
    pub frontend: SocketAddr,
    /// UDP, else TCP.
    pub udp: bool,
    /// Its port on all nodes, if it has one. Its external traffic policy is `Cluster`.
    pub node_port: Option<u16>,
    /// Who serves.
    pub endpoints: Vec<SocketAddr>,
}

/// What kube-proxy knows of the node and its cluster.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// The range of the cluster's pods, as `10.244.0.0/16`.
    pub pods: &'a str,
    /// The node's first address, which NodePorts are served at.
    pub address: IpAddr,
}

impl Service {
    fn protocol(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }
}

/// A way to get Services done by netfilter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// nftables: one verdict map for all Services.
    Nftables,
    /// iptables on its own kernel tables: a list of rules for all Services.
    IptablesLegacy,
    /// iptables by way of nftables: the same list.
    IptablesNft,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nftables, Self::IptablesLegacy, Self::IptablesNft];

    /// The name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesLegacy => "iptables-legacy",
            Self::IptablesNft => "iptables-nft",
        }
    }

    /// What loads all of `services` into a namespace that has none.
    pub fn whole(self, services: &[Service], node: Node<'_>) -> String {
        match self {
            Self::Nftables => nftables::whole(services, node),
            Self::IptablesLegacy | Self::IptablesNft => iptables::whole(services, node),
        }
    }

    /// The same in portions that are loaded one after the other: what they leave behind is the same, and loading them
    /// takes less of what grows with the square of a transaction (the kernel looks through all of it for each anonymous
    /// map, iptables-nft for each chain). kube-proxy itself loads the whole.
    pub fn portions(self, services: &[Service], node: Node<'_>) -> Vec<String> {
        match self {
            Self::Nftables => nftables::portions(services, PORTION, node),
            Self::IptablesNft => iptables::portions(services, PORTION, node.pods),
            // The kernel takes and gives back the whole table each time.
            Self::IptablesLegacy => vec![iptables::whole(services, node)],
        }
    }

    /// What brings the rules up to date after `before` became `after`, which is the one of `services` (those after
    /// the change) that changed; `None` where it is new or gone.
    pub fn change(
        self,
        services: &[Service],
        before: Option<&Service>,
        after: Option<&Service>,
        node: Node<'_>,
    ) -> String {
        match self {
            Self::Nftables => nftables::change(before, after, node),
            Self::IptablesLegacy | Self::IptablesNft => iptables::change(services, before, after, node),
        }
    }

    /// Loads what [`Self::whole`], [`Self::portions`] or [`Self::change`] wrote into a namespace.
    ///
    /// # Errors
    /// Where the program is not installed or refuses the rules; with its words.
    pub fn load(self, netns: &Netns, rules: &str, ipv6: bool) -> Result<()> {
        self.load_within(netns, rules, ipv6, None).map(|_| ())
    }

    /// The same, given up after some whole seconds: `false`; the namespace is as it was then, or on the way there.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_within(
        self,
        netns: &Netns,
        rules: &str,
        ipv6: bool,
        limit: Option<Duration>,
    ) -> Result<bool> {
        let (program, arguments): (_, &[&str]) = match (self, ipv6) {
            (Self::Nftables, _) => ("nft", &["-f", "-"]),
            (Self::IptablesLegacy, false) => ("iptables-legacy-restore", &["--noflush", "--counters", "-w"]),
            (Self::IptablesLegacy, true) => ("ip6tables-legacy-restore", &["--noflush", "--counters", "-w"]),
            (Self::IptablesNft, false) => ("iptables-nft-restore", &["--noflush", "--counters", "-w"]),
            (Self::IptablesNft, true) => ("ip6tables-nft-restore", &["--noflush", "--counters", "-w"]),
        };
        // 0 is no limit.
        let seconds = limit.map_or(0, |limit| limit.as_secs().max(1)).to_string();
        let mut child = netns
            .command("timeout")
            .args(["--signal=KILL", &seconds, program])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {program} (`cargo xtask setup` installs it)"))?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        // Where the program ends before it has read all, its own words below say why.
        let _ = stdin.write_all(rules.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| format!("waiting for {program}"))?;
        let killed = output.status.signal().or(output.status.code().map(|code| code - 128));
        if limit.is_some() && killed == Some(KILL) {
            return Ok(false);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{program} refused the rules: {}",
            said.lines().take(3).collect::<Vec<_>>().join(" / ")
        );
        Ok(true)
    }
}

/// What stands for a name in a chain's name: as long as kube-proxy's hashes, and as good as unique.
fn hash(text: &str, length: usize) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    // FNV-1a, run over the text twice so that 16 letters of five bits are all used.
    let fnv = |seed: u64| {
        text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let bits = (u128::from(fnv(0xcbf2_9ce4_8422_2325)) << 64) | u128::from(fnv(0x9e37_79b9_7f4a_7c15));
    (0..length).map(|place| char::from(LETTERS[(bits >> (5 * place)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Service of as many endpoints.
    pub(super) fn service(number: u8, endpoints: u8) -> Service {
        Service {
            name: format!("default/s{number}"),
            frontend: ([10, 96, 0, number], 80).into(),
            udp: false,
            node_port: None,
            endpoints: (1..=endpoints).map(|last| ([10, 244, number, last], 8080).into()).collect(),
        }
    }

    /// A node among pods.
    pub(super) const NODE: Node<'_> =
        Node { pods: "10.244.0.0/16", address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)) };

    #[test]
    fn names_in_chains_differ_and_have_their_length() {
        let hashes: std::collections::BTreeSet<String> =
            (0..50_000).map(|number| hash(&format!("default/s{number}"), 16)).collect();
        assert_eq!(hashes.len(), 50_000);
        assert!(hashes.iter().all(|hash| hash.len() == 16));
        let short: std::collections::BTreeSet<String> =
            (0..1_000).map(|number| hash(&format!("default/s{number}"), 8)).collect();
        assert_eq!(short.len(), 1_000);
    }
}
