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

use lb_common::address::{Address, Protocol};
use lb_common::csum;
use lb_common::wire::Segment;

use crate::maps::Family;
use crate::packet::{Change, Packet, Refused};
use crate::rewrite::{End, address_change, checksum_of, word};

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

/// Rewrites one end's address and both ports of a whole TCP or UDP packet whose headers have neither options nor
/// extensions between them; `None` where it is another, untouched.
#[inline(always)]
pub(crate) fn rewrite<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    (old, new): (A, A),
    ports: u32,
    end: End,
) -> Option<Result<(), Refused>> {
    if segment.l4 != segment.l3 + START + 4 * places::<A>().ports {
        return None;
    }
    let change = Rewrite { packet, segment, old, new, ports, end };
    match (A::IS_V6, segment.protocol) {
        (false, Protocol::TCP) => change.go::<8>(),
        (false, Protocol::UDP) => change.go::<5>(),
        (true, Protocol::TCP) => change.go::<13>(),
        (true, Protocol::UDP) => change.go::<10>(),
        _ => None,
    }
}

struct Rewrite<'a, A: Family, P> {
    packet: &'a P,
    segment: &'a Segment<A>,
    old: A,
    new: A,
    ports: u32,
    end: End,
}

impl<A: Family, P: Packet> Rewrite<'_, A, P> {
    /// `N`: the head's words.
    #[inline(always)]
    fn go<const N: usize>(&self) -> Option<Result<(), Refused>> {
        let at = self.segment.l3 + START;
        let mut head: [u32; N] = self.packet.peek(at)?;
        let last = N - 1;
        let udp = self.segment.protocol == Protocol::UDP;
        // TCP's checksum comes first in its word, UDP's last.
        let shift = if udp { 16 } else { 0 };
        let check = (head[last] >> shift) as u16;
        let ports = places::<A>().ports;
        let addresses = csum::difference(self.old.sum(), self.new.sum(), (A::BYTES / 4).into());
        let both = addresses + csum::difference(head[ports].into(), self.ports.into(), 1);
        self.put_ends(&mut head, addresses);
        if self.packet.is_to_be_cut() || self.may_be_left_to_the_device(check) || (udp && check == 0) {
            return Some(self.by_the_kernel(&head, at));
        }
        let sum = csum::update_sum_by_two(check, both);
        let sum = if udp { csum::udp_nonzero(sum) } else { sum };
        head[last] = (head[last] & !(0xffff << shift)) | (u32::from(sum) << shift);
        Some(self.packet.replace(at, &head))
    }

    /// New address, ports and header checksum.
    #[inline(always)]
    fn put_ends<const N: usize>(&self, head: &mut [u32; N], addresses: u64) {
        let Places { src, dst, ports } = places::<A>();
        if !A::IS_V6 {
            let sum = csum::update_sum((head[IP_CHECKSUM] >> 16) as u16, addresses);
            head[IP_CHECKSUM] = (head[IP_CHECKSUM] & 0xffff) | (u32::from(sum) << 16);
        }
        let first = if self.end == End::Source { src } else { dst };
        let words = self.new.words();
        for word in 0..A::BYTES as usize / 4 {
            head[first + word] = words[word];
        }
        head[ports] = self.ports;
    }

    #[inline(always)]
    fn may_be_left_to_the_device(&self, check: u16) -> bool {
        let Segment { src, dst, protocol, l4, end, .. } = *self.segment;
        csum::is_pseudo_header(check, src.sum() + dst.sum(), protocol.0, end - l4)
    }

    /// The transport checksum by helpers, the rest at once.
    #[inline(always)]
    fn by_the_kernel<const N: usize>(&self, head: &[u32; N], at: usize) -> Result<(), Refused> {
        let checksum = checksum_of(self.segment)?;
        self.packet.update_checksum(checksum, address_change(self.old, self.new))?;
        let before = word([self.segment.src_port, self.segment.dst_port]);
        if before != self.ports {
            self.packet.update_checksum(checksum, Change::Word(before, self.ports))?;
        }
        if A::IS_V6 {
            let ends: [u32; 9] = first_words(head);
            self.packet.store(at, &ends)
        } else {
            let ends: [u32; 4] = first_words(head);
            self.packet.store(at, &ends)
        }
    }
}

/// The first words of a head.
#[inline(always)]
fn first_words<const N: usize, const M: usize>(head: &[u32; N]) -> [u32; M] {
    core::array::from_fn(|word| head[word])
}
