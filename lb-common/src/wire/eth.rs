//! The Ethernet II header (IEEE 802.3 clause 3), and what it leads to.
//!
//! Decides which ethertypes are looked at and that one VLAN tag is stepped over (C41).
//! Invariant: [`Link`]'s offset is that of the first byte of the network header.

use bytemuck::{Pod, Zeroable};

use super::{Be16, Bytes, VlanTag};

/// An Ethernet header: 14 bytes. Addresses as three words each, so that they are copied as such.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Ethernet {
    /// Destination address.
    pub dst: [u16; 3],
    /// Source address.
    pub src: [u16; 3],
    /// What follows.
    pub ethertype: EtherType,
}

/// An ethertype (IANA "IEEE 802 Numbers").
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EtherType(pub Be16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(Be16::new(0x0800));
    /// IPv6.
    pub const IPV6: Self = Self(Be16::new(0x86dd));
    /// A customer VLAN tag, IEEE 802.1Q.
    pub const VLAN: Self = Self(Be16::new(0x8100));
    /// A service VLAN tag, IEEE 802.1ad.
    pub const SERVICE_VLAN: Self = Self(Be16::new(0x88a8));
}

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// IPv4 at this offset.
    V4(usize),
    /// IPv6 at this offset.
    V6(usize),
    /// Something else, or a frame cut short.
    Other,
}

impl Link {
    /// Reads the version of a packet that begins with its network header, as those of a device without Ethernet do.
    #[inline(always)]
    pub fn of_bare<B: Bytes + ?Sized>(packet: &B) -> Self {
        // Two bytes: the verifier draws no bound from a comparison of the packet's very first byte with its end.
        match packet.read::<Be16>(0).map(|word| word.get() >> 12) {
            Some(4) => Self::V4(0),
            Some(6) => Self::V6(0),
            _ => Self::Other,
        }
    }

    /// Reads the link layer of a frame that begins with an Ethernet header.
    #[inline(always)]
    pub fn of_ethernet<B: Bytes + ?Sized>(frame: &B) -> Self {
        let Some(header) = frame.read::<Ethernet>(0) else { return Self::Other };
        let l3 = size_of::<Ethernet>();
        match header.ethertype {
            EtherType::IPV4 => Self::V4(l3),
            EtherType::IPV6 => Self::V6(l3),
            EtherType::VLAN | EtherType::SERVICE_VLAN => {
                let Some(tag) = frame.read::<VlanTag>(l3) else { return Self::Other };
                let l3 = l3 + size_of::<VlanTag>();
                match tag.ethertype {
                    EtherType::IPV4 => Self::V4(l3),
                    EtherType::IPV6 => Self::V6(l3),
                    _ => Self::Other,
                }
            }
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(words: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        frame.extend_from_slice(words);
        frame
    }

    #[test]
    fn c41_one_vlan_tag_is_stepped_over_and_two_are_not() {
        assert_eq!(Link::of_ethernet(&frame(&[0x08, 0x00])[..]), Link::V4(14));
        assert_eq!(Link::of_ethernet(&frame(&[0x86, 0xdd])[..]), Link::V6(14));
        assert_eq!(Link::of_ethernet(&frame(&[0x81, 0x00, 0, 5, 0x08, 0x00])[..]), Link::V4(18));
        assert_eq!(Link::of_ethernet(&frame(&[0x88, 0xa8, 0, 5, 0x86, 0xdd])[..]), Link::V6(18));
        assert_eq!(Link::of_ethernet(&frame(&[0x81, 0x00, 0, 5, 0x81, 0x00])[..]), Link::Other);
    }

    #[test]
    fn a_bare_packet_says_its_version() {
        assert_eq!(Link::of_bare(&[0x45u8, 0][..]), Link::V4(0));
        assert_eq!(Link::of_bare(&[0x60u8, 0][..]), Link::V6(0));
        assert_eq!(Link::of_bare(&[0x50u8, 0][..]), Link::Other);
        assert_eq!(Link::of_bare(&[0u8; 0][..]), Link::Other);
    }

    #[test]
    fn arp_and_cut_frames_are_other() {
        assert_eq!(Link::of_ethernet(&frame(&[0x08, 0x06])[..]), Link::Other);
        assert_eq!(Link::of_ethernet(&[0u8; 13][..]), Link::Other);
        assert_eq!(Link::of_ethernet(&frame(&[0x81, 0x00, 0, 5, 0x08])[..]), Link::Other);
    }
}
