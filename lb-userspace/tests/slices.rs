//! C3, C5, C7 to C10, C18 to C20: which slices, endpoints and addresses of objects come into a decision.

use std::collections::BTreeMap;

use lb_userspace::model::State;
use lb_userspace::plan::decide;
use lb_userspace::plan::decision::{BackendSet, Decision, FrontendKind};
use lb_userspace::plan::owners::Owners;
use lb_userspace::source::file::read_once;

const NODE: &str = "here";

/// The Service `web`: its `spec` but for the first cluster address, and whatever stands below it.
fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n{}\n",
        spec.replace("spec:", "spec:\n  clusterIP: 10.96.0.10")
    )
}

const PLAIN: &str = "spec:\n  ports: [{name: http, port: 80, targetPort: 9999}]";

/// A slice; `at` is `name@resourceVersion` or a name, `label` the Service it names, if any.
fn slice(at: &str, label: Option<&str>, endpoints: &str, ports: &str) -> String {
    let (name, version) = at.split_once('@').unwrap_or((at, "1"));
    let labels = label.map(|of| format!("kubernetes.io/service-name: {of}")).unwrap_or_default();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  resourceVersion: \
         \"{version}\"\n  labels: {{{labels}}}\naddressType: IPv4\nendpoints: {endpoints}\nports: {ports}\n"
    )
}

const HTTP: &str = "[{name: http, port: 8080}]";

/// The decisions of the Service that these manifests tell of, by the port's name.
fn decisions(manifests: &[String]) -> BTreeMap<String, Decision> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), manifests.join("---\n")).unwrap();
    let snapshot = read_once(folder.path()).unwrap();
    assert!(!snapshot.has_problems(), "{:?}", snapshot.findings);
    let mut state = State::new(NODE);
    state.replace_all(snapshot.objects);
    let planned = decide::dirty(&mut state, &mut Owners::default());
    let all = planned.into_values().flat_map(|planned| planned.decisions);
    all.map(|decision| (decision.name.port.to_string(), decision)).collect()
}

/// Every backend of a decision, those of this node with a star.
fn backends(decision: &Decision) -> Vec<String> {
    let star = |local| if local { "*" } else { "" };
    decision.backends.iter().map(|backend| format!("{}{}", backend.addr, star(backend.local))).collect()
}

/// What the ClusterIP of the port `http` gives a pod.
fn cluster_set(manifests: &[String]) -> BackendSet {
    let decisions = decisions(manifests);
    let mut frontends = decisions["http"].frontends.iter();
    frontends.find(|frontend| frontend.kind == FrontendKind::ClusterIp).unwrap().inside.clone()
}

/// `kind address:port` of the frontends of the port `http`.
fn frontends(manifests: &[String]) -> Vec<String> {
    let decisions = decisions(manifests);
    let real = decisions["http"].frontends.iter().filter(|frontend| frontend.kind != FrontendKind::Whole);
    let address = |frontend: &lb_userspace::plan::decision::Frontend| match frontend.addr {
        Some(addr) => addr.to_string(),
        None => if frontend.ipv6 { "node6" } else { "node4" }.to_owned(),
    };
    real.map(|frontend| format!("{:?} {} {}", frontend.kind, address(frontend), frontend.port)).collect()
}

fn set(addresses: &[&str]) -> BackendSet {
    BackendSet::Backends(addresses.iter().map(|addr| addr.parse().unwrap()).collect())
}

#[test]
fn c3_a_slice_belongs_to_whom_its_label_names_and_a_service_needs_no_selector() {
    // Named after another Service, owned by nobody, written by hand for a Service without a selector.
    let labelled = slice("other-xyz", Some("web"), "[{addresses: [10.1.0.1]}]", HTTP);
    let nobodys = slice("web-abc", None, "[{addresses: [10.1.0.2]}]", HTTP);
    let anothers = slice("web-def", Some("other"), "[{addresses: [10.1.0.3]}]", HTTP);
    let decisions = decisions(&[service(PLAIN), labelled, nobodys, anothers]);
    assert_eq!(backends(&decisions["http"]), ["10.1.0.1:8080"]);
}

#[test]
fn c5_only_endpoint_slices_of_discovery_v1_are_read() {
    let old = "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets:\n- addresses: [{ip: 10.1.0.2}]\n  \
               ports: [{name: http, port: 8080}]\n";
    let beta = slice("web-b", Some("web"), "[{addresses: [10.1.0.3]}]", HTTP).replace("/v1", "/v1beta1");
    let mut manifests = vec![service(PLAIN), old.to_owned(), beta];
    assert_eq!(cluster_set(&manifests), BackendSet::Reject);
    manifests.push(slice("web-a", Some("web"), "[{addresses: [10.1.0.1]}]", HTTP));
    assert_eq!(cluster_set(&manifests), set(&["10.1.0.1:8080"]));
}

#[test]
fn c7_ports_match_by_name_and_protocol_not_by_number() {
    let spec = "spec:\n  ports:\n  - {name: http, port: 80, targetPort: 9999}\n  - {name: dns, port: 8080, \
                protocol: UDP}\n  - {name: dns-tcp, port: 53}";
    let first = slice(
        "web-a",
        Some("web"),
        "[{addresses: [10.1.0.1]}]",
        "[{name: http, port: 8080}, {name: dns, port: 80, protocol: UDP}, {name: dns-tcp, port: 53, protocol: UDP}]",
    );
    // A rolling change of the pods' port: another number under the same name.
    let second = slice("web-b", Some("web"), "[{addresses: [10.1.0.2]}]", "[{name: http, port: 9090}]");
    let decisions = decisions(&[service(spec), first, second]);
    assert_eq!(backends(&decisions["http"]), ["10.1.0.1:8080", "10.1.0.2:9090"]);
    assert_eq!(backends(&decisions["dns"]), ["10.1.0.1:80"]);
    assert_eq!(backends(&decisions["dns-tcp"]), Vec::<String>::new(), "UDP is not TCP");
}

#[test]
fn c7_a_port_without_a_name_matches_one_without_a_name_only() {
    let slices = [
        slice("web-a", Some("web"), "[{addresses: [10.1.0.1]}]", "[{port: 8080}]"),
        slice("web-b", Some("web"), "[{addresses: [10.1.0.2]}]", "[{name: \"\", port: 8081}]"),
        slice("web-c", Some("web"), "[{addresses: [10.1.0.3]}]", HTTP),
    ];
    let mut manifests = vec![service("spec:\n  ports: [{port: 80}]")];
    manifests.extend(slices);
    assert_eq!(backends(&decisions(&manifests)[""]), ["10.1.0.1:8080", "10.1.0.2:8081"]);
}

#[test]
fn c8_an_endpoint_in_two_slices_is_one_endpoint_and_never_away_while_it_moves() {
    let at = |slice_at: &str, endpoint: &str| slice(slice_at, Some("web"), &format!("[{endpoint}]"), HTTP);
    let here = "{addresses: [10.1.0.1], nodeName: here}";
    let unready = "{addresses: [10.1.0.1], nodeName: here, conditions: {ready: false, serving: false}}";
    let one = set(&["10.1.0.1:8080"]);
    // Before, in both, after: one endpoint all the way.
    assert_eq!(cluster_set(&[service(PLAIN), at("old@1", here)]), one);
    assert_eq!(cluster_set(&[service(PLAIN), at("old@1", here), at("new@2", here)]), one);
    assert_eq!(cluster_set(&[service(PLAIN), at("new@2", here)]), one);
    // Both tell of one pod, and disagree: what was written last counts.
    assert_eq!(cluster_set(&[service(PLAIN), at("old@1", unready), at("new@2", here)]), one);
    assert_eq!(cluster_set(&[service(PLAIN), at("old@1", here), at("new@2", unready)]), BackendSet::Reject);
}

#[test]
fn c8_of_copies_on_different_nodes_the_local_one_counts() {
    for (first, second) in [("here", "there"), ("there", "here")] {
        let at = |name: &str, node: &str| {
            slice(name, Some("web"), &format!("[{{addresses: [10.1.0.1], nodeName: {node}}}]"), HTTP)
        };
        let decisions = decisions(&[service(PLAIN), at("a@1", first), at("b@2", second)]);
        assert_eq!(backends(&decisions["http"]), ["10.1.0.1:8080*"], "{first}, then {second}");
    }
}

#[test]
fn c9_local_is_what_carries_the_own_nodes_name() {
    let endpoints = "[{addresses: [10.1.0.1], nodeName: here}, {addresses: [10.1.0.2], nodeName: there}, \
                     {addresses: [10.1.0.3]}, {addresses: [10.1.0.4], nodeName: HERE}]";
    let decisions = decisions(&[service(PLAIN), slice("web-a", Some("web"), endpoints, HTTP)]);
    assert_eq!(
        backends(&decisions["http"]),
        ["10.1.0.1:8080*", "10.1.0.2:8080", "10.1.0.3:8080", "10.1.0.4:8080"]
    );
}

#[test]
fn c10_publish_not_ready_addresses_changes_nothing_that_the_slice_does_not_say() {
    let published = format!("{PLAIN}\n  publishNotReadyAddresses: true");
    let unready = "[{addresses: [10.1.0.1], conditions: {ready: false, serving: false}}]";
    let as_written = "[{addresses: [10.1.0.1], conditions: {ready: true, serving: false}}]";
    for spec in [PLAIN, &published] {
        let with = |endpoints| cluster_set(&[service(spec), slice("web-a", Some("web"), endpoints, HTTP)]);
        assert_eq!(with(unready), BackendSet::Reject);
        assert_eq!(with(as_written), set(&["10.1.0.1:8080"]), "the slice's controller made it ready");
    }
}

const NODE_PORT: &str = "spec:\n  type: LoadBalancer\n  ports: [{name: http, port: 80, nodePort: 30080}]";

#[test]
fn c18_load_balancer_addresses_count_unless_a_proxy_stands_there() {
    let status = "\nstatus:\n  loadBalancer:\n    ingress:\n    - {ip: 198.51.100.1}\n    - {ip: 198.51.100.2, \
                  ipMode: VIP}\n    - {ip: 198.51.100.3, ipMode: Proxy}\n    - {hostname: lb.example}\n";
    let found = frontends(&[service(&format!("{NODE_PORT}{status}"))]);
    assert_eq!(
        found,
        [
            "NodePort node4 30080",
            "ClusterIp 10.96.0.10 80",
            "LoadBalancer 198.51.100.1 80",
            "LoadBalancer 198.51.100.2 80"
        ]
    );
}

#[test]
fn c19_external_addresses_are_frontends_of_their_own_family() {
    let dual = "spec:\n  clusterIPs: [10.96.0.10, \"fd00::10\"]\n  externalIPs: [203.0.113.1, \"2001:db8::1\"]\n  \
                ports: [{name: http, port: 80}]";
    let found = frontends(&[service(dual)]);
    assert_eq!(
        found,
        [
            "ClusterIp 10.96.0.10 80",
            "ExternalIp 203.0.113.1 80",
            "ExternalIp 2001:db8::1 80",
            "ClusterIp fd00::10 80"
        ]
    );
}

#[test]
fn c20_without_an_allocated_node_port_there_is_none() {
    let spec = "spec:\n  type: LoadBalancer\n  allocateLoadBalancerNodePorts: false\n  ports: [{name: http, port: 80NODE}]\n\
                status:\n  loadBalancer:\n    ingress: [{ip: 198.51.100.1}]";
    for number in ["", ", nodePort: 0"] {
        let found = frontends(&[service(&spec.replace("NODE", number))]);
        assert_eq!(found, ["ClusterIp 10.96.0.10 80", "LoadBalancer 198.51.100.1 80"]);
    }
    // A port that somebody wrote down stays one, whatever the field says.
    let kept = frontends(&[service(&spec.replace("NODE", ", nodePort: 30080"))]);
    assert_eq!(kept[0], "NodePort node4 30080");
}
