//! Flows as people read them: one line each, from the row that the client's packets meet.
//!
//! Decides which of a flow's rows speaks for it. Must not know how rows are read. Invariant: a flow is
//! shown once.

use std::collections::HashMap;
use std::net::SocketAddr;

use lb_common::abi::{FlowFlags, FlowKey, FlowRow, Hook};
use lb_common::address::{Address, Port, Protocol};
use lb_common::flow_state::PairState;
use serde::Serialize;

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Who dialled.
    pub client: SocketAddr,
    /// What was dialled.
    pub frontend: SocketAddr,
    /// Who serves.
    pub backend: SocketAddr,
    /// The source that the backend sees, where it is not the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_as: Option<SocketAddr>,
    /// What the two sides have said.
    pub state: &'static str,
    /// Seconds since a packet passed.
    pub idle_seconds: u32,
    /// The service port's id.
    #[serde(skip)]
    pub service_port: u32,
    /// The service port.
    pub service: String,
}

/// Turns rows, settled and half-open ones together, into flows. `idle` tells the seconds since `last_seen`.
pub fn flows<A: Address>(rows: &HashMap<FlowKey<A>, FlowRow<A>>, idle: impl Fn(u32) -> u32) -> Vec<FlowView> {
    let mut flows: Vec<FlowView> = rows
        .iter()
        .filter(|(key, row)| key.hook == Hook::INGRESS && row.flags.has(FlowFlags::FORWARD))
        .map(|(key, row)| view(key, row, rows, &idle))
        .collect();
    flows.sort_by_key(|flow| (flow.frontend, flow.client));
    flows
}

fn view<A: Address>(
    key: &FlowKey<A>,
    row: &FlowRow<A>,
    rows: &HashMap<FlowKey<A>, FlowRow<A>>,
    idle: impl Fn(u32) -> u32,
) -> FlowView {
    let reply = rows.get(&key.partner(row));
    let inside = key.rewritten(row);
    let out = rows.get(&inside.at(Hook::EGRESS)).filter(|_| row.flags.has(FlowFlags::MASQUERADED));
    let client = socket(key.src, key.src_port);
    let seen_as = out
        .filter(|out| !out.flags.has(FlowFlags::PENDING))
        .map_or_else(|| socket(inside.src, inside.src_port), |out| socket(out.addr, out.port));
    let last_seen = reply.map_or(idle(row.last_seen), |reply| idle(reply.last_seen).min(idle(row.last_seen)));
    FlowView {
        protocol: key.protocol.to_string(),
        client,
        frontend: socket(key.dst, key.dst_port),
        backend: socket(row.addr, row.port),
        seen_as: (seen_as != client).then_some(seen_as),
        state: state(key.protocol, row, reply),
        idle_seconds: last_seen,
        service_port: row.service_port,
        service: String::new(),
    }
}

fn state<A: Address>(protocol: Protocol, row: &FlowRow<A>, reply: Option<&FlowRow<A>>) -> &'static str {
    let Some(reply) = reply else { return "broken" };
    match PairState::of(row.side(), reply.side()) {
        PairState::Opening if protocol.connects() => "opening",
        PairState::Opening => "unanswered",
        PairState::Established => "established",
        PairState::HalfClosed => "half-closed",
        PairState::Closed => "closed",
    }
}

fn socket<A: Address>(addr: A, port: Port) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port.get())
}
