//! The first lists (contract C4), and what is asked for (C1, C5).

use std::time::Duration;

use lb_tests::apiserver::{ApiServer, WrongAnswer};
use lb_userspace::model::{Kind, ObjectName};
use lb_userspace::source::Severity;
use serde_json::json;

use crate::follower::{Follower, SOON, open};
use crate::{CLUSTER, NODE, server, with_cluster};

/// Waits until the server has answered so many requests for a kind, with this status.
async fn answered(server: &ApiServer, plural: &str, status: u16, times: usize) {
    let waited = tokio::time::timeout(SOON, async {
        let count = || {
            let of =
                |request: &&lb_tests::apiserver::Request| request.is_for(plural) && request.status == status;
            server.requests().iter().filter(of).count()
        };
        while count() < times {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "{plural} was not answered with {status}: {:?}", server.requests());
}

#[tokio::test]
async fn c4_nothing_is_said_before_every_kind_was_listed() {
    for late in ["services", "endpointslices", "nodes"] {
        let server = with_cluster();
        server.answer_wrongly(WrongAnswer::status(503, 20).of(late));
        let mut source = open(&server, NODE).await;
        let others = ["services", "endpointslices", "nodes"].into_iter().filter(|plural| *plural != late);
        tokio::select! {
            update = source.next() => panic!("{late} was not listed, and yet: {update:?}"),
            () = async {
                answered(&server, late, 503, 5).await;
                for plural in others {
                    answered(&server, plural, 200, 1).await;
                }
            } => {}
        }
        assert!(!source.awaited().is_empty());
        let update = tokio::time::timeout(SOON, source.next()).await.unwrap();
        assert!(source.awaited().is_empty());
        assert!(update.changes.len() >= 4, "each kind's list is in the first update");
    }
}

#[tokio::test]
async fn lists_come_by_pages_where_the_server_does_not_stream_them() {
    let server = server();
    server.set(|settings| settings.streams_lists = false);
    let many = lb_tests::apiserver::Invented { services: 1_203, endpoints: 1, nodes: 1 };
    many.hold(&server).unwrap();
    let follower = Follower::start(&server, NODE).await;
    assert_eq!(follower.state.services().count(), 1_203);
    let pages =
        server.requests().iter().filter(|r| r.is_for("services") && r.uri.contains("limit=500")).count();
    assert_eq!(pages, 3);
}

#[tokio::test]
async fn c1_what_does_not_count_is_not_even_asked_for() {
    let server = with_cluster();
    let mut foreign = CLUSTER.service(5);
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    server.apply(foreign.clone()).unwrap();
    let mut headless = CLUSTER.slice(6, 0);
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    server.apply(headless).unwrap();
    let mut follower = Follower::start(&server, NODE).await;
    let name = |number: u32| ObjectName::new("churn", format!("service-{number}"));
    assert!(follower.state.service(&name(5)).is_none());
    assert_eq!(follower.state.slices_of(&name(6)).count(), 0);
    let uris: Vec<String> = server.requests().into_iter().map(|request| request.uri).collect();
    let asks = |plural: &str, part: &str| uris.iter().any(|uri| uri.contains(plural) && uri.contains(part));
    assert!(asks("/services", "labelSelector=!service.kubernetes.io/service-proxy-name"), "{uris:?}");
    assert!(
        asks("/endpointslices", "!service.kubernetes.io/headless,kubernetes.io/service-name"),
        "{uris:?}"
    );
    assert!(asks("/nodes", "fieldSelector=metadata.name=node0"), "{uris:?}");
    // A label that comes later takes the Service away, and one that goes brings it back.
    server.apply(CLUSTER.service(5)).unwrap();
    follower.until("the Service without the label", |state| state.service(&name(5)).is_some()).await;
    server.apply(foreign).unwrap();
    follower.until("the Service with the label", |state| state.service(&name(5)).is_none()).await;
}

#[tokio::test]
async fn a_server_without_service_cidrs_is_one_without_service_networks_until_it_has_some() {
    let server = with_cluster();
    server.set(|settings| settings.without = ["servicecidrs".to_owned()].into());
    let mut follower = Follower::start(&server, NODE).await;
    assert!(follower.state.service_networks().is_empty());
    server
        .apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]},
        }))
        .unwrap();
    server.set(|settings| settings.without.clear());
    follower.until("the service networks", |state| state.service_networks().len() == 2).await;
}

#[tokio::test]
async fn what_cannot_be_used_of_an_object_is_said_once_with_its_name_and_field() {
    let server = with_cluster();
    let mut slice = CLUSTER.slice(2, 0);
    slice["endpoints"][0]["addresses"] = json!(["127.0.0.1"]);
    server.apply(slice.clone()).unwrap();
    let mut source = open(&server, NODE).await;
    let update = tokio::time::timeout(SOON, source.next()).await.unwrap();
    let said: Vec<String> = update.findings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("EndpointSlice churn/service-2-abcde: endpoints[0].addresses[0]: "),
        "{said:?}"
    );
    assert_eq!(update.findings[0].severity, Severity::Problem);
    slice["metadata"]["annotations"] = json!({"changed": "a bit"});
    server.apply(slice).unwrap();
    let update = tokio::time::timeout(SOON, source.next()).await.unwrap();
    assert!(update.findings.is_empty(), "said twice: {:?}", update.findings);
}

#[tokio::test]
async fn an_object_of_an_unexpected_shape_costs_itself_only() {
    let server = with_cluster();
    let mut odd = CLUSTER.service(4);
    odd["spec"]["ports"] = json!("none");
    server.apply(odd).unwrap();
    let mut source = open(&server, NODE).await;
    let update = tokio::time::timeout(SOON, source.next()).await.unwrap();
    let said: Vec<String> = update.findings.iter().map(ToString::to_string).collect();
    assert!(said.len() == 1 && said[0].starts_with("Service churn/service-4: object: "), "{said:?}");
    let mut follower = Follower::start(&server, NODE).await;
    assert_eq!(follower.state.services().count(), 12, "eleven of twelve, and default/kubernetes");
    server.apply(CLUSTER.service(4)).unwrap();
    follower.until("the corrected Service", |state| state.services().count() == 13).await;
    let mut odd = CLUSTER.service(4);
    odd["spec"]["ports"] = json!("none");
    server.apply(odd).unwrap();
    server.apply(CLUSTER.slice(4, 1)).unwrap();
    follower.follow().await;
    assert_eq!(follower.state.services().count(), 13, "what it last was stays");
}

#[tokio::test]
async fn a_node_that_the_server_does_not_have_is_said_and_taken_in_once_it_comes() {
    let server = with_cluster();
    let mut source = open(&server, "absent").await;
    let update = tokio::time::timeout(SOON, source.next()).await.unwrap();
    assert!(
        update.findings.iter().any(|finding| finding.to_string().contains("--node")),
        "{:?}",
        update.findings
    );
    server.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "absent"}})).unwrap();
    let update = tokio::time::timeout(SOON, source.next()).await.unwrap();
    assert!(format!("{:?}", update.changes).contains("absent"));
    assert_eq!(Kind::Node.to_string(), "Node");
}
