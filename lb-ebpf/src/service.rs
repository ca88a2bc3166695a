//! Which backend serves a new flow.
//!
//! Decides by the frontend's row: refusal, affinity, or a slot. Must not know rows of flows or
//! packets. Invariant: every backend of the set is equally likely (contract C28), and a
//! choice names a backend that owns its id at this moment.

use lb_common::abi::{
    AffinityKey, AffinityRow, BackendFlags, BackendId, FrontendFlags, FrontendRow, SlotRange, Verdict, Word,
};
use lb_common::address::Port;

use crate::kernel;
use crate::maps::{self, Family, Key};

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
}

impl<A: Family> Choice<A> {
    /// Where the packet is addressed anyway: no backend's (generations start at 1).
    #[inline(always)]
    pub(crate) fn straight(key: &Key<A>) -> Self {
        Self { id: BackendId(0), generation: 0, addr: key.dst, port: key.dst_port }
    }
}

/// Chooses a backend for a new flow, or the verdict of its refusal.
#[inline(never)]
pub(crate) fn choose<A: Family>(
    key: &Key<A>,
    frontend: &FrontendRow,
    choice: &mut Choice<A>,
) -> Result<(), Verdict> {
    let set = frontend.inside;
    if set.len == 0 {
        let silent = frontend.flags.has(FrontendFlags::INSIDE_DROP);
        return Err(if silent { Verdict::DroppedNoLocalEndpoint } else { Verdict::RejectedNoEndpoint });
    }
    *choice = if frontend.affinity_seconds == 0 { pick(set)? } else { sticky(key, frontend, set)? };
    Ok(())
}

/// The client's last backend, while it is in the set and its time is not up; else a new one (C30).
#[inline(always)]
fn sticky<A: Family>(key: &Key<A>, frontend: &FrontendRow, set: SlotRange) -> Result<Choice<A>, Verdict> {
    let client = Word::new(AffinityKey { client: key.src, service_port: frontend.service_port, pad: 0 });
    let now = kernel::ticks();
    let lifetime = frontend.affinity_seconds.wrapping_mul(maps::config().ticks_per_second);
    let choice = match maps::affinity(&client).map(|last| (last, maps::backend::<A>(last.backend))) {
        Some((last, backend))
            if now.wrapping_sub(last.last_used) <= lifetime
                && backend.generation == last.generation
                && backend.service_port == frontend.service_port
                && backend.flags.has(BackendFlags::IN_CLUSTER_SET) =>
        {
            Choice {
                id: last.backend,
                generation: backend.generation,
                addr: backend.addr,
                port: backend.port,
            }
        }
        _ => pick(set)?,
    };
    let row = AffinityRow { backend: choice.id, generation: choice.generation, last_used: now };
    maps::set_affinity(&client, &row);
    Ok(choice)
}

/// Any backend of the set.
#[inline(always)]
fn pick<A: Family>(set: SlotRange) -> Result<Choice<A>, Verdict> {
    let offset = kernel::random_below(set.len);
    let id = maps::slot(set.start.wrapping_add(offset)).ok_or(Verdict::DroppedNoBackendRow)?;
    let backend = maps::backend::<A>(id);
    if backend.generation == 0 || { backend.port } == Port::NONE {
        return Err(Verdict::DroppedNoBackendRow);
    }
    Ok(Choice { id, generation: backend.generation, addr: backend.addr, port: backend.port })
}
