//! Which endpoints a frontend uses.
//!
//! Decides contract C11 to C15, C24, C32 and C33 by one pure function from endpoints, topology
//! and policy to backend sets. Must not know Services, frontends or maps. Invariant: sets are
//! sorted and unique, and each is a subset of the endpoints given.

use std::net::SocketAddr;

use super::decision::BackendSet;
use crate::model::{EndpointRef, TrafficPolicy};

/// An endpoint, on one service port of one family.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its conditions and hints.
    pub endpoint: EndpointRef<'a>,
    /// Is it on this node (C9)?
    pub local: bool,
}

/// Where this node is.
#[derive(Clone, Copy, Debug)]
pub struct Topology<'a> {
    /// Its name.
    pub node: &'a str,
    /// Its zone, if it is in one.
    pub zone: Option<&'a str>,
}

/// The two sets that policies choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sets {
    /// C11.
    pub cluster: Vec<SocketAddr>,
    /// C12.
    pub local: Vec<SocketAddr>,
}

/// What clients of a frontend get, by where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Pods of this node and the node itself.
    pub inside: BackendSet,
    /// Everyone else.
    pub outside: BackendSet,
    /// Is `inside` the local set (C12), not the cluster set (C11)?
    pub inside_local: bool,
    /// The same of `outside`.
    pub outside_local: bool,
}

impl Served {
    /// A refusal for everyone (C34).
    pub const NOBODY: Self = Self {
        inside: BackendSet::Reject,
        outside: BackendSet::Reject,
        inside_local: false,
        outside_local: false,
    };
}

/// The cluster set and the local set (C11 to C13). The fallbacks of the two are independent.
#[must_use]
pub fn choose(candidates: &[Candidate<'_>], topology: &Topology<'_>) -> Sets {
    let ready: Vec<&Candidate<'_>> = candidates.iter().filter(|candidate| candidate.endpoint.ready).collect();
    let stand_ins = || candidates.iter().filter(|candidate| candidate.endpoint.stands_in());
    let mut cluster = addresses(near(&ready, topology));
    if cluster.is_empty() {
        cluster = addresses(stand_ins());
    }
    let mut local = addresses(ready.iter().copied().filter(|candidate| candidate.local));
    if local.is_empty() {
        local = addresses(stand_ins().filter(|candidate| candidate.local));
    }
    Sets { cluster, local }
}

/// The ready endpoints that topology allows (C13): those whose hints name this node, else its
/// zone, else all. One endpoint without hints switches that kind of hint off.
fn near<'a, 'b>(
    ready: &'b [&'b Candidate<'a>],
    topology: &Topology<'_>,
) -> Box<dyn Iterator<Item = &'b Candidate<'a>> + 'b> {
    let for_node =
        |candidate: &Candidate<'_>| candidate.endpoint.for_nodes().iter().any(|name| name == topology.node);
    let for_zone = |candidate: &Candidate<'_>| {
        topology.zone.is_some_and(|zone| candidate.endpoint.for_zones().iter().any(|name| name == zone))
    };
    let hinted = |named: &[bool], all: bool| all && named.contains(&true);
    let by_node: Vec<bool> = ready.iter().map(|candidate| for_node(candidate)).collect();
    let by_zone: Vec<bool> = ready.iter().map(|candidate| for_zone(candidate)).collect();
    let pick = if hinted(&by_node, ready.iter().all(|candidate| !candidate.endpoint.for_nodes().is_empty())) {
        by_node
    } else if hinted(&by_zone, ready.iter().all(|candidate| !candidate.endpoint.for_zones().is_empty())) {
        by_zone
    } else {
        vec![true; ready.len()]
    };
    Box::new(ready.iter().copied().zip(pick).filter_map(|(candidate, picked)| picked.then_some(candidate)))
}

fn addresses<'a: 'b, 'b>(candidates: impl Iterator<Item = &'b Candidate<'a>>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = candidates.map(|candidate| candidate.addr).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl Sets {
    /// What clients of the cluster address get (C14): the same wherever they are.
    #[must_use]
    pub fn internal(&self, policy: TrafficPolicy) -> Served {
        let local = policy == TrafficPolicy::Local;
        let set = self.set(local);
        Served { inside: set.clone(), outside: set, inside_local: local, outside_local: local }
    }

    /// What clients of every other address get (C15, C24).
    #[must_use]
    pub fn external(&self, policy: TrafficPolicy) -> Served {
        let local = policy == TrafficPolicy::Local;
        Served {
            inside: self.set(false),
            outside: self.set(local),
            inside_local: false,
            outside_local: local,
        }
    }

    fn set(&self, local: bool) -> BackendSet {
        if local { self.local_set() } else { self.cluster_set() }
    }

    fn cluster_set(&self) -> BackendSet {
        if self.cluster.is_empty() { BackendSet::Reject } else { BackendSet::Backends(self.cluster.clone()) }
    }

    /// The cluster set is empty only where no endpoint of any node serves, so it tells C32 from C33.
    fn local_set(&self) -> BackendSet {
        match (self.local.is_empty(), self.cluster.is_empty()) {
            (false, _) => BackendSet::Backends(self.local.clone()),
            (true, false) => BackendSet::Drop,
            (true, true) => BackendSet::Reject,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::model::{Endpoint, Placement};

    const HERE: Topology<'_> = Topology { node: "here", zone: Some("za") };

    /// One endpoint a word: its last byte, then `r`eady, `s`erving and terminating, `u`nready or
    /// `n`ot ready but serving; `l` for local; `@zone`; `#node`.
    fn endpoints(words: &str) -> Vec<(Endpoint, bool)> {
        words.split_whitespace().map(endpoint).collect()
    }

    fn endpoint(word: &str) -> (Endpoint, bool) {
        let (word, node) = word.split_once('#').map_or((word, None), |(word, node)| (word, Some(node)));
        let (word, zone) = word.split_once('@').map_or((word, None), |(word, zone)| (word, Some(zone)));
        let digits = word.trim_end_matches(char::is_alphabetic);
        let has = |letter| word.contains(letter);
        let endpoint = Endpoint {
            addr: IpAddr::V4(Ipv4Addr::new(10, 0, 0, digits.parse().unwrap())),
            ready: has('r'),
            serving: has('r') || has('s') || has('n'),
            terminating: has('s'),
            placement: Placement::of(None, zone.map(str::to_owned), node.map(str::to_owned)),
        };
        (endpoint, has('l'))
    }

    fn chosen(words: &str, topology: &Topology<'_>) -> Sets {
        let endpoints = endpoints(words);
        let candidates: Vec<Candidate<'_>> = endpoints
            .iter()
            .map(|(endpoint, local)| Candidate {
                addr: SocketAddr::new(endpoint.addr, 80),
                endpoint: endpoint.view(),
                local: *local,
            })
            .collect();
        choose(&candidates, topology)
    }

    fn last_bytes(set: &[SocketAddr]) -> Vec<u8> {
        set.iter().map(|addr| if let IpAddr::V4(v4) = addr.ip() { v4.octets()[3] } else { 0 }).collect()
    }

    #[test]
    fn c11_c12_c13_the_truth_table_of_sets() {
        let table: &[(&str, &str, &[u8], &[u8])] = &[
            ("nobody", "", &[], &[]),
            ("ready ones, the local among them", "1r 2rl", &[1, 2], &[2]),
            ("unready ones never serve", "1u 2ul 3n 4nl", &[], &[]),
            ("serving and terminating stand in", "1s 2sl 3u", &[1, 2], &[2]),
            ("only where none is ready", "1r 2s", &[1], &[]),
            ("the fallbacks are independent", "1r 2sl", &[1], &[2]),
            ("a local ready one keeps local stand-ins out", "1rl 2sl", &[1], &[1]),
            ("zone hints", "1r@za 2r@zb", &[1], &[]),
            ("the local set ignores hints", "1r@za 2rl@zb", &[1], &[2]),
            ("nobody for this zone", "1r@zb 2r@zc", &[1, 2], &[]),
            ("one without hints switches them off", "1r@za 2r", &[1, 2], &[]),
            ("an unready one without hints does not", "1r@za 2r@zb 3u", &[1], &[]),
            ("node hints", "1r#here 2r#there", &[1], &[]),
            ("node hints before zone hints", "1r@zb#here 2r@za#there", &[1], &[]),
            ("zone hints where node hints fail", "1r@za#there 2r@zb#there", &[1], &[]),
            ("zone hints where one lacks a node hint", "1r@za#here 2r@za 3r@zb", &[1, 2], &[]),
            ("stand-ins ignore topology", "1s@zb 2s@za", &[1, 2], &[]),
        ];
        for (case, words, cluster, local) in table {
            let sets = chosen(words, &HERE);
            assert_eq!(last_bytes(&sets.cluster), *cluster, "cluster set: {case}");
            assert_eq!(last_bytes(&sets.local), *local, "local set: {case}");
        }
    }

    #[test]
    fn c13_a_node_without_a_zone_ignores_zone_hints() {
        let sets = chosen("1r@za 2r@zb", &Topology { node: "here", zone: None });
        assert_eq!(last_bytes(&sets.cluster), [1, 2]);
    }

    #[test]
    fn c14_c15_c24_c32_c33_the_truth_table_of_policies() {
        use TrafficPolicy::{Cluster, Local};
        fn show(set: &BackendSet) -> String {
            match set {
                BackendSet::Backends(addresses) => format!("{:?}", last_bytes(addresses)),
                BackendSet::Reject => "reject".to_owned(),
                BackendSet::Drop => "drop".to_owned(),
            }
        }
        let table = [
            // endpoints, policy, internal, external inside, external outside
            ("1r 2rl", Cluster, "[1, 2]", "[1, 2]", "[1, 2]"),
            ("1r 2rl", Local, "[2]", "[1, 2]", "[2]"),
            ("1r", Local, "drop", "[1]", "drop"),
            ("1s", Local, "drop", "[1]", "drop"),
            ("1u", Local, "reject", "reject", "reject"),
            ("1n 2nl", Cluster, "reject", "reject", "reject"),
            ("", Cluster, "reject", "reject", "reject"),
        ];
        for (words, policy, internal, inside, outside) in table {
            let sets = chosen(words, &HERE);
            assert_eq!(show(&sets.internal(policy).inside), internal, "{words} {policy:?}");
            assert_eq!(show(&sets.internal(policy).outside), internal, "{words} {policy:?}");
            assert_eq!(show(&sets.external(policy).inside), inside, "{words} {policy:?}");
            assert_eq!(show(&sets.external(policy).outside), outside, "{words} {policy:?}");
        }
    }
}
