//! `bench prog`: nanoseconds a packet of every program and path, by BPF_PROG_TEST_RUN.
//!
//! Decides which tables there are. Must not know how a packet is restored. Invariant: each figure is net of the
//! wrapper, which was timed right before and after it.

mod asm;
mod flows;
mod ground;
mod harness;
mod live;
mod memory;
mod object;
mod paths;
mod services;
mod shortcuts;
mod wrapper;

pub(crate) use self::live::run as pps;

use std::process::Command;

use anyhow::{Context as _, Result};
use lb_common::address::Protocol;
use lb_tests::packets::Datapath;
use serde_json::Value;

use self::ground::{Ground, Wishes, side_by_side};
use crate::figures::{Cell, Section, Table};
use crate::screen::Screen;
use crate::{Extent, Order};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    /// Runs of a program in each round, all turns together.
    repeat: u32,
    /// Flows that take turns.
    flows: &'static [u32],
    services: &'static [u32],
}

impl Effort {
    fn of(extent: Extent) -> Self {
        let (flows, services): (&[u32], &[u32]) =
            (&[1, 1 << 10, 1 << 16, 1 << 20], &[1, 1_000, 10_000, 50_000]);
        match extent {
            Extent::Quick => Self { rounds: 3, repeat: 50_000, flows: &flows[..3], services: &[1, 10_000] },
            Extent::Full | Extent::Patient => Self { rounds: 9, repeat: 200_000, flows, services },
        }
    }
}

impl Effort {
    /// Rounds with so many flows, and runs in each. Few flows: many short rounds, since a machine that slows down for a
    /// moment spoils one of them, and what is compared should run within milliseconds. Many: they take longer, and
    /// differ less.
    fn turns(self, flows: u32) -> (usize, u32) {
        if flows < MANY {
            (self.rounds * usize::from(TURNS), self.repeat / u32::from(TURNS))
        } else {
            (self.rounds.div_ceil(2), self.repeat.max(flows))
        }
    }
}

/// Flows that do not fit into the caches of one processor.
const MANY: u32 = 1 << 16;
/// Turns that what is short takes in each round.
const TURNS: u16 = 8;
const FAMILIES: [(bool, &str); 2] = [(false, "IPv4"), (true, "IPv6")];

/// Measures.
pub(crate) fn run(order: &Order, screen: &Screen) -> Result<Section> {
    let effort = Effort::of(order.extent);
    let instructions = instructions()?;
    let mut grounds = established(effort, screen)?;
    let (flows, flow_plots) = flows::measure(&mut grounds, effort, screen)?;
    let wire = shortcuts::measure(&mut grounds, effort, screen)?;
    drop(grounds);
    let services = services::measure(effort, screen)?;
    let paths = paths::measure(effort, screen)?;
    let memory = memory::measure()?;
    Ok(Section {
        verb: "prog".to_owned(),
        title: "What a packet costs".to_owned(),
        method: vec![
            "Each program runs on one packet again and again inside the kernel (BPF_PROG_TEST_RUN). A program that \
             translates a packet would find it translated the second time, so a wrapper writes the packet anew, with the \
             next client's address and port in it, and then tail-calls the program. The wrapper around a program that \
             does nothing is timed right before and after, and subtracted. Every single run must end in the verdict \
             that the table's row stands for, or the benchmark fails."
                .to_owned(),
            "Flows are made by the programs themselves, opened and answered. They take turns in an order that no cache \
             can guess. Beside them stands one lookup of the same flows in the same table: what no stateful load \
             balancer can do without. Figures are the median of the rounds, with the least and the greatest."
                .to_owned(),
        ],
        tables: [flows, vec![wire, services, paths, memory, instructions]].concat(),
        plots: flow_plots,
        limits: vec![
            "What the kernel does with the packet before and after the program: allocating, routing, sending. \
             `bench traffic` has that."
                .to_owned(),
            "The packet itself is in the first-level cache, as it is not when it comes from a network card.".to_owned(),
            "Programs on sockets (connect, sendmsg) cannot be run this way. The XDP program's flows have their ways out \
             written by the bench, since a test run has no routes; a flow asks for its own once a second."
                .to_owned(),
        ],
        disturbances: Vec::new(),
    })
}

/// A ground of each family and protocol, with as many flows as are ever measured.
fn established(effort: Effort, screen: &Screen) -> Result<Vec<Ground>> {
    let most = effort.flows.last().copied().unwrap_or(1);
    let protocols = [Protocol::TCP, Protocol::UDP];
    let kinds =
        FAMILIES.iter().flat_map(|(ipv6, _)| protocols.map(|protocol| Wishes::plain(*ipv6, protocol)));
    let bar = screen.bar("making flows", FAMILIES.len() * protocols.len());
    let grounds = side_by_side(kinds, |plain| {
        let mut ground = Ground::lay(Wishes { flows: most, ..plain })?;
        ground.populate(most).with_context(|| format!("making {most} flows of {:?}", plain.names()))?;
        bar.inc(1);
        Ok(ground)
    });
    bar.finish_and_clear();
    grounds
}

/// What the programs cost before any packet.
fn instructions() -> Result<Table> {
    let mut datapath = Datapath::load()?;
    let mut table = Table::new("Programs", &["program", "instructions", "verified", "machine code, bytes"]);
    for counts in datapath.instructions()? {
        table.rows.push(vec![
            Cell::text(counts.program),
            Cell::Count(counts.translated.into()),
            Cell::Count(counts.verified.into()),
            jited_bytes(counts.id).map_or(Cell::Nothing, Cell::Count),
        ]);
    }
    Ok(table)
}

/// The size of a program's machine code, where bpftool is there to ask.
fn jited_bytes(id: u32) -> Option<u64> {
    let output = Command::new("bpftool").args(["-j", "prog", "show", "id", &id.to_string()]).output().ok()?;
    let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
    shown["bytes_jited"].as_u64()
}
