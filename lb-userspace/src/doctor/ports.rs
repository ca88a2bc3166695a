//! Ports that two would use: masqueraded flows, the host's own connections, NodePorts.
//!
//! Decides which overlaps matter. Invariant: ranges include both their ends.

use super::snapshot::Snapshot;
use super::{Finding, Level};

const AREA: &str = "ports";

pub(super) fn examine(node: &Snapshot) -> Vec<Finding> {
    let (first, last) = node.masquerade_ports;
    let (lowest, highest) = node.node_ports;
    let mut findings = Vec::new();
    if overlap(node.masquerade_ports, node.node_ports) {
        findings.push(Finding::new(
            Level::Problem,
            AREA,
            format!("masquerade ports {first}-{last} overlap the NodePorts {lowest}-{highest}"),
            "choose others by `switchboard run --masquerade-ports FIRST-LAST`",
        ));
    }
    let Some((low, high)) = node.range("net.ipv4.ip_local_port_range") else {
        findings.push(Finding::unseen(AREA, "net.ipv4.ip_local_port_range", "no such setting here"));
        return findings;
    };
    if overlap(node.masquerade_ports, (low, high)) {
        findings.push(Finding::new(
            Level::Warning,
            AREA,
            format!(
                "the host's own connections use ports {low}-{high}, which overlap the masquerade ports {first}-{last}: \
                 where two meet, one is given another port"
            ),
            format!(
                "sysctl -w net.ipv4.ip_local_port_range=\"{low} {}\", or choose others by --masquerade-ports",
                first.saturating_sub(1)
            ),
        ));
    }
    if overlap(node.node_ports, (low, high)) && !reserved(node) {
        findings.push(Finding::new(
            Level::Warning,
            AREA,
            format!(
                "the host's own connections may take a NodePort ({lowest}-{highest} of {low}-{high}) as their source \
                 port; replies to them are then taken for requests to that Service"
            ),
            format!("sysctl -w net.ipv4.ip_local_reserved_ports={lowest}-{highest}"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            AREA,
            format!(
                "masquerade ports {first}-{last}, NodePorts {lowest}-{highest} and the host's {low}-{high} are apart"
            ),
        ));
    }
    findings
}

fn overlap(one: (u16, u16), other: (u16, u16)) -> bool {
    one.0 <= other.1 && other.0 <= one.1
}

/// Are all NodePorts kept from the host's own connections?
fn reserved(node: &Snapshot) -> bool {
    let Some(text) = node.settings.get("net.ipv4.ip_local_reserved_ports") else { return false };
    let ranges = text.trim().split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    ranges.into_iter().any(|(first, last)| first <= node.node_ports.0 && node.node_ports.1 <= last)
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::healthy;
    use super::*;

    fn node(local: &str, reserved: &str, masquerade: (u16, u16)) -> Snapshot {
        let mut node = Snapshot { masquerade_ports: masquerade, ..healthy() };
        node.settings.insert("net.ipv4.ip_local_port_range".to_owned(), local.to_owned());
        node.settings.insert("net.ipv4.ip_local_reserved_ports".to_owned(), reserved.to_owned());
        node
    }

    #[test]
    fn ranges_that_meet_are_told() {
        for (node, expected) in [
            (node("32768\t60999\n", "", (61_000, 65_535)), vec![Level::Ok]),
            (node("32768\t61000", "", (61_000, 65_535)), vec![Level::Warning]),
            (node("32767\t60999", "", (61_000, 65_535)), vec![Level::Warning]),
            (node("1024\t60999", "30000-32767", (61_000, 65_535)), vec![Level::Ok]),
            (node("1024\t60999", "30000-32000", (61_000, 65_535)), vec![Level::Warning]),
            (node("1024\t65535", "8080,30000-32767", (61_000, 65_535)), vec![Level::Warning]),
            (node("40000\t50000", "", (32_000, 33_000)), vec![Level::Problem]),
        ] {
            let levels: Vec<_> = examine(&node).iter().map(|finding| finding.level).collect();
            assert_eq!(levels, expected, "{:?}", examine(&node));
        }
    }
}
