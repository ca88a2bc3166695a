//! Ingress: the destination is translated.
//!
//! Decides what becomes of a packet that comes into the node. Must not know which backend is chosen. Invariant: what
//! is no service's leaves byte for byte as it came (C44), unless a live connection has its tuple (C27).

use lb_common::abi::Verdict;

use super::choice::Chosen;
use super::connections::{Connection, Id, Masquerade, Part};
use super::{Case, Direction, Fragment, Model, Outcome, Packet, Verdicts, answer, protocol};

/// Ports below are not given to connections.
const FIRST_PORT: u16 = 1_024;

impl Model {
    pub(super) fn ingress(&mut self, case: &Case<'_>) -> Verdicts {
        let packet = &case.packet;
        let mut follows = false;
        if let Some((id, part)) = self.connections.find(Direction::Ingress, packet.protocol, packet.ends()) {
            if self.goes_unseen(case, id) {
                return Ok(case.untouched(Verdict::NotService));
            }
            if self.is_cut_off(packet, id, part) {
                self.connections.forget(id);
                return Ok(answer::refuse(case, Verdict::RejectedVanished));
            }
            if self.goes_on(case, (id, part)) {
                return Ok(self.onward(case, (id, part)));
            }
            follows = self.may_follow(case, (id, part));
            match part {
                Part::Request => self.connections.forget(id),
                _ => self.connections.remove(id, part),
            }
        }
        if self.is_frontend(case) {
            return self.first(case, follows);
        }
        let (from, to) = packet.ends();
        if !packet.may_open() {
            return Ok(case.untouched(Verdict::NotService));
        }
        // C34.
        if self.cluster.whole.contains(&to.ip()) {
            return Ok(answer::refuse(case, Verdict::RejectedNoPort));
        }
        if self.is_to_a_stranger(case) {
            return Ok(case.untouched(Verdict::NotService));
        }
        // C27: straight to where it is addressed, but not as another connection.
        if !self.held(Direction::Egress, packet.protocol, (to, from)) {
            return Ok(case.untouched(Verdict::NotService));
        }
        let connection = Connection::new(packet.protocol, from, to, to);
        self.open(case, connection, Verdict::MovedAside)
    }

    /// Is it an ordinary packet to somebody who never served? Whether its replies would be a connection's packets (as
    /// where a backend speaks up to its client's port) is not looked into.
    fn is_to_a_stranger(&self, case: &Case<'_>) -> bool {
        let (packet, (_, to)) = (&case.packet, case.packet.ends());
        let header = if to.is_ipv4() { 20 } else { 40 };
        let ordinary = packet.plain && packet.l4 == packet.l3 + header && matches!(packet.l3, 0 | 14);
        ordinary && !self.known.contains(&to) && !self.cluster.masquerade_ports.contains(&to.port())
    }

    /// May the packet pass as nobody's, though its connection was given another port? Until that is answered, plain
    /// packets are looked up only where they might open a connection that collides with another.
    fn goes_unseen(&self, case: &Case<'_>, id: Id) -> bool {
        let connection = self.connections.get(id);
        let moved_aside = connection.chosen.is_none() && !connection.own && !connection.settled;
        moved_aside && case.packet.plain && case.seen.verdict == Verdict::NotService
    }

    /// C37: is the client to be told that its backend is no more?
    pub(super) fn is_cut_off(&self, packet: &Packet, id: Id, part: Part) -> bool {
        let Some((service, backend, generation)) = self.connections.get(id).chosen else { return false };
        let backend = self.cluster.backend(service, backend);
        let there = backend.is_some_and(|one| one.generation == generation && !one.vanished);
        let segment = packet.protocol == protocol::TCP && !packet.opens();
        self.cluster.reset_vanished && part == Part::Request && segment && !there
    }

    /// Does the connection still say where its packet goes?
    fn goes_on(&self, case: &Case<'_>, (id, part): (Id, Part)) -> bool {
        let (packet, connection) = (&case.packet, self.connections.get(id));
        if part == Part::Request {
            let serves = connection.chosen.is_none_or(|(service, backend, generation)| {
                let backend = self.cluster.backend(service, backend);
                backend.is_some_and(|one| one.serving && one.generation == generation)
            });
            // C36 for datagrams; C38 for what opens a connection. All else stays where it is (C31, C37).
            if packet.protocol == protocol::UDP && !serves {
                return false;
            }
            if packet.connects() && packet.opens() && (!serves || self.connections.is_over(id, part)) {
                return false;
            }
        }
        // What is left of a dead connection that gave way to another: its last packets may go where they went. A client's
        // that opens one is none of them.
        let ghost = connection.settled
            && packet.plain
            && match case.seen.verdict {
                Verdict::Forwarded => !(packet.connects() && packet.opens()),
                verdict => verdict == Verdict::Unmasqueraded,
            };
        self.connections.is_whole(id, part) || ghost
    }

    /// May the tuple's next connection take the place of this one, which has been answered, among those that have?
    fn may_follow(&self, case: &Case<'_>, (id, part): (Id, Part)) -> bool {
        let (packet, connection) = (&case.packet, self.connections.get(id));
        let plain = connection.masquerade == Masquerade::No && connection.source() == connection.client;
        let over = self.connections.is_whole(id, part) && self.connections.is_over(id, part);
        let opens = packet.connects() && packet.opens();
        part == Part::Request && opens && over && plain && connection.chosen.is_some() && connection.settled
    }

    /// A packet of a known connection.
    fn onward(&mut self, case: &Case<'_>, (id, part): (Id, Part)) -> Outcome {
        let lasts = self.connections.age(id, self.now) >= 1;
        // UDP that nobody answers is a flow all the same, once it lasts; the node's own is its answer's.
        let own = self.connections.get(id).own && part == Part::Back;
        if own || (case.packet.protocol == protocol::UDP && lasts) {
            self.connections.settle(id);
        }
        let ends = self.connections.get(id).leaves(part);
        self.hear(case, (id, part));
        let verdict = if part == Part::Request { Verdict::Forwarded } else { Verdict::Unmasqueraded };
        case.with_ends(verdict, ends)
    }

    /// Notes what a packet says of its connection.
    pub(super) fn hear(&mut self, case: &Case<'_>, of: (Id, Part)) {
        // A later fragment says nothing.
        self.connections.hear(of, case.packet.says, self.now);
    }

    /// The first packet of a connection to a frontend, or one whose connection is forgotten; it may follow one that has
    /// been answered ([`Self::may_follow`]).
    fn first(&mut self, case: &Case<'_>, follows: bool) -> Verdicts {
        let (packet, (from, to)) = (&case.packet, case.packet.ends());
        // What netfilter has begun it goes on with; what opens a connection is ours.
        let goes_on = !packet.may_open() || packet.protocol == protocol::UDP;
        if goes_on && self.cluster.foreign.contains(&(packet.protocol, from, to)) {
            return Ok(case.untouched(Verdict::PassedForeign));
        }
        let chosen = match self.choose(case)? {
            Ok(chosen) => chosen,
            Err(refusal) => return Ok(refusal),
        };
        let (from, to) = case.packet.ends();
        let mut connection = Connection::new(case.packet.protocol, from, to, chosen.backend.address);
        connection.chosen = Some((chosen.service, chosen.backend.id, chosen.backend.generation));
        // C23: a backend that dials itself would answer itself.
        if chosen.backend.address.ip() == from.ip() || self.hides_client(case, &chosen) {
            connection.masquerade = Masquerade::Pending;
        }
        connection.settled = follows && connection.masquerade == Masquerade::No;
        self.open(case, connection, Verdict::ForwardedNew)
    }

    /// Must the client's address become the node's, so that replies come back?
    fn hides_client(&self, case: &Case<'_>, chosen: &Chosen) -> bool {
        let always = self.cluster.masquerade_always;
        match (case.place.inside, chosen.external) {
            // C24.
            (_, true) if chosen.local_policy => false,
            // C25, C26: a pod of this node hears its replies anyway.
            (true, external) => external && always,
            // C25.
            (false, true) => always || !chosen.backend.here,
            // C26.
            (false, false) => always || !chosen.backend.here || self.cluster.is_foreign(case.packet.src),
        }
    }

    /// A new connection, with the client's own port if its tuple is free and another if not (C27).
    fn open(&mut self, case: &Case<'_>, mut connection: Connection, verdict: Verdict) -> Verdicts {
        let seen = match case.seen_ends() {
            Some((from, _)) if case.seen.verdict == verdict => from,
            _ => connection.client,
        };
        let moves = verdict == Verdict::MovedAside;
        if !moves && self.is_free(&connection) {
            return Ok(self.opened(case, connection, verdict));
        }
        if matches!(case.packet.fragment, Fragment::Later(_)) {
            return case
                .wrong_choice("a fragment without ports began a connection under another port".to_owned());
        }
        let own = connection.source_port;
        (connection.source_port, connection.settled) = (seen.port(), false);
        if case.seen.verdict != verdict && case.seen.verdict != Verdict::DroppedRewriteFailed {
            return case.wrong_choice(format!("its port {own} is taken, so it must get another"));
        }
        if seen.port() < FIRST_PORT || (!moves && seen.port() == own) || !self.is_free(&connection) {
            return case.wrong_choice(format!("its port became {}, which is not free", seen.port()));
        }
        Ok(self.opened(case, connection, verdict))
    }

    fn opened(&mut self, case: &Case<'_>, connection: Connection, verdict: Verdict) -> Outcome {
        let ends = connection.leaves(Part::Request);
        let parts: &[Part] = match connection.masquerade {
            Masquerade::No => &[Part::Request, Part::Reply],
            _ => &[Part::Request, Part::Reply, Part::Out],
        };
        self.connections.add(connection, parts, self.now);
        case.with_ends(verdict, ends)
    }

    /// Are the tuples of a new connection free on the way out and back?
    fn is_free(&mut self, connection: &Connection) -> bool {
        let reply = (connection.backend, connection.source());
        if self.held(Direction::Egress, connection.protocol, reply) {
            return false;
        }
        let Some(out) = connection.comes(Part::Out) else { return true };
        out != reply && !self.held(Direction::Egress, connection.protocol, out)
    }

    pub(super) fn held(
        &mut self,
        direction: Direction,
        protocol: u8,
        ends: (std::net::SocketAddr, std::net::SocketAddr),
    ) -> bool {
        let time = (self.now, self.cluster.opening_timeout);
        self.connections.is_held(direction, protocol, ends, time)
    }
}
