//! Service maps in memory, for tests and for looking at a plan without a kernel.
//!
//! Decides nothing: it does what it is told, as the kernel would, and watches. Must not know how
//! operations were computed. Invariant: whatever breaks "a frontend in the maps implies its name, its
//! source ranges, its slots and its backends are there", after any single operation, is noted as a violation.

use lb_common::abi::{BackendFlags, FrontendFlags, FrontendKey, FrontendRow, SERVICE_NETWORKS, SlotRange};
use lb_common::address::{V4, V6};

use crate::tables::{Capacity, Family, MapOp, Maps, Seen, Stopped, Tables};

/// Service maps in memory.
#[derive(Debug, Default)]
pub struct FakeMaps {
    tables: Tables,
    capacity: Capacity,
    operations: usize,
    rows_written: usize,
    watch: Watch,
    violation: Option<String>,
    states: Vec<Tables>,
}

/// How closely a fake looks at each operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Not at all: for many rows.
    Nothing,
    /// Checks all frontends after each operation.
    #[default]
    Frontends,
    /// The same, and keeps a copy of the tables after each operation.
    States,
}

impl FakeMaps {
    /// Empty maps of a size.
    #[must_use]
    pub fn new(capacity: Capacity, watch: Watch) -> Self {
        Self { capacity, watch, ..Self::default() }
    }

    /// What stands in the maps.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What stands in the maps, to be changed behind the agent's back.
    pub fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// How many operations took effect.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// How many rows they wrote or deleted.
    #[must_use]
    pub fn rows_written(&self) -> usize {
        self.rows_written
    }

    /// The first violation of the invariant; `None`: it always held.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// The tables after each operation since the last call, where [`Watch::States`] was asked for.
    pub fn take_states(&mut self) -> Vec<Tables> {
        std::mem::take(&mut self.states)
    }

    fn apply_one(&mut self, operation: &MapOp) -> Result<(), String> {
        self.refuse_what_does_not_fit(operation)?;
        self.tables.apply(operation);
        self.operations += 1;
        self.rows_written += operation.rows();
        if self.watch != Watch::Nothing
            && self.violation.is_none()
            && let Some(dangling) = dangling(&self.tables)
        {
            self.violation = Some(format!("after {operation:?}: {dangling}"));
        }
        if self.watch == Watch::States {
            self.states.push(self.tables.clone());
        }
        Ok(())
    }

    fn refuse_what_does_not_fit(&self, operation: &MapOp) -> Result<(), String> {
        let Capacity { service_ports, frontends, backends, slots, ranges } = self.capacity;
        let full = |rows: usize, limit: u32| rows >= limit as usize;
        let wrong = match operation {
            MapOp::PutServicePort(id, _) => {
                let rows = &self.tables.service_ports;
                !rows.contains_key(id) && full(rows.len(), service_ports)
            }
            MapOp::PutFrontendV4(key, _) => {
                let rows = &self.tables.frontends_v4;
                !rows.contains_key(key) && full(rows.len(), frontends)
            }
            MapOp::PutFrontendV6(key, _) => {
                let rows = &self.tables.frontends_v6;
                !rows.contains_key(key) && full(rows.len(), frontends)
            }
            MapOp::PutBackendV4(id, _) | MapOp::PutBackendV6(id, _) => id.0 >= backends,
            MapOp::PutSlots { start, backends } => *start as usize + backends.len() > slots as usize,
            MapOp::PutRangeV4(key) => {
                let rows = &self.tables.ranges_v4;
                !rows.contains(key) && full(rows.len(), ranges)
            }
            MapOp::PutRangeV6(key) => {
                let rows = &self.tables.ranges_v6;
                !rows.contains(key) && full(rows.len(), ranges)
            }
            MapOp::PutNetworkV4(row, _) | MapOp::PutNetworkV6(row, _) => *row >= SERVICE_NETWORKS.end,
            MapOp::DeleteServicePort(_)
            | MapOp::DeleteFrontendV4(_)
            | MapOp::DeleteFrontendV6(_)
            | MapOp::DeleteRangeV4(_)
            | MapOp::DeleteRangeV6(_) => false,
        };
        if wrong { Err("no room in the map (E2BIG)".to_owned()) } else { Ok(()) }
    }
}

impl Maps for FakeMaps {
    /// How many tables were looked at.
    type Place = usize;

    fn look(&mut self, thought: &Tables, place: &mut usize) -> anyhow::Result<Seen> {
        let (there, table) = (&self.tables, *place);
        *place += 1;
        let as_thought = match table {
            0 => there.service_ports == thought.service_ports,
            1 => there.frontends_v4 == thought.frontends_v4,
            2 => there.frontends_v6 == thought.frontends_v6,
            3 => there.backends_v4 == thought.backends_v4,
            4 => there.backends_v6 == thought.backends_v6,
            5 => there.slots == thought.slots,
            6 => there.ranges_v4 == thought.ranges_v4 && there.ranges_v6 == thought.ranges_v6,
            7 => there.networks_v4 == thought.networks_v4 && there.networks_v6 == thought.networks_v6,
            _ => return Ok(Seen::End),
        };
        Ok(if as_thought { Seen::More } else { Seen::Drift })
    }

    fn load(&mut self) -> anyhow::Result<Tables> {
        Ok(self.tables.clone())
    }

    fn apply(&mut self, operations: &[MapOp]) -> Result<(), Stopped> {
        for (applied, operation) in operations.iter().enumerate() {
            self.apply_one(operation).map_err(|reason| Stopped {
                applied,
                operation: format!("{operation:?}"),
                reason,
            })?;
        }
        Ok(())
    }
}

/// What a frontend names that is not there; `None`: nothing.
#[must_use]
pub fn dangling(tables: &Tables) -> Option<String> {
    dangling_of::<V4>(tables).or_else(|| dangling_of::<V6>(tables))
}

fn dangling_of<A: Family>(tables: &Tables) -> Option<String> {
    A::frontends(tables).iter().find_map(|(key, row)| missing_from(tables, key, row))
}

fn missing_from<A: Family>(tables: &Tables, key: &FrontendKey<A>, row: &FrontendRow) -> Option<String> {
    let (addr, port, protocol) = (key.addr, key.port, key.protocol);
    let complain = |what: String| Some(format!("frontend {addr} port {port} {protocol}: {what}"));
    if row.tag != key.tag() {
        return complain(format!("its tag is {:#x}, not {:#x}", row.tag, key.tag()));
    }
    if !tables.service_ports.contains_key(&row.service_port) {
        return complain(format!("service port {} has no name", row.service_port));
    }
    let guarded = row.flags.has(FrontendFlags::GUARDED);
    if guarded && !A::ranges(tables).iter().any(|range| { range.range }.service_port == row.service_port) {
        return complain("it is guarded, and nobody is let in".to_owned());
    }
    let bit = |local| {
        if row.flags.has(local) { BackendFlags::IN_LOCAL_SET } else { BackendFlags::IN_CLUSTER_SET }
    };
    let sets =
        [(row.inside, bit(FrontendFlags::INSIDE_LOCAL)), (row.outside, bit(FrontendFlags::OUTSIDE_LOCAL))];
    sets.into_iter()
        .find_map(|(range, bit)| complain(missing_backend::<A>(tables, row.service_port, range, bit)?))
}

fn missing_backend<A: Family>(tables: &Tables, owner: u32, range: SlotRange, bit: u16) -> Option<String> {
    (range.start..range.start.saturating_add(range.len)).find_map(|slot| {
        let Some(id) = tables.slots.get(slot as usize) else {
            return Some(format!("slot {slot} was never written"));
        };
        match A::backends(tables).get(id) {
            None => Some(format!("slot {slot}: backend {} is not there", id.0)),
            Some(backend) if backend.service_port != owner => {
                Some(format!("slot {slot}: backend {} is service port {}'s", id.0, { backend.service_port }))
            }
            Some(backend) if !{ backend.flags }.has(bit) => {
                Some(format!("slot {slot}: backend {} does not say that it is in the set", id.0))
            }
            Some(_) => None,
        }
    })
}
