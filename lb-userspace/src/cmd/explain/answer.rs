//! What becomes of a new connection, by the rows that the programs go by.
//!
//! Decides nothing that the datapath does not: it asks in the same order. Must not read maps. Invariant: every
//! reason names the row, or the missing row, that it is from.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{
    BackendFlags, BackendId, CLUSTER_NETWORK, FrontendFlags, FrontendKey, FrontendRow, SERVICE_NETWORKS,
    SlotRange,
};
use lb_common::address::{Port, Protocol};
use serde::Serialize;

use crate::tables::{Family, Tables};

/// A new connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// What is dialled.
    pub(super) frontend: SocketAddr,
    /// By what.
    pub(super) protocol: Protocol,
    /// By whom.
    pub(super) client: Option<IpAddr>,
    /// Is that a pod of this node, or the node?
    pub(super) inside: bool,
    /// Option `masquerade: always`.
    pub(super) always_masquerades: bool,
    /// The node's address of that family, which loopback stands for (C17).
    pub(super) node: IpAddr,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Answer {
    /// `left alone`, `rejected`, `dropped`, `forwarded`.
    pub(super) outcome: &'static str,
    /// The service port, where one decides.
    pub(super) service: Option<String>,
    /// Why, in the order in which rows are looked at.
    pub(super) because: Vec<String>,
    /// Where it may go.
    pub(super) backends: Vec<Share>,
}

/// A backend that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Share {
    /// Where it listens.
    pub(super) backend: SocketAddr,
    /// Its slots, of all slots of the set.
    pub(super) slots: usize,
    /// Is it on this node?
    pub(super) local: bool,
    /// Does it see the node's address instead of the client's?
    pub(super) masqueraded: bool,
}

impl Answer {
    fn new(outcome: &'static str, because: Vec<String>) -> Self {
        Self { outcome, service: None, because, backends: Vec::new() }
    }
}

/// Answers, by one family's rows.
pub(super) fn answer<A: Family>(tables: &Tables, question: &Question) -> Answer {
    let Some(addr) = A::from_ip(question.frontend.ip()) else {
        return Answer::new("left alone", Vec::new());
    };
    let key = FrontendKey::new(addr, Port::new(question.frontend.port()), question.protocol);
    match A::frontends(tables).get(&key) {
        Some(row) => frontend::<A>(tables, question, row),
        None if addr.is_loopback() => loopback::<A>(tables, question),
        None => nobodys::<A>(tables, question, addr),
    }
}

/// Loopback stands for the node's NodePorts, for the node's own processes (C17).
fn loopback<A: Family>(tables: &Tables, question: &Question) -> Answer {
    let port = Port::new(question.frontend.port());
    let key = A::from_ip(question.node).map(|node| FrontendKey::new(node, port, question.protocol));
    let row = key.and_then(|key| A::frontends(tables).get(&key));
    let Some(row) = row.filter(|row| question.inside && row.flags.has(FrontendFlags::NODE_PORT)) else {
        let why = format!(
            "{}/{} is no NodePort of {}, which loopback stands for where the node itself dials (C17)",
            question.frontend, question.protocol, question.node
        );
        return Answer::new("left alone", vec![why]);
    };
    let mut answer = frontend::<A>(tables, question, row);
    let why = format!("loopback stands for {}, for the node itself (C17)", question.node);
    answer.because.insert(0, why);
    answer
}

/// No frontend has the port.
fn nobodys<A: Family>(tables: &Tables, question: &Question, addr: A) -> Answer {
    let mut because = vec![format!("no frontend is {}/{}", question.frontend, question.protocol)];
    if let Some(row) = A::frontends(tables).get(&FrontendKey::whole(addr)) {
        because
            .push(format!("{addr} is a cluster address, and refuses ports that no Service has there (C34)"));
        let service = Some(name(tables, row.service_port));
        return Answer { service, ..Answer::new("rejected", because) };
    }
    let networks = A::networks(tables).iter().filter(|(row, _)| SERVICE_NETWORKS.contains(row));
    if networks.into_iter().any(|(_, network)| network.contains(addr)) {
        because.push(format!("{addr} is in a network of the Services, and no Service has it (C34)"));
        return Answer::new("dropped", because);
    }
    because.push(format!("{addr} is no cluster address and in no network of the Services"));
    Answer::new("left alone", because)
}

fn frontend<A: Family>(tables: &Tables, question: &Question, row: &FrontendRow) -> Answer {
    let mut because = Vec::new();
    let service = Some(name(tables, row.service_port));
    if row.flags.has(FrontendFlags::GUARDED) && !let_in::<A>(tables, question, row, &mut because) {
        return Answer { service, ..Answer::new("dropped", because) };
    }
    let (range, local, drop) = if question.inside {
        (row.inside, FrontendFlags::INSIDE_LOCAL, FrontendFlags::INSIDE_DROP)
    } else {
        (row.outside, FrontendFlags::OUTSIDE_LOCAL, FrontendFlags::OUTSIDE_DROP)
    };
    let set = if row.flags.has(local) { "local" } else { "cluster" };
    let whose = if question.inside { "pods of this node and the node itself" } else { "everyone else" };
    because.push(format!("{whose} use the service port's {set} set"));
    if range.len == 0 {
        let (outcome, reason) = if row.flags.has(drop) {
            ("dropped", "endpoints serve elsewhere, but none of the set (C33)")
        } else {
            ("rejected", "no endpoint serves (C32)")
        };
        because.push(reason.to_owned());
        return Answer { service, ..Answer::new(outcome, because) };
    }
    if row.affinity_seconds > 0 {
        let seconds = row.affinity_seconds;
        because.push(format!(
            "a client that was here in the last {seconds} s keeps its backend, while that is in the set (C30)"
        ));
    }
    let backends = shares::<A>(tables, question, row, range);
    let external = row.flags.has(FrontendFlags::EXTERNAL);
    because.push(if external && range.len as usize > backends.len() {
        format!(
            "chosen by the flow's hash from a Maglev table of {} slots, as on every node (C29)",
            range.len
        )
    } else if external {
        "chosen by the flow's hash, as on every node (C29)".to_owned()
    } else {
        "chosen at random, each as likely (C28)".to_owned()
    });
    if backends.iter().any(|share| share.masqueraded) {
        because.push(
            "masqueraded backends see the node's address, so that their replies come back here (C25, C26)"
                .to_owned(),
        );
    }
    Answer { outcome: "forwarded", service, because, backends }
}

/// Is the client in a source range (C35)?
fn let_in<A: Family>(
    tables: &Tables,
    question: &Question,
    row: &FrontendRow,
    because: &mut Vec<String>,
) -> bool {
    let of_owner = A::ranges(tables).iter().filter(|key| { key.range }.service_port == row.service_port);
    let ranges: Vec<(A, u8)> = of_owner
        .map(|key| ({ key.range }.addr, u8::try_from(key.prefix_len.saturating_sub(32)).unwrap_or(u8::MAX)))
        .collect();
    let text = |(addr, len): &(A, u8)| format!("{addr}/{len}");
    let all = || ranges.iter().map(text).collect::<Vec<_>>().join(", ");
    let Some(client) = question.client.and_then(A::from_ip) else {
        because.push(format!("only clients in {} are let in (C35); say who asks with --from", all()));
        return true;
    };
    match ranges.iter().find(|(addr, len)| client.and(A::mask(*len)) == *addr) {
        Some(range) => {
            because.push(format!("{client} is let in by the source range {} (C35)", text(range)));
            true
        }
        None => {
            because.push(format!("{client} is in none of the source ranges {} (C35)", all()));
            false
        }
    }
}

fn shares<A: Family>(
    tables: &Tables,
    question: &Question,
    row: &FrontendRow,
    range: SlotRange,
) -> Vec<Share> {
    let slots = tables.slots.iter().skip(range.start as usize).take(range.len as usize);
    let mut counts: BTreeMap<BackendId, usize> = BTreeMap::new();
    slots.for_each(|id| *counts.entry(*id).or_default() += 1);
    let share = |(id, slots): (BackendId, usize)| {
        let backend = A::backends(tables).get(&id)?;
        let local = { backend.flags }.has(BackendFlags::LOCAL);
        let at = SocketAddr::new({ backend.addr }.to_ip(), { backend.port }.get());
        Some(Share {
            backend: at,
            slots,
            local,
            masqueraded: masquerades::<A>(tables, question, row, at, local),
        })
    };
    let mut shares: Vec<Share> = counts.into_iter().filter_map(share).collect();
    shares.sort_by_key(|share| share.backend);
    shares
}

/// C23, C25, C26, as ingress has it.
fn masquerades<A: Family>(
    tables: &Tables,
    question: &Question,
    row: &FrontendRow,
    backend: SocketAddr,
    local: bool,
) -> bool {
    let external = row.flags.has(FrontendFlags::EXTERNAL);
    let pods = A::networks(tables).get(&CLUSTER_NETWORK);
    let foreign =
        question.client.and_then(A::from_ip).zip(pods).is_some_and(|(client, pods)| !pods.contains(client));
    let always = question.always_masquerades;
    let needed = if external && row.flags.has(FrontendFlags::OUTSIDE_LOCAL) {
        false
    } else if question.inside {
        external && always
    } else {
        always || !local || (!external && foreign)
    };
    needed || question.client == Some(backend.ip())
}

fn name(tables: &Tables, id: u32) -> String {
    let name = tables.service_ports.get(&id).and_then(|name| name.name());
    name.map_or_else(|| format!("(unnamed service port {id})"), str::to_owned)
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.outcome)?;
        if let Some(service) = &self.service {
            write!(f, " by {service}")?;
        }
        for reason in &self.because {
            write!(f, "\n  {reason}")?;
        }
        let all: usize = self.backends.iter().map(|share| share.slots).sum();
        for share in &self.backends {
            let local = if share.local { ", on this node" } else { "" };
            let masqueraded = if share.masqueraded { ", masqueraded" } else { "" };
            write!(f, "\n  -> {} ({} of {all}{local}{masqueraded})", share.backend, share.slots)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use lb_common::abi::{BackendRow, FrontendFlags, Prefix, RangeKey, ServicePortName};
    use lb_common::address::{Address as _, V4};

    use super::*;
    use crate::tables::MapOp;

    fn v4(text: &str) -> V4 {
        V4::from_ip(text.parse().unwrap()).unwrap()
    }

    /// A guarded external frontend 203.0.113.1:80 of a local and a remote backend, on a cluster address.
    pub(in super::super) fn tables() -> Tables {
        let mut tables = Tables::default();
        let key = FrontendKey::new(v4("203.0.113.1"), Port::new(80), Protocol::TCP);
        let range = SlotRange { start: 0, len: 3 };
        let flags = FrontendFlags(FrontendFlags::EXTERNAL | FrontendFlags::GUARDED);
        let row = FrontendRow {
            tag: key.tag(),
            service_port: 1,
            flags,
            affinity_seconds: 0,
            inside: range,
            outside: range,
        };
        let node_port = FrontendKey::new(v4("192.0.2.1"), Port::new(30_000), Protocol::TCP);
        let flags = FrontendFlags(FrontendFlags::EXTERNAL | FrontendFlags::NODE_PORT);
        let at_node = FrontendRow { tag: node_port.tag(), flags, ..row };
        let empty = FrontendRow {
            flags: FrontendFlags(FrontendFlags::OUTSIDE_DROP),
            outside: SlotRange::default(),
            ..row
        };
        let whole = FrontendKey::whole(v4("10.96.0.1"));
        let backend = |addr, flags| BackendRow {
            addr: v4(addr),
            port: Port::new(8080),
            flags: BackendFlags(BackendFlags::SERVING | flags),
            generation: 1,
            service_port: 1,
            pad: 0,
        };
        for operation in [
            MapOp::PutServicePort(1, ServicePortName::new("ns/web:/TCP").unwrap().into()),
            MapOp::PutBackendV4(BackendId(1), backend("10.244.0.1", BackendFlags::LOCAL)),
            MapOp::PutBackendV4(BackendId(2), backend("10.244.1.1", 0)),
            MapOp::PutSlots { start: 0, backends: [1, 2, 2].map(BackendId).into() },
            MapOp::PutRangeV4(RangeKey::new(1, v4("192.168.0.0"), 16)),
            MapOp::PutFrontendV4(key, row),
            MapOp::PutFrontendV4(node_port, at_node),
            MapOp::PutFrontendV4(FrontendKey::new(v4("203.0.113.1"), Port::new(81), Protocol::TCP), empty),
            MapOp::PutFrontendV4(
                whole,
                FrontendRow { tag: whole.tag(), service_port: 1, ..FrontendRow::default() },
            ),
            MapOp::PutNetworkV4(1, Prefix::new(v4("10.96.0.0"), 12)),
        ] {
            tables.apply(&operation);
        }
        tables
    }

    fn asked(frontend: &str, client: Option<&str>, inside: bool) -> Answer {
        let question = Question {
            frontend: frontend.parse().unwrap(),
            protocol: Protocol::TCP,
            client: client.map(|client| client.parse().unwrap()),
            inside,
            always_masquerades: false,
            node: "192.0.2.1".parse().unwrap(),
        };
        answer::<V4>(&tables(), &question)
    }

    #[test]
    fn outcomes_follow_the_rows() {
        let table = [
            ("203.0.113.1:80", Some("192.168.1.1"), "forwarded", "let in by the source range 192.168.0.0/16"),
            ("203.0.113.1:80", Some("8.8.8.8"), "dropped", "in none of the source ranges 192.168.0.0/16"),
            ("203.0.113.1:80", None, "forwarded", "say who asks"),
            ("203.0.113.1:81", Some("192.168.1.1"), "dropped", "C33"),
            ("203.0.113.1:82", None, "left alone", "no frontend is 203.0.113.1:82/TCP"),
            ("10.96.0.1:82", None, "rejected", "C34"),
            ("10.96.0.2:82", None, "dropped", "no Service has it"),
        ];
        for (frontend, client, outcome, reason) in table {
            let answer = asked(frontend, client, false);
            assert_eq!(answer.outcome, outcome, "{frontend} {client:?}: {answer}");
            assert!(answer.to_string().contains(reason), "{answer}");
        }
    }

    #[test]
    fn c17_loopback_is_explained_as_the_node_port_that_it_stands_for() {
        let from_the_node = asked("127.0.0.1:30000", None, true);
        assert_eq!(from_the_node.outcome, "forwarded", "{from_the_node}");
        assert!(from_the_node.because[0].contains("stands for 192.0.2.1"), "{from_the_node}");
        for (frontend, inside) in [("127.0.0.1:30000", false), ("127.0.0.1:80", true)] {
            assert_eq!(asked(frontend, None, inside).outcome, "left alone", "{frontend}");
        }
    }

    #[test]
    fn c25_backends_come_with_their_share_and_whom_they_see() {
        let text = asked("203.0.113.1:80", Some("192.168.1.1"), false).to_string();
        assert!(text.starts_with("forwarded by ns/web:/TCP\n"), "{text}");
        assert!(text.contains("-> 10.244.0.1:8080 (1 of 3, on this node)"), "{text}");
        assert!(text.contains("-> 10.244.1.1:8080 (2 of 3, masqueraded)"), "{text}");
        let inside = asked("203.0.113.1:80", Some("192.168.1.1"), true);
        assert!(inside.backends.iter().all(|share| !share.masqueraded), "{inside}");
    }
}
