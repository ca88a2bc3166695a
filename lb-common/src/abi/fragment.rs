//! The ports of fragmented datagrams, so that later fragments follow the first (contract C40).
//!
//! Decides the key: what all fragments of a datagram share, and the hook, since the stack may
//! reassemble and fragment again between the two. Invariant: only a first fragment writes a row.

use bytemuck::{Pod, Zeroable};

use super::Hook;
use crate::address::{Address, Port, Protocol};

/// A fragmented datagram (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FragmentKey<A: Address> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Identification, host order.
    pub id: u32,
    /// The payload's protocol.
    pub protocol: Protocol,
    /// The hook.
    pub hook: Hook,
    /// Zero.
    pub pad: [u8; 2],
}

/// Its ports, from the first fragment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FragmentRow {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
}
