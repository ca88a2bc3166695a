//! The flow table: one row for each hook and direction that a translated packet passes.
//!
//! Decides the tuple, how it is turned round, and what a row rewrites. Invariant: the rows of a
//! flow name each other by what they rewrite (see [`FlowKey::partner`]), so no row stores
//! another's tuple.
//!
//! A plain flow, client C:p to frontend V:v served by backend B:b, has two rows:
//!
//! ```text
//! 1  ingress  C:p -> V:v    destination := B:b   (source port := p', where p is taken)
//! 4  egress   B:b -> C:p'   source := V:v        (destination port := p)
//! ```
//!
//! a masqueraded one, whose source becomes the node's N:m, four:
//!
//! ```text
//! 1  ingress  C:p -> V:v    destination := B:b
//! 2  egress   C:p' -> B:b   source := N:m
//! 3  ingress  B:b -> N:m    destination := C:p'
//! 4  egress   B:b -> C:p'   source := V:v
//! ```

use bytemuck::{Pod, Zeroable};

use super::{BackendId, avalanche};
use crate::address::{Address, Port, Protocol};
use crate::flow_state::SideState;

/// Which hook a row belongs to.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Hook(pub u8);

impl Hook {
    /// Rows that translate destinations.
    pub const INGRESS: Self = Self(0);
    /// Rows that translate sources.
    pub const EGRESS: Self = Self(1);

    /// The other one.
    #[must_use]
    #[inline(always)]
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// A flow as one hook sees it in one direction.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKey<A: Address> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The hook.
    pub hook: Hook,
    /// Zero.
    pub pad: [u8; 2],
}

impl<A: Address> FlowKey<A> {
    /// The way back, at the same hook.
    #[must_use]
    #[inline(always)]
    pub const fn reverse(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }

    /// The same tuple at the other hook.
    #[must_use]
    #[inline(always)]
    pub const fn at(self, hook: Hook) -> Self {
        Self { hook, ..self }
    }

    /// The tuple of the packet once this key's row has rewritten it, at the same hook.
    #[must_use]
    #[inline(always)]
    pub fn rewritten(self, row: &FlowRow<A>) -> Self {
        // Field by field: choosing between two whole tuples would be done through memory.
        let ingress = self.hook.0 == Hook::INGRESS.0;
        Self {
            src: if ingress { self.src } else { row.addr },
            dst: if ingress { row.addr } else { self.dst },
            src_port: if ingress { row.other_port } else { row.port },
            dst_port: if ingress { row.port } else { row.other_port },
            ..self
        }
    }

    /// The row at the other hook that undoes this one: what leaves here rewritten comes back there,
    /// turned round. A law: `k.partner(r).partner(s) == k`, where `s` is the partner's row.
    #[must_use]
    #[inline(always)]
    pub fn partner(self, row: &FlowRow<A>) -> Self {
        self.rewritten(row).reverse().at(self.hook.other())
    }

    /// The row fields by which the row under [`Self::partner`] undoes this key's rewriting.
    #[must_use]
    #[inline(always)]
    pub const fn undo(self) -> (A, Port, Port) {
        let ingress = self.hook.0 == Hook::INGRESS.0;
        (
            if ingress { self.dst } else { self.src },
            if ingress { self.dst_port } else { self.src_port },
            if ingress { self.src_port } else { self.dst_port },
        )
    }

    /// What [`FlowRow::tag`] must be for this key; also the hash for a consistent choice.
    #[must_use]
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        let ends = u64::from(self.src.fold()) | (u64::from(self.dst.fold()) << 32);
        let ports = (u64::from(self.src_port.bits()) << 16) | u64::from(self.dst_port.bits());
        let rest = (ports << 16) | (u64::from(self.protocol.0) << 8) | u64::from(self.hook.0);
        // Two products, of which the high halves depend on everything below: a fraction of what a step for each word takes.
        let mixed = ends.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (((mixed ^ (mixed >> 32)) ^ rest.rotate_left(11)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
    }

    /// The number by which a flow chooses from a Maglev table: the same on every node (C29).
    #[must_use]
    #[inline(always)]
    pub fn spread(&self) -> u32 {
        avalanche(self.at(Hook::INGRESS).tag())
    }
}

/// What to do with a packet of a flow, and what is known of it.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowRow<A: Address> {
    /// [`FlowKey::tag`]; checked after the row was copied.
    pub tag: u32,
    /// The service port that owns the flow.
    pub service_port: u32,
    /// The backend that was chosen.
    pub backend: BackendId,
    /// Its generation then.
    pub generation: u32,
    /// Ticks, low 32 bits, when the row was made.
    pub since: u32,
    /// Ticks, low 32 bits, when a packet last passed; written at most once a second.
    pub last_seen: u32,
    /// The address that takes the place of the destination (ingress) or the source (egress).
    pub addr: A,
    /// The port that goes with it.
    pub port: Port,
    /// The other end's port afterwards: of the source (ingress) or the destination (egress).
    pub other_port: Port,
    /// [`SideState`] of whoever sends through this row.
    pub state: u8,
    /// [`FlowFlags`].
    pub flags: FlowFlags,
    /// Zero.
    pub pad: [u8; 2],
}

impl<A: Address> FlowRow<A> {
    /// What this row's side has said.
    #[must_use]
    #[inline(always)]
    pub const fn side(&self) -> SideState {
        SideState(self.state)
    }
}

/// Bits of a flow row. Which of the four rows it is: [`FlowFlags::FORWARD`] and the hook tell.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FlowFlags(pub u8);

impl FlowFlags {
    /// Client to backend: rows 1 and 2. Without it: 3 and 4.
    pub const FORWARD: u8 = 1;
    /// The flow is masqueraded: it has rows 2 and 3.
    pub const MASQUERADED: u8 = 1 << 1;
    /// Row 2 before a packet has shown the outgoing device: it has no address and port yet.
    pub const PENDING: u8 = 1 << 2;
    /// Rows 2 and 3 of a connection of the node itself, without 1 and 4: they hold its tuple.
    pub const OWN: u8 = 1 << 3;

    /// Are all of `bits` set?
    #[must_use]
    #[inline(always)]
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::{V4, V6};

    fn key<A: Address>(src: A, dst: A, ports: (u16, u16), hook: u8) -> FlowKey<A> {
        FlowKey {
            src,
            dst,
            src_port: Port::new(ports.0),
            dst_port: Port::new(ports.1),
            protocol: Protocol::TCP,
            hook: Hook(hook & 1),
            pad: [0; 2],
        }
    }

    fn row<A: Address>((addr, port, other_port): (A, Port, Port)) -> FlowRow<A> {
        FlowRow { addr, port, other_port, ..Zeroable::zeroed() }
    }

    fn v6(bits: u128) -> V6 {
        core::net::Ipv6Addr::from_bits(bits).into()
    }

    fn v4(bits: u32) -> V4 {
        core::net::Ipv4Addr::from_bits(bits).into()
    }

    fn laws<A: Address>(key: FlowKey<A>, to: (A, u16, u16)) {
        assert_eq!(key.reverse().reverse(), key);
        let there = row((to.0, Port::new(to.1), Port::new(to.2)));
        let partner = key.partner(&there);
        let back = row(key.undo());
        assert_ne!({ partner.hook }, { key.hook });
        assert_eq!(partner.partner(&back), key, "rows name each other");
        assert_eq!(partner.rewritten(&back), key.reverse().at(partner.hook), "undo is the identity");
    }

    proptest! {
        #[test]
        fn the_rows_of_a_flow_name_and_undo_each_other(
            src: u32, dst: u32, to: u32, src6: u128, dst6: u128, to6: u128,
            ports: (u16, u16), new: (u16, u16), hook: u8,
        ) {
            laws(key(v4(src), v4(dst), ports, hook), (v4(to), new.0, new.1));
            laws(key(v6(src6), v6(dst6), ports, hook), (v6(to6), new.0, new.1));
        }

        #[test]
        fn the_tag_sees_every_field(src: u32, dst: u32, ports: (u16, u16), bit in 0usize..96) {
            let a = key(v4(src), v4(dst), ports, 0);
            let mut bytes = bytemuck::bytes_of(&a).to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let b: FlowKey<V4> = bytemuck::pod_read_unaligned(&bytes);
            prop_assert_ne!(a.tag(), b.tag());
            prop_assert_ne!(a.tag(), a.at(Hook::EGRESS).tag());
        }
    }
}
