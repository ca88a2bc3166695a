//! One question at a time to the kernel by netlink, and its whole answer.
//!
//! Decides how messages are framed. Must not know what they say. Invariant: nobody waits for an answer that was lost:
//! what answers a request is there once it has been sent, and a socket that has nothing says so.

use anyhow::{Context as _, bail};
use netlink_sys::Socket;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};

/// Opens a socket of a netlink protocol (netlink(7)).
pub(super) fn open(protocol: isize, what: &str) -> anyhow::Result<Socket> {
    let opening = || format!("opening a netlink socket for {what}");
    let mut netlink = Socket::new(protocol).with_context(opening)?;
    netlink.bind_auto().with_context(opening)?;
    netlink.set_non_blocking(true).with_context(opening)?;
    Ok(netlink)
}

/// Sends a request.
pub(super) fn send<M: NetlinkSerializable>(netlink: &Socket, flags: u16, message: M) -> anyhow::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    netlink.send(&bytes, 0).context("asking the kernel by netlink")?;
    Ok(())
}

/// One datagram of the kernel's: several messages, and how many more that could not be read.
pub(super) fn receive<M: NetlinkDeserializable>(
    netlink: &Socket,
) -> anyhow::Result<(Vec<NetlinkPayload<M>>, usize)> {
    let (bytes, _) = netlink.recv_from_full().context("waiting for the kernel's answer by netlink")?;
    Ok(messages(&bytes))
}

/// The messages in a datagram.
pub(super) fn messages<M: NetlinkDeserializable>(mut rest: &[u8]) -> (Vec<NetlinkPayload<M>>, usize) {
    let (mut payloads, mut unread) = (Vec::new(), 0);
    while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        match NetlinkMessage::<M>::deserialize(rest) {
            Ok(message) => payloads.push(message.payload),
            Err(_) => unread += 1,
        }
        // Messages begin at multiples of four bytes (NLMSG_ALIGN).
        rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
    }
    (payloads, unread)
}

/// Asks for a list, and hands each message of it to `take`. Says how many could not be read.
pub(super) fn dump<M>(netlink: &Socket, request: M, mut take: impl FnMut(M)) -> anyhow::Result<usize>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    send(netlink, NLM_F_REQUEST | NLM_F_DUMP, request)?;
    let mut unread = 0;
    loop {
        let (payloads, failed) = receive::<M>(netlink)?;
        unread += failed;
        for payload in payloads {
            match payload {
                NetlinkPayload::Done(_) => return Ok(unread),
                NetlinkPayload::Error(error) => bail!(error.to_io()),
                NetlinkPayload::InnerMessage(message) => take(message),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_sock_diag::SockDiagMessage;

    use super::*;

    #[test]
    fn what_cannot_be_read_is_counted_and_passed_over() {
        // A message of a length that its own header cannot fill, then the end of a list.
        let done = [20u32.to_ne_bytes(), [3, 0, 2, 0], [0; 4], [0; 4], [0; 4]].concat();
        let broken = [8u32.to_ne_bytes(), [20, 0, 0, 0]].concat();
        let (payloads, unread) = messages::<SockDiagMessage>(&[broken, done].concat());
        assert!(matches!(payloads[..], [NetlinkPayload::Done(_)]), "{payloads:?}");
        assert_eq!(unread, 1);
        assert_eq!(messages::<SockDiagMessage>(&[0, 0, 0, 0, 1]).1, 1, "it ends");
    }
}
