//! Each thing that an API server can do wrong: the maps do not move, and afterwards changes arrive.

use std::time::{Duration, Instant};

use lb_tests::apiserver::{ApiServer, WatchFault, WrongAnswer};
use lb_userspace::model::{ObjectName, State};

use crate::follower::{Follower, SILENCE, SOON};
use crate::{CLUSTER, NODE, with_cluster};

/// Rows that replacing one endpoint of a Service may touch: its backend, the old one, slots, the frontend, and no
/// other Service's.
const ONE_CHANGE: usize = 12;

/// Breaks something, changes one slice, and waits until that has arrived; with streamed lists and plain ones.
async fn survives(name: &str, break_it: impl Fn(&mut ApiServer)) {
    for streams in [true, false] {
        let mut server = with_cluster();
        server.set(|settings| settings.streams_lists = streams);
        let mut follower = Follower::start(&server, NODE).await.steady("churn");
        // One of the streams must be there to be broken.
        watches_are_open(&server, &mut follower).await;
        break_it(&mut server);
        server.apply(CLUSTER.slice(3, 1)).unwrap();
        follower.until(&format!("a change after {name}"), |state| has(state, 3, 1)).await;
        let rows = follower.rows_written;
        assert!(rows > 0 && rows <= ONE_CHANGE, "{name}: {rows} rows written for one changed endpoint");
    }
}

/// Does the state know this generation of a Service's endpoints?
fn has(state: &State, number: u32, generation: u32) -> bool {
    let wanted: Vec<String> = CLUSTER.slice(number, generation)["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
        .collect();
    let slices = state.slices_of(&ObjectName::new("churn", format!("service-{number}")));
    let known: Vec<String> =
        slices.flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.addr.to_string()).collect();
    known == wanted
}

/// Waits until each kind's watch has been answered; lists that are not streamed come before.
async fn watches_are_open(server: &ApiServer, follower: &mut Follower) {
    let open = || {
        let requests = server.requests();
        let kinds = ["services", "endpointslices", "nodes", "servicecidrs"];
        kinds.iter().all(|plural| {
            requests
                .iter()
                .any(|request| request.is_watch() && request.is_for(plural) && request.status == 200)
        })
    };
    let waited = tokio::time::timeout(SOON, async {
        while !open() {
            tokio::time::timeout(Duration::from_millis(5), follower.follow()).await.ok();
        }
    });
    assert!(waited.await.is_ok(), "no watches: {:?}", server.requests());
}

#[tokio::test]
async fn a_version_that_is_gone_in_mid_watch_is_listed_anew_without_an_empty_moment() {
    survives("410 in mid watch", |server| server.fault(None, WatchFault::Error(410))).await;
}

#[tokio::test]
async fn a_version_that_is_compacted_while_the_watch_is_away_is_listed_anew() {
    survives("compaction", |server| {
        server.apply(CLUSTER.service(0)).unwrap();
        server.compact();
        server.fault(None, WatchFault::End);
    })
    .await;
}

#[tokio::test]
async fn a_watch_that_is_refused_with_410_is_listed_anew() {
    survives("410 as the answer", |server| {
        server.answer_wrongly(WrongAnswer::status(410, 1).of("endpointslices").watches());
        server.fault(None, WatchFault::End);
    })
    .await;
}

#[tokio::test]
async fn internal_errors_are_waited_out() {
    survives("500, to watches and in them", |server| {
        server.answer_wrongly(WrongAnswer::status(500, 5));
        server.fault(None, WatchFault::Error(500));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_overloaded_is_asked_no_sooner_than_it_says() {
    let server = with_cluster();
    let mut follower = Follower::start(&server, NODE).await.steady("churn");
    watches_are_open(&server, &mut follower).await;
    server.forget_requests();
    server.answer_wrongly(WrongAnswer::status(429, 1).of("endpointslices").retry_after(1));
    server.fault(Some("endpointslices"), WatchFault::End);
    while !server.requests().iter().any(|request| request.status == 429) {
        tokio::time::timeout(Duration::from_millis(5), follower.follow()).await.ok();
    }
    server.apply(CLUSTER.slice(3, 1)).unwrap();
    follower.until("a change after 429", |state| has(state, 3, 1)).await;
    let times: Vec<(u16, Instant)> = server
        .requests()
        .iter()
        .filter(|request| request.is_for("endpointslices"))
        .map(|request| (request.status, request.at))
        .collect();
    let [(429, refused), (200, again), ..] = times.as_slice() else { panic!("{times:?}") };
    assert!(*again - *refused >= Duration::from_millis(990), "asked again after {:?}", *again - *refused);
}

#[tokio::test]
async fn connections_that_are_reset_are_made_anew() {
    survives("a reset", |server| server.reset_connections()).await;
}

#[tokio::test]
async fn an_event_cut_in_the_middle_is_read_again() {
    survives("half a line", |server| server.fault(None, WatchFault::HalfALine)).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_read_leads_to_a_new_list() {
    survives("garbage", |server| server.fault(None, WatchFault::Garbage)).await;
}

#[tokio::test]
async fn a_restart_of_the_server_is_survived_with_and_without_its_history() {
    survives("a restart", |server| server.restart().unwrap()).await;
    survives("a restart that lost history", |server| {
        server.stop();
        server.compact();
        server.restart().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_black_hole_is_noticed_by_its_silence() {
    let server = with_cluster();
    let mut follower = Follower::start(&server, NODE).await.steady("churn");
    watches_are_open(&server, &mut follower).await;
    server.forget_requests();
    server.freeze();
    server.apply(CLUSTER.slice(3, 1)).unwrap();
    // While it hangs nothing arrives, and nothing moves; connections of before stay hanging.
    let quiet = tokio::time::timeout(SILENCE * 3, follower.follow()).await;
    assert!(quiet.is_err(), "an update came out of a black hole");
    let unreachable: u64 = follower
        .source
        .errors()
        .iter()
        .filter(|((_, class), _)| class == "unreachable")
        .map(|(_, n)| n)
        .sum();
    assert!(unreachable > 0, "the silence was not noticed: {:?}", follower.source.errors());
    server.thaw();
    follower.until("a change after the black hole", |state| has(state, 3, 1)).await;
    assert!(follower.rows_written <= ONE_CHANGE, "{} rows", follower.rows_written);
}

#[tokio::test]
async fn a_server_that_ends_every_watch_at_once_is_not_hammered() {
    let server = with_cluster();
    let mut follower = Follower::start(&server, NODE).await;
    watches_are_open(&server, &mut follower).await;
    server.forget_requests();
    let began = Instant::now();
    for _ in 0..200 {
        server.fault(Some("services"), WatchFault::End);
        tokio::time::timeout(Duration::from_millis(5), follower.follow()).await.ok();
    }
    let asked = server.requests().iter().filter(|request| request.is_for("services")).count();
    // They begin 5, 10, 20, 40, 80, 100, 100 ... ms apart.
    let allowed = 7 + usize::try_from(began.elapsed().as_millis() / 100).unwrap();
    assert!(asked >= 2 && asked <= allowed, "{asked} requests in {:?}", began.elapsed());
}
