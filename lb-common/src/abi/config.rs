//! The one row by which the agent tells the datapath what holds for the whole node.
//!
//! Invariant: written before any program is attached; every field has a meaning when zero.

use bytemuck::{Pod, Zeroable};

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
}
