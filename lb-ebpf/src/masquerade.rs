//! The node's address and port for a flow whose source must not stay (contract C23, C25).
//!
//! Decides both when the first packet shows the device it leaves by. Must not know why the flow
//! is masqueraded. Invariant: a tuple is given out only where no flow holds it; without an
//! address or a free port the packet is dropped and counted.

use bytemuck::Zeroable as _;
use lb_common::abi::{Config, FlowFlags, FlowRow, InterfaceRow, Verdict, Word};
use lb_common::address::{Address, Port, V4, V6};
use lb_common::flow_state::SideState;

use crate::conntrack;
use crate::kernel::{self, Repeat};
use crate::maps::{self, Family, Key, Row};

const PORT_TRIES: u32 = 32;

/// Gives a pending row (row 2 of its flow) its address and port, and the flow its row 3.
#[inline(never)]
pub(crate) fn resolve<A: Family>(key: &Key<A>, row: &mut Row<A>, ifindex: u32) -> Result<(), Verdict> {
    let addr = A::of(&maps::interface(ifindex));
    let config = maps::config();
    if addr == A::zeroed() || config.masquerade_port_first == 0 {
        return Err(Verdict::DroppedNoMasqueradeAddress);
    }
    row.addr = addr;
    row.last_seen = kernel::ticks();
    row.other_port = key.dst_port;
    row.flags = FlowFlags(row.flags.0 & !FlowFlags::PENDING);
    row.port = port(&config);
    claim(key, row)
}

/// A flow that looks for a port of the node.
struct Claim<'a, A: Family> {
    key: &'a Key<A>,
    row: &'a mut Row<A>,
    result: Result<(), Verdict>,
}

/// Claims the tuple of `row`, under its port or another.
#[inline(always)]
fn claim<A: Family>(key: &Key<A>, row: &mut Row<A>) -> Result<(), Verdict> {
    let mut claim = Claim { key, row, result: Err(Verdict::DroppedNoPort) };
    kernel::repeat(PORT_TRIES, &mut claim, try_port);
    claim.result
}

extern "C" fn try_port<A: Family>(n: u32, claim: &mut Claim<'_, A>) -> Repeat {
    if n > 0 {
        claim.row.port = port(&maps::config());
    }
    claim.result = claim_replies(claim.key, claim.row);
    if claim.result == Err(Verdict::DroppedNoPort) { Repeat::GoOn } else { Repeat::Stop }
}

/// Holds the tuple of a connection that the node itself opens from a port for masqueraded flows, under that port if
/// it is free, else under another. `false`: the address is none that flows are masqueraded with, so nothing collides.
#[inline(never)]
pub(crate) fn hold<A: Family>(key: &Key<A>, row: &mut Row<A>, ifindex: u32) -> Result<bool, Verdict> {
    if A::of(&maps::interface(ifindex)) != { key.src } {
        return Ok(false);
    }
    let now = kernel::ticks();
    *row = Word::new(FlowRow {
        tag: key.tag(),
        since: now,
        last_seen: now,
        addr: key.src,
        port: key.src_port,
        other_port: key.dst_port,
        state: if key.protocol.connects() { SideState::OPENING } else { SideState::OPEN }.0,
        flags: FlowFlags(FlowFlags::FORWARD | FlowFlags::MASQUERADED | FlowFlags::OWN),
        ..FlowRow::zeroed()
    });
    if !maps::add_embryonic(key, row) {
        return Err(Verdict::DroppedTableFull);
    }
    match claim(key, row) {
        Ok(()) => Ok(true),
        Err(verdict) => {
            maps::remove_embryonic(key);
            Err(verdict)
        }
    }
}

/// Makes row 3 and completes row 2; [`Verdict::DroppedNoPort`] where another flow holds the tuple.
#[inline(never)]
fn claim_replies<A: Family>(key: &Key<A>, row: &Row<A>) -> Result<(), Verdict> {
    let (back, reply) = maps::reply::<A>().ok_or(Verdict::DroppedTableFull)?;
    *back = Word::new(key.partner(row));
    *reply = *row;
    (reply.addr, reply.port, reply.other_port) = key.undo();
    reply.tag = back.tag();
    reply.flags = FlowFlags(row.flags.0 & (FlowFlags::MASQUERADED | FlowFlags::OWN));
    reply.state = 0;
    if !conntrack::claim(back, reply) {
        return Err(Verdict::DroppedNoPort);
    }
    if maps::replace_embryonic(key, row) {
        return Ok(());
    }
    maps::remove_embryonic(back);
    Err(Verdict::DroppedTableFull)
}

#[inline(always)]
fn port(config: &Config) -> Port {
    let first = config.masquerade_port_first;
    let span = u32::from(config.masquerade_port_last.wrapping_sub(first)) + 1;
    Port::new(first.wrapping_add(kernel::below(kernel::random(), span) as u16))
}

/// The address of a family that an interface masquerades with.
pub(crate) trait MasqueradeAddress: Address {
    /// All zero where there is none.
    fn of(interface: &InterfaceRow) -> Self;
}

impl MasqueradeAddress for V4 {
    #[inline(always)]
    fn of(interface: &InterfaceRow) -> Self {
        interface.masquerade_v4
    }
}

impl MasqueradeAddress for V6 {
    #[inline(always)]
    fn of(interface: &InterfaceRow) -> Self {
        interface.masquerade_v6
    }
}
