//! The API server's own Service (contract C48), and the trigger time of slices (C47).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lb_userspace::model::{ObjectName, State};

use crate::follower::Follower;
use crate::{CLUSTER, NODE, kubernetes, kubernetes_slice, with_cluster};

fn endpoints(state: &State) -> Vec<String> {
    let slices = state.slices_of(&ObjectName::new("default", "kubernetes"));
    slices.flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.addr.to_string()).collect()
}

#[tokio::test]
async fn c48_a_server_that_takes_itself_out_and_goes_away_keeps_its_endpoints() {
    let mut server = with_cluster();
    let mut follower = Follower::start(&server, NODE).await;
    assert_eq!(endpoints(&follower.state), ["192.0.2.250"]);
    // As an API server does when it is asked to end: first its endpoint goes, then itself.
    kubernetes(&server, &[]);
    server.apply(CLUSTER.slice(1, 1)).unwrap();
    let known = |state: &State| {
        let slices = state.slices_of(&ObjectName::new("churn", "service-1"));
        slices
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| endpoint.addr.to_string())
            .collect::<Vec<_>>()
    };
    let before = known(&follower.state);
    follower.until("the change after it", |state| known(state) != before).await;
    assert_eq!(endpoints(&follower.state), ["192.0.2.250"]);
    server.delete(&kubernetes_slice(&[])).unwrap();
    server.stop();
    server.compact();
    server.restart().unwrap();
    server.apply(CLUSTER.slice(1, 2)).unwrap();
    let before = known(&follower.state);
    follower.until("the change after a new list", |state| known(state) != before).await;
    assert_eq!(endpoints(&follower.state), ["192.0.2.250"], "also over a list that does not have it");
    kubernetes(&server, &["192.0.2.251"]);
    follower.until("its new address", |state| endpoints(state) == ["192.0.2.251"]).await;
}

#[tokio::test]
async fn c47_the_time_that_a_slice_answers_to_is_kept() {
    let server = with_cluster();
    let follower = Follower::start(&server, NODE).await;
    let name = ObjectName::new("churn", "service-0");
    let slice = follower.state.slices_of(&name).next().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let age = now - slice.triggered.unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
    let own = follower.state.slices_of(&ObjectName::new("default", "kubernetes")).next().unwrap();
    assert_eq!(own.triggered, None);
}
