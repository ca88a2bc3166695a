//! Rules that let forwarded packets of pods through a host's own firewall.
//!
//! Decides where such rules go: first in the FORWARD chains of iptables (by way of nftables), and what they look like.
//! Must not decide for which networks. Invariants: our rules carry our mark and are made of nothing that iptables cannot
//! show; what is not marked is not touched.

use anyhow::Context as _;
use ipnet::IpNet;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    Bitwise, Cmp, DataAttribute, Expressions, Immediate, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, Verdict, VerdictAttribute,
};
use rtnetlink::packet_core::NLM_F_CREATE;

use super::batch::commit;
use super::rules;

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
/// A comment as libnftnl writes them: type 0, the length, the text with its zero.
const MARK: &[u8] = b"\x00\x0cswitchboard\x00";

/// Accepts what comes from and goes to `networks`, in the chains that are there; says how many networks that were.
/// Rules of before go.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn accept(networks: &[IpNet]) -> anyhow::Result<usize> {
    let mut accepted = 0;
    for (family, ipv6) in families()? {
        let mut messages = ours(family)?;
        let of_family = networks.iter().filter(|network| network.addr().is_ipv6() == ipv6);
        for network in of_family {
            messages.push(NfTablesMessage::NewRule(rule(network, true)));
            messages.push(NfTablesMessage::NewRule(rule(network, false)));
            accepted += 1;
        }
        if !messages.is_empty() {
            commit(family, NLM_F_CREATE, &messages)
                .with_context(|| format!("accepting pods' packets in {family:?} {TABLE} {CHAIN}"))?;
        }
    }
    Ok(accepted)
}

/// Removes our rules; says how many there were.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn withdraw() -> anyhow::Result<usize> {
    let mut removed = 0;
    for (family, _) in families()? {
        let messages = ours(family)?;
        if !messages.is_empty() {
            removed += messages.len();
            commit(family, 0, &messages)
                .with_context(|| format!("removing our rules from {family:?} {TABLE} {CHAIN}"))?;
        }
    }
    Ok(removed)
}

/// The families whose FORWARD chain is there.
fn families() -> anyhow::Result<Vec<(NetfilterProtoFamily, bool)>> {
    let ruleset = rules::nftables()?;
    let has = |family: &str| {
        ruleset.chains.iter().any(|chain| {
            chain.forward && chain.family == family && chain.table == TABLE && chain.name == CHAIN
        })
    };
    let known = [("ip", NetfilterProtoFamily::IPv4, false), ("ip6", NetfilterProtoFamily::IPv6, true)];
    Ok(known.into_iter().filter(|(name, ..)| has(name)).map(|(_, family, ipv6)| (family, ipv6)).collect())
}

/// What removes each of our rules.
fn ours(family: NetfilterProtoFamily) -> anyhow::Result<Vec<NfTablesMessage>> {
    let handles = rules::marked(family, TABLE, CHAIN, MARK)?;
    let delete = |handle| {
        let attributes = [place(), vec![RuleAttribute::Handle(handle)]].concat();
        NfTablesMessage::DeleteRule(RuleMessage { attributes })
    };
    Ok(handles.into_iter().map(delete).collect())
}

fn place() -> Vec<RuleAttribute> {
    vec![RuleAttribute::Table(TABLE.to_owned()), RuleAttribute::Chain(CHAIN.to_owned())]
}

/// `ip saddr NETWORK accept`, or `daddr`, as iptables writes it.
fn rule(network: &IpNet, source: bool) -> RuleMessage {
    /// NFT_PAYLOAD_NETWORK_HEADER.
    const NETWORK_HEADER: u32 = 1;
    let (offset, address, mask) = match network.trunc() {
        IpNet::V4(net) => {
            (if source { 12 } else { 16 }, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
        IpNet::V6(net) => {
            (if source { 8 } else { 24 }, net.network().octets().to_vec(), net.netmask().octets().to_vec())
        }
    };
    let length = u32::try_from(address.len()).unwrap_or(0);
    let expressions = [
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(offset),
            Payload::Len(length),
        ]),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(length),
            Bitwise::Mask(DataAttribute::Value(mask)),
            Bitwise::Xor(DataAttribute::Value(vec![0; address.len()])),
        ]),
        Expressions::Cmp(vec![
            Cmp::SourceRegister(Register::Reg1),
            Cmp::Op(Operator::Equal),
            Cmp::Data(DataAttribute::Value(address)),
        ]),
        Expressions::Other { expression_type: "counter".to_owned(), attributes: Vec::new() },
        Expressions::Immediate(vec![
            Immediate::DestinationRegister(Register::Verdict),
            // NF_ACCEPT.
            Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(1))])),
        ]),
    ];
    let mut attributes = place();
    attributes.push(RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()));
    attributes.push(RuleAttribute::UserData(MARK.to_vec()));
    RuleMessage { attributes }
}
