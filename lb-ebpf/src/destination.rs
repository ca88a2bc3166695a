//! Ingress: translate the destination.
//!
//! Decides, in this order: a known flow goes where it went; a packet to a frontend gets a backend, and its
//! source is masqueraded where the reply would not come back through this node (C25, C26); a reply to the masquerade
//! address goes back to its client; a Service's address without such a port refuses (C34); everything else is
//! left alone, also what no Service's address is: that is dropped where it leaves the node. Must not know how a backend is chosen or a row is made. Invariant: a packet that is no service's leaves
//! byte for byte as it came (contract C44), but for a tuple that a live flow holds (C27).

use lb_common::abi::{
    BackendFlags, CLUSTER_NETWORK, ConfigFlags, FlowFlags, FrontendFlags, FrontendKey, FrontendRow, Hook,
    Verdict, Word,
};
use lb_common::address::{Port, Protocol};
use lb_common::flow_state::{opens, tcp_flag};
use lb_common::wire::Segment;

use crate::conntrack::SourceEnd;
use crate::maps::{self, At, Family, Flow, Key, Missing, Row};
use crate::packet::Packet;
use crate::rewrite::{self, End};
use crate::service::{Choice, Request, Side};
use crate::{conntrack, icmp, kernel, parse, reject, reopen, service};

/// A plain packet of a settled flow, or of nobody's; `None`: [`slow`] has to look.
#[inline(never)]
pub(crate) fn fast<A: Family, P: Packet>(packet: &P, l3: usize) -> Option<Verdict> {
    let segment = match parse::plain::<A, P>(packet, l3)? {
        Ok(segment) => segment,
        Err(verdict) => return Some(verdict),
    };
    let key = Word::new(segment.key(Hook::INGRESS));
    match maps::settled(&key) {
        Ok(flow) if conntrack::stays(&flow.row, &segment) => Some(forward(packet, &segment, &flow)),
        Ok(_) => None,
        Err(Missing::Recycled) => Some(Verdict::DroppedRowRecycled),
        Err(Missing::Absent) => nobodys(&segment, &key),
    }
}

/// Is a packet without a settled flow nobody's? Only what could open a connection may collide with a flow's replies.
#[inline(always)]
fn nobodys<A: Family>(segment: &Segment<A>, key: &Key<A>) -> Option<Verdict> {
    if maps::is_frontend(&frontend_of(key)) || is_masquerade_port(key.dst_port) {
        return None;
    }
    let concerns_us = may_open(segment)
        && (maps::state(&Word::new(key.reverse().at(Hook::EGRESS))).is_some()
            || maps::is_frontend(&Word::new(FrontendKey::whole(key.dst))));
    if concerns_us { None } else { Some(Verdict::NotService) }
}

/// Any packet. Has its segment and rows in scratch memory, since it calls deep.
#[inline(never)]
pub(crate) fn slow<A: Family, P: Packet>(packet: &P, l3: usize, side: Side) -> Verdict {
    let Some(work) = maps::work::<A>() else { return Verdict::DroppedTableFull };
    let l3 = work.at(l3);
    if let Err(verdict) = parse::segment_into::<A, P>(packet, l3, Hook::INGRESS, &mut work.segment) {
        return verdict;
    }
    work.key = Word::new(work.segment.key(Hook::INGRESS));
    if work.segment.protocol == A::ICMP {
        return icmp::translate(packet, &work.segment, Hook::INGRESS);
    }
    let known = maps::flow_row(&work.key, &mut work.row);
    if known && reopen::reopen(work, side) {
        return first(packet, &work.segment, &work.row);
    }
    let (segment, key) = (&work.segment, &work.key);
    if known {
        if conntrack::is_current(key, &work.row, segment) && conntrack::is_whole(key, &work.row) {
            if work.row.flags.has(FlowFlags::OWN) {
                conntrack::settle_pair(key, &work.row);
            } else {
                conntrack::settle_one_sided(key, &work.row, segment);
            }
            return revisit(packet, segment, key);
        }
        conntrack::forget(key, &work.row);
        if conntrack::is_cut_off(&work.row, segment) {
            return reject::answer(packet, segment, Verdict::RejectedVanished);
        }
    }
    match maps::frontend(&frontend_of(key)) {
        Ok(frontend) => new_flow(packet, segment, key, (&frontend, side), (&mut work.row, &mut work.choice)),
        Err(Missing::Recycled) => Verdict::DroppedRowRecycled,
        Err(Missing::Absent) if !may_open(segment) => Verdict::NotService,
        Err(Missing::Absent) if maps::is_frontend(&Word::new(FrontendKey::whole(key.dst))) => {
            reject::answer(packet, segment, Verdict::RejectedNoPort)
        }
        Err(Missing::Absent) => direct(packet, segment, key, (&mut work.row, &mut work.choice)),
    }
}

/// A packet of a half-open flow, or of one that another CPU has settled by now.
#[inline(never)]
fn revisit<A: Family, P: Packet>(packet: &P, segment: &Segment<A>, key: &Key<A>) -> Verdict {
    match maps::flow(key) {
        Ok(flow) => forward(packet, segment, &flow),
        Err(_) => Verdict::DroppedRowRecycled,
    }
}

/// The first packet of a flow to a frontend, or one whose flow is forgotten.
#[inline(always)]
fn new_flow<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    key: &Key<A>,
    (frontend, side): (&FrontendRow, Side),
    (row, choice): (&mut Row<A>, &mut Choice<A>),
) -> Verdict {
    let stray = segment.protocol.connects() && !opens(segment.tcp_flags);
    let early = stray && maps::config().flags.has(ConfigFlags::TAKING_OVER);
    if early || ((stray || segment.protocol == Protocol::UDP) && maps::is_foreign(key)) {
        return Verdict::PassedForeign;
    }
    let request = Request { client: key.src, side, spread: key.spread(), opens: !stray };
    match service::choose(&request, frontend, choice) {
        Ok(()) => {}
        Err(Verdict::RejectedNoEndpoint) => {
            return reject::answer(packet, segment, Verdict::RejectedNoEndpoint);
        }
        Err(verdict) => return verdict,
    }
    if stray && !frontend.flags.has(FrontendFlags::EXTERNAL) {
        return reject::answer(packet, segment, Verdict::RejectedNoFlow);
    }
    let source = source_end(key, frontend, side, choice);
    match conntrack::open(key, frontend.service_port, choice, source, row) {
        Ok(()) => {
            maps::count_connection(frontend.service_port, choice.id);
            first(packet, segment, row)
        }
        Err(verdict) => verdict,
    }
}

/// A flow's first packet, once it has rows.
#[inline(never)]
fn first<A: Family, P: Packet>(packet: &P, segment: &Segment<A>, row: &Row<A>) -> Verdict {
    maps::count_packet(row.service_port, packet.len());
    vouch(packet, row);
    rewrite::apply_at_once(packet, segment, row, End::Destination, Verdict::ForwardedNew)
}

/// Does the source stay? A reply must come back through this node: that of a pod here does, and that of a backend
/// here; a backend elsewhere answers whoever it sees.
#[inline(always)]
pub(crate) fn source_end<A: Family>(
    key: &Key<A>,
    frontend: &FrontendRow,
    side: Side,
    choice: &Choice<A>,
) -> SourceEnd {
    let external = frontend.flags.has(FrontendFlags::EXTERNAL);
    let always = maps::config().flags.has(ConfigFlags::MASQUERADE_ALWAYS);
    let masquerades = if external && frontend.flags.has(FrontendFlags::OUTSIDE_LOCAL) {
        false
    } else if side == Side::Inside {
        external && always
    } else {
        always || !choice.flags.has(BackendFlags::LOCAL) || (!external && is_foreign(key.src))
    };
    // A backend that dials itself would answer itself (C23).
    let hairpin = choice.addr == { key.src };
    if masquerades || hairpin { SourceEnd::Masquerade } else { SourceEnd::Keep }
}

/// Is it known to be no pod's address (C26)?
#[inline(always)]
fn is_foreign<A: Family>(client: A) -> bool {
    let cluster = maps::network::<A>(CLUSTER_NETWORK);
    cluster.present != 0 && !cluster.contains(client)
}

/// A packet that goes straight to where it is addressed. Where a translated flow holds its tuple, the
/// replies would be taken for that flow's: a dead one gives way, a live one keeps it and this
/// connection gets another source port.
#[inline(always)]
fn direct<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    key: &Key<A>,
    (row, choice): (&mut Row<A>, &mut Choice<A>),
) -> Verdict {
    if !conntrack::is_way_back_held(key) {
        return Verdict::NotService;
    }
    *choice = Choice::straight(key);
    match conntrack::open(key, 0, choice, SourceEnd::Move, row) {
        Ok(()) => rewrite::apply(packet, segment, row, End::Destination, Verdict::MovedAside),
        Err(verdict) => verdict,
    }
}

#[inline(always)]
pub(crate) fn frontend_of<A: Family>(key: &Key<A>) -> Word<A, FrontendKey<A>> {
    Word::new(FrontendKey::new(key.dst, key.dst_port, key.protocol))
}

#[inline(always)]
pub(crate) fn is_masquerade_port(port: Port) -> bool {
    let config = maps::config();
    let port = port.get();
    port >= config.masquerade_port_first && port <= config.masquerade_port_last
}

#[inline(always)]
pub(crate) fn may_open<A: Family>(segment: &Segment<A>) -> bool {
    segment.protocol == Protocol::UDP || opens(segment.tcp_flags)
}

/// A packet of a known flow.
#[inline(always)]
fn forward<A: Family, P: Packet>(packet: &P, segment: &Segment<A>, flow: &Flow<A>) -> Verdict {
    advance(segment, &flow.row, flow.at);
    let verdict = if flow.row.flags.has(FlowFlags::FORWARD) {
        maps::count_packet(flow.row.service_port, packet.len());
        vouch(packet, &flow.row);
        Verdict::Forwarded
    } else {
        Verdict::Unmasqueraded
    };
    rewrite::apply_at_once(packet, segment, &flow.row, End::Destination, verdict)
}

/// A packet to a backend whose source stays has no row at egress.
#[inline(always)]
fn vouch<A: Family, P: Packet>(packet: &P, row: &Row<A>) {
    if !row.flags.has(FlowFlags::MASQUERADED) {
        packet.vouch();
    }
}

/// Notes what a packet says of its flow: at most one store for the time, one for the state.
#[inline(always)]
pub(crate) fn advance<A: Family>(segment: &Segment<A>, row: &Row<A>, at: At<A>) {
    let now = kernel::ticks();
    if now.wrapping_sub(row.last_seen) >= maps::config().ticks_per_second {
        at.touch(now);
    }
    // A later fragment has no flags, and says nothing.
    let flags = if segment.protocol.connects() { segment.tcp_flags } else { tcp_flag::ACK };
    let state = row.side().after(flags);
    if flags != 0 && state != row.side() {
        at.set_state(state.0);
    }
}
