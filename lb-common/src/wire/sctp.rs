//! The SCTP common header (RFC 9260 section 3.1).
//!
//! Decides nothing; holds four fields. Invariant: the checksum is a CRC32c over the whole packet.

use bytemuck::{Pod, Zeroable};

use super::Be32;
use crate::address::Port;

/// An SCTP common header: 12 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SctpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Verification tag.
    pub tag: Be32,
    /// CRC32c (RFC 9260 appendix A).
    pub checksum: Be32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bytes;

    #[test]
    fn the_ports_come_first() {
        let bytes = [0x0b, 0xb8, 0x00, 0x50, 0, 0, 0, 9, 1, 2, 3, 4];
        let header = bytes[..].read::<SctpHeader>(0).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get(), header.tag.get()), (3_000, 80, 9));
    }
}
