//! Decisions as rows that can be compared with what another proxy does.
//!
//! Decides how a decision reads for each class of clients, and whose packets get the node's
//! address (contract C23, C25, C26). Must not know how the datapath does it. Invariant: one row
//! for each frontend; a row depends on its decision and the options alone.
//!
//! The classes are *pod* (one of this node), *node* (its own processes) and *outside* (everyone
//! else). Hairpin (C23) is a matter of one client and one backend, so it is in no row: a
//! pod that is given itself as the backend is masqueraded whatever `masquerade_backends` says.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::decision::{BackendSet, Decision, Frontend, FrontendKind};
use crate::model::{Families, TrafficPolicy};

/// When a client's source address is replaced by the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// Wherever kube-proxy does it; else only where the reply would not come back through this node (C25, C26).
    pub always: bool,
    /// The families in which it is known who is a pod (option `clusterCIDR`, C26); *outside* is then who is none.
    pub pods_known: Families,
}

impl Masquerade {
    /// As kube-proxy.
    pub const ALWAYS: Self = Self { always: true, pods_known: Families { v4: false, v6: false } };
}

/// A frontend and what its clients get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `address`, or `nodeport` for every NodePort address of the node.
    pub kind: &'static str,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// The address; none for a NodePort.
    pub address: Option<IpAddr>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port.
    pub port: u16,
    /// By class.
    pub clients: Clients,
    /// Seconds of ClientIP affinity, where anybody serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<u32>,
    /// Who may use a guarded load balancer address; a single host without `/32` or `/128`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<String>,
    /// `namespace/service:port`, or `namespace/service` for a port without a name.
    pub owner: String,
}

/// What each class of clients gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// A pod of this node.
    pub pod: Answer,
    /// A process of the node itself.
    pub node: Answer,
    /// Everyone else.
    pub outside: Answer,
}

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// One of several backends.
    Served {
        /// Those that may be chosen, as text, sorted.
        backends: Vec<String>,
        /// Is the source replaced towards any of them?
        masquerade: bool,
        /// Those towards which it is.
        masquerade_backends: Vec<String>,
    },
    /// `"reject"` or `"drop"`.
    Refused(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Pod,
    Node,
    Outside,
}

/// The rows of `decisions`, sorted by kind, family, address, protocol and port.
#[must_use]
pub fn rows<'a>(decisions: impl IntoIterator<Item = &'a Decision>, masquerade: Masquerade) -> Vec<Row> {
    let mut rows: Vec<Row> = decisions
        .into_iter()
        .flat_map(|decision| {
            let dialled = decision.frontends.iter().filter(|frontend| frontend.kind != FrontendKind::Whole);
            dialled.map(|frontend| row(decision, frontend, masquerade))
        })
        .collect();
    rows.sort_by(|a, b| {
        let key = |row: &Row| (row.kind, row.family, row.address, row.protocol.clone(), row.port);
        key(a).cmp(&key(b))
    });
    rows
}

fn row(decision: &Decision, frontend: &Frontend, masquerade: Masquerade) -> Row {
    let answer = |client, set| answer(decision, frontend, client, set, masquerade);
    let clients = Clients {
        pod: answer(Client::Pod, &frontend.inside),
        node: answer(Client::Node, &frontend.inside),
        outside: answer(Client::Outside, &frontend.outside),
    };
    let anybody =
        [&frontend.inside, &frontend.outside].iter().any(|set| matches!(set, BackendSet::Backends(_)));
    let name = &decision.name;
    let port = if name.port.is_empty() { String::new() } else { format!(":{}", name.port) };
    Row {
        kind: if frontend.addr.is_some() { "address" } else { "nodeport" },
        family: if frontend.ipv6 { "IPv6" } else { "IPv4" },
        address: frontend.addr,
        protocol: name.protocol.to_string(),
        port: frontend.port,
        clients,
        affinity_seconds: frontend.affinity_seconds.filter(|_| anybody),
        source_ranges: frontend.source_ranges.iter().map(range_text).collect(),
        owner: format!("{}{port}", name.service),
    }
}

fn range_text(range: &ipnet::IpNet) -> String {
    if range.prefix_len() == range.max_prefix_len() { range.addr().to_string() } else { range.to_string() }
}

fn answer(
    decision: &Decision,
    frontend: &Frontend,
    client: Client,
    set: &BackendSet,
    masquerade: Masquerade,
) -> Answer {
    let addresses = match set {
        BackendSet::Backends(addresses) => addresses,
        BackendSet::Reject => return Answer::Refused("reject"),
        BackendSet::Drop => return Answer::Refused("drop"),
    };
    let local: BTreeSet<SocketAddr> =
        decision.backends.iter().filter(|backend| backend.local).map(|backend| backend.addr).collect();
    let foreign = client == Client::Outside
        && frontend.kind == FrontendKind::ClusterIp
        && (if frontend.ipv6 { masquerade.pods_known.v6 } else { masquerade.pods_known.v4 });
    let masqueraded = |addr: &&SocketAddr| {
        if masquerade.always {
            kube_proxy_masquerades(frontend, client)
        } else {
            foreign || needs_masquerade(client, local.contains(addr))
        }
    };
    let masquerade_backends = texts(addresses.iter().filter(masqueraded));
    Answer::Served {
        backends: texts(addresses.iter()),
        masquerade: !masquerade_backends.is_empty(),
        masquerade_backends,
    }
}

/// C25 and C26: only a remote backend's reply to a client outside would miss this node. With
/// `externalTrafficPolicy: Local` clients outside have local backends only, so nothing is left
/// of it (C24).
fn needs_masquerade(client: Client, local: bool) -> bool {
    client == Client::Outside && !local
}

/// What `masquerade: always` restores.
fn kube_proxy_masquerades(frontend: &Frontend, client: Client) -> bool {
    match (frontend.kind, frontend.external_policy) {
        (FrontendKind::ClusterIp | FrontendKind::Whole, _) => client == Client::Outside,
        (_, TrafficPolicy::Cluster) => true,
        (_, TrafficPolicy::Local) => client == Client::Node,
    }
}

fn texts<'a>(addresses: impl Iterator<Item = &'a SocketAddr>) -> Vec<String> {
    let mut texts: Vec<String> = addresses.map(SocketAddr::to_string).collect();
    texts.sort_unstable();
    texts
}
