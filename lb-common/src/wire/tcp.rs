//! The TCP header (RFC 9293 section 3.1).
//!
//! Decides when a data offset is impossible. Must not know connections. Invariant: options are
//! part of the header's length.

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32};
use crate::address::Port;

/// A TCP header without its options: 20 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct TcpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Sequence number.
    pub seq: Be32,
    /// Acknowledgment number.
    pub ack: Be32,
    /// Header length in words, in the high half.
    pub data_offset: u8,
    /// [`crate::flow_state::tcp_flag`] bits.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Over pseudo-header, header and payload.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

impl TcpHeader {
    /// Offset of the checksum, in bytes.
    pub const CHECKSUM: usize = 16;

    /// The header's length with options, in bytes; `None` where it is impossible.
    #[must_use]
    #[inline(always)]
    pub const fn header_len(&self) -> Option<usize> {
        let words = (self.data_offset >> 4) as usize;
        if words >= 5 { Some(words * 4) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow_state::tcp_flag;
    use crate::wire::Bytes;

    #[test]
    fn a_real_header_reads_as_it_was_built() {
        let mut built = etherparse::TcpHeader::new(40_000, 80, 7, 1_000);
        built.syn = true;
        let bytes = built.to_bytes();
        let header = bytes[..].read::<TcpHeader>(0).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get()), (40_000, 80));
        assert_eq!((header.seq.get(), header.flags), (7, tcp_flag::SYN));
        assert_eq!(header.header_len(), Some(20));
    }

    #[test]
    fn a_data_offset_inside_the_header_is_impossible() {
        assert_eq!(TcpHeader { data_offset: 0x4f, ..Zeroable::zeroed() }.header_len(), None);
    }
}
