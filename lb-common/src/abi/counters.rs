//! What a service port and a backend have carried.
//!
//! Decides what is counted where: connections when a backend is chosen, packets and bytes at ingress on the way to the
//! backend and at egress (in XDP: at once) on the way back. Tables are per CPU and indexed by id; an id beyond a
//! table's size is not counted. Must not know names. Invariant: numbers only grow while an id has its owner; who owns
//! it next begins where it left off, so a reader takes differences.

use bytemuck::{Pod, Zeroable};

/// Of a service port, on one CPU, since the map was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceCounters {
    /// Flows that were given a backend; of sockets, connects and first datagrams.
    pub connections: u64,
    /// Packets to backends.
    pub packets: u64,
    /// Their length in bytes, with link headers.
    pub bytes: u64,
    /// Packets from backends.
    pub reply_packets: u64,
    /// Their length in bytes, with link headers.
    pub reply_bytes: u64,
}

/// Of a backend, on one CPU, since the map was made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct BackendCounters {
    /// Flows that were given it.
    pub connections: u64,
}
