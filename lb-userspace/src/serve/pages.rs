//! What is answered, byte for byte.
//!
//! Decides status, headers and body of every page (contract C45 to C47). Must not know sockets. Invariant: bodies and
//! headers are those that kube-proxy sends, so whoever read its answers can read these.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;

use super::board::{Board, HealthCheck};
use crate::model::ObjectName;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How Go shows a time that was never set.
const NEVER: &str = "0001-01-01 00:00:00 +0000 UTC";

/// `/healthz`, `/livez`, `/readyz`.
pub(super) fn health(board: &Arc<Board>) -> Router {
    let [healthz, livez, readyz] = [board, board, board].map(Arc::clone);
    Router::new()
        .route("/healthz", get(async move || healthz_page(&healthz)))
        .route("/livez", get(async move || livez_page(&livez)))
        .route("/readyz", get(async move || readyz_page(&readyz)))
}

/// `/metrics`.
pub(super) fn metrics(registry: Arc<Registry>) -> Router {
    Router::new().route("/metrics", get(async move || metrics_page(&registry)))
}

/// A health check node port: any path.
pub(super) fn node_port(board: Arc<Board>, service: ObjectName) -> Router {
    Router::new().fallback(async move || {
        let check = board.check(&service).unwrap_or(HealthCheck { port: 0, local_endpoints: 0 });
        let (_, healthy, _) = board.health_now();
        node_port_page(&service, check.local_endpoints, healthy)
    })
}

fn healthz_page(board: &Board) -> Response {
    let (health, healthy, updated) = board.health_now();
    let eligible = health.is_eligible();
    let well = healthy && eligible;
    board.metrics.kubeproxy.healthz.get_or_create(&[("code", code(well))]).inc();
    let times = times(well, updated, SystemTime::now());
    json(well, format!(r#"{{{times}, "nodeEligible": {eligible}}}"#))
}

fn livez_page(board: &Board) -> Response {
    let (_, healthy, updated) = board.health_now();
    board.metrics.kubeproxy.livez.get_or_create(&[("code", code(healthy))]).inc();
    json(healthy, format!("{{{}}}", times(healthy, updated, SystemTime::now())))
}

/// Ready: healthy, and in sync for the first time.
fn readyz_page(board: &Board) -> Response {
    let (_, healthy, updated) = board.health_now();
    let ready = healthy && updated.is_some();
    json(ready, format!("{{{}}}", times(ready, updated, SystemTime::now())))
}

fn node_port_page(service: &ObjectName, local_endpoints: usize, healthy: bool) -> Response {
    let body = serde_json::json!({
        "service": {"namespace": service.namespace(), "name": service.name()},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let mut response = json(local_endpoints > 0 && healthy, body.to_string());
    response.headers_mut().insert("x-load-balancing-endpoint-weight", HeaderValue::from(local_endpoints));
    response
}

fn metrics_page(registry: &Registry) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be written; please report it");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// As kube-proxy has it, who is well was updated just now.
fn times(well: bool, updated: Option<SystemTime>, now: SystemTime) -> String {
    let updated = if well { Some(now) } else { updated };
    let updated = updated.map_or_else(|| NEVER.to_owned(), shown);
    format!(r#""lastUpdated": "{updated}","currentTime": "{}""#, shown(now))
}

fn shown(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(
        |_| NEVER.to_owned(),
        |time| time.strftime("%Y-%m-%d %H:%M:%S%.9f +0000 UTC").to_string(),
    )
}

fn code(well: bool) -> &'static str {
    if well { "200" } else { "503" }
}

fn json(well: bool, body: String) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, headers, body).into_response()
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
