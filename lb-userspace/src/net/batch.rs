//! Changes to nftables: all of a batch, or nothing (nfnetlink).
//!
//! Decides how messages become a batch. Must not know what they change. Invariant: returns once the kernel has
//! acknowledged every one of them.

use anyhow::{Context as _, bail};
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};

use super::netlink;

/// NFNL_SUBSYS_NFTABLES: what a batch is for.
const NFTABLES: u16 = 10;

/// All of `messages`, or nothing. `flags`: NLM_F_CREATE and the like.
pub(super) fn commit(
    family: NetfilterProtoFamily,
    flags: u16,
    messages: &[NfTablesMessage],
) -> anyhow::Result<()> {
    let netlink = netlink::open(NETLINK_NETFILTER, "nftables")?;
    let batch = |message| (NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFTABLES), message, 0);
    let begin = batch(NetfilterMessageInner::None(ControlMessage::BatchBegin));
    let end = batch(NetfilterMessageInner::None(ControlMessage::BatchEnd));
    let inside = messages.iter().map(|message| {
        let header = NetfilterHeader::new(family, 0, 0);
        (header, NetfilterMessageInner::NfTables(message.clone()), NLM_F_ACK | flags)
    });
    let mut bytes = Vec::new();
    for (number, (header, message, flags)) in (1..).zip([begin].into_iter().chain(inside).chain([end])) {
        let mut packet_header = NetlinkHeader::default();
        packet_header.flags = NLM_F_REQUEST | flags;
        packet_header.sequence_number = number;
        let mut packet = NetlinkMessage::new(
            packet_header,
            NetlinkPayload::InnerMessage(NetfilterMessage::new(header, message)),
        );
        packet.finalize();
        let mut one = vec![0; packet.buffer_len()];
        packet.serialize(&mut one);
        bytes.extend(one);
    }
    netlink.send(&bytes, 0).context("asking the kernel by netlink")?;
    let mut acknowledged = 0;
    while acknowledged < messages.len() {
        for payload in netlink::receive::<NetfilterMessage>(&netlink)?.0 {
            match payload {
                NetlinkPayload::Error(error) if error.code.is_none() => acknowledged += 1,
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                other => bail!("the kernel answered with {other:?}"),
            }
        }
    }
    Ok(())
}
