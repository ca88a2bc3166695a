//! Egress: translate the source.
//!
//! Decides, by the flow's row alone: a backend's reply becomes the frontend's; a masqueraded
//! packet becomes the node's, its address and port chosen when the first one shows the device. Off the node, what the
//! node itself sends from a masquerade port holds its tuple, and what its sockets were refused goes no further. Must
//! not know how a backend is chosen. Invariant: a packet of no flow leaves byte for byte as it came (C44).

use lb_common::abi::{ConfigFlags, FlowFlags, FrontendKey, Hook, SERVICE_NETWORKS, Verdict, Word};
use lb_common::address::Protocol;
use lb_common::flow_state::tcp_flag;
use lb_common::wire::Segment;

use crate::destination::{self, frontend_of, is_masquerade_port, may_open};
use crate::maps::{self, At, Family, Key, Missing, Row};
use crate::packet::Packet;
use crate::rewrite::{self, End};
use crate::service::Side;
use crate::{conntrack, icmp, masquerade, parse};

/// A plain packet of a settled flow, or of nobody's; `None`: [`slow`] has to look.
#[inline(never)]
pub(crate) fn fast<A: Family, P: Packet>(packet: &P, l3: usize, side: Side) -> Option<Verdict> {
    let segment = match parse::plain::<A, P>(packet, l3)? {
        Ok(segment) => segment,
        Err(verdict) => return Some(verdict),
    };
    let key = Word::new(segment.key(Hook::EGRESS));
    match maps::settled(&key) {
        Ok(flow) => Some(send(packet, &segment, &flow.row, flow.at)),
        Err(Missing::Recycled) => Some(Verdict::DroppedRowRecycled),
        Err(Missing::Absent) if maps::is_embryonic(&key) => None,
        Err(Missing::Absent) if side == Side::Outside && may_open(&segment) => leaving(&key),
        Err(Missing::Absent) => Some(Verdict::NotTranslated),
    }
}

/// What may be the first packet of a connection that leaves the node and is no flow's; `None`: [`slow`] has to look.
#[inline(always)]
fn leaving<A: Family>(key: &Key<A>) -> Option<Verdict> {
    if is_masquerade_port(key.src_port) {
        return None;
    }
    Some(if is_refused(key) { Verdict::DroppedRefusedSocket } else { Verdict::NotTranslated })
}

/// Was it refused to a process of the node in its system call (C33 to C35)?
#[inline(always)]
fn is_refused<A: Family>(key: &Key<A>) -> bool {
    maps::config().flags.has(ConfigFlags::SOCKETS) && maps::is_frontend(&frontend_of(key))
}

/// Is it an address for Services that none has (C34)? Asked where a packet leaves the node: by then whoever else serves
/// addresses of these networks, as a proxy that a label gives some of the Services (C1), has made it another's.
#[inline(never)]
pub(crate) fn is_unheld<A: Family>(addr: A) -> bool {
    SERVICE_NETWORKS.into_iter().any(|row| maps::network::<A>(row).contains(addr))
        && !maps::is_frontend(&Word::new(FrontendKey::whole(addr)))
}

/// Any packet. Has its segment and rows in scratch memory, since it calls deep.
#[inline(never)]
pub(crate) fn slow<A: Family, P: Packet>(packet: &P, l3: usize, side: Side) -> Verdict {
    let Some(work) = maps::work::<A>() else { return Verdict::DroppedTableFull };
    let l3 = work.at(l3);
    if let Err(verdict) = parse::segment_into::<A, P>(packet, l3, Hook::EGRESS, &mut work.segment) {
        return verdict;
    }
    work.key = Word::new(work.segment.key(Hook::EGRESS));
    let (segment, key) = (&work.segment, &work.key);
    if segment.protocol == A::ICMP {
        return icmp::translate(packet, segment, Hook::EGRESS);
    }
    let Some(at) = maps::flow_at(key, &mut work.row) else {
        if side == Side::Inside || !may_open(segment) {
            return Verdict::NotTranslated;
        }
        // Sockets are refused TCP and UDP only.
        if segment.protocol != Protocol::SCTP && is_refused(key) {
            return Verdict::DroppedRefusedSocket;
        }
        let holds = is_masquerade_port(key.src_port) && !is_unheld(key.dst);
        return match holds.then(|| masquerade::hold(key, &mut work.row, packet.ifindex())) {
            Some(Ok(true)) => rewrite::apply(packet, segment, &work.row, End::Source, Verdict::PortHeld),
            Some(Err(verdict)) => verdict,
            Some(Ok(false)) | None => Verdict::NotTranslated,
        };
    };
    if work.row.flags.has(FlowFlags::PENDING) {
        return match masquerade::resolve(key, &mut work.row, packet.ifindex()) {
            Ok(()) => rewrite::apply(packet, segment, &work.row, End::Source, Verdict::Masqueraded),
            Err(verdict) => verdict,
        };
    }
    let verdict = revisit(packet, segment, &work.row, at);
    let refused = segment.protocol.connects() && segment.tcp_flags & tcp_flag::RST != 0;
    if !work.row.flags.has(FlowFlags::FORWARD) && !refused {
        conntrack::settle(key, &work.row);
    }
    verdict
}

/// A packet of a half-open flow, or of one that another CPU has settled by now.
#[inline(never)]
fn revisit<A: Family, P: Packet>(packet: &P, segment: &Segment<A>, row: &Row<A>, at: At<A>) -> Verdict {
    send(packet, segment, row, at)
}

#[inline(always)]
fn send<A: Family, P: Packet>(packet: &P, segment: &Segment<A>, row: &Row<A>, at: At<A>) -> Verdict {
    destination::advance(segment, row, at);
    let verdict = if row.flags.has(FlowFlags::FORWARD) {
        Verdict::Masqueraded
    } else {
        maps::count_reply(row.service_port, packet.len());
        Verdict::Replied
    };
    rewrite::apply_at_once(packet, segment, row, End::Source, verdict)
}
