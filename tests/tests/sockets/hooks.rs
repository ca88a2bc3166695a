//! The hooks themselves: whose sockets they serve, how they come, stay and go.
//!
//! Decides nothing. Invariant: nothing is left on a cgroup.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use lb_common::abi::ABI_VERSION;
use lb_tests::agent::AgentConfig;
use lb_tests::lab::Layout;
use lb_tests::manifests::Protocol as Port;
use lb_tests::poll;
use lb_tests::scene::{LIMIT, SOON, Scene, TCP_PORT, UDP_PORT, vips};
use lb_tests::traffic::{Load, Protocol, tcp_once};
use serde_json::json;

use super::{count, heard, names, service};

#[test]
fn c49_killed_and_started_again_under_load_loses_nothing() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let node = scene.node().clone();
    let loads: Vec<Load> = [(Protocol::Tcp, vips(TCP_PORT)[0]), (Protocol::Udp, vips(UDP_PORT)[1])]
        .map(|(protocol, vip)| {
            let load = Load::builder(&node.netns, protocol, vip).workers(1).pause(Duration::from_millis(2));
            load.conversations(3).limit(LIMIT).start().unwrap()
        })
        .into();
    let more = || {
        let before: Vec<_> = loads.iter().map(Load::snapshot).collect();
        poll::until("more successes on every load", SOON, || {
            let now: Vec<_> = loads.iter().map(Load::snapshot).collect();
            let enough = now.iter().zip(&before).all(|(now, before)| now.succeeded > before.succeeded + 50);
            if enough {
                Ok(())
            } else {
                Err(format!("{:?}", now.iter().map(|now| now.succeeded).collect::<Vec<_>>()))
            }
        })
        .unwrap();
    };
    more();
    for _ in 0..2 {
        scene.agent.kill9().unwrap();
        more();
        scene.agent.restart().unwrap();
        scene.agent.wait_in_sync(SOON).unwrap();
        more();
    }
    for load in loads {
        let totals = load.stop();
        assert_eq!(totals.failed(), 0, "{}", totals.describe_failures());
    }
}

#[test]
fn hooks_that_could_not_be_hung_are_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let later = folder.path().join("later");
    let mut scene = Scene::start(Layout::Routed, &["--cgroup", later.to_str().unwrap()]).unwrap();
    let node = scene.node().clone();
    tcp_once(&node.netns, vips(TCP_PORT)[0], Duration::from_millis(300)).unwrap_err();
    std::os::unix::fs::symlink(node.cgroup.as_ref().expect("a machine with cgroup2"), &later).unwrap();
    let hung = |line: &lb_tests::agent::LogLine| line.message().contains("sockets are served");
    scene.agent.wait_for_line("that sockets are served", 2 * SOON, hung).unwrap();
    for vip in vips(TCP_PORT) {
        tcp_once(&node.netns, vip, LIMIT).unwrap();
    }
}

/// A thread of a pod that is in the hooks' cgroup all the same, as a pod's processes are on a real node.
fn from_pod<T: Send>(scene: &Scene, work: impl FnOnce() -> T + Send) -> T {
    let cgroup = scene.node().cgroup.clone().expect("a machine with cgroup2");
    scene.client().netns.run(|| {
        std::fs::write(cgroup.join("cgroup.threads"), "0").unwrap();
        work()
    })
}

#[test]
fn pods_are_left_to_the_packets_hooks_unless_they_are_asked_for() {
    for (option, verdict) in [("host", "socket_not_ours"), ("all", "socket_forwarded_new")] {
        let scene = Scene::start(Layout::Routed, &["--socket-lb", option]).unwrap();
        for vip in names(TCP_PORT) {
            let before = (count(&scene, verdict), count(&scene, "forwarded_new"));
            let stream = from_pod(&scene, || TcpStream::connect_timeout(&vip, LIMIT)).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), vip, "{option}");
            assert!(count(&scene, verdict) > before.0, "{option} {vip}");
            let new = u64::from(option == "host");
            assert_eq!(count(&scene, "forwarded_new"), before.1 + new, "{option} {vip}: by packets");
        }
        // Datagrams of pods are translated at their interfaces, whatever the option says.
        let vip = vips(UDP_PORT)[0];
        let heard = from_pod(&scene, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.send_to(b"x", vip).unwrap();
            heard(&socket).1
        });
        assert_eq!(heard, vip);
        assert_eq!(count(&scene, "socket_forwarded"), 0);
    }
}

#[test]
fn a_pods_affinity_goes_by_the_pods_address_whatever_the_option_says() {
    let mut scene = Scene::start(Layout::Routed, &["--socket-lb", "all"]).unwrap();
    service(&mut scene, "sticky", |service| {
        service.cluster_ips(&["10.96.0.30"]).port("http", 80, Port::Tcp);
        service.set("/spec/sessionAffinity", json!("ClientIP"));
    });
    let vip = "10.96.0.30:80".parse().unwrap();
    let by_packets = tcp_once(&scene.client().netns, vip, LIMIT).unwrap().backend;
    for _ in 0..10 {
        let mut stream = from_pod(&scene, || TcpStream::connect_timeout(&vip, LIMIT)).unwrap();
        let mut name = [0; 1];
        stream.read_exact(&mut name).unwrap();
        assert_eq!(by_packets.as_bytes(), name, "the same client, the same backend");
    }
    assert_eq!((count(&scene, "socket_not_ours"), count(&scene, "socket_forwarded_new")), (10, 0));
}

#[test]
fn c37_a_pods_connection_to_a_vanished_backend_is_reset_whatever_the_option_says() {
    let args = ["--socket-lb", "all", "--reset-on-backend-delete"];
    let mut scene = Scene::start(Layout::Routed, &args).unwrap();
    scene.set_backends(&["a"]).unwrap();
    for vip in vips(TCP_PORT) {
        let mut stream = from_pod(&scene, || TcpStream::connect_timeout(&vip, LIMIT)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        scene.set_backends(&["b"]).unwrap();
        poll::until("a reset", SOON, || match stream.write_all(b"still there?") {
            Ok(()) => Err("not yet".to_owned()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error.to_string()),
        })
        .unwrap();
        scene.set_backends(&["a"]).unwrap();
    }
}

#[test]
fn off_takes_the_hooks_off_and_cleanup_leaves_none() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let (node, vip) = (scene.node().clone(), vips(TCP_PORT)[0]);
    tcp_once(&node.netns, vip, LIMIT).unwrap();
    let links = |scene: &Scene| {
        let found = std::fs::read_dir(scene.node().pin_folder.join(format!("v{ABI_VERSION}/links"))).unwrap();
        found.flatten().filter(|link| link.file_name().to_string_lossy().starts_with("cgroup-")).count()
    };
    assert_eq!(links(&scene), 8);
    let manifests = scene.manifests.path().to_owned();
    let config = |option: &str| AgentConfig::new(&manifests).arg("--socket-lb").arg(option);
    scene.agent.restart_with(config("off")).unwrap();
    scene.agent.wait_in_sync(SOON).unwrap();
    assert_eq!(links(&scene), 0);
    let unserved = |limit| tcp_once(&node.netns, vip, limit);
    poll::until("no translation", SOON, || match unserved(Duration::from_millis(200)) {
        Ok(reply) => Err(format!("{reply:?}")),
        Err(_) => Ok(()),
    })
    .unwrap();
    scene.agent.restart_with(config("host")).unwrap();
    scene.agent.wait_in_sync(SOON).unwrap();
    tcp_once(&node.netns, vip, LIMIT).unwrap();
    scene.agent.terminate().unwrap();
    assert_eq!(scene.tool().run_on_pins(&["cleanup"]).unwrap().code, Some(0));
    poll::until("no translation", SOON, || match unserved(Duration::from_millis(200)) {
        Ok(reply) => Err(format!("{reply:?}")),
        Err(_) => Ok(()),
    })
    .unwrap();
}

#[test]
fn without_a_cgroup_the_agent_says_so_once_and_serves_everybody_else() {
    let mut scene = Scene::start(Layout::Routed, &["--cgroup", "/proc"]).unwrap();
    let lines = scene.agent.lines().unwrap();
    let errors: Vec<&str> =
        lines.iter().filter(|line| line.level() == "ERROR").map(|line| line.text.as_str()).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("--cgroup") && errors[0].contains("/proc"), "{errors:?}");
    tcp_once(&scene.client().netns, vips(TCP_PORT)[0], LIMIT).unwrap();
}
