//! Switchboard's way from objects to the kernel's maps, as its agent goes it.
//!
//! Decides what counts as one synchronization: objects taken in, Services planned, rows written. Must not know the
//! peers. Invariant: whatever does not fit or cannot be written makes the benchmark fail.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_tests::packets::Datapath;
use lb_userspace::datapath::kernel::KernelMaps;
use lb_userspace::datapath::object::Sizes;
use lb_userspace::datapath::strangers::Acquaintances;
use lb_userspace::model::{Change, Object, ObjectKey, State};
use lb_userspace::plan::owners::Owners;
use lb_userspace::plan::rows::{DEFAULT_MAX_TABLE, Supported, Terms};
use lb_userspace::plan::{ahead, decide, diff};
use lb_userspace::reconcile::{Reconciler, Report};
use lb_userspace::tables::{Maps as _, Tables};

use super::objects::{Scale, service};

/// An agent without source and interfaces.
pub(super) struct Ours {
    state: State,
    owners: Owners,
    reconciler: Reconciler<KernelMaps>,
    began: Instant,
    /// Declared last: its pins go when all else is gone.
    _datapath: Datapath,
}

/// One synchronization.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// Taking the objects into the state.
    pub(super) taking_in: Duration,
    /// From there to the last row.
    pub(super) to_maps: Duration,
    pub(super) rows: usize,
}

impl Took {
    /// Milliseconds in all.
    pub(super) fn milliseconds(self) -> f64 {
        (self.taking_in + self.to_maps).as_secs_f64() * 1e3
    }
}

impl Ours {
    /// Nothing known, maps empty, and nobody a stranger yet: as an agent begins on a new node.
    pub(super) fn new() -> Result<Self> {
        let mut datapath = fresh()?;
        let capacity = datapath.maps().capacity();
        let terms =
            Terms { node_addresses: Vec::new(), supported: Supported::ALL, max_table: DEFAULT_MAX_TABLE };
        Ok(Self {
            state: State::new("node"),
            owners: Owners::default(),
            reconciler: Reconciler::new(datapath.open_maps()?, capacity, terms)?,
            began: Instant::now(),
            _datapath: datapath,
        })
    }

    /// The first full list.
    pub(super) fn whole(&mut self, objects: Vec<Object>) -> Result<Took> {
        self.synchronize(vec![Change::RelistAll(objects)], true)
    }

    /// Service `number` gets only its first `endpoints`.
    pub(super) fn resize(&mut self, scale: Scale, number: u32, endpoints: u32) -> Result<Took> {
        // Only the last slice differs from what is known.
        let slices = scale.slices(number, endpoints).into_iter().rev().take(1);
        self.synchronize(slices.map(Change::Apply).collect(), false)
    }

    /// Adds Service `number`.
    pub(super) fn add(&mut self, scale: Scale, number: u32) -> Result<Took> {
        let objects = std::iter::once(Object::Service(service(number)));
        let objects = objects.chain(scale.slices(number, scale.endpoints));
        self.synchronize(objects.map(Change::Apply).collect(), false)
    }

    /// Deletes Service `number`.
    pub(super) fn delete(&mut self, scale: Scale, number: u32) -> Result<Took> {
        let mut keys: Vec<ObjectKey> =
            scale.slices(number, scale.endpoints).iter().map(Object::key).collect();
        keys.push(Object::Service(service(number)).key());
        self.synchronize(keys.into_iter().map(Change::Delete).collect(), false)
    }

    fn synchronize(&mut self, changes: Vec<Change>, first: bool) -> Result<Took> {
        let began = Instant::now();
        for change in changes {
            self.state.take_in(change);
        }
        let taken = Instant::now();
        let names = decide::concerned(&mut self.state, &mut self.owners);
        if first {
            self.reconciler.keep_only(&names);
        }
        let (state, owners) = (&self.state, &self.owners);
        let (reconciler, now) = (&mut self.reconciler, self.began.elapsed());
        // As the agent does it.
        let report: Report = ahead::services(state, owners, &names, |planned| {
            reconciler.sync(planned.map(|(name, planned)| (name.clone(), planned.decisions)), now)
        });
        let done = Instant::now();
        ensure!(
            report.refused.is_empty() && report.failed.is_empty(),
            "{} Services do not fit and {} rows could not be written",
            report.refused.len(),
            report.failed.len()
        );
        Ok(Took { taking_in: taken - began, to_maps: done - taken, rows: report.rows_written })
    }

    /// How long the kernel takes over the same rows, with nothing to plan: they are written into other new maps.
    pub(super) fn written_alone(&self) -> Result<Duration> {
        let operations = diff::diff(&Tables::default(), self.reconciler.tables());
        let mut datapath = fresh()?;
        let began = Instant::now();
        datapath.maps().apply(&operations)?;
        Ok(began.elapsed())
    }
}

fn fresh() -> Result<Datapath> {
    let mut datapath = Datapath::load_sized(&Sizes::new())?;
    datapath.maps().set_strangers(&Acquaintances::everybody())?;
    Ok(datapath)
}
