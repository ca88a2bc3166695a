//! C22, C34: who gets a frontend that several claim, across kinds of frontends and with the node in between.

use std::net::IpAddr;

use lb_userspace::model::State;
use lb_userspace::plan::decide::{self, Planned};
use lb_userspace::plan::decision::{Frontend, FrontendKind};
use lb_userspace::plan::owners::Owners;
use lb_userspace::plan::site::Site;
use lb_userspace::source::file::read_once;

const NODE: &str = "192.0.2.1";
const SECOND: &str = "198.51.100.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn site(node_port_addresses: &[&str]) -> Site {
    let own = [NODE, SECOND, "2001:db8::1"].map(ip);
    Site {
        node_port_addresses: node_port_addresses.iter().map(|addr| ip(addr)).collect(),
        own_addresses: own.into(),
        ..Site::default()
    }
}

/// A Service of the second `created`, its `spec` but for the first cluster address.
fn service(name: &str, created: u8, cluster_ip: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  creationTimestamp: 2026-01-01T00:00:{created:02}Z\n\
         spec:\n  clusterIP: {cluster_ip}\n  {}\n---\n",
        spec.trim().replace('\n', "\n  ")
    )
}

fn node_port(name: &str, created: u8, port: u16) -> String {
    let spec = format!("type: NodePort\nports: [{{port: 80, nodePort: {port}}}]");
    service(name, created, "10.96.0.1", &spec)
}

fn external_ip(name: &str, created: u8, addr: &str, port: u16) -> String {
    let spec = format!("externalIPs: [{addr}]\nports: [{{port: {port}}}]");
    service(name, created, "10.96.0.2", &spec)
}

struct Cluster {
    state: State,
    owners: Owners,
}

impl Cluster {
    fn new(manifests: &[String], site: Site) -> Self {
        let mut cluster = Self { state: State::new("here"), owners: Owners::on(site) };
        cluster.change(manifests);
        cluster
    }

    fn change(&mut self, manifests: &[String]) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.yaml"), manifests.concat()).unwrap();
        let snapshot = read_once(folder.path()).unwrap();
        assert!(!snapshot.has_problems(), "{:?}", snapshot.findings);
        self.state.replace_all(snapshot.objects);
    }

    /// `service kind address:port but for` of every frontend but those of addresses as a whole, and the refusals.
    fn plan(&mut self) -> (Vec<String>, Vec<String>) {
        let planned = decide::dirty(&mut self.state, &mut self.owners);
        let text = |planned: &Planned| planned.refused.iter().map(ToString::to_string).collect::<Vec<_>>();
        let refused = planned.values().flat_map(text).collect();
        let decisions = planned.values().flat_map(|planned| &planned.decisions);
        let frontends = decisions.flat_map(|decision| {
            decision
                .frontends
                .iter()
                .map(|frontend| format!("{} {}", decision.name.service.name(), show(frontend)))
        });
        (frontends.filter(|line| !line.contains("ClusterIp")).collect(), refused)
    }
}

fn show(frontend: &Frontend) -> String {
    let addr = frontend.addr.map(|addr| addr.to_string()).unwrap_or_default();
    let mut text = format!("{:?} {addr}:{}", frontend.kind, frontend.port);
    for addr in &frontend.except {
        text += &format!(" not {addr}");
    }
    text
}

fn without_whole(frontends: Vec<String>) -> Vec<String> {
    frontends.into_iter().filter(|line| !line.contains("Whole")).collect()
}

#[test]
fn c22_an_older_external_ip_on_a_node_address_is_left_out_of_the_node_port() {
    let manifests = [node_port("np", 2, 30_080), external_ip("ext", 1, NODE, 30_080)];
    let (frontends, refused) = Cluster::new(&manifests, site(&[NODE, SECOND])).plan();
    assert_eq!(
        without_whole(frontends),
        ["ext ExternalIp 192.0.2.1:30080", "np NodePort :30080 not 192.0.2.1"]
    );
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].starts_with("default/np:/TCP claims 192.0.2.1:30080/TCP, which default/ext:/TCP has"));
}

#[test]
fn c22_an_older_node_port_keeps_its_node_addresses() {
    let manifests = [node_port("np", 1, 30_080), external_ip("ext", 2, NODE, 30_080)];
    let (frontends, refused) = Cluster::new(&manifests, site(&[NODE, SECOND])).plan();
    assert_eq!(without_whole(frontends), ["np NodePort :30080"]);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].starts_with("default/ext:/TCP claims 192.0.2.1:30080/TCP, which default/np:/TCP has"));
}

#[test]
fn c22_other_ports_protocols_and_addresses_do_not_meet() {
    let udp = "externalIPs: [192.0.2.1]\nports: [{port: 30080, protocol: UDP}]";
    for other in [
        external_ip("ext", 2, NODE, 30_081),
        external_ip("ext", 2, "203.0.113.9", 30_080),
        external_ip("ext", 2, SECOND, 30_080),
        service("ext", 2, "10.96.0.2", udp),
    ] {
        let (frontends, refused) = Cluster::new(&[node_port("np", 1, 30_080), other], site(&[NODE])).plan();
        assert_eq!(refused, Vec::<String>::new());
        assert_eq!(without_whole(frontends).len(), 2);
    }
}

#[test]
fn c22_what_comes_goes_or_moves_concerns_the_other_kind_too() {
    let (np, ext) = (node_port("np", 2, 30_080), external_ip("ext", 1, NODE, 30_080));
    let mut cluster = Cluster::new(std::slice::from_ref(&np), site(&[NODE]));
    assert_eq!(without_whole(cluster.plan().0), ["np NodePort :30080"]);
    cluster.change(&[np.clone(), ext.clone()]);
    assert_eq!(
        without_whole(cluster.plan().0),
        ["ext ExternalIp 192.0.2.1:30080", "np NodePort :30080 not 192.0.2.1"]
    );
    cluster.change(std::slice::from_ref(&np));
    assert_eq!(without_whole(cluster.plan().0), ["np NodePort :30080"], "the first let go");
    cluster.change(&[np, ext]);
    cluster.plan();
    assert!(cluster.owners.set_site(site(&[SECOND])) && !cluster.owners.set_site(site(&[SECOND])));
    cluster.state.mark_all_dirty();
    let (frontends, refused) = cluster.plan();
    assert_eq!(without_whole(frontends), ["ext ExternalIp 192.0.2.1:30080", "np NodePort :30080"]);
    assert_eq!(refused, Vec::<String>::new(), "the NodePort is served elsewhere now");
}

#[test]
fn c22_ports_of_the_agent_and_the_api_server_are_refused_on_the_nodes_own_addresses_only() {
    let on = |addr| Cluster::new(&[external_ip("ext", 1, addr, 6443)], site(&[NODE])).plan();
    for own in [NODE, SECOND] {
        let (frontends, refused) = on(own);
        assert_eq!(without_whole(frontends), Vec::<String>::new());
        assert!(refused[0].contains("this node itself listens on"), "{refused:?}");
    }
    assert_eq!(without_whole(on("203.0.113.9").0), ["ext ExternalIp 203.0.113.9:6443"]);
    // Bare metal puts Services on the node's own address; every other port is theirs.
    let https = Cluster::new(&[external_ip("ext", 1, NODE, 443)], site(&[NODE])).plan();
    assert_eq!((without_whole(https.0), https.1), (vec!["ext ExternalIp 192.0.2.1:443".to_owned()], vec![]));
    let udp = "externalIPs: [192.0.2.1]\nports: [{port: 6443, protocol: UDP}]";
    assert_eq!(Cluster::new(&[service("u", 1, "10.96.0.2", udp)], site(&[])).plan().1, Vec::<String>::new());
}

#[test]
fn c34_a_cluster_address_refuses_its_other_ports_once() {
    let two = "ports: [{name: b, port: 443}, {name: a, port: 80}]";
    let mut cluster = Cluster::new(&[service("web", 1, "10.96.0.7", two)], site(&[NODE]));
    let planned = decide::dirty(&mut cluster.state, &mut cluster.owners);
    let decisions = &planned.values().next().unwrap().decisions;
    let whole: Vec<_> = decisions
        .iter()
        .flat_map(|decision| decision.frontends.iter().map(move |frontend| (&decision.name.port, frontend)))
        .filter(|(_, frontend)| frontend.kind == FrontendKind::Whole)
        .collect();
    let [(port, frontend)] = whole[..] else { panic!("{whole:?}") };
    assert_eq!((&**port, frontend.addr, frontend.port), ("a", Some(ip("10.96.0.7")), 0));
}

#[test]
fn c34_two_services_on_one_cluster_address_share_its_other_ports_in_peace() {
    let ports = |port| format!("ports: [{{port: {port}}}]");
    let (old, young) =
        (service("old", 1, "10.96.0.7", &ports(80)), service("young", 2, "10.96.0.7", &ports(443)));
    let mut cluster = Cluster::new(&[old, young.clone()], site(&[]));
    assert_eq!(cluster.plan(), (vec!["old Whole 10.96.0.7:0".to_owned()], vec![]));
    cluster.change(&[young]);
    assert_eq!(cluster.plan(), (vec!["young Whole 10.96.0.7:0".to_owned()], vec![]), "it goes on");
}

#[test]
fn c34_the_hosts_own_addresses_refuse_nothing_that_is_no_services() {
    let plain = service("web", 1, NODE, "ports: [{port: 80}]");
    assert_eq!(Cluster::new(&[plain], site(&[])).plan(), (vec![], vec![]));
}
