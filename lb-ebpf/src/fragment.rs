//! Later fragments follow the first (contract C40).
//!
//! Decides that a first fragment's ports are remembered and a later one's looked up. Must not know
//! flows. Invariant: a later fragment without a remembered first goes on untouched.

use lb_common::abi::{FragmentKey, FragmentRow, Hook, Verdict, Word};
use lb_common::wire::{Fragment, Segment};

use crate::maps::{self, Family};

/// Gives a later fragment its ports; remembers a first one's.
#[inline(always)]
pub(crate) fn complete<A: Family>(segment: Segment<A>, hook: Hook) -> Result<Segment<A>, Verdict> {
    match segment.fragment {
        Fragment::Whole => Ok(segment),
        Fragment::First(id) => {
            let row = FragmentRow { src_port: segment.src_port, dst_port: segment.dst_port };
            maps::set_fragment(&key(&segment, id, hook), &row);
            Ok(segment)
        }
        Fragment::Later(id) => match maps::fragment(&key(&segment, id, hook)) {
            Some(row) => Ok(Segment { src_port: row.src_port, dst_port: row.dst_port, ..segment }),
            None => Err(Verdict::PassedFragment),
        },
    }
}

#[inline(always)]
fn key<A: Family>(segment: &Segment<A>, id: u32, hook: Hook) -> Word<A, FragmentKey<A>> {
    let key =
        FragmentKey { src: segment.src, dst: segment.dst, id, protocol: segment.protocol, hook, pad: [0; 2] };
    Word::new(key)
}
