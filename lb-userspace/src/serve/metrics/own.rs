//! The agent's own metrics.
//!
//! Decides names, units and labels of what the agent does; what stands in the maps is in `observe`. Invariant: no
//! label takes its values from objects, so that a cluster's size does not set the number of series.

use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::doubling;
use super::kubeproxy::Label;
use crate::model::Kind;

/// Requests of a kind of objects, by why they failed.
type Failure = [(&'static str, String); 2];

/// A stretch of a change's way into the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the change of the pod or Service to this agent: controllers, API server, network.
    Delivered,
    /// From there until it was decided what is to be.
    Planned,
    /// From there until the last row was written.
    Written,
}

impl Stage {
    /// As a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Planned => "planned",
            Self::Written => "written",
        }
    }
}

/// The agent's own metrics.
#[derive(Debug)]
pub struct Own {
    stages: Family<Label, Histogram, fn() -> Histogram>,
    /// Services that are in force.
    pub services: Gauge,
    /// Services that do not fit.
    pub refused_services: Gauge,
    /// Frontends that another Service has (C22).
    pub refused_frontends: Gauge,
    /// Things in objects that could not be used.
    pub rejected_fields: Counter,
    /// Service ports whose rows could not be written yet.
    pub failing_service_ports: Gauge,
    /// Writes that failed.
    pub write_failures: Counter,
    /// Rows that were written or deleted.
    pub rows_written: Counter,
    /// How often maps were read back.
    pub audits: Counter,
    /// Operations that it took to undo what others did to the maps.
    pub drift_found: Counter,
    /// Those of them that took effect.
    pub drift_repaired: Counter,
    /// What somebody else had taken off or unpinned, and is in its place again: interfaces, sockets' hooks, maps.
    pub put_back: Counter,
    /// Interfaces with programs on them.
    pub interfaces: Gauge,
    node_ports: Family<Label, Gauge>,
    api_errors: Family<Failure, Counter>,
}

impl Default for Own {
    fn default() -> Self {
        let new = Self {
            stages: Family::new_with_constructor(|| doubling(0.000_25, 20)),
            services: Gauge::default(),
            refused_services: Gauge::default(),
            refused_frontends: Gauge::default(),
            rejected_fields: Counter::default(),
            failing_service_ports: Gauge::default(),
            write_failures: Counter::default(),
            rows_written: Counter::default(),
            audits: Counter::default(),
            drift_found: Counter::default(),
            drift_repaired: Counter::default(),
            put_back: Counter::default(),
            interfaces: Gauge::default(),
            node_ports: Family::default(),
            api_errors: Family::default(),
        };
        for stage in [Stage::Delivered, Stage::Planned, Stage::Written] {
            drop(new.stages.get_or_create(&[("stage", stage.name())]));
        }
        new.set_node_ports(0, 0);
        for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr] {
            new.set_api_errors(kind, "unreachable", 0);
        }
        new
    }
}

impl Own {
    /// A change took that long for a stretch of its way.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages.get_or_create(&[("stage", stage.name())]).observe(took.as_secs_f64());
    }

    /// So many health check node ports are open, and so many could not be opened.
    pub(in crate::serve) fn set_node_ports(&self, open: usize, failed: usize) {
        for (state, ports) in [("open", open), ("failed", failed)] {
            self.node_ports.get_or_create(&[("state", state)]).set(i64::try_from(ports).unwrap_or(i64::MAX));
        }
    }

    /// So many requests of a kind of objects have failed since the start, with this HTTP status, or `unreachable` or
    /// `unreadable`.
    pub fn set_api_errors(&self, kind: Kind, reason: &str, failed: u64) {
        let labels = [("kind", kind.to_string()), ("reason", reason.to_owned())];
        self.api_errors.get_or_create(&labels).inner().store(failed, Ordering::Relaxed);
    }

    /// Adds them all, without the prefix. A counter's name gets `_total` when it is shown.
    pub(super) fn register(&self, to: &mut Registry) {
        let info = Family::<Label, ConstGauge<i64>, fn() -> ConstGauge<i64>>::new_with_constructor(|| {
            ConstGauge::new(1)
        });
        drop(info.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]));
        to.register("build_info", "The version that runs", info);
        to.register(
            "sync_stage_duration_seconds",
            "How long a change took for each stretch of its way into the maps",
            self.stages.clone(),
        );
        to.register("services", "Services in force", self.services.clone());
        to.register(
            "refused_services",
            "Services that do not fit into the maps, or not in their new form",
            self.refused_services.clone(),
        );
        to.register(
            "refused_frontends",
            "Frontends that a Service created earlier has already",
            self.refused_frontends.clone(),
        );
        to.register(
            "rejected_fields",
            "Things in objects that could not be used, as they were told",
            self.rejected_fields.clone(),
        );
        to.register(
            "failing_service_ports",
            "Service ports whose rows could not be written yet",
            self.failing_service_ports.clone(),
        );
        to.register("write_failures", "Writes to the maps that failed", self.write_failures.clone());
        to.register("rows_written", "Rows written or deleted in the maps", self.rows_written.clone());
        to.register("audits", "How often the maps were read back to look for drift", self.audits.clone());
        to.register(
            "drift_found_operations",
            "Operations that it takes to undo what others did to the maps",
            self.drift_found.clone(),
        );
        to.register(
            "drift_repaired_operations",
            "Operations that undid what others did to the maps",
            self.drift_repaired.clone(),
        );
        to.register(
            "put_back",
            "Interfaces whose programs somebody took off, socket hooks and maps' pins likewise, in place again",
            self.put_back.clone(),
        );
        to.register("interfaces", "Interfaces with programs on them", self.interfaces.clone());
        to.register(
            "health_check_node_ports",
            "Health check node ports of Services, open or failed to open",
            self.node_ports.clone(),
        );
        to.register(
            "api_errors",
            "Requests to the API server that failed, by kind of objects and HTTP status or what else it was",
            self.api_errors.clone(),
        );
    }
}
