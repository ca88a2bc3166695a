//! Links, routes and conntrack: what Services depend on and do not set.
//!
//! Decides by facts of links and by kernel settings. Invariant: a CNI is named only if its configuration names it.

use super::snapshot::Snapshot;
use super::{Finding, Level};
use crate::net::links::Link;
use crate::net::role::Role;

const AREA: &str = "network";

/// Bytes that a kind of link puts around a packet of IPv4 and of IPv6.
const OVERHEAD: [(&str, u32, u32); 7] = [
    ("vxlan", 50, 70),
    ("geneve", 50, 70),
    ("ipip", 20, 40),
    ("sit", 20, 20),
    ("gre", 24, 44),
    ("ip6tnl", 40, 40),
    ("wireguard", 60, 80),
];

pub(super) fn examine(node: &Snapshot) -> Vec<Finding> {
    let mut findings = vec![cni(node)];
    findings.extend(forwarding(node));
    findings.extend(conntrack(node));
    match &node.links {
        Err(why) => findings.push(Finding::unseen(AREA, "links", why)),
        Ok(links) => {
            findings.push(roles(links));
            findings.extend(mtu(links));
            findings.extend(bridge(node, links));
            findings.extend(rp_filter(node, links));
        }
    }
    findings
}

fn cni(node: &Snapshot) -> Finding {
    match &node.cni {
        Err(why) => Finding::unseen(AREA, "the CNI's configuration", why),
        Ok(files) => match files.first() {
            None => Finding::new(Level::Note, AREA, "no CNI is configured here (/etc/cni/net.d)", ""),
            Some((file, plugins)) => {
                let remedy = if plugins.iter().any(|plugin| plugin == "cilium-cni") {
                    "Cilium has to leave Services alone: kubeProxyReplacement=false"
                } else {
                    ""
                };
                let level = if remedy.is_empty() { Level::Ok } else { Level::Note };
                Finding::new(level, AREA, format!("the CNI is {} ({file})", plugins.join(", ")), remedy)
            }
        },
    }
}

fn forwarding(node: &Snapshot) -> Vec<Finding> {
    let keys = [("net.ipv4.ip_forward", Level::Problem), ("net.ipv6.conf.all.forwarding", Level::Warning)];
    let off = keys.into_iter().filter(|(key, _)| node.number(key) == Some(0));
    off.map(|(key, level)| {
        Finding::new(
            level,
            AREA,
            format!("the host forwards nothing ({key}=0)"),
            format!("sysctl -w {key}=1"),
        )
    })
    .collect()
}

fn conntrack(node: &Snapshot) -> Option<Finding> {
    let max = node.number("net.netfilter.nf_conntrack_max").filter(|max| *max > 0)?;
    let count = node.number("net.netfilter.nf_conntrack_count")?;
    let percent = count * 100 / max;
    (percent >= 80).then(|| {
        Finding::new(
            if percent >= 95 { Level::Problem } else { Level::Warning },
            AREA,
            format!("netfilter's table of connections is {percent} % full ({count} of {max}); then it drops packets"),
            "raise net.netfilter.nf_conntrack_max, as `switchboard run --node-settings on` does",
        )
    })
}

fn roles(links: &[(Link, Option<Role>)]) -> Finding {
    let of = |wanted| links.iter().filter(|(_, role)| *role == Some(wanted)).count();
    let (pods, net) = (of(Role::Pod), of(Role::Net));
    let text = format!("{pods} interfaces lead to pods, {net} off the node");
    if net == 0 {
        return Finding::new(
            Level::Note,
            AREA,
            text,
            "the node's uplink is told by a default route or by the Node's InternalIP",
        );
    }
    Finding::ok(AREA, text)
}

fn mtu(links: &[(Link, Option<Role>)]) -> Vec<Finding> {
    let uplinks = links.iter().filter(|(link, role)| {
        *role == Some(Role::Net) && overhead(link).is_none() && link.carries_default_route
    });
    let Some(outer) = uplinks.filter_map(|(link, _)| link.mtu).min() else { return Vec::new() };
    let tunnels = links.iter().filter_map(|(link, _)| Some((link, link.mtu?, overhead(link)?)));
    let too_big = tunnels.filter(|(_, mtu, overhead)| mtu + overhead > outer);
    too_big
        .map(|(link, mtu, overhead)| {
            let fits = outer.saturating_sub(overhead);
            Finding::new(
                Level::Warning,
                AREA,
                format!(
                    "the tunnel {} takes packets of {mtu} bytes and adds {overhead}, and the uplink takes {outer}",
                    link.name
                ),
                format!("set the CNI's MTU to {fits} at most, on the tunnel and in pods"),
            )
        })
        .collect()
}

fn overhead(link: &Link) -> Option<u32> {
    OVERHEAD.iter().find(|(kind, ..)| link.kind.as_deref() == Some(kind)).map(|(_, v4, _)| *v4)
}

/// Without br_netfilter, what pods of one bridge answer each other passes netfilter by.
fn bridge(node: &Snapshot, links: &[(Link, Option<Role>)]) -> Vec<Finding> {
    let masters =
        links.iter().filter(|(_, role)| *role == Some(Role::Pod)).filter_map(|(link, _)| link.master);
    let bridged = masters.into_iter().any(|master| {
        links.iter().any(|(link, _)| link.index == master && link.kind.as_deref() == Some("bridge"))
    });
    if !bridged {
        return Vec::new();
    }
    let keys = ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];
    let off: Vec<&str> = keys.into_iter().filter(|key| node.number(key) != Some(1)).collect();
    if off.is_empty() {
        return vec![Finding::ok(AREA, "pods share a bridge, whose packets netfilter sees")];
    }
    let set: Vec<String> = off.iter().map(|key| format!("sysctl -w {key}=1")).collect();
    vec![Finding::new(
        Level::Warning,
        AREA,
        "pods share a bridge, and netfilter does not see what they answer each other: a firewall that drops \
         `ct state invalid` cuts their connections",
        format!("modprobe br_netfilter; {}", set.join("; ")),
    )]
}

fn rp_filter(node: &Snapshot, links: &[(Link, Option<Role>)]) -> Option<Finding> {
    let uplinks: Vec<&Link> =
        links.iter().filter(|(link, _)| link.carries_default_route).map(|(link, _)| link).collect();
    if uplinks.len() < 2 {
        return None;
    }
    let all = node.number("net.ipv4.conf.all.rp_filter").unwrap_or(0);
    // The stricter of "all" and the link's own counts, where 2 is loose (ip-sysctl).
    let strict: Vec<&str> = uplinks
        .iter()
        .filter(|link| {
            let own = node.number(&format!("net.ipv4.conf.{}.rp_filter", link.name)).unwrap_or(0);
            all.max(own) == 1
        })
        .map(|link| link.name.as_str())
        .collect();
    (!strict.is_empty()).then(|| {
        Finding::new(
            Level::Warning,
            AREA,
            format!(
                "there are {} uplinks, and {} drops what it would not answer by itself (rp_filter=1): replies that \
                 come in by another are lost",
                uplinks.len(),
                strict.join(", ")
            ),
            strict
                .iter()
                .map(|link| format!("sysctl -w net.ipv4.conf.{link}.rp_filter=2"))
                .collect::<Vec<_>>()
                .join("; "),
        )
    })
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
