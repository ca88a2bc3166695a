//! The table of strangers: whom the datapath need not look up.
//!
//! Decides when a bit is set and cleared. Must not know why a row is what it is. Invariant: a bit goes before the first
//! row of its address and port is written, and comes only when no frontend, backend or flow row has any of that hash. Flows
//! begin at frontends and collide with flows, so none can begin that the rows read just before do not tell of.

use std::io;
use std::ops::RangeInclusive;

use lb_common::abi::{self, FlowFlags, FlowKey, FlowRow, Hook, Stranger};
use lb_common::address::{Address, Port};

use super::pins::Pins;
use super::table::Table;
use crate::tables::{MapOp, Tables};

const WORDS: usize = Stranger::ROWS as usize;

/// Addresses and ports that rows have, as a set that may hold others too.
#[derive(Clone, Debug)]
pub struct Acquaintances {
    bits: Vec<u32>,
    masquerade_ports: RangeInclusive<u16>,
}

impl Acquaintances {
    /// Those of the service maps. The datapath looks for flows behind its own ports by itself: they need not be known.
    #[must_use]
    pub fn of(tables: &Tables, masquerade_ports: RangeInclusive<u16>) -> Self {
        let mut all = Self { bits: vec![0; WORDS], masquerade_ports };
        tables.frontends_v4.keys().for_each(|key| all.add(key.addr, key.port));
        tables.frontends_v6.keys().for_each(|key| all.add(key.addr, key.port));
        tables.backends_v4.values().for_each(|row| all.add(row.addr, row.port));
        tables.backends_v6.values().for_each(|row| all.add(row.addr, row.port));
        all
    }

    /// Whoever it may be.
    #[must_use]
    pub fn everybody() -> Self {
        Self { bits: vec![u32::MAX; WORDS], masquerade_ports: 0..=0 }
    }

    /// Those by which the datapath may have to find a flow's row: what clients dial, and what serves them.
    pub fn add_flow<A: Address>(&mut self, key: &FlowKey<A>, row: &FlowRow<A>) {
        let forward = row.flags.has(FlowFlags::FORWARD);
        if key.hook == Hook::EGRESS && !forward {
            self.add(key.src, key.src_port);
        } else if !self.masquerade_ports.contains(&{ key.dst_port }.get()) {
            self.add(key.dst, key.dst_port);
        }
        if key.hook == Hook::INGRESS && forward {
            self.add(row.addr, row.port);
        }
    }

    fn add<A: Address>(&mut self, addr: A, port: Port) {
        let Stranger { index, bit } = Stranger::of(addr, port);
        self.bits[index as usize] |= bit;
    }
}

/// The pinned table, and what stands in it.
#[derive(Debug)]
pub(super) struct Strangers {
    table: Table<u32, u32>,
    bits: Vec<u32>,
}

impl Strangers {
    /// # Errors
    /// As [`Table::open`], and where it cannot be read.
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        let table = Table::open(&pins.map(abi::STRANGERS))?;
        let bits = table.first_rows(WORDS)?.into_iter().map(|(_, bits)| bits).collect();
        Ok(Self { table, bits })
    }

    /// Makes sure that nobody who is about to get a row is a stranger.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(super) fn meet(&mut self, operations: &[MapOp]) -> io::Result<()> {
        let mut changed = Vec::new();
        for Stranger { index, bit } in operations.iter().filter_map(end_of) {
            let word = &mut self.bits[index as usize];
            if *word & bit != 0 {
                *word &= !bit;
                changed.push(index);
            }
        }
        self.write(&changed)
    }

    /// Makes strangers of all but `known`; says whether anything changed.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(super) fn all_but(&mut self, known: &Acquaintances) -> io::Result<bool> {
        let mut changed = Vec::new();
        for ((index, word), known) in (0..).zip(&mut self.bits).zip(&known.bits) {
            if *word != !known {
                *word = !known;
                changed.push(index);
            }
        }
        self.write(&changed)?;
        Ok(!changed.is_empty())
    }

    fn write(&mut self, rows: &[u32]) -> io::Result<()> {
        let words: Vec<u32> = rows.iter().map(|&row| self.bits[row as usize]).collect();
        let (written, result) = self.table.put_all(rows, &words);
        if result.is_err() {
            // What the kernel has not taken is not remembered as taken: nobody is a stranger there next time.
            rows[written..].iter().for_each(|&row| self.bits[row as usize] = u32::MAX);
        }
        result
    }
}

fn end_of(operation: &MapOp) -> Option<Stranger> {
    match operation {
        MapOp::PutFrontendV4(key, _) => Some(Stranger::of(key.addr, key.port)),
        MapOp::PutFrontendV6(key, _) => Some(Stranger::of(key.addr, key.port)),
        MapOp::PutBackendV4(_, row) => Some(Stranger::of(row.addr, row.port)),
        MapOp::PutBackendV6(_, row) => Some(Stranger::of(row.addr, row.port)),
        _ => None,
    }
}
