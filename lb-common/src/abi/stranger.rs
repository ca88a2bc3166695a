//! Who is a stranger: an address and port that no frontend, backend or flow row has, nor any other with the same hash.
//!
//! Decides the hash. Must not know who keeps the table or reads it. Invariant: a bit that is set says that nobody of
//! that hash concerns us; one that is not says nothing. So a table of zeros is a table that nobody relies on.
//!
//! Most packets on a node are no Service's. The table spares them every lookup: at ingress, where nothing is known of
//! the destination, and at egress, where nothing is known of either end, there is no row to find.

use crate::address::{Address, Port};

/// An address and port, as the table of strangers sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The row of the table.
    pub index: u32,
    /// The bit in it.
    pub bit: u32,
}

impl Stranger {
    /// Rows of the table: 2^20 bits, 128 KiB, of which 10,000 Services with 10 endpoints each clear an eighth.
    pub const ROWS: u32 = 1 << 15;

    /// The place of an address and port. Protocols share it.
    #[must_use]
    #[inline(always)]
    pub fn of<A: Address>(addr: A, port: Port) -> Self {
        let word = (u64::from(addr.fold()) << 16) | u64::from(port.bits());
        // The last bytes of an address are the ones that differ; they stand highest, where a product hardly spreads them.
        let word = word ^ (word >> 32);
        let hash = (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
        Self { index: hash >> 17, bit: 1 << ((hash >> 12) & 31) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::address::{V4, V6};

    #[test]
    fn places_are_inside_the_table_and_rarely_shared() {
        let v4 = |n: u32| V4::from(core::net::Ipv4Addr::from_bits(0x0a60_0000 + n));
        let v6 = |n: u32| V6::from(core::net::Ipv6Addr::from_bits((0xfd00_u128 << 112) + u128::from(n)));
        let port = |n: u32| Port::new([80, 443, 8080, 53][(n % 4) as usize]);
        let all = (0..50_000).flat_map(|n| [Stranger::of(v4(n), port(n)), Stranger::of(v6(n), port(n))]);
        let places: HashSet<(u32, u32)> = all
            .inspect(|place| assert!(place.index < Stranger::ROWS && place.bit.count_ones() == 1))
            .map(|place| (place.index, place.bit))
            .collect();
        assert!(places.len() > 90_000, "100,000 ends have only {} places", places.len());
    }
}
