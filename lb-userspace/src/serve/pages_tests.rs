//! Status, headers and bodies of every page.

use std::time::{Duration, Instant};

use super::*;

async fn body(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn c46_healthz_is_json_with_the_times_and_the_nodes_eligibility() {
    let board = Board::default();
    let response = healthz_page(&board);
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-type"), "application/json");
    assert_eq!(header(&response, "x-content-type-options"), "nosniff");
    let value: serde_json::Value = serde_json::from_str(&body(response).await).unwrap();
    assert_eq!(value["nodeEligible"], true);
    assert_eq!(value["lastUpdated"], value["currentTime"], "healthy: updated just now");
    assert!(value["currentTime"].as_str().unwrap().ends_with(" +0000 UTC"), "{value}");

    board.set_eligible(false);
    let response = healthz_page(&board);
    assert_eq!(response.status(), 503);
    let value: serde_json::Value = serde_json::from_str(&body(response).await).unwrap();
    assert_eq!((&value["nodeEligible"], &value["lastUpdated"]), (&false.into(), &NEVER.into()));
    assert_eq!(livez_page(&board).status(), 200, "livez does not look at the Node");
    assert_eq!(board.metrics.kubeproxy.healthz.get_or_create(&[("code", "503")]).get(), 1);
    assert_eq!(board.metrics.kubeproxy.livez.get_or_create(&[("code", "200")]).get(), 1);
}

#[tokio::test]
async fn c46_a_change_that_waits_too_long_shows_in_healthz_and_livez() {
    let board = Board::default();
    let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(3_600)) else { return };
    // As if the board were an hour old.
    let board = board.started_at_instant(long_ago);
    board.heard();
    board.queued(long_ago);
    for response in [healthz_page(&board), livez_page(&board)] {
        assert_eq!(response.status(), 503);
    }
    board.updated();
    let response = livez_page(&board);
    assert_eq!(response.status(), 200);
    let text = body(response).await;
    assert!(text.contains("lastUpdated") && !text.contains("nodeEligible"), "{text}");
}

#[test]
fn ready_is_who_was_in_sync_once() {
    let board = Board::default();
    assert_eq!(readyz_page(&board).status(), 503);
    board.updated();
    assert_eq!(readyz_page(&board).status(), 200);
}

#[tokio::test]
async fn c45_a_health_check_node_port_answers_exactly() {
    let service = ObjectName::new("ns", "web");
    for (endpoints, healthy, status) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
        let response = node_port_page(&service, endpoints, healthy);
        assert_eq!(response.status(), status);
        assert_eq!(header(&response, "content-type"), "application/json");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff");
        assert_eq!(header(&response, "x-load-balancing-endpoint-weight"), endpoints.to_string());
        let value: serde_json::Value = serde_json::from_str(&body(response).await).unwrap();
        let expected = serde_json::json!({"service": {"namespace": "ns", "name": "web"},
            "localEndpoints": endpoints, "serviceProxyHealthy": healthy});
        assert_eq!(value, expected);
    }
}
