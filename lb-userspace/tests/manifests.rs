//! Folders of manifests, good and bad: what is in force, and what is said.

use std::collections::BTreeSet;
use std::path::Path;

use lb_userspace::model::{NotProxied, Object, ObjectKey};
use lb_userspace::source::file::{Finding, Folder, Host, Severity, Snapshot, UnreadableFolder, read_once};

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.96.0.10
  ports:
  - port: 80
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn read(files: &[(&str, &str)]) -> Snapshot {
    read_once(folder(files).path()).unwrap()
}

fn keys(snapshot: &Snapshot) -> Vec<String> {
    snapshot.objects.iter().map(|object| object.key().to_string()).collect()
}

/// `file:line:column object message` of each problem, the folder's path left out.
fn problems(snapshot: &Snapshot) -> Vec<String> {
    let problems = snapshot.findings.iter().filter(|finding| finding.severity == Severity::Problem);
    problems
        .map(|finding| {
            Finding {
                file: finding.file.as_ref().and_then(|path| path.file_name()).map(Into::into),
                ..finding.clone()
            }
            .to_string()
        })
        .collect()
}

/// Every expected text is in the message of its place, and there is no other.
fn assert_problems(snapshot: &Snapshot, expected: &[&str]) {
    let problems = problems(snapshot);
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(
            expected.split(" … ").all(|part| problem.contains(part)),
            "{expected:?} is not in {problem:?}"
        );
    }
}

fn slice(name: &str, address_type: &str, endpoints: &str, ports: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  labels: \
         {{kubernetes.io/service-name: web}}\naddressType: {address_type}\nendpoints: {endpoints}\nports: {ports}\n"
    )
}

fn endpoints(snapshot: &Snapshot) -> Vec<String> {
    let slices = snapshot.objects.iter().filter_map(|object| match object {
        Object::EndpointSlice(slice) => Some(slice),
        _ => None,
    });
    slices.flat_map(|slice| slice.endpoints.iter().map(|endpoint| endpoint.addr.to_string())).collect()
}

#[test]
fn documents_and_lists_of_every_shape_are_read() {
    let two = format!("# by hand\n---\n{SERVICE}---\n---\n{}", SERVICE.replace("web", "api"));
    let list = r#"{"apiVersion": "v1", "kind": "ServiceList", "items": [
        {"metadata": {"name": "listed", "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.11"}}]}"#;
    let mixed = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: n1}}\n\
                 - {apiVersion: v1, kind: Pod, metadata: {name: p1}}\n";
    let snapshot = read(&[
        ("a.yaml", &two),
        ("b.json", list),
        ("c.yml", mixed),
        (".hidden.yaml", "]"),
        ("notes.txt", "]"),
    ]);
    assert_problems(&snapshot, &[]);
    assert_eq!(
        keys(&snapshot),
        ["Service default/web", "Service default/api", "Service shop/listed", "Node n1"]
    );
    assert_eq!(snapshot.ignored.get("v1 Pod"), Some(&1), "other kinds are ignored and counted");
}

#[test]
fn a_file_that_does_not_parse_is_named_with_its_place_and_costs_nothing_else() {
    let snapshot =
        read(&[("bad.json", "{\n \"kind\": }"), ("bad.yaml", "a: [1\nb: 2\n"), ("good.yaml", SERVICE)]);
    assert_eq!(keys(&snapshot), ["Service default/web"]);
    assert_problems(&snapshot, &["bad.json:2:10 … does not parse", "bad.yaml: … does not parse"]);
}

#[test]
fn a_file_that_stops_parsing_keeps_its_last_good_objects() {
    let files = folder(&[("web.yaml", SERVICE)]);
    let mut folder = Folder::new(files.path());
    let good = folder.read(&BTreeSet::new()).unwrap();
    std::fs::write(files.path().join("web.yaml"), "spec: [").unwrap();
    let broken = folder.read(&BTreeSet::new()).unwrap();
    assert_eq!(broken.objects, good.objects);
    assert_problems(&broken, &["web.yaml:1: … last good objects stay in force"]);
    std::fs::write(files.path().join("web.yaml"), SERVICE.replace("web", "api")).unwrap();
    let corrected = folder.read(&BTreeSet::new()).unwrap();
    assert_eq!(keys(&corrected), ["Service default/api"]);
    assert_problems(&corrected, &[]);
}

#[test]
fn a_value_of_the_wrong_type_costs_its_object_which_stays_what_it_was() {
    let other = format!("---\n{}", SERVICE.replace("web", "api"));
    let files = folder(&[("web.yaml", &(SERVICE.to_owned() + &other))]);
    let mut folder = Folder::new(files.path());
    let good = folder.read(&BTreeSet::new()).unwrap();
    let text = SERVICE.replace("port: 80", "port: eighty") + &other;
    std::fs::write(files.path().join("web.yaml"), text).unwrap();
    let broken = folder.read(&BTreeSet::new()).unwrap();
    assert_eq!(broken.objects, good.objects);
    assert_problems(&broken, &["web.yaml:8:11 … Service default/web … spec.ports[0].port … \"eighty\""]);
}

#[test]
fn two_files_that_define_one_object_are_found_and_the_first_counts() {
    let second = SERVICE.replace("10.96.0.10", "10.96.0.99");
    let snapshot = read(&[("b.yaml", &second), ("a.yaml", SERVICE)]);
    assert_problems(&snapshot, &["b.yaml:1:1 … Service default/web … defined at … a.yaml:1:1"]);
    let Object::Service(service) = &snapshot.objects[0] else { panic!("{:?}", snapshot.objects) };
    assert_eq!(service.cluster_ips[0].to_string(), "10.96.0.10");
}

#[test]
fn c6_an_unusable_endpoint_or_port_costs_itself_only() {
    let endpoints_text = "[{addresses: [10.244.0.1]}, {addresses: [web.example]}, {addresses: [fd00::1]}, \
                          {addresses: [127.0.0.1]}, {addresses: []}, {addresses: [10.244.0.2, nonsense]}]";
    let ports = "[{name: a, port: 8080}, {name: b, port: 0}, {name: c}, {name: d, port: 1, protocol: DCCP}]";
    let snapshot = read(&[("s.yaml", &slice("web-1", "IPv4", endpoints_text, ports))]);
    assert_eq!(endpoints(&snapshot), ["10.244.0.1", "10.244.0.2"], "only the first address counts");
    let Object::EndpointSlice(slice) = &snapshot.objects[0] else { panic!("{:?}", snapshot.objects) };
    assert_eq!(slice.ports.len(), 1);
    let mut found = problems(&snapshot);
    found.sort_by_key(|problem| problem.find("endpoints["));
    for expected in [
        "endpoints[1].addresses[0]: \"web.example\" is no IP address",
        "endpoints[2].addresses[0]: fd00::1 is not of the slice's addressType IPv4",
        "endpoints[3].addresses[0]: 127.0.0.1 is a loopback address",
        "endpoints[4].addresses: the endpoint has no address",
        "ports[1].port: 0 is no port",
        "ports[2].port: there is no number",
        "ports[3].protocol: \"DCCP\" is no protocol",
    ] {
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected} is not in {found:#?}");
    }
    assert_eq!(found.len(), 7, "{found:#?}");
}

#[test]
fn three_hundred_endpoints_are_no_trouble() {
    let many: Vec<String> =
        (0..300).map(|n| format!("{{addresses: [10.244.{}.{}]}}", n / 250, n % 250 + 1)).collect();
    let text = slice("web-1", "IPv4", &format!("[{}]", many.join(", ")), "[{port: 8080}]");
    let snapshot = read(&[("s.yaml", &text)]);
    assert_problems(&snapshot, &[]);
    assert_eq!(endpoints(&snapshot).len(), 300);
}

#[test]
fn c1_c2_services_that_are_left_alone_say_why() {
    let labelled =
        SERVICE.replace("name: web", "name: web\n  labels: {service.kubernetes.io/service-proxy-name: x}");
    let table = [
        (SERVICE.to_owned(), None),
        (labelled, Some(NotProxied::OtherProxy)),
        (SERVICE.replace("10.96.0.10", "None"), Some(NotProxied::Headless)),
        (SERVICE.replace("10.96.0.10", "''"), Some(NotProxied::NoClusterIp)),
        (SERVICE.replace("clusterIP: 10.96.0.10", "type: ExternalName"), Some(NotProxied::ExternalName)),
    ];
    for (text, expected) in table {
        let snapshot = read(&[("s.yaml", &text)]);
        let Object::Service(service) = &snapshot.objects[0] else { panic!("{:?}", snapshot.objects) };
        assert_eq!(service.not_proxied, expected, "{text}");
    }
}

#[test]
fn c35_an_unusable_source_range_never_opens_what_it_was_to_guard() {
    let guarded = |range: &str| {
        format!(
            "{SERVICE}  type: LoadBalancer\n  loadBalancerSourceRanges: [{range}]\nstatus:\n  loadBalancer:\n    \
             ingress: [{{ip: 203.0.113.1}}]\n"
        )
    };
    let ips = |text: &str| {
        let snapshot = read(&[("s.yaml", text)]);
        let Object::Service(service) = snapshot.objects[0].clone() else { panic!("{:?}", snapshot.objects) };
        (service.load_balancer_ips.len(), service.source_ranges.len(), problems(&snapshot).len())
    };
    assert_eq!(ips(&guarded("' 192.0.2.1/24'")), (1, 1, 0), "blanks and host bits are no fault");
    assert_eq!(ips(&guarded("192.0.2.0/33")), (0, 0, 2), "the address is not served");
    assert_eq!(ips(&guarded("192.0.2.0/33, 192.0.2.0/24")), (1, 1, 1));
}

#[test]
fn bad_fields_of_a_service_cost_themselves_only() {
    let text = SERVICE.replace("  ports:\n  - port: 80\n", "")
        + "  externalIPs: [nonsense, 192.0.2.1]\n  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: \
           {timeoutSeconds: 0}}\n  internalTrafficPolicy: Nearby\n  ports:\n  - {name: a, port: 0}\n  - {name: b, port: \
           80}\n  - {name: b, port: 81}\n  - {name: c, port: 70000}\n";
    let snapshot = read(&[("s.yaml", &text)]);
    let Object::Service(service) = &snapshot.objects[0] else { panic!("{:?}", snapshot.objects) };
    assert_eq!(
        (service.ports.len(), service.external_ips.len(), service.affinity_seconds),
        (1, 1, Some(10_800))
    );
    assert_eq!(problems(&snapshot).len(), 6, "{:#?}", problems(&snapshot));
}

#[test]
fn objects_that_are_none_are_said_with_their_place() {
    let snapshot =
        read(&[("s.yaml", "- 1\n---\nkind: Service\n---\napiVersion: v1\nkind: Service\nspec: {}\n")]);
    let expected =
        ["s.yaml:1:1 … no Kubernetes object", "s.yaml:3:1 … no apiVersion", "metadata.name … no name"];
    assert_problems(&snapshot, &expected);
    assert!(snapshot.objects.is_empty());
}

#[test]
fn an_empty_folder_is_valid_and_says_so_and_a_missing_one_is_not() {
    let snapshot = read(&[]);
    assert!(snapshot.objects.is_empty() && !snapshot.has_problems());
    assert!(snapshot.findings[0].message.contains("nothing to balance"), "{:?}", snapshot.findings);
    let error = read_once(Path::new("/nowhere/at/all")).unwrap_err();
    assert!(matches!(error, UnreadableFolder::Missing(_)) && error.to_string().contains("create the folder"));
}

#[test]
fn c4_a_node_is_made_of_the_host_and_said_so_where_the_folder_has_none() {
    let host = Host { name: "here".to_owned(), addresses: vec!["192.0.2.1".parse().unwrap()] };
    let snapshot = read(&[("s.yaml", SERVICE)]).with_node(&host, Path::new("folder"));
    assert!(snapshot.objects.iter().any(|object| object.key() == ObjectKey::Node("here".to_owned())));
    assert!(snapshot.findings.iter().any(|finding| finding.message.contains("192.0.2.1")));
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: here}\n";
    let snapshot = read(&[("n.yaml", node)]).with_node(&host, Path::new("folder"));
    assert_eq!((snapshot.objects.len(), snapshot.findings.len()), (1, 0));
}
