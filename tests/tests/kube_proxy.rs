//! Tier 2: the way that a real kube-proxy is started, waited for and ended, shown on a stand-in.
//!
//! The stand-in is a script that keeps what it was started with, and loads rules when it is told to: no kube-proxy is
//! needed. Its health is served by the test, which kube-proxy does itself.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use lb_tests::lab::{Lab, Layout};
use lb_tests::peers::kube_proxy::{KubeProxy, Mode};
use lb_tests::peers::{Node, Peer, Service};
use lb_tests::poll;
use lb_tests::traffic::{EchoServer, tcp_once};
use serde_json::Value;

const PODS: &str = "10.244.0.0/16";
const SOON: Duration = Duration::from_secs(20);
const AT_ONCE: Duration = Duration::from_millis(300);
const URL: &str = "http://127.0.0.1:1";

/// Writes the stand-in into a folder.
fn stand_in(folder: &Path, then: &str) -> std::path::PathBuf {
    let (path, at) = (folder.join("kube-proxy"), folder.display());
    let script = format!(
        "#!/bin/sh\nreadlink /proc/self/ns/net > {at}/namespace\ncp \"$2\" {at}/config\necho \"$1\" > {at}/option\n{then}\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Answers every request as a healthy kube-proxy does, for as long as the test process lives.
fn serve_health(lab: &Lab) {
    let listener = lab.node("node1").netns.run(|| TcpListener::bind("127.0.0.1:10256").unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1_024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n{}");
        }
    });
}

#[test]
fn kube_proxy_is_started_in_the_nodes_namespace_waited_for_and_ended() {
    let lab = Lab::builder().node("node1", Layout::Routed, &["client", "a"]).build().unwrap();
    let (node, client) = (lab.node("node1"), &lab.pod("client").netns);
    let _server = EchoServer::start(&lab.pod("a").netns, "a", &[8080]).unwrap();
    serve_health(&lab);
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().display();
    let vip: SocketAddr = "10.96.0.10:80".parse().unwrap();
    let service = Service {
        name: "default/web".to_owned(),
        frontend: vip,
        udp: false,
        node_port: None,
        endpoints: vec![lab.pod("a").v4_at(8080)],
    };
    let rules = Peer::Nftables.whole(&[service], Node { pods: PODS, address: node.v4.into() });
    fs::write(folder.path().join("rules"), rules).unwrap();
    let program = stand_in(
        folder.path(),
        &format!("while [ ! -e {at}/go ]; do sleep 0.02; done\nnft -f {at}/rules\nexec sleep 600"),
    );

    let mut proxy = KubeProxy::start(&program, Mode::Nftables, node, URL, PODS).unwrap();
    let works = || {
        tcp_once(client, vip, Duration::from_millis(200)).map(|_| ()).map_err(|failure| failure.to_string())
    };
    let too_soon = proxy.wait_until_synced(AT_ONCE, works).unwrap_err();
    assert!(format!("{too_soon:#}").contains("in vain"), "{too_soon:#}");
    fs::write(folder.path().join("go"), "").unwrap();
    proxy.wait_until_synced(SOON, works).unwrap();

    let told = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap().trim().to_owned();
    assert_eq!(told("namespace"), format!("net:[{}]", node.netns.inode().unwrap()));
    assert_eq!(told("option"), "--config");
    let config: Value = serde_json::from_str(&told("config")).unwrap();
    assert_eq!((&config["mode"], &config["hostnameOverride"]), (&"nftables".into(), &"node1".into()));

    let pid = proxy.pid();
    drop(proxy);
    poll::until("the process to be gone", SOON, || {
        if Path::new(&format!("/proc/{pid}")).exists() { Err("it is there".to_owned()) } else { Ok(()) }
    })
    .unwrap();
}

#[test]
fn a_kube_proxy_that_ends_at_once_is_told_of_with_its_own_words() {
    let lab = Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap();
    serve_health(&lab);
    let folder = tempfile::tempdir().unwrap();
    let program = stand_in(folder.path(), "echo 'no such mode' >&2\nexit 3");
    let mut proxy = KubeProxy::start(&program, Mode::Iptables, lab.node("node1"), URL, PODS).unwrap();
    let error = proxy.wait_until_synced(SOON, || Err("no rules".to_owned())).unwrap_err();
    let said = format!("{error:#}");
    assert!(said.contains("it ended (exit status: 3)") && said.contains("no such mode"), "{said}");
}
