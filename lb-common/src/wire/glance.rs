//! The least that tells whether a packet may concern anybody: its two ends, and whether it may open a connection.
//!
//! Decides which packets need no closer look than that: TCP or UDP right behind a network header without options,
//! not in fragments. Must not know whom they concern. Invariant: what a [`Glance`] says is what [`super::Segment`] would
//! say of the same packet, unless that finds it malformed, which is left alone as a stranger's is.

use super::{Bytes, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
use crate::address::{Address, Port, Protocol, V4, V6};
use crate::flow_state::opens;

/// A packet's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance<A: Address> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Is it a datagram, or a segment that opens a connection?
    pub may_open: bool,
}

/// A family that can be glanced at.
pub trait Glimpsed: Address {
    /// Reads the two ends of a plain packet whose network header is at `l3`; `None` for any other.
    fn glance<B: Bytes + ?Sized>(packet: &B, l3: usize) -> Option<Glance<Self>>;
}

impl Glimpsed for V4 {
    #[inline(always)]
    fn glance<B: Bytes + ?Sized>(packet: &B, l3: usize) -> Option<Glance<Self>> {
        const IN_FRAGMENTS: u16 = Ipv4Header::MORE_FRAGMENTS | Ipv4Header::FRAGMENT_OFFSET;
        let ip = packet.peek::<Ipv4Header>(l3)?;
        if ip.version_ihl != Ipv4Header::WITHOUT_OPTIONS || ip.fragment.get() & IN_FRAGMENTS != 0 {
            return None;
        }
        ends(packet, l3 + size_of::<Ipv4Header>(), (ip.src, ip.dst), ip.protocol)
    }
}

impl Glimpsed for V6 {
    #[inline(always)]
    fn glance<B: Bytes + ?Sized>(packet: &B, l3: usize) -> Option<Glance<Self>> {
        let ip = packet.peek::<Ipv6Header>(l3)?;
        if !ip.version_is_6() {
            return None;
        }
        ends(packet, l3 + size_of::<Ipv6Header>(), (ip.src, ip.dst), ip.next)
    }
}

#[inline(always)]
fn ends<A: Address, B: Bytes + ?Sized>(
    packet: &B,
    l4: usize,
    (src, dst): (A, A),
    protocol: Protocol,
) -> Option<Glance<A>> {
    match protocol {
        Protocol::TCP => {
            let TcpHeader { src_port, dst_port, flags, .. } = packet.peek(l4)?;
            Some(Glance { src, dst, src_port, dst_port, may_open: opens(flags) })
        }
        Protocol::UDP => {
            let UdpHeader { src_port, dst_port, .. } = packet.peek(l4)?;
            Some(Glance { src, dst, src_port, dst_port, may_open: true })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Depth, Fragment, Network, NotOurs, Segment};

    fn agree<A: Network + Glimpsed>(packet: &[u8]) {
        let Some(glance) = A::glance(packet, 0) else { return };
        let plain = A::segment(packet, 0, Depth::Plain);
        assert_eq!(A::segment(packet, 0, Depth::Bare), plain);
        if let Ok(segment) = plain {
            let Segment { src, dst, src_port, dst_port, tcp_flags, protocol, fragment, .. } = segment;
            assert_eq!(fragment, Fragment::Whole);
            let may_open = protocol == Protocol::UDP || opens(tcp_flags);
            assert_eq!(glance, Glance { src, dst, src_port, dst_port, may_open });
        }
    }

    #[test]
    fn c41_options_fragments_and_other_transports_need_a_closer_look() {
        let mut packet = vec![0; 60];
        packet[0] = 0x45;
        packet[9] = 17;
        assert!(V4::glance(&packet[..], 0).is_some());
        for (at, value, what) in
            [(0, 0x46, "options"), (6, 0x20, "a fragment"), (7, 1, "a later one"), (9, 132, "SCTP")]
        {
            let mut other = packet.clone();
            other[at] = value;
            assert_eq!(V4::glance(&other[..], 0), None, "{what}");
        }
        packet[0] = 0x46;
        assert_eq!(V4::segment(&packet[..], 0, Depth::Bare), Err(NotOurs::Extended), "options");
        packet[0] = 0x45;
        assert_eq!(V4::glance(&packet[..27], 0), None, "cut short");
    }

    proptest! {
        #[test]
        fn a_glance_sees_what_a_closer_look_sees(
            noise in prop::collection::vec(any::<u8>(), 0..100),
            first in prop::sample::select(vec![0x45_u8, 0x60]),
            protocol in prop::sample::select(vec![6_u8, 17]),
            plain: bool,
        ) {
            let mut packet = noise;
            let at = if first == 0x45 { 9 } else { 6 };
            if packet.len() > 60 {
                packet[0] = first;
                packet[at] = protocol;
                if plain && first == 0x45 {
                    packet[6..8].fill(0);
                    packet[2..4].copy_from_slice(&60_u16.to_be_bytes());
                    packet[32] = 0x50;
                    packet[24..26].copy_from_slice(&20_u16.to_be_bytes());
                }
            }
            agree::<V4>(&packet);
            agree::<V6>(&packet);
        }
    }
}
