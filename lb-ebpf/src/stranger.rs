//! Packets that concern nobody, told apart before any lookup.
//!
//! Decides by a glance at both ends and the table of strangers. Must not know rows of flows or frontends. Invariant: a
//! packet that has a row, is addressed to a frontend or to an address that refuses, or may need a port held, gets through
//! to the closer look; one that is waved on leaves byte for byte as it came (contract C44).

use lb_common::abi::{Hook, Verdict};
use lb_common::address::Port;
use lb_common::wire::Glance;

use crate::destination::is_masquerade_port;
use crate::maps::{self, Family};
use crate::packet::Packet;

/// The verdict for a stranger's packet; `None`: look closer.
#[inline(always)]
pub(crate) fn wave_on<A: Family, P: Packet>(packet: &P, l3: usize, hook: Hook) -> Option<Verdict> {
    let glance = A::glance(packet, l3)?;
    if hook == Hook::INGRESS { arriving(&glance) } else { leaving(&glance) }
}

/// At ingress rows are found by the destination: a frontend, a backend that is dialled directly, or the node's own
/// address with a masquerade port.
#[inline(always)]
pub(crate) fn arriving<A: Family>(glance: &Glance<A>) -> Option<Verdict> {
    if is_masquerade_port(glance.dst_port) || !maps::is_stranger(glance.dst, glance.dst_port) {
        return None;
    }
    let refuses = glance.may_open && !maps::is_stranger(glance.dst, Port::NONE);
    if refuses { None } else { Some(Verdict::NotService) }
}

/// At egress by either end: a backend that answers, or one that is spoken to; or the node's own masquerade port.
#[inline(always)]
fn leaving<A: Family>(glance: &Glance<A>) -> Option<Verdict> {
    if is_masquerade_port(glance.src_port)
        || !maps::is_stranger(glance.src, glance.src_port)
        || !maps::is_stranger(glance.dst, glance.dst_port)
    {
        return None;
    }
    Some(Verdict::NotTranslated)
}
