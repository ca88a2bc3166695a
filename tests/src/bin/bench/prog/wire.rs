//! Masqueraded flows at the XDP hook: translated at both ends and sent on, before the stack.
//!
//! Decides which flows there are: one that the programs made themselves, and copies of its row for other clients. Must
//! not know how time is taken. Invariant: a test run has no routes, so the way out is written into the rows; everything
//! else in them is what the programs wrote.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lb_common::abi::{self, Config, FlowEntry, FlowKey, Hook as FlowHook, Shortcut, Verdict};
use lb_common::address::{Address, Port, Protocol, V4, V6};
use lb_tests::packets::{Frame, sockets_of};
use lb_userspace::datapath::clock::Clock;
use lb_userspace::datapath::kernel::FlowTables;
use lb_userspace::datapath::object::XDP_PROGRAM;
use lb_userspace::datapath::table::Table;

use super::ground::{Ground, Packet, Wishes};
use super::harness::{Target, Timing};
use super::wrapper::{Hook, PORTS_SHIFT, Recipe};
use super::{Effort, FAMILIES};
use crate::figures;
use crate::figures::Cell;
use crate::screen::Screen;

/// Measures.
pub(super) fn measure(effort: Effort, screen: &Screen) -> Result<figures::Table> {
    let mut table = figures::Table::new(
        "From wire to wire at XDP: destination and source translated, sent on",
        &["family", "packet", "flows", "ns", "one lookup, ns", "ns / lookup"],
    );
    let most = effort.flows.last().copied().unwrap_or(1);
    let bar = screen.bar("from wire to wire", FAMILIES.len() * (1 + effort.flows.len()));
    for (ipv6, family) in FAMILIES {
        let wishes = Wishes { external: true, flows: most, ..Wishes::plain(ipv6, Protocol::TCP) };
        let mut ground = Ground::lay(wishes)?;
        let program = ground.datapath.program(XDP_PROGRAM)?;
        let node = masquerade_one(&mut ground)?;
        keep_ways_fresh(&ground)?;
        let stranger = ground.frame(ground.client(), ground.stranger(), "A");
        let stranger = Recipe { hook: Hook::Xdp, ..ground.fixed(stranger) };
        let taken = |flows| {
            let recipe = Recipe { hook: Hook::Xdp, ..ground.varied(Packet::Forth, Some(flows)) };
            ("of an established flow", recipe, flows, Verdict::ShortcutTaken)
        };
        let left = ("to no Service, left to tc", stranger, 1, Verdict::ShortcutLeft);
        for (name, recipe, flows, verdict) in
            std::iter::once(left).chain(effort.flows.iter().map(|f| taken(*f)))
        {
            if ipv6 {
                copy::<V6>(&ground, &ground.datapath.flows_v6()?, node, flows)?;
            } else {
                copy::<V4>(&ground, &ground.datapath.flows_v4()?, node, flows)?;
            }
            let target = Target { program: &program, verdict };
            let mut harness = ground.harness(recipe)?;
            harness.warm_up(&ground.datapath, &target)?;
            let repeat = effort.repeat.max(flows);
            let rounds = (0..effort.rounds).map(|_| harness.round(&ground.datapath, &target, repeat));
            let timing = Timing::of(&rounds.collect::<Result<Vec<_>>>()?);
            table.rows.push(vec![
                Cell::text(family),
                Cell::text(name),
                Cell::Count(flows.into()),
                Cell::Figure(timing.target),
                Cell::figure(timing.lookup),
                timing.ratio.map_or(Cell::Nothing, Cell::Ratio),
            ]);
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(table)
}

/// A way out is asked for anew after a second; here, where there are no routes, a second lasts for days.
fn keep_ways_fresh(ground: &Ground) -> Result<()> {
    let table: Table<u32, Config> = Table::open(&ground.datapath.pin(abi::CONFIG))?;
    let config = table.get(&0).context("reading the map CONFIG")?.context("the map CONFIG is empty")?;
    let config = Config { ticks_per_second: 1 << 30, ..config };
    table.put(&0, &config).context("writing the map CONFIG")
}

/// Lets the programs make flow 0 from outside and see it answered; what it was masqueraded with.
fn masquerade_one(ground: &mut Ground) -> Result<SocketAddr> {
    let (client, vip) = (ground.client(), ground.frontend(0));
    let datapath = &mut ground.datapath;
    let mut travel = |out: &str, back: &str| {
        let there = datapath.from_net(&Frame::tcp(client, vip, out).build()).frame;
        let (node, backend) = sockets_of(&datapath.to_net(&there).frame);
        let answer = datapath.from_net(&Frame::tcp(backend, node, back).build()).frame;
        datapath.to_net(&answer);
        node
    };
    travel("S", "SA");
    let node = travel("A", "A");
    ensure!(node.ip() != client.ip(), "a flow from outside to a backend elsewhere should be masqueraded");
    Ok(node)
}

/// Gives the flow a way out, and as many clients a row like its own.
fn copy<A: Address>(ground: &Ground, tables: &FlowTables<A>, node: SocketAddr, flows: u32) -> Result<()> {
    let (client, vip) = (ground.client(), ground.frontend(0));
    let of = |ip| A::from_ip(ip).with_context(|| format!("{ip} is of the other family"));
    let key = |number: u32| -> Result<FlowKey<A>> {
        let (steps, port) = (number >> PORTS_SHIFT, number & ((1 << PORTS_SHIFT) - 1));
        Ok(FlowKey {
            src: of(ground.client_number(steps).ip())?,
            dst: of(vip.ip())?,
            src_port: Port::new(client.port() + u16::try_from(port)?),
            dst_port: Port::new(vip.port()),
            protocol: Protocol::TCP,
            hook: FlowHook::INGRESS,
            pad: [0; 2],
        })
    };
    let made = tables.settled.get(&key(0)?).context("reading the flow table")?;
    let made = made.context("the flow from outside is not settled")?;
    let words = |mac: [u8; 6]| bytemuck::cast::<[u8; 6], [u16; 3]>(mac);
    let shortcut = Shortcut {
        route_generation: 0,
        made: Clock::read()?.now()?,
        addr: of(node.ip())?,
        port: Port::new(node.port()),
        other_port: made.row.port,
        mtu: 1_500,
        ifindex: 1,
        dst_mac: words([2, 0, 0, 0, 0, 0x77]),
        src_mac: words([2, 0, 0, 0, 0, 0x66]),
    };
    let keys = (0..flows).map(key).collect::<Result<Vec<_>>>()?;
    let entries: Vec<FlowEntry<A>> = keys
        .iter()
        .map(|key| {
            let mut row = made.row;
            (row.tag, row.other_port) = (key.tag(), key.src_port);
            FlowEntry { row, shortcut }
        })
        .collect();
    let (_, written) = tables.settled.put_all(&keys, &entries);
    written.context("copying the flow's row for other clients")
}
