//! Which flow rows have outlived their flow.
//!
//! Decides by the pair's state and the time since either side was last heard. Must not delete, nor read
//! clocks: rows and ages come in, keys go out. Invariant: all rows of a flow are named, or none; what is left of a flow
//! without its first row goes once nothing can come of it.

use std::collections::{HashMap, HashSet};

use lb_common::abi::{FlowFlags, FlowKey, FlowRow, Hook};
use lb_common::address::{Address, Protocol};
use lb_common::flow_state::{PairState, Timeouts};

/// The rows to delete, each with the time it was last seen: one seen since then is to stay.
pub type Expired<A> = Vec<(FlowKey<A>, u32)>;

/// Finds the rows that are to go. `idle` tells the seconds since a row's `last_seen`.
pub fn expired<A: Address>(
    rows: &HashMap<FlowKey<A>, FlowRow<A>>,
    timeouts: &Timeouts,
    idle: impl Fn(u32) -> u32,
) -> Expired<A> {
    let mut gone = Vec::new();
    let mut claimed = HashSet::new();
    for (key, row) in rows.iter().filter(|(key, row)| leads(key, row)) {
        let flow = keys(key, row, rows);
        let idle = flow.iter().filter_map(|key| rows.get(key)).map(|row| idle(row.last_seen)).min();
        let reply = flow.get(1).and_then(|key| rows.get(key));
        if idle.unwrap_or(0) >= patience(key.protocol, row, reply, timeouts) {
            gone.extend(flow.iter().filter_map(|key| Some((*key, rows.get(key)?.last_seen))));
        }
        claimed.extend(flow);
    }
    for (key, row) in rows {
        if !claimed.contains(key) && idle(row.last_seen) >= timeouts.closed {
            gone.push((*key, row.last_seen));
        }
    }
    gone
}

/// Row 1 of its flow: the one a client's packet meets first.
fn leads<A: Address>(key: &FlowKey<A>, row: &FlowRow<A>) -> bool {
    key.hook == Hook::INGRESS && row.flags.has(FlowFlags::FORWARD)
}

/// The keys of a flow's rows, given its first: 1, 4, and 2 and 3 where it is masqueraded.
#[must_use]
pub fn keys<A: Address>(
    first: &FlowKey<A>,
    row: &FlowRow<A>,
    rows: &HashMap<FlowKey<A>, FlowRow<A>>,
) -> Vec<FlowKey<A>> {
    let mut keys = vec![*first, first.partner(row)];
    if row.flags.has(FlowFlags::MASQUERADED) {
        let out = first.rewritten(row).at(Hook::EGRESS);
        keys.push(out);
        keys.extend(rows.get(&out).map(|row| out.partner(row)));
    }
    keys
}

/// Seconds that a flow may be idle.
fn patience<A: Address>(
    protocol: Protocol,
    row: &FlowRow<A>,
    reply: Option<&FlowRow<A>>,
    timeouts: &Timeouts,
) -> u32 {
    match reply {
        None => timeouts.closed,
        Some(reply) if protocol.connects() => timeouts.tcp(PairState::of(row.side(), reply.side())),
        Some(reply) => timeouts.udp(reply.side() != lb_common::flow_state::SideState::OPENING),
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use lb_common::address::{Port, V4};
    use lb_common::flow_state::SideState;

    use super::*;

    const CLIENT: [u8; 4] = [10, 244, 1, 2];
    const VIP: [u8; 4] = [10, 96, 0, 10];
    const BACKEND: [u8; 4] = [10, 244, 1, 3];

    type Rows = HashMap<FlowKey<V4>, FlowRow<V4>>;

    fn addr(octets: [u8; 4]) -> V4 {
        std::net::Ipv4Addr::from(octets).into()
    }

    fn flow(client_port: u16, states: (SideState, SideState), protocol: Protocol) -> Rows {
        let key = FlowKey {
            src: addr(CLIENT),
            dst: addr(VIP),
            src_port: Port::new(client_port),
            dst_port: Port::new(80),
            protocol,
            hook: Hook::INGRESS,
            pad: [0; 2],
        };
        let row = FlowRow {
            addr: addr(BACKEND),
            port: Port::new(8080),
            other_port: key.src_port,
            state: states.0.0,
            flags: FlowFlags(FlowFlags::FORWARD),
            ..FlowRow::zeroed()
        };
        let (addr, port, other_port) = key.undo();
        let reply = FlowRow { addr, port, other_port, state: states.1.0, ..FlowRow::zeroed() };
        HashMap::from([(key, row), (key.partner(&row), reply)])
    }

    fn expired_after(rows: &Rows, seconds: u32) -> usize {
        expired(rows, &Timeouts::default(), |_| seconds).len()
    }

    #[test]
    fn each_state_has_its_patience_and_rows_go_together() {
        use SideState as S;
        let timeouts = Timeouts::default();
        for (states, protocol, patience) in [
            ((S::OPEN, S::OPEN), Protocol::TCP, timeouts.established),
            ((S::FINISHED, S::OPEN), Protocol::TCP, timeouts.half_closed),
            ((S::FINISHED, S::FINISHED), Protocol::TCP, timeouts.closed),
            ((S::OPEN, S::RESET), Protocol::TCP, timeouts.closed),
            ((S::OPEN, S::OPEN), Protocol::UDP, timeouts.udp_established),
            ((S::OPEN, S::OPENING), Protocol::UDP, timeouts.udp_opening),
        ] {
            let rows = flow(40_000, states, protocol);
            assert_eq!(expired_after(&rows, patience - 1), 0, "{states:?}");
            assert_eq!(expired_after(&rows, patience), 2, "{states:?}");
        }
    }

    #[test]
    fn a_side_that_still_speaks_keeps_both_rows() {
        let mut rows = flow(40_000, (SideState::OPEN, SideState::OPEN), Protocol::UDP);
        for (key, row) in &mut rows {
            row.last_seen = u32::from(key.hook == Hook::EGRESS);
        }
        let gone = expired(&rows, &Timeouts::default(), |last_seen| if last_seen == 1 { 0 } else { 1_000 });
        assert_eq!(gone, []);
    }

    #[test]
    fn what_is_left_of_a_flow_goes_in_the_end() {
        let mut rows = flow(40_000, (SideState::OPEN, SideState::OPEN), Protocol::TCP);
        rows.retain(|key, _| key.hook == Hook::EGRESS);
        assert_eq!(expired_after(&rows, 119), 0);
        assert_eq!(expired_after(&rows, 120), 1);
    }
}
