//! Refusals: what a client hears where nobody serves (C32).
//!
//! Decides the whole answer. Must not know why the client is refused. Invariant: what is itself an answer, a reset or
//! a later fragment, is never answered.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, TcpHeaderSlice};
use lb_common::abi::Verdict;

use super::packet::{Fragment, Packet};
use super::{Case, Outcome, protocol};

const LIFETIME: u8 = 64;

/// Refuses a packet; `verdict` says why.
pub(super) fn refuse(case: &Case<'_>, verdict: Verdict) -> Outcome {
    let packet = &case.packet;
    if matches!(packet.fragment, Fragment::Later(_)) {
        return Case::dropped(Verdict::DroppedUnrejectable);
    }
    if packet.says.rst {
        return Case::dropped(Verdict::DroppedNoFlow);
    }
    let body = if packet.protocol == protocol::TCP {
        Some((IpNumber::TCP, reset(case.frame, packet)))
    } else {
        unreachable(case.frame, packet)
    };
    match body {
        Some((kind, body)) => Outcome { verdict, frame: Some(back(case, kind, &body)) },
        None => Case::dropped(Verdict::DroppedUnrejectable),
    }
}

/// A reset (RFC 9293 section 3.10.7.1).
fn reset(frame: &[u8], packet: &Packet) -> Vec<u8> {
    let body = &frame[packet.l4..packet.end];
    let tcp = TcpHeaderSlice::from_slice(body).unwrap_or_else(|error| panic!("it was read before: {error}"));
    let mut answer = TcpHeader::new(tcp.destination_port(), tcp.source_port(), 0, 0);
    answer.rst = true;
    if tcp.ack() {
        answer.sequence_number = tcp.acknowledgment_number();
    } else {
        let data = u32::try_from(body.len() - tcp.slice().len()).unwrap_or(0);
        let length = data + u32::from(tcp.syn()) + u32::from(tcp.fin());
        answer.acknowledgment_number = tcp.sequence_number().wrapping_add(length);
        answer.ack = true;
    }
    let sum = match (packet.dst, packet.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => answer.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]),
        (IpAddr::V6(from), IpAddr::V6(to)) => answer.calc_checksum_ipv6_raw(from.octets(), to.octets(), &[]),
        _ => panic!("ends of two families"),
    };
    answer.checksum = sum.unwrap_or_else(|error| panic!("a header is short: {error}"));
    answer.to_bytes().to_vec()
}

/// Port unreachable (RFC 792, RFC 4443 section 3.1), about the IP header and eight bytes of its transport's.
fn unreachable(frame: &[u8], packet: &Packet) -> Option<(IpNumber, Vec<u8>)> {
    let v4 = packet.src.is_ipv4();
    let (kind, code, number) = if v4 { (3, 3, IpNumber::ICMP) } else { (1, 4, IpNumber::IPV6_ICMP) };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(quoted_header(frame, packet)?);
    message.extend(&frame[packet.l4..packet.l4 + 8]);
    let mut covered = Vec::new();
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (packet.dst, packet.src) {
        covered.extend(from.octets());
        covered.extend(to.octets());
        covered.extend([0, 0, 0, u8::try_from(message.len()).ok()?, 0, 0, 0, number.0]);
    }
    covered.extend(&message);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&covered).ones_complement();
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    Some((number, message))
}

/// The packet's IP header, as if there were nothing between it and its transport's.
fn quoted_header(frame: &[u8], packet: &Packet) -> Option<Vec<u8>> {
    let header = &frame[packet.l3..packet.l4];
    let mut out = Vec::new();
    if packet.src.is_ipv4() {
        let (mut ip, _) = Ipv4Header::from_slice(header).ok()?;
        if ip.options.is_empty() {
            return Some(header.to_vec());
        }
        ip.total_len -= u16::try_from(ip.options.len()).ok()?;
        ip.options = etherparse::Ipv4Options::default();
        ip.header_checksum = ip.calc_header_checksum();
        // As it is: some writers compute a checksum of their own.
        ip.write_raw(&mut out).ok()?;
    } else {
        let (mut ip, rest) = Ipv6Header::from_slice(header).ok()?;
        ip.payload_length -= u16::try_from(rest.len()).ok()?;
        ip.next_header = IpNumber(packet.protocol);
        ip.write(&mut out).ok()?;
    }
    Some(out)
}

/// `body` on its way back, from where the packet was sent to.
fn back(case: &Case<'_>, kind: IpNumber, body: &[u8]) -> Vec<u8> {
    let packet = &case.packet;
    let mut out = case.frame[..packet.l3].to_vec();
    if case.place.ethernet {
        let (dst, src) = out[..12].split_at_mut(6);
        dst.swap_with_slice(src);
    }
    let length = u16::try_from(body.len()).unwrap_or(0);
    let written = match (packet.dst, packet.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = Ipv4Header::new(length, LIFETIME, kind, from.octets(), to.octets())
                .unwrap_or_else(|error| panic!("an answer is short: {error}"));
            ip.dont_fragment = true;
            ip.header_checksum = ip.calc_header_checksum();
            ip.write(&mut out)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: length,
            next_header: kind,
            hop_limit: LIFETIME,
            source: from.octets(),
            destination: to.octets(),
        }
        .write(&mut out),
        _ => panic!("ends of two families"),
    };
    written.unwrap_or_else(|error| panic!("memory takes everything: {error}"));
    out.extend(body);
    out
}
