//! Headers as they lie in a packet: one file each, a checked view of bytes apart from its meaning.
//!
//! Decides where fields are and what makes a header unusable. Must not know flows, services or
//! hooks. Invariant: no input makes a reader panic or read outside the packet (property tests
//! on the host, the verifier in the kernel: both run this code).

mod eth;
mod glance;
mod icmp;
mod ipv4;
mod ipv6;
mod sctp;
mod segment;
mod tcp;
mod udp;
mod vlan;

pub use eth::{EtherType, Ethernet, Link};
pub use glance::{Glance, Glimpsed};
pub use icmp::{IcmpHeader, icmp_v4, icmp_v6};
pub use ipv4::Ipv4Header;
pub use ipv6::{Ipv6Header, behind_fragment_header};
pub use sctp::SctpHeader;
pub use segment::{Depth, Fragment, Network, NotOurs, Segment};
pub use tcp::TcpHeader;
pub use udp::UdpHeader;
pub use vlan::VlanTag;

use bytemuck::Pod;

/// Something that bytes can be read from: a slice on the host, a packet in the kernel.
pub trait Bytes {
    /// The `T` at `offset`; `None` where the packet ends before it does.
    fn read<T: Pod>(&self, offset: usize) -> Option<T>;

    /// The `T` at `offset`, if it is at hand; where not, `read` may still find it.
    #[inline(always)]
    fn peek<T: Pod>(&self, offset: usize) -> Option<T> {
        self.read(offset)
    }

    /// Bytes in all.
    fn len(&self) -> usize;

    /// No bytes at all?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bytes for [u8] {
    fn read<T: Pod>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        self.get(offset..end).map(bytemuck::pod_read_unaligned)
    }

    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

/// A big-endian 16-bit field.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Be16(pub u16);

impl Be16 {
    /// From host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// In host order.
    #[must_use]
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

/// A big-endian 32-bit field.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Be32(pub u32);

impl Be32 {
    /// From host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(host_order: u32) -> Self {
        Self(host_order.to_be())
    }

    /// In host order.
    #[must_use]
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }
}
