//! Refusals: the packet becomes its own answer and goes back (contract C32).
//!
//! Decides what the answer is: a TCP reset (RFC 9293 section 3.10.7.1) or an ICMP port unreachable
//! (RFC 792, RFC 4443), from the address that was dialled. Must not know why. Invariant: a
//! reset, an ICMP message or a later fragment is never answered.

use bytemuck::{Pod, Zeroable};
use lb_common::abi::Verdict;
use lb_common::address::{Protocol, V4, V6};
use lb_common::csum;
use lb_common::flow_state::tcp_flag;
use lb_common::wire::{
    Be16, Be32, Ethernet, Fragment, IcmpHeader, Ipv4Header, Ipv6Header, Network, Segment, TcpHeader, icmp_v4,
    icmp_v6,
};

use crate::kernel;
use crate::packet::{Packet, Refused};

const HOP_LIMIT: u8 = 64;

/// Turns the packet into its refusal; `verdict` if that worked.
#[inline(never)]
pub(crate) fn answer<A: Refusal, P: Packet>(packet: &P, segment: &Segment<A>, verdict: Verdict) -> Verdict {
    if matches!(segment.fragment, Fragment::Later(_)) {
        return Verdict::DroppedUnrejectable;
    }
    // An ABORT of SCTP is a reset too (RFC 9260 section 8.4).
    if segment.tcp_flags & tcp_flag::RST != 0 {
        return Verdict::DroppedNoFlow;
    }
    // One call after the other: the stack has no room for one within the other.
    match close_up(packet, segment).and_then(|()| build(packet, segment)) {
        Ok(()) => verdict,
        Err(Refused) => Verdict::DroppedUnrejectable,
    }
}

#[inline(never)]
fn build<A: Refusal, P: Packet>(packet: &P, segment: &Segment<A>) -> Result<(), Refused> {
    if segment.protocol == Protocol::TCP { reset(packet, segment) } else { A::unreachable(packet, segment) }
}

/// Puts the network header of what is to be quoted right before the transport's, over what stands between them.
#[inline(never)]
fn close_up<A: Refusal, P: Packet>(packet: &P, segment: &Segment<A>) -> Result<(), Refused> {
    let at = segment.l4 - size_of::<A::Ip>();
    if at == segment.l3 || segment.protocol == Protocol::TCP {
        return Ok(());
    }
    let mut ip = packet.read::<A::Ip>(segment.l3).ok_or(Refused)?;
    A::bare(&mut ip, segment.protocol, (at - segment.l3) as u16);
    packet.store(at, &ip)
}

/// What a family's refusals look like.
pub(crate) trait Refusal: Network {
    /// The IP header of an answer, and what an ICMP message quotes.
    type Ip: Pod;

    /// The header of an answer to `segment` that carries `len` bytes of `protocol`.
    fn header(segment: &Segment<Self>, protocol: Protocol, len: usize) -> Self::Ip;

    /// The pseudo-header's sum for that answer (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn pseudo_header(segment: &Segment<Self>, protocol: Protocol, len: usize) -> u32;

    /// Makes a packet's header one without the `cut` bytes of options or extension headers behind it.
    fn bare(ip: &mut Self::Ip, protocol: Protocol, cut: u16);

    /// Turns the packet into an ICMP port unreachable.
    fn unreachable<P: Packet>(packet: &P, segment: &Segment<Self>) -> Result<(), Refused>;
}

/// An ICMP message that quotes an IP header and eight bytes behind it.
#[repr(C, packed)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Unreachable<Ip: Pod> {
    icmp: IcmpHeader,
    quote: Quote<Ip>,
}

/// The part of a packet that an error quotes.
#[repr(C, packed)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Quote<Ip: Pod> {
    ip: Ip,
    transport: [u32; 2],
}

#[inline(always)]
fn reset<A: Refusal, P: Packet>(packet: &P, segment: &Segment<A>) -> Result<(), Refused> {
    let tcp = packet.read::<TcpHeader>(segment.l4).ok_or(Refused)?;
    let header_len = tcp.header_len().ok_or(Refused)?;
    let mut length = (segment.end - segment.l4 - header_len) as u32;
    length += u32::from(tcp.flags & tcp_flag::SYN != 0) + u32::from(tcp.flags & tcp_flag::FIN != 0);
    let (seq, ack, flags) = if tcp.flags & tcp_flag::ACK != 0 {
        (tcp.ack, Be32::new(0), tcp_flag::RST)
    } else {
        let ack = Be32::new(tcp.seq.get().wrapping_add(length));
        (Be32::new(0), ack, tcp_flag::RST | tcp_flag::ACK)
    };
    let mut answer = TcpHeader {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        seq,
        ack,
        data_offset: 5 << 4,
        flags,
        window: Be16::new(0),
        checksum: Be16::new(0),
        urgent: Be16::new(0),
    };
    answer.checksum = sum(&answer, A::pseudo_header(segment, Protocol::TCP, size_of::<TcpHeader>()));
    send_back(packet, segment, Protocol::TCP, &answer)
}

impl Refusal for V4 {
    type Ip = Ipv4Header;

    #[inline(always)]
    fn header(segment: &Segment<Self>, protocol: Protocol, len: usize) -> Ipv4Header {
        let mut ip = Ipv4Header {
            version_ihl: 0x45,
            tos: 0,
            total_len: Be16::new((size_of::<Ipv4Header>() + len) as u16),
            id: Be16::new(0),
            fragment: Be16::new(Ipv4Header::DONT_FRAGMENT),
            ttl: HOP_LIMIT,
            protocol,
            checksum: Be16::new(0),
            src: segment.dst,
            dst: segment.src,
        };
        ip.checksum = sum(&ip, 0);
        ip
    }

    #[inline(always)]
    fn pseudo_header(segment: &Segment<Self>, protocol: Protocol, len: usize) -> u32 {
        kernel::checksum([segment.dst, segment.src], (u32::from(protocol.0) + len as u32).to_be())
    }

    #[inline(always)]
    fn bare(ip: &mut Ipv4Header, _: Protocol, cut: u16) {
        ip.version_ihl = 0x45;
        ip.total_len = Be16::new(ip.total_len.get().saturating_sub(cut));
        ip.checksum = Be16::new(0);
        ip.checksum = sum(ip, 0);
    }

    #[inline(always)]
    fn unreachable<P: Packet>(packet: &P, segment: &Segment<Self>) -> Result<(), Refused> {
        let answer = quote::<Self, P>(packet, segment, icmp_v4::UNREACHABLE, icmp_v4::PORT_UNREACHABLE, 0)?;
        send_back(packet, segment, Protocol::ICMP, &answer)
    }
}

impl Refusal for V6 {
    type Ip = Ipv6Header;

    #[inline(always)]
    fn header(segment: &Segment<Self>, protocol: Protocol, len: usize) -> Ipv6Header {
        Ipv6Header {
            version_class_flow: Be32::new(6 << 28),
            payload_len: Be16::new(len as u16),
            next: protocol,
            hop_limit: HOP_LIMIT,
            src: segment.dst,
            dst: segment.src,
        }
    }

    #[inline(always)]
    fn pseudo_header(segment: &Segment<Self>, protocol: Protocol, len: usize) -> u32 {
        kernel::checksum([segment.dst, segment.src], (u32::from(protocol.0) + len as u32).to_be())
    }

    #[inline(always)]
    fn bare(ip: &mut Ipv6Header, protocol: Protocol, cut: u16) {
        ip.next = protocol;
        ip.payload_len = Be16::new(ip.payload_len.get().saturating_sub(cut));
    }

    #[inline(always)]
    fn unreachable<P: Packet>(packet: &P, segment: &Segment<Self>) -> Result<(), Refused> {
        let len = size_of::<Unreachable<Ipv6Header>>();
        let pseudo = Self::pseudo_header(segment, Protocol::ICMPV6, len);
        let answer =
            quote::<Self, P>(packet, segment, icmp_v6::UNREACHABLE, icmp_v6::PORT_UNREACHABLE, pseudo)?;
        send_back(packet, segment, Protocol::ICMPV6, &answer)
    }
}

/// The ICMP message about `segment`. It has a fixed length, so options and extension headers are left out of what it
/// quotes: with them the ports would be cut off, and nobody could tell what it is about.
#[inline(always)]
fn quote<A: Refusal, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    kind: u8,
    code: u8,
    pseudo_header: u32,
) -> Result<Unreachable<A::Ip>, Refused> {
    let quote = packet.read::<Quote<A::Ip>>(segment.l4 - size_of::<A::Ip>()).ok_or(Refused)?;
    let mut icmp = IcmpHeader { kind, code, checksum: Be16::new(0), rest: Be32::new(0) };
    icmp.checksum = sum(&Unreachable { icmp, quote }, pseudo_header);
    Ok(Unreachable { icmp, quote })
}

/// Makes the packet `payload`, from the address that was dialled to the one that dialled it.
#[inline(always)]
fn send_back<A: Refusal, P: Packet, T: Pod>(
    packet: &P,
    segment: &Segment<A>,
    protocol: Protocol,
    payload: &T,
) -> Result<(), Refused> {
    let ip = A::header(segment, protocol, size_of::<T>());
    let l4 = segment.l3 + size_of::<A::Ip>();
    packet.resize(l4 + size_of::<T>())?;
    if segment.l3 >= size_of::<Ethernet>() {
        let mut ethernet = packet.read::<Ethernet>(0).ok_or(Refused)?;
        (ethernet.dst, ethernet.src) = (ethernet.src, ethernet.dst);
        packet.store(0, &ethernet)?;
    }
    packet.store(segment.l3, &ip)?;
    packet.store(l4, payload)
}

/// The checksum field over `value`, whose own is zero, and a sum to begin with.
#[inline(always)]
fn sum<T: Pod>(value: &T, start: u32) -> Be16 {
    // Sums of words in memory order give a checksum in memory order (RFC 1071 section 2 B).
    Be16(csum::finish(kernel::checksum(*value, start).into()))
}
