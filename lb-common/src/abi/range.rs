//! Who may use a guarded frontend: `loadBalancerSourceRanges` (contract C35).
//!
//! Decides the key of the longest-prefix table. Invariant: a row is there before a frontend says
//! that it is guarded, and goes after no frontend says so any more.

use bytemuck::{Pod, Zeroable};

use crate::address::Address;

/// A source range of a service port, as the kernel's LPM trie has keys: the length of the prefix first, counted
/// from the first bit behind it.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct RangeKey<A: Address> {
    /// 32 (all of `service_port`) and the range's own length, in bits.
    pub prefix_len: u32,
    /// What the prefix is of.
    pub range: Range<A>,
}

/// What a prefix is of: an address at a service port.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Range<A: Address> {
    /// Whose range it is.
    pub service_port: u32,
    /// The range's address; a client's address in a lookup.
    pub addr: A,
}

impl<A: Address> RangeKey<A> {
    /// The range `addr`/`len` of a service port.
    #[must_use]
    pub fn new(service_port: u32, addr: A, len: u8) -> Self {
        let range = Range { service_port, addr: addr.and(A::mask(len)) };
        Self { prefix_len: 32 + u32::from(len), range }
    }

    /// What to look for: is `client` in any range of the service port?
    #[must_use]
    #[inline(always)]
    pub fn of_client(service_port: u32, client: A) -> Self {
        Self { prefix_len: 32 + 8 * A::BYTES, range: Range { service_port, addr: client } }
    }
}
