//! The networks of a family that the datapath tells apart by arithmetic.
//!
//! Decides how a network is matched: one AND and one comparison. Invariant: all zero matches nothing.

use bytemuck::{Pod, Zeroable};

use crate::address::Address;

/// The row of the pods of the cluster (C26, option `clusterCIDR`): ClusterIP traffic from elsewhere is masqueraded.
/// Without a network there, nothing is masqueraded for that reason.
pub const CLUSTER_NETWORK: u32 = 0;
/// The rows of the networks where Services get their addresses (ServiceCIDRs): what no Service holds there is
/// dropped (C34). Kubernetes has one a family; a second while it is being moved.
pub const SERVICE_NETWORKS: core::ops::Range<u32> = 1..5;

/// A network.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Prefix<A: Address> {
    /// Its address, no bit set outside of `mask`.
    pub addr: A,
    /// As many leading ones as the prefix is long.
    pub mask: A,
    /// 1 for a network, 0 for none.
    pub present: u32,
    /// Zero.
    pub pad: u32,
}

impl<A: Address> Prefix<A> {
    /// The network of `addr` with a prefix of `len` bits; bits behind the prefix are cleared.
    #[must_use]
    pub fn new(addr: A, len: u8) -> Self {
        let mask = A::mask(len);
        Self { addr: addr.and(mask), mask, present: 1, pad: 0 }
    }

    /// Is `addr` in it?
    #[must_use]
    #[inline(always)]
    pub fn contains(self, addr: A) -> bool {
        self.present != 0 && addr.and(self.mask) == { self.addr }
    }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use bytemuck::Zeroable as _;
    use proptest::prelude::*;

    use super::*;
    use crate::address::{V4, V6};

    proptest! {
        #[test]
        fn a_prefix_contains_what_its_leading_bits_say(net: u32, addr: u32, len in 0u8..=32, net6: u128, addr6: u128, len6 in 0u8..=128) {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            let prefix = Prefix::<V4>::new(Ipv4Addr::from_bits(net).into(), len);
            for addr in [addr, net ^ (addr & 0xff), net] {
                prop_assert_eq!(prefix.contains(Ipv4Addr::from_bits(addr).into()), addr & mask == net & mask);
            }
            let mask = u128::MAX.checked_shl(128 - u32::from(len6)).unwrap_or(0);
            let prefix = Prefix::<V6>::new(Ipv6Addr::from_bits(net6).into(), len6);
            for addr in [addr6, net6 ^ (addr6 & 0xffff), net6] {
                prop_assert_eq!(prefix.contains(Ipv6Addr::from_bits(addr).into()), addr & mask == net6 & mask);
            }
        }
    }

    #[test]
    fn no_network_contains_nothing_and_the_whole_network_everything() {
        let any: V4 = Ipv4Addr::new(0, 0, 0, 0).into();
        assert!(!Prefix::<V4>::zeroed().contains(any));
        assert!(Prefix::new(any, 0).contains(Ipv4Addr::BROADCAST.into()));
    }
}
