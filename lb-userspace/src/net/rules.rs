//! netfilter's rules, as far as somebody beside them has to know them.
//!
//! Decides which chains and rules are read, and what of a rule is understood: its verdict, and whether it asks for a
//! connection's state or for its translation. Must not judge them. Invariant: what is not understood of a rule counts
//! as a condition, so that a rule is never taken for wider than it is.

use anyhow::Context as _;
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, ExpressionAttribute, Expressions, Hook,
    HookNumber, Immediate, InetHookNumber, ListAttribute, NfTablesMessage, Operator, RuleAttribute,
    RuleMessage, TableAttribute, TableMessage, Verdict as Code, VerdictAttribute,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use rtnetlink::packet_core::{DefaultNla, Nla as _};

use super::netlink;

/// A chain of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Does it see what the host forwards?
    pub forward: bool,
    /// Does what no rule decides end here?
    pub drops: bool,
    /// Its rules, for chains of tables that have one for what is forwarded.
    pub rules: Vec<Rule>,
}

/// A rule, as far as it is understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What becomes of what fits; none: nothing, it only counts or marks.
    pub verdict: Option<Verdict>,
    /// Does it fit only what has been translated (`ct status dnat`)?
    pub translated: bool,
    /// Does it ask for anything else?
    pub conditions: bool,
    /// Does it take connections that are new? Those that ask for `ct state established` do not.
    pub new: bool,
}

/// What becomes of what fits a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is gone, with an answer or without.
    Drop,
    /// Another chain decides.
    Jump(String),
    /// Something else.
    Other,
}

/// The rules of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Tables, as `family name`.
    pub tables: Vec<String>,
    /// All their chains.
    pub chains: Vec<Chain>,
}

/// The rules of nftables, and of iptables where it works by way of nftables.
///
/// # Errors
/// Without CAP_NET_ADMIN, and on a kernel without nftables.
pub fn nftables() -> anyhow::Result<Ruleset> {
    let mut ruleset = Ruleset::default();
    list(NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }), |family, message| {
        if let NfTablesMessage::NewTable(TableMessage { attributes }) = message {
            let name = attributes.into_iter().find_map(|attribute| match attribute {
                TableAttribute::Name(name) => Some(name),
                _ => None,
            });
            ruleset.tables.extend(name.map(|name| format!("{family} {name}")));
        }
    })?;
    list(NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }), |family, message| {
        if let NfTablesMessage::NewChain(message) = message {
            ruleset.chains.push(chain(family, message));
        }
    })?;
    for table in forwarding(&ruleset) {
        let attributes = vec![RuleAttribute::Table(table.1.clone())];
        list(NfTablesMessage::GetRule(RuleMessage { attributes }), |family, message| {
            if let NfTablesMessage::NewRule(message) = message
                && family == table.0
            {
                add(&mut ruleset, family, &table.1, &message);
            }
        })?;
    }
    Ok(ruleset)
}

/// The tables whose chains see what is forwarded, each once.
fn forwarding(ruleset: &Ruleset) -> Vec<(String, String)> {
    let of = |chain: &Chain| (chain.family.clone(), chain.table.clone());
    let mut tables: Vec<_> = ruleset.chains.iter().filter(|chain| chain.forward).map(of).collect();
    tables.sort();
    tables.dedup();
    tables
}

fn list(request: NfTablesMessage, mut take: impl FnMut(&'static str, NfTablesMessage)) -> anyhow::Result<()> {
    let doing = "listing netfilter's rules (nf_tables by netlink)";
    let netlink = netlink::open(NETLINK_NETFILTER, "nftables").context(doing)?;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    netlink::dump(&netlink, NetfilterMessage::new(header, request), |message| {
        let family = match message.header.family {
            NetfilterProtoFamily::IPv4 => "ip",
            NetfilterProtoFamily::IPv6 => "ip6",
            NetfilterProtoFamily::Inet => "inet",
            _ => return,
        };
        if let NetfilterMessageInner::NfTables(message) = message.inner {
            take(family, message);
        }
    })
    .context(doing)?;
    Ok(())
}

fn chain(family: &str, message: ChainMessage) -> Chain {
    let mut chain = Chain { family: family.to_owned(), ..Chain::default() };
    let mut filters = false;
    for attribute in message.attributes {
        match attribute {
            ChainAttribute::Table(table) => chain.table = table,
            ChainAttribute::Name(name) => chain.name = name,
            ChainAttribute::Policy(policy) => chain.drops = policy == 0,
            ChainAttribute::Type(kind) => filters = kind == "filter",
            ChainAttribute::Hook(hook) => {
                chain.forward = hook
                    .iter()
                    .any(|part| matches!(part, Hook::Number(HookNumber::Inet(InetHookNumber::Forward))));
            }
            _ => {}
        }
    }
    chain.forward &= filters;
    chain
}

fn add(ruleset: &mut Ruleset, family: &str, table: &str, message: &RuleMessage) {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Chain(name) => Some(name),
        _ => None,
    });
    let expressions = message.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Expressions(expressions) => Some(expressions.as_slice()),
        _ => None,
    });
    let is_its =
        |chain: &&mut Chain| chain.family == family && chain.table == table && Some(&chain.name) == name;
    if let Some(chain) = ruleset.chains.iter_mut().find(is_its) {
        chain.rules.push(rule(expressions.unwrap_or_default()));
    }
}

/// What the last `ct` expression loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Nothing,
    /// NFT_CT_STATE.
    State,
    /// NFT_CT_STATUS.
    Status,
}

fn rule(expressions: &[ListAttribute<ExpressionAttribute>]) -> Rule {
    let mut rule = Rule { new: true, ..Rule::default() };
    let mut loaded = Loaded::Nothing;
    for element in expressions {
        let ListAttribute::Element(parts) = element else { continue };
        let expression = parts.iter().find_map(|part| match part {
            ExpressionAttribute::Data(expression) => Some(expression),
            _ => None,
        });
        match expression {
            Some(Expressions::Immediate(parts)) => rule.verdict = verdict(parts).or(rule.verdict),
            Some(Expressions::Bitwise(parts)) if loaded != Loaded::Nothing => {
                asks(&mut rule, loaded, parts);
            }
            Some(Expressions::Cmp(parts)) if loaded != Loaded::Nothing => {
                compared(&mut rule, parts);
                loaded = Loaded::Nothing;
            }
            Some(Expressions::Other { expression_type, attributes }) => {
                match other(&mut rule, expression_type, attributes) {
                    Some(now) => loaded = now,
                    None => rule.conditions = true,
                }
            }
            Some(_) => rule.conditions = true,
            None => {}
        }
    }
    rule
}

/// Of a connection's state or status, these bits are asked for.
fn asks(rule: &mut Rule, loaded: Loaded, parts: &[Bitwise]) {
    let mask = parts.iter().find_map(|part| match part {
        Bitwise::Mask(DataAttribute::Value(bytes)) => bytes.first_chunk().map(|b| u32::from_ne_bytes(*b)),
        _ => None,
    });
    match (loaded, mask) {
        // IPS_DST_NAT.
        (Loaded::Status, Some(0x20)) => rule.translated = true,
        // NF_CT_STATE_BIT(IP_CT_NEW) is 8.
        (Loaded::State, Some(mask)) if mask & 8 != 0 => rule.conditions |= mask & !0xe != 0,
        (Loaded::State, Some(_)) => rule.new = false,
        _ => rule.conditions = true,
    }
}

/// What was asked for may have to be absent: then it is a condition like any other.
fn compared(rule: &mut Rule, parts: &[Cmp]) {
    let absent = parts.iter().any(|part| matches!(part, Cmp::Op(Operator::Equal)))
        && parts.iter().any(|part| {
            matches!(part, Cmp::Data(DataAttribute::Value(bytes)) if bytes.iter().all(|byte| *byte == 0))
        });
    if absent {
        *rule = Rule { verdict: rule.verdict.take(), translated: false, conditions: true, new: true };
    }
}

/// An expression that the library has no type for. `None`: a condition.
fn other(rule: &mut Rule, kind: &str, attributes: &[DefaultNla]) -> Option<Loaded> {
    const CT_KEY: u16 = 2;
    match kind {
        "counter" | "log" | "limit" => {}
        "reject" => rule.verdict = Some(Verdict::Drop),
        "ct" => {
            let key = attributes.iter().find(|one| one.kind() == CT_KEY).map(value);
            return match key.as_deref() {
                Some([0, 0, 0, 0]) => Some(Loaded::State),
                Some([0, 0, 0, 2]) => Some(Loaded::Status),
                _ => None,
            };
        }
        "match" => {
            let (name, info) = (attribute(attributes, 1), attribute(attributes, 3));
            match name.as_deref() {
                Some([b'c', b'o', b'm', b'm', b'e', b'n', b't', ..]) => {}
                Some([b'c', b'o', b'n', b'n', b't', b'r', b'a', b'c', b'k', ..]) => {
                    conntrack(rule, &info.unwrap_or_default());
                }
                _ => return None,
            }
        }
        "target" => {
            let name = attribute(attributes, 1).unwrap_or_default();
            rule.verdict = Some(if name.starts_with(b"REJECT") { Verdict::Drop } else { Verdict::Other });
        }
        _ => return None,
    }
    Some(Loaded::Nothing)
}

fn attribute(attributes: &[DefaultNla], kind: u16) -> Option<Vec<u8>> {
    attributes.iter().find(|one| one.kind() == kind).map(value)
}

fn value(attribute: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; attribute.value_len()];
    attribute.emit_value(&mut bytes);
    bytes
}

/// iptables' `-m conntrack`: `struct xt_conntrack_mtinfo2` and `3` begin alike
/// (include/uapi/linux/netfilter/xt_conntrack.h).
fn conntrack(rule: &mut Rule, info: &[u8]) {
    const STATE: u16 = 1;
    const STATUS: u16 = 1 << 6;
    const STATE_ALIAS: u16 = 1 << 13;
    let word = |at: usize| info.get(at..at + 2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
    let (asked, state, status) = (word(146), word(150), word(152));
    if asked & STATE != 0 {
        // XT_CONNTRACK_STATE_BIT(IP_CT_NEW), and XT_CONNTRACK_STATE_DNAT.
        rule.new = state & (1 << 3) != 0 || state & (1 << 7) != 0;
        rule.translated |= state == 1 << 7;
    }
    rule.translated |= asked & STATUS != 0 && status == 1 << 5;
    rule.conditions |= asked & !(STATE | STATUS | STATE_ALIAS) != 0;
}

fn verdict(parts: &[Immediate]) -> Option<Verdict> {
    let attributes = parts.iter().find_map(|part| match part {
        Immediate::Data(DataAttribute::Verdict(attributes)) => Some(attributes),
        _ => None,
    })?;
    let chain = attributes.iter().find_map(|attribute| match attribute {
        VerdictAttribute::Chain(chain) => Some(chain.clone()),
        _ => None,
    });
    attributes.iter().find_map(|attribute| match attribute {
        VerdictAttribute::Code(Code::Jump | Code::Goto) => chain.clone().map(Verdict::Jump),
        VerdictAttribute::Code(Code::Other(0)) => Some(Verdict::Drop),
        VerdictAttribute::Code(Code::Other(1)) => Some(Verdict::Accept),
        VerdictAttribute::Code(_) => Some(Verdict::Other),
        _ => None,
    })
}

/// The handles of a chain's rules that carry `mark` as their user data.
///
/// # Errors
/// As [`nftables`].
pub(super) fn marked(
    family: NetfilterProtoFamily,
    table: &str,
    chain: &str,
    mark: &[u8],
) -> anyhow::Result<Vec<u64>> {
    let doing = || format!("listing the rules of {family:?} {table} {chain}");
    let netlink = netlink::open(NETLINK_NETFILTER, "nftables").with_context(doing)?;
    let attributes = vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())];
    let header = NetfilterHeader::new(family, 0, 0);
    let request = NetfilterMessage::new(header, NfTablesMessage::GetRule(RuleMessage { attributes }));
    let mut handles = Vec::new();
    netlink::dump(&netlink, request, |message| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = message.inner else { return };
        let of_chain = rule.attributes.contains(&RuleAttribute::Chain(chain.to_owned()));
        let is_marked = rule
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, RuleAttribute::UserData(data) if data == mark));
        let handle = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::Handle(handle) => Some(*handle),
            _ => None,
        });
        handles.extend(handle.filter(|_| of_chain && is_marked));
    })
    .with_context(doing)?;
    Ok(handles)
}
