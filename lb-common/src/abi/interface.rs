//! The interfaces the programs hang on.
//!
//! Invariant: a row is there before the interface's programs are attached.

use bytemuck::{Pod, Zeroable};

use crate::address::{V4, V6};

/// An interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct InterfaceRow {
    /// What it leads to.
    pub role: Role,
    /// Bytes in front of the network header: 14, or 0 on a device without Ethernet.
    pub l2_len: u32,
    /// Masquerade with this; all zero: masquerading over IPv6 is impossible here.
    pub masquerade_v6: V6,
    /// Masquerade with this; all zero: masquerading over IPv4 is impossible here.
    pub masquerade_v4: V4,
    /// [`InterfaceFlags`].
    pub flags: InterfaceFlags,
}

/// Bits of an interface.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct InterfaceFlags(pub u32);

impl InterfaceFlags {
    /// The XDP program hangs on it, so its driver takes packets that XDP sends.
    pub const XDP: u32 = 1;

    /// Are all of `bits` set?
    #[must_use]
    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// What an interface leads to.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Role(pub u32);

impl Role {
    /// The host's side of a pod's interface.
    pub const POD: Self = Self(1);
    /// A device that leads off the node: an uplink or a tunnel.
    pub const NET: Self = Self(2);
}
