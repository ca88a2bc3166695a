//! Tier 2: a node moves from kube-proxy to Switchboard and back, and no connection breaks.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lb_tests::agent::{Agent, AgentConfig, LogLine, binary};
use lb_tests::lab::{Lab, Layout, Pod};
use lb_tests::manifests::{Manifests, Protocol as Port};
use lb_tests::peers::{self, Peer, Service};
use lb_tests::poll;
use lb_tests::scene::{BACKENDS, LIMIT, POD_PORT, SOON, TCP_PORT, UDP_PORT, VIPS, vips};
use lb_tests::traffic::{EchoServer, Load, Protocol, Totals};

/// A node whose Service both can serve: netfilter by rules as kube-proxy's, Switchboard by an agent.
struct Move {
    _servers: Vec<EchoServer>,
    manifests: Manifests,
    lab: Lab,
}

const RANGES: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

impl Move {
    fn new() -> Self {
        let lab = Lab::builder().node("node1", Layout::Routed, &["client", "a", "b", "c"]).build().unwrap();
        let start = |name: &&str| EchoServer::start(&lab.pod(name).netns, name, &[POD_PORT]).unwrap();
        let servers = BACKENDS.iter().map(start).collect();
        let mut manifests = Manifests::new().unwrap();
        manifests.lab_node(lab.node("node1"));
        manifests.service("web", |service| {
            service.cluster_ips(&VIPS).port("http", TCP_PORT, Port::Tcp).port("dns", UDP_PORT, Port::Udp);
        });
        let backends: Vec<&Pod> = BACKENDS.iter().map(|name| lab.pod(name)).collect();
        manifests.pods("web", &backends, &[("http", POD_PORT, Port::Tcp), ("dns", POD_PORT, Port::Udp)]);
        manifests.write().unwrap();
        // Else netfilter remembers for minutes what is over.
        let netns = &lab.node("node1").netns;
        for timeout in ["tcp_timeout_time_wait", "tcp_timeout_close", "udp_timeout", "udp_timeout_stream"] {
            netns.set_sysctl(&format!("netfilter/nf_conntrack_{timeout}"), "2").unwrap();
        }
        Self { _servers: servers, manifests, lab }
    }

    fn load_kube_proxy(&self) {
        for (family, range) in RANGES.into_iter().enumerate() {
            let endpoints: Vec<_> =
                BACKENDS.iter().map(|name| self.lab.pod(name).both_at(POD_PORT)[family]).collect();
            let service = |name: &str, port: u16, udp: bool| Service {
                name: format!("default/web-{name}"),
                frontend: vips(port)[family],
                udp,
                node_port: None,
                endpoints: endpoints.clone(),
            };
            let services = [service("http", TCP_PORT, false), service("dns", UDP_PORT, true)];
            let node = self.lab.node("node1");
            let around = peers::Node { pods: range, address: node.addresses()[family] };
            let rules = Peer::Nftables.whole(&services, around);
            Peer::Nftables.load(&node.netns, &rules, family == 1).unwrap();
        }
    }

    fn remove_kube_proxy(&self) {
        self.lab.node("node1").netns.nft("delete table ip kube-proxy\ndelete table ip6 kube-proxy").unwrap();
    }

    /// Long-lived connections and exchanges, and new ones all the time, in both families.
    fn loads(&self) -> Vec<Load> {
        let ([v4, v6], [dns4, dns6]) = (vips(TCP_PORT), vips(UDP_PORT));
        let loads = [(Protocol::Tcp, v4), (Protocol::Tcp, v6), (Protocol::Udp, dns4), (Protocol::Udp, dns6)];
        let start = |(protocol, vip)| {
            let load = Load::builder(&self.lab.pod("client").netns, protocol, vip).conversations(5);
            load.workers(1).pause(Duration::from_millis(5)).limit(LIMIT).start().unwrap()
        };
        loads.map(start).into()
    }

    /// The agent, in sync, and so with its programs attached.
    fn start_agent(&self) -> Agent {
        let mut agent =
            Agent::start(self.lab.node("node1"), AgentConfig::new(self.manifests.path())).unwrap();
        agent.wait_in_sync(SOON).unwrap();
        agent
    }

    fn verdict(&self, name: &str) -> u64 {
        lb_tests::agent::Tool::new(self.lab.node("node1")).verdict(name).unwrap()
    }
}

/// Every load has had more exchanges, and every conversation more messages, since this was called.
#[track_caller]
fn all_go_on(loads: &[Load]) {
    let count = |totals: &Totals| (totals.succeeded, totals.conversations.messages);
    let before: Vec<_> = loads.iter().map(|load| count(&load.snapshot())).collect();
    poll::until("everything to go on", SOON, || {
        let now: Vec<_> = loads.iter().map(|load| count(&load.snapshot())).collect();
        let more =
            |(now, before): (&(u64, u64), &(u64, u64))| now.0 >= before.0 + 20 && now.1 >= before.1 + 100;
        if now.iter().zip(&before).all(more) {
            return Ok(());
        }
        let failures: Vec<_> = loads.iter().map(|load| load.snapshot().describe_failures()).collect();
        Err(format!("{before:?} -> {now:?}, {failures:?}"))
    })
    .unwrap();
}

/// Every conversation has lasted four seconds: from two on, netfilter takes datagrams for a connection.
fn grow_old(loads: &[Load]) {
    poll::until("conversations to last", SOON, || {
        let messages: Vec<_> = loads.iter().map(|load| load.snapshot().conversations.messages).collect();
        if messages.iter().all(|messages| *messages >= 1_000) { Ok(()) } else { Err(format!("{messages:?}")) }
    })
    .unwrap();
}

fn none_broke(loads: Vec<Load>) {
    for load in loads {
        let totals = load.stop();
        assert_eq!(totals.conversations.opened, 5);
        assert_eq!((totals.failed(), totals.conversations.moved), (0, 0), "{}", totals.describe_failures());
    }
}

#[test]
fn connections_of_kube_proxy_live_on_when_switchboard_takes_over_and_the_rules_go() {
    let node = Move::new();
    node.load_kube_proxy();
    let loads = node.loads();
    grow_old(&loads);

    let mut agent = node.start_agent();
    let is_told = |line: &&LogLine| line.message().contains("are left to it");
    let left = agent.lines().unwrap().iter().find(is_told).expect("it says what it leaves").clone();
    assert!(left.count("connections").unwrap() >= 20, "{left:?}");
    all_go_on(&loads);
    assert!(node.verdict("passed_foreign") > 0);
    assert!(node.verdict("forwarded_new") > 0, "new connections are Switchboard's");
    assert_eq!(node.verdict("rejected_no_flow"), 0);

    node.remove_kube_proxy();
    all_go_on(&loads);
    none_broke(loads);
    agent
        .wait_for_line("the end of following", Duration::from_secs(40), |line| {
            line.message().contains("the last connection that netfilter translated has ended")
        })
        .unwrap();
}

/// A command that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn connections_of_switchboard_live_on_when_kube_proxy_comes_back() {
    let node = Move::new();
    let mut agent = node.start_agent();
    let loads = node.loads();
    all_go_on(&loads);

    node.load_kube_proxy();
    agent.terminate().unwrap();
    let pins = node.lab.node("node1").pin_folder.clone();
    let mut command: Command = node.lab.node("node1").netns.command(binary());
    command.args(["cleanup", "--drain", "--pin-dir"]).arg(&pins).stdout(Stdio::null());
    let mut cleanup = Running(command.spawn().unwrap());
    poll::until("the frontends to go", SOON, || {
        let tool = lb_tests::agent::Tool::new(node.lab.node("node1"));
        match tool.get("frontends").map_err(|error| error.to_string())?.as_array() {
            Some(rows) if rows.is_empty() => Ok(()),
            rows => Err(format!("{rows:?}")),
        }
    })
    .unwrap();
    let ours = node.verdict("forwarded_new");
    all_go_on(&loads);
    assert_eq!(node.verdict("forwarded_new"), ours, "new connections are kube-proxy's");
    assert!(cleanup.0.try_wait().unwrap().is_none(), "it waits for the conversations");
    none_broke(loads);

    poll::until("the rest to go", Duration::from_secs(60), || match cleanup.0.try_wait() {
        Ok(Some(status)) if status.success() => Ok(()),
        ended => Err(format!("{ended:?}")),
    })
    .unwrap();
    assert!(!pins.exists(), "{} is gone", pins.display());
    let after = node.loads();
    all_go_on(&after);
    none_broke(after);
}
