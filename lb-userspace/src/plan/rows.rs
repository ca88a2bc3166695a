//! Rows: what a decision looks like in the maps, once ids and ranges are known.
//!
//! Decides every field of a frontend's and a backend's row. Must not know which id is free or what
//! stands in the maps now. Invariant: a function of its arguments; the same decision with the
//! same ids gives the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{
    BackendFlags, BackendRow, FrontendFlags, FrontendKey, FrontendRow, RangeKey, SlotRange,
};
use lb_common::address::{Address, Port, Protocol};

use super::decision::{Backend, BackendSet, Decision, Frontend, FrontendKind};
use super::ids::Held;
use super::sets::Member;

/// What holds for every Service on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The node addresses on which NodePorts are served (C17).
    pub node_addresses: Vec<IpAddr>,
    /// What the datapath can do.
    pub supported: Supported,
    /// The most slots that a set of an external frontend gets (C29); 1: a slot for each backend.
    pub max_table: u32,
}

/// A table of [`Terms::max_table`] slots gives 163 backends a hundred each.
pub const DEFAULT_MAX_TABLE: u32 = 16_381;

/// Which frontends the datapath can serve; others get no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supported {
    /// Kinds of frontends.
    pub kinds: &'static [FrontendKind],
    /// Protocols.
    pub protocols: &'static [Protocol],
}

impl Supported {
    /// Everything that a decision can say.
    pub const ALL: Self = Self {
        kinds: &[
            FrontendKind::ClusterIp,
            FrontendKind::NodePort,
            FrontendKind::LoadBalancer,
            FrontendKind::ExternalIp,
            FrontendKind::Whole,
        ],
        protocols: &[Protocol::TCP, Protocol::UDP, Protocol::SCTP],
    };
}

/// The keys under which clients dial `decision` in one family, each with what it gets. A key that two frontends of
/// the decision give is the first one's, a NodePort's last: what names an address may be guarded.
pub(super) fn frontends<'a, A: Address>(
    decision: &'a Decision,
    terms: &Terms,
) -> BTreeMap<FrontendKey<A>, &'a Frontend> {
    let mut keys = BTreeMap::new();
    let protocol = decision.name.protocol;
    let serves = |frontend: &&Frontend| match frontend.kind {
        FrontendKind::Whole => terms.supported.kinds.contains(&FrontendKind::Whole),
        kind => terms.supported.kinds.contains(&kind) && terms.supported.protocols.contains(&protocol),
    };
    let (node_ports, addressed): (Vec<&Frontend>, Vec<&Frontend>) =
        decision.frontends.iter().filter(serves).partition(|frontend| frontend.addr.is_none());
    for frontend in addressed {
        let Some(addr) = frontend.addr.and_then(A::from_ip) else { continue };
        let key = match frontend.kind {
            FrontendKind::Whole => FrontendKey::whole(addr),
            _ => FrontendKey::new(addr, Port::new(frontend.port), protocol),
        };
        keys.entry(key).or_insert(frontend);
    }
    for frontend in node_ports.into_iter().filter(|frontend| frontend.ipv6 == A::IS_V6) {
        let addresses = terms.node_addresses.iter().filter(|ip| !frontend.except.contains(ip));
        for addr in addresses.filter_map(|ip| A::from_ip(*ip)) {
            keys.entry(FrontendKey::new(addr, Port::new(frontend.port), protocol)).or_insert(frontend);
        }
    }
    keys
}

/// The row of a frontend that `owner` serves from the ranges of its two sets.
pub(super) fn frontend_row<A: Address>(
    key: &FrontendKey<A>,
    frontend: &Frontend,
    owner: u32,
    inside: SlotRange,
    outside: SlotRange,
) -> FrontendRow {
    let mut flags = 0;
    for (applies, bit) in [
        (frontend.inside == BackendSet::Drop, FrontendFlags::INSIDE_DROP),
        (frontend.outside == BackendSet::Drop, FrontendFlags::OUTSIDE_DROP),
        (is_external(frontend.kind), FrontendFlags::EXTERNAL),
        (frontend.kind == FrontendKind::NodePort, FrontendFlags::NODE_PORT),
        (frontend.inside_local, FrontendFlags::INSIDE_LOCAL),
        (frontend.outside_local, FrontendFlags::OUTSIDE_LOCAL),
        (!frontend.source_ranges.is_empty(), FrontendFlags::GUARDED),
    ] {
        flags |= if applies { bit } else { 0 };
    }
    FrontendRow {
        tag: key.tag(),
        service_port: owner,
        flags: FrontendFlags(flags),
        affinity_seconds: frontend.affinity_seconds.unwrap_or(0),
        inside,
        outside,
    }
}

/// Is its backend chosen by consistent hash (C29)?
pub(super) fn is_external(kind: FrontendKind) -> bool {
    match kind {
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => true,
        FrontendKind::ClusterIp | FrontendKind::Whole => false,
    }
}

/// The rows of the source ranges that any of `frontends` of `owner` is guarded by (C35). They share them: a
/// service port has one list of ranges, and its frontends are guarded by it or not at all.
pub(super) fn source_ranges<'a, A: Address>(
    frontends: impl Iterator<Item = &'a Frontend>,
    owner: u32,
) -> BTreeSet<RangeKey<A>> {
    let ranges = frontends.flat_map(|frontend| &frontend.source_ranges);
    ranges
        .filter_map(|range| Some(RangeKey::new(owner, A::from_ip(range.addr())?, range.prefix_len())))
        .collect()
}

/// The row of a backend that `owner` has; `sets` are the set bits of [`BackendFlags`].
pub(super) fn backend_row<A: Address>(
    addr: A,
    backend: &Backend,
    held: Held,
    owner: u32,
    sets: u16,
) -> BackendRow<A> {
    let serving = if backend.serving { BackendFlags::SERVING } else { 0 };
    let local = if backend.local { BackendFlags::LOCAL } else { 0 };
    BackendRow {
        addr,
        port: Port::new(backend.addr.port()),
        flags: BackendFlags(serving | local | sets),
        generation: held.generation,
        service_port: owner,
        pad: 0,
    }
}

/// The row of an id that nobody owns any more: all zero, but the generation, from which its next owner counts on, and that
/// whoever had it is no more (C37).
pub(super) fn free_backend_row<A: Address>(generation: u32) -> BackendRow<A> {
    BackendRow { generation, flags: BackendFlags(BackendFlags::VANISHED), ..bytemuck::Zeroable::zeroed() }
}

/// The backends of a set, sorted by address, each once, with their ids of `ids`, which is sorted. Those without an id
/// are of the other family.
pub(super) fn members(set: &BackendSet, ids: &[Member]) -> Vec<Member> {
    let BackendSet::Backends(backends) = set else { return Vec::new() };
    let id_of = |addr: &SocketAddr| {
        let at = ids.binary_search_by_key(addr, |(addr, _)| *addr).ok()?;
        ids.get(at).copied()
    };
    let mut members: Vec<Member> = backends.iter().filter_map(id_of).collect();
    // As a rule it is sorted, and then this costs a look at each.
    members.sort_unstable();
    members.dedup();
    members
}

/// Which backends stand in the service port's cluster set and local set, as far as any of `frontends` uses them: bits
/// of [`BackendFlags`], sorted by address.
pub(super) fn set_bits<'a>(frontends: impl Iterator<Item = &'a Frontend>) -> Vec<(SocketAddr, u16)> {
    // Most frontends of a service port have one set.
    let mut sets: Vec<(u16, &[SocketAddr])> = Vec::new();
    for frontend in frontends {
        for (set, local) in
            [(&frontend.inside, frontend.inside_local), (&frontend.outside, frontend.outside_local)]
        {
            let bit = if local { BackendFlags::IN_LOCAL_SET } else { BackendFlags::IN_CLUSTER_SET };
            if let BackendSet::Backends(backends) = set
                && !sets.contains(&(bit, backends))
            {
                sets.push((bit, backends));
            }
        }
    }
    let each = sets.iter().flat_map(|(bit, backends)| backends.iter().map(|addr| (*addr, *bit)));
    let mut bits: Vec<(SocketAddr, u16)> = each.collect();
    bits.sort_unstable();
    bits.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        kept.1 |= if same { next.1 } else { 0 };
        same
    });
    bits
}
