//! netfilter's translation, kept at work while connections need it.
//!
//! Decides the one table that does it: a chain of type nat, with a rule that asks for a connection's state and decides
//! nothing. Must not know which connections those are. Invariant: what it makes has the name [`TABLE`], changes no
//! packet, and goes with [`release`].
//!
//! The kernel translates a known connection only while a chain of type nat is registered for its family
//! (`nf_nat_unregister_fn`), and knows connections only while a rule asks for them (`nf_ct_netns_put`): where
//! kube-proxy's were the only ones, its connections would hang with its rules gone.

use anyhow::Context as _;
use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook, HookNumber, InetHookNumber, NfTablesMessage,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE};

use super::batch::commit;

/// The table's name, in the families `ip` and `ip6`.
pub const TABLE: &str = "switchboard-hold";
const CHAIN: &str = "prerouting";

const FAMILIES: [NetfilterProtoFamily; 2] = [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6];
/// Where kube-proxy's own chains stand (NF_IP_PRI_NAT_DST).
const PRIORITY: i32 = -100;

/// Makes the table, unless it is there.
///
/// # Errors
/// Without CAP_NET_ADMIN, and on a kernel whose nftables cannot translate.
pub fn hold() -> anyhow::Result<()> {
    for family in FAMILIES {
        let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
        let hook = vec![
            Hook::Number(HookNumber::Inet(InetHookNumber::PreRouting)),
            Hook::Priority(PRIORITY.cast_unsigned()),
        ];
        let chain = ChainMessage {
            attributes: vec![
                ChainAttribute::Table(TABLE.to_owned()),
                ChainAttribute::Name(CHAIN.to_owned()),
                ChainAttribute::Hook(hook),
                ChainAttribute::Type("nat".to_owned()),
            ],
        };
        // What is in the chain already goes, so that there is one rule however often this is done.
        let messages = [
            NfTablesMessage::NewTable(table),
            NfTablesMessage::NewChain(chain),
            NfTablesMessage::DeleteRule(rule(Vec::new())),
            NfTablesMessage::NewRule(rule(vec![asks_for_state()])),
        ];
        commit(family, NLM_F_CREATE, &messages)
            .with_context(|| format!("making the nftables table {TABLE} of {family:?}"))?;
    }
    Ok(())
}

/// A rule of the chain, or all of them.
fn rule(expressions: Vec<Expressions>) -> RuleMessage {
    let mut attributes = vec![RuleAttribute::Table(TABLE.to_owned()), RuleAttribute::Chain(CHAIN.to_owned())];
    if !expressions.is_empty() {
        attributes.push(RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()));
    }
    RuleMessage { attributes }
}

/// `ct state`, into the first register; nobody reads it.
fn asks_for_state() -> Expressions {
    const NFTA_CT_DREG: u16 = 1;
    const NFTA_CT_KEY: u16 = 2;
    const NFT_REG_1: u32 = 1;
    const NFT_CT_STATE: u32 = 0;
    let word = |kind, value: u32| DefaultNla::new(kind, value.to_be_bytes().to_vec());
    Expressions::Other {
        expression_type: "ct".to_owned(),
        attributes: vec![word(NFTA_CT_KEY, NFT_CT_STATE), word(NFTA_CT_DREG, NFT_REG_1)],
    }
}

/// Removes the table, where it is there; says whether it was, in any family.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn release() -> anyhow::Result<bool> {
    let mut was = false;
    for family in FAMILIES {
        let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
        match commit(family, 0, &[NfTablesMessage::DeleteTable(table)]) {
            Ok(()) => was = true,
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                return Err(error.context(format!("removing the nftables table {TABLE} of {family:?}")));
            }
        }
    }
    Ok(was)
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT))
}
