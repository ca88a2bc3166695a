//! How single values are understood.
//!
//! Decides which addresses, ports and protocols are usable, and what the message says if one is
//! not. Must not know which object they stand in. Invariant: an address that comes out of here
//! can be a packet's destination on the way to another host.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::address::Protocol;

/// An address that a client may dial or a backend may have.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| {
        format!(
            "{text:?} is no IP address, left out; write one like 10.0.0.1 or fd00::1, a name cannot be used"
        )
    })?;
    let flaw = match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_loopback() => Some("a loopback address, which no packet may carry between hosts"),
        _ if ip.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    };
    match flaw {
        Some(flaw) => Err(format!("{text} is {flaw}, left out; write an address that can be routed")),
        None => Ok(ip),
    }
}

/// A port.
pub(super) fn port(number: i32) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(|| format!("{number} is no port, left out; write 1 to 65535"))
}

/// A protocol; TCP where none is named.
pub(super) fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    match name {
        None | Some("" | "TCP") => Ok(Protocol::TCP),
        Some("UDP") => Ok(Protocol::UDP),
        Some("SCTP") => Ok(Protocol::SCTP),
        Some(other) => {
            Err(format!("{other:?} is no protocol that can be balanced, left out; write TCP, UDP or SCTP"))
        }
    }
}

/// A network in CIDR notation, surrounding blanks allowed, host bits cleared.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network: IpNet = text
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is no network, left out; write one like 10.0.0.0/8 or fd00::/64"))?;
    Ok(network.trunc())
}

/// A string of a few known ones.
pub(super) fn one_of<T: Copy>(value: &str, known: &[(&str, T)], otherwise: &str) -> Result<T, String> {
    known.iter().find(|(name, _)| *name == value).map(|(_, meaning)| *meaning).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        format!("{value:?} is unknown, {otherwise} is used instead; write {}", names.join(" or "))
    })
}
