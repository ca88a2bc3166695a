//! Protocol numbers (IANA "Assigned Internet Protocol Numbers").
//!
//! Decides nothing. Invariant: these are the protocols that the contract is about.

/// ICMP.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;
