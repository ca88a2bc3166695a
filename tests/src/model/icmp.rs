//! ICMP errors about connections (C39).
//!
//! Decides from the quoted packet whose error it is: the connection whose packets of the opposite direction pass the
//! same kind of hook. Must not know services. Invariant: the error reads as if its sender had seen the packet before
//! translation; an error about nobody's packet leaves as it came (C44), a redirect about a connection's does not leave.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice};
use lb_common::abi::Verdict;

use super::rewrite::{addresses, covered, replace_sum};
use super::{Case, Direction, Fragment, Masquerade, Model, Outcome, Part, protocol};

/// The packet that an error is about.
struct Quoted {
    protocol: u8,
    from: SocketAddr,
    to: SocketAddr,
    l3: usize,
    l4: usize,
}

/// What an ICMP message is.
enum Kind {
    Error,
    Redirect,
    Other,
}

impl Model {
    pub(super) fn icmp(&mut self, case: &Case<'_>) -> Outcome {
        let nobodys = case.untouched(match case.place.direction {
            Direction::Ingress => Verdict::NotService,
            Direction::Egress => Verdict::NotTranslated,
        });
        let packet = &case.packet;
        if packet.fragment != Fragment::Whole {
            return nobodys;
        }
        let v4 = packet.src.is_ipv4();
        let (kind, at) = match (v4, case.frame[packet.l4]) {
            (true, 5) => (Kind::Redirect, packet.l4 + 8),
            // RFC 4861 section 4.5: behind two addresses, and the target's link-layer address where that is known.
            (false, 137) => {
                let first = case.frame.get(packet.l4 + 40);
                (Kind::Redirect, packet.l4 + if first == Some(&4) { 48 } else { 56 })
            }
            (true, 3 | 4 | 11 | 12) | (false, 1..=4) => (Kind::Error, packet.l4 + 8),
            _ => (Kind::Other, 0),
        };
        if matches!(kind, Kind::Other) {
            return nobodys;
        }
        let Some(quoted) = Quoted::read(&case.frame[..packet.end], at, v4) else { return nobodys };
        // It tells whoever sent the packet; another is not meant for anybody we know.
        if quoted.from.ip() != packet.dst {
            return nobodys;
        }
        let turned = (quoted.to, quoted.from);
        let found = self.connections.find(case.place.direction, quoted.protocol, turned);
        let Some((id, part)) = found else { return nobodys };
        // Nothing has left yet that an error could be about.
        if part == Part::Out && self.connections.get(id).masquerade == Masquerade::Pending {
            return nobodys;
        }
        if matches!(kind, Kind::Redirect) {
            return Case::dropped(Verdict::DroppedRedirect);
        }
        let (from, to) = self.connections.get(id).leaves(part);
        Outcome { verdict: Verdict::IcmpTranslated, frame: Some(translated(case, &quoted, (to, from))) }
    }
}

impl Quoted {
    fn read(frame: &[u8], l3: usize, v4: bool) -> Option<Self> {
        let quote = frame.get(l3..)?;
        let (protocol, length, from, to): (_, _, IpAddr, IpAddr) = if v4 {
            let ip = Ipv4HeaderSlice::from_slice(quote).ok()?;
            if ip.fragments_offset().value() != 0 {
                return None;
            }
            (ip.protocol().0, ip.slice().len(), ip.source_addr().into(), ip.destination_addr().into())
        } else {
            let ip = Ipv6HeaderSlice::from_slice(quote).ok()?;
            let (mut next, mut length) = (ip.next_header(), 40);
            if next == IpNumber::IPV6_FRAGMENTATION_HEADER {
                let header = Ipv6FragmentHeaderSlice::from_slice(&quote[40..]).ok()?;
                if header.fragment_offset().value() != 0 {
                    return None;
                }
                (next, length) = (header.next_header(), 48);
            }
            (next.0, length, ip.source_addr().into(), ip.destination_addr().into())
        };
        if !matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP) {
            return None;
        }
        let ports = quote.get(length..length + 4)?;
        let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
        let (from, to) = (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)));
        Some(Self { protocol, from, to, l3, l4: l3 + length })
    }
}

/// The error about the packet from `ends.0` to `ends.1`, sent to its source, or by where it went.
fn translated(case: &Case<'_>, quoted: &Quoted, ends: (SocketAddr, SocketAddr)) -> Vec<u8> {
    let packet = &case.packet;
    let mut out = case.frame.to_vec();
    addresses(&mut out, quoted.l3, (ends.0.ip(), ends.1.ip()));
    out[quoted.l4..quoted.l4 + 2].copy_from_slice(&ends.0.port().to_be_bytes());
    out[quoted.l4 + 2..quoted.l4 + 4].copy_from_slice(&ends.1.port().to_be_bytes());
    quoted_sum(&mut out, case, quoted, ends);
    // To whom: at ingress the one who sent the packet; at egress it comes from where the packet was sent.
    let outer = match case.place.direction {
        Direction::Ingress => (packet.src, ends.0.ip()),
        Direction::Egress => (ends.1.ip(), packet.dst),
    };
    addresses(&mut out, packet.l3, outer);
    let message = packet.l4..packet.end;
    let mut old = case.frame[message.clone()].to_vec();
    let mut new = out[message].to_vec();
    for bytes in [&mut old, &mut new] {
        // Its own checksum is no part of what it covers.
        bytes[2..4].fill(0);
    }
    if packet.src.is_ipv6() {
        let addresses = packet.l3 + 8..packet.l3 + 40;
        old.splice(0..0, case.frame[addresses.clone()].iter().copied());
        new.splice(0..0, out[addresses].iter().copied());
    }
    replace_sum(&mut out, packet.l4 + 2, &old, &new);
    out
}

/// The quoted packet's own checksum, where it is quoted and says anything.
fn quoted_sum(out: &mut [u8], case: &Case<'_>, quoted: &Quoted, ends: (SocketAddr, SocketAddr)) {
    let at = match quoted.protocol {
        protocol::TCP => quoted.l4 + 16,
        protocol::UDP => quoted.l4 + 6,
        _ => return,
    };
    let udp = quoted.protocol == protocol::UDP;
    let there = case.frame[..case.packet.end].get(at..at + 2);
    if there.is_none_or(|sum| udp && *sum == [0, 0]) {
        return;
    }
    let ports =
        |ends: (SocketAddr, SocketAddr)| [ends.0.port().to_be_bytes(), ends.1.port().to_be_bytes()].concat();
    let before = (quoted.from, quoted.to);
    let old = covered(before.0.ip(), before.1.ip(), &ports(before));
    let new = covered(ends.0.ip(), ends.1.ip(), &ports(ends));
    replace_sum(out, at, &old, &new);
    if udp && out[at..at + 2] == [0, 0] {
        out[at..at + 2].fill(0xff);
    }
}
