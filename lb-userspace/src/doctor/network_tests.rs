//! Links and settings, and what is said of them.

use super::super::snapshot::tests::healthy;
use super::*;

fn link(index: u32, name: &str, kind: Option<&str>) -> Link {
    Link { index, name: name.to_owned(), kind: kind.map(str::to_owned), mtu: Some(1_500), ..Link::default() }
}

fn uplink(index: u32, name: &str) -> (Link, Option<Role>) {
    (Link { carries_default_route: true, ..link(index, name, None) }, Some(Role::Net))
}

fn with(links: Vec<(Link, Option<Role>)>, settings: &[(&str, &str)]) -> Snapshot {
    let mut node = Snapshot { links: Ok(links), ..healthy() };
    node.settings.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    node
}

fn warnings(node: &Snapshot) -> Vec<String> {
    examine(node).into_iter().filter(Finding::needs_a_look).map(|finding| finding.remedy).collect()
}

#[test]
fn a_tunnel_has_to_fit_through_the_uplink() {
    let tunnel = |mtu| {
        let tunnel = Link { mtu: Some(mtu), ..link(3, "flannel.1", Some("vxlan")) };
        with(vec![uplink(2, "eth0"), (tunnel, Some(Role::Net))], &[])
    };
    assert!(warnings(&tunnel(1_450)).is_empty());
    assert_eq!(warnings(&tunnel(1_500)), ["set the CNI's MTU to 1450 at most, on the tunnel and in pods"]);
}

#[test]
fn a_bridge_of_pods_needs_br_netfilter() {
    let bridge = || {
        let port = Link { master: Some(4), ..link(5, "veth5", Some("veth")) };
        vec![uplink(2, "eth0"), (link(4, "cni0", Some("bridge")), None), (port, Some(Role::Pod))]
    };
    let on = [("net.bridge.bridge-nf-call-iptables", "1"), ("net.bridge.bridge-nf-call-ip6tables", "1")];
    assert!(warnings(&with(bridge(), &on)).is_empty());
    let remedy = warnings(&with(bridge(), &on[..1])).concat();
    assert!(remedy.contains("call-ip6tables=1") && !remedy.contains("call-iptables=1"), "{remedy}");
    assert!(warnings(&with(bridge(), &[])).concat().starts_with("modprobe br_netfilter"));
    assert!(warnings(&with(vec![uplink(2, "eth0")], &[])).is_empty(), "no pods share a bridge");
}

#[test]
fn strict_reverse_paths_matter_with_two_uplinks() {
    let two = || vec![uplink(2, "eth0"), uplink(3, "eth1")];
    let strict = [("net.ipv4.conf.all.rp_filter", "0"), ("net.ipv4.conf.eth1.rp_filter", "1")];
    assert_eq!(warnings(&with(two(), &strict)), ["sysctl -w net.ipv4.conf.eth1.rp_filter=2"]);
    let loose = [("net.ipv4.conf.all.rp_filter", "2"), ("net.ipv4.conf.eth1.rp_filter", "1")];
    assert!(warnings(&with(two(), &loose)).is_empty());
    assert!(warnings(&with(vec![uplink(3, "eth1")], &strict)).is_empty());
}

#[test]
fn forwarding_and_a_full_conntrack_are_told() {
    assert_eq!(
        warnings(&with(vec![], &[("net.ipv4.ip_forward", "0\n")])),
        ["sysctl -w net.ipv4.ip_forward=1"]
    );
    for (count, expected) in [("100", 0), ("209716", 1), ("262144", 1)] {
        let node = with(vec![], &[("net.netfilter.nf_conntrack_count", count)]);
        assert_eq!(warnings(&node).len(), expected, "{count}");
    }
}

#[test]
fn the_cni_in_force_is_the_first_file() {
    let files = |plugin: &str| vec![("05-x.conflist".to_owned(), vec![plugin.to_owned()])];
    let said = |plugin| cni(&Snapshot { cni: Ok(files(plugin)), ..healthy() });
    assert_eq!(said("flannel").level, Level::Ok);
    assert_eq!(said("cilium-cni").level, Level::Note);
    assert_eq!(cni(&Snapshot { cni: Ok(vec![]), ..healthy() }).level, Level::Note);
    assert_eq!(cni(&Snapshot { cni: Err("denied".to_owned()), ..healthy() }).level, Level::Unseen);
}
