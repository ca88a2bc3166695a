//! A firewall that forwards only what netfilter itself has translated.
//!
//! Decides which chains refuse what no rule accepts, and whether what they accept can be traffic to Services. Invariant:
//! every finding comes with the rule to add, in the words of the tool that the chain belongs to.

use super::snapshot::{Seen, Snapshot};
use super::{Finding, Level};
use crate::net::rules::{Chain, Rule, Ruleset, Verdict};

const AREA: &str = "firewall";
/// Chains call chains; nobody goes deeper than this.
const DEPTH: usize = 8;

pub(super) fn examine(node: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (rules, legacy) in [(&node.rules, false), (&node.legacy_rules, true)] {
        findings.extend(of(rules, legacy));
    }
    if findings.is_empty() && node.rules.is_ok() {
        findings.push(Finding::ok(AREA, "nothing refuses by default what the host forwards"));
    }
    findings
}

fn of(rules: &Seen<Ruleset>, legacy: bool) -> Vec<Finding> {
    let Ok(rules) = rules else { return Vec::new() };
    rules
        .chains
        .iter()
        .filter(|chain| chain.forward)
        .filter_map(|chain| judge(rules, chain, legacy))
        .collect()
}

/// What the rules of a chain, and of those it calls, do to new connections.
#[derive(Clone, Copy, Debug, Default)]
struct Ways {
    translated: bool,
    others: bool,
    refused: bool,
}

fn judge(rules: &Ruleset, chain: &Chain, legacy: bool) -> Option<Finding> {
    let mut ways = Ways { refused: chain.drops, ..Ways::default() };
    follow(rules, chain, DEPTH, true, &mut ways);
    if !ways.refused {
        return None;
    }
    let named = format!("{} {} {}", chain.family, chain.table, chain.name);
    let why = "packets to Services are forwarded with the pod's address, as new connections, and netfilter has \
               translated nothing of them";
    match ways {
        Ways { translated: true, .. } => Some(Finding::new(
            Level::Warning,
            AREA,
            format!("the chain {named} accepts Services by `ct status dnat`; {why}"),
            rule(chain, legacy),
        )),
        Ways { others: false, .. } => Some(Finding::new(
            Level::Warning,
            AREA,
            format!("the chain {named} refuses every new connection that the host forwards; {why}"),
            rule(chain, legacy),
        )),
        _ => Some(Finding::new(
            Level::Note,
            AREA,
            format!(
                "the chain {named} refuses what no rule accepts: its rules have to accept new connections to \
                 pods; {why}"
            ),
            rule(chain, legacy),
        )),
    }
}

fn follow(rules: &Ruleset, chain: &Chain, depth: usize, certain: bool, ways: &mut Ways) {
    for rule in &chain.rules {
        let all = !rule.conditions && !rule.translated && rule.new && certain;
        match &rule.verdict {
            Some(Verdict::Accept) if !rule.new => {}
            Some(Verdict::Accept) if rule.translated => ways.translated = true,
            Some(Verdict::Accept) => ways.others = true,
            // What is behind it is never reached.
            Some(Verdict::Drop) if all => {
                ways.refused = true;
                return;
            }
            Some(Verdict::Jump(name)) if depth > 0 => {
                let same = |other: &&Chain| {
                    other.family == chain.family && other.table == chain.table && other.name == *name
                };
                if let Some(called) = rules.chains.iter().find(same) {
                    follow(rules, called, depth - 1, all, ways);
                }
            }
            _ => {}
        }
    }
}

/// The rule to add.
fn rule(chain: &Chain, legacy: bool) -> String {
    const V4: &str = "<the pods' IPv4 network>";
    const V6: &str = "<the pods' IPv6 network>";
    let program = if chain.family == "ip6" { "ip6tables" } else { "iptables" };
    let network = if chain.family == "ip6" { V6 } else { V4 };
    if legacy || (chain.table == "filter" && chain.name == "FORWARD" && chain.family != "inet") {
        return format!(
            "{program} -I FORWARD -d {network} -j ACCEPT; {program} -I FORWARD -m conntrack --ctstate \
             ESTABLISHED,RELATED -j ACCEPT (`switchboard run --node-settings on` does both where nftables is there)"
        );
    }
    let named = format!("{} {} {}", chain.family, chain.table, chain.name);
    let accept = match chain.family.as_str() {
        "ip" => format!("nft insert rule {named} ip daddr {V4} accept"),
        "ip6" => format!("nft insert rule {named} ip6 daddr {V6} accept"),
        _ => format!(
            "nft insert rule {named} ip daddr {V4} accept; nft insert rule {named} ip6 daddr {V6} accept"
        ),
    };
    format!("{accept}; nft insert rule {named} ct state established,related accept")
}

/// The rules that a text of `iptables-save` describes, of what is forwarded.
#[must_use]
pub fn saved(family: &str, text: &str) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            name.trim().clone_into(&mut table);
            ruleset.tables.push(format!("{family} {table}"));
        } else if let Some(words) = line.strip_prefix(':') {
            let mut words = words.split_whitespace();
            let name = words.next().unwrap_or_default().to_owned();
            let forward = table == "filter" && name == "FORWARD";
            let drops = words.next() == Some("DROP");
            let rules = Vec::new();
            ruleset.chains.push(Chain {
                family: family.to_owned(),
                table: table.clone(),
                name,
                forward,
                drops,
                rules,
            });
        } else if let Some(rest) = line.strip_prefix("-A ") {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let known =
                |chain: &&mut Chain| chain.table == table && Some(&chain.name.as_str()) == words.first();
            if let Some(chain) = ruleset.chains.iter_mut().find(known) {
                chain.rules.push(saved_rule(&words[1..]));
            }
        }
    }
    ruleset
}

fn saved_rule(words: &[&str]) -> Rule {
    let after =
        |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied();
    let states = after("--ctstate").or_else(|| after("--state"));
    let translated = after("--ctstatus") == Some("DNAT") || states == Some("DNAT");
    let conditions = ["-s", "-d", "-i", "-o", "-p", "--mark", "--dport", "!", "--match-set", "--dst-type"];
    Rule {
        verdict: match after("-j").or_else(|| after("-g")) {
            Some("ACCEPT") => Some(Verdict::Accept),
            Some("DROP" | "REJECT") => Some(Verdict::Drop),
            Some("RETURN" | "LOG" | "MARK" | "CONNMARK") => Some(Verdict::Other),
            Some(chain) => Some(Verdict::Jump(chain.to_owned())),
            None => None,
        },
        translated,
        conditions: words.iter().any(|word| conditions.contains(word)),
        new: states.is_none_or(|states| states.split(',').any(|state| state == "NEW" || state == "DNAT")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::healthy;
    use super::*;

    fn level(rules: &str) -> Vec<Level> {
        let node = Snapshot { legacy_rules: Ok(saved("ip", rules)), ..healthy() };
        examine(&node).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_chain_is_judged_by_what_it_does_to_new_connections() {
        let established = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
        for (rules, expected) in [
            // Nothing refuses.
            ("*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT", Level::Ok),
            ("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.0.0.1 -j DROP\nCOMMIT", Level::Ok),
            // What kube-proxy has translated, and nothing else.
            (
                "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstatus DNAT -j ACCEPT",
                Level::Warning,
            ),
            (
                "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
                Level::Warning,
            ),
            // In a chain that is called.
            (
                "*filter\n:FORWARD DROP [0:0]\n:MINE - [0:0]\n-A FORWARD -j MINE\n\
                 -A MINE -m conntrack --ctstatus DNAT -j ACCEPT",
                Level::Warning,
            ),
            // Refused at the end of a chain whose policy is to accept.
            (
                "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m conntrack --ctstatus DNAT -j ACCEPT\n\
                 -A FORWARD -j REJECT",
                Level::Warning,
            ),
            // Pods are accepted, as far as that can be told.
            ("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -d 10.244.0.0/16 -j ACCEPT", Level::Note),
        ] {
            assert_eq!(level(rules), [expected], "{rules}");
        }
        assert_eq!(level(&format!("*filter\n:FORWARD DROP [0:0]\n{established}")), [Level::Warning]);
    }

    #[test]
    fn the_rule_to_add_is_in_the_tools_own_words() {
        let chain = |family: &str, table: &str, name: &str| Chain {
            family: family.to_owned(),
            table: table.to_owned(),
            name: name.to_owned(),
            ..Chain::default()
        };
        assert!(rule(&chain("ip6", "filter", "FORWARD"), false).starts_with("ip6tables -I FORWARD -d"));
        assert!(rule(&chain("inet", "fw", "fwd"), false).starts_with("nft insert rule inet fw fwd ip daddr"));
        assert!(rule(&chain("ip", "filter", "FORWARD"), true).starts_with("iptables -I"));
    }
}
