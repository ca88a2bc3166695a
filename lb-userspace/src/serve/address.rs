//! Where something is served.
//!
//! Decides how people write it: `off`, an address, an address and a port, or a port. Must not open anything. Invariant:
//! what is shown parses to the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The port of health checks, as kube-proxy has it.
pub const HEALTHZ: u16 = 10256;
/// The port of metrics, as kube-proxy has it.
pub const METRICS: u16 = 10249;

/// Where something is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeAddress {
    /// Nowhere.
    Off,
    /// There; the unspecified address of either family is every address of both.
    At(SocketAddr),
}

impl ServeAddress {
    /// Every address of the host.
    #[must_use]
    pub const fn any(port: u16) -> Self {
        Self::At(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))
    }

    /// For the host itself.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self::At(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }
}

impl FromStr for ServeAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>().ok();
        let address = port.map(Self::any).or_else(|| text.parse().map(Self::At).ok());
        match address {
            Some(Self::At(address)) if address.port() != 0 => Ok(Self::At(address)),
            _ => Err("expected an address and a port, as in 127.0.0.1:10249 or [::1]:10249, a port for every address, \
                      as in :10249, or off"
                .to_owned()),
        }
    }
}

impl std::fmt::Display for ServeAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => write!(f, "{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_write_it_and_shown_as_it_is_read() {
        for (text, shown) in [
            ("off", "off"),
            ("127.0.0.1:10249", "127.0.0.1:10249"),
            ("[::1]:1", "[::1]:1"),
            (":10256", "[::]:10256"),
            ("10256", "[::]:10256"),
        ] {
            let address: ServeAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse(), Ok(address));
        }
        for wrong in ["", "on", "127.0.0.1", "127.0.0.1:0", ":70000", "localhost:1"] {
            assert!(wrong.parse::<ServeAddress>().unwrap_err().contains("or off"), "{wrong}");
        }
    }
}
