//! The SCTP common header (RFC 9260 section 3.1), and what the first chunk says of its association.
//!
//! Decides nothing; holds four fields. Invariant: the checksum is a CRC32c over the whole packet.

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32};
use crate::address::Port;
use crate::flow_state::tcp_flag;

/// An SCTP common header, and the beginning of the chunk that every packet has behind it: 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SctpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Verification tag.
    pub tag: Be32,
    /// CRC32c (RFC 9260 appendix A), the least significant byte first.
    pub checksum: [u8; 4],
    /// What the first chunk is.
    pub first_chunk: u8,
    /// Its flags.
    pub chunk_flags: u8,
    /// Its length in bytes.
    pub chunk_len: Be16,
}

impl SctpHeader {
    /// Offset of the checksum.
    pub const CHECKSUM: usize = 8;
}

/// Kinds of chunks (RFC 9260 section 3.2) that say how an association stands.
mod chunk {
    pub(super) const INIT: u8 = 1;
    pub(super) const INIT_ACK: u8 = 2;
    pub(super) const ABORT: u8 = 6;
    pub(super) const SHUTDOWN: u8 = 7;
    pub(super) const SHUTDOWN_ACK: u8 = 8;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// What a packet's first chunk says of its association, in the flags of TCP: an association opens, is answered, ends
/// and is torn down as a connection is, so that one table of states serves both.
#[must_use]
#[inline(always)]
pub(super) const fn signals(first_chunk: u8) -> u8 {
    match first_chunk {
        chunk::INIT => tcp_flag::SYN,
        chunk::INIT_ACK => tcp_flag::SYN | tcp_flag::ACK,
        chunk::ABORT => tcp_flag::RST | tcp_flag::ACK,
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK | chunk::SHUTDOWN_COMPLETE => tcp_flag::FIN | tcp_flag::ACK,
        _ => tcp_flag::ACK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bytes;

    #[test]
    fn the_ports_come_first() {
        let bytes = [0x0b, 0xb8, 0x00, 0x50, 0, 0, 0, 9, 1, 2, 3, 4, 14, 0, 0, 4];
        let header = bytes[..].read::<SctpHeader>(0).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get(), header.tag.get()), (3_000, 80, 9));
        assert_eq!(core::mem::offset_of!(SctpHeader, checksum), SctpHeader::CHECKSUM);
    }

    #[test]
    fn an_association_lives_as_a_connection_does() {
        use crate::flow_state::{SideState, opens};
        assert!(opens(signals(1)) && !opens(signals(2)) && !opens(signals(0)));
        assert_eq!(SideState::OPENING.after(signals(0)), SideState::OPEN, "data");
        assert_eq!(SideState::OPEN.after(signals(7)), SideState::FINISHED);
        assert_eq!(SideState::OPEN.after(signals(8)), SideState::FINISHED);
        assert_eq!(SideState::OPEN.after(signals(6)), SideState::RESET);
    }
}
