//! What a connection takes in Switchboard's programs, by the kernel's own clock around each run of them.
//!
//! Decides which programs count. Must not know what they do. Invariant: the clock runs for this measurement alone, since
//! it slows each run down.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use lb_userspace::datapath::object;

use super::cluster::Which;
use super::load::{Kind, Servers};
use super::stage::{Contender, From, Stage};
use crate::figures::{Cell, Spread, Table};

/// Turns of the measurement.
const TURNS: usize = 5;

/// The table, without rows.
pub(super) fn table() -> Table {
    Table::new(
        "A connection from a pod to a pod of the same node: Switchboard's programs on its way",
        &["Services", "runs", "us in all of them"],
    )
}

/// Its row for one size: connections from a pod to the last Service.
pub(super) fn row(
    services: u32,
    stages: &[Stage],
    servers: &Servers,
    length: Duration,
) -> Result<Option<Vec<Cell>>> {
    let Some(stage) = stages.iter().find(|stage| matches!(stage.contender, Contender::Switchboard)) else {
        return Ok(None);
    };
    let _clock = enable_stats(Stats::RunTime).context("starting the clock around programs")?;
    let targets = stage.targets(From::Pod, Which::Last);
    let (mut runs, mut micros) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let before = clocks();
        let did = servers.measure(stage.client(From::Pod), Kind::Connections, &targets, length)?;
        let (mut count, mut time) = (0, Duration::ZERO);
        for (id, (runs, spent)) in clocks() {
            let (runs_before, spent_before) = before.get(&id).copied().unwrap_or_default();
            count += runs - runs_before;
            time += spent - spent_before;
        }
        runs.push(f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / did.count());
        micros.push(time.as_secs_f64() * 1e6 / did.count());
    }
    let figure = |values: &[f64]| Cell::Figure(Spread::of(values));
    Ok(Some(vec![Cell::Count(services.into()), figure(&runs), figure(&micros)]))
}

/// Runs of each program so far, and the time in them. Other contenders have none of these names.
fn clocks() -> HashMap<u32, (u64, Duration)> {
    let ours = |name: Option<&str>| name.is_some_and(|name| object::CLASSIFIERS.contains(&name));
    loaded_programs()
        .flatten()
        .filter(|program| ours(program.name_as_str()))
        .map(|program| (program.id(), (program.run_count(), program.run_time())))
        .collect()
}
