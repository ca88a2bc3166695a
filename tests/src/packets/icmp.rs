//! ICMP errors, built by another library than the one under test.
//!
//! Decides how much of the offending packet they carry where the caller does not. Invariant: checksums hold, but for
//! the quoted packet's, which are what they were.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};

/// An ICMP error from `from` to `to` about `about` (a frame): a packet too big for 1300 bytes. It quotes the IP header and
/// eight bytes.
///
/// # Panics
/// As [`too_big_quoting`].
pub fn too_big(from: IpAddr, to: IpAddr, about: &[u8]) -> Vec<u8> {
    let header = match to {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) if about[14 + 6] == 44 => 48,
        IpAddr::V6(_) => 40,
    };
    too_big_quoting(from, to, about, header + 8)
}

/// The same error, which quotes `bytes` of the packet.
///
/// # Panics
/// Where the ends are of two families, or `about` is too short to be a packet.
pub fn too_big_quoting(from: IpAddr, to: IpAddr, about: &[u8], bytes: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let macs = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let unreachable = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1_300 };
            let kind = Icmpv4Type::DestinationUnreachable(unreachable);
            let builder = ethernet.ipv4(from.octets(), to.octets(), 64).icmpv4(kind);
            builder.write(&mut frame, &about[14..14 + bytes])
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let kind = Icmpv6Type::PacketTooBig { mtu: 1_300 };
            let builder = ethernet.ipv6(from.octets(), to.octets(), 64).icmpv6(kind);
            builder.write(&mut frame, &about[14..14 + bytes])
        }
        _ => panic!("ends of two families"),
    }
    .unwrap_or_else(|error| panic!("{error}"));
    frame
}
