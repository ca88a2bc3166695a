//! What the contract says a client gets, in one pure function.
//!
//! Decides by C11, C12, C14, C15, C23 to C26, C32 and C33, read off the contract's text; must not know the
//! product's planner, addresses, or how a row is dialled. Invariant: a total function of where things
//! are.
//!
//! The cluster has two nodes: *here*, whose frontends are dialled, and *there*. Outside clients' packets
//! come to the node here.

use std::collections::BTreeMap;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The node that is dialled.
    Here,
    /// The other one.
    There,
}

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A pod of the node here.
    PodHere,
    /// A pod of the other node.
    PodThere,
    /// A process of the node here.
    NodeHere,
    /// A machine outside of the cluster.
    Outside,
}

/// What is dialled. A NodePort is the one of the node here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    ClusterIp,
    NodePort,
    /// The NodePort at 127.0.0.1 or ::1 (C17): for the node itself.
    Loopback,
    LoadBalancerIp,
    ExternalIp,
}

/// Traffic policy: internal for ClusterIPs, external for all other frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Cluster,
    Local,
}

/// A server behind a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    /// The name it answers with.
    pub(crate) name: &'static str,
    /// Its node.
    pub(crate) place: Place,
    /// Has it its node's address, instead of a pod's?
    pub(crate) host_network: bool,
    /// Ready; if not, it is terminating and still serves.
    pub(crate) ready: bool,
}

/// What is not the load balancer's to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cni {
    /// Does it masquerade what pods send to nodes' addresses?
    pub(crate) masquerades: bool,
}

/// What a dial must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Each of these answers some time, and nobody else ever; each sees such a source.
    Served(BTreeMap<&'static str, Source>),
    /// A reset, or an ICMP error: ECONNREFUSED.
    Refused,
    /// Nothing at all.
    Silent,
}

/// The client's address as a backend sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client's own.
    Own,
    /// The address of that node's uplink.
    Uplink(Place),
    /// The address of the device by which that node sends to the other's pods.
    TowardsPods(Place),
    /// Some address of that node.
    AnyOf(Place),
}

/// Where a client's packet meets the load balancer, and as what.
struct Entry {
    place: Place,
    /// It comes from a pod of that node, or from the node itself.
    inside: bool,
}

/// What `client` gets that dials `front` of a Service with these policies and backends. `name` is the
/// client's own, if it is a backend too.
pub(crate) fn expect(
    (client, name): (Client, &str),
    front: Front,
    policy: Policy,
    backends: &[Backend],
    cni: Cni,
) -> Expected {
    let entry = entry(client, front);
    // C14: a ClusterIP obeys its policy whoever dials. C15, C24: any other frontend does so for packets
    // that come from outside; pods of the node and the node itself use the cluster set.
    let local = policy == Policy::Local && (front == Front::ClusterIp || !entry.inside);
    let cluster_set = usable(backends, |_| true);
    let set =
        if local { usable(backends, |backend| backend.place == entry.place) } else { cluster_set.clone() };
    if set.is_empty() {
        // C33: there are endpoints, elsewhere: silence. C32: there is none: refusal.
        return if local && !cluster_set.is_empty() { Expected::Silent } else { Expected::Refused };
    }
    let sources =
        set.into_iter().map(|backend| (backend.name, source((client, name), front, &entry, backend, cni)));
    Expected::Served(sources.collect())
}

/// A pod's packets are translated on its own node, at its own interface, unless they are for the other
/// node's NodePort: to that node they are as good as from outside (C24: anything but a pod of this node).
fn entry(client: Client, front: Front) -> Entry {
    match (client, front) {
        (Client::PodHere | Client::NodeHere, _) => Entry { place: Place::Here, inside: true },
        (Client::PodThere, Front::NodePort) | (Client::Outside, _) => {
            Entry { place: Place::Here, inside: false }
        }
        (Client::PodThere, _) => Entry { place: Place::There, inside: true },
    }
}

/// C11, C12: those that are ready; if there is none, those that still serve.
fn usable(backends: &[Backend], among: impl Fn(&&Backend) -> bool) -> Vec<Backend> {
    let of = |ready| backends.iter().filter(&among).filter(|one| one.ready == ready).copied().collect();
    let ready: Vec<Backend> = of(true);
    if ready.is_empty() { of(false) } else { ready }
}

fn source((client, name): (Client, &str), front: Front, entry: &Entry, backend: Backend, cni: Cni) -> Source {
    if client == Client::NodeHere {
        // C25, C26: the node's own connections have the node's address anyway.
        return Source::AnyOf(Place::Here);
    }
    if entry.inside {
        return if backend.name == name {
            // C23: a pod that is given itself sees a node address.
            Source::AnyOf(entry.place)
        } else if cni.masquerades && backend.host_network && backend.place != entry.place {
            // The CNI's doing, after the load balancer's: what is for the other node's address leaves
            // with this node's.
            Source::Uplink(entry.place)
        } else {
            // C25, C26: a pod of this node keeps its address, towards every frontend and node.
            Source::Own
        };
    }
    if backend.place != entry.place {
        // C25, C26: from outside to another node, the address of the outgoing interface.
        return if backend.host_network {
            Source::Uplink(entry.place)
        } else {
            Source::TowardsPods(entry.place)
        };
    }
    // C24 (Local) and C25 (Cluster, backend on this node): the address it came with. The other node's pod
    // came with that node's, if its CNI made it so.
    let by_cni = client == Client::PodThere && front == Front::NodePort && cni.masquerades;
    if by_cni { Source::Uplink(Place::There) } else { Source::Own }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Backend = Backend { name: "a", place: Place::Here, host_network: false, ready: true };
    const B: Backend = Backend { name: "b", place: Place::There, host_network: false, ready: true };
    const PLAIN: Cni = Cni { masquerades: false };

    fn served(sources: &[(&'static str, Source)]) -> Expected {
        Expected::Served(sources.iter().copied().collect())
    }

    #[test]
    fn c24_who_dials_decides_what_external_policy_local_means() {
        for front in [Front::NodePort, Front::LoadBalancerIp, Front::ExternalIp] {
            let dial =
                |client, backends: &[Backend]| expect((client, "x"), front, Policy::Local, backends, PLAIN);
            let both = served(&[("a", Source::Own), ("b", Source::Own)]);
            assert_eq!(dial(Client::PodHere, &[A, B]), both);
            assert_eq!(dial(Client::Outside, &[A, B]), served(&[("a", Source::Own)]));
            assert_eq!(dial(Client::Outside, &[B]), Expected::Silent);
            assert_eq!(dial(Client::PodHere, &[B]), served(&[("b", Source::Own)]));
            assert_eq!(dial(Client::Outside, &[]), Expected::Refused);
        }
        let there = expect((Client::PodThere, "x"), Front::NodePort, Policy::Local, &[A, B], PLAIN);
        assert_eq!(there, served(&[("a", Source::Own)]));
    }

    #[test]
    fn c25_only_what_comes_from_outside_for_a_backend_elsewhere_is_masqueraded() {
        let dial = |client| expect((client, "x"), Front::NodePort, Policy::Cluster, &[A, B], PLAIN);
        let masqueraded = served(&[("a", Source::Own), ("b", Source::TowardsPods(Place::Here))]);
        assert_eq!(dial(Client::Outside), masqueraded);
        assert_eq!(dial(Client::PodThere), masqueraded);
        assert_eq!(dial(Client::PodHere), served(&[("a", Source::Own), ("b", Source::Own)]));
    }

    #[test]
    fn c12_c14_c23_c33_the_rest_in_one_example_each() {
        let leaving = Backend { ready: false, ..A };
        let dial = |policy, backends: &[Backend]| {
            expect((Client::PodHere, "x"), Front::ClusterIp, policy, backends, PLAIN)
        };
        assert_eq!(dial(Policy::Cluster, &[leaving, B]), served(&[("b", Source::Own)]));
        assert_eq!(dial(Policy::Local, &[leaving, B]), served(&[("a", Source::Own)]));
        assert_eq!(dial(Policy::Local, &[B]), Expected::Silent);
        let own = expect((Client::PodHere, "a"), Front::ClusterIp, Policy::Cluster, &[A], PLAIN);
        assert_eq!(own, served(&[("a", Source::AnyOf(Place::Here))]));
    }
}
