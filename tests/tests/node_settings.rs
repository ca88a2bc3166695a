//! Tier 2: what kube-proxy sets on a node, `run --node-settings on` sets too, and `cleanup` undoes.

use lb_tests::agent::Tool;
use lb_tests::lab::{Layout, Netns};
use lb_tests::scene::{LIMIT, Scene, TCP_PORT, vips};
use lb_tests::traffic::tcp_once;

const CLOSE_WAIT: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait";

fn saved(netns: &Netns, program: &str) -> String {
    let output = netns.command(program).args(["-S", "FORWARD"]).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn forward_drops(netns: &Netns) {
    for program in ["iptables-nft", "ip6tables-nft"] {
        assert!(netns.command(program).args(["-P", "FORWARD", "DROP"]).status().unwrap().success());
    }
}

fn setting(netns: &Netns, path: &str) -> String {
    netns.run(|| std::fs::read_to_string(path).unwrap().trim().to_owned())
}

#[test]
fn forward_and_conntrack_are_set_as_kube_proxy_does_and_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record.json").display().to_string();
    let networks = "10.244.0.0/16,fd00:10:244::/48";
    let args =
        ["--node-settings", "on", "--node-settings-record", record.as_str(), "--cluster-cidr", networks];
    let mut scene = Scene::start(Layout::Routed, &args).unwrap();
    let netns = scene.node().netns.clone();
    let [v4, v6] = vips(TCP_PORT);
    let client = scene.client().netns.clone();
    // The chains come, and drop, after the agent has looked: so nothing of it is accepted yet.
    forward_drops(&netns);
    assert!(tcp_once(&client, v4, LIMIT).is_err());
    let before = saved(&netns, "iptables-nft");

    scene.agent.terminate().unwrap();
    netns.run(|| std::fs::write(CLOSE_WAIT, "61").unwrap());
    scene.agent.restart().unwrap();
    scene.agent.wait_in_sync(lb_tests::scene::SOON).unwrap();
    for vip in [v4, v6] {
        tcp_once(&client, vip, LIMIT).unwrap();
    }
    assert_eq!(setting(&netns, CLOSE_WAIT), "3600");
    let rules = saved(&netns, "iptables-nft");
    assert!(rules.contains("-A FORWARD -d 10.244.0.0/16") && rules.contains("-j ACCEPT"), "{rules}");

    // Once more, and there are no more rules than before.
    scene.agent.terminate().unwrap();
    scene.agent.restart().unwrap();
    scene.agent.wait_in_sync(lb_tests::scene::SOON).unwrap();
    assert_eq!(saved(&netns, "iptables-nft"), rules);

    scene.agent.terminate().unwrap();
    let tool = Tool::new(scene.node());
    let output = tool.run_on_pins(&["cleanup", "--node-settings-record", &record]).unwrap();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(
        output.stdout.contains("removed 2 rules") || output.stdout.contains("removed 4 rules"),
        "{}",
        output.stdout
    );
    assert_eq!(saved(&netns, "iptables-nft"), before);
    assert_eq!(setting(&netns, CLOSE_WAIT), "60", "as it was before the first agent");
}
