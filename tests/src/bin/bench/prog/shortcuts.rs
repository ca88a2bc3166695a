//! Established masqueraded flows before the stack: the XDP program, both ends rewritten, sent out.
//!
//! Decides that flows get their ways out from here: a test run has no routes to ask. Must not know how time is taken.
//! Invariant: every packet that is timed left by its shortcut.

use anyhow::{Context as _, Result};
use lb_common::abi::{FlowEntry, FlowFlags, Hook as FlowHook, Macs, Shortcut, Verdict};
use lb_common::address::{Address, Port, V4};
use lb_common::flow_state::SideState;
use lb_userspace::datapath::kernel::FlowTables;
use lb_userspace::datapath::object::XDP_PROGRAM;

use super::Effort;
use super::ground::{Ground, Packet};
use super::harness::{Target, Timing};
use super::wrapper::{Hook, Recipe};
use crate::figures::{Cell, Table};
use crate::screen::Screen;

/// The interface of test runs: a packet that leaves by it goes back where it came from.
pub(super) const LOOPBACK: u32 = 1;

/// Measures.
pub(super) fn measure(grounds: &mut [Ground], effort: Effort, screen: &Screen) -> Result<Table> {
    let mut table = Table::new(
        "From wire to wire at XDP: destination and source translated, sent on",
        &["family", "packet", "protocol", "flows", "ns", "one lookup, ns", "ns / lookup"],
    );
    let bar = screen.bar("wire to wire", grounds.len() * effort.flows.len());
    for ground in grounds {
        let (family, name) = ground.wishes.names();
        give_ways(ground, LOOPBACK)?;
        for flows in effort.flows {
            let recipe = Recipe { hook: Hook::Xdp, ..ground.varied(Packet::Forth, Some(*flows)) };
            let timing = time(ground, recipe, Verdict::ShortcutTaken, effort)?;
            let count = Cell::Count((*flows).into());
            table.rows.push(row([family, "of an established flow", name], count, &timing));
            bar.inc(1);
        }
        let stranger = ground.fixed(ground.frame(ground.client(), ground.stranger(), "A"));
        let recipe = Recipe { hook: Hook::Xdp, ..stranger };
        let timing = time(ground, recipe, Verdict::ShortcutLeft, effort)?;
        table.rows.push(row([family, "to no Service, left to tc", name], Cell::Nothing, &timing));
    }
    bar.finish_and_clear();
    Ok(table)
}

fn time(ground: &mut Ground, recipe: Recipe, verdict: Verdict, effort: Effort) -> Result<Timing> {
    let program = ground.datapath.program(XDP_PROGRAM)?;
    let target = Target { program: &program, verdict };
    let flows = recipe.flows.unwrap_or(1);
    let (rounds, repeat) = effort.turns(flows);
    let mut harness = ground.harness(recipe)?;
    harness.warm_up(&ground.datapath, &target)?;
    let rounds = (0..rounds).map(|_| harness.round(&ground.datapath, &target, repeat));
    Ok(Timing::of(&rounds.collect::<Result<Vec<_>>>()?))
}

fn row(words: [&str; 3], flows: Cell, timing: &Timing) -> Vec<Cell> {
    let mut row: Vec<Cell> = words.map(Cell::text).to_vec();
    row.extend([
        flows,
        Cell::Figure(timing.target),
        Cell::figure(timing.lookup),
        timing.ratio.map_or(Cell::Nothing, Cell::Ratio),
    ]);
    row
}

/// Makes every flow one that is masqueraded, with a way out by that interface.
pub(super) fn give_ways(ground: &Ground, ifindex: u32) -> Result<()> {
    ground.datapath.let_shortcuts_last()?;
    if ground.wishes.ipv6 {
        give(&ground.datapath.flows_v6()?, ifindex)
    } else {
        give::<V4>(&ground.datapath.flows_v4()?, ifindex)
    }
}

fn give<A: Address>(tables: &FlowTables<A>, ifindex: u32) -> Result<()> {
    let rows = tables.settled.rows().context("reading the flows")?;
    let forth = rows.into_iter().filter(|(key, _)| key.hook == FlowHook::INGRESS);
    let (keys, entries): (Vec<_>, Vec<_>) = forth
        .map(|(key, entry)| {
            let mut row = entry.row;
            row.flags = FlowFlags(FlowFlags::FORWARD | FlowFlags::MASQUERADED);
            row.state = SideState::OPEN.0;
            let shortcut = Shortcut {
                route_generation: 0,
                made: 0,
                addr: key.dst,
                port: Port::new(61_000),
                other_port: row.port,
                mtu: 1_500,
                ifindex,
                macs: Macs::new([1, 2, 3], [4, 5, 6]),
            };
            (key, FlowEntry { row, shortcut })
        })
        .unzip();
    let (written, result) = tables.settled.put_all(&keys, &entries);
    result.with_context(|| format!("giving flows their ways out; {written} have one"))
}
