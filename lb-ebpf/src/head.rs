//! The head of a plain packet, from the checksum of its network header to that of its transport header, rewritten in one
//! go: each helper that changes a packet takes as long as a lookup, and one for each field takes five times that.
//!
//! Decides which checksums can be computed here. Must not know why an address changes. Invariant: what is stored is what
//! the helpers of [`crate::rewrite`] would have left.
//!
//! A checksum that is left to the device holds the sum of the pseudo-header and nothing else, or what the device computes
//! from it would be wrong. So one that holds anything else is a whole one, and follows from the change. One that holds
//! just that sum may be either: the kernel knows, and its helper updates it, as it does where the packet is one of many
//! to be cut by the device, whose lengths are not in it.

#![expect(
    clippy::indexing_slicing,
    clippy::manual_memcpy,
    reason = "every index is a constant below its head's length, known where a head's kind is; words are copied in registers"
)]

use lb_common::address::{Address, Protocol};
use lb_common::csum;
use lb_common::wire::Segment;

use crate::maps::Family;
use crate::packet::{Change, Packet, Refused};
use crate::rewrite::checksum_of;

/// Where the head begins, behind the first byte of the network header: at a word's boundary in both families.
const START: usize = 8;
/// The network header's word with its checksum, in its high half: IPv4's only.
const IP_CHECKSUM: usize = 0;

/// Where things are in a head, in words.
struct Places {
    src: usize,
    dst: usize,
    ports: usize,
}

const fn places<A: Address>() -> Places {
    if A::IS_V6 { Places { src: 0, dst: 4, ports: 8 } } else { Places { src: 1, dst: 2, ports: 3 } }
}

/// What a plain packet's ends become.
#[derive(Clone, Copy)]
pub(crate) struct Ends<A> {
    /// Source address.
    pub(crate) src: A,
    /// Destination address.
    pub(crate) dst: A,
    /// Both ports, as they stand at the head of a transport header.
    pub(crate) ports: u32,
    /// Hops that IPv4's time to live counts down for; IPv6's stands before the head.
    pub(crate) hops: u32,
}

/// Rewrites both ends of a whole TCP or UDP packet whose headers have neither options nor extensions between them;
/// `None` where it is another, untouched.
#[inline(always)]
pub(crate) fn rewrite<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    ends: &Ends<A>,
) -> Option<Result<(), Refused>> {
    if segment.l4 != segment.l3 + START + 4 * places::<A>().ports {
        return None;
    }
    // The head's length in words.
    match (A::IS_V6, segment.protocol) {
        (false, Protocol::TCP) => go::<A, P, 8>(packet, segment, ends),
        (false, Protocol::UDP) => go::<A, P, 5>(packet, segment, ends),
        (true, Protocol::TCP) => go::<A, P, 13>(packet, segment, ends),
        (true, Protocol::UDP) => go::<A, P, 10>(packet, segment, ends),
        _ => None,
    }
}

#[inline(always)]
fn go<A: Family, P: Packet, const N: usize>(
    packet: &P,
    segment: &Segment<A>,
    ends: &Ends<A>,
) -> Option<Result<(), Refused>> {
    let at = segment.l3 + START;
    let mut head: [u32; N] = packet.peek(at)?;
    let last = N - 1;
    let udp = segment.protocol == Protocol::UDP;
    // TCP's checksum comes first in its word, UDP's last.
    let shift = if udp { 16 } else { 0 };
    let check = (head[last] >> shift) as u16;
    let before = head[places::<A>().ports];
    let addresses = csum::change(
        segment.src.sum() + segment.dst.sum(),
        ends.src.sum() + ends.dst.sum(),
        (A::BYTES / 2).into(),
    );
    put(&mut head, ends, addresses);
    if packet.may_be_the_kernels() && (packet.is_to_be_cut() || may_be_left_to_the_device(segment, check)) {
        return Some(by_the_kernel(packet, segment, &head, (before, addresses)));
    }
    if !udp || check != 0 {
        let both = addresses + csum::change(before.into(), ends.ports.into(), 1);
        let sum = csum::update_sum(check, both);
        let sum = if udp { csum::udp_nonzero(sum) } else { sum };
        head[last] = (head[last] & !(0xffff << shift)) | (u32::from(sum) << shift);
    }
    Some(packet.replace(at, &head))
}

/// New addresses and ports, and the network header's own checksum.
#[inline(always)]
fn put<A: Family, const N: usize>(head: &mut [u32; N], ends: &Ends<A>, addresses: u64) {
    let Places { src, dst, ports } = places::<A>();
    if !A::IS_V6 {
        let life = head[IP_CHECKSUM] & 0xffff;
        let aged = life.wrapping_sub(ends.hops) & 0xffff;
        let both = addresses + csum::change(life.into(), aged.into(), 1);
        let sum = csum::update_sum((head[IP_CHECKSUM] >> 16) as u16, both);
        head[IP_CHECKSUM] = aged | (u32::from(sum) << 16);
    }
    let (from, to) = (ends.src.words(), ends.dst.words());
    for word in 0..A::BYTES as usize / 4 {
        head[src + word] = from[word];
        head[dst + word] = to[word];
    }
    head[ports] = ends.ports;
}

#[inline(always)]
fn may_be_left_to_the_device<A: Family>(segment: &Segment<A>, check: u16) -> bool {
    let Segment { src, dst, protocol, l4, end, .. } = *segment;
    csum::is_pseudo_header(check, src.sum() + dst.sum(), protocol.0, (end - l4) as u32)
}

/// The transport checksum by helpers, the rest at once.
#[inline(always)]
fn by_the_kernel<A: Family, P: Packet, const N: usize>(
    packet: &P,
    segment: &Segment<A>,
    head: &[u32; N],
    (before, addresses): (u32, u64),
) -> Result<(), Refused> {
    let at = segment.l3 + START;
    let checksum = checksum_of(segment)?;
    packet.update_checksum(checksum, Change::PseudoHeaderDiff(csum::carried(addresses) as i64))?;
    let after = head[places::<A>().ports];
    if before != after {
        packet.update_checksum(checksum, Change::Word(before, after))?;
    }
    if A::IS_V6 {
        let ends: [u32; 9] = first_words(head);
        packet.store(at, &ends)
    } else {
        let ends: [u32; 4] = first_words(head);
        packet.store(at, &ends)
    }
}

/// The first words of a head.
#[inline(always)]
fn first_words<const N: usize, const M: usize>(head: &[u32; N]) -> [u32; M] {
    core::array::from_fn(|word| head[word])
}
