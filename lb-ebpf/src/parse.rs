//! From a packet to its flow and offsets, or to the verdict that leaves it alone.
//!
//! Decides nothing of its own: `lb_common::wire` reads headers, [`crate::fragment`] fills in what
//! later fragments lack. Invariant: a segment that comes out has the ports of its flow.

use lb_common::abi::{Hook, Verdict};
use lb_common::wire::{Depth, Fragment, NotOurs, Segment};

use crate::fragment;
use crate::maps::Family;
use crate::packet::Packet;

/// Reads a plain, whole packet's segment at `l3`; `None`: not plain, not whole, or neither TCP nor UDP.
#[inline(always)]
pub(crate) fn plain<A: Family, P: Packet>(packet: &P, l3: usize) -> Option<Result<Segment<A>, Verdict>> {
    match A::segment(packet, l3, Depth::Plain) {
        Ok(segment) if segment.fragment != Fragment::Whole => None,
        Ok(segment) => Some(Ok(segment)),
        Err(NotOurs::Extended) => None,
        Err(why) => Some(Err(verdict(why))),
    }
}

#[inline(always)]
fn verdict(why: NotOurs) -> Verdict {
    match why {
        NotOurs::Transport => Verdict::NotTransport,
        NotOurs::Malformed | NotOurs::Extended => Verdict::PassedMalformed,
    }
}

/// Reads any packet's segment at `l3` to where it is kept; in a frame of its own.
#[inline(never)]
pub(crate) fn segment_into<A: Family, P: Packet>(
    packet: &P,
    l3: usize,
    hook: Hook,
    to: &mut Segment<A>,
) -> Result<(), Verdict> {
    let segment = A::segment(packet, l3, Depth::Extensions).map_err(verdict)?;
    *to = fragment::complete(segment, hook)?;
    Ok(())
}
