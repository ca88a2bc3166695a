//! The affinity table: which backend a client last had at a service port (contract C30).
//!
//! Decides its key, the client and the service port, without the client's port and without the
//! frontend. Invariant: the time is the datapath's ticks, never the wall clock.

use bytemuck::{Pod, Zeroable};

use super::BackendId;
use crate::address::Address;

/// A client of a service port.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct AffinityKey<A: Address> {
    /// The client's address before any translation.
    pub client: A,
    /// The service port's id.
    pub service_port: u32,
    /// Zero.
    pub pad: u32,
}

/// The backend it had.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AffinityRow {
    /// The backend's id.
    pub backend: BackendId,
    /// The backend's generation when it was chosen; another one means the id has a new owner.
    pub generation: u32,
    /// Ticks, low 32 bits, when a connection last used it.
    pub last_used: u32,
}
