//! What the owner of an object is told by Kubernetes Events (contract C6, C22).

use std::time::Duration;

use lb_userspace::model::{ObjectKey, ObjectName};
use lb_userspace::source::kube::{KubeSource, Notice};
use serde_json::{Value, json};

use crate::follower::{SOON, open};
use crate::{CLUSTER, NODE, with_cluster};

fn events(server: &lb_tests::apiserver::ApiServer) -> Vec<Value> {
    server.objects("events.k8s.io/v1/events")
}

/// Lets the source go on until so many Events were written.
async fn written(server: &lb_tests::apiserver::ApiServer, source: &mut KubeSource, count: usize) {
    let waited = tokio::time::timeout(SOON, async {
        while events(server).len() < count {
            tokio::time::timeout(Duration::from_millis(10), source.next()).await.ok();
        }
    });
    assert!(waited.await.is_ok(), "{count} Events wanted, there are {:?}", events(server));
}

#[tokio::test]
async fn c6_an_unusable_endpoint_is_told_where_the_object_is_described() {
    let server = with_cluster();
    let mut slice = CLUSTER.slice(2, 0);
    slice["endpoints"][0]["addresses"] = json!(["127.0.0.1"]);
    server.apply(slice).unwrap();
    let mut source = open(&server, NODE).await;
    written(&server, &mut source, 1).await;
    let event = &events(&server)[0];
    assert_eq!(event["reason"], "UnusableField");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reportingController"], "switchboard");
    assert_eq!(event["reportingInstance"], NODE);
    let regarding = &event["regarding"];
    assert_eq!(
        (&regarding["kind"], &regarding["name"]),
        (&json!("EndpointSlice"), &json!("service-2-abcde"))
    );
    assert_eq!(regarding["uid"], "slice-uid-2");
    let note = event["note"].as_str().unwrap();
    assert!(note.starts_with("endpoints[0].addresses[0]: ") && note.contains("loopback"), "{note}");
}

#[tokio::test]
async fn c22_events_are_written_once_and_not_too_many_and_an_object_that_is_gone_gets_none() {
    let server = with_cluster();
    let mut source = open(&server, NODE).await;
    tokio::time::timeout(SOON, source.next()).await.unwrap();
    let notices = source.notices();
    let notice = |number: u32| Notice {
        object: ObjectKey::Service(ObjectName::new("churn", format!("service-{number}"))),
        reason: "FrontendTaken",
        message: format!("for Service {number}"),
    };
    notices.tell(notice(999));
    for _ in 0..3 {
        notices.tell(notice(0));
    }
    (1..8).for_each(|number| notices.tell(notice(number)));
    // Three at once are allowed here, and one was spent on what is gone.
    written(&server, &mut source, 2).await;
    tokio::time::timeout(Duration::from_millis(100), source.next()).await.ok();
    let notes: Vec<Value> = events(&server).iter().map(|event| event["note"].clone()).collect();
    assert_eq!(notes, ["for Service 0", "for Service 1"]);
}
