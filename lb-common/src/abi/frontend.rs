//! The frontends: what a client dials, and what becomes of it.
//!
//! Decides that all a new connection needs to know is in one row. Invariant: a row in the map
//! implies that its slots and their backends are there.
//!
//! A key without port and protocol ([`FrontendKey::whole`]) stands for an address as a whole: what is
//! addressed to a port of it that no frontend has is refused (contract C34).

use bytemuck::{Pod, Zeroable};

use super::mix;
use crate::address::{Address, Port, Protocol};

/// An address, port and protocol that a client dials.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FrontendKey<A: Address> {
    /// The address.
    pub addr: A,
    /// The port.
    pub port: Port,
    /// The protocol.
    pub protocol: Protocol,
    /// Zero.
    pub pad: [u8; 5],
}

impl<A: Address> FrontendKey<A> {
    /// The key of a frontend.
    #[must_use]
    #[inline(always)]
    pub const fn new(addr: A, port: Port, protocol: Protocol) -> Self {
        Self { addr, port, protocol, pad: [0; 5] }
    }

    /// The key of an address as a whole.
    #[must_use]
    #[inline(always)]
    pub const fn whole(addr: A) -> Self {
        Self::new(addr, Port::NONE, Protocol(0))
    }

    /// What [`FrontendRow::tag`] must be for this key.
    #[must_use]
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        let ends = ((self.port.bits() as u32) << 8) | self.protocol.0 as u32;
        mix(mix(0, self.addr.fold()), ends)
    }
}

/// What becomes of a connection to a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FrontendRow {
    /// [`FrontendKey::tag`]. The kernel hands a replaced element to another key without waiting for
    /// readers: whoever copied the row checks the tag afterwards.
    pub tag: u32,
    /// The owner.
    pub service_port: u32,
    /// [`FrontendFlags`].
    pub flags: FrontendFlags,
    /// Seconds that a client stays with its backend after its last new connection; 0: no affinity.
    pub affinity_seconds: u32,
    /// For pods of this node and the node itself.
    pub inside: SlotRange,
    /// For everyone else.
    pub outside: SlotRange,
}

/// A backend set: consecutive slots. Empty: nobody serves.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct SlotRange {
    /// The first slot.
    pub start: u32,
    /// How many.
    pub len: u32,
}

/// Bits of a frontend.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FrontendFlags(pub u32);

impl FrontendFlags {
    /// Where the inside set is empty: drop (C33) instead of reject (C32).
    pub const INSIDE_DROP: u32 = 1;
    /// Where the outside set is empty: drop instead of reject.
    pub const OUTSIDE_DROP: u32 = 1 << 1;
    /// A NodePort, load balancer IP or external IP: chosen by consistent hash (C29), and a segment without a
    /// flow is balanced instead of reset.
    pub const EXTERNAL: u32 = 1 << 2;
    /// The inside set is the service port's local set (C12), not its cluster set (C11).
    pub const INSIDE_LOCAL: u32 = 1 << 3;
    /// The outside set is the service port's local set; clients of an external frontend then keep their source
    /// address (C24).
    pub const OUTSIDE_LOCAL: u32 = 1 << 4;
    /// Only clients in the service port's source ranges may use it (C35, [`super::RangeKey`]).
    pub const GUARDED: u32 = 1 << 5;
    /// A NodePort: the node's own processes reach it by loopback's addresses too (C17).
    pub const NODE_PORT: u32 = 1 << 6;

    /// Are all of `bits` set?
    #[must_use]
    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}
