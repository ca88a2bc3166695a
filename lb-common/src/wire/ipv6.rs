//! The IPv6 header and its extension headers (RFC 8200 sections 3 and 4).
//!
//! Decides which extension headers are stepped over, and how many at most. Must not know what
//! the payload is. Invariant: the walk is bounded, by [`MAX_EXTENSIONS`].

use bytemuck::{Pod, Zeroable};

use super::{Be16, Be32, Bytes};
use crate::address::{Protocol, V6};

/// An IPv6 header: 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv6Header {
    /// Version, traffic class, flow label.
    pub version_class_flow: Be32,
    /// Bytes behind this header; 0: see a jumbo option.
    pub payload_len: Be16,
    /// What follows.
    pub next: Protocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: V6,
    /// Destination.
    pub dst: V6,
}

impl Ipv6Header {
    /// Offset of the source address.
    pub const SRC: usize = 8;
    /// Offset of the hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Offset of the destination address.
    pub const DST: usize = 24;

    /// Is the version 6?
    #[must_use]
    #[inline(always)]
    pub const fn version_is_6(&self) -> bool {
        self.version_class_flow.get() >> 28 == 6
    }
}

/// What is found at `at`, which `next` announces, and where: behind a fragment header if that is the next one.
/// `None` where the packet is too short, or a later fragment, which has no transport header.
#[inline(always)]
pub fn behind_fragment_header<B: Bytes + ?Sized>(
    packet: &B,
    next: Protocol,
    at: usize,
) -> Option<(Protocol, usize)> {
    if Extension::of(next) != Some(Extension::Fragment) {
        return Some((next, at));
    }
    let header = packet.read::<ExtensionHeader>(at)?;
    (header.fragment_offset() == 0).then(|| (header.next, at + Extension::Fragment.len(header)))
}

/// Extension headers that are stepped over at most; a packet with more is nobody's.
pub(super) const MAX_EXTENSIONS: usize = 6;

/// The first bytes of an extension header.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(super) struct ExtensionHeader {
    /// What follows.
    pub(super) next: Protocol,
    /// Length in units of 8 bytes, the first 8 not counted (an AH's: of 4 bytes, the first 8 not counted).
    pub(super) len: u8,
    /// A fragment header's offset and flags.
    pub(super) fragment: Be16,
    /// A fragment header's identification.
    pub(super) id: Be32,
}

/// What kind of header a "next header" number announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    /// Hop-by-hop, routing, destination options, mobility: `(len + 1) * 8` bytes.
    Plain,
    /// Authentication (RFC 4302): `(len + 2) * 4` bytes.
    Authentication,
    /// Fragment: 8 bytes.
    Fragment,
}

impl Extension {
    /// The extension header of that number, or `None` for a payload.
    #[must_use]
    #[inline(always)]
    pub(super) const fn of(next: Protocol) -> Option<Self> {
        match next.0 {
            0 | 43 | 60 | 135 => Some(Self::Plain),
            51 => Some(Self::Authentication),
            44 => Some(Self::Fragment),
            _ => None,
        }
    }

    /// Its length in bytes.
    #[must_use]
    #[inline(always)]
    pub(super) const fn len(self, header: ExtensionHeader) -> usize {
        match self {
            Self::Plain => (header.len as usize + 1) * 8,
            Self::Authentication => (header.len as usize + 2) * 4,
            Self::Fragment => 8,
        }
    }
}

impl ExtensionHeader {
    /// A fragment header's offset, in units of 8 bytes.
    #[must_use]
    #[inline(always)]
    pub(super) const fn fragment_offset(self) -> u16 {
        self.fragment.get() >> 3
    }

    /// Do more fragments follow?
    #[must_use]
    #[inline(always)]
    pub(super) const fn more_fragments(self) -> bool {
        self.fragment.get() & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bytes;

    #[test]
    fn a_real_header_reads_as_it_was_built() {
        let built = etherparse::Ipv6Header {
            payload_length: 8,
            next_header: etherparse::IpNumber::UDP,
            hop_limit: 63,
            source: [1; 16],
            destination: [2; 16],
            ..Default::default()
        };
        let bytes = built.to_bytes();
        let header = bytes[..].read::<Ipv6Header>(0).unwrap();
        assert!(header.version_is_6());
        assert_eq!((header.payload_len.get(), header.next, header.hop_limit), (8, Protocol::UDP, 63));
        assert_eq!(bytemuck::bytes_of(&header.dst), [2; 16]);
    }

    #[test]
    fn extension_lengths_follow_their_rfcs() {
        let header = ExtensionHeader { len: 2, ..Zeroable::zeroed() };
        assert_eq!(Extension::Plain.len(header), 24);
        assert_eq!(Extension::Authentication.len(header), 16);
        assert_eq!(Extension::Fragment.len(header), 8);
        assert_eq!(Extension::of(Protocol::TCP), None);
    }
}
