//! ICMP errors, built by another library than the one under test.
//!
//! Decides how much of the offending packet they carry: its IP header and eight bytes. Invariant: checksums hold.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

/// An ICMP error from `from` to `to` about `about` (a frame): a packet too big for 1300 bytes.
///
/// # Panics
/// Where the ends are of two families, or `about` is too short to be a packet.
pub fn too_big(from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let macs = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let unreachable = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_300 };
            let kind = Icmpv4Type::DestinationUnreachable(unreachable);
            let builder = ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4(kind);
            builder.write(&mut frame, &about[14..14 + 28])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::PacketTooBig { mtu: 1_300 };
            let builder = ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6(kind);
            let fragment = about[14 + 6] == 44;
            builder.write(&mut frame, &about[14..14 + if fragment { 56 } else { 48 }])
        }
        _ => panic!("ends of two families"),
    }
    .unwrap_or_else(|error| panic!("{error}"));
    frame
}
