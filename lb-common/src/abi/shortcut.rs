//! What a settled flow's row remembers for packets that need not pass the stack.
//!
//! Decides what a packet becomes in one go, both ends, and where it leaves. Invariant: it is a cache of other rows and
//! of the kernel's routes; whoever finds it old, or of another generation of routes, makes it anew or does without.

use bytemuck::{Pod, Zeroable};

use super::FlowRow;
use crate::address::{Address, Port};

/// A row of the settled table: the flow's, and its shortcut.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowEntry<A: Address> {
    /// The flow's row.
    pub row: FlowRow<A>,
    /// All zero where there is none.
    pub shortcut: Shortcut<A>,
}

/// The other end of the rewrite, and the way out.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Shortcut<A: Address> {
    /// [`super::Config`]'s `route_generation` when it was made. Written last.
    pub route_generation: u32,
    /// When it was made, in ticks.
    pub made: u32,
    /// What the source becomes at egress.
    pub addr: A,
    /// What the source port becomes.
    pub port: Port,
    /// What the destination port becomes.
    pub other_port: Port,
    /// The longest network packet that the way takes, in bytes.
    pub mtu: u32,
    /// The interface it leaves by; 0: there is no shortcut.
    pub ifindex: u32,
    /// How its packets' link headers begin.
    pub macs: Macs,
}

/// The link header's two addresses as they stand at its beginning: the next hop's, then the interface's own. In words, so
/// that they are copied as such.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Macs([u32; 3]);

impl Macs {
    /// From both addresses.
    #[must_use]
    #[inline(always)]
    pub fn new(dst: [u16; 3], src: [u16; 3]) -> Self {
        bytemuck::cast([dst, src])
    }

    /// Its words, in memory order.
    #[must_use]
    #[inline(always)]
    pub const fn words(self) -> [u32; 3] {
        self.0
    }
}
