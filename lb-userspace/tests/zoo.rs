//! The planner against what kube-proxy's nftables rules did with the same objects.
//!
//! Every row of both nodes is compared in every column. What differs on purpose is written down
//! in `expected_masquerade`, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use lb_userspace::model::{Object, State};
use lb_userspace::plan::decide;
use lb_userspace::plan::owners::Owners;
use lb_userspace::plan::truth::{self, Masquerade};
use lb_userspace::source::file::{Severity, read_once};
use serde_json::Value;

const NODES: [&str; 2] = ["k8snode1", "k8snode2"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/zoo1").join(name)
}

/// The objects of several files, which must be without a flaw.
fn objects(files: &[&str]) -> Vec<Object> {
    let read = |name: &&str| {
        let snapshot = read_once(&fixture(name)).unwrap();
        let problems: Vec<_> = snapshot.findings.iter().filter(|f| f.severity == Severity::Problem).collect();
        assert!(problems.is_empty(), "{problems:#?}");
        snapshot.objects
    };
    files.iter().flat_map(read).collect()
}

fn lists() -> Vec<Object> {
    objects(&["services.json", "endpointslices.json", "nodes.json"])
}

/// What tells a row from the others.
type Key = (String, String, Option<String>, String, u64);

fn key(row: &Value) -> Key {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    let address = row["address"].as_str().map(str::to_owned);
    (text("kind"), text("family"), address, text("protocol"), row["port"].as_u64().unwrap())
}

fn by_key(rows: &Value) -> BTreeMap<Key, Value> {
    let rows = rows.as_array().unwrap();
    let by_key: BTreeMap<Key, Value> = rows.iter().map(|row| (key(row), row.clone())).collect();
    assert_eq!(by_key.len(), rows.len(), "a frontend has two rows");
    by_key
}

fn planned(objects: Vec<Object>, node: &str, masquerade: Masquerade) -> BTreeMap<Key, Value> {
    let mut state = State::new(node);
    state.replace_all(objects);
    let planned = decide::dirty(&mut state, &mut Owners::default());
    let refused: Vec<_> = planned.values().flat_map(|planned| &planned.refused).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let rows = truth::rows(planned.values().flat_map(|planned| &planned.decisions), masquerade);
    by_key(&serde_json::to_value(rows).unwrap())
}

fn recorded(node: &str) -> BTreeMap<Key, Value> {
    let text = std::fs::read_to_string(fixture(&format!("truth-{node}.json"))).unwrap();
    by_key(&serde_json::from_str(&text).unwrap())
}

/// A row without what the next tests look at.
fn without_masquerade(row: &Value) -> Value {
    let mut row = row.clone();
    for client in row["clients"].as_object_mut().unwrap().values_mut() {
        if let Some(client) = client.as_object_mut() {
            client.remove("masquerade");
            client.remove("masquerade_backends");
        }
    }
    row
}

#[test]
fn both_ways_of_writing_the_objects_mean_the_same() {
    let by_key = |objects: Vec<Object>| objects.into_iter().map(|o| (o.key(), o)).collect::<BTreeMap<_, _>>();
    let lists = by_key(lists());
    assert_eq!(lists.len(), 121 + 207 + 2);
    assert_eq!(lists, by_key(objects(&["all.yaml"])));
}

#[test]
fn every_row_but_its_masquerade_equals_the_truth() {
    for node in NODES {
        let (planned, recorded) = (planned(lists(), node, Masquerade::default()), recorded(node));
        assert_eq!(recorded.len(), 454);
        let missing: Vec<_> = recorded.iter().filter(|(key, _)| !planned.contains_key(key)).collect();
        assert!(missing.is_empty(), "not planned on {node}: {missing:#?}");
        let extra: Vec<_> = planned.keys().filter(|key| !recorded.contains_key(key)).collect();
        assert!(extra.is_empty(), "planned on {node}, but not there: {extra:#?}");
        for (key, truth) in &recorded {
            assert_eq!(without_masquerade(&planned[key]), without_masquerade(truth), "{key:?} on {node}");
        }
    }
}

/// Every Service's cluster addresses.
fn cluster_ips() -> BTreeSet<String> {
    let services = lists().into_iter().filter_map(|object| match object {
        Object::Service(service) => Some(service.cluster_ips),
        _ => None,
    });
    services.flatten().map(|ip| ip.to_string()).collect()
}

/// Whether kube-proxy's `masquerade` is ours, for a client with backends. The differences:
///
/// | frontend | client | kube-proxy | ours | rule |
/// |---|---|---|---|---|
/// | external, Cluster | pod, node | masquerades | keeps | C25 |
/// | external, Cluster | outside | masquerades | to remote backends only | C25 |
/// | external, Local | node | masquerades | keeps: it is the node's already | C24, C25 |
/// | cluster address | outside | a rule of its own, not in the rows | to remote backends | C26 |
fn expected_masquerade(is_cluster_ip: bool, client: &str, kube_proxy: bool) -> bool {
    client == "outside" && (is_cluster_ip || kube_proxy)
}

#[test]
fn c24_c25_c26_masquerade_differs_from_the_truth_only_where_it_is_meant_to() {
    let cluster_ips = cluster_ips();
    for node in NODES {
        let (local, disputed) = local_backends(node);
        let (planned, recorded) = (planned(lists(), node, Masquerade::default()), recorded(node));
        for (key, truth) in &recorded {
            let is_cluster_ip = key.2.as_ref().is_some_and(|address| cluster_ips.contains(address));
            for (client, answer) in truth["clients"].as_object().unwrap() {
                let Some(kube_proxy) = answer["masquerade"].as_bool() else { continue };
                let owner = truth["owner"].as_str().unwrap();
                let backends =
                    answer["backends"].as_array().unwrap().iter().map(|b| b.as_str().unwrap().to_owned());
                // A backend that two slices put on two nodes may count as either.
                let of_owner = |b: &String, set: &OwnedBackends| set.contains(&(owner.to_owned(), b.clone()));
                let remote: BTreeSet<String> =
                    backends.filter(|b| !of_owner(b, &local) && !of_owner(b, &disputed)).collect();
                let masquerades = expected_masquerade(is_cluster_ip, client, kube_proxy);
                let expected = if masquerades { remote } else { BTreeSet::new() };
                let ours = &planned[key]["clients"][client];
                let ours_backends = ours["masquerade_backends"].as_array().unwrap().iter();
                let mut ours_backends: BTreeSet<String> =
                    ours_backends.map(|b| b.as_str().unwrap().to_owned()).collect();
                assert_eq!(ours["masquerade"], !ours_backends.is_empty(), "{key:?} {client} on {node}");
                assert!(masquerades || ours_backends.is_empty(), "{key:?} {client} on {node}");
                ours_backends.retain(|b| !of_owner(b, &disputed));
                assert_eq!(ours_backends, expected, "{key:?} {client} on {node}");
            }
        }
    }
}

type OwnedBackends = BTreeSet<(String, String)>;

/// `(owner, backend)` of every endpoint on the node, and of those that another slice has on another node, from the
/// JSON itself, by a way of its own.
fn local_backends(node: &str) -> (OwnedBackends, OwnedBackends) {
    let text = std::fs::read_to_string(fixture("endpointslices.json")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let (mut local, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
    for slice in list["items"].as_array().unwrap() {
        let meta = &slice["metadata"];
        let Some(service) = meta["labels"]["kubernetes.io/service-name"].as_str() else { continue };
        for port in slice["ports"].as_array().into_iter().flatten() {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                let Some(number) = port["port"].as_u64() else { continue };
                let address = endpoint["addresses"][0].as_str().unwrap();
                let address = std::net::SocketAddr::new(address.parse().unwrap(), number.try_into().unwrap());
                let name = port["name"].as_str().filter(|name| !name.is_empty());
                let name = name.map(|name| format!(":{name}")).unwrap_or_default();
                let owner = format!("{}/{service}{name}", meta["namespace"].as_str().unwrap());
                let side = if endpoint["nodeName"] == node { &mut local } else { &mut elsewhere };
                side.insert((owner, address.to_string()));
            }
        }
    }
    let disputed = local.intersection(&elsewhere).cloned().collect();
    (local, disputed)
}

#[test]
fn c25_masquerade_always_restores_what_kube_proxy_does() {
    let cluster_ips = cluster_ips();
    for node in NODES {
        let planned = planned(lists(), node, Masquerade::ALWAYS);
        for (key, truth) in recorded(node) {
            let is_cluster_ip = key.2.as_ref().is_some_and(|address| cluster_ips.contains(address));
            for (client, answer) in truth["clients"].as_object().unwrap() {
                let Some(kube_proxy) = answer["masquerade"].as_bool() else { continue };
                // C26: kube-proxy's rule for the cluster address and clients outside is not in its rows.
                let expected = kube_proxy || (is_cluster_ip && client == "outside");
                assert_eq!(
                    planned[&key]["clients"][client]["masquerade"], expected,
                    "{key:?} {client} on {node}"
                );
            }
        }
    }
}
