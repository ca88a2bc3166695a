//! What is known of a node.
//!
//! Decides nothing. Invariant: what could not be looked at says why, and is never an empty list.

use std::collections::{BTreeMap, BTreeSet};

use crate::net::links::Link;
use crate::net::role::Role;
use crate::net::rules::Ruleset;

/// Something looked at, or why it could not be.
pub type Seen<T> = Result<T, String>;

/// A node.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The kernel's version, as in 6.12.
    pub kernel: (u32, u32),
    /// The capabilities of this process, by name, of those that matter.
    pub capabilities: BTreeSet<&'static str>,
    /// Is there a BPF filesystem where pins go?
    pub bpffs: Seen<()>,
    /// Where the root of the unified cgroup hierarchy is mounted.
    pub cgroup: Seen<String>,
    /// Kernel settings, by key as sysctl(8) has it. Those that the kernel lacks are not there.
    pub settings: BTreeMap<String, String>,
    /// netfilter's rules, by way of nftables.
    pub rules: Seen<Ruleset>,
    /// Those of iptables' older way, which nftables does not show.
    pub legacy_rules: Seen<Ruleset>,
    /// Links, each with what it leads to.
    pub links: Seen<Vec<(Link, Option<Role>)>>,
    /// Programs on links and cgroups.
    pub programs: Seen<Vec<Program>>,
    /// Names of the CNI's configuration files, the first of which is in force, with the plugins each names.
    pub cni: Seen<Vec<(String, Vec<String>)>>,
    /// What an agent has pinned.
    pub agent: Seen<Option<Pinned>>,
    /// Ports for masqueraded flows.
    pub masquerade_ports: (u16, u16),
    /// Ports that the cluster gives Services for NodePorts.
    pub node_ports: (u16, u16),
}

/// A program on a hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    /// The link's name, or `cgroup`.
    pub place: String,
    /// The hook.
    pub hook: String,
    /// The program's id.
    pub id: u32,
    /// Its name, where it could be asked for.
    pub name: Option<String>,
    /// Is it Switchboard's?
    pub ours: bool,
}

/// What an agent has pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Does the agent run?
    pub running: bool,
    /// Its maps.
    pub maps: Vec<MapState>,
}

/// A map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapState {
    /// Its name.
    pub name: String,
    /// Rows in use, where they can be counted.
    pub rows: Option<u64>,
    /// Rows that fit.
    pub capacity: u64,
    /// Bytes that the kernel holds for it.
    pub bytes: Option<u64>,
    /// Does it push old rows out by itself?
    pub evicts: bool,
}

impl Snapshot {
    /// A setting as a number.
    pub(super) fn number(&self, key: &str) -> Option<i64> {
        self.settings.get(key)?.trim().parse().ok()
    }

    /// A setting as a range of ports.
    pub(super) fn range(&self, key: &str) -> Option<(u16, u16)> {
        let mut words = self.settings.get(key)?.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node with nothing wrong.
    pub(in super::super) fn healthy() -> Snapshot {
        let settings = [
            ("net.core.bpf_jit_enable", "1"),
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.ip_local_port_range", "32768\t60999"),
            ("net.ipv4.ip_local_reserved_ports", ""),
            ("net.netfilter.nf_conntrack_max", "262144"),
            ("net.netfilter.nf_conntrack_count", "100"),
        ];
        Snapshot {
            kernel: (6, 12),
            capabilities: ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"].into(),
            bpffs: Ok(()),
            cgroup: Ok("/sys/fs/cgroup".to_owned()),
            settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            rules: Ok(Ruleset::default()),
            legacy_rules: Ok(Ruleset::default()),
            links: Ok(Vec::new()),
            programs: Ok(Vec::new()),
            cni: Ok(vec![("10-flannel.conflist".to_owned(), vec!["flannel".to_owned()])]),
            agent: Ok(None),
            masquerade_ports: (61_000, 65_535),
            node_ports: (30_000, 32_767),
        }
    }

    #[test]
    fn nothing_needs_a_look_where_nothing_is_wrong() {
        let findings = super::super::examine(&healthy());
        let wrong: Vec<_> = findings.iter().filter(|finding| finding.needs_a_look()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn whoever_is_told_of_trouble_is_told_what_to_do() {
        let mut broken = healthy();
        broken.kernel = (5, 4);
        broken.capabilities.clear();
        broken.bpffs = Err("no".to_owned());
        broken.cgroup = Err("no".to_owned());
        broken.settings.clear();
        broken.rules = Err("no".to_owned());
        broken.legacy_rules = Err("no".to_owned());
        broken.links = Err("no".to_owned());
        broken.programs = Err("no".to_owned());
        broken.cni = Err("no".to_owned());
        broken.agent = Err("no".to_owned());
        for finding in super::super::examine(&broken) {
            assert!(finding.level <= super::super::Level::Note || !finding.remedy.is_empty(), "{finding:?}");
        }
    }
}
