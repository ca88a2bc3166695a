//! Sockets of this network namespace, found and closed, by netlink (sock_diag(7)).
//!
//! Decides nothing: it closes what it is told to. Must not know Services or programs. Invariant: a socket is closed
//! only if its cookie and its peer are both as named; it may have been closed, or connected elsewhere, since.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, bail};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkPayload};

use super::netlink;

/// Sockets by their cookies, each with the peers that it is to be closed for.
pub type Peers = BTreeMap<u64, BTreeSet<SocketAddr>>;

/// Which sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UDP sockets. Their owners' calls fail with ECONNABORTED, and then with EDESTADDRREQ.
    Udp,
    /// Established TCP connections. Their owners' calls fail with ECONNABORTED; the peer, if there is one, gets a reset.
    Tcp,
}

impl Kind {
    const fn protocol(self) -> u8 {
        match self {
            Self::Udp => IPPROTO_UDP,
            Self::Tcp => IPPROTO_TCP,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// Closes the connected sockets of that kind among these. Says how many that were.
///
/// # Errors
/// Without CAP_NET_ADMIN, and on a kernel without `CONFIG_INET_DIAG_DESTROY` and `CONFIG_INET_UDP_DIAG` or
/// `CONFIG_INET_TCP_DIAG`.
pub fn close_all(kind: Kind, wanted: &Peers) -> anyhow::Result<usize> {
    let netlink = netlink::open(NETLINK_SOCK_DIAG, "sock_diag")?;
    let mut closed = 0;
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let listed = connected(&netlink, kind, family, any);
        for id in listed.with_context(|| format!("listing {} sockets (sock_diag)", kind.name()))? {
            let peer = SocketAddr::new(canonical(id.destination_address), id.destination_port);
            let is_wanted = wanted.get(&cookie(&id)).is_some_and(|peers| peers.contains(&peer));
            if is_wanted && close(&netlink, kind, family, id)? {
                closed += 1;
            }
        }
    }
    Ok(closed)
}

/// Can sockets be closed? Tries with one of its own.
///
/// # Errors
/// As [`close_all`], and without a loopback.
pub fn can_close() -> anyhow::Result<bool> {
    let doing = "opening a UDP socket to be closed";
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context(doing)?;
    let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context(doing)?;
    own.connect(other.local_addr().context(doing)?).context(doing)?;
    let port = own.local_addr().context(doing)?.port();
    let netlink = netlink::open(NETLINK_SOCK_DIAG, "sock_diag")?;
    let listed = connected(&netlink, Kind::Udp, AF_INET, SocketId::new_v4())
        .context("listing UDP sockets (sock_diag)")?;
    match listed.into_iter().find(|id| id.source_port == port && id.source_address == Ipv4Addr::LOCALHOST) {
        Some(id) => close(&netlink, Kind::Udp, AF_INET, id),
        None => bail!("the kernel does not list a UDP socket that is there (CONFIG_INET_UDP_DIAG)"),
    }
}

/// IPv4 in an IPv6 socket is IPv4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The kernel gives it as two words in its own byte order, the lower first (`sock_diag_save_cookie`).
fn cookie(id: &SocketId) -> u64 {
    let [a, b, c, d, e, f, g, h] = id.cookie;
    u64::from(u32::from_ne_bytes([a, b, c, d])) | (u64::from(u32::from_ne_bytes([e, f, g, h])) << 32)
}

fn request(kind: Kind, family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: kind.protocol(),
        extensions: ExtensionFlags::empty(),
        states: StateFlags::ESTABLISHED,
        socket_id,
    })
}

fn connected(netlink: &Socket, kind: Kind, family: u8, any: SocketId) -> anyhow::Result<Vec<SocketId>> {
    let mut found = Vec::new();
    netlink::dump(netlink, request(kind, family, any), |message| {
        if let SockDiagMessage::InetResponse(response) = message {
            found.push(response.header.socket_id);
        }
    })?;
    Ok(found)
}

/// Closes a socket; `false`: it is gone.
fn close(netlink: &Socket, kind: Kind, family: u8, id: SocketId) -> anyhow::Result<bool> {
    let named = format!(
        "a {} socket that is connected to {}:{}",
        kind.name(),
        id.destination_address,
        id.destination_port
    );
    netlink::send(netlink, NLM_F_REQUEST | NLM_F_ACK, SockDiagDestroy::new(request(kind, family, id)))?;
    for payload in netlink::receive::<SockDiagMessage>(netlink)?.0 {
        let NetlinkPayload::Error(error) = payload else { continue };
        let error = error.to_io();
        return match error.raw_os_error() {
            None | Some(0) => Ok(true),
            Some(libc::ENOENT) => Ok(false),
            _ => Err(error).with_context(|| {
                format!(
                    "closing {named} (needs CAP_NET_ADMIN and a kernel with \
                     CONFIG_INET_DIAG_DESTROY)"
                )
            }),
        };
    }
    bail!("closing {named}: the kernel did not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_sockets_can_be_closed_is_tried_on_ones_own() {
        // Without the right it is an error, which names it.
        match can_close() {
            Ok(can) => assert!(can),
            Err(error) => assert!(format!("{error:#}").contains("CAP_NET_ADMIN"), "{error:#}"),
        }
    }

    #[test]
    fn nothing_is_closed_that_was_not_named() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let elsewhere = Peers::from([(u64::MAX, BTreeSet::from([server.local_addr().unwrap()]))]);
        assert_eq!(close_all(Kind::Udp, &elsewhere).unwrap(), 0);
        client.send(b"still there").unwrap();
    }
}
