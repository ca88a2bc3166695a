//! Tier 2: `switchboard doctor` on nodes with real leftovers, and beside an agent.

use std::process::Output;
use std::time::Duration;

use lb_tests::agent::{Tool, binary};
use lb_tests::foreign::{Foreign, Hook};
use lb_tests::lab::{Lab, Layout, Node};
use lb_tests::peers::{self, Peer, Service};
use lb_tests::scene::{LIMIT, Scene, TCP_PORT, vips};
use lb_tests::traffic::{Failure, FailureKind, Reply, tcp_once};
use lb_userspace::datapath::cgroup;
use serde_json::Value;

/// What it says, by level, and how it ended.
struct Said {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Said {
    /// The findings of a level, each with what to do.
    fn of(&self, level: &str) -> Vec<String> {
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        let wanted = self.findings.iter().filter(|finding| finding["level"] == level);
        wanted.map(|finding| format!("{} => {}", text(finding, "finding"), text(finding, "remedy"))).collect()
    }
}

fn doctor(node: &Node) -> Said {
    let output = Tool::new(node).run_on_pins(&["doctor", "--output", "json"]).unwrap();
    let findings = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {} {}", output.stdout, output.stderr));
    Said { code: output.code, findings }
}

fn empty() -> Lab {
    Lab::builder().node("node1", Layout::Routed, &["a"]).build().unwrap()
}

fn services() -> Vec<Service> {
    vec![Service {
        name: "default/web".to_owned(),
        frontend: "10.96.0.10:80".parse().unwrap(),
        udp: false,
        node_port: None,
        endpoints: vec!["10.244.1.2:8080".parse().unwrap()],
    }]
}

#[test]
fn nothing_needs_a_look_beside_an_agent_that_serves() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    let said = doctor(scene.node());
    assert_eq!(said.code, Some(0), "{:#?} {:#?}", said.of("warning"), said.of("problem"));
    let well = said.of("ok").join("\n");
    for words in
        ["an agent runs", "4 interfaces lead to pods", "no programs of others", "nothing that kube-proxy"]
    {
        assert!(well.contains(words), "{words} is missing in\n{well}");
    }
}

#[test]
fn what_each_mode_of_kube_proxy_leaves_is_found_with_what_removes_it() {
    for (peer, words) in [
        (Peer::Nftables, "nft delete table ip kube-proxy"),
        (Peer::IptablesNft, "iptables-nft-save"),
        (Peer::IptablesLegacy, "iptables-legacy-save"),
    ] {
        let lab = empty();
        let node = lab.node("node1");
        let around = peers::Node { pods: "10.244.0.0/16", address: node.v4.into() };
        peer.load(&node.netns, &peer.whole(&services(), around), false).unwrap();
        let said = doctor(node);
        assert_eq!(said.code, Some(3));
        let warnings = said.of("warning");
        assert!(warnings.iter().any(|warning| warning.contains(words)), "{peer:?}: {warnings:#?}");
    }
}

#[test]
fn rule_9_a_firewall_for_what_netfilter_translated_is_found_with_the_rule_to_add() {
    let lab = empty();
    let node = lab.node("node1");
    let firewall = |accept: &str| {
        format!(
            "table inet fw {{ }}
             delete table inet fw
             table inet fw {{
               chain passing {{
                 type filter hook forward priority filter; policy drop;
                 ct state established,related accept
                 {accept}
               }}
             }}"
        )
    };
    node.netns.nft(&firewall("ct status dnat accept")).unwrap();
    let warnings = doctor(node).of("warning").join("\n");
    assert!(warnings.contains("inet fw passing accepts Services by `ct status dnat`"), "{warnings}");
    assert!(warnings.contains("nft insert rule inet fw passing ip daddr"), "{warnings}");

    node.netns.nft(&firewall("")).unwrap();
    let warnings = doctor(node).of("warning").join("\n");
    assert!(warnings.contains("refuses every new connection"), "{warnings}");

    node.netns.nft(&firewall("ip daddr 10.244.0.0/16 accept")).unwrap();
    let said = doctor(node);
    assert!(!said.of("warning").join("\n").contains("inet fw"), "{:#?}", said.of("warning"));
    assert!(said.of("note").join("\n").contains("inet fw passing refuses what no rule accepts"));
}

#[test]
fn the_same_firewall_written_with_iptables_is_found() {
    for program in ["iptables-nft", "iptables-legacy"] {
        let lab = empty();
        let node = lab.node("node1");
        for line in ["-P FORWARD DROP", "-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT"] {
            let status = node.netns.command(program).args(line.split(' ')).status().unwrap();
            assert!(status.success(), "{program} {line}");
        }
        let warnings = doctor(node).of("warning").join("\n");
        assert!(warnings.contains("`ct status dnat`"), "{program}: {warnings}");
        assert!(warnings.contains("iptables -I FORWARD -d"), "{program}: {warnings}");
    }
}

#[test]
fn rule_4_a_bridge_whose_packets_netfilter_does_not_see_is_found_and_what_it_costs_is_seen() {
    let mut scene = Scene::start(Layout::Bridged, &[]).unwrap();
    scene.set_backends(&["a"]).unwrap();
    let (node, client) = (scene.node().clone(), scene.client().netns.clone());
    let dial = |seconds| vips(TCP_PORT).map(|vip| tcp_once(&client, vip, Duration::from_secs(seconds)));
    let served = || dial(2).iter().all(|reply| reply.as_ref().is_ok_and(|reply| reply.backend == "a"));
    let lost = |reply: &Result<Reply, Failure>| matches!(reply, Err(why) if why.kind == FailureKind::Timeout);
    let bridge = |on| {
        let keys = ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"];
        node.netns.set_sysctls(&keys.map(|key| (key, on))).unwrap();
    };
    // The policy drops what conntrack takes for invalid, and sees to it that conntrack sees both directions.
    node.accept_only(&scene.lab.true_pairs(&node)).unwrap();
    assert!(served());
    assert!(!doctor(&node).of("warning").join("\n").contains("br_netfilter"));
    bridge("0");
    let warnings = doctor(&node).of("warning").join("\n");
    assert!(warnings.contains("pods share a bridge"), "{warnings}");
    assert!(
        warnings.contains("modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1"),
        "{warnings}"
    );
    assert!(dial(1).iter().all(lost));
    assert!(node.dropped().unwrap().invalid > 0);
    bridge("1");
    assert!(served());
}

#[test]
fn ports_that_meet_are_told_as_the_agent_has_them() {
    let scene = Scene::start(Layout::Routed, &["--masquerade-ports", "60000-60999"]).unwrap();
    scene.node().netns.set_sysctl("ipv4/ip_local_port_range", "20000 60999").unwrap();
    let warnings = doctor(scene.node()).of("warning").join("\n");
    assert!(warnings.contains("overlap the masquerade ports 60000-60999"), "{warnings}");
    assert!(warnings.contains("ip_local_reserved_ports=30000-32767"), "{warnings}");
}

#[test]
fn programs_of_others_are_found_on_interfaces_and_cgroups_by_whose_they_are() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    let node = scene.node();
    let root = cgroup::root().unwrap();
    let _programs = node.netns.run(|| {
        [("cil_from_netdev", Hook::Ingress("eth0")), ("meter", Hook::Xdp("eth0"))]
            .map(|(name, hook)| Foreign::hang(name, hook).unwrap())
    });
    let rival = Foreign::hang("cali_connect4", Hook::Connect4(&root)).unwrap();
    let said = doctor(node);
    let problems = said.of("problem").join("\n");
    for words in ["Cilium has programs on eth0;", "Calico's eBPF mode has programs on the root cgroup;"] {
        assert!(problems.contains(words), "{words} is missing in\n{problems}");
    }
    let notes = said.of("note").join("\n");
    assert!(notes.contains("another XDP program hangs on eth0, and stays"), "{notes}");
    assert_eq!(said.code, Some(3));
    drop(rival);
    // Services are served beside all of them.
    let client = scene.client().netns.clone();
    for vip in vips(TCP_PORT) {
        tcp_once(&client, vip, LIMIT).unwrap();
    }
}

#[test]
fn what_cannot_be_seen_without_a_right_is_said() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    let pins = scene.node().pin_folder.to_string_lossy().into_owned();
    let mut command = scene.node().netns.command("setpriv");
    command.args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"]);
    command.arg(binary()).args(["doctor", "--output", "json", "--pin-dir", &pins]);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let findings: Vec<Value> = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
    let said = Said { code: status.code(), findings };
    let unseen = said.of("unseen").join("\n");
    assert!(unseen.contains("lacks CAP_SYS_ADMIN"), "{unseen}");
    assert_eq!(said.code, Some(0), "{:#?}", said.of("warning"));
}

#[test]
fn check_kernel_says_what_there_is_and_without_the_right_to_look_that_it_was_not_seen() {
    let lab = empty();
    let node = lab.node("node1");
    let said = |output: Output| -> Vec<Value> {
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    };
    let mut command = node.netns.command(binary());
    let output = command.args(["check", "--kernel", "--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "every test needs what the agent needs");
    let features = said(output);
    let needed: Vec<&Value> = features.iter().filter(|row| row["needed"] == true).collect();
    assert!(needed.len() >= 5 && needed.iter().all(|row| row["state"] == "yes"), "{needed:#?}");
    let state = |name: &str| &features.iter().find(|row| row["feature"] == name).unwrap()["state"];
    assert_eq!(state("connect hooks for SCTP"), "no");
    assert_eq!(state("closing sockets of others (INET_DIAG_DESTROY)"), "yes");

    let mut command = node.netns.command("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(binary());
    let output = command.args(["check", "--kernel", "--output", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let unseen = said(output);
    assert!(unseen.iter().all(|row| row["needed"] != true || row["state"] == "unseen"), "{unseen:#?}");
    assert!(unseen.iter().all(|row| row["state"] == "yes" || row["without"] != ""), "{unseen:#?}");
}
