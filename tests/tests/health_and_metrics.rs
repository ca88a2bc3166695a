//! Tier 2: what the agent says of itself by HTTP, asked in its node's namespace (contract C45 to C47).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::http::{self, Answer};
use lb_tests::lab::Layout;
use lb_tests::manifests::Protocol;
use lb_tests::poll;
use lb_tests::scene::{LIMIT, POD_PORT, SOON, Scene, TCP_PORT, vips};
use lb_tests::traffic::tcp_once;
use serde_json::{Value, json};

const HEALTHZ: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";
const CHECK: &str = "127.0.0.1:30500";

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

fn get(scene: &Scene, address: &str, path: &str) -> anyhow::Result<Answer> {
    http::get(&scene.node().netns, at(address), path, LIMIT)
}

/// Asks until the answer is as wanted.
fn until(scene: &Scene, address: &str, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    poll::until("the answer", SOON, || match get(scene, address, path) {
        Ok(answer) if wanted(&answer) => Ok(answer),
        other => Err(format!("{other:?}")),
    })
    .unwrap()
}

/// Every sample, by name and labels as they are shown.
fn samples(scene: &Scene) -> BTreeMap<String, f64> {
    let answer = until(scene, METRICS, "/metrics", |answer| answer.status == 200);
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"), "{}", answer.head);
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, n)| (name.to_owned(), n.parse().unwrap()))
        .collect()
}

#[test]
fn c46_the_real_agent_is_healthy_until_its_node_is_about_to_go() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = until(&scene, HEALTHZ, path, |answer| answer.status == 200);
        assert_eq!(answer.header("content-type"), "application/json");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["lastUpdated"], body["currentTime"]);
        assert_eq!(body.get("nodeEligible"), (path == "/healthz").then_some(&json!(true)));
    }
    assert_eq!(http::get(&scene.node().netns, at("[::1]:10256"), "/other", LIMIT).unwrap().status, 404);

    let mut node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
        "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
    });
    node["status"] = json!({"addresses": [{"type": "InternalIP", "address": scene.node().v4}]});
    scene.manifests.object("node-node1.json", &node);
    scene.manifests.write().unwrap();
    let answer = until(&scene, HEALTHZ, "/healthz", |answer| answer.status == 503);
    assert!(answer.body.contains("\"nodeEligible\": false"), "{}", answer.body);
    assert_eq!(get(&scene, HEALTHZ, "/livez").unwrap().status, 200);
    let samples = samples(&scene);
    assert!(samples["kubeproxy_proxy_healthz_total{code=\"503\"}"] >= 1.0, "{samples:?}");
}

#[test]
fn c45_a_health_check_node_port_follows_its_service_and_its_endpoints() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let describe = |scene: &mut Scene, policy: &str| {
        scene.manifests.service("lb", |service| {
            service
                .cluster_ips(&["10.96.0.77"])
                .port("http", TCP_PORT, Protocol::Tcp)
                .set("/spec/type", json!("LoadBalancer"))
                .set("/spec/externalTrafficPolicy", json!(policy))
                .set("/spec/healthCheckNodePort", json!(30_500))
                .set("/status/loadBalancer/ingress", json!([{"ip": "192.0.2.77"}]));
        });
        scene.manifests.write().unwrap();
    };
    describe(&mut scene, "Local");
    let none = until(&scene, CHECK, "/", |answer| answer.status == 503);
    assert!(none.body.contains("\"localEndpoints\":0"), "{}", none.body);

    let pods = [scene.lab.pod("a").clone(), scene.lab.pod("b").clone()];
    let pods: Vec<_> = pods.iter().collect();
    scene.manifests.pods("lb", &pods, &[("http", POD_PORT, Protocol::Tcp)]);
    scene.manifests.write().unwrap();
    let two = until(&scene, CHECK, "/any/path", |answer| answer.status == 200);
    assert_eq!(two.header("content-type"), "application/json");
    assert_eq!(two.header("x-content-type-options"), "nosniff");
    assert_eq!(two.header("x-load-balancing-endpoint-weight"), "2");
    let expected = json!({"service": {"namespace": "default", "name": "lb"},
        "localEndpoints": 2, "serviceProxyHealthy": true});
    assert_eq!(serde_json::from_str::<Value>(&two.body).unwrap(), expected);

    describe(&mut scene, "Cluster");
    poll::until("the port to close", SOON, || match get(&scene, CHECK, "/") {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    })
    .unwrap();
}

#[test]
fn c47_a_scrape_shows_what_the_datapath_and_the_agent_did() {
    let scene = Scene::start(Layout::Routed, &[]).unwrap();
    tcp_once(&scene.client().netns, vips(TCP_PORT)[0], LIMIT).unwrap();
    let samples = samples(&scene);
    let value =
        |name: &str| *samples.get(name).unwrap_or_else(|| panic!("{name} is missing in {samples:#?}"));
    assert!(value("switchboard_verdicts_total{verdict=\"forwarded_new\",action=\"pass\"}") >= 1.0);
    assert_eq!(value("switchboard_verdicts_total{verdict=\"dropped_no_service\",action=\"drop\"}"), 0.0);
    // In each family two ports and the address as a whole (C34), and three pods for each port.
    for (map, rows) in [
        ("SERVICE_PORTS", 2.0),
        ("FRONTENDS_V4", 3.0),
        ("FRONTENDS_V6", 3.0),
        ("BACKENDS_V4", 6.0),
        ("BACKENDS_V6", 6.0),
        ("SLOTS", 12.0),
    ] {
        assert_eq!(value(&format!("switchboard_map_rows{{map=\"{map}\"}}")), rows, "{map}");
    }
    assert!(
        value("switchboard_map_rows{map=\"FLOWS_V4\"}") + value("switchboard_map_rows{map=\"EMBRYONIC_V4\"}")
            >= 2.0
    );
    assert!(value("switchboard_map_capacity_rows{map=\"FLOWS_V4\"}") > 64.0);
    assert_eq!(value("switchboard_services"), 1.0);
    assert!(value("switchboard_interfaces") >= 4.0);
    assert!(value("switchboard_sync_stage_duration_seconds_count{stage=\"written\"}") >= 1.0);
    assert!(value("kubeproxy_sync_proxy_rules_duration_seconds_count") >= 1.0);
    assert!(value("kubeproxy_sync_proxy_rules_last_timestamp_seconds") > 1.7e9);
    assert_eq!(value("kubeproxy_sync_proxy_rules_service_changes_pending"), 0.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
}

#[test]
fn what_a_service_and_its_backends_carry_is_counted() {
    let scene = Scene::start(Layout::Routed, &["--metrics-backends", "100"]).unwrap();
    for _ in 0..10 {
        tcp_once(&scene.client().netns, vips(TCP_PORT)[0], LIMIT).unwrap();
    }
    let samples = samples(&scene);
    let sum = |metric: &str, words: &str| -> f64 {
        let wanted = samples.iter().filter(|(name, _)| name.starts_with(metric) && name.contains(words));
        wanted.map(|(_, value)| value).sum()
    };
    let http = "service=\"web\",port=\"http\"";
    assert_eq!(sum("switchboard_service_connections_total{", http), 10.0);
    assert_eq!(sum("switchboard_backend_connections_total{", http), 10.0);
    assert_eq!(sum("switchboard_service_connections_total{", "port=\"dns\""), 0.0);
    let backends = samples.keys().filter(|name| name.starts_with("switchboard_backend_connections_total{"));
    assert_eq!(backends.count(), 12, "three pods, two ports, two families");
    // SYN, ACK, the question, FIN at the least, each with 54 bytes of headers.
    let packets = sum("switchboard_service_packets_total{", "direction=\"to_backend\"");
    assert!(packets >= 40.0, "{packets}");
    assert!(sum("switchboard_service_bytes_total{", "direction=\"to_backend\"") >= packets * 54.0);
    assert!(sum("switchboard_service_packets_total{", "direction=\"from_backend\"") >= 30.0);
}

#[test]
fn an_address_that_is_taken_is_said_and_tried_again_and_off_is_off() {
    let scene = Scene::start(Layout::Routed, &["--metrics-bind-address=off"]).unwrap();
    assert!(get(&scene, METRICS, "/metrics").is_err(), "nobody is there");
    drop(scene);

    let mut scene = Scene::start(Layout::Routed, &["--healthz-bind-address=192.0.2.254:10256"]).unwrap();
    let said =
        scene.agent.lines().unwrap().iter().any(|line| line.message().contains("health cannot be served"));
    let line = |line: &lb_tests::agent::LogLine| line.message().contains("health cannot be served");
    if !said {
        scene.agent.wait_for_line("that health cannot be served", SOON, line).unwrap();
    }
    scene.node().netns.ip(&["addr add 192.0.2.254/32 dev lo"]).unwrap();
    poll::until("health to be served", Duration::from_secs(20), || {
        get(&scene, "192.0.2.254:10256", "/healthz").map_err(|error| format!("{error:#}"))
    })
    .unwrap();
    assert!(scene.agent.is_running());
}

/// Names that look like metrics in an expression: of the families that this agent has.
fn metrics_in(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| ["kubeproxy_", "switchboard_", "process_"].iter().any(|start| word.starts_with(start)))
        .collect()
}

#[test]
fn every_metric_that_the_dashboard_or_an_alert_uses_exists() {
    let text = include_str!("../../deploy/grafana/switchboard.json");
    let dashboard: Value = serde_json::from_str(text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let variables =
        dashboard["templating"]["list"].as_array().unwrap().iter().map(|variable| &variable["query"]);
    let expressions: Vec<&str> =
        targets.map(|target| &target["expr"]).chain(variables).filter_map(Value::as_str).collect();
    assert!(expressions.len() > 20, "{expressions:?}");
    let alerts = include_str!("../../docs/operate.md").split("```promql\n").nth(1).unwrap();
    let alerts = alerts.split("```").next().unwrap().lines().filter(|line| !line.starts_with('#'));
    let expressions: Vec<&str> = expressions.into_iter().chain(alerts).collect();
    let scene = Scene::start(Layout::Routed, &["--metrics-backends", "100"]).unwrap();
    let samples = samples(&scene);
    let names: BTreeSet<&str> = samples.keys().filter_map(|sample| sample.split('{').next()).collect();
    for expression in expressions {
        for metric in metrics_in(expression) {
            assert!(names.contains(metric), "{metric} of `{expression}` is not in {names:#?}");
        }
    }
}
