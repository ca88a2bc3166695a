//! The service maps in the kernel, and the other pinned tables that the agent and the tool read.
//!
//! Decides how operations become batches: neighbours of one kind go in one call. Must not know what
//! rows mean or in which order they must come. Invariant: operations take effect in the order given.

use std::collections::BTreeMap;
use std::io;

use anyhow::Context as _;
use aya::maps::{Map, MapData, PerCpuArray};
use bytemuck::Pod;
use lb_common::abi::{
    self, AffinityKey, AffinityRow, BackendId, BackendRow, Config, FlowEntry, FlowKey, FlowRow, ForeignRow,
    FrontendKey, FrontendRow, InterfaceRow, Prefix, RangeKey, ServicePortName, SocketKey, SocketRow, Verdict,
};
use lb_common::address::{Address, V4, V6};

use super::compare::{self, Place};
use super::pins::Pins;
use super::strangers::{Acquaintances, Strangers};
use super::table::Table;
use crate::tables::{Backends, Capacity, MapOp, Maps, PortName, Seen, Stopped, Tables};

/// The service maps.
#[derive(Debug)]
pub struct KernelMaps {
    pub(super) service_ports: Table<u32, ServicePortName>,
    pub(super) backends_v4: Table<BackendId, BackendRow<V4>>,
    pub(super) backends_v6: Table<BackendId, BackendRow<V6>>,
    pub(super) slots: Table<u32, BackendId>,
    pub(super) frontends_v4: Table<FrontendKey<V4>, FrontendRow>,
    pub(super) frontends_v6: Table<FrontendKey<V6>, FrontendRow>,
    pub(super) ranges_v4: Table<RangeKey<V4>, u32>,
    pub(super) ranges_v6: Table<RangeKey<V6>, u32>,
    pub(super) networks_v4: Table<u32, Prefix<V4>>,
    pub(super) networks_v6: Table<u32, Prefix<V6>>,
    strangers: Strangers,
}

/// What a source range's row holds: nothing that anybody reads.
const IN: u32 = 1;

/// The tables of flows of a family.
#[derive(Debug)]
pub struct FlowTables<A: Address> {
    /// Flows whose other side has answered.
    pub settled: Table<FlowKey<A>, FlowEntry<A>>,
    /// Flows whose other side has yet to.
    pub embryonic: Table<FlowKey<A>, FlowRow<A>>,
    /// Clients' backends.
    pub affinity: Table<AffinityKey<A>, AffinityRow>,
}

/// Opens the flow tables of IPv4.
///
/// # Errors
/// As [`Table::open`].
pub fn flows_v4(pins: &Pins) -> anyhow::Result<FlowTables<V4>> {
    Ok(FlowTables {
        settled: Table::open(&pins.map(abi::FLOWS_V4))?,
        embryonic: Table::open(&pins.map(abi::EMBRYONIC_V4))?,
        affinity: Table::open(&pins.map(abi::AFFINITY_V4))?,
    })
}

/// Opens the flow tables of IPv6.
///
/// # Errors
/// As [`Table::open`].
pub fn flows_v6(pins: &Pins) -> anyhow::Result<FlowTables<V6>> {
    Ok(FlowTables {
        settled: Table::open(&pins.map(abi::FLOWS_V6))?,
        embryonic: Table::open(&pins.map(abi::EMBRYONIC_V6))?,
        affinity: Table::open(&pins.map(abi::AFFINITY_V6))?,
    })
}

/// What is asked about connections that netfilter translates, of a family.
#[derive(Debug)]
pub struct ForeignTables<A: Address> {
    /// Those connections.
    pub rows: Table<FlowKey<A>, ForeignRow>,
    /// What clients dial.
    pub frontends: Table<FrontendKey<A>, FrontendRow>,
    /// Who serves.
    pub backends: Table<BackendId, BackendRow<A>>,
}

/// Opens the tables of netfilter's connections of IPv4.
///
/// # Errors
/// As [`Table::open`].
pub fn foreign_v4(pins: &Pins) -> anyhow::Result<ForeignTables<V4>> {
    Ok(ForeignTables {
        rows: Table::open(&pins.map(abi::FOREIGN_V4))?,
        frontends: Table::open(&pins.map(abi::FRONTENDS_V4))?,
        backends: Table::open(&pins.map(abi::BACKENDS_V4))?,
    })
}

/// Opens the tables of netfilter's connections of IPv6.
///
/// # Errors
/// As [`Table::open`].
pub fn foreign_v6(pins: &Pins) -> anyhow::Result<ForeignTables<V6>> {
    Ok(ForeignTables {
        rows: Table::open(&pins.map(abi::FOREIGN_V6))?,
        frontends: Table::open(&pins.map(abi::FRONTENDS_V6))?,
        backends: Table::open(&pins.map(abi::BACKENDS_V6))?,
    })
}

/// The table of what sockets were translated to, of a family.
pub type SocketTable<A> = Table<SocketKey<A>, SocketRow<A>>;

/// Opens the tables of what sockets were translated to.
///
/// # Errors
/// As [`Table::open`].
pub fn sockets(pins: &Pins) -> anyhow::Result<(SocketTable<V4>, SocketTable<V6>)> {
    Ok((Table::open(&pins.map(abi::SOCKETS_V4))?, Table::open(&pins.map(abi::SOCKETS_V6))?))
}

/// Opens the table of interfaces.
///
/// # Errors
/// As [`Table::open`].
pub fn interfaces(pins: &Pins) -> anyhow::Result<Table<u32, InterfaceRow>> {
    Table::open(&pins.map(abi::INTERFACES))
}

/// Reads the node's configuration row.
///
/// # Errors
/// As [`Table::open`].
pub fn config(pins: &Pins) -> anyhow::Result<Config> {
    let table: Table<u32, Config> = Table::open(&pins.map(abi::CONFIG))?;
    Ok(table.get(&0).context("reading the map CONFIG")?.unwrap_or_default())
}

/// Writes the node's configuration row, if it is another; says whether it wrote.
///
/// # Errors
/// As [`Table::open`].
pub fn set_config(pins: &Pins, config: &Config) -> anyhow::Result<bool> {
    let table: Table<u32, Config> = Table::open(&pins.map(abi::CONFIG))?;
    let differs = table.get(&0).context("reading the map CONFIG")? != Some(*config);
    if differs {
        table.put(&0, config).context("writing the map CONFIG")?;
    }
    Ok(differs)
}

/// Makes every shortcut of flows void: a link, an address or a route has changed.
///
/// # Errors
/// As [`Table::open`].
pub fn void_shortcuts(pins: &Pins) -> anyhow::Result<()> {
    let now = config(pins)?;
    let next = Config { route_generation: now.route_generation.wrapping_add(1), ..now };
    set_config(pins, &next).map(|_written| ())
}

/// How often programs ended in each verdict, over all CPUs, since the maps were made.
///
/// # Errors
/// Where the map is not there or cannot be read.
pub fn verdicts(pins: &Pins) -> anyhow::Result<Vec<(Verdict, u64)>> {
    let data = MapData::from_pin(pins.map(abi::VERDICTS)).context("opening the map VERDICTS")?;
    let counters: PerCpuArray<_, u64> =
        Map::PerCpuArray(data).try_into().context("opening the map VERDICTS")?;
    let sum = |verdict: &Verdict| {
        let per_cpu = counters.get(&verdict.index(), 0).context("reading the map VERDICTS")?;
        Ok((*verdict, per_cpu.iter().sum()))
    };
    Verdict::ALL.iter().map(sum).collect()
}

impl KernelMaps {
    /// Opens the pinned service maps.
    ///
    /// # Errors
    /// As [`Table::open`].
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self {
            service_ports: Table::open(&pins.map(abi::SERVICE_PORTS))?,
            backends_v4: Table::open(&pins.map(abi::BACKENDS_V4))?,
            backends_v6: Table::open(&pins.map(abi::BACKENDS_V6))?,
            slots: Table::open(&pins.map(abi::SLOTS))?,
            frontends_v4: Table::open(&pins.map(abi::FRONTENDS_V4))?,
            frontends_v6: Table::open(&pins.map(abi::FRONTENDS_V6))?,
            ranges_v4: Table::open(&pins.map(abi::RANGES_V4))?,
            ranges_v6: Table::open(&pins.map(abi::RANGES_V6))?,
            networks_v4: Table::open(&pins.map(abi::NETWORKS_V4))?,
            networks_v6: Table::open(&pins.map(abi::NETWORKS_V6))?,
            strangers: Strangers::open(pins).context("opening the map STRANGERS")?,
        })
    }

    /// Spares the datapath all lookups for addresses and ports other than those of `known`; says whether that is new.
    ///
    /// # Errors
    /// Where the map cannot be written.
    pub fn set_strangers(&mut self, known: &Acquaintances) -> anyhow::Result<bool> {
        self.strangers.all_but(known).context("writing the map STRANGERS")
    }

    /// From now on remembers who gets a row, until [`Self::set_strangers`]: so that those who read the tables before
    /// that may read slowly.
    pub fn remember_whom_it_meets(&mut self) {
        self.strangers.remember();
    }

    /// How much fits.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        Capacity {
            service_ports: self.service_ports.capacity(),
            frontends: self.frontends_v4.capacity().min(self.frontends_v6.capacity()),
            backends: self.backends_v4.capacity().min(self.backends_v6.capacity()),
            slots: self.slots.capacity(),
            ranges: self.ranges_v4.capacity().min(self.ranges_v6.capacity()),
        }
    }

    /// Writes the run of operations of one kind at the head of `operations`; says how many that were and how many
    /// took effect.
    fn apply_run(&self, operations: &[MapOp]) -> (usize, usize, io::Result<()>) {
        match &operations[0] {
            MapOp::PutServicePort(..) => put_run(&self.service_ports, operations, |op| match op {
                MapOp::PutServicePort(id, name) => Some((*id, name.row())),
                _ => None,
            }),
            MapOp::PutBackendV4(..) => put_run(&self.backends_v4, operations, |op| match op {
                MapOp::PutBackendV4(id, row) => Some((*id, *row)),
                _ => None,
            }),
            MapOp::PutBackendV6(..) => put_run(&self.backends_v6, operations, |op| match op {
                MapOp::PutBackendV6(id, row) => Some((*id, *row)),
                _ => None,
            }),
            MapOp::PutFrontendV4(..) => put_run(&self.frontends_v4, operations, |op| match op {
                MapOp::PutFrontendV4(key, row) => Some((*key, *row)),
                _ => None,
            }),
            MapOp::PutFrontendV6(..) => put_run(&self.frontends_v6, operations, |op| match op {
                MapOp::PutFrontendV6(key, row) => Some((*key, *row)),
                _ => None,
            }),
            MapOp::PutSlots { .. } => self.put_slots(operations),
            MapOp::DeleteServicePort(id) => deleted(self.service_ports.delete(id)),
            MapOp::DeleteFrontendV4(key) => deleted(self.frontends_v4.delete(key)),
            MapOp::DeleteFrontendV6(key) => deleted(self.frontends_v6.delete(key)),
            MapOp::PutRangeV4(_) => put_run(&self.ranges_v4, operations, |op| match op {
                MapOp::PutRangeV4(key) => Some((*key, IN)),
                _ => None,
            }),
            MapOp::PutRangeV6(_) => put_run(&self.ranges_v6, operations, |op| match op {
                MapOp::PutRangeV6(key) => Some((*key, IN)),
                _ => None,
            }),
            MapOp::DeleteRangeV4(key) => deleted(self.ranges_v4.delete(key)),
            MapOp::DeleteRangeV6(key) => deleted(self.ranges_v6.delete(key)),
            MapOp::PutNetworkV4(row, network) => put(self.networks_v4.put(row, network)),
            MapOp::PutNetworkV6(row, network) => put(self.networks_v6.put(row, network)),
        }
    }

    fn put_slots(&self, operations: &[MapOp]) -> (usize, usize, io::Result<()>) {
        let (mut keys, mut values, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for operation in operations {
            let MapOp::PutSlots { start, backends } = operation else { break };
            keys.extend((*start..).take(backends.len()));
            values.extend_from_slice(backends);
            ends.push(keys.len());
        }
        let (written, result) = self.slots.put_all(&keys, &values);
        (ends.len(), ends.iter().filter(|&&end| end <= written).count(), result)
    }
}

fn put_run<K: Pod, V: Pod>(
    table: &Table<K, V>,
    operations: &[MapOp],
    row: impl Fn(&MapOp) -> Option<(K, V)>,
) -> (usize, usize, io::Result<()>) {
    let (keys, values): (Vec<K>, Vec<V>) = operations.iter().map_while(row).unzip();
    let (written, result) = table.put_all(&keys, &values);
    (keys.len(), written, result)
}

fn put(result: io::Result<()>) -> (usize, usize, io::Result<()>) {
    (1, usize::from(result.is_ok()), result)
}

fn deleted(result: io::Result<bool>) -> (usize, usize, io::Result<()>) {
    match result {
        Ok(_) => (1, 1, Ok(())),
        Err(error) => (1, 0, Err(error)),
    }
}

impl Maps for KernelMaps {
    type Place = Place;

    fn look(&mut self, thought: &Tables, place: &mut Place) -> anyhow::Result<Seen> {
        compare::look(self, thought, place)
    }

    fn load(&mut self) -> anyhow::Result<Tables> {
        let frontends_v4: BTreeMap<_, _> = read(&self.frontends_v4)?.into_iter().collect();
        let frontends_v6: BTreeMap<_, _> = read(&self.frontends_v6)?.into_iter().collect();
        // Slots behind the last that a frontend names hold nothing that counts.
        let named =
            frontends_v4.values().chain(frontends_v6.values()).flat_map(|row| [row.inside, row.outside]);
        let used = named.map(|range| range.start as usize + range.len as usize).max().unwrap_or(0);
        let slots = match used {
            0 => Vec::new(),
            used => self.slots.first_rows(used).context("reading the map SLOTS")?,
        };
        let slots: Vec<BackendId> = slots.into_iter().take(used).map(|(_, id)| id).collect();
        Ok(Tables {
            service_ports: names(&self.service_ports)?,
            backends_v4: backends(&self.backends_v4)?,
            backends_v6: backends(&self.backends_v6)?,
            slots,
            frontends_v4,
            frontends_v6,
            ranges_v4: read(&self.ranges_v4)?.into_iter().map(|(key, _)| key).collect(),
            ranges_v6: read(&self.ranges_v6)?.into_iter().map(|(key, _)| key).collect(),
            networks_v4: present(read(&self.networks_v4)?),
            networks_v6: present(read(&self.networks_v6)?),
        })
    }

    fn apply(&mut self, operations: &[MapOp]) -> Result<(), Stopped> {
        let met = self.strangers.meet(operations);
        met.map_err(|error| Stopped {
            applied: 0,
            operation: "writing the map STRANGERS".to_owned(),
            reason: error.to_string(),
        })?;
        let mut applied = 0;
        while let Some(rest) = operations.get(applied..).filter(|rest| !rest.is_empty()) {
            let (run, done, result) = self.apply_run(rest);
            applied += done.min(run);
            if let Err(error) = result {
                let operation = operations.get(applied).map_or_else(String::new, |op| format!("{op:?}"));
                return Err(Stopped { applied, operation, reason: error.to_string() });
            }
        }
        Ok(())
    }
}

fn names(table: &Table<u32, ServicePortName>) -> anyhow::Result<BTreeMap<u32, PortName>> {
    let mut names = BTreeMap::new();
    let read = table.each(|id, name| {
        names.insert(*id, PortName::from(*name));
    });
    read.with_context(|| format!("reading the map {}", table.name()))?;
    Ok(names)
}

/// Those that ever had an owner, of an array that may be much larger.
fn backends<A: Address>(table: &Table<BackendId, BackendRow<A>>) -> anyhow::Result<Backends<A>> {
    let mut rows = Backends::default();
    let read = table.each(|id, row| rows.insert(*id, *row));
    read.with_context(|| format!("reading the map {}", table.name()))?;
    Ok(rows)
}

fn present<A: Address>(rows: Vec<(u32, Prefix<A>)>) -> BTreeMap<u32, Prefix<A>> {
    rows.into_iter().filter(|(_, network)| network.present != 0).collect()
}

fn read<K: Pod, V: Pod>(table: &Table<K, V>) -> anyhow::Result<Vec<(K, V)>> {
    table.rows().with_context(|| format!("reading the map {}", table.name()))
}
