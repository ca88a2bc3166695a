//! What a real API server said while its own network tests ran, told again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lb_tests::apiserver::{ApiServer, Recording, Speed, WatchFault};

use crate::follower::{Follower, Held, held};
use crate::server;

const NODE: &str = "k8snode1";

fn recording() -> Recording {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/conformance-run");
    Recording::read(&folder, &["services", "endpointslices", "nodes"]).unwrap()
}

/// What a fresh start on the final objects knows.
async fn expected(recording: &Recording) -> Held {
    let server = server();
    for object in recording.ends_with().unwrap() {
        server.apply_as_it_is(object).unwrap();
    }
    held(&Follower::start(&server, NODE).await.state)
}

/// Plays it while an agent follows, and compares. `meanwhile` is called with the share that was played, in percent.
async fn replayed(streams: bool, speed: f64, meanwhile: impl Fn(&ApiServer, usize) + Send + 'static) {
    let recording = recording();
    assert!(recording.steps.len() > 900, "the recording has shrunk");
    let wanted = expected(&recording).await;
    let server = Arc::new(server());
    server.set(|settings| settings.streams_lists = streams);
    server.hold_lists(&recording).unwrap();
    let mut follower = Follower::start(&server, NODE).await;
    let player = {
        let server = Arc::clone(&server);
        std::thread::spawn(move || {
            let parts = recording.steps.len().div_ceil(100);
            let mut before = Duration::ZERO;
            for (percent, steps) in recording.steps.chunks(parts).enumerate() {
                meanwhile(&server, percent);
                let steps = steps.iter().map(|step| {
                    let mut step = step.clone();
                    step.at = step.at.saturating_sub(before);
                    step
                });
                let part = Recording { lists: Vec::new(), steps: steps.collect() };
                before += part.steps.last().map(|step| step.at).unwrap_or_default();
                let speed = if speed > 0.0 { Speed::Times(speed) } else { Speed::AtOnce };
                server.play(&part, speed).unwrap();
            }
        })
    };
    follower.until("the recording's final state", |state| held(state) == wanted).await;
    player.join().unwrap();
    follower.until("the recording's final state", |state| held(state) == wanted).await;
    println!("{} updates, {} rows written", follower.updates, follower.rows_written);
    follower.assert_as_after_a_fresh_start(&server, NODE).await;
}

#[tokio::test]
async fn a_recording_ends_in_the_rows_of_a_fresh_start_at_hundreds_of_times_its_speed() {
    replayed(true, 400.0, |_, _| {}).await;
}

#[tokio::test]
async fn a_recording_without_a_pause_ends_in_the_same_rows() {
    replayed(true, 0.0, |_, _| {}).await;
}

#[tokio::test]
async fn a_recording_with_faults_all_the_way_ends_in_the_same_rows() {
    for streams in [true, false] {
        replayed(streams, 250.0, |server, percent| match percent % 12 {
            1 => server.fault(None, WatchFault::Error(410)),
            3 => server.reset_connections(),
            5 => server.fault(Some("endpointslices"), WatchFault::HalfALine),
            7 => server.compact(),
            8 => server.fault(None, WatchFault::End),
            10 => server.fault(Some("services"), WatchFault::Garbage),
            _ => {}
        })
        .await;
    }
}
