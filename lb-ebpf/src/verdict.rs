//! From a verdict to the hook's return code.
//!
//! Decides that one counter moves per run, whatever the run did. Must not know why a verdict was
//! reached. Invariant: called once, last.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use lb_common::abi::{Action, Verdict};

use crate::packet::Packet;
use crate::{kernel, maps};

/// Counts the verdict and turns it into a traffic-control action. A packet that goes on is left to the
/// next program on the hook, so that others' programs run too.
#[inline(always)]
pub(crate) fn finish<P: Packet>(verdict: Verdict, packet: &P) -> i32 {
    maps::count(verdict);
    match verdict.action() {
        Action::Pass => TC_ACT_UNSPEC,
        Action::Drop => TC_ACT_SHOT,
        Action::Answer => kernel::redirect(packet.ifindex()),
    }
}
