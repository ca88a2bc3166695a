//! The board that the agent writes on and the server reads from.
//!
//! Decides what the two threads share and how long a lock is held: never across I/O. Must not know HTTP. Invariant:
//! writing on it never waits for a request.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::Notify;

use super::health::Health;
use super::metrics::Metrics;
use crate::model::ObjectName;

/// What a load balancer asks a node about a Service (C45).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `healthCheckNodePort`.
    pub port: u16,
    /// Endpoints on this node that are ready.
    pub local_endpoints: usize,
}

/// What the agent says of itself.
#[derive(Debug)]
pub struct Board {
    started: Instant,
    started_at: SystemTime,
    health: Mutex<Health>,
    checks: Mutex<BTreeMap<ObjectName, HealthCheck>>,
    pub(super) checks_changed: Notify,
    /// Counters and the like.
    pub metrics: Metrics,
}

impl Default for Board {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            started_at: SystemTime::now(),
            health: Mutex::default(),
            checks: Mutex::default(),
            checks_changed: Notify::new(),
            metrics: Metrics::default(),
        }
    }
}

impl Board {
    /// A change was received at `at` and is not applied yet.
    pub fn queued(&self, at: Instant) {
        self.health().queued(at.saturating_duration_since(self.started));
    }

    /// Everything received is applied.
    pub fn updated(&self) {
        self.health().updated(self.started.elapsed());
    }

    /// The agent's loop turned: it is not stuck.
    pub fn heard(&self) {
        self.health().heard(self.started.elapsed());
    }

    /// What the own Node says of being sent to.
    pub fn set_eligible(&self, eligible: bool) {
        self.health().set_eligible(eligible);
    }

    /// What is asked about a Service from now on; `None`: nothing.
    pub fn set_check(&self, service: &ObjectName, check: Option<HealthCheck>) {
        let mut checks = lock(&self.checks);
        let before = match check {
            Some(check) => checks.insert(service.clone(), check),
            None => checks.remove(service),
        };
        if before.map(|check| check.port) != check.map(|check| check.port) {
            self.checks_changed.notify_one();
        }
    }

    pub(super) fn check(&self, service: &ObjectName) -> Option<HealthCheck> {
        lock(&self.checks).get(service).copied()
    }

    pub(super) fn ports(&self) -> BTreeMap<ObjectName, u16> {
        lock(&self.checks).iter().map(|(service, check)| (service.clone(), check.port)).collect()
    }

    /// Health, whether it counts as healthy now, and the wall clock of its last update; `None`: none yet.
    pub(super) fn health_now(&self) -> (Health, bool, Option<SystemTime>) {
        let health = self.health().clone();
        let healthy = health.is_healthy(self.started.elapsed());
        let updated = health.last_updated().map(|since| self.started_at + since);
        (health, healthy, updated)
    }

    /// As if it had been there since then.
    #[cfg(test)]
    pub(super) fn started_at_instant(self, started: Instant) -> Self {
        Self { started, ..self }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole at any time, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
