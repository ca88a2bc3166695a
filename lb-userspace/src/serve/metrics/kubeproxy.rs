//! The metrics that kube-proxy has, under its names (contract C47), so that dashboards and alerts go on working.
//!
//! Decides what each of them means here. Invariant: names and labels are kube-proxy's, also where the
//! convention for names would have others.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::doubling;

pub(super) type Label = [(&'static str, &'static str); 1];
pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// Metrics under kube-proxy's names.
#[derive(Debug)]
pub struct KubeProxy {
    /// From the planning of a change to its last row.
    pub sync_duration: Histogram,
    /// From the change of a pod or Service, as the slice's annotation has it, to its last row.
    pub programming_duration: Histogram,
    /// When changes were last applied, in seconds since 1970.
    pub last_sync: Seconds,
    /// When a change was last received, in seconds since 1970.
    pub last_queued: Seconds,
    /// Changes of Services received; a full list counts once.
    pub service_changes: Counter,
    /// Changes of Services that are not applied.
    pub service_changes_pending: Gauge,
    /// Changes of EndpointSlices received; a full list counts once.
    pub endpoint_changes: Counter,
    /// Changes of EndpointSlices that are not applied.
    pub endpoint_changes_pending: Gauge,
    /// Service ports whose policy is Local and that have endpoints, none of them here, by `traffic_policy`.
    pub no_local_endpoints: Family<Label, Gauge>,
    /// Answers of `/healthz`, by `code`.
    pub healthz: Family<Label, Counter>,
    /// Answers of `/livez`, by `code`.
    pub livez: Family<Label, Counter>,
}

impl Default for KubeProxy {
    fn default() -> Self {
        let new = Self {
            sync_duration: doubling(0.001, 15),
            programming_duration: doubling(0.001, 19),
            last_sync: Seconds::default(),
            last_queued: Seconds::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
            no_local_endpoints: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
        };
        for policy in ["internal", "external"] {
            drop(new.no_local_endpoints.get_or_create(&[("traffic_policy", policy)]));
        }
        for code in ["200", "503"] {
            drop(new.healthz.get_or_create(&[("code", code)]));
            drop(new.livez.get_or_create(&[("code", code)]));
        }
        new
    }
}

impl KubeProxy {
    /// Adds them all, without kube-proxy's prefix. A counter's name gets `_total` when it is shown.
    pub(super) fn register(&self, to: &mut Registry) {
        let sync = "sync_proxy_rules";
        to.register(
            format!("{sync}_duration_seconds"),
            "How long it took to plan and write a change",
            self.sync_duration.clone(),
        );
        to.register(
            "network_programming_duration_seconds",
            "From the change of a pod or Service to its last row in the maps",
            self.programming_duration.clone(),
        );
        to.register(
            format!("{sync}_last_timestamp_seconds"),
            "When changes were last applied",
            self.last_sync.clone(),
        );
        to.register(
            format!("{sync}_last_queued_timestamp_seconds"),
            "When a change was last received",
            self.last_queued.clone(),
        );
        to.register(
            format!("{sync}_service_changes"),
            "Changes of Services received",
            self.service_changes.clone(),
        );
        to.register(
            format!("{sync}_service_changes_pending"),
            "Changes of Services not applied yet",
            self.service_changes_pending.clone(),
        );
        to.register(
            format!("{sync}_endpoint_changes"),
            "Changes of EndpointSlices received",
            self.endpoint_changes.clone(),
        );
        to.register(
            format!("{sync}_endpoint_changes_pending"),
            "Changes of EndpointSlices not applied yet",
            self.endpoint_changes_pending.clone(),
        );
        to.register(
            format!("{sync}_no_local_endpoints_total"),
            "Service ports whose policy is Local, with endpoints but none on this node",
            self.no_local_endpoints.clone(),
        );
        to.register("proxy_healthz", "Answers of /healthz", self.healthz.clone());
        to.register("proxy_livez", "Answers of /livez", self.livez.clone());
    }
}
