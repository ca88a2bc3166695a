//! The one row by which the agent tells the datapath what holds for the whole node.
//!
//! Invariant: written before any program is attached; every field has a meaning when zero.

use bytemuck::{Pod, Zeroable};

use crate::address::{V4, V6};

/// What holds for the whole node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// [`super::ABI_VERSION`] of the agent that wrote this; 0: never written.
    pub abi_version: u32,
    /// Ticks of the kernel's clock in a second (its HZ); times in rows are counted in these.
    pub ticks_per_second: u32,
    /// First port for masqueraded flows, host order; 0: none may be used.
    pub masquerade_port_first: u16,
    /// Last port for masqueraded flows, host order, itself included.
    pub masquerade_port_last: u16,
    /// Seconds after which a half-open flow gives way to another that wants its tuple.
    pub opening_timeout: u32,
    /// [`ConfigFlags`].
    pub flags: ConfigFlags,
    /// The node's address: the client address of its own connections (C30), and where loopback's NodePorts are
    /// (C17). All zero: it has none.
    pub node_v4: V4,
    /// The agent's own network namespace (`SO_NETNS_COOKIE`); 0: unknown, no socket is the node's.
    pub netns_cookie: u64,
    /// As `node_v4`.
    pub node_v6: V6,
    /// Goes up by one whenever a link, an address, a route or a neighbour changes: shortcuts of before are void.
    pub route_generation: u32,
    /// Zero.
    pub pad: u32,
}

/// Bits of the node's configuration.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ConfigFlags(pub u32);

impl ConfigFlags {
    /// Masquerade traffic from outside also to backends of this node (C25, option `masquerade: always`).
    pub const MASQUERADE_ALWAYS: u32 = 1;
    /// The node's own processes, by TCP and UDP, are served by socket hooks, so a packet that leaves the node and is still addressed
    /// to a frontend was refused there.
    pub const SOCKETS: u32 = 1 << 1;
    /// So are the processes of other network namespaces, the pods', by TCP.
    pub const POD_SOCKETS: u32 = 1 << 2;
    /// Programs are being attached where netfilter translates: a segment of no known connection may be of one that it
    /// opened a moment ago, and is left to it.
    pub const TAKING_OVER: u32 = 1 << 3;
    /// A TCP segment to a backend that has vanished is answered with a reset (C37, option `resetOnBackendDelete`).
    pub const RESET_VANISHED: u32 = 1 << 4;

    /// Are all of `bits` set?
    #[must_use]
    #[inline(always)]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}
