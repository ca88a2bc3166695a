//! The rules of kube-proxy's nftables mode: verdict maps, a chain for each service and each endpoint.
//!
//! Decides the script for `nft -f`. Must not run it. Invariant: a change names only the Service that changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::{Node, Service, hash};

const MARK: &str = "0x4000";

/// Words that differ by family.
struct Words {
    table: &'static str,
    ip: &'static str,
    kind: &'static str,
}

fn words(service: Option<&Service>) -> Words {
    if service.is_some_and(|service| service.frontend.is_ipv6()) {
        Words { table: "ip6 kube-proxy", ip: "ip6", kind: "ipv6_addr" }
    } else {
        Words { table: "ip kube-proxy", ip: "ip", kind: "ipv4_addr" }
    }
}

/// The whole ruleset.
pub(super) fn whole(services: &[Service], node: Node<'_>) -> String {
    portions(services, services.len().max(1), node).concat()
}

/// The whole ruleset in portions of so many Services, each a transaction of its own.
pub(super) fn portions(services: &[Service], size: usize, node: Node<'_>) -> Vec<String> {
    let words = words(services.first());
    let mut first = String::new();
    frame(&mut first, &words);
    say(&mut first, &format!("add element {} nodeport-ips {{ {} }}", words.table, node.address));
    let portion = |services: &[Service]| {
        let mut script = String::new();
        services.iter().for_each(|service| add(&mut script, &words, service, node.pods));
        script
    };
    std::iter::once(first).chain(services.chunks(size).map(portion)).collect()
}

/// A change to one Service.
pub(super) fn change(before: Option<&Service>, after: Option<&Service>, node: Node<'_>) -> String {
    let words = words(before.or(after));
    let mut script = String::new();
    match (before, after) {
        (None, Some(after)) => add(&mut script, &words, after, node.pods),
        (Some(before), None) => remove(&mut script, &words, before),
        (Some(before), Some(after)) => replace(&mut script, &words, before, after, node.pods),
        (None, None) => {}
    }
    script
}

/// Chains and maps that are there whatever the Services, in the places that a packet passes them.
fn frame(script: &mut String, Words { table, ip, kind }: &Words) {
    let lines = [
        format!("add table {table}"),
        format!("add set {table} cluster-ips {{ type {kind} ; }}"),
        format!("add map {table} service-ips {{ type {kind} . inet_proto . inet_service : verdict ; }}"),
        format!(
            "add map {table} no-endpoint-services {{ type {kind} . inet_proto . inet_service : verdict ; }}"
        ),
        format!("add map {table} firewall-ips {{ type {kind} . inet_proto . inet_service : verdict ; }}"),
        format!("add map {table} service-nodeports {{ type inet_proto . inet_service : verdict ; }}"),
        format!("add map {table} no-endpoint-nodeports {{ type inet_proto . inet_service : verdict ; }}"),
        format!("add set {table} nodeport-ips {{ type {kind} ; }}"),
        format!("add chain {table} reject-chain"),
        format!("add rule {table} reject-chain reject"),
        format!("add chain {table} mark-for-masquerade"),
        format!("add rule {table} mark-for-masquerade mark set mark or {MARK}"),
        format!("add chain {table} masquerading"),
        format!("add rule {table} masquerading mark and {MARK} == 0 return"),
        format!("add rule {table} masquerading mark set mark xor {MARK}"),
        format!("add rule {table} masquerading masquerade fully-random"),
        format!("add chain {table} services"),
        format!("add rule {table} services {ip} daddr . meta l4proto . th dport vmap @service-ips"),
        format!(
            "add rule {table} services {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"
        ),
        format!("add chain {table} service-endpoints-check"),
        format!(
            "add rule {table} service-endpoints-check {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services"
        ),
        format!("add chain {table} nodeport-endpoints-check"),
        format!(
            "add rule {table} nodeport-endpoints-check {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"
        ),
        format!("add chain {table} cluster-ips-check"),
        format!("add rule {table} cluster-ips-check {ip} daddr @cluster-ips reject"),
        format!("add chain {table} firewall-check"),
        format!("add rule {table} firewall-check {ip} daddr . meta l4proto . th dport vmap @firewall-ips"),
    ];
    lines.iter().for_each(|line| say(script, line));
    hooks(script, table);
}

/// The chains that the kernel calls.
fn hooks(script: &mut String, table: &str) {
    let hooks = [
        (
            "filter-prerouting",
            "filter hook prerouting priority -110",
            &["ct state new jump firewall-check"][..],
        ),
        (
            "filter-input",
            "filter hook input priority -110",
            &["ct state new jump nodeport-endpoints-check", "ct state new jump service-endpoints-check"],
        ),
        (
            "filter-forward",
            "filter hook forward priority -110",
            &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
        ),
        (
            "filter-output",
            "filter hook output priority -110",
            &["ct state new jump service-endpoints-check", "ct state new jump firewall-check"],
        ),
        (
            "filter-output-post-dnat",
            "filter hook output priority -90",
            &["ct state new jump cluster-ips-check"],
        ),
        ("nat-prerouting", "nat hook prerouting priority -100", &["jump services"]),
        ("nat-output", "nat hook output priority -100", &["jump services"]),
        ("nat-postrouting", "nat hook postrouting priority 100", &["jump masquerading"]),
    ];
    for (chain, hook, rules) in hooks {
        say(script, &format!("add chain {table} {chain} {{ type {hook} ; }}"));
        rules.iter().for_each(|rule| say(script, &format!("add rule {table} {chain} {rule}")));
    }
}

fn add(script: &mut String, words: &Words, service: &Service, pods: &str) {
    let Words { table, .. } = words;
    let (ip, port, protocol) = (service.frontend.ip(), service.frontend.port(), service.protocol());
    say(script, &format!("add element {table} cluster-ips {{ {ip} }}"));
    if service.endpoints.is_empty() {
        say(
            script,
            &format!(
                "add element {table} no-endpoint-services {{ {ip} . {protocol} . {port} : goto reject-chain }}"
            ),
        );
        if let Some(port) = service.node_port {
            say(
                script,
                &format!(
                    "add element {table} no-endpoint-nodeports {{ {protocol} . {port} : goto reject-chain }}"
                ),
            );
        }
        return;
    }
    let chain = chain(service);
    say(script, &format!("add chain {table} {chain}"));
    for endpoint in &service.endpoints {
        add_endpoint(script, words, service, *endpoint);
    }
    rules(script, words, service, pods);
    say(script, &format!("add element {table} service-ips {{ {ip} . {protocol} . {port} : goto {chain} }}"));
    if let Some(port) = service.node_port {
        let external = external_chain(service);
        say(script, &format!("add chain {table} {external}"));
        say(script, &format!("add rule {table} {external} jump mark-for-masquerade"));
        say(script, &format!("add rule {table} {external} goto {chain}"));
        let element = format!("{{ {protocol} . {port} : goto {external} }}");
        say(script, &format!("add element {table} service-nodeports {element}"));
    }
}

fn add_endpoint(
    script: &mut String,
    Words { table, ip, .. }: &Words,
    service: &Service,
    endpoint: SocketAddr,
) {
    let chain = endpoint_chain(service, endpoint);
    say(script, &format!("add chain {table} {chain}"));
    say(script, &format!("add rule {table} {chain} {ip} saddr {} jump mark-for-masquerade", endpoint.ip()));
    say(script, &format!("add rule {table} {chain} meta l4proto {} dnat to {endpoint}", service.protocol()));
}

/// A service chain's rules: a random endpoint.
fn rules(script: &mut String, Words { table, ip, .. }: &Words, service: &Service, pods: &str) {
    let chain = chain(service);
    say(
        script,
        &format!(
            "add rule {table} {chain} {ip} daddr {} {} dport {} {ip} saddr != {pods} jump mark-for-masquerade",
            service.frontend.ip(),
            service.protocol(),
            service.frontend.port()
        ),
    );
    let targets = service.endpoints.iter().enumerate();
    let targets: Vec<String> =
        targets.map(|(n, endpoint)| format!("{n} : goto {}", endpoint_chain(service, *endpoint))).collect();
    say(
        script,
        &format!(
            "add rule {table} {chain} numgen random mod {} vmap {{ {} }}",
            targets.len(),
            targets.join(" , ")
        ),
    );
}

fn remove(script: &mut String, Words { table, .. }: &Words, service: &Service) {
    let (ip, port, protocol) = (service.frontend.ip(), service.frontend.port(), service.protocol());
    say(script, &format!("delete element {table} cluster-ips {{ {ip} }}"));
    say(script, &format!("delete element {table} service-ips {{ {ip} . {protocol} . {port} }}"));
    if let Some(port) = service.node_port {
        say(script, &format!("delete element {table} service-nodeports {{ {protocol} . {port} }}"));
        say(script, &format!("delete chain {table} {}", external_chain(service)));
    }
    say(script, &format!("delete chain {table} {}", chain(service)));
    for endpoint in &service.endpoints {
        say(script, &format!("delete chain {table} {}", endpoint_chain(service, *endpoint)));
    }
}

/// Another set of endpoints: the service chain is written anew, endpoints come and go.
fn replace(script: &mut String, words: &Words, before: &Service, after: &Service, pods: &str) {
    let table = words.table;
    let (old, new): (BTreeSet<_>, BTreeSet<_>) =
        (before.endpoints.iter().collect(), after.endpoints.iter().collect());
    for endpoint in new.difference(&old) {
        add_endpoint(script, words, after, **endpoint);
    }
    say(script, &format!("flush chain {table} {}", chain(after)));
    rules(script, words, after, pods);
    for endpoint in old.difference(&new) {
        say(script, &format!("delete chain {table} {}", endpoint_chain(before, **endpoint)));
    }
}

fn chain(service: &Service) -> String {
    format!("service-{}-{}/{}/p80", hash(&service.name, 8), service.name, service.protocol())
}

/// Where traffic from outside goes first.
fn external_chain(service: &Service) -> String {
    format!("external-{}-{}/{}/p80", hash(&service.name, 8), service.name, service.protocol())
}

fn endpoint_chain(service: &Service, endpoint: SocketAddr) -> String {
    let name = format!(
        "{}/tcp/p80__{}/{}",
        service.name,
        endpoint.ip().to_string().replace(':', "."),
        endpoint.port()
    );
    format!("endpoint-{}-{name}", hash(&name, 8))
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
    fn a_new_service_is_as_long_whatever_else_there_is() {
        let script = change(None, Some(&service(1, 2)), NODE);
        assert_eq!(script.lines().count(), 2 + 2 * 3 + 2 + 1, "{script}");
        assert!(script.contains("numgen random mod 2 vmap { 0 : goto endpoint-"));
    }

    #[test]
    fn a_node_port_is_an_element_and_goes_by_a_chain_that_masquerades() {
        let service = Service { node_port: Some(30_080), ..service(1, 2) };
        let script = whole(std::slice::from_ref(&service), NODE);
        let external = external_chain(&service);
        for line in [
            "add element ip kube-proxy nodeport-ips { 192.0.2.1 }".to_owned(),
            format!("add element ip kube-proxy service-nodeports {{ tcp . 30080 : goto {external} }}"),
            format!("add rule ip kube-proxy {external} jump mark-for-masquerade"),
            format!("add rule ip kube-proxy {external} goto {}", chain(&service)),
        ] {
            assert_eq!(script.lines().filter(|said| *said == line).count(), 1, "{line}\n{script}");
        }
        let gone = change(Some(&service), None, NODE);
        assert!(gone.contains(&format!("delete chain ip kube-proxy {external}")), "{gone}");
    }

    #[test]
    fn an_endpoint_less_flushes_its_service_alone() {
        let script = change(Some(&service(1, 3)), Some(&service(1, 2)), NODE);
        let words: Vec<&str> = script.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(words, ["flush", "add", "add", "delete"]);
    }
}
