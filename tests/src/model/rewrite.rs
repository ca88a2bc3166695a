//! A packet with other ends.
//!
//! Decides which bytes of a packet change with its ends, and how its checksums follow. Must not know why. Invariant: a
//! checksum that was right is right afterwards (C42); one that was wrong stays as wrong as it was.

use std::net::{IpAddr, SocketAddr};

use super::packet::{Fragment, Packet};
use super::protocol;

/// The frame with other ends; `None` where its checksum cannot be known: SCTP's covers the whole datagram, of which a
/// first fragment shows only a part.
pub(super) fn with_ends(
    frame: &[u8],
    packet: &Packet,
    (from, to): (SocketAddr, SocketAddr),
) -> Option<Vec<u8>> {
    let mut out = frame.to_vec();
    addresses(&mut out, packet.l3, (from.ip(), to.ip()));
    if matches!(packet.fragment, Fragment::Later(_)) {
        return Some(out);
    }
    let (l4, end) = (packet.l4, packet.end);
    out[l4..l4 + 2].copy_from_slice(&from.port().to_be_bytes());
    out[l4 + 2..l4 + 4].copy_from_slice(&to.port().to_be_bytes());
    let old = covered(packet.src, packet.dst, &frame[l4..l4 + 4]);
    let new = covered(from.ip(), to.ip(), &out[l4..l4 + 4]);
    match packet.protocol {
        protocol::TCP => replace_sum(&mut out, l4 + 16, &old, &new),
        protocol::UDP if frame[l4 + 6..l4 + 8] != [0, 0] => {
            replace_sum(&mut out, l4 + 6, &old, &new);
            if out[l4 + 6..l4 + 8] == [0, 0] {
                out[l4 + 6..l4 + 8].fill(0xff);
            }
        }
        protocol::SCTP if frame[l4..l4 + 4] != out[l4..l4 + 4] && frame[l4 + 8..l4 + 12] != [0; 4] => {
            if packet.fragment != Fragment::Whole {
                return None;
            }
            let change = crc32c(&frame[l4..end]) ^ crc32c(&out[l4..end]);
            let sum = u32::from_le_bytes([frame[l4 + 8], frame[l4 + 9], frame[l4 + 10], frame[l4 + 11]]);
            out[l4 + 8..l4 + 12].copy_from_slice(&(sum ^ change).to_le_bytes());
        }
        _ => {}
    }
    Some(out)
}

/// Writes the addresses of the IP header at `l3`, and its checksum.
pub(super) fn addresses(out: &mut [u8], l3: usize, ends: (IpAddr, IpAddr)) {
    let (at, length) = if ends.0.is_ipv4() { (l3 + 12, 8) } else { (l3 + 8, 32) };
    let old = out[at..at + length].to_vec();
    let new = covered(ends.0, ends.1, &[]);
    out[at..at + length].copy_from_slice(&new);
    if ends.0.is_ipv4() {
        replace_sum(out, l3 + 10, &old, &new);
    }
}

/// What a checksum with a pseudo-header covers of a packet's ends.
pub(super) fn covered(src: IpAddr, dst: IpAddr, ports: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(ports);
    bytes
}

/// Replaces the checksum at `at`, which covered `old` and now covers `new` (RFC 1624 equation 3).
pub(super) fn replace_sum(out: &mut [u8], at: usize, old: &[u8], new: &[u8]) {
    let words = |bytes: &[u8]| -> Vec<u16> {
        bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])).collect()
    };
    let before = u16::from_be_bytes([out[at], out[at + 1]]);
    let taken = words(old).into_iter().map(|word| u32::from(!word)).sum::<u32>();
    let added = words(new).into_iter().map(u32::from).sum::<u32>();
    let mut sum = u32::from(!before) + taken + added;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let after = !u16::try_from(sum).unwrap_or(u16::MAX);
    out[at..at + 2].copy_from_slice(&after.to_be_bytes());
}

/// The checksum of SCTP (RFC 9260 appendix A), its own field taken for zero.
fn crc32c(body: &[u8]) -> u32 {
    let mut body = body.to_vec();
    body[8..12].fill(0);
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&body)
}
