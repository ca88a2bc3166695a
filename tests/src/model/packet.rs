//! What a packet is, read by another library than the datapath's own reader.
//!
//! Decides what is a packet of a protocol that services have, and what is left alone (C41). Must not know services.
//! Invariant: whatever it says of a packet was read inside of that packet.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Ethernet2HeaderSlice, IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice,
    Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice, TcpHeaderSlice, UdpHeaderSlice,
};
use lb_common::abi::Verdict;

use super::protocol;

/// Extension headers that are stepped over at most.
const EXTENSIONS: usize = 6;

/// What there is to know of a packet.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// [`protocol`].
    pub protocol: u8,
    /// Source and destination port; 0 where it has none.
    pub ports: (u16, u16),
    /// What it says about its connection.
    pub says: Says,
    /// Part of a datagram?
    pub fragment: Fragment,
    /// Extension headers, a fragment, or SCTP: not the plain case.
    pub plain: bool,
    /// Where the network header begins.
    pub l3: usize,
    /// Where the transport header begins.
    pub l4: usize,
    /// Where the packet ends.
    pub end: usize,
}

/// Whether a packet is part of a datagram, and of which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is all of it.
    Whole,
    /// Its first part.
    First(u32),
    /// A later one, which has no ports.
    Later(u32),
}

/// What a packet says about its connection (TCP's flags; an SCTP association's chunks mean the same).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Says {
    /// SYN, INIT.
    pub syn: bool,
    /// ACK, anything that answers.
    pub ack: bool,
    /// FIN, SHUTDOWN.
    pub fin: bool,
    /// RST, ABORT.
    pub rst: bool,
}

/// Why a packet is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// No transport that services have.
    NotTransport,
    /// A header is cut short or contradicts itself.
    Malformed,
}

impl Stranger {
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::NotIp => Verdict::NotIp,
            Self::NotTransport => Verdict::NotTransport,
            Self::Malformed => Verdict::PassedMalformed,
        }
    }
}

/// Something that is cut short.
fn whole<T, E>(result: Result<T, E>) -> Result<T, Stranger> {
    result.map_err(|_| Stranger::Malformed)
}

impl Packet {
    /// Reads a packet.
    ///
    /// # Errors
    /// Why it is to be left alone.
    pub fn read(frame: &[u8], ethernet: bool) -> Result<Self, Stranger> {
        let (v4, l3) = if ethernet { of_ethernet(frame)? } else { of_bare(frame)? };
        let packet = if v4 { network_v4(frame, l3)? } else { network_v6(frame, l3)? };
        packet.transport(frame)
    }

    /// Both ends.
    #[must_use]
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        (SocketAddr::new(self.src, self.ports.0), SocketAddr::new(self.dst, self.ports.1))
    }

    /// Is it an ICMP message of its family?
    #[must_use]
    pub fn is_icmp(&self) -> bool {
        self.protocol == if self.src.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
    }

    /// Does its protocol have connections?
    #[must_use]
    pub fn connects(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::SCTP)
    }

    /// Does it ask for a new connection? A SYN, and nothing else with it.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.says.syn && !self.says.ack && !self.says.rst
    }

    /// May it be the first of its connection?
    #[must_use]
    pub fn may_open(&self) -> bool {
        !self.connects() || self.opens()
    }

    /// Its transport header and payload.
    fn body<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[self.l4..self.end]
    }

    fn transport(mut self, frame: &[u8]) -> Result<Self, Stranger> {
        let known = matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
        if !known && !self.is_icmp() {
            return Err(Stranger::NotTransport);
        }
        if matches!(self.fragment, Fragment::Later(_)) {
            return Ok(self);
        }
        let body = self.body(frame);
        match self.protocol {
            protocol::TCP => {
                let tcp = whole(TcpHeaderSlice::from_slice(body))?;
                self.ports = (tcp.source_port(), tcp.destination_port());
                self.says = Says { syn: tcp.syn(), ack: tcp.ack(), fin: tcp.fin(), rst: tcp.rst() };
            }
            protocol::UDP => {
                let udp = whole(UdpHeaderSlice::from_slice(body))?;
                let length = usize::from(udp.length());
                if length < 8 || (self.fragment == Fragment::Whole && length > body.len()) {
                    return Err(Stranger::Malformed);
                }
                self.ports = (udp.source_port(), udp.destination_port());
            }
            protocol::SCTP => {
                // A common header and the head of a chunk (RFC 9260 section 3).
                let head = body.get(..16).ok_or(Stranger::Malformed)?;
                self.ports = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
                self.says = Says::of_chunk(head[12]);
                self.plain = false;
            }
            _ if body.len() < 8 => return Err(Stranger::Malformed),
            _ => self.plain = false,
        }
        Ok(self)
    }
}

impl Says {
    /// What an SCTP packet's first chunk says (RFC 9260 section 3.2).
    fn of_chunk(kind: u8) -> Self {
        let ack = Self { ack: true, ..Self::default() };
        match kind {
            1 => Self { syn: true, ..Self::default() },
            2 => Self { syn: true, ..ack },
            6 => Self { rst: true, ..ack },
            7 | 8 | 14 => Self { fin: true, ..ack },
            _ => ack,
        }
    }
}

/// Where any packet says that it goes, whatever else it says; `None`: it is cut short.
pub(super) fn goes_to(frame: &[u8], ethernet: bool) -> Option<IpAddr> {
    let (v4, l3) = if ethernet { of_ethernet(frame) } else { of_bare(frame) }.ok()?;
    if v4 {
        let at = frame.get(l3 + 16..l3 + 20)?;
        Some(IpAddr::from(<[u8; 4]>::try_from(at).ok()?))
    } else {
        let at = frame.get(l3 + 24..l3 + 40)?;
        Some(IpAddr::from(<[u8; 16]>::try_from(at).ok()?))
    }
}

/// IPv4 (else IPv6), and where it begins. One VLAN tag is stepped over.
fn of_ethernet(frame: &[u8]) -> Result<(bool, usize), Stranger> {
    const TAGS: [u16; 2] = [0x8100, 0x88a8];
    let ethernet = Ethernet2HeaderSlice::from_slice(frame).map_err(|_| Stranger::NotIp)?;
    let (mut kind, mut l3) = (ethernet.ether_type().0, 14);
    if TAGS.contains(&kind) {
        let tag = SingleVlanHeaderSlice::from_slice(&frame[l3..]).map_err(|_| Stranger::NotIp)?;
        (kind, l3) = (tag.ether_type().0, 18);
    }
    match kind {
        0x0800 => Ok((true, l3)),
        0x86dd => Ok((false, l3)),
        _ => Err(Stranger::NotIp),
    }
}

fn of_bare(packet: &[u8]) -> Result<(bool, usize), Stranger> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => Ok((true, 0)),
        Some(6) => Ok((false, 0)),
        _ => Err(Stranger::NotIp),
    }
}

fn network_v4(frame: &[u8], l3: usize) -> Result<Packet, Stranger> {
    let ip = whole(Ipv4HeaderSlice::from_slice(&frame[l3..]))?;
    let (l4, end) = (l3 + ip.slice().len(), l3 + usize::from(ip.total_len()));
    if end < l4 || end > frame.len() {
        return Err(Stranger::Malformed);
    }
    let id = ip.identification().into();
    let fragment = match (ip.fragments_offset().value(), ip.more_fragments()) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First(id),
        _ => Fragment::Later(id),
    };
    Ok(Packet {
        src: ip.source_addr().into(),
        dst: ip.destination_addr().into(),
        protocol: ip.protocol().0,
        ports: (0, 0),
        says: Says::default(),
        fragment,
        plain: fragment == Fragment::Whole,
        l3,
        l4,
        end,
    })
}

fn network_v6(frame: &[u8], l3: usize) -> Result<Packet, Stranger> {
    let ip = whole(Ipv6HeaderSlice::from_slice(&frame[l3..]))?;
    let end = l3 + 40 + usize::from(ip.payload_length());
    if end > frame.len() {
        return Err(Stranger::Malformed);
    }
    let packet = Packet {
        src: ip.source_addr().into(),
        dst: ip.destination_addr().into(),
        protocol: ip.next_header().0,
        ports: (0, 0),
        says: Says::default(),
        fragment: Fragment::Whole,
        plain: true,
        l3,
        l4: l3 + 40,
        end,
    };
    behind_extensions(frame, packet)
}

fn behind_extensions(frame: &[u8], mut packet: Packet) -> Result<Packet, Stranger> {
    for _ in 0..EXTENSIONS {
        let rest = &frame[packet.l4..packet.end];
        let (next, length) = match IpNumber(packet.protocol) {
            IpNumber::IPV6_FRAGMENTATION_HEADER => {
                let header = whole(Ipv6FragmentHeaderSlice::from_slice(rest))?;
                packet.fragment = match (header.fragment_offset().value(), header.more_fragments()) {
                    (0, false) => packet.fragment,
                    (0, true) => Fragment::First(header.identification()),
                    _ => Fragment::Later(header.identification()),
                };
                (header.next_header(), header.slice().len())
            }
            IpNumber::AUTHENTICATION_HEADER => {
                // As long as it says, as Linux's `ipv6_skip_exthdr` has it, though RFC 4302 wants 12 bytes at least.
                let head = rest.get(..8).ok_or(Stranger::Malformed)?;
                let length = (usize::from(head[1]) + 2) * 4;
                if length > rest.len() {
                    return Err(Stranger::Malformed);
                }
                (IpNumber(head[0]), length)
            }
            IpNumber::IPV6_HEADER_HOP_BY_HOP
            | IpNumber::IPV6_ROUTE_HEADER
            | IpNumber::IPV6_DESTINATION_OPTIONS
            | IpNumber::MOBILITY_HEADER => {
                let header = whole(Ipv6RawExtHeaderSlice::from_slice(rest))?;
                (header.next_header(), header.slice().len())
            }
            _ => break,
        };
        packet.plain = false;
        packet.protocol = next.0;
        packet.l4 += length;
        if matches!(packet.fragment, Fragment::Later(_)) {
            break;
        }
    }
    Ok(packet)
}
