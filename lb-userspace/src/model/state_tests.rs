//! Which Services each change makes dirty.

use std::sync::Arc;

use super::super::{Endpoint, EndpointPort, Families, Placement, ServicePort};
use super::*;

fn service(name: &str, node_port: Option<u16>) -> Object {
    let port =
        ServicePort { name: String::new(), protocol: lb_common::address::Protocol::TCP, port: 80, node_port };
    Object::Service(Service {
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        families: Families { v4: true, v6: false },
        ports: vec![port],
        ..Service::bare(ObjectName::new("ns", name))
    })
}

fn slice(name: &str, service: &str, zone: Option<&str>) -> Object {
    let endpoint = Endpoint {
        addr: "10.244.0.1".parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        placement: Placement::of(None, zone.map(str::to_owned), None),
    };
    Object::EndpointSlice(EndpointSlice {
        name: ObjectName::new("ns", name),
        service: Some(ObjectName::new("ns", service)),
        version: 0,
        triggered: None,
        ports: Arc::default(),
        endpoints: vec![endpoint].into(),
    })
}

fn node(name: &str, ip: &str, zone: &str) -> Object {
    Object::Node(Node {
        name: name.to_owned(),
        internal_ips: vec![ip.parse().unwrap()],
        external_ips: Vec::new(),
        zone: Some(zone.to_owned()),
        pod_cidrs: Vec::new(),
        leaving: false,
    })
}

fn dirty(state: &mut State) -> Vec<String> {
    state.drain_dirty().into_iter().map(|name| name.name().to_string()).collect()
}

#[test]
fn only_what_changes_becomes_dirty() {
    let mut state = State::new("here");
    assert!(state.apply(service("a", None)) && state.apply(service("b", None)));
    assert_eq!(dirty(&mut state), ["a", "b"]);
    assert!(!state.apply(service("a", None)));
    assert!(dirty(&mut state).is_empty());
    assert!(state.apply(slice("b-1", "b", None)));
    assert_eq!(dirty(&mut state), ["b"]);
}

#[test]
fn a_slice_that_changes_its_service_concerns_both() {
    let mut state = State::new("here");
    state.apply(slice("s", "a", None));
    dirty(&mut state);
    state.apply(slice("s", "b", None));
    assert_eq!(dirty(&mut state), ["a", "b"]);
    assert_eq!(state.slices_of(&ObjectName::new("ns", "a")).count(), 0);
    assert!(state.delete(&ObjectKey::EndpointSlice(ObjectName::new("ns", "s"))));
    assert_eq!(dirty(&mut state), ["b"]);
}

#[test]
fn a_relist_deletes_what_is_gone_and_leaves_the_rest_alone() {
    let mut state = State::new("here");
    state.replace_all([service("a", None), service("b", None), slice("s", "b", None)]);
    dirty(&mut state);
    let relisted = state.replace_all([service("b", None), slice("s", "b", None), service("c", None)]);
    assert_eq!(relisted, Relisted { changed: 1, deleted: 1 });
    assert_eq!(dirty(&mut state), ["a", "c"]);
}

#[test]
fn a_relist_of_one_kind_leaves_the_other_kinds_alone() {
    let mut state = State::new("here");
    state.replace_all([service("a", None), service("b", None), slice("s", "b", None)]);
    dirty(&mut state);
    let relisted = state.replace_kind(Kind::Service, [service("b", None)]);
    assert_eq!(relisted, Relisted { changed: 0, deleted: 1 });
    assert_eq!(dirty(&mut state), ["a"]);
    assert_eq!(state.slices_of(&ObjectName::new("ns", "b")).count(), 1);
}

#[test]
fn the_own_node_concerns_those_that_depend_on_its_zone_or_addresses() {
    let mut state = State::new("here");
    state.replace_all([
        node("here", "192.0.2.1", "za"),
        service("plain", None),
        service("hinted", None),
        slice("s", "hinted", Some("za")),
        service("node-port", Some(30080)),
    ]);
    dirty(&mut state);
    assert!(!state.apply(node("there", "192.0.2.9", "zb")), "other nodes are of no concern");
    state.apply(node("here", "192.0.2.1", "zb"));
    assert_eq!(dirty(&mut state), ["hinted"]);
    state.apply(node("here", "192.0.2.2", "zb"));
    assert_eq!(dirty(&mut state), ["node-port"]);
}

#[test]
fn ignored_kinds_are_counted() {
    let mut state = State::new("here");
    state.count_ignored("v1 Pod", 2);
    state.count_ignored("v1 Pod", 1);
    assert_eq!(state.ignored().get("v1 Pod"), Some(&3));
}

#[test]
fn a_node_that_many_endpoints_are_on_is_named_once_and_forgotten_with_the_last() {
    let on = |slice_name: &str, node: &str| {
        let Object::EndpointSlice(mut slice) = slice(slice_name, "a", None) else { unreachable!("a slice") };
        let addr = slice.endpoints.iter().next().unwrap().addr;
        let placement = Placement::on(node);
        let endpoint = Endpoint { addr, ready: true, serving: true, terminating: false, placement };
        slice.endpoints = vec![endpoint].into();
        Object::EndpointSlice(slice)
    };
    let mut state = State::new("here");
    state.replace_all([on("s1", "node"), on("s2", "node")]);
    let nodes: Vec<_> = state
        .slices_of(&ObjectName::new("ns", "a"))
        .flat_map(|slice| &slice.endpoints)
        .map(|endpoint| endpoint.placement.cloned())
        .collect();
    let [Some(one), Some(other)] = nodes.as_slice() else { panic!("two endpoints: {nodes:?}") };
    assert!(Arc::ptr_eq(one, other));
    drop(nodes);
    for number in 0..1_000 {
        state.apply(on("s1", &format!("node-{number}")));
    }
    let kept = state.known.placements.len();
    assert!(kept < 10, "{kept} are kept");
}

#[test]
fn ports_that_many_slices_have_are_kept_once_and_forgotten_with_the_last() {
    let listening = |slice_name: &str, port: u16| {
        let Object::EndpointSlice(mut slice) = slice(slice_name, "a", None) else { unreachable!("a slice") };
        let protocol = lb_common::address::Protocol::TCP;
        slice.ports = vec![EndpointPort { name: "http".to_owned(), protocol, port }].into();
        Object::EndpointSlice(slice)
    };
    let mut state = State::new("here");
    state.replace_all([listening("s1", 80), listening("s2", 80), listening("s3", 81)]);
    let of_state = |state: &State| -> Vec<_> {
        state.slices_of(&ObjectName::new("ns", "a")).map(|slice| slice.ports.clone()).collect()
    };
    let ports = of_state(&state);
    assert!(Arc::ptr_eq(&ports[0], &ports[1]) && ports[0] != ports[2]);
    drop(ports);
    for port in 1..1_000 {
        state.apply(listening("s1", port));
        assert_eq!(of_state(&state)[0][0].port, port);
    }
    let kept = state.known.ports.len();
    assert!(kept < 10, "{kept} are kept");
}
