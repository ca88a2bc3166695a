//! ICMP errors about translated flows (contract C39).
//!
//! Decides by the quoted packet turned round: that is the flow's own key at this hook. What the row
//! does to the flow's packets is done to the quote, reversed, and to the outer address. Must not know
//! services. Invariant: what is not an error about a flow of ours, told to the quoted packet's sender, is left alone; a
//! redirect about one is dropped, or it would teach the pod a route around us.

use lb_common::abi::{FlowFlags, FlowKey, Hook, Verdict, Word};
use lb_common::address::{Port, Protocol};
use lb_common::csum;
use lb_common::wire::{
    Fragment, IcmpHeader, Ipv4Header, Ipv6Header, Segment, TcpHeader, UdpHeader, behind_fragment_header,
    icmp_v4, icmp_v6,
};

use crate::maps::{self, Family, Row};
use crate::packet::{Change, Checksum, Packet, Refused};
use crate::rewrite::{self, End};

/// The packet that an error quotes: enough of it to know its flow.
struct Quoted<A: Family> {
    src: A,
    dst: A,
    /// Source and destination.
    ports: [Port; 2],
    protocol: Protocol,
    /// Offset of its network header.
    l3: usize,
    /// Offset of its ports.
    l4: usize,
}

/// Translates an ICMP message.
#[inline(never)]
pub(crate) fn translate<A: Family, P: Packet>(packet: &P, segment: &Segment<A>, hook: Hook) -> Verdict {
    let not_ours = if hook == Hook::INGRESS { Verdict::NotService } else { Verdict::NotTranslated };
    if segment.fragment != Fragment::Whole {
        return not_ours;
    }
    let Some(icmp) = packet.read::<IcmpHeader>(segment.l4) else { return Verdict::PassedMalformed };
    let redirect = if A::IS_V6 { icmp.kind == icmp_v6::REDIRECT } else { icmp.kind == icmp_v4::REDIRECT };
    let error = if A::IS_V6 { icmp_v6::is_error(icmp.kind) } else { icmp_v4::is_error(icmp.kind) };
    let at = if A::IS_V6 && redirect {
        // Kind and length: the verifier does not see that a single byte is there.
        let Some([kind, _]) = packet.read::<[u8; 2]>(segment.l4 + REDIRECT_OPTIONS) else { return not_ours };
        segment.l4 + REDIRECT_OPTIONS + if kind == REDIRECTED_HEADER { 8 } else { 16 }
    } else if error {
        segment.l4 + size_of::<IcmpHeader>()
    } else {
        return not_ours;
    };
    let Some(quoted) = quoted::<A, P>(packet, at) else { return not_ours };
    // An error tells whoever sent what it is about (RFC 1122 section 3.2.2, RFC 4443 section 2.2).
    if quoted.src != { segment.dst } {
        return not_ours;
    }
    let key = Word::new(quoted.key(hook).reverse());
    let Ok(flow) = maps::flow(&key) else { return not_ours };
    // Nothing of a pending row's has left yet that an error could be about.
    if flow.row.flags.has(FlowFlags::PENDING) {
        return not_ours;
    }
    if redirect {
        return Verdict::DroppedRedirect;
    }
    match rewrite_error(packet, segment, &quoted, &flow.row, hook) {
        Ok(()) => Verdict::IcmpTranslated,
        Err(Refused) => Verdict::DroppedRewriteFailed,
    }
}

/// Where an IPv6 redirect's options begin (RFC 4861 section 4.5). Linux sends the target's link-layer address, eight
/// bytes for Ethernet, where it knows it, and then the packet, behind eight bytes of its own option.
const REDIRECT_OPTIONS: usize = 40;
const REDIRECTED_HEADER: u8 = 4;

/// Reads the quoted packet. Its transport header may be cut off behind the ports.
#[inline(always)]
fn quoted<A: Family, P: Packet>(packet: &P, l3: usize) -> Option<Quoted<A>> {
    let (src, dst, protocol, l4) = if A::IS_V6 {
        let ip = packet.read::<Ipv6Header>(l3)?;
        if !ip.version_is_6() {
            return None;
        }
        // Routers do not fragment: that a fragment is too big is for its sender to know (RFC 8200 section 4.5).
        let (protocol, l4) = behind_fragment_header(packet, ip.next, l3 + size_of::<Ipv6Header>())?;
        (packet.read(l3 + Ipv6Header::SRC)?, packet.read(l3 + Ipv6Header::DST)?, protocol, l4)
    } else {
        let ip = packet.read::<Ipv4Header>(l3)?;
        if ip.fragment.get() & Ipv4Header::FRAGMENT_OFFSET != 0 {
            return None;
        }
        (
            packet.read(l3 + Ipv4Header::SRC)?,
            packet.read(l3 + Ipv4Header::DST)?,
            ip.protocol,
            l3 + ip.header_len()?,
        )
    };
    if !protocol.connects() && protocol != Protocol::UDP {
        return None;
    }
    Some(Quoted { src, dst, ports: packet.read(l4)?, protocol, l3, l4 })
}

impl<A: Family> Quoted<A> {
    #[inline(always)]
    fn key(&self, hook: Hook) -> FlowKey<A> {
        let [src_port, dst_port] = self.ports;
        FlowKey {
            src: self.src,
            dst: self.dst,
            src_port,
            dst_port,
            protocol: self.protocol,
            hook,
            pad: [0; 2],
        }
    }
}

/// Rewrites the quote (at ingress its source, at egress its destination: the packet went the other way) and the
/// outer address. In the quote, the change of an IPv4 address and of its header's checksum cancel
/// out in the ICMP checksum; ports and the transport checksum do not, and for IPv6 nothing does.
#[inline(always)]
fn rewrite_error<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    quoted: &Quoted<A>,
    row: &Row<A>,
    hook: Hook,
) -> Result<(), Refused> {
    let ingress = hook == Hook::INGRESS;
    let inner_old = if ingress { quoted.src } else { quoted.dst };
    let ports = if ingress { [row.port, row.other_port] } else { [row.other_port, row.port] };
    let checksum = Checksum { offset: segment.l4 + IcmpHeader::CHECKSUM, udp: false, ipv6: A::IS_V6 };
    let (before, after) = (rewrite::word(quoted.ports), rewrite::word(ports));
    let address = rewrite::difference(inner_old, row.addr);
    let change = address as u64 + csum::difference(before.into(), after.into(), 1);
    quoted_sum(packet, quoted, segment.end, change, checksum)?;
    packet.update_checksum(checksum, Change::Word(before, after))?;
    packet.store(quoted.l4, &after)?;
    if A::IS_V6 {
        packet.update_checksum(checksum, Change::Diff(address))?;
    }
    let inner_end = if ingress { End::Source } else { End::Destination };
    rewrite::address(packet, quoted.l3, inner_end, inner_old, row.addr)?;
    outer_address(packet, segment, row, hook, checksum)
}

/// The quoted packet's own checksum, where the quote reaches that far, after `change` of what it covers. A datagram
/// without one stays without (C42). SCTP's covers the whole packet, which is not quoted.
#[inline(always)]
fn quoted_sum<A: Family, P: Packet>(
    packet: &P,
    quoted: &Quoted<A>,
    end: usize,
    change: u64,
    icmp: Checksum,
) -> Result<(), Refused> {
    let udp = quoted.protocol == Protocol::UDP;
    let at = match quoted.protocol {
        Protocol::TCP => quoted.l4 + TcpHeader::CHECKSUM,
        Protocol::UDP => quoted.l4 + UdpHeader::CHECKSUM,
        _ => return Ok(()),
    };
    if at + size_of::<u16>() > end {
        return Ok(());
    }
    let before = packet.read::<u16>(at).ok_or(Refused)?;
    if udp && before == 0 {
        return Ok(());
    }
    let sum = csum::update_sum(before, change);
    let after = if udp { csum::udp_nonzero(sum) } else { sum };
    packet.update_checksum(icmp, Change::Word(before.into(), after.into()))?;
    packet.store(at, &after)
}

/// The outer address: at ingress the destination was the frontend and becomes the backend; at egress the
/// source becomes the frontend, or the masquerade address whoever sent the error.
#[inline(always)]
fn outer_address<A: Family, P: Packet>(
    packet: &P,
    segment: &Segment<A>,
    row: &Row<A>,
    hook: Hook,
    checksum: Checksum,
) -> Result<(), Refused> {
    let (old, end) =
        if hook == Hook::INGRESS { (segment.dst, End::Destination) } else { (segment.src, End::Source) };
    if A::IS_V6 {
        packet.update_checksum(checksum, rewrite::address_change(old, row.addr))?;
    }
    rewrite::address(packet, segment.l3, end, old, row.addr)
}
