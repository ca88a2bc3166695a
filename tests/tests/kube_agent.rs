//! Tier 2: the real agent, a real connection to an API server, real traffic.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use lb_tests::agent::{Agent, AgentConfig, Tool};
use lb_tests::apiserver::{ApiServer, Invented, Recording, Settings, Speed, WatchFault};
use lb_tests::lab::{Lab, Layout, Pod};
use lb_tests::manifests::{Manifests, Protocol as Port};
use lb_tests::poll;
use lb_tests::scene::{BACKENDS, LIMIT, POD_PORT, SOON, TCP_PORT, UDP_PORT, VIPS, vips};
use lb_tests::traffic::{EchoServer, Load, Protocol, tcp_once, udp_once};

/// How long an agent may take to start: the kernel looks at every path of its programs first.
const START: Duration = Duration::from_secs(40);

const PORTS: [(&str, u16, Port); 2] = [("http", POD_PORT, Port::Tcp), ("dns", POD_PORT, Port::Udp)];

/// A server on the loopback address of a node.
fn server(lab: &Lab, node: &str) -> ApiServer {
    let listener = lab.node(node).netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let settings = Settings { bookmark_every: Duration::from_secs(1), ..Settings::default() };
    ApiServer::start_on(listener, settings).unwrap()
}

fn restart(server: &mut ApiServer, lab: &Lab, node: &str) {
    let address = server.address();
    let listener = lab.node(node).netns.run(|| TcpListener::bind(address).unwrap());
    server.restart_on(listener).unwrap();
}

struct Scene {
    agent: Agent,
    server: ApiServer,
    manifests: Manifests,
    _servers: Vec<EchoServer>,
    lab: Lab,
}

impl Scene {
    /// A node of four pods, a Service of three of them at an API server, and an agent that is in sync with it.
    fn start() -> Self {
        let lab = Lab::builder().node("node1", Layout::Routed, &["client", "a", "b", "c"]).build().unwrap();
        let echo = |name: &&str| EchoServer::start(&lab.pod(name).netns, name, &[POD_PORT]).unwrap();
        let servers = BACKENDS.iter().map(echo).collect();
        let mut manifests = Manifests::new().unwrap();
        manifests.lab_node(lab.node("node1"));
        manifests.service("web", |service| {
            service.cluster_ips(&VIPS).port("http", TCP_PORT, Port::Tcp).port("dns", UDP_PORT, Port::Udp);
        });
        let server = server(&lab, "node1");
        put(&lab, &mut manifests, &server, &BACKENDS);
        let mut agent = Agent::start(lab.node("node1"), AgentConfig::watching(server.url())).unwrap();
        agent.wait_in_sync(START).unwrap();
        Self { agent, server, manifests, _servers: servers, lab }
    }

    /// Puts the Service with these backends into the server.
    fn backends(&mut self, names: &[&str]) {
        put(&self.lab, &mut self.manifests, &self.server, names);
    }

    fn tool(&self) -> Tool {
        Tool::new(self.lab.node("node1"))
    }

    /// Dials until exactly these backends answer, on every frontend.
    fn only_these_answer(&self, names: &[&str]) {
        let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let netns = &self.lab.pod("client").netns;
        poll::until("the Service's backends to answer", SOON, || {
            for port in [TCP_PORT, UDP_PORT] {
                for vip in vips(port) {
                    let dial = if port == TCP_PORT { tcp_once } else { udp_once };
                    let answers: BTreeSet<String> = (0..30)
                        .map(|_| {
                            dial(netns, vip, LIMIT).map_or_else(|error| format!("{error:?}"), |r| r.backend)
                        })
                        .collect();
                    if answers != wanted {
                        return Err(format!("{vip}: {answers:?}"));
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    }
}

fn put(lab: &Lab, manifests: &mut Manifests, server: &ApiServer, names: &[&str]) {
    let pods: Vec<&Pod> = names.iter().map(|name| lab.pod(name)).collect();
    manifests.pods("web", &pods, &PORTS);
    manifests.objects().into_iter().for_each(|object| server.apply(object).unwrap());
}

fn load(scene: &Scene) -> Load {
    let netns = &scene.lab.pod("client").netns;
    let [vip, _] = vips(TCP_PORT);
    let pause = Duration::from_millis(2);
    Load::builder(netns, Protocol::Tcp, vip)
        .workers(1)
        .pause(pause)
        .conversations(5)
        .limit(LIMIT)
        .start()
        .unwrap()
}

fn more_succeed(load: &Load) {
    let before = load.snapshot();
    poll::until("more successes", SOON, || {
        let now = load.snapshot();
        let more = now.succeeded > before.succeeded + 50
            && now.conversations.messages > before.conversations.messages + 50;
        if more { Ok(()) } else { Err(format!("{}", now.succeeded)) }
    })
    .unwrap();
}

#[test]
fn a_service_of_an_api_server_is_served_and_followed_through_its_faults() {
    let mut scene = Scene::start();
    scene.only_these_answer(&BACKENDS);
    scene.backends(&["b"]);
    scene.only_these_answer(&["b"]);
    let load = load(&scene);
    more_succeed(&load);
    scene.server.fault(None, WatchFault::Error(410));
    scene.backends(&["b", "c"]);
    scene.only_these_answer(&["b", "c"]);
    scene.server.reset_connections();
    scene.backends(&BACKENDS);
    scene.only_these_answer(&BACKENDS);
    let totals = load.stop();
    assert_eq!(totals.failed(), 0, "{}", totals.describe_failures());
    assert!(totals.conversations.broken.is_empty(), "{:?}", totals.conversations.broken);
    assert_eq!(scene.agent.terminate().unwrap().code(), Some(0));
}

#[test]
fn c4_c48_an_agent_that_starts_while_the_server_is_away_touches_nothing_until_it_is_back() {
    let mut scene = Scene::start();
    scene.only_these_answer(&BACKENDS);
    let before = scene.tool().get("frontends").unwrap();
    let load = load(&scene);
    more_succeed(&load);
    scene.server.stop();
    more_succeed(&load);
    scene.agent.kill9().unwrap();
    scene.agent.restart().unwrap();
    let refused = |line: &lb_tests::agent::LogLine| line.message().contains("Connection refused");
    scene.agent.wait_for_line("that the server cannot be reached", START, refused).unwrap();
    more_succeed(&load);
    assert_eq!(scene.tool().get("frontends").unwrap(), before);
    assert!(scene.agent.in_syncs().unwrap().is_empty(), "in sync with what?");
    // Waiting for the server, it still ends when it is told to.
    assert_eq!(scene.agent.terminate().unwrap().code(), Some(0));
    scene.agent.restart().unwrap();
    restart(&mut scene.server, &scene.lab, "node1");
    let report = scene.agent.wait_in_sync(START).unwrap();
    assert_eq!(report.rows_written, 0, "what a previous agent left is what the server says");
    assert_eq!(scene.tool().get("frontends").unwrap(), before);
    more_succeed(&load);
    let totals = load.stop();
    assert_eq!(totals.failed(), 0, "{}", totals.describe_failures());
    assert!(totals.conversations.broken.is_empty(), "{:?}", totals.conversations.broken);
    scene.backends(&["a"]);
    scene.only_these_answer(&["a"]);
}

#[test]
fn a_recording_played_to_the_agent_ends_in_the_kernels_rows_of_a_fresh_start() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/conformance-run");
    let recording = Recording::read(&folder, &["services", "endpointslices", "nodes"]).unwrap();
    let lab = Lab::builder().node("k8snode1", Layout::Routed, &[]).build().unwrap();
    let server = server(&lab, "k8snode1");
    server.hold_lists(&recording).unwrap();
    let mut agent = Agent::start(lab.node("k8snode1"), AgentConfig::watching(server.url())).unwrap();
    agent.wait_in_sync(START).unwrap();
    server.play(&recording, Speed::Times(200.0)).unwrap();
    // Behind everything else comes one more Service; once it is served, all before it was taken in.
    let last = Invented { services: 1, endpoints: 1, nodes: 1 };
    server.apply(last.service(0)).unwrap();
    server.apply(last.slice(0, 0)).unwrap();
    let backend = last.slice(0, 0)["endpoints"][0]["addresses"][0].as_str().unwrap().to_owned() + ":8080";
    let tool = Tool::new(lab.node("k8snode1"));
    poll::until("the last Service to be served", SOON, || {
        let frontends = tool.get("frontends").map_err(|error| error.to_string())?;
        let served = |row: &serde_json::Value| {
            row["inside"].as_array().is_some_and(|set| set.contains(&backend.as_str().into()))
        };
        if frontends.as_array().is_some_and(|rows| rows.iter().any(served)) {
            Ok(())
        } else {
            Err(frontends.to_string())
        }
    })
    .unwrap();
    agent.restart().unwrap();
    let report = agent.wait_in_sync(START).unwrap();
    assert_eq!(report.rows_written, 0, "the rows differ from those of a fresh start on the final lists");
    assert!(report.services > 1);
}

#[test]
fn c22_the_later_of_two_claimants_of_a_frontend_is_told_by_an_event() {
    let lab = Lab::builder().node("node0", Layout::Routed, &[]).build().unwrap();
    let server = server(&lab, "node0");
    let cluster = Invented { services: 2, endpoints: 1, nodes: 1 };
    cluster.hold(&server).unwrap();
    for (number, created) in [(0, "2026-01-02T00:00:00Z"), (1, "2026-01-01T00:00:00Z")] {
        let mut service = cluster.service(number);
        service["spec"]["externalIPs"] = serde_json::json!(["198.51.100.1"]);
        service["metadata"]["creationTimestamp"] = serde_json::json!(created);
        server.apply(service).unwrap();
    }
    let mut agent = Agent::start(lab.node("node0"), AgentConfig::watching(server.url())).unwrap();
    agent.wait_in_sync(START).unwrap();
    let event = poll::until("an Event", SOON, || {
        server.objects("events.k8s.io/v1/events").into_iter().next().ok_or_else(|| "none".to_owned())
    })
    .unwrap();
    assert_eq!(event["reason"], "FrontendTaken");
    assert_eq!(
        (&event["regarding"]["name"], &event["regarding"]["uid"]),
        (&"service-0".into(), &"uid-0".into())
    );
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("198.51.100.1") && note.contains("service-1"), "{note}");
}
