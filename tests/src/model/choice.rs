//! Which backend a new connection gets.
//!
//! Decides who may use a frontend (C35), who is refused (C32, C33), and which backends may be chosen: any of the set
//! (C28), the one that the client had (C30), or the one that every node would choose (C29). Must not know packets'
//! bytes. Invariant: what a frontend chose for a flow by consistent hash, it chooses again while its set is the same.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::Verdict;

use super::cluster::{Backend, Policy};
use super::{Case, Difference, Fragment, Model, Outcome, answer};

/// The backend that a client last had at a service port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Affinity {
    backend: u32,
    generation: u32,
    last_used: u64,
}

/// What frontends chose by consistent hash: flow and set to backend.
pub(super) type Picks = HashMap<(u8, SocketAddr, SocketAddr, Vec<(u32, u32)>), u32>;

/// What a new connection's frontend says.
pub(super) struct Chosen {
    pub service: u32,
    pub backend: Backend,
    pub external: bool,
    /// Do clients from outside get the local set only?
    pub local_policy: bool,
}

/// A refusal, or a choice.
pub(super) type Choice = Result<Chosen, Outcome>;

/// A frontend, as one client finds it.
struct Offer {
    service: u32,
    external: bool,
    local_policy: bool,
    affinity_seconds: u64,
    allowed: bool,
    silent: bool,
    set: Vec<Backend>,
}

impl Model {
    /// Does anybody serve what the packet asks for?
    pub(super) fn is_frontend(&self, case: &Case<'_>) -> bool {
        let (_, to) = case.packet.ends();
        self.cluster.frontend(case.packet.protocol, to).is_some()
    }

    /// The backend for a packet to a frontend that has no connection.
    pub(super) fn choose(&mut self, case: &Case<'_>) -> Result<Choice, Difference> {
        let packet = &case.packet;
        let Some(offer) = self.offer(case) else { return Ok(Err(case.untouched(Verdict::NotService))) };
        if !offer.allowed {
            return Ok(Err(Case::dropped(Verdict::DroppedSourceRange)));
        }
        if offer.set.is_empty() {
            let refusal = if offer.silent {
                Case::dropped(Verdict::DroppedNoLocalEndpoint)
            } else {
                answer::refuse(case, Verdict::RejectedNoEndpoint)
            };
            return Ok(Err(refusal));
        }
        // A segment of no known connection: a ClusterIP's is lost, another node may know an external one's.
        if !packet.may_open() && !offer.external {
            return Ok(Err(answer::refuse(case, Verdict::RejectedNoFlow)));
        }
        let client = (packet.src, offer.service);
        let sticky = offer.affinity_seconds != 0 && packet.may_open();
        let kept = self.affinity.get(&client).copied().filter(|last| sticky && offer.keeps(last, self.now));
        let backend = match kept.and_then(|last| offer.of(last.backend)) {
            Some(backend) => {
                let matches = case.seen_ends().is_none_or(|(_, to)| is_at(to, &backend, case));
                if matches {
                    backend
                } else {
                    return case.wrong_choice(format!("its client's is {}", backend.address));
                }
            }
            None => self.pick(case, &offer)?,
        };
        if sticky {
            let (backend, generation) = (backend.id, backend.generation);
            self.affinity.insert(client, Affinity { backend, generation, last_used: self.now });
        }
        let Offer { service, external, local_policy, .. } = offer;
        Ok(Ok(Chosen { service, backend, external, local_policy }))
    }

    fn offer(&self, case: &Case<'_>) -> Option<Offer> {
        let (from, to) = case.packet.ends();
        let (service, frontend) = self.cluster.frontend(case.packet.protocol, to)?;
        let policy: Policy = if case.place.inside { frontend.inside } else { frontend.outside };
        Some(Offer {
            service: service.id,
            external: frontend.external,
            local_policy: frontend.outside.local,
            affinity_seconds: service.affinity_seconds.into(),
            allowed: !frontend.guarded || in_ranges(&service.ranges, from.ip()),
            silent: policy.silent,
            set: service.set(policy).cloned().collect(),
        })
    }

    /// Any backend of the set; for an external frontend the one it chose before, if it did.
    fn pick(&mut self, case: &Case<'_>, offer: &Offer) -> Result<Backend, Difference> {
        let Some((_, to)) = case.seen_ends() else {
            return case.wrong_choice("it is no packet any more".to_owned());
        };
        let Some(backend) = offer.set.iter().find(|backend| is_at(to, backend, case)).cloned() else {
            let allowed: Vec<_> = offer.set.iter().map(|backend| backend.address).collect();
            return case.wrong_choice(format!("sent to {to}, but these serve: {allowed:?}"));
        };
        if offer.external {
            let (from, dialled) = case.packet.ends();
            let set = offer.set.iter().map(|backend| (backend.id, backend.generation)).collect();
            let before = *self.picks.entry((case.packet.protocol, from, dialled, set)).or_insert(backend.id);
            if before != backend.id {
                return case.wrong_choice(format!("sent to {to}, but to backend {before} earlier (C29)"));
            }
        }
        Ok(backend)
    }
}

/// May the client use what these ranges guard? A service port of the other family only has no range of this one.
fn in_ranges(ranges: &[ipnet::IpNet], client: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&client))
}

/// Is a packet to `to` one to that backend? A later fragment shows no port.
fn is_at(to: SocketAddr, backend: &Backend, case: &Case<'_>) -> bool {
    let later = matches!(case.packet.fragment, Fragment::Later(_));
    backend.address.ip() == to.ip() && (later || backend.address.port() == to.port())
}

impl Offer {
    fn of(&self, id: u32) -> Option<Backend> {
        self.set.iter().find(|backend| backend.id == id).cloned()
    }

    fn keeps(&self, last: &Affinity, now: u64) -> bool {
        now - last.last_used <= self.affinity_seconds
            && self.of(last.backend).is_some_and(|backend| backend.generation == last.generation)
    }
}
