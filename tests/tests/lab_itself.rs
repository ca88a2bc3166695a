//! The lab, tested without any agent: if one of these fails, no other test of tier 2 means much.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use etherparse::{SlicedPacket, TransportSlice};
use lb_tests::capture::Capture;
use lb_tests::lab::{LOCK_FILE, Lab, Layout, Netns, PIN_ROOT, RpFilter};
use lb_tests::traffic::{Dial, EchoServer, FailureKind, Load, Protocol, Reply, tcp_once, udp_once};
use lb_tests::{peers, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SECOND: Duration = Duration::from_secs(1);

/// One exchange each by TCP and UDP, which must name `backend` and, as source, one of `source`'s own.
fn talks_to(from: &Netns, to: SocketAddr, backend: &str) -> [Reply; 2] {
    let replies = [
        tcp_once(from, to, SECOND).unwrap_or_else(|failure| panic!("tcp: {failure}")),
        udp_once(from, to, SECOND).unwrap_or_else(|failure| panic!("udp: {failure}")),
    ];
    for reply in &replies {
        assert_eq!(reply.backend, backend);
        assert_eq!(reply.seen_source, reply.source, "nothing translates addresses in a bare lab");
    }
    replies
}

fn pods_reach_each_other(layout: Layout) {
    let lab = Lab::builder().node("node1", layout, &["client", "web-1"]).build().unwrap();
    let web = lab.pod("web-1");
    let _server = EchoServer::start(&web.netns, "web-1", &[8080]).unwrap();
    for target in web.both_at(8080) {
        for reply in talks_to(&lab.pod("client").netns, target, "web-1") {
            assert!(lab.pod("client").has(reply.source.ip()), "{reply:?}");
        }
    }
    for target in web.both_at(8080) {
        talks_to(&lab.node("node1").netns, target, "web-1");
    }
}

#[test]
fn pods_of_a_routed_node_reach_each_other() {
    pods_reach_each_other(Layout::Routed);
}

#[test]
fn pods_of_a_bridged_node_reach_each_other() {
    pods_reach_each_other(Layout::Bridged);
}

#[test]
fn pods_reach_pods_of_another_node_with_strict_reverse_path_filtering() {
    let lab = Lab::builder()
        .node("node1", Layout::Routed, &["a"])
        .node("node2", Layout::Bridged, &["b"])
        .rp_filter(RpFilter::Strict)
        .build()
        .unwrap();
    let _servers = ["a", "b"].map(|name| EchoServer::start(&lab.pod(name).netns, name, &[8080]).unwrap());
    for (from, to) in [("a", "b"), ("b", "a")] {
        for target in lab.pod(to).both_at(8080) {
            talks_to(&lab.pod(from).netns, target, to);
        }
    }
    assert_eq!(lab.pod("a").v4.to_string(), "10.244.1.2");
    assert_eq!(lab.pod("b").v6.to_string(), "fd00:10:244:2::2");
}

#[test]
fn an_outside_client_reaches_a_node_and_its_service_ranges_lead_there() {
    let lab = Lab::builder().node("node1", Layout::Routed, &[]).client("outside", "node1").build().unwrap();
    let (node, client) = (lab.node("node1"), lab.client("outside"));
    let _server = EchoServer::start_at(&node.netns, "node1", &node.both_at(30080)).unwrap();
    for target in node.both_at(30080) {
        for reply in talks_to(&client.netns, target, "node1") {
            assert!(client.has(reply.seen_source.ip()), "{reply:?}");
        }
    }
    for (frontend, gateway) in [("10.96.0.10", node.v4.to_string()), ("fd00:10:96::10", node.v6.to_string())]
    {
        let route = client.netns.command("ip").args(["route", "get", frontend]).output().unwrap();
        let route = String::from_utf8(route.stdout).unwrap();
        assert!(route.contains(&format!("via {gateway} ")), "{route}");
    }
}

#[test]
fn failures_are_told_apart() {
    let lab = Lab::builder().node("node1", Layout::Routed, &["client", "web-1"]).build().unwrap();
    let (client, web) = (&lab.pod("client").netns, lab.pod("web-1"));
    for target in web.both_at(9) {
        assert_eq!(tcp_once(client, target, SECOND).unwrap_err().kind, FailureKind::Refused);
        assert_eq!(udp_once(client, target, SECOND).unwrap_err().kind, FailureKind::Refused);
    }
    // A frontend that nobody programmed leaves the node by its default route and is lost.
    for target in ["10.96.0.10:80", "[fd00:10:96::10]:80"].map(|text| text.parse().unwrap()) {
        let short = Duration::from_millis(200);
        assert_eq!(tcp_once(client, target, short).unwrap_err().kind, FailureKind::Timeout);
        assert_eq!(udp_once(client, target, short).unwrap_err().kind, FailureKind::Timeout);
    }
    lab.node("node1").netns.ip(&["route add unreachable 10.97.0.0/16"]).unwrap();
    let unreachable = tcp_once(client, "10.97.0.1:80".parse().unwrap(), SECOND).unwrap_err();
    assert_eq!(unreachable.kind, FailureKind::Unreachable, "{unreachable}");
}

#[test]
fn a_client_port_can_be_chosen_and_used_again() {
    let lab = Lab::builder().node("node1", Layout::Bridged, &["client", "web-1"]).build().unwrap();
    let (client, web) = (&lab.pod("client").netns, lab.pod("web-1"));
    let _server = EchoServer::start(&web.netns, "web-1", &[8080, 8081]).unwrap();
    let [v4, v6] = web.both_at(8080);
    for dial in [Dial::to(v4), Dial::to(v6)].map(|dial| dial.from_port(40_000).reset_on_close()) {
        for _ in 0..3 {
            assert_eq!(dial.tcp(client).unwrap().seen_source.port(), 40_000);
            assert_eq!(dial.udp(client).unwrap().seen_source.port(), 40_000);
        }
    }
    // While one connection holds the port, another target can still be dialled from it.
    let (_held, _) = Dial::to(v4).from_port(41_000).tcp_stream(client).unwrap();
    assert_eq!(Dial::to(web.v4_at(8081)).from_port(41_000).tcp(client).unwrap().seen_source.port(), 41_000);
}

#[test]
fn load_on_a_pod_address_has_no_failures() {
    let lab = Lab::builder().node("node1", Layout::Routed, &["client", "web-1"]).build().unwrap();
    let (client, web) = (&lab.pod("client").netns, lab.pod("web-1"));
    let _server = EchoServer::start(&web.netns, "web-1", &[8080]).unwrap();
    for (target, protocol) in
        web.both_at(8080).into_iter().flat_map(|to| [(to, Protocol::Tcp), (to, Protocol::Udp)])
    {
        let load =
            Load::builder(client, protocol, target).workers(8).count(500).conversations(3).start().unwrap();
        let totals = load.finish(20 * SECOND).unwrap();
        assert_eq!(totals.failed(), 0, "{protocol:?} {target}: {}", totals.describe_failures());
        assert_eq!((totals.attempts, totals.succeeded, totals.by_backend["web-1"]), (500, 500, 500));
        assert_eq!(totals.total_us.len(), 500);
        assert!((totals.share("web-1") - 1.0).abs() < f64::EPSILON);
        assert_eq!((totals.conversations.opened, totals.conversations.open), (3, 0));
    }
}

#[test]
fn conversations_go_on_until_stopped_and_break_when_the_server_dies() {
    let lab = Lab::builder().node("node1", Layout::Routed, &["client", "web-1"]).build().unwrap();
    let (client, web) = (&lab.pod("client").netns, lab.pod("web-1"));
    let talk = || {
        let load = Load::builder(client, Protocol::Tcp, web.v6_at(8080)).workers(0).conversations(2);
        let load = load.start().unwrap();
        poll::until("ten messages", 5 * SECOND, || {
            let seen = load.snapshot().conversations;
            if seen.messages >= 10 { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .unwrap();
        load
    };
    let server = EchoServer::start(&web.netns, "web-1", &[8080]).unwrap();
    let totals = talk().stop();
    assert_eq!(totals.failed(), 0, "{}", totals.describe_failures());
    assert_eq!(totals.conversations.by_backend["web-1"], 2);

    let load = talk();
    drop(server);
    poll::until("both to break", 5 * SECOND, || {
        let seen = load.snapshot();
        if seen.failed() == 2 && seen.conversations.open == 0 {
            Ok(())
        } else {
            Err(seen.describe_failures())
        }
    })
    .unwrap();
}

#[test]
fn a_load_under_way_sees_the_server_come_and_go() {
    let lab = Lab::builder().node("node1", Layout::Bridged, &["client", "web-1"]).build().unwrap();
    let (client, web) = (&lab.pod("client").netns, lab.pod("web-1"));
    let load = Load::builder(client, Protocol::Tcp, web.v4_at(8080)).workers(2).start().unwrap();
    let refused =
        |load: &Load| load.snapshot().failures.get(&FailureKind::Refused).map_or(0, |seen| seen.count);
    poll::until("a refusal", 5 * SECOND, || if refused(&load) > 0 { Ok(()) } else { Err("none".into()) })
        .unwrap();
    let _server = EchoServer::start(&web.netns, "web-1", &[8080]).unwrap();
    poll::until("a success", 5 * SECOND, || match load.snapshot().succeeded {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    })
    .unwrap();
    let totals = load.stop();
    assert_eq!(
        totals.attempts,
        totals.succeeded + totals.failures.values().map(|seen| seen.count).sum::<u64>()
    );
}

#[test]
fn a_capture_sees_the_frames_of_its_interface_only() {
    let lab = Lab::builder().node("node1", Layout::Routed, &["client", "web-1"]).build().unwrap();
    let (client, web) = (lab.pod("client"), lab.pod("web-1"));
    client.set_tx_checksum_offload(false).unwrap();
    let _server = EchoServer::start(&web.netns, "web-1", &[8080]).unwrap();
    let udp = |packet: &SlicedPacket<'_>| matches!(packet.transport, Some(TransportSlice::Udp(_)));
    let capture = Capture::start(&lab.node("node1").netns, &client.host_interface, 100, udp).unwrap();
    udp_once(&client.netns, web.v4_at(8080), SECOND).unwrap();
    // The node's own packets to the server cross another interface of the same namespace.
    udp_once(&lab.node("node1").netns, web.v4_at(8080), SECOND).unwrap();
    let frames = capture.stop();
    assert_eq!(frames.len(), 2, "a question and an answer");

    let question = SlicedPacket::from_ethernet(&frames[0]).unwrap();
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) =
        (&question.net, &question.transport)
    else {
        panic!("not UDP over IPv4: {question:?}")
    };
    assert_eq!(ip.header().source_addr(), client.v4);
    assert_eq!(udp.destination_port(), 8080);
    let right = udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap();
    assert_eq!(udp.checksum(), right, "without offload the sender finishes the checksum");
}

#[test]
fn pods_come_and_go_while_the_lab_is_up() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let mut lab = Lab::builder().node("node1", layout, &["client"]).build().unwrap();
        let client = lab.pod("client").netns.clone();
        let web = lab.add_pod("node1", "web-9").unwrap();
        assert_eq!(web.v4.to_string(), "10.244.1.3");
        let server = EchoServer::start(&web.netns, "web-9", &[8080]).unwrap();
        for target in web.both_at(8080) {
            talks_to(&client, target, "web-9");
        }
        lab.remove_pod("web-9").unwrap();
        drop(server);
        let gone = tcp_once(&client, web.v4_at(8080), Duration::from_millis(200)).unwrap_err();
        assert!(matches!(gone.kind, FailureKind::Timeout | FailureKind::Unreachable), "{gone}");
        let links = lab.node("node1").netns.run(|| fs::read_dir("/proc/sys/net/ipv4/conf").unwrap().count());
        assert!(links >= 4, "all, default, lo, eth0 and more are left, not {links}");
        let host_side = format!("/proc/sys/net/ipv4/conf/{}", web.host_interface);
        assert!(!lab.node("node1").netns.run(|| Path::new(&host_side).exists()));
    }
}

#[test]
fn dropping_a_lab_removes_its_namespaces_processes_and_pins() {
    let lab = Lab::builder().node("node1", Layout::Bridged, &["web-1"]).build().unwrap();
    let name = lab.name().to_owned();
    let paths = [lab.node("node1").netns.path(), lab.pod("web-1").netns.path(), lab.fabric().path()];
    assert!(paths.iter().all(|path| path.exists()));
    let pins = lab.node("node1").pin_folder.clone();
    fs::create_dir_all(pins.join("v1")).unwrap();
    let mut process = lab.pod("web-1").netns.command("sleep").arg("1000").spawn().unwrap();
    poll::until("the process to enter its namespace", SECOND, || {
        let of_process = fs::read_link(format!("/proc/{}/ns/net", process.id())).unwrap();
        let of_pod = lab.pod("web-1").netns.run(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
        if of_process == of_pod { Ok(()) } else { Err(format!("{of_process:?}")) }
    })
    .unwrap();
    drop(lab);
    assert!(!process.wait().unwrap().success(), "killed");
    assert!(!paths.iter().any(|path| path.exists()));
    assert!(!pins.exists());
    assert!(!Path::new(PIN_ROOT).join(name).exists());
}

#[test]
fn a_lab_that_fails_to_build_leaves_nothing_and_says_why() {
    let error = Lab::builder().node("node1", Layout::Routed, &["much-too-long"]).build().unwrap_err();
    assert!(format!("{error:#}").contains("much-too-long"), "{error:#}");
    let error = Lab::builder().node("a", Layout::Routed, &["a"]).build().unwrap_err();
    assert!(format!("{error:#}").contains("used twice"), "{error:#}");
    let error = Lab::builder().node("a b", Layout::Routed, &[]).build().unwrap_err();
    assert!(format!("{error:#}").contains("letters, digits and dashes"), "{error:#}");
    // No file name may be so long: the fabric exists by then, and must go again.
    let long = "n".repeat(300);
    let error = format!("{:#}", Lab::builder().node(&long, Layout::Routed, &[]).build().unwrap_err());
    let lab = error.strip_prefix("build lab ").and_then(|rest| rest.split_once(':')).unwrap().0;
    assert!(error.contains("Invalid netns name"), "{error}");
    assert!(!Path::new("/run/netns").join(format!("{lab}-fabric")).exists());
}

#[test]
fn leftovers_of_a_dead_process_are_removed_by_the_next_lab() {
    let other = Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap();
    let mut dead = Command::new("true").spawn().unwrap();
    let pid = dead.id();
    dead.wait().unwrap();
    // Else any lab that is built meanwhile, by another test, removes them before they are complete.
    let lock = fs::File::create(LOCK_FILE).unwrap();
    lock.lock().unwrap();
    let left = format!("sb{pid}-0-web-1");
    assert!(Command::new("ip").args(["netns", "add", &left]).status().unwrap().success());
    let orphan_netns = Netns::open(&left).unwrap();
    let mut orphan = orphan_netns.command("sleep").arg("1000").spawn().unwrap();
    let inode = orphan_netns.inode().unwrap();
    poll::until("the orphan to enter its namespace", SECOND, || {
        let of_process = fs::read_link(format!("/proc/{}/ns/net", orphan.id())).unwrap();
        if of_process.to_string_lossy().contains(&inode.to_string()) {
            Ok(())
        } else {
            Err(format!("{of_process:?}"))
        }
    })
    .unwrap();
    let pins = Path::new(PIN_ROOT).join(format!("sb{pid}-0-node1"));
    fs::create_dir_all(&pins).unwrap();
    drop(lock);
    let _lab = Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap();
    assert!(!orphan_netns.path().exists());
    assert!(!pins.exists());
    assert!(!orphan.wait().unwrap().success());
    assert!(other.node("node1").netns.path().exists(), "a living process's lab stays");
}

#[test]
fn a_node_with_four_pods_is_built_quickly() {
    let start = Instant::now();
    let lab =
        Lab::builder().node("node1", Layout::Routed, &["client", "web-1", "web-2", "web-3"]).build().unwrap();
    let built = start.elapsed();
    drop(lab);
    println!("built in {built:?}, built and dropped in {:?}", start.elapsed());
    // Far above what it takes (well under 300 ms), so that a busy machine does not fail it.
    assert!(built < 5 * SECOND, "{built:?}");
}

#[test]
fn rules_of_a_peer_that_take_too_long_are_given_up_and_others_are_loaded() {
    let lab = Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap();
    let netns = &lab.node("node1").netns;
    let node = peers::Node { pods: "10.128.0.0/9", address: [192, 0, 2, 1].into() };
    let services: Vec<peers::Service> = (0..20_000u32)
        .map(|number| peers::Service {
            name: format!("default/s{number}"),
            frontend: (Ipv4Addr::from_bits(0x0a60_0000 + number), 80).into(),
            udp: false,
            node_port: None,
            endpoints: vec![(Ipv4Addr::from_bits(0x0a80_0000 + number), 8080).into()],
        })
        .collect();
    let peer = peers::Peer::Nftables;
    let load = |services: &[peers::Service], limit| {
        peer.load_within(netns, &peer.whole(services, node), false, Some(limit)).unwrap()
    };
    // Which take minutes.
    assert!(!load(&services, SECOND));
    assert!(load(&services[..10], 60 * SECOND));
}

#[test]
fn a_program_that_is_interrupted_takes_its_labs_with_it() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_lb-demo"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let prefix = format!("sb{}-", demo.id());
    let own = |folder: &str| -> Vec<String> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with(&prefix)).collect()
    };
    let begun = poll::until("the demo's first namespace", 60 * SECOND, || {
        if own("/run/netns").is_empty() { Err("none yet".to_owned()) } else { Ok(()) }
    });
    kill(Pid::from_raw(demo.id().cast_signed()), Signal::SIGINT).unwrap();
    let ended = demo.wait().unwrap();
    begun.unwrap();
    assert_eq!(ended.code(), Some(130));
    assert_eq!((own("/run/netns"), own(PIN_ROOT)), (Vec::new(), Vec::new()));
}
