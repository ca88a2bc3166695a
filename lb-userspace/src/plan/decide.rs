//! What one Service is to be on this node.
//!
//! Decides how slices become endpoints of a service port (contract C7 to C9) and joins frontends,
//! sets, affinity and ranges into decisions (C22, C30, C32 to C35). Must not know rows or ids.
//! Invariant: a function of the objects and of who owns which frontend.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::choose::{Candidate, Served, Sets, Topology, choose};
use super::decision::{Backend, Decision, Frontend, FrontendKind, ServicePortName};
use super::frontends::{frontends, port_name, source_ranges, whole_addresses};
use super::owners::{FrontendAddress, Owners};
use crate::model::{EndpointSlice, ObjectName, Service, ServicePort, State};

/// What a Service is to be on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// One for each of its ports, in the order of names; none where it is gone or left alone.
    pub decisions: Vec<Decision>,
    /// Frontends it claims in vain (C22).
    pub refused: Vec<Refused>,
}

/// A frontend that it does not get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{claimant} claims {frontend}, {holder}")]
pub struct Refused {
    /// Who claims it.
    pub claimant: ServicePortName,
    /// What it claims.
    pub frontend: FrontendAddress,
    /// Who has it.
    pub holder: Holder,
}

/// Who has a frontend that somebody else claims.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Holder {
    /// Another service port.
    #[error("which {0} has, since it was created first; change one of them")]
    ServicePort(ServicePortName),
    /// The node itself.
    #[error(
        "a port that this node itself listens on, as its agent or an API server does; choose another port, or take \
         it out of --reserved-ports if nothing here needs it"
    )]
    Node,
}

/// Plans every dirty Service, and those that win or lose a frontend by it. Drains the dirty set.
pub fn dirty(state: &mut State, owners: &mut Owners) -> BTreeMap<ObjectName, Planned> {
    let names = concerned(state, owners);
    names.into_iter().map(|name| (name.clone(), service(state, owners, &name))).collect()
}

/// The Services that [`dirty`] plans, their claims being up to date: for who plans them one by one, since what all of
/// a large cluster are to be takes more room than what they become. Drains the dirty set.
pub fn concerned(state: &mut State, owners: &mut Owners) -> BTreeSet<ObjectName> {
    let mut names = state.drain_dirty();
    let mut concerned = BTreeSet::new();
    for name in &names {
        concerned.extend(claim(state, owners, name));
    }
    names.extend(concerned);
    names
}

/// Brings the claims of one Service up to date; returns the others that are concerned.
fn claim(state: &State, owners: &mut Owners, name: &ObjectName) -> BTreeSet<ObjectName> {
    let Some(service) = state.service(name) else {
        return owners.claim(name, None, []);
    };
    let claims = service.ports.iter().flat_map(|port| {
        let name = port_name(service, port);
        frontends(service, port).into_keys().map(move |frontend| (frontend, name.clone()))
    });
    // Whoever of those that share an address was created first speaks for the rest of its ports.
    let first = service.ports.iter().min().map(|port| port_name(service, port));
    let whole = first
        .iter()
        .flat_map(|first| whole_addresses(service).map(move |frontend| (frontend, first.clone())));
    owners.claim(name, service.created, claims.chain(whole))
}

/// Plans one Service, its claims being up to date in `owners`.
#[must_use]
pub fn service(state: &State, owners: &Owners, name: &ObjectName) -> Planned {
    let mut planned = Planned::default();
    let Some(service) = state.service(name) else { return planned };
    let mut ports: Vec<&ServicePort> = service.ports.iter().collect();
    ports.sort_unstable();
    for (index, port) in ports.into_iter().enumerate() {
        let mut owned = owned_frontends(service, port, owners, &mut planned.refused);
        if index == 0 {
            owned.extend(owned_whole(service, port, owners));
        }
        if service.not_proxied.is_none() {
            planned.decisions.push(decide(state, service, port, owned));
        }
    }
    planned
}

/// A frontend that a service port gets.
struct Owned {
    frontend: FrontendAddress,
    kind: FrontendKind,
    /// Of a NodePort: the addresses that others have.
    except: Vec<IpAddr>,
}

fn owned_frontends(
    service: &Service,
    port: &ServicePort,
    owners: &Owners,
    refused: &mut Vec<Refused>,
) -> Vec<Owned> {
    let claimant = port_name(service, port);
    let mut owned = Vec::new();
    let mut refuse = |frontend: FrontendAddress, holder: Holder| {
        refused.push(Refused { claimant: claimant.clone(), frontend, holder });
    };
    for (frontend, kind) in frontends(service, port) {
        if owners.site().is_reserved(&frontend) {
            refuse(frontend, Holder::Node);
            continue;
        }
        if let Some(owner) = owners.owner(&frontend).filter(|owner| **owner != claimant) {
            refuse(frontend, Holder::ServicePort(owner.clone()));
            continue;
        }
        let mut except = Vec::new();
        for (addr, owner) in owners.exceptions(frontend) {
            refuse(FrontendAddress { addr: Some(addr), ..frontend }, Holder::ServicePort(owner.clone()));
            except.push(addr);
        }
        owned.push(Owned { frontend, kind, except });
    }
    owned
}

/// The addresses that refuse what no port is of. Not those of the host itself: everything there that is no Service's
/// is the host's own business.
fn owned_whole<'a>(
    service: &'a Service,
    first: &ServicePort,
    owners: &'a Owners,
) -> impl Iterator<Item = Owned> + use<'a> {
    let claimant = port_name(service, first);
    let owned = move |frontend: &FrontendAddress| owners.owner(frontend) == Some(&claimant);
    let foreign = |frontend: &FrontendAddress| frontend.addr.is_some_and(|addr| !owners.site().is_own(&addr));
    let whole = whole_addresses(service).filter(owned).filter(foreign);
    whole.map(|frontend| Owned { frontend, kind: FrontendKind::Whole, except: Vec::new() })
}

fn decide(state: &State, service: &Service, port: &ServicePort, owned: Vec<Owned>) -> Decision {
    let candidates = candidates(state, service, port);
    let zone = state.node().and_then(|node| node.zone.as_deref());
    let topology = Topology { node: state.node_name(), zone };
    // C13 looks at a family at a time.
    let sets = [false, true].map(|ipv6| {
        let family: Vec<Candidate<'_>> =
            candidates.iter().filter(|c| c.addr.is_ipv6() == ipv6).copied().collect();
        choose(&family, &topology)
    });
    let [v4, v6] = &sets;
    let frontends = owned
        .into_iter()
        .map(|owned| {
            let sets = if owned.frontend.ipv6 { v6 } else { v4 };
            frontend(service, owned, sets)
        })
        .collect();
    let backends = candidates
        .iter()
        .map(|candidate| Backend {
            addr: candidate.addr,
            serving: candidate.endpoint.serves(),
            local: candidate.local,
        })
        .collect();
    Decision { name: port_name(service, port), frontends, backends }
}

fn frontend(service: &Service, owned: Owned, sets: &Sets) -> Frontend {
    let Owned { frontend: address, kind, except } = owned;
    let served = match kind {
        FrontendKind::ClusterIp => sets.internal(service.internal_policy),
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            sets.external(service.external_policy)
        }
        FrontendKind::Whole => Served::NOBODY,
    };
    let guarded = kind == FrontendKind::LoadBalancer;
    let affinity_seconds = service.affinity_seconds.filter(|_| kind != FrontendKind::Whole);
    Frontend {
        addr: address.addr,
        except,
        ipv6: address.ipv6,
        port: address.port,
        kind,
        external_policy: service.external_policy,
        inside: served.inside,
        outside: served.outside,
        inside_local: served.inside_local,
        outside_local: served.outside_local,
        affinity_seconds,
        source_ranges: if guarded { source_ranges(service, address.ipv6) } else { Vec::new() },
    }
}

/// The endpoints of a service port, one for each address and port (C7, C8), sorted by those.
fn candidates<'a>(state: &'a State, service: &Service, port: &ServicePort) -> Vec<Candidate<'a>> {
    let mut found: BTreeMap<SocketAddr, (u64, Candidate<'a>)> = BTreeMap::new();
    for slice in state.slices_of(&service.name) {
        for (addr, candidate) in candidates_of_slice(slice, port, state.node_name()) {
            let copy = (slice.version, candidate);
            let known = found.entry(addr).or_insert(copy);
            if counts_before(&copy, known) {
                *known = copy;
            }
        }
    }
    found.into_values().map(|(_, candidate)| candidate).collect()
}

/// Which of two slices' copies of an endpoint counts (C8). On one node they are one pod, on its way
/// from slice to slice, and the slice that was written last knows better. Else an address has
/// found a new pod: the one that is ready counts, then one with hints, so that the other does not
/// switch topology off, then the local one.
fn counts_before(new: &(u64, Candidate<'_>), known: &(u64, Candidate<'_>)) -> bool {
    let rank = |candidate: &Candidate<'_>| {
        let endpoint = candidate.endpoint;
        let hinted = endpoint.is_hinted();
        (endpoint.ready, endpoint.serving, hinted, candidate.local)
    };
    let one_pod = new.1.endpoint.node().is_some() && new.1.endpoint.node() == known.1.endpoint.node();
    if one_pod && new.0 != known.0 {
        return new.0 > known.0;
    }
    rank(&new.1) > rank(&known.1)
}

/// Within a slice two endpoints have one address where a pod network gives it away again before the
/// first pod is gone. As kube-proxy has it, the last that is not terminating counts, else the first.
fn candidates_of_slice<'a>(
    slice: &'a EndpointSlice,
    port: &ServicePort,
    node: &str,
) -> BTreeMap<SocketAddr, Candidate<'a>> {
    let mut found: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
    let matching = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
    for (number, endpoint) in matching.flat_map(|p| slice.endpoints.iter().map(move |e| (p.port, e))) {
        let addr = SocketAddr::new(endpoint.addr, number);
        let candidate = Candidate { addr, endpoint, local: endpoint.node() == Some(node) };
        let known = found.entry(addr).or_insert(candidate);
        if !endpoint.terminating {
            *known = candidate;
        }
    }
    found
}
