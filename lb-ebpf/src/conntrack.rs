//! The rows of flows: made together, settled together, forgotten together.
//!
//! Decides when a row still counts, which source port a flow gets, and when its rows move from the
//! half-open table to the settled one. Must not touch packets. Invariant: a row that sends packets one way
//! implies the row that translates their replies; no row of a live flow is overwritten.

use lb_common::abi::{BackendFlags, BackendId, ConfigFlags, FlowFlags, FlowRow, Hook, Verdict, Word};
use lb_common::address::{Port, Protocol};
use lb_common::flow_state::{PairState, SideState, opens};
use lb_common::wire::Segment;

use crate::kernel::{self, Repeat};
use crate::maps::{self, Family, Key, Row, Settled};
use crate::service::Choice;

/// Tries for a source port that is free on the way back.
const PORT_TRIES: u32 = 16;
/// Ports below are not given out.
const FIRST_PORT: u16 = 1024;

/// What is to become of a new flow's source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceEnd {
    /// It stays, but for the port if that is not free on the way back (C27).
    Keep,
    /// It gets another port.
    Move,
    /// It becomes the node's, at egress (C23, C25).
    Masquerade,
}

/// Does the row at ingress still say where `segment` goes? A SYN on a connection that is over, or whose
/// backend stopped serving, chooses anew (C38); so does each datagram of a backend that stopped
/// serving (C36). Everything else stays where it is (C31, C37). That of a row that is not whole is not to be believed
/// ([`is_whole`]): its partner's state may be another flow's.
#[inline(never)]
pub(crate) fn is_current<A: Family>(key: &Key<A>, row: &Row<A>, segment: &Segment<A>) -> bool {
    stays(row, segment) || (segment.protocol.connects() && serves(row) && !is_over(key, row))
}

/// The same by the row alone: of a SYN, nothing is known.
#[inline(always)]
pub(crate) fn stays<A: Family>(row: &Row<A>, segment: &Segment<A>) -> bool {
    if !row.flags.has(FlowFlags::FORWARD) {
        return true;
    }
    match segment.protocol {
        Protocol::TCP | Protocol::SCTP => !opens(segment.tcp_flags) && !is_cut_off(row, segment),
        Protocol::UDP => serves(row),
        _ => true,
    }
}

/// Is a segment's backend no more, and is its client to be told (C37)? What opens a connection chooses anew.
#[inline(always)]
pub(crate) fn is_cut_off<A: Family>(row: &FlowRow<A>, segment: &Segment<A>) -> bool {
    segment.protocol == Protocol::TCP
        && row.generation != 0
        && row.flags.has(FlowFlags::FORWARD)
        && !opens(segment.tcp_flags)
        && maps::config().flags.has(ConfigFlags::RESET_VANISHED)
        && has_vanished::<A>(row.backend, row.generation)
}

#[inline(always)]
fn has_vanished<A: Family>(id: BackendId, generation: u32) -> bool {
    let backend = maps::backend::<A>(id);
    backend.generation != generation || backend.flags.has(BackendFlags::VANISHED)
}

/// Does the row's backend still serve, under the generation it was chosen in? Who was not chosen always does.
#[inline(always)]
fn serves<A: Family>(row: &Row<A>) -> bool {
    if row.generation == 0 {
        return true;
    }
    let backend = maps::backend::<A>(row.backend);
    backend.generation == row.generation && backend.flags.has(BackendFlags::SERVING)
}

/// Have both sides finished, or has one reset the connection?
#[inline(never)]
fn is_over<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    match maps::state(&Word::new(key.partner(row))) {
        Some(partner) => PairState::of(row.side(), partner) == PairState::Closed,
        None => true,
    }
}

/// May the flow behind this egress row be forgotten for another that wants its tuple?
#[inline(always)]
fn is_dead<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    // A pending row names no partner yet.
    if key.protocol.connects() && !row.flags.has(FlowFlags::PENDING) && is_over(key, row) {
        return true;
    }
    let config = maps::config();
    let age = kernel::ticks().wrapping_sub(row.last_seen);
    let half_open = !maps::is_settled(key);
    half_open && age > config.opening_timeout.wrapping_mul(config.ticks_per_second)
}

/// Is the row's partner there too, and still its partner? The half-open table may have evicted it, and another
/// flow may hold its tuple since.
#[inline(never)]
pub(crate) fn is_whole<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    let Some(theirs) = maps::holder::<A>() else { return false };
    let partner = Word::new(key.partner(row));
    maps::flow_row(&partner, theirs) && partner.partner(theirs) == **key
}

/// Makes the rows of a new flow and writes the one for the packet at hand to `row`. Where another CPU made them in
/// the meantime, its rows and its backend win.
#[inline(always)]
pub(crate) fn open<A: Family>(
    key: &Key<A>,
    service_port: u32,
    choice: &Choice<A>,
    source: SourceEnd,
    row: &mut Row<A>,
) -> Result<(), Verdict> {
    begin(key, service_port, choice, source, row);
    if source == SourceEnd::Move {
        row.other_port = random_port();
    }
    let mut claim = Claim { key, row, done: false };
    kernel::repeat(PORT_TRIES, &mut claim, try_port);
    if claim.done { publish(key, claim.row) } else { Err(Verdict::DroppedNoPort) }
}

/// A flow that looks for a source port.
struct Claim<'a, A: Family> {
    key: &'a Key<A>,
    row: &'a mut Row<A>,
    done: bool,
}

extern "C" fn try_port<A: Family>(n: u32, claim: &mut Claim<'_, A>) -> Repeat {
    if n > 0 {
        claim.row.other_port = random_port();
    }
    claim.done = claim_replies(claim.key, claim.row);
    if claim.done { Repeat::Stop } else { Repeat::GoOn }
}

/// Row 1 of a flow, before its replies' tuple is known to be free.
#[inline(never)]
pub(crate) fn begin<A: Family>(
    key: &Key<A>,
    service_port: u32,
    choice: &Choice<A>,
    source: SourceEnd,
    row: &mut Row<A>,
) {
    let now = kernel::ticks();
    let masqueraded = if source == SourceEnd::Masquerade { FlowFlags::MASQUERADED } else { 0 };
    let state = if key.protocol.connects() { SideState::OPENING } else { SideState::OPEN };
    *row = Word::new(FlowRow {
        tag: key.tag(),
        service_port,
        backend: choice.id,
        generation: choice.generation,
        since: now,
        last_seen: now,
        addr: choice.addr,
        port: choice.port,
        other_port: key.src_port,
        state: state.0,
        flags: FlowFlags(FlowFlags::FORWARD | masqueraded),
        pad: [0; 2],
    });
}

/// Adds the row for the packet at hand, last: from here on others see the flow.
#[inline(never)]
fn publish<A: Family>(key: &Key<A>, row: &mut Row<A>) -> Result<(), Verdict> {
    if maps::add_embryonic(key, row) {
        return Ok(());
    }
    remove(&Word::new(key.partner(row)));
    if row.flags.has(FlowFlags::MASQUERADED) {
        remove(&Word::new(key.rewritten(row).at(Hook::EGRESS)));
    }
    if maps::flow_row(key, row) { Ok(()) } else { Err(Verdict::DroppedTableFull) }
}

/// Row 4 of the flow that `row` under `key` begins, with its key.
#[inline(always)]
pub(crate) fn replies<A: Family>(
    key: &Key<A>,
    row: &Row<A>,
) -> Option<(&'static mut Key<A>, &'static mut Row<A>)> {
    let (back, reply) = maps::reply::<A>()?;
    *back = Word::new(key.partner(row));
    *reply = *row;
    (reply.addr, reply.port, reply.other_port) = key.undo();
    reply.tag = back.tag();
    reply.state = 0;
    reply.flags = FlowFlags(row.flags.0 & FlowFlags::MASQUERADED);
    Some((back, reply))
}

/// Makes the rows that bring replies back, unless another flow holds their tuples.
#[inline(never)]
fn claim_replies<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    let Some((back, reply)) = replies(key, row) else { return false };
    if !claim(back, reply) {
        return false;
    }
    let done = !row.flags.has(FlowFlags::MASQUERADED) || claim_out(key, row);
    if !done {
        maps::remove_embryonic(back);
    }
    done
}

/// Makes row 2 of a flow to be masqueraded. Which address and port it gets is seen at egress. A pod that dials itself
/// from the port it serves has its own replies' tuple there, and needs another port.
#[inline(never)]
fn claim_out<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    let Some((out, pending)) = maps::out::<A>() else { return false };
    *out = Word::new(key.rewritten(row).at(Hook::EGRESS));
    if out.reverse() == **out {
        return false;
    }
    *pending = *row;
    pending.tag = out.tag();
    pending.flags = FlowFlags(row.flags.0 | FlowFlags::PENDING);
    claim(out, pending)
}

/// Does a live flow have that key at egress, or at ingress as a reply? A dead one gives way: its rows at egress go, or
/// the new one's packets would find the other; those at ingress may stay behind, since they count for nothing without
/// and the agent sweeps them.
#[inline(never)]
pub(crate) fn is_held<A: Family>(key: &Key<A>) -> bool {
    let Some(holder) = maps::holder::<A>() else { return true };
    if !maps::flow_row(key, holder) {
        return false;
    }
    let dead = is_dead(key, holder);
    if dead {
        remove(key);
        if holder.flags.has(FlowFlags::MASQUERADED) && key.hook == Hook::EGRESS {
            remove(&Word::new(key.reverse()));
        }
    }
    !dead
}

/// Does a live flow have the way back of a packet that goes straight to where it is addressed?
#[inline(never)]
pub(crate) fn is_way_back_held<A: Family>(key: &Key<A>) -> bool {
    is_held(&Word::new(key.reverse().at(Hook::EGRESS)))
}

/// Adds a half-open row where no live flow has one.
#[inline(always)]
pub(crate) fn claim<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    !is_held(key) && maps::add_embryonic(key, row)
}

/// Removes the rows of the flow that `row` under `key` belongs to, but for row 3, which counts for nothing without
/// the others. Where the flow is not whole, its rows at egress are another's by now.
#[inline(never)]
pub(crate) fn forget<A: Family>(key: &Key<A>, row: &Row<A>) {
    if is_whole(key, row) {
        remove(&Word::new(key.partner(row)));
        if row.flags.has(FlowFlags::MASQUERADED) && key.hook == Hook::INGRESS {
            remove(&Word::new(key.rewritten(row).at(Hook::EGRESS)));
        }
    }
    remove(key);
}

#[inline(always)]
fn remove<A: Family>(key: &Key<A>) {
    maps::remove_settled(key);
    maps::remove_embryonic(key);
}

/// Moves an answered flow to the settled table. `key` and `row` are its egress row for replies. All rows are added
/// before any is removed, so that a lookup that asks the settled table first never finds none. Where the table
/// is full, the flow stays half-open, where newer ones may push it out. So it does while its row 2 is pending: what has
/// not left the node is not answered.
#[inline(always)]
pub(crate) fn settle<A: Family>(key: &Key<A>, row: &Row<A>) {
    if !row.flags.has(FlowFlags::MASQUERADED) || settle_masquerade(key) {
        settle_pair(key, row);
    }
}

/// Moves a row, be it 4 or 3, and its partner.
#[inline(never)]
pub(crate) fn settle_pair<A: Family>(key: &Key<A>, row: &Row<A>) {
    let client = Word::new(key.partner(row));
    if move_row(&client, key) == Settled::Yes && move_row(key, &client) == Settled::Yes {
        maps::remove_embryonic(&client);
        maps::remove_embryonic(key);
    }
}

/// Moves rows 2 and 3; `replies` is row 4's key. `false`: row 2 is pending, or row 3 another flow's.
#[inline(never)]
fn settle_masquerade<A: Family>(replies: &Key<A>) -> bool {
    let Some(row) = maps::holder::<A>() else { return false };
    let out = &Word::new(replies.reverse());
    if !maps::flow_row(out, row) {
        return true;
    }
    if row.flags.has(FlowFlags::PENDING) {
        return false;
    }
    let back = Word::new(out.partner(row));
    let moved = move_row(&back, out);
    if moved == Settled::Yes && move_row(out, &back) == Settled::Yes {
        maps::remove_embryonic(out);
        maps::remove_embryonic(&back);
    }
    moved != Settled::Another
}

/// Moves a row, unless it is another flow's by now than its partner's.
#[inline(never)]
fn move_row<A: Family>(key: &Key<A>, partner: &Key<A>) -> Settled {
    let Some(moved) = maps::moved::<A>() else { return Settled::Full };
    if !maps::flow_row(key, &mut moved.row) {
        return Settled::Yes;
    }
    if key.partner(&moved.row) != **partner {
        return Settled::Another;
    }
    maps::settle(key, moved)
}

/// UDP that is not answered settles all the same once it has lasted a second: some protocols never
/// answer. `key` and `row` are its ingress row.
#[inline(never)]
pub(crate) fn settle_one_sided<A: Family>(key: &Key<A>, row: &Row<A>, segment: &Segment<A>) {
    let age = kernel::ticks().wrapping_sub(row.since);
    if segment.protocol == Protocol::UDP && age >= maps::config().ticks_per_second {
        let Some(reply) = maps::reply::<A>().map(|(_, row)| row) else { return };
        let back = Word::new(key.partner(row));
        if maps::flow_row(&back, reply) {
            settle(&back, reply);
        }
    }
}

#[inline(always)]
fn random_port() -> Port {
    let span = u32::from(u16::MAX - FIRST_PORT) + 1;
    Port::new(FIRST_PORT.wrapping_add(kernel::below(kernel::random(), span) as u16))
}
