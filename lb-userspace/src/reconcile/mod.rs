//! From what should be to what stands in the maps: plan, write, and try again what failed.
//!
//! Decides when: what is written now, what waits for its turn to be tried again, when ids become
//! free. Must not know how rows are computed or written. Invariants: the maps follow what was
//! planned, whatever fails in between; one Service's trouble does not hold up another's.

mod retry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use lb_common::abi::BackendFlags;

use crate::model::ObjectName;
use crate::plan::decision::Decision;
use crate::plan::grace::Epoch;
use crate::plan::networks::Networks;
use crate::plan::publish::{Fit, Publisher};
use crate::plan::rows::Terms;
use crate::tables::{Capacity, MapOp, Maps, Seen, Tables};
use retry::Retries;

#[cfg(test)]
mod tests;

/// How long an id or a range rests before it gets a new owner. A reader in the kernel is done with what it
/// holds after microseconds; this leaves room for a machine that stands still.
pub const GRACE: Duration = Duration::from_secs(5);

/// How many service ports are written at once. What all of a large cluster have to say would take as much room as the
/// agent does otherwise; a batch of these is long enough for the kernel.
const AT_ONCE: usize = 512;

/// How much longer, so that what has rested is freed together.
const GATHER: Duration = Duration::from_millis(100);

/// Keeps the service maps equal to what is planned. Times are the caller's: since any fixed point,
/// never running backwards.
#[derive(Debug)]
pub struct Reconciler<M: Maps> {
    maps: M,
    publisher: Publisher,
    /// Services that did not fit, with what they should be and why they are not.
    refused: BTreeMap<ObjectName, (Vec<Decision>, String)>,
    /// Services with a set that lies as a list for want of so many slots, with what they should be.
    cramped: BTreeMap<ObjectName, (Vec<Decision>, u32)>,
    retries: Retries,
    room: bool,
    /// How far the look at the maps has come that is under way.
    place: M::Place,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Services that were planned.
    pub services: usize,
    /// Operations that took effect.
    pub operations: usize,
    /// Rows that they wrote or deleted.
    pub rows_written: usize,
    /// Backends among them that serve no longer.
    pub retired: usize,
    /// Services that do not fit; each is tried again when rows become free.
    pub refused: Vec<Refused>,
    /// What could not be written; each is tried again later.
    pub failed: Vec<Failed>,
}

/// A Service that is not programmed, or still as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The Service.
    pub service: ObjectName,
    /// Why, and what to do.
    pub reason: String,
}

/// A write that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The Service; `None`: rows that no Service owns.
    pub service: Option<ObjectName>,
    /// Which operation, and why.
    pub reason: String,
}

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Operations that it takes to undo what others did to the maps.
    pub drift: usize,
    /// The repair.
    pub report: Report,
}

impl<M: Maps> Reconciler<M> {
    /// Reads the maps back and takes over what stands there; writes nothing.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn new(mut maps: M, capacity: Capacity, terms: Terms) -> anyhow::Result<Self> {
        let tables = maps.load().context("reading back the service maps that a previous agent left")?;
        Ok(Self {
            maps,
            publisher: Publisher::new(tables, capacity, terms),
            refused: BTreeMap::new(),
            cramped: BTreeMap::new(),
            retries: Retries::default(),
            room: false,
            place: M::Place::default(),
        })
    }

    /// Makes the maps hold `services` and no others: for the first time, when all objects are known.
    pub fn sync_all(
        &mut self,
        services: impl IntoIterator<Item = (ObjectName, Vec<Decision>)>,
        now: Epoch,
    ) -> Report {
        let services: BTreeMap<ObjectName, Vec<Decision>> = services.into_iter().collect();
        self.keep_only(&services.keys().cloned().collect());
        self.sync(services, now)
    }

    /// Removes all Services but these with the next [`Self::sync`]. With a sync of all of them it is
    /// [`Self::sync_all`] for who hands them over one by one.
    pub fn keep_only(&mut self, services: &BTreeSet<ObjectName>) {
        self.publisher.retain(services);
        self.refused.retain(|service, _| services.contains(service));
        self.cramped.retain(|service, _| services.contains(service));
    }

    /// Makes the maps follow the Services that changed; one without decisions goes away. Also does
    /// what is due: tries again what failed or did not fit, and frees what has rested.
    pub fn sync(
        &mut self,
        changes: impl IntoIterator<Item = (ObjectName, Vec<Decision>)>,
        now: Epoch,
    ) -> Report {
        let mut report = Report::default();
        if let Some(rested) = now.checked_sub(GRACE) {
            self.room |= self.publisher.reclaim(rested);
        }
        // Where nothing is served yet, no frontend can be retracted before whoever gets it is planned. So what is planned
        // can be written at once: all of a large cluster's rows would take more room than the agent does otherwise.
        let piecemeal = self.publisher.serves_nothing();
        for (service, decisions) in changes {
            self.refused.remove(&service);
            self.cramped.remove(&service);
            self.plan(service, decisions, &mut report);
            if piecemeal && report.services.is_multiple_of(AT_ONCE) {
                self.write(now, &mut report);
            }
        }
        if std::mem::take(&mut self.room) {
            for (service, (decisions, _)) in std::mem::take(&mut self.refused) {
                self.plan(service, decisions, &mut report);
            }
            self.plan_cramped(&mut report);
        }
        self.write(now, &mut report);
        report
    }

    /// Looks a little further whether others did something to the maps: a small step each time, so that changes can
    /// come between. After the end, a difference or an error the next step begins anew.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn look(&mut self) -> anyhow::Result<Seen> {
        let seen = self.maps.look(self.publisher.actual(), &mut self.place);
        if !matches!(seen, Ok(Seen::More)) {
            self.place = M::Place::default();
        }
        seen
    }

    /// Reads the maps back and repairs what others did to them.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn audit(&mut self, now: Epoch) -> anyhow::Result<Audit> {
        let tables = self.maps.load().context("reading back the service maps to look for drift")?;
        let drift = self.publisher.reload(tables);
        Ok(Audit { drift, report: self.sync([], now) })
    }

    /// When to call [`Self::sync`] even if nothing changes; `None`: nothing is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Epoch> {
        let rested = self.publisher.oldest_release().map(|at| at + GRACE + GATHER);
        [rested, self.retries.next()].into_iter().flatten().min()
    }

    /// Serves NodePorts on these addresses, from the next change of each Service on.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.publisher.set_node_addresses(addresses);
    }

    /// Tells these networks apart, from the next [`Self::sync`] on.
    pub fn set_networks(&mut self, networks: &Networks) {
        self.publisher.set_networks(networks);
    }

    /// Takes no more room than it needs, after a large change.
    pub fn pack(&mut self) {
        self.publisher.pack();
    }

    /// The Services that do not fit at present.
    pub fn refused(&self) -> impl Iterator<Item = Refused> + '_ {
        let refused = |(service, (_, reason)): (&ObjectName, &(Vec<Decision>, String))| Refused {
            service: service.clone(),
            reason: reason.clone(),
        };
        self.refused.iter().map(refused)
    }

    /// How many service ports have rows that could not be written yet.
    #[must_use]
    pub fn failing(&self) -> usize {
        self.retries.len()
    }

    /// What stands in the maps, as far as is known.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        self.publisher.actual()
    }

    /// The maps.
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// The maps, to be used behind the reconciler's back.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// The maps, without the reconciler.
    pub fn into_maps(self) -> M {
        self.maps
    }

    fn plan(&mut self, service: ObjectName, decisions: Vec<Decision>, report: &mut Report) {
        report.services += 1;
        match self.publisher.plan(&service, &decisions) {
            Ok(Fit::Whole) => {}
            Ok(Fit::Cramped(slots)) => {
                self.cramped.insert(service, (decisions, slots));
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                report.refused.push(Refused { service: service.clone(), reason: reason.clone() });
                self.refused.insert(service, (decisions, reason));
            }
        }
    }

    /// Gives those tables that found no room before (C29) what room there is now.
    fn plan_cramped(&mut self, report: &mut Report) {
        for (service, (decisions, slots)) in std::mem::take(&mut self.cramped) {
            if self.publisher.has_room_for_table(slots) {
                self.plan(service, decisions, report);
            } else {
                self.cramped.insert(service, (decisions, slots));
            }
        }
    }

    /// Writes what is wanted, many service ports at once; where that stops, each by itself, so that
    /// only those that cannot be written stay behind.
    fn write(&mut self, now: Epoch, report: &mut Report) {
        let is_due = |owner: &u32| self.retries.is_due(*owner, now);
        let due: Vec<u32> = self.publisher.unsettled().iter().copied().filter(is_due).collect();
        let (mut standing, mut waiting) = (BTreeSet::new(), Vec::new());
        for some in due.chunks(AT_ONCE) {
            let written = if self.apply(some, report).is_ok() {
                some.iter().for_each(|owner| self.retries.succeeded(*owner));
                some.to_vec()
            } else {
                self.write_each(some.to_vec(), now, report)
            };
            // Asked now, since what the next ones write may end what they wait for.
            let (stand, wait): (Vec<u32>, Vec<u32>) =
                written.into_iter().partition(|owner| self.publisher.waits_for_nobody(*owner));
            standing.extend(stand);
            waiting.extend(wait);
        }
        self.publisher.settle(now, &standing);
        // A second round, for what waited for another's frontend in the first.
        waiting.retain(|owner| self.publisher.unsettled().contains(owner));
        if !waiting.is_empty() {
            self.write_each(waiting, now, report);
            self.publisher.settle(now, &BTreeSet::new());
        }
        self.retries.keep_only(self.publisher.unsettled());
    }

    /// Writes service ports one by one; says which could be written.
    fn write_each(&mut self, mut owners: Vec<u32>, now: Epoch, report: &mut Report) -> Vec<u32> {
        owners.retain(|&owner| match self.apply(&[owner], report) {
            Ok(()) => {
                self.retries.succeeded(owner);
                true
            }
            Err(reason) => {
                self.retries.failed(owner, now);
                let service = self.publisher.service_of(owner).cloned();
                report.failed.push(Failed { service, reason });
                false
            }
        });
        owners
    }

    fn apply(&mut self, owners: &[u32], report: &mut Report) -> Result<(), String> {
        let operations = self.publisher.operations(owners);
        let (applied, result) = match self.maps.apply(&operations) {
            Ok(()) => (operations.len(), Ok(())),
            Err(stopped) => (stopped.applied.min(operations.len()), Err(stopped.to_string())),
        };
        let applied = &operations[..applied];
        let before = self.publisher.actual();
        report.retired += applied.iter().filter(|operation| is_retirement(operation, before)).count();
        self.publisher.confirm(applied);
        report.operations += applied.len();
        report.rows_written += applied.iter().map(MapOp::rows).sum::<usize>();
        self.room |= applied.iter().any(is_retraction);
        result
    }
}

/// Does this make room for another frontend or source range?
fn is_retraction(operation: &MapOp) -> bool {
    matches!(
        operation,
        MapOp::DeleteFrontendV4(_)
            | MapOp::DeleteFrontendV6(_)
            | MapOp::DeleteRangeV4(_)
            | MapOp::DeleteRangeV6(_)
    )
}

/// Does a backend stop serving by this, or vanish? `before` is what stood there.
fn is_retirement(operation: &MapOp, before: &Tables) -> bool {
    let stops = |before: Option<BackendFlags>, after: BackendFlags| {
        let had = |bit| before.is_some_and(|before| before.has(bit));
        had(BackendFlags::SERVING) && !after.has(BackendFlags::SERVING)
            || before.is_some() && !had(BackendFlags::VANISHED) && after.has(BackendFlags::VANISHED)
    };
    match operation {
        MapOp::PutBackendV4(id, row) => stops(before.backends_v4.get(id).map(|row| row.flags), row.flags),
        MapOp::PutBackendV6(id, row) => stops(before.backends_v6.get(id).map(|row| row.flags), row.flags),
        _ => false,
    }
}
