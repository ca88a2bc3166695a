//! The table of strangers: whom the datapath need not look up.
//!
//! Decides when a bit is set and cleared. Must not know why a row is what it is. Invariant: a bit goes before the first
//! row of its address and port is written, and comes only when no frontend, backend or flow row has any of that hash. Flows
//! begin at frontends and collide with flows, so none can begin that the rows read just before do not tell of.

use std::io;
use std::ops::RangeInclusive;

use lb_common::abi::{self, BackendRow, FlowFlags, FlowKey, FlowRow, FrontendKey, Hook, Stranger};
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
        let mut all = Self::nobody(masquerade_ports);
        tables.frontends_v4.keys().for_each(|key| all.add_frontend(key));
        tables.frontends_v6.keys().for_each(|key| all.add_frontend(key));
        tables.backends_v4.values().for_each(|row| all.add_backend(row));
        tables.backends_v6.values().for_each(|row| all.add_backend(row));
        all
    }

    /// Nobody yet.
    #[must_use]
    pub fn nobody(masquerade_ports: RangeInclusive<u16>) -> Self {
        Self { bits: vec![0; WORDS], masquerade_ports }
    }

    /// Whoever it may be.
    #[must_use]
    pub fn everybody() -> Self {
        Self { bits: vec![u32::MAX; WORDS], masquerade_ports: 0..=0 }
    }

    /// What clients dial.
    pub fn add_frontend<A: Address>(&mut self, key: &FrontendKey<A>) {
        self.add(key.addr, key.port);
    }

    /// Who serves; a row that nobody ever had adds nobody.
    pub fn add_backend<A: Address>(&mut self, row: &BackendRow<A>) {
        if row.generation != 0 {
            self.add(row.addr, row.port);
        }
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
    bits: Bits,
}

/// What stands in the table.
#[derive(Debug)]
struct Bits {
    words: Vec<u32>,
    /// Whoever got a row since somebody began to read who has one.
    met: Option<Vec<u32>>,
}

impl Bits {
    /// Makes acquaintances of `ends`; returns the words that changed.
    fn meet(&mut self, ends: impl Iterator<Item = Stranger>) -> Vec<u32> {
        let mut changed = Vec::new();
        for Stranger { index, bit } in ends {
            if let Some(met) = &mut self.met {
                met[index as usize] |= bit;
            }
            let word = &mut self.words[index as usize];
            if *word & bit != 0 {
                *word &= !bit;
                changed.push(index);
            }
        }
        changed
    }

    /// Makes strangers of all but `known` and those met meanwhile; returns the words that changed.
    fn all_but(&mut self, known: &Acquaintances) -> Vec<u32> {
        let met = self.met.take().unwrap_or_else(|| vec![0; WORDS]);
        let mut changed = Vec::new();
        for (index, ((word, known), met)) in (0..).zip(self.words.iter_mut().zip(&known.bits).zip(&met)) {
            if *word != !(known | met) {
                *word = !(known | met);
                changed.push(index);
            }
        }
        changed
    }
}

impl Strangers {
    /// # Errors
    /// As [`Table::open`], and where it cannot be read.
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        let table = Table::open(&pins.map(abi::STRANGERS))?;
        let rows = table.first_rows(WORDS)?;
        // Not in the memory of the rows, which is twice as long.
        let words = rows.iter().map(|(_, bits)| *bits).collect();
        Ok(Self { table, bits: Bits { words, met: None } })
    }

    /// From now on remembers who gets a row, until [`Self::all_but`].
    pub(super) fn remember(&mut self) {
        self.bits.met = Some(vec![0; WORDS]);
    }

    /// Makes sure that nobody who is about to get a row is a stranger.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(super) fn meet(&mut self, operations: &[MapOp]) -> io::Result<()> {
        let changed = self.bits.meet(operations.iter().filter_map(end_of));
        self.write(&changed)
    }

    /// Makes strangers of all but `known`; says whether anything changed.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(super) fn all_but(&mut self, known: &Acquaintances) -> io::Result<bool> {
        let changed = self.bits.all_but(known);
        self.write(&changed)?;
        Ok(!changed.is_empty())
    }

    fn write(&mut self, rows: &[u32]) -> io::Result<()> {
        let words: Vec<u32> = rows.iter().map(|&row| self.bits.words[row as usize]).collect();
        let (written, result) = self.table.put_all(rows, &words);
        if result.is_err() {
            // What the kernel has not taken is not remembered as taken: nobody is a stranger there next time.
            rows[written..].iter().for_each(|&row| self.bits.words[row as usize] = u32::MAX);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(index: u32) -> Stranger {
        Stranger { index, bit: 1 }
    }

    fn bits() -> Bits {
        Bits { words: vec![0; WORDS], met: None }
    }

    #[test]
    fn all_but_those_known_become_strangers_and_whoever_is_met_stops_being_one() {
        let mut bits = bits();
        let mut known = Acquaintances::nobody(0..=0);
        known.bits[7] = 1;
        assert_eq!(bits.all_but(&known).len(), WORDS);
        assert_eq!((bits.words[7], bits.words[8]), (!1, !0));
        assert_eq!(bits.meet([stranger(7), stranger(8)].into_iter()), [8]);
        assert_eq!(bits.words[8], !1);
    }

    #[test]
    fn whoever_gets_a_row_while_the_tables_are_read_is_no_stranger_afterwards() {
        let mut bits = bits();
        bits.met = Some(vec![0; WORDS]);
        // Met for the second time, so that no bit changes, after the reader has passed the place.
        assert_eq!(bits.meet([stranger(9)].into_iter()), [0_u32; 0]);
        bits.all_but(&Acquaintances::nobody(0..=0));
        assert_eq!((bits.words[9], bits.words[10]), (!1, !0));
        // The next reading begins without it.
        bits.all_but(&Acquaintances::nobody(0..=0));
        assert_eq!(bits.words[9], !0);
    }
}
