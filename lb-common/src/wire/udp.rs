//! The UDP header (RFC 768).
//!
//! Decides nothing; holds four fields. Invariant: a checksum of 0 means there is none (C42).

use bytemuck::{Pod, Zeroable};

use super::Be16;
use crate::address::Port;

/// A UDP header: 8 bytes, read as two words, not as four halves.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Header and payload, bytes.
    pub len: Be16,
    /// Over pseudo-header, header and payload; 0: none.
    pub checksum: Be16,
}

impl UdpHeader {
    /// Offset of the checksum, in bytes.
    pub const CHECKSUM: usize = 6;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bytes;

    #[test]
    fn a_real_header_reads_as_it_was_built() {
        let built =
            etherparse::UdpHeader { source_port: 53, destination_port: 5353, length: 20, checksum: 7 };
        let header = built.to_bytes()[..].read::<UdpHeader>(0).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get()), (53, 5353));
        assert_eq!((header.len.get(), header.checksum.get()), (20, 7));
    }
}
