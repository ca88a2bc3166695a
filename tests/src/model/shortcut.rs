//! The shortcut: what a program in front of the stack may do with a packet.
//!
//! Decides which packets may go from wire to wire, and what they are then: what ingress and egress would have made of
//! them, one hop older (C43), to the next hop. Must not know routes. Invariant: a packet that does not go that way
//! is left as it came; that one could have gone is no difference, since a way may be too old.

use lb_common::abi::Verdict;

use super::connections::{Masquerade, Part};
use super::packet::{Fragment, Packet};
use super::rewrite::{self, replace_sum};
use super::{Difference, Direction, Model, Outcome, Seen, protocol};

/// The way out that a test has given to all connections.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The next hop's hardware address.
    pub to: [u8; 6],
    /// The interface's own.
    pub from: [u8; 6],
    /// The longest network packet it takes, in bytes.
    pub mtu: usize,
}

impl Model {
    /// Judges what the program in front of the stack made of `frame`.
    ///
    /// # Errors
    /// Where it may not be that.
    pub fn judge_early(&self, frame: &[u8], seen: &Seen, way: &Way) -> Result<(), Difference> {
        const PASS: i32 = 2;
        const TRANSMIT: i32 = 3;
        let left = Outcome { verdict: Verdict::ShortcutLeft, frame: Some(frame.to_vec()) };
        let taken = self.shortened(frame, way);
        let (expected, action) = match (seen.verdict, taken) {
            (Verdict::ShortcutTaken, Some(taken)) => {
                (Outcome { verdict: Verdict::ShortcutTaken, frame: Some(taken) }, TRANSMIT)
            }
            _ => (left, PASS),
        };
        let same = expected.verdict == seen.verdict
            && expected.frame.as_ref() == Some(&seen.frame)
            && action == seen.action;
        if same { Ok(()) } else { Err(Difference::Outcome { expected, seen: seen.clone() }) }
    }

    /// What the packet is once it is sent on; `None`: it may not be.
    fn shortened(&self, frame: &[u8], way: &Way) -> Option<Vec<u8>> {
        let packet = Packet::read(frame, true).ok()?;
        let segment = matches!(packet.protocol, protocol::TCP | protocol::UDP);
        if !segment || packet.fragment != Fragment::Whole || packet.l3 != 14 {
            return None;
        }
        let (id, part) = self.connections.find(Direction::Ingress, packet.protocol, packet.ends())?;
        let connection = self.connections.get(id);
        let speaks = packet.says.syn || packet.says.fin || packet.says.rst;
        let Masquerade::As(node) = connection.masquerade else { return None };
        if !connection.settled || connection.own || speaks || !self.connections.is_open(id, part) {
            return None;
        }
        if self.is_cut_off(&packet, id, part) {
            return None;
        }
        // C36.
        let (service, backend, generation) = connection.chosen?;
        let backend = self.cluster.backend(service, backend);
        let serves = backend.is_some_and(|one| one.serving && one.generation == generation);
        if packet.protocol == protocol::UDP && part == Part::Request && !serves {
            return None;
        }
        let ends = match part {
            Part::Request => (node, connection.backend),
            _ => (connection.dialled, connection.client),
        };
        let mut out = rewrite::with_ends(frame, &packet, ends)?;
        let lifetime = packet.l3 + if packet.src.is_ipv4() { 8 } else { 7 };
        if out[lifetime] <= 1 || packet.end - packet.l3 > way.mtu {
            return None;
        }
        out[lifetime] -= 1;
        if packet.src.is_ipv4() {
            let (old, new) = ([frame[lifetime], 0], [out[lifetime], 0]);
            replace_sum(&mut out, packet.l3 + 10, &old, &new);
        }
        out[..6].copy_from_slice(&way.to);
        out[6..12].copy_from_slice(&way.from);
        Some(out)
    }
}
