//! The rules of kube-proxy's iptables mode: one long chain for all Services, a chain for each service and endpoint.
//!
//! Decides the script for `iptables-restore --noflush`. Must not run it. Invariant: as kube-proxy's own, a change writes
//! the long chain anew, and of the others those that changed.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{Node, Service, hash};

const MARK: &str = "0x4000/0x4000";
/// The long chain's last rule.
const TO_NODE_PORTS: &str = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS";

/// The whole ruleset.
pub(super) fn whole(services: &[Service], node: Node<'_>) -> String {
    let mut script = filter();
    nat(&mut script, true, services, services.iter(), None, node.pods);
    script
}

/// A change to one Service.
pub(super) fn change(
    services: &[Service],
    before: Option<&Service>,
    after: Option<&Service>,
    node: Node<'_>,
) -> String {
    let mut script = filter();
    nat(&mut script, false, services, after.into_iter(), before.map(|before| (before, after)), node.pods);
    script
}

/// The filter table, which kube-proxy writes every time.
fn filter() -> String {
    let mut script = "*filter\n".to_owned();
    let chains =
        ["KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"];
    chains.iter().for_each(|chain| say(&mut script, &format!(":{chain} - [0:0]")));
    say(&mut script, "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP");
    say(&mut script, &format!("-A KUBE-FORWARD -m mark --mark {MARK} -j ACCEPT"));
    say(&mut script, "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    say(&mut script, "COMMIT");
    script
}

/// The jumps from the filter table's own chains, which are made once.
fn into_the_kernels_chains(script: &mut String) {
    say(script, "*filter");
    for (chain, to, new) in [
        ("INPUT", "KUBE-NODEPORTS", false),
        ("INPUT", "KUBE-EXTERNAL-SERVICES", true),
        ("INPUT", "KUBE-PROXY-FIREWALL", true),
        ("FORWARD", "KUBE-PROXY-FIREWALL", true),
        ("FORWARD", "KUBE-FORWARD", false),
        ("FORWARD", "KUBE-SERVICES", true),
        ("FORWARD", "KUBE-EXTERNAL-SERVICES", true),
        ("OUTPUT", "KUBE-PROXY-FIREWALL", true),
        ("OUTPUT", "KUBE-SERVICES", true),
    ] {
        let state = if new { "-m conntrack --ctstate NEW " } else { "" };
        say(script, &format!("-A {chain} {state}-j {to}"));
    }
    say(script, "COMMIT");
}

/// The whole ruleset in portions of so many Services, each a commit of its own. What they leave behind is what [`whole`]
/// leaves.
pub(super) fn portions(services: &[Service], size: usize, pods: &str) -> Vec<String> {
    let mut first = filter();
    into_the_kernels_chains(&mut first);
    say(&mut first, "*nat");
    declare(&mut first);
    always(&mut first, true);
    say(&mut first, "COMMIT");
    let portion = |services: &[Service]| {
        let (mut script, mut rules) = ("*nat\n".to_owned(), String::new());
        services.iter().for_each(|service| chains(&mut script, &mut rules, service, pods));
        cluster_ips(&mut rules, services);
        node_ports(&mut rules, services);
        script + &rules + "COMMIT\n"
    };
    let last = format!("*nat\n{TO_NODE_PORTS}\nCOMMIT\n");
    std::iter::once(first).chain(services.chunks(size).map(portion)).chain([last]).collect()
}

/// The nat table: the frame, `written` Services' chains, and all Services in the long chain.
fn nat<'a>(
    script: &mut String,
    first: bool,
    services: &[Service],
    written: impl Iterator<Item = &'a Service>,
    changed: Option<(&Service, Option<&Service>)>,
    pods: &str,
) {
    if first {
        into_the_kernels_chains(script);
    }
    say(script, "*nat");
    declare(script);
    let mut rules = String::new();
    for service in written {
        chains(script, &mut rules, service, pods);
    }
    always(&mut rules, first);
    cluster_ips(&mut rules, services);
    say(&mut rules, TO_NODE_PORTS);
    node_ports(&mut rules, services);
    gone(script, &mut rules, changed);
    script.push_str(&rules);
    say(script, "COMMIT");
}

/// The chains of the nat table that are there whatever the Services; declared, they are empty.
fn declare(script: &mut String) {
    for chain in ["KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"] {
        say(script, &format!(":{chain} - [0:0]"));
    }
}

/// Rules of the nat table that are there whatever the Services; those in the kernel's own chains are made once.
fn always(rules: &mut String, first: bool) {
    if first {
        say(rules, "-A PREROUTING -j KUBE-SERVICES");
        say(rules, "-A OUTPUT -j KUBE-SERVICES");
        say(rules, "-A POSTROUTING -j KUBE-POSTROUTING");
    }
    say(rules, &format!("-A KUBE-POSTROUTING -m mark ! --mark {MARK} -j RETURN"));
    say(rules, "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000");
    say(rules, "-A KUBE-POSTROUTING -j MASQUERADE --random-fully");
    say(rules, "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000");
}

/// The long chain's rules.
fn cluster_ips(rules: &mut String, services: &[Service]) {
    for service in services.iter().filter(|service| !service.endpoints.is_empty()) {
        let to = chain(service);
        say(rules, &format!("-A KUBE-SERVICES {} -j {to}", matches(service, "cluster IP")));
    }
}

fn node_ports(rules: &mut String, services: &[Service]) {
    for service in services.iter().filter(|service| !service.endpoints.is_empty()) {
        let Some(port) = service.node_port else { continue };
        let (comment, protocol, to) = (&service.name, service.protocol(), external_chain(service));
        let matches = format!("-m comment --comment {comment} -m {protocol} -p {protocol} --dport {port}");
        say(rules, &format!("-A KUBE-NODEPORTS {matches} -j {to}"));
    }
}

/// A Service's chains: declared in `script`, filled in `rules`.
fn chains(script: &mut String, rules: &mut String, service: &Service, pods: &str) {
    let own = chain(service);
    say(script, &format!(":{own} - [0:0]"));
    say(rules, &format!("-A {own} {} ! -s {pods} -j KUBE-MARK-MASQ", matches(service, "cluster IP")));
    if service.node_port.is_some() {
        let external = external_chain(service);
        say(script, &format!(":{external} - [0:0]"));
        let comment = format!("masquerade traffic for {} external destinations", service.name);
        say(rules, &format!("-A {external} -m comment --comment \"{comment}\" -j KUBE-MARK-MASQ"));
        say(rules, &format!("-A {external} -j {own}"));
    }
    let (count, protocol) = (service.endpoints.len(), service.protocol());
    for (index, endpoint) in service.endpoints.iter().enumerate() {
        let to = endpoint_chain(service, *endpoint);
        say(script, &format!(":{to} - [0:0]"));
        let left = count - index;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand endpoints")]
        let random = if left > 1 {
            format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
        } else {
            String::new()
        };
        let comment = format!("-m comment --comment \"{} -> {endpoint}\"", service.name);
        say(rules, &format!("-A {own} {comment} {random}-j {to}"));
        say(
            rules,
            &format!("-A {to} -m comment --comment {} -s {} -j KUBE-MARK-MASQ", service.name, endpoint.ip()),
        );
        say(
            rules,
            &format!(
                "-A {to} -m comment --comment {} -m {protocol} -p {protocol} -j DNAT --to-destination {endpoint}",
                service.name
            ),
        );
    }
}

/// Removes the chains that nobody jumps to any more.
fn gone(script: &mut String, rules: &mut String, changed: Option<(&Service, Option<&Service>)>) {
    let Some((before, after)) = changed else { return };
    let kept = after.map_or(&[][..], |after| &after.endpoints);
    let mut names: Vec<String> = before
        .endpoints
        .iter()
        .filter(|endpoint| !kept.contains(endpoint))
        .map(|endpoint| endpoint_chain(before, *endpoint))
        .collect();
    if after.is_none() {
        names.extend(before.node_port.map(|_| external_chain(before)));
        names.push(chain(before));
    }
    for name in names {
        // Declared, hence emptied, hence free to go.
        say(script, &format!(":{name} - [0:0]"));
        say(rules, &format!("-X {name}"));
    }
}

fn matches(service: &Service, what: &str) -> String {
    let (ip, port, protocol) = (service.frontend.ip(), service.frontend.port(), service.protocol());
    format!(
        "-m comment --comment \"{} {what}\" -m {protocol} -p {protocol} -d {ip} --dport {port}",
        service.name
    )
}

fn chain(service: &Service) -> String {
    format!("KUBE-SVC-{}", hash(&service.name, 16))
}

/// Where traffic from outside goes first.
fn external_chain(service: &Service) -> String {
    format!("KUBE-EXT-{}", hash(&service.name, 16))
}

fn endpoint_chain(service: &Service, endpoint: SocketAddr) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{}{endpoint}", service.name), 16))
}

fn say(script: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{line}");
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NODE, service};
    use super::*;

    #[test]
    fn the_last_endpoint_takes_what_is_left() {
        let script = whole(&[service(1, 3)], NODE);
        let odds: Vec<&str> = script
            .lines()
            .filter_map(|line| line.split("--probability ").nth(1)?.split(' ').next())
            .collect();
        assert_eq!(odds, ["0.3333333333", "0.5000000000"]);
    }

    #[test]
    fn portions_say_together_what_the_whole_says_and_each_chain_in_the_same_order() {
        let mut services: Vec<Service> = (1..=7).map(|number| service(number, 2)).collect();
        services[2].node_port = Some(30_080);
        services[4].endpoints.clear();
        let rules = |script: &str| {
            let mut chains = std::collections::BTreeMap::<String, Vec<String>>::new();
            for line in script.lines().filter(|line| line.starts_with("-A ")) {
                let chain = line.split(' ').nth(1).unwrap_or_default();
                chains.entry(chain.to_owned()).or_default().push(line.to_owned());
            }
            chains
        };
        let portions = portions(&services, 3, NODE.pods);
        assert_eq!(portions.len(), 1 + 3 + 1);
        assert_eq!(rules(&portions.concat()), rules(&whole(&services, NODE)));
        // A chain that is declared again is emptied.
        let again = |script: &String| script.contains(":KUBE-SERVICES") || script.contains(":KUBE-NODEPORTS");
        assert!(!portions[1..].iter().any(again), "{portions:#?}");
    }

    #[test]
    fn a_node_port_is_a_rule_and_goes_by_a_chain_that_masquerades() {
        let service = Service { node_port: Some(30_080), ..service(1, 2) };
        let script = whole(std::slice::from_ref(&service), NODE);
        let (external, own) = (external_chain(&service), chain(&service));
        let jump = format!("--dport 30080 -j {external}");
        let to: Vec<&str> = script.lines().filter(|line| line.ends_with(&jump)).collect();
        assert!(matches!(to[..], [line] if line.starts_with("-A KUBE-NODEPORTS ")), "{script}");
        let inside: Vec<&str> =
            script.lines().filter(|line| line.starts_with(&format!("-A {external} "))).collect();
        assert!(inside[0].ends_with("-j KUBE-MARK-MASQ") && inside[1].ends_with(&own), "{inside:?}");
    }

    #[test]
    fn a_change_writes_the_long_chain_and_one_service() {
        let services: Vec<Service> = (1..=50).map(|number| service(number, 2)).collect();
        let mut after = services.clone();
        after[7].endpoints.pop();
        let script = change(&after, Some(&services[7]), Some(&after[7]), NODE);
        assert_eq!(script.lines().filter(|line| line.starts_with("-A KUBE-SERVICES -m comment")).count(), 50);
        assert_eq!(script.lines().filter(|line| line.starts_with(":KUBE-SVC")).count(), 1);
        assert_eq!(script.lines().filter(|line| line.starts_with("-X KUBE-SEP")).count(), 1);
    }
}
