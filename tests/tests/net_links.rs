//! What the agent knows of a host's links: roles in every layout of the lab, many links, word that the
//! kernel dropped.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::lab::{Lab, Layout, Netns, Node};
use lb_tests::manifests::Manifests;
use lb_userspace::net::links::{Link, Watcher};
use lb_userspace::net::role::{Role, Roles};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const MANY: usize = 500;
/// Of links that are deleted at once.
const GROUP: u32 = 500;

/// Runs `work` with a watcher of the namespace's links.
fn watching<T: Send>(netns: &Netns, work: impl AsyncFnOnce(Watcher) -> T + Send) -> T {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(Watcher::new().unwrap()).await })
    })
}

fn roles(node: &Node) -> BTreeMap<String, Option<Role>> {
    let links = watching(&node.netns, async |watcher| watcher.snapshot().await.unwrap());
    let roles = Roles::new(None, &[IpAddr::V4(node.v4), IpAddr::V6(node.v6)]).unwrap();
    links.iter().map(|link| (link.name.clone(), roles.of(link))).collect()
}

/// Lines of `ip` that make so many pods' links on a node, with the pods' ends in `others`.
fn add_many(count: usize, others: &Netns) -> Vec<String> {
    let pair = |n| {
        let peer = format!("many{n} group {GROUP} type veth peer name pod{n} netns {}", others.name());
        [format!("link add {peer}"), format!("link set many{n} up")]
    };
    (0..count).flat_map(pair).collect()
}

#[test]
fn every_link_of_a_node_has_its_role_in_every_layout() {
    for layout in [Layout::Routed, Layout::Bridged, Layout::Overlay] {
        let lab = Lab::builder().node("node1", layout, &["a"]).node("node2", layout, &[]).build().unwrap();
        let node = lab.node("node1");
        // A second way off the node, and a pair of veth ends that are both here.
        node.netns.ip(&["link add eth1 type veth peer name eth1-peer", "link set eth1 up"]).unwrap();
        let seen = roles(node);
        let mut expected = BTreeMap::from([
            ("lo", None),
            ("eth0", Some(Role::Net)),
            ("eth1", None),
            ("eth1-peer", None),
            ("veth-a", Some(Role::Pod)),
        ]);
        if layout.has_bridge() {
            expected.insert("cni0", None);
        }
        if layout.has_tunnel() {
            expected.insert("vxlan0", Some(Role::Net));
        }
        let expected: BTreeMap<String, Option<Role>> =
            expected.into_iter().map(|(name, role)| (name.to_owned(), role)).collect();
        assert_eq!(seen, expected, "{layout:?}");
    }
}

#[test]
fn five_hundred_links_are_right_after_more_changes_than_the_netlink_socket_holds() {
    let lab = Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap();
    let (node, fabric) = (lab.node("node1").clone(), lab.fabric().clone());
    let netns = node.netns.clone();
    watching(&netns, async move |mut watcher| {
        let many = |links: &[Link]| links.iter().filter(|link| link.name.starts_with("many")).count();
        assert_eq!(many(&watcher.snapshot().await.unwrap()), 0);
        // Nothing reads the socket meanwhile, since this holds the only thread of the runtime: its
        // buffer is full after a few hundred messages, and the kernel drops the rest.
        node.netns.ip(&add_many(MANY, &fabric)).unwrap();
        assert!(overrun(&node), "the socket held it all; make more changes");
        timeout(SOON, watcher.changed()).await.unwrap().unwrap();
        let links = timeout(SOON, watcher.snapshot()).await.unwrap().unwrap();
        assert_eq!(many(&links), MANY);
        let roles = Roles::new(None, &[IpAddr::V4(node.v4)]).unwrap();
        let pods = links.iter().filter(|link| roles.of(link) == Some(Role::Pod));
        assert_eq!(pods.count(), MANY);
        // It hears of later changes as before.
        node.netns.ip(&["link del many7"]).unwrap();
        let deadline = Instant::now() + SOON;
        while many(&timeout(SOON, watcher.snapshot()).await.unwrap().unwrap()) != MANY - 1 {
            assert!(Instant::now() < deadline, "many7 never went");
            timeout(SOON, watcher.changed()).await.unwrap().unwrap();
        }
    });
}

/// Has a netlink socket of this namespace lost messages? The last column but one of the kernel's list.
fn overrun(node: &Node) -> bool {
    let list = node.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap());
    let drops = |line: &str| line.split_whitespace().nth(8).and_then(|text| text.parse::<u64>().ok());
    list.lines().filter_map(drops).any(|drops| drops > 0)
}

#[test]
fn an_agent_takes_five_hundred_pods_that_come_at_once() {
    let lab = Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap();
    let node = lab.node("node1");
    let mut manifests = Manifests::new().unwrap();
    manifests.lab_node(node).write().unwrap();
    let mut agent = Agent::start(node, AgentConfig::new(manifests.path())).unwrap();
    agent.wait_in_sync(6 * SOON).unwrap();
    let start = Instant::now();
    node.netns.ip(&add_many(MANY, lab.fabric())).unwrap();
    println!("{MANY} links made in {:?}", start.elapsed());
    let attached = |line: &lb_tests::agent::LogLine| line.message() == "attached";
    lb_tests::poll::until("programs on every link", 6 * SOON, || {
        let count = agent.lines().unwrap().iter().filter(|line| attached(line)).count();
        if count > MANY { Ok(()) } else { Err(format!("{count} links have programs")) }
    })
    .unwrap();
    println!("attached {:?} after the first was made", start.elapsed());
    // Those of the uplink and of the socket hooks stay.
    let staying = pins(node).len().checked_sub(2 * MANY).unwrap();
    // Gone at once, as when a node is drained: what was pinned for them goes too.
    node.netns.ip(&[format!("link del group {GROUP}")]).unwrap();
    lb_tests::poll::until("the pins of the links to go", 6 * SOON, || {
        let left = pins(node);
        if left.len() <= staying { Ok(()) } else { Err(format!("{} pins", left.len())) }
    })
    .unwrap();
    assert!(agent.is_running());
}

/// What is pinned for links.
fn pins(node: &Node) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    entries(&node.pin_folder).iter().flat_map(|version| entries(&version.join("links"))).collect()
}
