//! The shortcut: packets of settled, masqueraded flows go from wire to wire.
//!
//! Decides which packets may take it and what they become. Only flows that the traffic-control hooks have chosen a
//! backend for, masqueraded and seen answered take it, so the choice is made in one place; all else, and a packet that
//! says something about its connection, is left to them on the same rows. Must not choose, and makes no row.
//! Invariant: a packet is translated whole and sent, or left as it came.

use lb_common::abi::{BackendFlags, FlowFlags, FlowRow, Hook, InterfaceFlags, Shortcut, Verdict, Word};
use lb_common::address::{Address, Protocol};
use lb_common::flow_state::{SideState, tcp_flag};
use lb_common::wire::{Bytes as _, Ethernet, Ipv4Header, Ipv6Header, Segment};

use crate::head::{self, Ends};
use crate::maps::{self, Entry, Family, Key, Stored};
use crate::packet::{Packet, Refused};
use crate::xdp::{Frame, Route};
use crate::{conntrack, kernel, parse, rewrite, stranger};

/// The way out of the node.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    /// The interface it leaves by.
    pub ifindex: u32,
    /// The longest network packet it takes.
    pub mtu: u32,
    /// The next hop.
    pub dst_mac: [u16; 3],
    /// The interface's own.
    pub src_mac: [u16; 3],
}

/// Translates both ends of a packet and says where it leaves.
#[inline(always)]
pub(crate) fn shortcut<A: Family>(frame: &Frame, l3: usize) -> Result<u32, Verdict> {
    if A::glance(frame, l3).is_some_and(|glance| stranger::arriving(&glance).is_some()) {
        return Err(Verdict::ShortcutLeft);
    }
    let segment = match parse::plain::<A, Frame>(frame, l3) {
        Some(Ok(segment)) => segment,
        _ => return Err(Verdict::ShortcutLeft),
    };
    let speaks = tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST;
    let key = Word::new(segment.key(Hook::INGRESS));
    let Ok(mut entry) = maps::settled_entry(&key) else { return Err(Verdict::ShortcutLeft) };
    if segment.tcp_flags & speaks != 0 || !may_take(&segment, &entry) {
        return Err(Verdict::ShortcutLeft);
    }
    if !is_fresh(&entry.entry.shortcut) && !renew(frame, &key, &mut entry) {
        return Err(Verdict::ShortcutLeft);
    }
    let shortcut = &entry.entry.shortcut;
    let lifetime = lifetime::<A>(frame, l3).ok_or(Verdict::ShortcutLeft)?;
    if lifetime <= 1 || (segment.end - l3) as u32 > shortcut.mtu {
        return Err(Verdict::ShortcutLeft);
    }
    send(frame, &segment, &entry.entry, lifetime)?;
    tally(&entry.entry.row, frame.len());
    Ok(entry.entry.shortcut.ifindex)
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
fn may_take<A: Family>(segment: &Segment<A>, entry: &Entry<A>) -> bool {
    let row = &entry.entry.row;
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
fn renew<A: Family>(frame: &Frame, key: &Key<A>, entry: &mut Entry<A>) -> bool {
    let row = &entry.entry.row;
    let out = Word::new(key.rewritten(row).at(Hook::EGRESS));
    let Ok(other) = maps::settled(&out) else { return false };
    if other.row.flags.has(FlowFlags::PENDING) {
        return false;
    }
    let now = kernel::ticks();
    entry.touch(now);
    other.at.touch(now);
    let Some(way) = frame.route(&question(other.row.addr, row.addr, key.protocol)) else { return false };
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
        dst_mac: way.dst_mac,
        src_mac: way.src_mac,
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
    frame.store(0, &[shortcut.dst_mac, shortcut.src_mac]).map_err(failed)
}

const _: () = assert!(core::mem::offset_of!(Ethernet, src) == 6, "the two addresses come first");
