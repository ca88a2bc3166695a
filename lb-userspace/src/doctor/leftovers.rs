//! What kube-proxy left, or still does.
//!
//! Decides by the names that its modes give tables, chains and devices. Invariant: each mode's traces are told with
//! what removes them.

use std::collections::BTreeSet;

use super::snapshot::{Seen, Snapshot};
use super::{Finding, Level};
use crate::net::rules::Ruleset;

const AREA: &str = "kube-proxy";

/// Chains of kube-proxy's iptables and IPVS modes that translate. The kubelet makes others (KUBE-FIREWALL,
/// KUBE-KUBELET-CANARY), which do not.
const CHAINS: [&str; 3] = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING"];

const WHY: &str = "Switchboard translates before netfilter, so these rules serve only what its programs do not see; \
                   connections that were made by them go on";

pub(super) fn examine(node: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(nftables(&node.rules));
    findings.extend(chains("iptables (by way of nftables)", "iptables-nft-save", &node.rules));
    findings.extend(chains("iptables (legacy)", "iptables-legacy-save", &node.legacy_rules));
    let ipvs = node.links.as_ref().is_ok_and(|links| links.iter().any(|(link, _)| link.name == "kube-ipvs0"));
    if ipvs {
        findings.push(Finding::new(
            Level::Warning,
            AREA,
            "the device kube-ipvs0 holds every cluster IP as an address of this host, so they are local to it",
            "stop kube-proxy, then: ipvsadm --clear; ip link delete kube-ipvs0",
        ));
    }
    if let Err(why) = &node.rules {
        findings.push(Finding::unseen(AREA, "netfilter's rules", why));
    }
    if let Err(why) = &node.legacy_rules {
        findings.push(Finding::unseen(AREA, "the rules of legacy iptables", why));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, "nothing that kube-proxy would leave is here"));
    }
    findings
}

fn nftables(rules: &Seen<Ruleset>) -> Option<Finding> {
    let rules = rules.as_ref().ok()?;
    let tables: Vec<&str> = rules
        .tables
        .iter()
        .map(String::as_str)
        .filter(|table| matches!(*table, "ip kube-proxy" | "ip6 kube-proxy"))
        .collect();
    if tables.is_empty() {
        return None;
    }
    let deletes: Vec<String> = tables.iter().map(|table| format!("nft delete table {table}")).collect();
    Some(Finding::new(
        Level::Warning,
        AREA,
        format!("kube-proxy's nftables rules are loaded (table {}). {WHY}", tables.join(", table ")),
        format!("once Switchboard is in sync, stop kube-proxy, then: {}", deletes.join("; ")),
    ))
}

fn chains(mode: &str, save: &str, rules: &Seen<Ruleset>) -> Option<Finding> {
    let rules = rules.as_ref().ok()?;
    let of_kube_proxy =
        |chain: &&crate::net::rules::Chain| chain.table == "nat" && CHAINS.contains(&chain.name.as_str());
    let found: BTreeSet<String> = rules
        .chains
        .iter()
        .filter(of_kube_proxy)
        .map(|chain| format!("{} {}", chain.family, chain.name))
        .collect();
    if found.is_empty() {
        return None;
    }
    let names: Vec<&str> = found.iter().map(String::as_str).collect();
    Some(Finding::new(
        Level::Warning,
        AREA,
        format!("kube-proxy's chains are in {mode}: {}. {WHY}", names.join(", ")),
        format!(
            "once Switchboard is in sync, stop kube-proxy, then `kube-proxy --cleanup` in its image; \
             `{save}` shows what is left, which a reboot removes"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::healthy;
    use super::*;
    use crate::net::links::Link;
    use crate::net::rules::Chain;

    fn chain(table: &str, name: &str) -> Chain {
        Chain { family: "ip".to_owned(), table: table.to_owned(), name: name.to_owned(), ..Chain::default() }
    }

    #[test]
    fn each_mode_leaves_its_own_traces() {
        let nft = Ruleset { tables: vec!["ip kube-proxy".to_owned()], ..Ruleset::default() };
        let nat = Ruleset { chains: vec![chain("nat", "KUBE-SERVICES")], ..Ruleset::default() };
        let ipvs = Link { name: "kube-ipvs0".to_owned(), ..Link::default() };
        for (node, words) in [
            (Snapshot { rules: Ok(nft), ..healthy() }, "nft delete table ip kube-proxy"),
            (Snapshot { rules: Ok(nat.clone()), ..healthy() }, "iptables-nft-save"),
            (Snapshot { legacy_rules: Ok(nat), ..healthy() }, "iptables-legacy-save"),
            (Snapshot { links: Ok(vec![(ipvs, None)]), ..healthy() }, "kube-ipvs0"),
        ] {
            let found = examine(&node);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].level, Level::Warning);
            assert!(found[0].remedy.contains(words), "{found:?}");
        }
    }

    #[test]
    fn the_kubelets_own_chains_are_no_leftovers() {
        let chains = vec![chain("mangle", "KUBE-KUBELET-CANARY"), chain("filter", "KUBE-FIREWALL")];
        let node = Snapshot { rules: Ok(Ruleset { chains, ..Ruleset::default() }), ..healthy() };
        assert_eq!(examine(&node)[0].level, Level::Ok);
    }

    #[test]
    fn rules_that_were_not_seen_are_not_taken_for_none() {
        let node = Snapshot { rules: Err("operation not permitted".to_owned()), ..healthy() };
        let found = examine(&node);
        assert_eq!((found.len(), found[0].level), (1, Level::Unseen), "{found:?}");
    }
}
