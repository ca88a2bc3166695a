//! Which backend serves a new flow.
//!
//! Decides by the frontend's row: who may use it, refusal, affinity, or a slot. Must not know rows of flows or
//! packets. Invariant: every backend of a set is equally likely (contract C28), one flow has one backend on all
//! nodes where the frontend is external (C29), and a choice names a backend that owns its id at this moment.

use lb_common::abi::{
    AffinityKey, AffinityRow, BackendFlags, BackendId, FrontendFlags, FrontendRow, SlotRange, Verdict, Word,
};
use lb_common::address::Port;

use crate::kernel;
use crate::maps::{self, Family, Key};

/// Where a client is (contract C24).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// A pod of this node, or the node itself.
    Inside,
    /// Anywhere else.
    Outside,
}

/// What a client asks for.
#[derive(Clone, Copy)]
pub(crate) struct Request<A> {
    /// Its address, before any translation (C30).
    pub client: A,
    /// Where it is.
    pub side: Side,
    /// What an external frontend chooses by ([`lb_common::abi::FlowKey::spread`]).
    pub spread: u32,
    /// Does it open a connection? If not, it was opened by way of another node or is forgotten, and leaves no
    /// trace in the affinity table.
    pub opens: bool,
}

/// A chosen backend.
#[repr(C)]
pub(crate) struct Choice<A> {
    /// Its id.
    pub id: BackendId,
    /// Its generation now.
    pub generation: u32,
    /// Where it listens.
    pub addr: A,
    /// Where it listens.
    pub port: Port,
    /// Its bits now.
    pub flags: BackendFlags,
}

impl<A: Family> Choice<A> {
    /// Where the packet is addressed anyway: no backend's (generations start at 1).
    #[inline(always)]
    pub(crate) fn straight(key: &Key<A>) -> Self {
        Self { flags: BackendFlags(BackendFlags::LOCAL), ..Self::unmade(key.dst, key.dst_port) }
    }

    /// No choice yet, of a frontend there.
    #[inline(always)]
    pub(crate) fn unmade(addr: A, port: Port) -> Self {
        Self { id: BackendId(0), generation: 0, addr, port, flags: BackendFlags(0) }
    }

    /// The backend of that id, as it is now.
    #[inline(always)]
    fn of(id: BackendId) -> (Self, u32) {
        let backend = maps::backend::<A>(id);
        let choice = Self {
            id,
            generation: backend.generation,
            addr: backend.addr,
            port: backend.port,
            flags: backend.flags,
        };
        (choice, backend.service_port)
    }
}

/// What a frontend has for one side.
struct Set {
    range: SlotRange,
    /// Where it is empty: silence instead of an answer.
    silent: bool,
    /// The bit of the backends in it.
    member: u16,
}

impl Set {
    #[inline(always)]
    fn of(frontend: &FrontendRow, side: Side) -> Self {
        let (range, silent, local) = match side {
            Side::Inside => (frontend.inside, FrontendFlags::INSIDE_DROP, FrontendFlags::INSIDE_LOCAL),
            Side::Outside => (frontend.outside, FrontendFlags::OUTSIDE_DROP, FrontendFlags::OUTSIDE_LOCAL),
        };
        let local = frontend.flags.has(local);
        let member = if local { BackendFlags::IN_LOCAL_SET } else { BackendFlags::IN_CLUSTER_SET };
        Self { range, silent: frontend.flags.has(silent), member }
    }
}

/// Chooses a backend for a new flow, or the verdict of its refusal.
#[inline(never)]
pub(crate) fn choose<A: Family>(
    request: &Request<A>,
    frontend: &FrontendRow,
    choice: &mut Choice<A>,
) -> Result<(), Verdict> {
    if frontend.flags.has(FrontendFlags::GUARDED) && !maps::in_ranges(frontend.service_port, request.client) {
        return Err(Verdict::DroppedSourceRange);
    }
    let set = Set::of(frontend, request.side);
    if set.range.len == 0 {
        return Err(if set.silent { Verdict::DroppedNoLocalEndpoint } else { Verdict::RejectedNoEndpoint });
    }
    let sticky = frontend.affinity_seconds != 0 && request.opens;
    *choice = if sticky { keep(request, frontend, &set)? } else { pick(request, frontend, &set)? };
    Ok(())
}

/// The client's last backend, while it is in the set and its time is not up; else a new one (C30).
#[inline(always)]
fn keep<A: Family>(request: &Request<A>, frontend: &FrontendRow, set: &Set) -> Result<Choice<A>, Verdict> {
    let key = AffinityKey { client: request.client, service_port: frontend.service_port, pad: 0 };
    let client = Word::new(key);
    let now = kernel::ticks();
    let lifetime = frontend.affinity_seconds.wrapping_mul(maps::config().ticks_per_second);
    let choice = match maps::affinity(&client).map(|last| (last, Choice::of(last.backend))) {
        Some((last, (choice, owner)))
            if now.wrapping_sub(last.last_used) <= lifetime
                && choice.generation == last.generation
                && owner == frontend.service_port
                && choice.flags.has(set.member) =>
        {
            choice
        }
        _ => pick(request, frontend, set)?,
    };
    let row = AffinityRow { backend: choice.id, generation: choice.generation, last_used: now };
    maps::set_affinity(&client, &row);
    Ok(choice)
}

/// A backend of the set: any one (C28), or the one that this flow has everywhere (C29).
#[inline(always)]
fn pick<A: Family>(request: &Request<A>, frontend: &FrontendRow, set: &Set) -> Result<Choice<A>, Verdict> {
    let external = frontend.flags.has(FrontendFlags::EXTERNAL);
    let number = if external { request.spread } else { kernel::random() };
    let offset = kernel::below(number, set.range.len);
    let id = maps::slot(set.range.start.wrapping_add(offset)).ok_or(Verdict::DroppedNoBackendRow)?;
    let (choice, _) = Choice::of(id);
    if choice.generation == 0 || choice.port == Port::NONE {
        return Err(Verdict::DroppedNoBackendRow);
    }
    Ok(choice)
}
