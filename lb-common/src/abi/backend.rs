//! The backends: an array from id to the address that serves.
//!
//! Decides that one id belongs to one (service port, family, address, port) until nothing can
//! refer to it any more. Invariant: while an id is referred to, only its flags change.

use bytemuck::{Pod, Zeroable};

use crate::address::{Address, Port};

/// A backend. One without address and owner: a free id.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BackendRow<A: Address> {
    /// Where it listens.
    pub addr: A,
    /// Where it listens.
    pub port: Port,
    /// [`BackendFlags`].
    pub flags: BackendFlags,
    /// Goes up by one each time the id gets a new owner; starts at 1.
    pub generation: u32,
    /// The owner.
    pub service_port: u32,
    /// Zero.
    pub pad: u32,
}

/// Bits of a backend.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BackendFlags(pub u16);

impl BackendFlags {
    /// It serves: ready, or terminating and still serving. Without it, UDP flows leave it at once (C36).
    pub const SERVING: u16 = 1;
    /// In its service port's cluster set (C11).
    pub const IN_CLUSTER_SET: u16 = 1 << 1;
    /// In its service port's local set (C12).
    pub const IN_LOCAL_SET: u16 = 1 << 2;
    /// It runs on this node.
    pub const LOCAL: u16 = 1 << 3;
    /// Nothing lists it any more: not that it does not serve for now, but that it is no more (C37).
    pub const VANISHED: u16 = 1 << 4;

    /// Are all of `bits` set?
    #[must_use]
    #[inline(always)]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}
