//! Do the service maps hold what they are thought to? Asked in small steps, between which others may write.
//!
//! Decides how much a step looks at, and what of a row counts. Must not know what is done about a difference.
//! Invariants: a step takes about a millisecond at most; a row that stayed as it was while all steps were taken has
//! been compared, and one that is missing was missed, since each step asks what is thought at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound::{Excluded, Unbounded};

use anyhow::Context as _;
use bytemuck::Pod;
use lb_common::abi::{BackendId, BackendRow, FrontendKey, FrontendRow, Prefix, RangeKey, ServicePortName};
use lb_common::address::{Address, V4, V6};

use super::kernel::KernelMaps;
use super::table::{Table, Walk};
use crate::tables::{Backends, PortName, Seen, Tables};

/// Rows that a step reads at once. Each comes in a hash's batch with all others of its bucket.
const ROWS: usize = 1_024;
/// Rows that a step asks for one by one, a third of a microsecond each.
const LOOKUPS: usize = 1_024;

/// How far a look has come.
#[derive(Debug, Default)]
pub struct Place {
    table: usize,
    service_ports: Leg<u32, ServicePortName>,
    frontends_v4: Leg<FrontendKey<V4>, FrontendRow>,
    frontends_v6: Leg<FrontendKey<V6>, FrontendRow>,
    backends_v4: Walk<BackendId, BackendRow<V4>>,
    backends_v6: Walk<BackendId, BackendRow<V6>>,
    slots: Walk<u32, BackendId>,
}

/// How far in a hash: its rows first, then those it should have.
#[derive(Debug)]
struct Leg<K, V> {
    walk: Walk<K, V>,
    after: Option<K>,
}

impl<K, V> Default for Leg<K, V> {
    fn default() -> Self {
        Self { walk: Walk::default(), after: None }
    }
}

/// The next step.
pub(super) fn look(maps: &KernelMaps, thought: &Tables, place: &mut Place) -> anyhow::Result<Seen> {
    let (name, seen) = match place.table {
        0 => hash(&maps.service_ports, &thought.service_ports, &mut place.service_ports, PortName::row),
        1 => hash(&maps.frontends_v4, &thought.frontends_v4, &mut place.frontends_v4, |row| *row),
        2 => hash(&maps.frontends_v6, &thought.frontends_v6, &mut place.frontends_v6, |row| *row),
        3 => backends(&maps.backends_v4, &thought.backends_v4, &mut place.backends_v4),
        4 => backends(&maps.backends_v6, &thought.backends_v6, &mut place.backends_v6),
        5 => slots(&maps.slots, thought, &mut place.slots),
        6 => ranges(&maps.ranges_v4, &thought.ranges_v4),
        7 => ranges(&maps.ranges_v6, &thought.ranges_v6),
        8 => networks(&maps.networks_v4, &thought.networks_v4),
        9 => networks(&maps.networks_v6, &thought.networks_v6),
        _ => return Ok(Seen::End),
    };
    let seen = seen.with_context(|| format!("reading the map {name} to look for drift"))?;
    if seen == Seen::End {
        place.table += 1;
        return Ok(Seen::More);
    }
    Ok(seen)
}

type Step<'a> = (&'a str, io::Result<Seen>);

fn hash<'a, K: Pod + Ord, V: Pod + PartialEq, T>(
    table: &'a Table<K, V>,
    thought: &BTreeMap<K, T>,
    leg: &mut Leg<K, V>,
    row_of: impl Fn(&T) -> V,
) -> Step<'a> {
    let mut step = || {
        if table.step(&mut leg.walk, ROWS)? {
            let as_thought = leg.walk.rows().all(|(key, row)| thought.get(&key).map(&row_of) == Some(row));
            return Ok(if as_thought { Seen::More } else { Seen::Drift });
        }
        let mut seen = Seen::End;
        for key in thought
            .range((leg.after.map_or(Unbounded, Excluded), Unbounded))
            .map(|(key, _)| *key)
            .take(LOOKUPS)
        {
            if table.get(&key)?.is_none() {
                return Ok(Seen::Drift);
            }
            (leg.after, seen) = (Some(key), Seen::More);
        }
        Ok(seen)
    };
    (table.name(), step())
}

/// An array: a row that nobody ever had is not thought of.
fn backends<'a, A: Address>(
    table: &'a Table<BackendId, BackendRow<A>>,
    thought: &Backends<A>,
    walk: &mut Walk<BackendId, BackendRow<A>>,
) -> Step<'a> {
    let mut step = || {
        if !table.step(walk, ROWS)? {
            return Ok(Seen::End);
        }
        let had = |row: &BackendRow<A>| row.generation != 0;
        let as_thought = walk.rows().all(|(id, row)| thought.get(&id).copied() == Some(row).filter(had));
        Ok(if as_thought { Seen::More } else { Seen::Drift })
    };
    (table.name(), step())
}

/// An array, of which what no frontend names does not count.
fn slots<'a>(
    table: &'a Table<u32, BackendId>,
    thought: &Tables,
    walk: &mut Walk<u32, BackendId>,
) -> Step<'a> {
    let mut step = || {
        if !table.step(walk, ROWS)? {
            return Ok(Seen::End);
        }
        let differs = |(slot, id): &(u32, BackendId)| {
            thought.slots.get(*slot as usize).is_some_and(|thought| thought != id)
        };
        let others: BTreeSet<u32> = walk.rows().filter(differs).map(|(slot, _)| slot).collect();
        let rows = thought.frontends_v4.values().chain(thought.frontends_v6.values());
        let named = |row: &FrontendRow| {
            [row.inside, row.outside].iter().any(|range| {
                others.range(range.start..range.start.saturating_add(range.len)).next().is_some()
            })
        };
        let beyond = walk.rows().last().is_none_or(|(slot, _)| slot as usize + 1 >= thought.slots.len());
        Ok(match (!others.is_empty() && rows.into_iter().any(named), beyond) {
            (true, _) => Seen::Drift,
            (false, true) => Seen::End,
            (false, false) => Seen::More,
        })
    };
    (table.name(), step())
}

/// All at once, since a lookup of a range that is missing finds the one around it. There are few.
fn ranges<'a, A: Address>(table: &'a Table<RangeKey<A>, u32>, thought: &BTreeSet<RangeKey<A>>) -> Step<'a> {
    let mut there = BTreeSet::new();
    let read = table.each(|key, _| {
        there.insert(*key);
    });
    (table.name(), read.map(|()| if there == *thought { Seen::End } else { Seen::Drift }))
}

fn networks<'a, A: Address>(
    table: &'a Table<u32, Prefix<A>>,
    thought: &BTreeMap<u32, Prefix<A>>,
) -> Step<'a> {
    let mut there = BTreeMap::new();
    let read = table.each(|row, network| {
        if network.present != 0 {
            there.insert(*row, *network);
        }
    });
    (table.name(), read.map(|()| if there == *thought { Seen::End } else { Seen::Drift }))
}
