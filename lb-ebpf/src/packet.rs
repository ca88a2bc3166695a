//! What the datapath can do with a packet, whichever hook brought it.
//!
//! Decides the operations; [`crate::tc`] says how its hook does them. Must not know flows or
//! services. Invariant: a write that fails leaves the verdict to the caller, never a packet
//! half rewritten that goes on.

use bytemuck::Pod;
use lb_common::wire::Bytes;

/// A write that the kernel refused.
pub(crate) struct Refused;

/// A packet that can be read (by [`Bytes`]) and rewritten.
pub(crate) trait Packet: Bytes {
    /// Writes `value` at `offset`; what a checksum in the packet does not make up for is the caller's.
    fn store<T: Pod>(&self, offset: usize, value: &T) -> Result<(), Refused>;

    /// Updates the IPv4 header checksum at `offset` for a word that changed.
    fn update_ip_checksum(&self, offset: usize, old: u32, new: u32) -> Result<(), Refused>;

    /// Updates a transport checksum.
    fn update_checksum(&self, at: Checksum, change: Change) -> Result<(), Refused>;

    /// May checksums be left to the device here, so that only the kernel knows whether one is whole?
    fn may_be_the_kernels(&self) -> bool;

    /// Is it many packets, which the device or the stack will cut it into? Such a one's checksum is not its own.
    fn is_to_be_cut(&self) -> bool;

    /// Writes `value` at `offset`; where a driver has summed the packet's bytes, that sum follows.
    fn replace<T: Pod>(&self, offset: usize, value: &T) -> Result<(), Refused>;

    /// Cuts or stretches the packet to `len` bytes.
    fn resize(&self, len: usize) -> Result<(), Refused>;

    /// Notes on the packet, for the hooks behind this one, that nothing of it is left to translate on its way to a pod.
    fn vouch(&self);

    /// The interface it came in by, or is about to leave by.
    fn ifindex(&self) -> u32;
}

/// A transport checksum.
#[derive(Clone, Copy)]
pub(crate) struct Checksum {
    /// Where it is.
    pub offset: usize,
    /// A UDP checksum: 0 stays 0, and a computed 0 becomes 0xffff (C42).
    pub udp: bool,
    /// It covers the pseudo-header of IPv6, of which the IP header has no checksum of its own.
    pub ipv6: bool,
}

/// What changed under a checksum.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// A 32-bit word of the pseudo-header: a checksum left to the device covers this part too.
    PseudoHeader(u32, u32),
    /// A difference over the pseudo-header, as of `bpf_csum_diff`.
    PseudoHeaderDiff(i64),
    /// A 32-bit word behind the network header.
    Word(u32, u32),
    /// A difference over bytes behind the network header.
    Diff(i64),
}
