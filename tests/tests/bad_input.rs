//! Tier 2: whatever is wrong with the input or the machine is said clearly, and the rest goes on.

use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::lab::{Lab, Layout};
use lb_tests::manifests::{Endpoint, Family, Manifests, Protocol as Port};
use lb_tests::poll;
use lb_tests::scene::{LIMIT, POD_PORT, SOON, Scene, TCP_PORT, vips};
use lb_tests::traffic::tcp_once;
use serde_json::json;

fn said(agent: &mut Agent) -> String {
    agent.lines().unwrap().iter().map(|line| line.text.clone()).collect::<Vec<_>>().join("\n")
}

fn still_serves(scene: &Scene) {
    for vip in vips(TCP_PORT) {
        tcp_once(&scene.client().netns, vip, LIMIT).unwrap_or_else(|failure| panic!("{vip}: {failure:?}"));
    }
}

#[test]
fn a_file_that_does_not_parse_is_named_with_its_line_and_the_last_good_state_stays() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.manifests.raw("extra.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: x\n").write().unwrap();
    scene
        .agent
        .wait_for_line("a word on extra.yaml", SOON, |line| {
            line.level() == "WARN" && line.message().contains("extra.yaml:")
        })
        .unwrap();
    still_serves(&scene);
    scene.set_backends(&["b"]).unwrap();
    still_serves(&scene);
}

#[test]
fn a_folder_deleted_while_running_changes_nothing_until_it_is_back() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.manifests.delete_folder().unwrap();
    scene
        .agent
        .wait_for_line("a word on the folder", SOON, |line| ["WARN", "ERROR"].contains(&line.level()))
        .unwrap();
    still_serves(&scene);
    scene.set_backends(&["c"]).unwrap();
    for vip in vips(TCP_PORT) {
        assert_eq!(tcp_once(&scene.client().netns, vip, LIMIT).unwrap().backend, "c");
    }
}

#[test]
fn c6_c22_bad_objects_cost_themselves_alone() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.manifests.service("thief", |service| {
        service.cluster_ips(&["10.96.0.10"]).port("http", TCP_PORT, Port::Tcp);
        service.set("/metadata/creationTimestamp", json!("2026-01-02T00:00:00Z"));
    });
    scene.manifests.endpoints(
        "thief",
        Family::V4,
        &[Endpoint::at("not-an-address"), Endpoint::at("fd00::1"), Endpoint::at("10.244.1.99")],
        &[("http", 0, Port::Tcp)],
    );
    scene.manifests.object(
        "unknown.json",
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}),
    );
    scene.manifests.write().unwrap();
    scene
        .agent
        .wait_for_line("a word on the claim", SOON, |line| line.message().contains("10.96.0.10"))
        .unwrap();
    still_serves(&scene);
    let checked = scene.tool().run(&["check", &scene.manifests.path().to_string_lossy()]).unwrap();
    assert_eq!(checked.code, Some(3), "{}", checked.stdout);
    for word in ["not-an-address", "fd00::1", "Deployment", "10.96.0.10"] {
        assert!(checked.stdout.contains(word), "{word} in {}", checked.stdout);
    }
    assert!(scene.agent.is_running());
}

#[test]
fn three_hundred_endpoints_and_an_empty_folder() {
    let lab = Lab::builder().node("node1", Layout::Routed, &["client"]).build().unwrap();
    let mut manifests = Manifests::new().unwrap();
    manifests.write().unwrap();
    let mut agent = Agent::start(lab.node("node1"), AgentConfig::new(manifests.path())).unwrap();
    agent.wait_in_sync(SOON).unwrap();
    manifests.service("many", |service| {
        service.cluster_ips(&["10.96.0.10"]).port("http", 80, Port::Tcp);
    });
    let endpoints: Vec<Endpoint> =
        (0..300).map(|n| Endpoint::at(&format!("10.244.{}.{}", 100 + n / 200, 1 + n % 200))).collect();
    manifests.endpoints("many", Family::V4, &endpoints, &[("http", POD_PORT, Port::Tcp)]);
    manifests.write().unwrap();
    let tool = lb_tests::agent::Tool::new(lab.node("node1"));
    poll::until("three hundred backends", SOON, || {
        let rows = tool.get("backends").map_err(|error| error.to_string())?;
        let count = rows.as_array().map_or(0, Vec::len);
        if count == 300 { Ok(()) } else { Err(format!("{count}")) }
    })
    .unwrap();
}

#[test]
fn what_the_machine_lacks_is_said_in_a_line() {
    let lab = Lab::builder().node("node1", Layout::Routed, &["client"]).build().unwrap();
    let node = lab.node("node1");
    let mut manifests = Manifests::new().unwrap();
    manifests.write().unwrap();

    let missing = AgentConfig::new(manifests.path().join("nowhere"));
    let mut agent = Agent::start(node, missing).unwrap();
    assert_eq!(agent.wait_end(SOON).unwrap().code(), Some(1));
    assert!(said(&mut agent).contains("nowhere"), "{}", said(&mut agent));

    let folder = manifests.path().to_string_lossy().into_owned();
    let tool = lb_tests::agent::Tool::new(node);
    let no_bpffs = tool.run(&["run", "--path", &folder, "--node", "n", "--pin-dir", &folder]).unwrap();
    assert_eq!(no_bpffs.code, Some(1));
    assert!(no_bpffs.stderr.contains("BPF filesystem"), "{}", no_bpffs.stderr);
    let no_pins = tool.run_on_pins(&["get", "services"]).unwrap();
    assert_eq!(no_pins.code, Some(1));
    assert!(no_pins.stderr.contains("switchboard run"), "{}", no_pins.stderr);

    let pins = node.pin_folder.to_string_lossy().into_owned();
    let mut unprivileged = node.netns.command("setpriv");
    unprivileged.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(lb_tests::agent::binary());
    unprivileged.args(["run", "--path", &folder, "--node", "n", "--pin-dir", &pins]);
    let output = unprivileged.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains("CAP_BPF") || words.contains("root"), "{words}");
    assert!(words.lines().filter(|line| line.starts_with("switchboard:")).count() == 1, "{words}");
}

#[test]
fn usage_errors_end_with_2_and_completions_need_nothing() {
    let lab = Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap();
    let tool = lb_tests::agent::Tool::new(lab.node("node1"));
    assert_eq!(tool.run(&["run", "--nonsense"]).unwrap().code, Some(2));
    assert_eq!(tool.run(&["run", "--path", "x", "--masquerade-ports", "9-1"]).unwrap().code, Some(2));
    for shell in ["bash", "zsh", "fish"] {
        let output = tool.run(&["complete", shell]).unwrap();
        assert_eq!(output.code, Some(0));
        assert!(output.stdout.contains("switchboard"), "{shell}");
    }
}
