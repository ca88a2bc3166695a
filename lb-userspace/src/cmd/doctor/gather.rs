//! The snapshot of this node.
//!
//! Decides where each fact is read. Must not judge any. Invariants: what cannot be read says why, and keeps nothing
//! else from being read; nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use lb_common::abi;
use lb_common::address::{Address as _, V4, V6};

use super::Args;
use crate::datapath::pins::Pins;
use crate::datapath::{census, cgroup, hooks, kernel};
use crate::doctor::firewall::saved;
use crate::doctor::snapshot::{MapState, Pinned, Program, Seen, Snapshot};
use crate::net::links::{Link, Watcher};
use crate::net::role::{Role, Roles};
use crate::net::rules::Ruleset;
use crate::net::{programs, rules};
use crate::source::file::host_addresses;

/// By number, as capabilities(7) has them.
const CAPABILITIES: [(&str, u32); 4] = [("NET_ADMIN", 12), ("SYS_ADMIN", 21), ("PERFMON", 38), ("BPF", 39)];

const SETTINGS: [&str; 11] = [
    "net.core.bpf_jit_enable",
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.conf.all.rp_filter",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
    "net.bridge.bridge-nf-call-iptables",
    "net.bridge.bridge-nf-call-ip6tables",
];

/// Looks at this node.
pub(super) async fn gather(args: &Args) -> Snapshot {
    let pins = Pins::at(&args.pin_dir);
    let links = seen(links(&pins).await);
    let mut settings: BTreeMap<String, String> = SETTINGS
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), setting(&key.replace('.', "/"))?)))
        .collect();
    for (link, _) in links.iter().flatten().filter(|(link, _)| link.carries_default_route) {
        let value = setting(&format!("net/ipv4/conf/{}/rp_filter", link.name));
        settings.extend(value.map(|value| (format!("net.ipv4.conf.{}.rp_filter", link.name), value)));
    }
    let masquerade_ports = kernel::config(&pins)
        .ok()
        .filter(|config| config.masquerade_port_first != 0)
        .map_or(args.masquerade_ports, |config| (config.masquerade_port_first, config.masquerade_port_last));
    let kernel = version();
    let programs = seen(programs_on(&links, &pins, kernel).await);
    Snapshot {
        kernel,
        capabilities: capabilities(),
        bpffs: seen(pins.check_filesystem()),
        cgroup: seen(cgroup::root().map(|path| path.display().to_string())),
        settings,
        rules: seen(rules::nftables()),
        legacy_rules: seen(legacy_rules()),
        programs,
        links,
        cni: seen(cni(&args.cni_dir)),
        agent: seen(pinned(&pins)),
        masquerade_ports,
        node_ports: args.node_ports,
    }
}

fn seen<T>(result: anyhow::Result<T>) -> Seen<T> {
    result.map_err(|error| format!("{error:#}"))
}

fn setting(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok()
}

fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers =
        release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn capabilities() -> BTreeSet<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    let held = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
    CAPABILITIES.iter().filter(|(_, bit)| held & (1 << bit) != 0).map(|(name, _)| *name).collect()
}

async fn links(pins: &Pins) -> anyhow::Result<Vec<(Link, Option<Role>)>> {
    let links = Watcher::new()?.snapshot().await?;
    // Who has an agent knows the node's address; else a default route tells the uplink.
    let known = kernel::config(pins).ok();
    let own = host_addresses().unwrap_or_default();
    let is_nodes = |address: &std::net::IpAddr| {
        known.is_some_and(|config| {
            V4::from_ip(*address) == Some(config.node_v4) || V6::from_ip(*address) == Some(config.node_v6)
        })
    };
    let roles = Roles::new(None, &own.into_iter().filter(is_nodes).collect::<Vec<_>>())?;
    Ok(links.into_iter().map(|link| (link.clone(), roles.of(&link))).collect())
}

async fn programs_on(
    links: &Seen<Vec<(Link, Option<Role>)>>,
    pins: &Pins,
    kernel: (u32, u32),
) -> anyhow::Result<Vec<Program>> {
    let names = hooks::names().unwrap_or_default();
    let pinned = hooks::pinned(pins).unwrap_or_default();
    let mut found: Vec<Program> = Vec::new();
    let mut add = |place: &str, hook: &str, id: u32, name: Option<String>| {
        let name = names.get(&id).cloned().filter(|name| !name.is_empty()).or(name);
        let ours = pinned.contains(&id) || name.as_deref().is_some_and(|name| hooks::OURS.contains(&name));
        found.push(Program { place: place.to_owned(), hook: hook.to_owned(), id, name, ours });
    };
    for (link, _) in links.iter().flatten().filter(|(_, role)| role.is_some() && kernel >= (6, 6)) {
        match hooks::on_interface(link.index) {
            Ok(ids) => ids.into_iter().for_each(|(hook, id)| add(&link.name, hook, id, None)),
            // A link that has gone meanwhile is nobody's concern.
            Err(_) if nix::net::if_::if_nametoindex(link.name.as_str()).is_err() => {}
            Err(error) => return Err(error),
        }
    }
    for program in programs::on_links().await? {
        let place = links.iter().flatten().find(|(link, role)| link.index == program.link && role.is_some());
        if let Some((link, _)) = place {
            add(&link.name, program.hook, program.id.unwrap_or(0), program.name);
        }
    }
    if let Ok(root) = cgroup::root() {
        for (hook, id) in hooks::on_cgroup(&root)? {
            add("the root cgroup", hook, id, None);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// By `iptables-legacy-save`, where the kernel has such tables at all.
fn legacy_rules() -> anyhow::Result<Ruleset> {
    let mut all = Ruleset::default();
    for (list, family, program) in [
        ("/proc/net/ip_tables_names", "ip", "iptables-legacy-save"),
        ("/proc/net/ip6_tables_names", "ip6", "ip6tables-legacy-save"),
    ] {
        let tables = match fs::read_to_string(list) {
            Ok(tables) => tables.split_whitespace().collect::<Vec<_>>().join(", "),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => anyhow::bail!("reading {list}: {error}"),
        };
        if tables.is_empty() {
            continue;
        }
        let output = Command::new(program).output().map_err(|error| {
            anyhow::anyhow!("there are legacy tables ({tables}), and {program} shows them: {error}")
        })?;
        anyhow::ensure!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let ruleset = saved(family, &String::from_utf8_lossy(&output.stdout));
        all.tables.extend(ruleset.tables);
        all.chains.extend(ruleset.chains);
    }
    Ok(all)
}

fn cni(folder: &Path) -> anyhow::Result<Vec<(String, Vec<String>)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let kind = path.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        if ["conf", "conflist", "json"].contains(&kind) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, plugins(&fs::read_to_string(&path)?)));
        }
    }
    files.sort();
    Ok(files)
}

fn plugins(text: &str) -> Vec<String> {
    let configuration: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let one = std::slice::from_ref(&configuration);
    let parts = configuration["plugins"].as_array().map_or(one, Vec::as_slice);
    parts.iter().filter_map(|part| part["type"].as_str().map(str::to_owned)).collect()
}

fn pinned(pins: &Pins) -> anyhow::Result<Option<Pinned>> {
    match fs::metadata(pins.folder()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map(|_there| ())?,
    }
    let mut maps = Vec::new();
    for map in abi::MAPS {
        let fill = census::count(pins, *map)?;
        maps.push(MapState {
            name: map.name.to_owned(),
            rows: fill.rows,
            capacity: fill.capacity.into(),
            bytes: census::memory(pins, *map).ok(),
            evicts: fill.evicts,
        });
    }
    // Whoever runs holds the lock; taken here for no longer than it takes to see that.
    let running = pins.lock().is_err();
    Ok(Some(Pinned { running, maps }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_named_by_lists_and_by_single_files() {
        assert_eq!(plugins(r#"{"plugins":[{"type":"flannel"},{"type":"portmap"}]}"#), ["flannel", "portmap"]);
        assert_eq!(plugins(r#"{"type":"bridge"}"#), ["bridge"]);
        assert!(plugins("not JSON").is_empty());
    }

    #[test]
    fn this_kernel_has_a_version() {
        assert!(version() > (4, 0), "{:?}", version());
    }
}
