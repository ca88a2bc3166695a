//! Addresses, ports and protocols as they stand on the wire.
//!
//! Decides how an address is stored: big-endian bits in one 32-bit word or two 64-bit ones, so that
//! the datapath compares and copies words. Must not know maps or packets. Invariant: a value
//! of these types is always in network byte order; host order exists only in the std types.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An address family's address: [`V4`] or [`V6`]. Everything that is written once for both
/// families is generic over this.
pub trait Address: Pod + PartialEq + Eq + fmt::Debug + fmt::Display + Ord + core::hash::Hash {
    /// Bytes of an address: 4 or 16.
    const BYTES: u32;
    /// `true` for IPv6.
    const IS_V6: bool;
    /// The ICMP of this family: 1 (RFC 792) or 58 (RFC 4443).
    const ICMP: Protocol;

    /// Folds the address into 32 bits for hashing; every bit of the address counts.
    fn fold(self) -> u32;

    /// The bits that both have.
    #[must_use]
    fn and(self, mask: Self) -> Self;

    /// `len` leading ones; all ones from the family's length on.
    fn mask(len: u8) -> Self;

    /// The sum of its 32-bit words, in memory order: what a checksum covers of it.
    fn sum(self) -> u64;

    /// Its 32-bit words in memory order, then zeros.
    fn words(self) -> [u32; 4];

    /// Does it mean the machine itself (RFC 6890: 127.0.0.0/8, ::1)?
    fn is_loopback(self) -> bool;

    /// The address as the standard library has it.
    fn to_ip(self) -> IpAddr;

    /// The address of this family, or `None` for one of the other.
    fn from_ip(ip: IpAddr) -> Option<Self>;
}

/// An IPv4 address: four bytes in network order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
pub struct V4(u32);

/// An IPv6 address: sixteen bytes in network order, as two words. Two, because the compiler keeps a pair
/// of words in registers and copies anything longer through memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
pub struct V6(u64, u64);

impl Address for V4 {
    const BYTES: u32 = 4;
    const IS_V6: bool = false;
    const ICMP: Protocol = Protocol::ICMP;

    #[inline(always)]
    fn fold(self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        Self(self.0 & mask.0)
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        self.0.into()
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    fn mask(len: u8) -> Self {
        let host = 32_u32.saturating_sub(len.into());
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host).unwrap_or(0)).into()
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 & u32::from_be(0xff00_0000) == u32::from_be(0x7f00_0000)
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(_) => None,
        }
    }
}

impl Address for V6 {
    const BYTES: u32 = 16;
    const IS_V6: bool = true;
    const ICMP: Protocol = Protocol::ICMPV6;

    #[inline(always)]
    fn fold(self) -> u32 {
        // Multiplied, not only rotated: of rotated halves the bits of neighbouring bytes cancel out.
        let word = (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.1).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (word >> 32) as u32
    }

    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        Self(self.0 & mask.0, self.1 & mask.1)
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        let Self(a, b) = self;
        (a & 0xffff_ffff) + (a >> 32) + (b & 0xffff_ffff) + (b >> 32)
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        bytemuck::cast([self.0, self.1])
    }

    fn mask(len: u8) -> Self {
        let host = 128_u32.saturating_sub(len.into());
        Ipv6Addr::from_bits(u128::MAX.checked_shl(host).unwrap_or(0)).into()
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0 == 0 && self.1 == u64::from_be(1)
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip.into()),
        }
    }
}

impl From<Ipv4Addr> for V4 {
    #[inline(always)]
    fn from(ip: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(ip.octets()))
    }
}

impl From<V4> for Ipv4Addr {
    fn from(address: V4) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for V6 {
    fn from(ip: Ipv6Addr) -> Self {
        let [a, b]: [u64; 2] = bytemuck::cast(ip.octets());
        Self(a, b)
    }
}

impl From<V6> for Ipv6Addr {
    fn from(address: V6) -> Self {
        let octets: [u8; 16] = bytemuck::cast([address.0, address.1]);
        Self::from(octets)
    }
}

impl PartialOrd for V4 {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for V4 {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        u32::from_be(self.0).cmp(&u32::from_be(other.0))
    }
}

impl PartialOrd for V6 {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for V6 {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (u64::from_be(self.0), u64::from_be(self.1)).cmp(&(u64::from_be(other.0), u64::from_be(other.1)))
    }
}

/// A port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable, Default)]
pub struct Port(u16);

impl Port {
    /// No port: what rows that stand for an address alone carry.
    pub const NONE: Self = Self(0);

    /// From host order.
    #[must_use]
    #[inline(always)]
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// In host order.
    #[must_use]
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bits as they lie in memory, for hashing and checksums.
    #[must_use]
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl PartialOrd for Port {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Port {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.get().cmp(&other.get())
    }
}

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable, Default)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Does it have connections, which open and end by what their packets say? TCP and SCTP do.
    #[must_use]
    #[inline(always)]
    pub const fn connects(self) -> bool {
        self.0 == Self::TCP.0 || self.0 == Self::SCTP.0
    }

    /// ICMP for IPv4, RFC 792.
    pub const ICMP: Self = Self(1);
    /// TCP, RFC 9293.
    pub const TCP: Self = Self(6);
    /// UDP, RFC 768.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6, RFC 4443.
    pub const ICMPV6: Self = Self(58);
    /// SCTP, RFC 9260.
    pub const SCTP: Self = Self(132);

    /// The name that Kubernetes uses, where it has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::TCP => Some("TCP"),
            Self::UDP => Some("UDP"),
            Self::SCTP => Some("SCTP"),
            _ => None,
        }
    }
}

impl fmt::Debug for V4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Display for V4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for V6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(*self).fmt(f)
    }
}

impl fmt::Display for V6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "protocol {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_wire_order_and_back() {
        let v4 = Ipv4Addr::new(10, 96, 0, 1);
        assert_eq!(Ipv4Addr::from(V4::from(v4)), v4);
        assert_eq!(bytemuck::bytes_of(&V4::from(v4)), [10, 96, 0, 1]);
        let v6: Ipv6Addr = "fd00:10:96::a".parse().unwrap();
        assert_eq!(Ipv6Addr::from(V6::from(v6)), v6);
        assert_eq!(bytemuck::bytes_of(&V6::from(v6)), v6.octets());
    }

    #[test]
    fn loopback_is_told_from_all_else() {
        let v4 = |text: &str| V4::from(text.parse::<Ipv4Addr>().unwrap()).is_loopback();
        assert!(v4("127.0.0.1") && v4("127.255.0.9") && !v4("128.0.0.1") && !v4("1.0.0.127"));
        let v6 = |text: &str| V6::from(text.parse::<Ipv6Addr>().unwrap()).is_loopback();
        assert!(v6("::1") && !v6("::") && !v6("::2") && !v6("1::1"));
    }

    #[test]
    fn addresses_and_ports_sort_as_numbers_do() {
        let small = V4::from(Ipv4Addr::new(10, 0, 0, 200));
        let large = V4::from(Ipv4Addr::new(10, 0, 1, 0));
        assert!(small < large);
        assert!(Port::new(80) < Port::new(443));
        let low: V6 = "fd00::2".parse::<Ipv6Addr>().unwrap().into();
        let high: V6 = "fd00::1:0".parse::<Ipv6Addr>().unwrap().into();
        assert!(low < high);
    }

    #[test]
    fn a_port_is_big_endian_in_memory() {
        assert_eq!(bytemuck::bytes_of(&Port::new(0x1234)), [0x12, 0x34]);
    }
}
