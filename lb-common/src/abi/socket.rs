//! The sockets table: what the node's own sockets were translated to, and from (contract C17, C36).
//!
//! Decides how a socket is told from others: by its cookie, which the kernel never gives twice. Must not know
//! how a backend is chosen. Invariant: of one socket, one peer and one protocol there is one row each way.
//!
//! A connected socket has the way back; one that sends datagrams without being connected has both:
//!
//! ```text
//! back   cookie, backend B:b   -> frontend V:v   what getpeername(2) and recvmsg(2) show
//! forth  cookie, frontend V:v  -> backend B:b    where the next datagram goes
//! ```

use bytemuck::{Pod, Zeroable};

use super::{BackendId, avalanche, mix};
use crate::address::{Address, Port, Protocol};

/// A socket and a peer of it.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct SocketKey<A: Address> {
    /// The socket's cookie (`bpf_get_socket_cookie`, `SO_COOKIE`).
    pub cookie: u64,
    /// The peer's address: the backend's on the way back, the frontend's on the way forth.
    pub addr: A,
    /// The peer's port.
    pub port: Port,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The way.
    pub way: Way,
    /// Zero.
    pub pad: [u8; 4],
}

impl<A: Address> SocketKey<A> {
    /// What [`SocketRow::tag`] must be for this key.
    #[must_use]
    #[inline(always)]
    pub fn tag(&self) -> u32 {
        let kind = ((self.port.bits() as u32) << 16) | ((self.protocol.0 as u32) << 8) | self.way.0 as u32;
        mix(mix(fold(self.cookie), self.addr.fold()), kind)
    }

    /// The number by which the socket chooses a backend of an external frontend (C29): it has no source port yet to
    /// choose by as other nodes do.
    #[must_use]
    #[inline(always)]
    pub fn spread(&self) -> u32 {
        avalanche(fold(self.cookie))
    }
}

#[inline(always)]
const fn fold(cookie: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves go in")]
    let (low, high) = (cookie as u32, (cookie >> 32) as u32);
    mix(mix(0, low), high)
}

/// Which way a row translates.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Way(pub u8);

impl Way {
    /// From the backend to the frontend.
    pub const BACK: Self = Self(0);
    /// From the frontend to the backend.
    pub const FORTH: Self = Self(1);
}

/// What the socket's peer was translated from, or to.
#[repr(C, packed)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketRow<A: Address> {
    /// [`SocketKey::tag`]; checked after the row was copied.
    pub tag: u32,
    /// The backend that was chosen.
    pub backend: BackendId,
    /// Its generation then.
    pub generation: u32,
    /// Ticks, low 32 bits, when the socket last connected or sent by this row; written at most once a second.
    pub last_used: u32,
    /// The frontend's address on the way back, the backend's on the way forth.
    pub addr: A,
    /// The port that goes with it.
    pub port: Port,
    /// [`SocketFlags`].
    pub flags: SocketFlags,
    /// The service port that owns the frontend.
    pub service_port: u32,
}

/// Bits of a socket's row.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct SocketFlags(pub u16);

impl SocketFlags {
    /// The socket is connected: it does not choose again by itself.
    pub const CONNECTED: u16 = 1;

    /// Are all of `bits` set?
    #[must_use]
    #[inline(always)]
    pub const fn has(self, bits: u16) -> bool {
        self.0 & bits == bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::V4;

    #[test]
    fn the_tag_sees_every_field() {
        let key = SocketKey {
            cookie: 0x0123_4567_89ab_cdef,
            addr: V4::from(core::net::Ipv4Addr::new(10, 96, 0, 1)),
            port: Port::new(80),
            protocol: Protocol::UDP,
            way: Way::BACK,
            pad: [0; 4],
        };
        let bytes = bytemuck::bytes_of(&key).to_vec();
        for bit in 0..16 * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let other: SocketKey<V4> = bytemuck::pod_read_unaligned(&other);
            assert_ne!(key.tag(), other.tag(), "bit {bit}");
        }
    }
}
