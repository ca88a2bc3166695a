//! Tier 2: the agent starts, is killed, starts again, meets another, goes; the datapath works on (contract C49).

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lb_common::abi::{ABI_VERSION, FlowEntry, FlowKey};
use lb_common::address::V4;
use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::lab::Layout;
use lb_tests::manifests::Protocol as Port;
use lb_tests::poll;
use lb_tests::scene::{BACKENDS, LIMIT, POD_PORT, SOON, Scene, TCP_PORT, UDP_PORT, vips};
use lb_tests::traffic::{EchoServer, FailureKind, Load, Protocol, Totals, tcp_once};
use lb_userspace::datapath::table::Table;

/// For a start that verifies all programs before it replaces the first.
const PATIENT: Duration = Duration::from_secs(60);

fn loads(scene: &Scene) -> Vec<Load> {
    let netns = &scene.client().netns;
    let [v4, v6] = vips(TCP_PORT);
    let [dns4, dns6] = vips(UDP_PORT);
    let pause = Duration::from_millis(2);
    [(Protocol::Tcp, v4), (Protocol::Tcp, v6), (Protocol::Udp, dns4), (Protocol::Udp, dns6)]
        .map(|(protocol, vip)| {
            Load::builder(netns, protocol, vip)
                .workers(1)
                .pause(pause)
                .conversations(5)
                .limit(LIMIT)
                .start()
                .unwrap()
        })
        .into()
}

fn more_succeed(loads: &[Load]) {
    let before: Vec<_> = loads.iter().map(Load::snapshot).collect();
    poll::until("more successes on every load", SOON, || {
        let now: Vec<_> = loads.iter().map(Load::snapshot).collect();
        let all = now.iter().zip(&before).all(|(now, before)| {
            now.succeeded > before.succeeded + 50
                && now.conversations.messages > before.conversations.messages + 50
        });
        if all {
            Ok(())
        } else {
            Err(format!("{:?}", now.iter().map(|load| load.succeeded).collect::<Vec<_>>()))
        }
    })
    .unwrap();
}

fn nothing_lost(loads: Vec<Load>) {
    for totals in lasting_ones_lost_nothing(loads) {
        assert_eq!(totals.failed(), 0, "{}", totals.describe_failures());
    }
}

/// Of what is opened in the very moment in which programs change their maps, something may be lost.
fn lasting_ones_lost_nothing(loads: Vec<Load>) -> Vec<Totals> {
    let all: Vec<Totals> = loads.into_iter().map(Load::stop).collect();
    for totals in &all {
        assert!(totals.conversations.broken.is_empty(), "{:?}", totals.conversations.broken);
    }
    all
}

#[test]
fn c49_killed_under_traffic_loses_nothing_and_starts_again_without_a_write() {
    for way in ["auto", "clsact"] {
        let mut scene = Scene::start(Layout::Routed, &["--attach", way]).unwrap();
        let loads = loads(&scene);
        more_succeed(&loads);
        for _ in 0..3 {
            scene.agent.kill9().unwrap();
            more_succeed(&loads);
            scene.agent.restart().unwrap();
            let report = scene.agent.wait_in_sync(SOON).unwrap();
            assert_eq!(report.rows_written, 0, "{way}: an unchanged restart writes nothing");
            more_succeed(&loads);
        }
        nothing_lost(loads);
        assert_eq!(scene.agent.terminate().unwrap().code(), Some(0));
        tcp_once(&scene.client().netns, vips(TCP_PORT)[0], LIMIT).unwrap();
    }
}

#[test]
fn what_changed_while_the_agent_was_away_is_in_force_once_it_is_back() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.agent.kill9().unwrap();
    let only = scene.lab.pod("b").clone();
    let ports = [("http", POD_PORT, Port::Tcp), ("dns", POD_PORT, Port::Udp)];
    scene.manifests.pods("web", &[&only], &ports);
    scene.manifests.service("new", |service| {
        service.cluster_ips(&["10.96.0.99"]).port("http", 80, Port::Tcp);
    });
    scene.manifests.pods("new", &[&only], &ports);
    scene.manifests.write().unwrap();
    scene.agent.restart().unwrap();
    scene.agent.wait_in_sync(SOON).unwrap();
    let netns = &scene.client().netns;
    for vip in vips(TCP_PORT).into_iter().chain(["10.96.0.99:80".parse().unwrap()]) {
        for _ in 0..10 {
            assert_eq!(tcp_once(netns, vip, LIMIT).unwrap().backend, "b");
        }
    }
}

#[test]
fn a_service_taken_away_is_gone_and_leaves_the_others_rows_alone() {
    let mut scene = Scene::start(Layout::Bridged, &[]).unwrap();
    let before = scene.tool().get("backends").unwrap();
    let pod = scene.lab.pod("a").clone();
    scene.manifests.service("other", |service| {
        service.cluster_ips(&["10.96.0.50"]).port("http", 80, Port::Tcp);
    });
    scene.manifests.pods("other", &[&pod], &[("http", POD_PORT, Port::Tcp)]);
    scene.manifests.write().unwrap();
    let other = "10.96.0.50:80".parse().unwrap();
    let netns = scene.client().netns.clone();
    poll::until("the new Service", SOON, || {
        tcp_once(&netns, other, LIMIT).map_err(|failure| format!("{failure:?}"))
    })
    .unwrap();
    scene.manifests.remove_service("other").write().unwrap();
    poll::until("the Service gone", SOON, || match tcp_once(&netns, other, Duration::from_millis(300)) {
        Err(failure) if failure.kind == FailureKind::Timeout || failure.kind == FailureKind::Unreachable => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .unwrap();
    poll::until("the rows as they were", Duration::from_secs(15), || {
        let now = scene.tool().get("backends").map_err(|error| error.to_string())?;
        if now == before { Ok(()) } else { Err(format!("{now}")) }
    })
    .unwrap();
}

#[test]
fn one_agent_at_a_time() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    let mut second = Agent::start(scene.node(), AgentConfig::new(scene.manifests.path())).unwrap();
    assert_eq!(second.wait_end(SOON).unwrap().code(), Some(1));
    let said = second.lines().unwrap().iter().map(|line| line.text.clone()).collect::<Vec<_>>().join("\n");
    assert!(said.contains("another switchboard agent runs"), "{said}");
    tcp_once(&scene.client().netns, vips(TCP_PORT)[0], LIMIT).unwrap();
}

/// The agent's pins, whichever version's.
fn versions(scene: &Scene) -> Vec<String> {
    let names = std::fs::read_dir(&scene.node().pin_folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn ours(scene: &Scene) -> PathBuf {
    scene.node().pin_folder.join(format!("v{ABI_VERSION}"))
}

fn nothing_is_set_aside(scene: &Scene) {
    poll::until("the previous maps gone", SOON, || {
        let names = std::fs::read_dir(ours(scene)).map_err(|error| error.to_string())?;
        let mut names = names.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.find(|name| name.starts_with("before-")).map_or(Ok(()), Err)
    })
    .unwrap();
    assert_eq!(versions(scene), [format!("v{ABI_VERSION}")]);
}

fn config(scene: &Scene, args: &[&str]) -> AgentConfig {
    args.iter().fold(AgentConfig::new(scene.manifests.path()), |config, arg| config.arg(*arg))
}

/// Starts an agent that has to give up, while everything goes on; what it said.
fn gives_up(scene: &Scene, args: &[&str]) -> String {
    let mut other = Agent::start(scene.node(), config(scene, args)).unwrap();
    assert_eq!(other.wait_end(SOON).unwrap().code(), Some(1));
    let said = other.lines().unwrap().iter().map(|line| line.text.clone()).collect::<Vec<_>>().join("\n");
    tcp_once(&scene.client().netns, vips(TCP_PORT)[0], LIMIT).unwrap();
    said
}

#[test]
fn c49_tables_of_other_sizes_lose_no_connection() {
    for way in ["auto", "clsact"] {
        let mut scene = Scene::start(Layout::Routed, &["--attach", way]).unwrap();
        let loads = loads(&scene);
        more_succeed(&loads);
        for (flows, backends) in [("300000", "262144"), ("200000", "1000")] {
            assert_eq!(scene.agent.terminate().unwrap().code(), Some(0));
            let sizes = ["--max-flows", flows, "--max-half-open-flows", "4096", "--max-backends", backends];
            scene.agent.restart_with(config(&scene, &[&["--attach", way][..], &sizes].concat())).unwrap();
            scene.agent.wait_in_sync(PATIENT).unwrap();
            more_succeed(&loads);
            nothing_is_set_aside(&scene);
            let settled: Table<FlowKey<V4>, FlowEntry<V4>> =
                Table::open(&ours(&scene).join("maps/FLOWS_V4")).unwrap();
            assert_eq!(settled.capacity().to_string(), flows, "{way}");
        }
        lasting_ones_lost_nothing(loads);
    }
}

#[test]
fn c49_another_versions_maps_are_taken_over_and_no_connection_is_lost() {
    for way in ["auto", "clsact"] {
        let mut scene = Scene::start(Layout::Routed, &["--attach", way]).unwrap();
        let loads = loads(&scene);
        more_succeed(&loads);
        for changed in ["FRONTENDS_V4", "CONFIG", "VERDICTS"] {
            assert_eq!(scene.agent.terminate().unwrap().code(), Some(0));
            let theirs = scene.node().pin_folder.join("v999");
            std::fs::rename(ours(&scene), &theirs).unwrap();
            let layouts = theirs.join("layouts");
            std::fs::rename(layouts.join(format!("{changed}-1")), layouts.join(format!("{changed}-999")))
                .unwrap();
            scene.agent.restart_with(config(&scene, &["--attach", way])).unwrap();
            scene.agent.wait_in_sync(PATIENT).unwrap();
            more_succeed(&loads);
            nothing_is_set_aside(&scene);
        }
        lasting_ones_lost_nothing(loads);
    }
}

#[test]
fn c49_what_would_lose_connections_is_refused_and_all_goes_on() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let loads = loads(&scene);
    more_succeed(&loads);
    assert_eq!(scene.agent.terminate().unwrap().code(), Some(0));
    let said = gives_up(&scene, &["--max-flows", "64"]);
    assert!(said.contains("FLOWS_V") && said.contains("no room"), "{said}");
    let theirs = scene.node().pin_folder.join("v999");
    std::fs::rename(ours(&scene), &theirs).unwrap();
    std::fs::rename(theirs.join("layouts/FLOWS_V4-1"), theirs.join("layouts/FLOWS_V4-2")).unwrap();
    let said = gives_up(&scene, &[]);
    assert!(said.contains("FLOWS_V4") && said.contains("cleanup"), "{said}");
    let asked = scene.tool().run_on_pins(&["get", "flows"]).unwrap();
    assert!(asked.code == Some(1) && asked.stderr.contains("another version"), "{}", asked.stderr);
    more_succeed(&loads);
    nothing_lost(loads);
    let removed = scene.tool().run_on_pins(&["cleanup"]).unwrap();
    assert_eq!(removed.code, Some(0), "{}", removed.stderr);
    assert!(!scene.node().pin_folder.exists(), "of every version");
}

#[test]
fn cleanup_removes_all_and_says_so() {
    for way in ["auto", "clsact"] {
        let mut scene = Scene::start(Layout::Routed, &["--attach", way]).unwrap();
        let refused = scene.tool().run_on_pins(&["cleanup"]).unwrap();
        assert_eq!(refused.code, Some(1), "while an agent runs");
        scene.agent.terminate().unwrap();
        // As one leaves it that is killed while it opens a program anew.
        let version = scene.node().pin_folder.join(format!("v{ABI_VERSION}"));
        let mut pin = Command::new("bpftool");
        pin.args(["map", "pin", "pinned"]).args([version.join("maps/SLOTS"), version.join("passing")]);
        assert!(pin.status().unwrap().success());
        let removed = scene.tool().run_on_pins(&["cleanup"]).unwrap();
        assert_eq!(removed.code, Some(0), "{}", removed.stderr);
        assert!(removed.stdout.contains("removed"), "{}", removed.stdout);
        assert!(!scene.node().pin_folder.exists(), "the pin folder is gone");
        // The kernel lets go of a link a moment after its last name is gone.
        let dial = || tcp_once(&scene.client().netns, vips(TCP_PORT)[0], Duration::from_millis(300));
        let failure = poll::until("no translation", SOON, || match dial() {
            Ok(reply) => Err(format!("{reply:?}")),
            Err(failure) => Ok(failure),
        })
        .unwrap();
        assert_ne!(failure.kind, FailureKind::Refused, "no program answers any more: {failure:?}");
        let again = scene.tool().run_on_pins(&["cleanup"]).unwrap();
        assert_eq!(again.code, Some(0));
        scene.agent.restart().unwrap();
        scene.agent.wait_in_sync(SOON).unwrap();
        tcp_once(&scene.client().netns, vips(TCP_PORT)[0], LIMIT).unwrap();
    }
}

#[test]
fn pods_that_come_are_served_and_those_that_go_are_let_go() {
    for layout in [Layout::Routed, Layout::Bridged] {
        let mut scene = Scene::start(layout, &[]).unwrap();
        let late = scene.lab.add_pod("node1", "late").unwrap();
        poll::until("the new pod's Services", SOON, || {
            tcp_once(&late.netns, vips(TCP_PORT)[0], Duration::from_millis(300))
                .map_err(|failure| format!("{failure:?}"))
        })
        .unwrap();
        let _server = EchoServer::start(&late.netns, "late", &[POD_PORT]).unwrap();
        scene.set_backends(&["late"]).unwrap();
        for vip in vips(TCP_PORT) {
            assert_eq!(tcp_once(&scene.client().netns, vip, LIMIT).unwrap().backend, "late");
        }
        scene.set_backends(&BACKENDS).unwrap();
        scene.lab.remove_pod("late").unwrap();
        let again = scene.lab.add_pod("node1", "again").unwrap();
        poll::until("the next pod's Services", SOON, || {
            tcp_once(&again.netns, vips(TCP_PORT)[1], Duration::from_millis(300))
                .map_err(|failure| format!("{failure:?}"))
        })
        .unwrap();
    }
}

#[test]
fn the_tool_works_while_the_agent_is_dead() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.agent.kill9().unwrap();
    let netns = scene.client().netns.clone();
    let _held = lb_tests::traffic::Dial::to(vips(TCP_PORT)[0]).within(LIMIT).tcp_stream(&netns).unwrap();
    let tool = scene.tool();
    let services = tool.get("services").unwrap();
    assert_eq!(services.as_array().unwrap().len(), 2, "{services}");
    assert_eq!(services[1]["service"], "default/web:http/TCP");
    assert_eq!(services[1]["serving"], 6);
    assert_eq!(tool.get("backends").unwrap().as_array().unwrap().len(), 12);
    assert_eq!(tool.get("frontends").unwrap().as_array().unwrap().len(), 4);
    let flows = tool.get("flows").unwrap();
    let flow = flows.as_array().unwrap().iter().find(|flow| flow["frontend"] == "10.96.0.10:80").unwrap();
    assert_eq!(flow["state"], "established");
    assert_eq!(flow["service"], "default/web:http/TCP");
    let verdicts = tool.get("verdicts").unwrap();
    let counted = |name: &str| verdicts.as_array().unwrap().iter().any(|row| row["verdict"] == name);
    assert!(counted("forwarded_new") && counted("replied"), "{verdicts}");
    for format in ["table", "yaml"] {
        let output = tool.run_on_pins(&["get", "services", "--output", format]).unwrap();
        assert!(output.stdout.contains("default/web:http/TCP"), "{}", output.stdout);
    }
}
