//! The IPv4 header (RFC 791 section 3.1).
//!
//! Decides which headers are unusable: wrong version, a length that contradicts itself. Must not
//! know what the payload is. Invariant: options are part of the header's length (C41).

use bytemuck::{Pod, Zeroable};

use super::Be16;
use crate::address::{Protocol, V4};

/// An IPv4 header without its options: 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv4Header {
    /// Version in the high half, header length in words in the low.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload, bytes.
    pub total_len: Be16,
    /// Of the datagram, for its fragments.
    pub id: Be16,
    /// Flags (3 bits) and offset in units of 8 bytes.
    pub fragment: Be16,
    /// Time to live.
    pub ttl: u8,
    /// Of the payload.
    pub protocol: Protocol,
    /// Over the header alone.
    pub checksum: Be16,
    /// Source.
    pub src: V4,
    /// Destination.
    pub dst: V4,
}

impl Ipv4Header {
    /// Offset of the checksum, in bytes.
    pub const CHECKSUM: usize = 10;
    /// `version_ihl` of a header without options.
    pub const WITHOUT_OPTIONS: u8 = 0x45;
    /// Offset of the time to live.
    pub const TTL: usize = 8;
    /// Offset of the source address.
    pub const SRC: usize = 12;
    /// Offset of the destination address.
    pub const DST: usize = 16;
    /// "More fragments" in `fragment`.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// "Don't fragment" in `fragment`.
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// The offset in `fragment`.
    pub const FRAGMENT_OFFSET: u16 = 0x1fff;

    /// The header's length with options, in bytes; `None` where version or length is impossible.
    #[must_use]
    #[inline(always)]
    pub fn header_len(&self) -> Option<usize> {
        let words = (self.version_ihl & 0x0f) as usize;
        (self.version_ihl >> 4 == 4 && words >= 5).then_some(words * 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bytes;

    #[test]
    fn a_real_header_reads_as_it_was_built() {
        let mut bytes = Vec::new();
        let built =
            etherparse::Ipv4Header::new(20, 64, etherparse::IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2])
                .unwrap();
        built.write(&mut bytes).unwrap();
        let header = bytes[..].read::<Ipv4Header>(0).unwrap();
        assert_eq!(header.header_len(), Some(20));
        assert_eq!(header.total_len.get(), 40);
        assert_eq!(header.protocol, Protocol::TCP);
        assert_eq!(header.dst.to_string(), "10.0.0.2");
        assert_eq!(header.checksum.get(), built.calc_header_checksum());
    }

    #[test]
    fn impossible_versions_and_lengths_have_no_header_length() {
        for version_ihl in [0x44, 0x40, 0x65, 0x05] {
            assert_eq!(Ipv4Header { version_ihl, ..Zeroable::zeroed() }.header_len(), None);
        }
        assert_eq!(Ipv4Header { version_ihl: 0x4f, ..Zeroable::zeroed() }.header_len(), Some(60));
    }
}
