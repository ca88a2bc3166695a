//! A tuple's next connection, where its last one's rows still stand.
//!
//! Decides when those rows become the new connection's, in place, instead of being removed and made anew: a client that
//! dials one frontend over and over comes back to each of its ports within minutes, and each change of a map is paid for
//! with a lock. Must not touch packets. Invariant: only settled rows of a whole flow that is over are used again, so the
//! settled table never grows by what nobody has answered, and no more rows name each other than before.

use lb_common::abi::{FlowFlags, Word};
use lb_common::flow_state::{PairState, SideState, opens};

use crate::conntrack::{self, SourceEnd};
use crate::destination::{frontend_of, source_end};
use crate::kernel;
use crate::maps::{self, Family, Key, Place, Row, Work};
use crate::service::{self, Choice, Request, Side};

/// What becomes of the rows that stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// They are none of the new connection's.
    Gone,
    /// They are its own by now.
    Same,
    /// They are to be [`replace`]d.
    Other,
}

/// Makes the rows under `work.key` those of the connection that the packet at hand opens, where they can be, and writes
/// the first of them to `work.row`. `false`: it begins as any other; nothing has changed but perhaps the client's affinity,
/// or the rows are gone.
#[inline(always)]
pub(crate) fn reopen<A: Family>(work: &mut Work<A>, side: Side) -> bool {
    let again = match choose(work, side) {
        Rows::Gone => return false,
        Rows::Same => true,
        Rows::Other => replace(&work.key, &mut work.row),
    };
    if again {
        maps::count_connection(work.row.service_port, work.row.backend);
    }
    again
}

/// Chooses for the new connection. Where it goes where the last one went, that one's rows are its own afterwards; where
/// not, `work.row` is the one to come, and the scratch memory for row 2 has the key of the old one for replies.
#[inline(never)]
fn choose<A: Family>(work: &mut Work<A>, side: Side) -> Rows {
    let Work { segment, key, row, choice, .. } = work;
    if !segment.protocol.connects() || !opens(segment.tcp_flags) || !is_plain(key, row) {
        return Rows::Gone;
    }
    let Some((reply, _)) = maps::out::<A>() else { return Rows::Gone };
    *reply = Word::new(key.partner(row));
    let Some(places) = places_of_old(key, row, reply) else { return Rows::Gone };
    let Ok(frontend) = maps::frontend(&frontend_of(key)) else { return Rows::Gone };
    let request = Request { client: key.src, side, spread: key.spread(), opens: true };
    if service::choose(&request, &frontend, choice) != Ok(())
        || source_end(key, &frontend, side, choice) != SourceEnd::Keep
    {
        return Rows::Gone;
    }
    if leads_to(row, frontend.service_port, choice) {
        return if begin_again(&places) { Rows::Same } else { Rows::Gone };
    }
    conntrack::begin(key, frontend.service_port, choice, SourceEnd::Keep, row);
    Rows::Other
}

/// Row 1 of a flow that a frontend chose for, whose source stays as it is.
#[inline(always)]
fn is_plain<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    let FlowFlags(flags) = row.flags;
    flags == FlowFlags::FORWARD && row.generation != 0 && { row.other_port } == { key.src_port }
}

/// Where both rows of a flow stand in the settled table, if they are each other's and the flow is over.
#[inline(always)]
fn places_of_old<A: Family>(key: &Key<A>, row: &Row<A>, reply: &Key<A>) -> Option<[Place<A>; 2]> {
    let theirs = maps::holder::<A>()?;
    let replies = maps::place(reply, theirs)?;
    let over = PairState::of(row.side(), theirs.side()) == PairState::Closed;
    if !over || reply.partner(theirs) != **key {
        return None;
    }
    Some([maps::place(key, theirs)?, replies])
}

/// Do the flow's packets go where the new one's are to go, on the same grounds?
#[inline(always)]
fn leads_to<A: Family>(row: &Row<A>, service_port: u32, choice: &Choice<A>) -> bool {
    row.service_port == service_port
        && { row.backend } == choice.id
        && row.generation == choice.generation
        && { row.addr } == choice.addr
        && { row.port } == choice.port
}

/// Both rows as they are, but that nobody has said anything yet. The client's last: by it others see the flow.
#[inline(always)]
fn begin_again<A: Family>([client, replies]: &[Place<A>; 2]) -> bool {
    let now = kernel::ticks();
    replies.begin_again(now, SideState::OPENING) && client.begin_again(now, SideState::OPENING)
}

/// Puts the client's row for the new backend and a row for that one's replies where the old ones stand. Where a live flow
/// has the way back, another port has to be found, which is not done here. Of two processors with a SYN each, one removes
/// the old row.
#[inline(never)]
fn replace<A: Family>(key: &Key<A>, row: &mut Row<A>) -> bool {
    let Some((back, reply)) = conntrack::replies(key, row) else { return false };
    let Some((old, _)) = maps::out::<A>() else { return false };
    if !conntrack::is_held(back) && maps::remove_settled(old) && maps::add_settled(back, reply) {
        if maps::replace_settled(key, row) {
            return true;
        }
        maps::remove_settled(back);
    }
    // What is left of the old flow; where that is nothing, it is forgotten as one that is not whole.
    maps::flow_row(key, row);
    false
}
