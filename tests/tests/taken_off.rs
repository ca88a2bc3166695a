//! Tier 2: what somebody else takes off the node or deletes is put back within seconds.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_tests::http;
use lb_tests::lab::Layout;
use lb_tests::poll;
use lb_tests::scene::{LIMIT, SOON, Scene, TCP_PORT, vips};
use lb_tests::traffic::{Dial, Load, Protocol, tcp_once};

const TRY: Duration = Duration::from_millis(300);

/// What is pinned in a folder of the agent's: `links` or `maps`.
fn pins(scene: &Scene, folder: &str) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    entries(&scene.node().pin_folder).iter().flat_map(|version| entries(&version.join(folder))).collect()
}

/// Both families' frontends answer a pod, and the node itself.
fn serves(scene: &Scene) -> Result<(), String> {
    for netns in [&scene.client().netns, &scene.node().netns] {
        for vip in vips(TCP_PORT) {
            tcp_once(netns, vip, TRY).map_err(|failure| format!("{vip}: {failure:?}"))?;
        }
    }
    Ok(())
}

fn serves_not(scene: &Scene) {
    let dial = || tcp_once(&scene.client().netns, vips(TCP_PORT)[0], TRY);
    poll::until("no service", SOON, || dial().map_or(Ok(()), |reply| Err(format!("{reply:?}")))).unwrap();
}

/// How much the agent says that it has put back.
fn put_back(scene: &Scene) -> f64 {
    let metrics = "127.0.0.1:10249".parse().unwrap();
    let answer = http::get(&scene.node().netns, metrics, "/metrics", LIMIT).unwrap();
    let line = answer.body.lines().find_map(|line| line.strip_prefix("switchboard_put_back_total "));
    line.unwrap_or_else(|| panic!("no such metric: {}", answer.body)).parse().unwrap()
}

fn succeeded(command: &mut Command) -> bool {
    command.output().unwrap().status.success()
}

fn told(scene: &mut Scene) -> bool {
    scene.agent.lines().unwrap().iter().any(|line| line.level() == "WARN" && line.text.contains("somebody"))
}

#[test]
fn filters_that_somebody_takes_off_are_back_within_seconds() {
    let mut scene = Scene::start(Layout::Routed, &["--attach", "clsact"]).unwrap();
    assert_eq!(put_back(&scene), 0.0);
    for link in ["veth-client", "veth-a", "veth-b", "veth-c"] {
        let mut tc = scene.node().netns.command("tc");
        assert!(succeeded(tc.args(["qdisc", "del", "dev", link, "clsact"])), "{link}");
    }
    serves_not(&scene);
    poll::until("service again", SOON, || serves(&scene)).unwrap();
    assert_eq!(put_back(&scene), 4.0);
    assert!(told(&mut scene));
}

#[test]
fn programs_that_somebody_detaches_hang_again_within_seconds() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let links = pins(&scene, "links");
    assert!(!links.is_empty());
    for link in &links {
        assert!(succeeded(Command::new("bpftool").args(["link", "detach", "pinned"]).arg(link)), "{link:?}");
    }
    serves_not(&scene);
    poll::until("service again", SOON, || serves(&scene)).unwrap();
    // Four pods and the uplink, and the socket hooks.
    assert_eq!(put_back(&scene), 6.0);
    assert!(told(&mut scene));
}

#[test]
fn pins_that_somebody_deletes_are_made_again_and_no_flow_is_lost() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let load = Load::builder(&scene.client().netns, Protocol::Tcp, vips(TCP_PORT)[0])
        .workers(1)
        .pause(Duration::from_millis(5))
        .conversations(5)
        .limit(LIMIT)
        .start()
        .unwrap();
    let (held, _) = Dial::to(vips(TCP_PORT)[1]).within(LIMIT).tcp_stream(&scene.client().netns).unwrap();
    let maps = pins(&scene, "maps");
    let folder = maps[0].parent().unwrap().to_owned();
    std::fs::remove_dir_all(&folder).unwrap();
    poll::until("the pins", SOON, || {
        let now = pins(&scene, "maps").len();
        if now == maps.len() { Ok(()) } else { Err(format!("{now} of {}", maps.len())) }
    })
    .unwrap();
    let totals = load.stop();
    assert_eq!(totals.failed(), 0, "{}", totals.describe_failures());
    assert!(totals.conversations.broken.is_empty(), "{:?}", totals.conversations.broken);
    let flows = scene.tool().get("flows").unwrap();
    assert!(flows.to_string().contains(&held.local_addr().unwrap().to_string()), "{flows}");
    // With the links, all of it.
    std::fs::remove_dir_all(&scene.node().pin_folder).unwrap();
    poll::until("service again", SOON, || serves(&scene)).unwrap();
    assert_eq!(pins(&scene, "maps").len(), maps.len());
    let flows = scene.tool().get("flows").unwrap();
    assert!(flows.to_string().contains(&held.local_addr().unwrap().to_string()), "{flows}");
    assert!(told(&mut scene));
    // What changes from now on is in force, and for whoever starts next.
    scene.set_backends(&["a"]).unwrap();
    let refused = scene.tool().run_on_pins(&["cleanup"]).unwrap();
    assert_eq!(refused.code, Some(1), "the folder's lock is held: {}", refused.stdout);
    scene.agent.restart().unwrap();
    assert_eq!(scene.agent.wait_in_sync(SOON).unwrap().rows_written, 0);
}
