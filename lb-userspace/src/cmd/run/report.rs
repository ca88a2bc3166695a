//! What the agent says of itself, to the board that health checks and metrics are answered from.
//!
//! Decides when a change counts as applied, and how long each stretch of its way took. Must not know HTTP. Invariant:
//! a change that could not be written in full goes on waiting, so that in the end the agent counts as unhealthy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::super::objects::ToldOwners;
use super::carried::CarriedArgs;
use super::observe::PinnedMaps;
use crate::datapath::pins::Pins;
use crate::model::{Change, EndpointSlice, Kind, Object, ObjectName, Service, State, TrafficPolicy};
use crate::plan::decide::Planned;
use crate::plan::decision::{BackendSet, Decision, FrontendKind};
use crate::reconcile::{Audit, Reconciler, Report};
use crate::serve::{Board, HealthCheck, Notice, Stage};
use crate::source::{Severity, Update};
use crate::tables::Maps;

/// A change that takes longer from its arrival to its last row is said, with the stretch that took longest.
const SLOW: Duration = Duration::from_secs(1);

/// Writes on the board.
#[derive(Debug)]
pub(super) struct Reporter {
    board: Arc<Board>,
    started: Duration,
    /// Service ports of Services whose policy is Local and that have no endpoint here: for the ClusterIP, for others.
    without_local: BTreeMap<ObjectName, [i64; 2]>,
    /// Frontends that Services claim in vain.
    refused: BTreeMap<ObjectName, usize>,
    /// Changes received since everything was applied: of Services, of EndpointSlices.
    pending: [u64; 2],
}

/// Whoever writes reports, and whoever reads maps at a scrape.
pub(super) fn pair(pins: &Pins, carried: CarriedArgs) -> (Reporter, PinnedMaps) {
    (Reporter::new(Arc::default()), PinnedMaps::new(pins, carried))
}

/// Tells the log, and by an Event, what a Service's owner should know.
pub(super) fn tell_notice(notice: Notice, told: &ToldOwners) {
    tracing::warn!(service = %notice.service, reason = notice.reason, "{}", notice.message);
    told.tell(notice.service, notice.reason, notice.message);
}

/// Changes on their way into the maps.
#[derive(Debug)]
pub(super) struct Arrival {
    received: Instant,
    pub(super) began: Instant,
    /// Of Services, of EndpointSlices.
    changes: [u64; 2],
    planned: Option<Instant>,
    /// When pods or Services changed that new slices answer to, since 1970.
    triggers: Vec<Duration>,
    received_at: Duration,
}

impl Arrival {
    /// Something that came from nowhere but this node.
    pub(super) fn now() -> Self {
        let now = Instant::now();
        Self {
            received: now,
            began: now,
            changes: [0; 2],
            planned: None,
            triggers: Vec::new(),
            received_at: wall_clock(),
        }
    }
}

impl Reporter {
    fn new(board: Arc<Board>) -> Self {
        Self {
            board,
            started: wall_clock(),
            without_local: BTreeMap::new(),
            refused: BTreeMap::new(),
            pending: [0; 2],
        }
    }

    pub(super) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// The loop turned.
    pub(super) fn heard(&self) {
        self.board.heard();
    }

    /// Something arrived that `state` has not taken in yet.
    pub(super) fn received(&self, update: &Update, state: &State) -> Arrival {
        let problems = update.findings.iter().filter(|finding| finding.severity == Severity::Problem);
        self.board.metrics.own.rejected_fields.inc_by(problems.count() as u64);
        let mut changes = [0; 2];
        for kind in update.changes.iter().flat_map(kinds) {
            match kind {
                Kind::Service => changes[0] += 1,
                Kind::EndpointSlice => changes[1] += 1,
                Kind::Node | Kind::ServiceCidr => {}
            }
        }
        let now = wall_clock();
        let new = |trigger: &Duration| (self.started..=now).contains(trigger);
        let triggers = update.changes.iter().flat_map(|change| triggers(change, state)).filter(new).collect();
        let received_at = now.saturating_sub(update.received.elapsed());
        self.board.metrics.kubeproxy.last_queued.set(received_at.as_secs_f64());
        Arrival {
            received: update.received,
            began: Instant::now(),
            changes,
            planned: None,
            triggers,
            received_at,
        }
    }

    /// From here on the change waits to be written.
    pub(super) fn waits(&mut self, arrival: &Arrival) {
        self.board.queued(arrival.received);
        self.queued(arrival.changes);
    }

    /// It is decided what this Service is to be.
    pub(super) fn planned(
        &mut self,
        arrival: &mut Arrival,
        state: &State,
        name: &ObjectName,
        planned: &Planned,
    ) {
        arrival.planned = Some(Instant::now());
        self.board.set_check(name, state.service(name).and_then(|service| check(service, state)));
        put(&mut self.refused, name, planned.refused.len(), &0);
        put(&mut self.without_local, name, without_local(&planned.decisions), &[0; 2]);
    }

    /// That was the last Service that the change concerns.
    fn all_planned(&self, state: &State) {
        let metrics = &self.board.metrics;
        metrics.own.refused_frontends.set(gauge(self.refused.values().sum()));
        for (index, policy) in ["internal", "external"].into_iter().enumerate() {
            let ports = self.without_local.values().map(|ports| ports[index]).sum();
            metrics.kubeproxy.no_local_endpoints.get_or_create(&[("traffic_policy", policy)]).set(ports);
        }
        self.board.set_eligible(state.node().is_some_and(|node| !node.leaving));
    }

    /// It was written, as far as that was possible.
    pub(super) fn written<M: Maps>(
        &mut self,
        arrival: &Arrival,
        state: &State,
        reconciler: &Reconciler<M>,
        report: &Report,
    ) {
        let now = Instant::now();
        self.all_planned(state);
        let metrics = &self.board.metrics;
        let planned = arrival.planned.unwrap_or(now);
        let stages = [
            (Stage::Planned, planned.saturating_duration_since(arrival.received)),
            (Stage::Written, now.saturating_duration_since(planned)),
        ];
        for (stage, took) in stages {
            metrics.own.stage(stage, took);
        }
        for trigger in &arrival.triggers {
            metrics.own.stage(Stage::Delivered, arrival.received_at.saturating_sub(*trigger));
            let whole = wall_clock().saturating_sub(*trigger);
            metrics.kubeproxy.programming_duration.observe(whole.as_secs_f64());
        }
        metrics.kubeproxy.sync_duration.observe(now.saturating_duration_since(arrival.began).as_secs_f64());
        metrics.own.services.set(gauge(state.service_count()));
        tell_slow(&stages);
        self.settled(reconciler, report);
    }

    /// What was put off was tried again, or maps were written without a change.
    pub(super) fn settled<M: Maps>(&mut self, reconciler: &Reconciler<M>, report: &Report) {
        let own = &self.board.metrics.own;
        own.rows_written.inc_by(report.rows_written as u64);
        own.write_failures.inc_by(report.failed.len() as u64);
        own.refused_services.set(gauge(reconciler.refused().count()));
        own.failing_service_ports.set(gauge(reconciler.failing()));
        if reconciler.failing() == 0 {
            self.board.updated();
            self.board.metrics.kubeproxy.last_sync.set(wall_clock().as_secs_f64());
            self.pending = [0; 2];
            self.show_pending();
        }
    }

    /// The maps were read back.
    pub(super) fn audited<M: Maps>(&mut self, reconciler: &Reconciler<M>, audit: &Audit) {
        let own = &self.board.metrics.own;
        own.audits.inc();
        own.drift_found.inc_by(audit.drift as u64);
        if audit.drift > 0 {
            own.drift_repaired.inc_by(audit.report.operations as u64);
        }
        self.settled(reconciler, &audit.report);
    }

    /// Requests to the API server have failed so often, by kind of objects and reason.
    pub(super) fn api_errors<'a>(&self, errors: impl Iterator<Item = (Kind, &'a str, u64)>) {
        let own = &self.board.metrics.own;
        errors.for_each(|(kind, reason, failed)| own.set_api_errors(kind, reason, failed));
    }

    /// So much of what somebody else had taken off is in its place again.
    pub(super) fn put_back(&self, things: usize) {
        self.board.metrics.own.put_back.inc_by(things as u64);
    }

    /// So many interfaces have programs.
    pub(super) fn attached(&self, interfaces: usize) {
        self.board.metrics.own.interfaces.set(gauge(interfaces));
    }

    fn queued(&mut self, changes: [u64; 2]) {
        let metrics = &self.board.metrics.kubeproxy;
        metrics.service_changes.inc_by(changes[0]);
        metrics.endpoint_changes.inc_by(changes[1]);
        self.pending = [self.pending[0] + changes[0], self.pending[1] + changes[1]];
        self.show_pending();
    }

    fn show_pending(&self) {
        let metrics = &self.board.metrics.kubeproxy;
        let [services, slices] = self.pending.map(|changes| i64::try_from(changes).unwrap_or(i64::MAX));
        metrics.service_changes_pending.set(services);
        metrics.endpoint_changes_pending.set(slices);
    }
}

/// Of which kinds a change is; a full list is one change.
fn kinds(change: &Change) -> Vec<Kind> {
    match change {
        Change::Apply(object) => vec![object.key().kind()],
        Change::Delete(key) => vec![key.kind()],
        Change::Relist(kind, _) => vec![*kind],
        Change::RelistAll(_) => vec![Kind::Service, Kind::EndpointSlice],
    }
}

/// Keeps a Service's number, unless it is nothing.
fn put<T: PartialEq>(numbers: &mut BTreeMap<ObjectName, T>, service: &ObjectName, number: T, nothing: &T) {
    if number == *nothing {
        numbers.remove(service);
    } else {
        numbers.insert(service.clone(), number);
    }
}

/// What load balancers ask about a Service here (C45).
fn check(service: &Service, state: &State) -> Option<HealthCheck> {
    let asked = service.not_proxied.is_none() && service.external_policy == TrafficPolicy::Local;
    let port = service.health_check_node_port.filter(|_| asked)?;
    Some(HealthCheck { port, local_endpoints: local_endpoints(service, state) })
}

/// Ready endpoints here, each pod once: in both families, so the family that has more of them counts.
fn local_endpoints(service: &Service, state: &State) -> usize {
    let ready = state.slices_of(&service.name).flat_map(|slice| &slice.endpoints);
    let addresses: BTreeSet<_> = ready
        .filter(|endpoint| endpoint.ready && endpoint.node() == Some(state.node_name()))
        .map(|e| e.addr)
        .collect();
    let v6 = addresses.iter().filter(|address| address.is_ipv6()).count();
    v6.max(addresses.len() - v6)
}

/// Service ports that drop for want of a local endpoint (C33), inside and outside.
fn without_local(decisions: &[Decision]) -> [i64; 2] {
    let drops = |decision: &&Decision, internal: bool| {
        decision.frontends.iter().any(|frontend| match frontend.kind {
            FrontendKind::ClusterIp => internal && frontend.inside == BackendSet::Drop,
            _ => !internal && frontend.outside == BackendSet::Drop,
        })
    };
    let count = |internal| decisions.iter().filter(|decision| drops(decision, internal)).count();
    [gauge(count(true)), gauge(count(false))]
}

/// The trigger times of a change's slices that differ from those known.
fn triggers(change: &Change, state: &State) -> Vec<Duration> {
    let objects = match change {
        Change::Apply(object) => std::slice::from_ref(object),
        Change::Relist(Kind::EndpointSlice, objects) | Change::RelistAll(objects) => objects.as_slice(),
        Change::Relist(..) | Change::Delete(_) => &[],
    };
    let slices = objects.iter().filter_map(|object| match object {
        Object::EndpointSlice(slice) => Some(slice),
        _ => None,
    });
    slices
        .filter_map(|slice| slice.triggered.filter(|_| known_trigger(slice, state) != slice.triggered))
        .collect()
}

fn known_trigger(slice: &EndpointSlice, state: &State) -> Option<Duration> {
    let known = state.slices_of(slice.service.as_ref()?).find(|known| known.name == slice.name)?;
    known.triggered
}

fn tell_slow(stages: &[(Stage, Duration)]) {
    let whole: Duration = stages.iter().map(|(_, took)| *took).sum();
    let slowest = stages.iter().max_by_key(|(_, took)| *took).filter(|_| whole >= SLOW);
    if let Some((stage, took)) = slowest {
        tracing::warn!(stage = stage.name(), ?took, ?whole, "a change took long to apply");
    }
}

fn wall_clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
