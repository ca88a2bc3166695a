//! The ICMP header of both families (RFC 792, RFC 4443), and the types that matter here.
//!
//! Decides which types are errors about another packet. Must not know flows. Invariant: an error
//! quotes the packet it is about right behind these eight bytes.

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32};

/// The first eight bytes of an ICMP message.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct IcmpHeader {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Over the message, and for ICMPv6 the pseudo-header.
    pub checksum: Be16,
    /// Depends on the type: an identifier, an MTU, a gateway, unused.
    pub rest: Be32,
}

impl IcmpHeader {
    /// Offset of the checksum, in bytes.
    pub const CHECKSUM: usize = 2;
}

/// Types and codes of RFC 792.
pub mod icmp_v4 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Its code for a port.
    pub const PORT_UNREACHABLE: u8 = 3;
    /// Source quench (deprecated).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;

    /// Does a message of this type quote another packet?
    #[must_use]
    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

/// Types and codes of RFC 4443 and RFC 4861.
pub mod icmp_v6 {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Its code for a port.
    pub const PORT_UNREACHABLE: u8 = 4;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Redirect (RFC 4861 section 4.5); quotes a packet only in an option.
    pub const REDIRECT: u8 = 137;

    /// Does a message of this type quote another packet right behind its header?
    #[must_use]
    #[inline(always)]
    pub const fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | PACKET_TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bytes;

    #[test]
    fn fragmentation_needed_carries_its_mtu() {
        let bytes = [3, 4, 0, 0, 0, 0, 0x05, 0x14];
        let header = bytes[..].read::<IcmpHeader>(0).unwrap();
        assert_eq!((header.kind, header.code, header.rest.get() & 0xffff), (3, 4, 1300));
    }

    #[test]
    fn echo_and_neighbour_discovery_are_no_errors() {
        assert!(!icmp_v4::is_error(0) && !icmp_v4::is_error(8));
        assert!(!(128..=137).any(icmp_v6::is_error));
    }
}
