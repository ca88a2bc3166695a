//! The connections that netfilter translates, as conntrack has them (ctnetlink).
//!
//! Decides which connections count: those whose destination was translated. Must not know Services or maps.
//! Invariant: what is returned are original tuples, as the packets looked before anything was translated.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Context as _;
use lb_common::address::Protocol;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Status, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::netlink;

/// The multicast group that says which connections are new (NFNLGRP_CONNTRACK_NEW).
const NEW: u32 = 1;

/// A connection whose destination netfilter translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Translated {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Who opened it.
    pub client: SocketAddr,
    /// What it dialled.
    pub dialled: SocketAddr,
    /// Who answers.
    pub backend: SocketAddr,
    /// Has it gone both ways, and if it has no end of its own (UDP), for some seconds?
    pub assured: bool,
}

/// Every connection whose destination is translated now. Costs about a microsecond for each connection of the host,
/// translated or not.
///
/// # Errors
/// Without CAP_NET_ADMIN, and on a kernel without conntrack over netlink.
pub fn translated() -> anyhow::Result<Vec<Translated>> {
    let doing = "listing the connections that netfilter knows (ctnetlink)";
    let netlink = netlink::open(NETLINK_NETFILTER, "conntrack").context(doing)?;
    let mut found = Vec::new();
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let request = NetfilterMessage::new(header, ConntrackMessage::Get(Vec::new()));
    netlink::dump(&netlink, request, |message| found.extend(read(&message))).context(doing)?;
    Ok(found)
}

/// Word of new connections.
pub struct Newcomers(Socket);

impl Newcomers {
    /// From now on.
    ///
    /// # Errors
    /// As [`translated`].
    pub fn watch() -> anyhow::Result<Self> {
        let netlink = netlink::open(NETLINK_NETFILTER, "conntrack's events")?;
        netlink.add_membership(NEW).context("asking for word of new connections (ctnetlink)")?;
        Ok(Self(netlink))
    }

    /// Waits until there is something to take, or `limit` has passed.
    ///
    /// # Errors
    /// What poll(2) says.
    pub fn wait(&self, limit: Duration) -> anyhow::Result<()> {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context("waiting for word of new connections (ctnetlink)"),
        }
    }

    /// What has come since the last call.
    ///
    /// # Errors
    /// Where the kernel had more to say than the socket holds: then a list is due.
    pub fn take(&self) -> anyhow::Result<Vec<Translated>> {
        let mut found = Vec::new();
        loop {
            match self.0.recv_from_full() {
                Ok((bytes, _)) => {
                    let (payloads, _) = netlink::messages::<NetfilterMessage>(&bytes);
                    found.extend(payloads.iter().filter_map(|payload| match payload {
                        rtnetlink::packet_core::NetlinkPayload::InnerMessage(message) => read(message),
                        _ => None,
                    }));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(found),
                Err(error) => return Err(error).context("hearing of new connections (ctnetlink)"),
            }
        }
    }
}

fn read(message: &NetfilterMessage) -> Option<Translated> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else {
        return None;
    };
    let status = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaStatus(status) => Some(*status),
        _ => None,
    })?;
    let original = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(parts) => tuple(parts),
        _ => None,
    });
    let reply = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleReply(parts) => tuple(parts),
        _ => None,
    });
    let (protocol, client, dialled) = original.filter(|_| status.contains(Status::DstNat))?;
    let (_, backend, _) = reply?;
    let assured = status.contains(Status::Assured);
    Some(Translated { protocol, client, dialled, backend, assured })
}

/// Protocol, source and destination.
fn tuple(parts: &[Tuple]) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    let (mut protocol, mut ports) = (None, (None, None));
    for part in parts {
        match part {
            Tuple::Ip(addresses) => addresses.iter().for_each(|address| match address {
                IPTuple::SourceAddress(address) => source = Some(*address),
                IPTuple::DestinationAddress(address) => destination = Some(*address),
                _ => {}
            }),
            Tuple::Proto(words) => words.iter().for_each(|word| match word {
                ProtoTuple::Protocol(number) => protocol = known(u8::from(*number)),
                ProtoTuple::SourcePort(port) => ports.0 = Some(*port),
                ProtoTuple::DestinationPort(port) => ports.1 = Some(*port),
                _ => {}
            }),
            _ => {}
        }
    }
    Some((protocol?, SocketAddr::new(source?, ports.0?), SocketAddr::new(destination?, ports.1?)))
}

fn known(number: u8) -> Option<Protocol> {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP].into_iter().find(|protocol| protocol.0 == number)
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::conntrack::Protocol as Number;

    use super::*;

    fn tuple(number: Number, from: (&str, u16), to: (&str, u16)) -> Vec<Tuple> {
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(from.0.parse().unwrap()),
                IPTuple::DestinationAddress(to.0.parse().unwrap()),
            ]),
            Tuple::Proto(vec![
                ProtoTuple::Protocol(number),
                ProtoTuple::SourcePort(from.1),
                ProtoTuple::DestinationPort(to.1),
            ]),
        ]
    }

    fn message(status: Status, number: Number) -> NetfilterMessage {
        let (client, backend) = (("10.244.1.2", 40_000), ("10.244.1.3", 8080));
        let attributes = vec![
            ConntrackAttribute::CtaTupleOrig(tuple(number, client, ("10.96.0.10", 80))),
            ConntrackAttribute::CtaTupleReply(tuple(number, backend, client)),
            ConntrackAttribute::CtaStatus(status),
        ];
        let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
        NetfilterMessage::new(header, ConntrackMessage::New(attributes))
    }

    #[test]
    fn only_connections_count_whose_destination_is_translated() {
        let expected = Translated {
            protocol: Protocol::TCP,
            client: "10.244.1.2:40000".parse().unwrap(),
            dialled: "10.96.0.10:80".parse().unwrap(),
            backend: "10.244.1.3:8080".parse().unwrap(),
            assured: true,
        };
        assert_eq!(read(&message(Status::DstNat | Status::Assured, Number::Tcp)), Some(expected));
        assert_eq!(read(&message(Status::SrcNat | Status::Confirmed, Number::Tcp)), None);
        assert_eq!(read(&message(Status::DstNat, Number::Gre)), None, "it has no ports of ours");
    }
}
