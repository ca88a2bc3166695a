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
    /// The next hop.
    pub dst_mac: [u16; 3],
    /// The interface's own.
    pub src_mac: [u16; 3],
}
