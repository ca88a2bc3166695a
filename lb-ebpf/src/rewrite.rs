//! The only writer of addresses and ports.
//!
//! Decides the order of writes: checksums first, while the old bytes are known, then the bytes.
//! Must not know why. Invariant: address, ports and checksums change together or the packet is
//! dropped ([`Verdict::DroppedRewriteFailed`]).

use lb_common::abi::Verdict;
use lb_common::address::{Address, Port, Protocol};
use lb_common::wire::{Fragment, Ipv4Header, Ipv6Header, SctpHeader, Segment, TcpHeader, UdpHeader};
use lb_common::{crc32c, csum};

use crate::head::{self, Ends};
use crate::kernel::{self, Repeat};
use crate::maps::{Family, Row};
use crate::packet::{Change, Checksum, Packet, Refused};

/// Which end of a packet gets the row's address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The source, at egress.
    Source,
    /// The destination, at ingress.
    Destination,
}

/// Rewrites one end's address and both ports as the row says; `then` is the verdict if it worked. For the slow paths:
/// every packet, field by field.
#[inline(always)]
pub(crate) fn apply<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    row: &Row<A>,
    end: End,
    then: Verdict,
) -> Verdict {
    match rewrite(packet, segment, row.addr, ports_of(row, end), end) {
        Ok(()) => then,
        Err(Refused) => Verdict::DroppedRewriteFailed,
    }
}

/// The same for packets of known flows: plain ones in one go.
#[inline(always)]
pub(crate) fn apply_at_once<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    row: &Row<A>,
    end: End,
    then: Verdict,
) -> Verdict {
    let (src, dst) = match end {
        End::Source => (row.addr, segment.dst),
        End::Destination => (segment.src, row.addr),
    };
    let ends = Ends { src, dst, ports: word(ports_of(row, end)), hops: 0 };
    let done = match segment.fragment {
        Fragment::Whole => head::rewrite(packet, segment, &ends),
        _ => None,
    };
    match done {
        Some(Ok(())) => then,
        Some(Err(Refused)) => Verdict::DroppedRewriteFailed,
        None => apply(packet, segment, row, end, then),
    }
}

/// Source and destination port, once the row has rewritten them.
#[inline(always)]
fn ports_of<A: Family>(row: &Row<A>, end: End) -> [Port; 2] {
    match end {
        End::Source => [row.port, row.other_port],
        End::Destination => [row.other_port, row.port],
    }
}

#[inline(always)]
fn rewrite<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    new: A,
    new_ports: [Port; 2],
    end: End,
) -> Result<(), Refused> {
    let old = match end {
        End::Source => segment.src,
        End::Destination => segment.dst,
    };
    if !matches!(segment.fragment, Fragment::Later(_)) {
        let (before, after) = (word([segment.src_port, segment.dst_port]), word(new_ports));
        if segment.protocol == Protocol::SCTP {
            if before != after {
                sctp_ports(packet, segment, before, after)?;
            }
        } else {
            let checksum = checksum_of(segment)?;
            packet.update_checksum(checksum, address_change(old, new))?;
            if before != after {
                packet.update_checksum(checksum, Change::Word(before, after))?;
                packet.store(segment.l4, &after)?;
            }
        }
    }
    address(packet, segment.l3, end, old, new)
}

extern "C" fn crc_step(n: u32, change: &mut crc32c::Change) -> Repeat {
    change.step(n);
    Repeat::GoOn
}

/// SCTP's checksum covers no address, but ports and payload: how it follows from the ports alone is told in
/// [`lb_common::crc32c`]. Zero means that the device will compute it (the kernel's `csum_not_inet`), and stays. Of a
/// fragment nobody knows the length that the sum covers.
#[inline(never)]
fn sctp_ports<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    before: u32,
    after: u32,
) -> Result<(), Refused> {
    let at = segment.l4 + SctpHeader::CHECKSUM;
    let sum = packet.read::<u32>(at).ok_or(Refused)?;
    if sum != 0 {
        if segment.fragment != Fragment::Whole {
            return Err(Refused);
        }
        let rest = (segment.end - segment.l4 - size_of::<u32>()) as u32;
        let mut change = crc32c::Change::new(before.to_ne_bytes(), after.to_ne_bytes(), rest);
        kernel::repeat(crc32c::STEPS, &mut change, crc_step);
        packet.store(at, &(sum ^ change.finish().to_le()))?;
    }
    packet.store(segment.l4, &after)
}

/// Writes one address of the IP header at `l3`, and that header's own checksum.
#[inline(always)]
pub(crate) fn address<A: Family, P: Packet>(
    packet: &P,
    l3: usize,
    end: End,
    old: A,
    new: A,
) -> Result<(), Refused> {
    if !A::IS_V6 {
        packet.update_ip_checksum(l3 + Ipv4Header::CHECKSUM, old.fold(), new.fold())?;
    }
    let offset = match (A::IS_V6, end) {
        (false, End::Source) => Ipv4Header::SRC,
        (false, End::Destination) => Ipv4Header::DST,
        (true, End::Source) => Ipv6Header::SRC,
        (true, End::Destination) => Ipv6Header::DST,
    };
    packet.store(l3 + offset, &new)
}

/// What an address's change does to a checksum that covers the pseudo-header.
#[inline(always)]
pub(crate) fn address_change<A: Address>(old: A, new: A) -> Change {
    if A::IS_V6 {
        Change::PseudoHeaderDiff(difference(old, new))
    } else {
        Change::PseudoHeader(old.fold(), new.fold())
    }
}

/// What an address's change does to a checksum, as the kernel takes it.
#[inline(always)]
pub(crate) fn difference<A: Address>(old: A, new: A) -> i64 {
    csum::difference(old.sum(), new.sum(), (A::BYTES / 4).into()) as i64
}

/// Two ports as they stand at the head of a transport header.
#[inline(always)]
pub(crate) fn word(ports: [Port; 2]) -> u32 {
    bytemuck::cast(ports)
}

#[inline(always)]
pub(crate) fn checksum_of<A: Family>(segment: &Segment<A>) -> Result<Checksum, Refused> {
    match segment.protocol {
        Protocol::TCP => {
            Ok(Checksum { offset: segment.l4 + TcpHeader::CHECKSUM, udp: false, ipv6: A::IS_V6 })
        }
        Protocol::UDP => Ok(Checksum { offset: segment.l4 + UdpHeader::CHECKSUM, udp: true, ipv6: A::IS_V6 }),
        _ => Err(Refused),
    }
}
