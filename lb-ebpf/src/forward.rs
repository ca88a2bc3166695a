//! The shortcut: packets of settled, masqueraded flows go from wire to wire.
//!
//! Decides which packets may take it and what they become. Only flows that the traffic-control hooks have chosen a
//! backend for, masqueraded and seen answered take it, so the choice is made in one place; all else, and a packet that
//! says something about its connection, is left to them on the same rows. Must not choose, and makes no row.
//! Invariant: a packet is translated whole and sent, or left as it came.

use lb_common::abi::{BackendFlags, FlowFlags, FlowRow, Hook, InterfaceFlags, Macs, Shortcut, Verdict, Word};
use lb_common::address::{Address, Protocol};
use lb_common::flow_state::{SideState, tcp_flag};
use lb_common::wire::{Bytes as _, Depth, Ethernet, Fragment, Ipv4Header, Ipv6Header, Segment};

use crate::head::{self, Ends};
use crate::maps::{self, Family, Key, Stored};
use crate::packet::{Packet, Refused};
use crate::xdp::{Context, Frame, Route};
use crate::{conntrack, kernel, rewrite, stranger};

/// The way out of the node.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// The longest network packet it takes.
    pub mtu: u32,
    /// How its packets' link headers begin.
    pub macs: Macs,
}

/// Translates both ends of a packet and says where it leaves.
#[inline(always)]
pub(crate) fn shortcut<A: Family>(frame: &Frame, l3: usize) -> Result<u32, Verdict> {
    if A::glance(frame, l3).is_none_or(|glance| stranger::arriving(&glance).is_some()) {
        return Err(Verdict::ShortcutLeft);
    }
    let (segment, lifetime) = candidate::<A>(frame, l3).ok_or(Verdict::ShortcutLeft)?;
    let key = Word::new(segment.key(Hook::INGRESS));
    let entry = ready(frame, &key, &segment).ok_or(Verdict::ShortcutLeft)?;
    if (segment.end - l3) as u32 > entry.shortcut.mtu {
        return Err(Verdict::ShortcutLeft);
    }
    send(frame, &segment, &entry, lifetime)?;
    tally(&entry.row, frame.len());
    Ok(entry.shortcut.ifindex)
}

/// A packet that may take it by what it is alone, and its lifetime: whole, nothing but the plainest headers, not at its
/// last hop, and without a word about its connection.
#[inline(always)]
fn candidate<A: Family>(frame: &Frame, l3: usize) -> Option<(Segment<A>, u8)> {
    const SPEAKS: u8 = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    let segment = A::segment(frame, l3, Depth::Bare).ok()?;
    let lifetime = lifetime::<A>(frame, l3)?;
    let plain = segment.fragment == Fragment::Whole && segment.tcp_flags & SPEAKS == 0;
    (plain && lifetime > 1).then_some((segment, lifetime))
}

/// The packet's flow, if it may take it, with a shortcut that holds.
#[inline(always)]
fn ready<A: Family>(frame: &Frame, key: &Key<A>, segment: &Segment<A>) -> Option<Stored<A>> {
    let entry = taken(key, segment)?;
    if is_fresh(&entry.shortcut) {
        return Some(entry);
    }
    if !renew(frame.context(), key) {
        return None;
    }
    // Looked up anew: what another function is shown stands in memory, and would be read from there ever after. By now
    // another CPU may have written to it.
    let entry = taken(key, segment)?;
    is_fresh(&entry.shortcut).then_some(entry)
}

#[inline(always)]
fn taken<A: Family>(key: &Key<A>, segment: &Segment<A>) -> Option<Stored<A>> {
    let entry = maps::settled_entry(key).ok()?.entry;
    may_take(segment, &entry.row).then_some(entry)
}

#[inline(always)]
fn tally<A: Address>(row: &FlowRow<A>, len: usize) {
    let FlowFlags(flags) = row.flags;
    if flags & FlowFlags::FORWARD != 0 {
        maps::count_packet(row.service_port, len);
    } else {
        maps::count_reply(row.service_port, len);
    }
}

/// Both ends are translated, the connection is open, and its backend serves if it must (C36) and is there if it must (C37).
#[inline(always)]
fn may_take<A: Family>(segment: &Segment<A>, row: &FlowRow<A>) -> bool {
    let FlowFlags(flags) = row.flags;
    let masqueraded = flags & !FlowFlags::FORWARD == FlowFlags::MASQUERADED;
    if !masqueraded || row.state != SideState::OPEN.0 || conntrack::is_cut_off(row, segment) {
        return false;
    }
    if segment.protocol == Protocol::UDP && flags & FlowFlags::FORWARD != 0 {
        let backend = maps::backend::<A>(row.backend);
        return backend.generation == row.generation && backend.flags.has(BackendFlags::SERVING);
    }
    true
}

#[inline(always)]
fn is_fresh<A: Address>(shortcut: &Shortcut<A>) -> bool {
    let config = maps::config();
    let age = kernel::ticks().wrapping_sub(shortcut.made);
    shortcut.ifindex != 0
        && shortcut.route_generation == config.route_generation
        && age < config.ticks_per_second
}

/// Makes the shortcut from the flow's row at egress and the kernel's routes, at most once a second, and notes in both
/// rows that the flow lives. `false`: there is none.
#[inline(never)]
fn renew<A: Family>(context: Context, key: &Key<A>) -> bool {
    let Ok(mut entry) = maps::settled_entry(key) else { return false };
    let row = &entry.entry.row;
    let out = Word::new(key.rewritten(row).at(Hook::EGRESS));
    let Ok(other) = maps::settled(&out) else { return false };
    if other.row.flags.has(FlowFlags::PENDING) {
        return false;
    }
    let now = kernel::ticks();
    entry.touch(now);
    other.at.touch(now);
    let Some(way) = context.route(&question(other.row.addr, row.addr, key.protocol)) else { return false };
    if !maps::interface(way.ifindex).flags.has(InterfaceFlags::XDP) {
        return false;
    }
    entry.entry.shortcut = Word::new(Shortcut {
        route_generation: maps::config().route_generation,
        made: now,
        addr: other.row.addr,
        port: other.row.port,
        other_port: other.row.other_port,
        mtu: way.mtu,
        ifindex: way.ifindex,
        macs: way.macs,
    });
    entry.remember();
    true
}

#[inline(always)]
fn question<A: Address>(src: A, dst: A, protocol: Protocol) -> Route {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    Route {
        family: if A::IS_V6 { AF_INET6 } else { AF_INET },
        protocol: protocol.0,
        src: src.words(),
        dst: dst.words(),
        ..bytemuck::Zeroable::zeroed()
    }
}

/// Time to live, or hop limit.
#[inline(always)]
fn lifetime<A: Family>(frame: &Frame, l3: usize) -> Option<u8> {
    // With the byte behind it: two bytes at an even offset are one load.
    let at = if A::IS_V6 { Ipv6Header::HOP_LIMIT - 1 } else { Ipv4Header::TTL };
    let [first, second] = frame.read::<[u8; 2]>(l3 + at)?;
    Some(if A::IS_V6 { second } else { first })
}

/// Rewrites both ends, the lifetime (C43) and the link header.
#[inline(always)]
fn send<A: Family>(
    frame: &Frame,
    segment: &Segment<A>,
    entry: &Stored<A>,
    lifetime: u8,
) -> Result<(), Verdict> {
    let (row, shortcut) = (&entry.row, &entry.shortcut);
    let ports = rewrite::word([shortcut.port, shortcut.other_port]);
    let ends = Ends { src: shortcut.addr, dst: row.addr, ports, hops: 1 };
    let failed = |Refused| Verdict::DroppedRewriteFailed;
    // Options are for the stack.
    head::rewrite(frame, segment, &ends).ok_or(Verdict::ShortcutLeft)?.map_err(failed)?;
    if A::IS_V6 {
        frame.store(segment.l3 + Ipv6Header::HOP_LIMIT, &(lifetime - 1)).map_err(failed)?;
    }
    for (word, at) in shortcut.macs.words().iter().zip((0..).step_by(size_of::<u32>())) {
        frame.store(at, word).map_err(failed)?;
    }
    Ok(())
}

const _: () = assert!(core::mem::offset_of!(Ethernet, src) == 6, "the two addresses come first");
