//! Egress: the source is translated.
//!
//! Decides what becomes of a packet that leaves for a pod or off the node. Must not choose backends. Invariant: what
//! is of no connection leaves byte for byte as it came (C44), or not at all.

use std::net::SocketAddr;

use lb_common::abi::Verdict;

use super::connections::{Connection, Id, Masquerade, Part};
use super::{Case, Direction, Model, Verdicts, protocol};

/// Tries that a search for a free port has, at most; and the odds below which it is not believed to have failed by
/// chance.
const TRIES: i32 = 32;
const ODDS: f64 = 1e-9;

impl Model {
    pub(super) fn egress(&mut self, case: &Case<'_>) -> Verdicts {
        let packet = &case.packet;
        let Some((id, part)) = self.connections.find(Direction::Egress, packet.protocol, packet.ends())
        else {
            return self.leaving(case);
        };
        if part == Part::Out && self.connections.get(id).masquerade == Masquerade::Pending {
            return self.masquerade(case, id);
        }
        let ends = self.connections.get(id).leaves(part);
        self.hear(case, (id, part));
        if part == Part::Out {
            return Ok(case.with_ends(Verdict::Masqueraded, ends));
        }
        // A reset is no answer.
        if !packet.says.rst {
            self.connections.settle(id);
        }
        Ok(case.with_ends(Verdict::Replied, ends))
    }

    /// A packet of no connection.
    fn leaving(&mut self, case: &Case<'_>) -> Verdicts {
        let packet = &case.packet;
        if case.place.inside || !packet.may_open() {
            return Ok(case.untouched(Verdict::NotTranslated));
        }
        let (from, to) = packet.ends();
        // What a process of the node was refused in its system call (C33 to C35) goes no further.
        let asked = matches!(packet.protocol, protocol::TCP | protocol::UDP);
        if self.cluster.sockets && asked && self.is_frontend(case) {
            return Ok(Case::dropped(Verdict::DroppedRefusedSocket));
        }
        let ours = self.cluster.node_address(packet.src.is_ipv4()) == Some(packet.src);
        let to_nobody = self.cluster.is_unheld(to.ip());
        if !ours || to_nobody || !self.cluster.masquerade_ports.contains(&from.port()) {
            return Ok(case.untouched(Verdict::NotTranslated));
        }
        // C27: the node's own connection, from a port for masqueraded ones.
        let mut connection = Connection::new(packet.protocol, from, to, to);
        connection.own = true;
        if !self.held(Direction::Ingress, packet.protocol, (to, from)) {
            connection.masquerade = Masquerade::As(from);
        } else {
            match self.port_of_the_node(case, to, Verdict::PortHeld)? {
                Some(node) => connection.masquerade = Masquerade::As(node),
                None => return Ok(Case::dropped(Verdict::DroppedNoPort)),
            }
        }
        let ends = connection.leaves(Part::Out);
        self.connections.add(connection, &[Part::Out, Part::Back], self.now);
        Ok(case.with_ends(Verdict::PortHeld, ends))
    }

    /// The first packet to leave of a connection whose source becomes the node's (C23, C25).
    fn masquerade(&mut self, case: &Case<'_>, id: Id) -> Verdicts {
        let Some(address) = self.cluster.node_address(case.packet.src.is_ipv4()) else {
            return Ok(Case::dropped(Verdict::DroppedNoMasqueradeAddress));
        };
        let backend = self.connections.get(id).backend;
        let Some(node) = self.port_of_the_node(case, backend, Verdict::Masqueraded)? else {
            return Ok(Case::dropped(Verdict::DroppedNoPort));
        };
        if node.ip() != address {
            return case.wrong_choice(format!("masqueraded as {node}, but the node is {address}"));
        }
        self.connections.get_mut(id).masquerade = Masquerade::As(node);
        self.connections.add_part(id, Part::Back, self.now);
        let ends = self.connections.get(id).leaves(Part::Out);
        Ok(case.with_ends(Verdict::Masqueraded, ends))
    }

    /// The port that the kernel gave a connection to `to`, if it may; none, if it found none and may have.
    fn port_of_the_node(
        &mut self,
        case: &Case<'_>,
        to: SocketAddr,
        verdict: Verdict,
    ) -> Result<Option<SocketAddr>, super::Difference> {
        let protocol = case.packet.protocol;
        if case.seen.verdict == Verdict::DroppedNoPort {
            let Some(address) = self.cluster.node_address(to.is_ipv4()) else { return Ok(None) };
            let ports = self.cluster.masquerade_ports.clone();
            let all = f64::from(u32::try_from(ports.len()).unwrap_or(u32::MAX));
            let mut taken = 0.0;
            for port in ports {
                // A dead connection's port may rest for as long as its backend may remember it.
                let ends = (to, SocketAddr::new(address, port));
                let known = self.connections.find(Direction::Ingress, protocol, ends).is_some();
                taken += f64::from(u8::from(known));
            }
            if (taken / all).powi(TRIES) > ODDS {
                return Ok(None);
            }
            return case.wrong_choice(format!("only {taken} of {all} ports are taken"));
        }
        let Some((node, _)) = case.seen_ends().filter(|_| case.seen.verdict == verdict) else {
            return case.wrong_choice(format!("it must get a port of the node ({})", verdict.name()));
        };
        let in_range = self.cluster.masquerade_ports.contains(&node.port());
        if !in_range || self.held(Direction::Ingress, protocol, (to, node)) {
            return case.wrong_choice(format!("it got {node}, which is not free"));
        }
        Ok(Some(node))
    }
}
