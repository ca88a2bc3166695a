//! A VLAN tag (IEEE 802.1Q clause 9), behind the ethertype that announces it.
//!
//! Decides nothing; holds two fields. Invariant: four bytes.

use bytemuck::{Pod, Zeroable};

use super::{Be16, EtherType};

/// A VLAN tag: 4 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct VlanTag {
    /// Priority, drop eligibility and VLAN id.
    pub control: Be16,
    /// What follows.
    pub ethertype: EtherType,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Bytes;

    #[test]
    fn a_tag_reads_back_as_its_bytes() {
        let bytes = [0x20, 0x64, 0x08, 0x00];
        let tag = bytes[..].read::<VlanTag>(0).unwrap();
        assert_eq!(tag.control.get() & 0xfff, 100);
        assert_eq!(tag.ethertype, EtherType::IPV4);
        assert_eq!(bytemuck::bytes_of(&tag), bytes);
    }
}
