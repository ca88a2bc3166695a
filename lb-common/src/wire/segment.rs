//! A packet's flow and where its headers lie: everything the datapath reads of it.
//!
//! Decides what is ours to look at, what is not, and what is malformed (C41). Must not know maps,
//! hooks or verdicts. Invariant: a [`Segment`]'s transport header lies whole inside the packet,
//! unless it is a later fragment, which has none.

use bytemuck::{Pod, Zeroable};

use super::ipv6::{Extension, ExtensionHeader, MAX_EXTENSIONS};
use super::sctp::signals;
use super::{Bytes, IcmpHeader, Ipv4Header, Ipv6Header, SctpHeader, TcpHeader, UdpHeader};
use crate::abi::{FlowKey, Hook};
use crate::address::{Address, Port, Protocol, V4, V6};

/// What there is to know of a packet before any table is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<A: Address> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port; none for ICMP and later fragments.
    pub src_port: Port,
    /// Destination port; none for ICMP and later fragments.
    pub dst_port: Port,
    /// TCP, UDP, SCTP, or the family's ICMP.
    pub protocol: Protocol,
    /// TCP's flags, or what SCTP's first chunk means in them; 0 for others.
    pub tcp_flags: u8,
    /// Whether it is a part of a datagram.
    pub fragment: Fragment,
    /// Offset of the network header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Offset behind the last byte of the network packet (link padding is not part of it).
    pub end: usize,
}

/// A [`FlowKey`] as its hash reads it: what was written as halves of a word is not at hand as a word before the processor
/// has brought both to its cache.
#[repr(C, packed)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct KeyInWords<A> {
    src: A,
    dst: A,
    ports: u32,
    rest: u32,
}

/// Whether a packet is part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is all of it.
    Whole,
    /// It is the first part of the datagram with this identification.
    First(u32),
    /// It is a later part, without a transport header.
    Later(u32),
}

/// Why a packet is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOurs {
    /// Its payload is no transport that services have.
    Transport,
    /// A header is cut short or contradicts itself.
    Malformed,
    /// It has extension headers, options or a transport, which a look of that [`Depth`] leaves out.
    Extended,
}

/// How far to look for the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// TCP and UDP right behind a network header without options: every header is where it always is.
    Bare,
    /// TCP and UDP right behind the network header: nearly every packet, and a tenth of the work for the verifier.
    Plain,
    /// Every transport that services have, behind IPv6 extension headers too.
    Extensions,
}

/// A family whose headers can be read.
pub trait Network: Address {
    /// Where the destination address stands in the network header, in bytes.
    const DST: usize;

    /// Reads the network and transport headers at `l3`.
    ///
    /// # Errors
    /// [`NotOurs`], for a packet to be left alone.
    fn segment<B: Bytes + ?Sized>(packet: &B, l3: usize, depth: Depth) -> Result<Segment<Self>, NotOurs>;
}

impl Network for V4 {
    const DST: usize = Ipv4Header::DST;

    #[inline(always)]
    fn segment<B: Bytes + ?Sized>(packet: &B, l3: usize, depth: Depth) -> Result<Segment<Self>, NotOurs> {
        let ip = packet.read::<Ipv4Header>(l3).ok_or(NotOurs::Malformed)?;
        let header_len = ip.header_len().ok_or(NotOurs::Malformed)?;
        if depth == Depth::Bare && ip.version_ihl != Ipv4Header::WITHOUT_OPTIONS {
            return Err(NotOurs::Extended);
        }
        let end = end_of(packet, l3, ip.total_len.get() as usize);
        let l4 = l3 + header_len;
        if end < l4 || end > packet.len() {
            return Err(NotOurs::Malformed);
        }
        let bits = ip.fragment.get();
        let id = u32::from(ip.id.get());
        let fragment = if bits & Ipv4Header::FRAGMENT_OFFSET != 0 {
            Fragment::Later(id)
        } else if bits & Ipv4Header::MORE_FRAGMENTS != 0 {
            Fragment::First(id)
        } else {
            Fragment::Whole
        };
        transport(packet, Segment { fragment, l3, l4, end, ..blank(ip.src, ip.dst, ip.protocol) }, depth)
    }
}

impl Network for V6 {
    const DST: usize = Ipv6Header::DST;

    #[inline(always)]
    fn segment<B: Bytes + ?Sized>(packet: &B, l3: usize, depth: Depth) -> Result<Segment<Self>, NotOurs> {
        let ip = packet.read::<Ipv6Header>(l3).ok_or(NotOurs::Malformed)?;
        if !ip.version_is_6() {
            return Err(NotOurs::Malformed);
        }
        let l4 = l3 + size_of::<Ipv6Header>();
        let end = end_of(packet, l4, ip.payload_len.get() as usize);
        if end > packet.len() {
            return Err(NotOurs::Malformed);
        }
        let segment = Segment { l3, l4, end, ..blank(ip.src, ip.dst, ip.next) };
        match depth {
            Depth::Bare | Depth::Plain if Extension::of(ip.next).is_some() => Err(NotOurs::Extended),
            Depth::Bare | Depth::Plain => transport(packet, segment, depth),
            Depth::Extensions => transport(packet, behind_extensions(packet, segment)?, depth),
        }
    }
}

/// Steps over extension headers, to a transport header or the body of a later fragment.
#[inline(always)]
fn behind_extensions<B: Bytes + ?Sized>(
    packet: &B,
    mut segment: Segment<V6>,
) -> Result<Segment<V6>, NotOurs> {
    for _ in 0..MAX_EXTENSIONS {
        let Some(extension) = Extension::of(segment.protocol) else { break };
        let header = packet.read::<ExtensionHeader>(segment.l4).ok_or(NotOurs::Malformed)?;
        segment.l4 += extension.len(header);
        segment.protocol = header.next;
        if segment.l4 > segment.end {
            return Err(NotOurs::Malformed);
        }
        if extension == Extension::Fragment {
            if header.fragment_offset() != 0 {
                segment.fragment = Fragment::Later(header.id.get());
                break;
            } else if header.more_fragments() {
                segment.fragment = Fragment::First(header.id.get());
            }
        }
    }
    Ok(segment)
}

/// The end of what begins at `start` and says it is `len` bytes long. A length of 0 is the kernel's own
/// mark of a packet too long for the field (BIG TCP): it ends where the buffer does.
#[inline(always)]
fn end_of<B: Bytes + ?Sized>(packet: &B, start: usize, len: usize) -> usize {
    if len == 0 && packet.len() > u16::MAX as usize { packet.len() } else { start + len }
}

#[inline(always)]
fn blank<A: Address>(src: A, dst: A, protocol: Protocol) -> Segment<A> {
    Segment {
        src,
        dst,
        src_port: Port::NONE,
        dst_port: Port::NONE,
        protocol,
        tcp_flags: 0,
        fragment: Fragment::Whole,
        l3: 0,
        l4: 0,
        end: 0,
    }
}

/// Reads ports and flags.
#[inline(always)]
fn transport<A: Address, B: Bytes + ?Sized>(
    packet: &B,
    segment: Segment<A>,
    depth: Depth,
) -> Result<Segment<A>, NotOurs> {
    if segment.protocol != Protocol::TCP
        && segment.protocol != Protocol::UDP
        && segment.protocol != Protocol::SCTP
        && segment.protocol != A::ICMP
    {
        return Err(NotOurs::Transport);
    }
    if matches!(segment.fragment, Fragment::Later(_)) {
        return Ok(segment);
    }
    match segment.protocol {
        Protocol::TCP => tcp(packet, segment),
        Protocol::UDP => udp(packet, segment),
        _ if depth != Depth::Extensions => Err(NotOurs::Extended),
        Protocol::SCTP => sctp(packet, segment),
        _ if segment.l4 + size_of::<IcmpHeader>() > segment.end => Err(NotOurs::Malformed),
        _ => Ok(segment),
    }
}

#[inline(always)]
fn tcp<A: Address, B: Bytes + ?Sized>(packet: &B, segment: Segment<A>) -> Result<Segment<A>, NotOurs> {
    let header = packet.read::<TcpHeader>(segment.l4).ok_or(NotOurs::Malformed)?;
    let header_len = header.header_len().ok_or(NotOurs::Malformed)?;
    if segment.l4 + header_len > segment.end {
        return Err(NotOurs::Malformed);
    }
    Ok(Segment { src_port: header.src_port, dst_port: header.dst_port, tcp_flags: header.flags, ..segment })
}

#[inline(always)]
fn udp<A: Address, B: Bytes + ?Sized>(packet: &B, segment: Segment<A>) -> Result<Segment<A>, NotOurs> {
    let header = packet.read::<UdpHeader>(segment.l4).ok_or(NotOurs::Malformed)?;
    let len = header.len.get() as usize;
    let room = segment.end.wrapping_sub(segment.l4);
    let whole = segment.fragment == Fragment::Whole;
    // A first fragment's length is the whole datagram's; a packet beyond 64 KiB has none.
    let contradicts = len < size_of::<UdpHeader>() || (whole && len > room);
    if room < size_of::<UdpHeader>() || (contradicts && room <= u16::MAX as usize) {
        return Err(NotOurs::Malformed);
    }
    Ok(Segment { src_port: header.src_port, dst_port: header.dst_port, ..segment })
}

#[inline(always)]
fn sctp<A: Address, B: Bytes + ?Sized>(packet: &B, segment: Segment<A>) -> Result<Segment<A>, NotOurs> {
    let header = packet.read::<SctpHeader>(segment.l4).ok_or(NotOurs::Malformed)?;
    if segment.l4 + size_of::<SctpHeader>() > segment.end {
        return Err(NotOurs::Malformed);
    }
    let flags = signals(header.first_chunk);
    Ok(Segment { src_port: header.src_port, dst_port: header.dst_port, tcp_flags: flags, ..segment })
}

impl<A: Address> Segment<A> {
    /// The flow table's key for this packet at `hook`.
    #[inline(always)]
    pub fn key(&self, hook: Hook) -> FlowKey<A> {
        let ports = bytemuck::cast([self.src_port, self.dst_port]);
        let rest = u32::from_ne_bytes([self.protocol.0, hook.0, 0, 0]);
        bytemuck::cast(KeyInWords { src: self.src, dst: self.dst, ports, rest })
    }
}

#[cfg(test)]
mod tests;
