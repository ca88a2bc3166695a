//! The reference model: what the Service contract says of a packet at a hook, said a second time.
//!
//! Decides, from a cluster's tables and the packets it has seen, the verdict and the whole packet that must come out
//! of the kernel. Shares no code with the datapath beyond the names and types of `lb_common::abi`: it reads packets
//! with another library, keeps connections instead of rows, and is written to be read beside the contract,
//! whose rules it cites. Must not know how the datapath does it, nor any map. Invariant: where the contract leaves a
//! choice (a random backend, a free port), any allowed choice is accepted, and the one seen is what holds from then on.
//!
//! | file | what |
//! |---|---|
//! | `cluster` | what a node's tables say: services, sets, backends, networks |
//! | `packet` | what a packet is, or why it is nobody's (C41) |
//! | `rewrite` | a packet with other ends, and right checksums (C42) |
//! | `answer` | refusals (C32) |
//! | `connections` | who talks to whom, and what each has said |
//! | `ingress`, `egress` | what happens at the two kinds of hooks |
//! | `choice` | which backend (C28 to C31, C35) |
//! | `icmp` | errors about connections (C39) |
//! | `shortcut` | packets that go from wire to wire (C43) |

mod answer;
mod choice;
mod cluster;
mod connections;
mod egress;
mod icmp;
mod ingress;
mod packet;
pub mod protocol;
mod rewrite;
mod shortcut;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{Action, Verdict};

pub use cluster::{Backend, Cluster, Frontend, Policy, ServicePort};
pub use connections::{Connection, Masquerade, Part};
pub use packet::{Fragment, Packet, Stranger};
pub use shortcut::Way;

use choice::{Affinity, Picks};
use connections::Connections;

/// A direction through the node: which end gets translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Into the node: the destination.
    Ingress,
    /// Out of it: the source.
    Egress,
}

/// A hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which way packets go there.
    pub direction: Direction,
    /// Does the interface lead to a pod of this node? Else off the node (C24).
    pub inside: bool,
    /// Do packets begin with an Ethernet header?
    pub ethernet: bool,
}

impl Place {
    /// Every hook, with its program's name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("pod_ingress", Self { direction: Direction::Ingress, inside: true, ethernet: true }),
        ("pod_egress", Self { direction: Direction::Egress, inside: true, ethernet: true }),
        ("net_ingress", Self { direction: Direction::Ingress, inside: false, ethernet: true }),
        ("net_egress", Self { direction: Direction::Egress, inside: false, ethernet: true }),
        ("bare_ingress", Self { direction: Direction::Ingress, inside: false, ethernet: false }),
        ("bare_egress", Self { direction: Direction::Egress, inside: false, ethernet: false }),
    ];
}

/// What the kernel made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The one counter that moved.
    pub verdict: Verdict,
    /// What the program returned.
    pub action: i32,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The counter that must move.
    pub verdict: Verdict,
    /// The packet that must leave; `None`: none does.
    pub frame: Option<Vec<u8>>,
}

/// Where the kernel and the contract part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Another verdict, or another packet.
    Outcome {
        /// What the contract asks for.
        expected: Outcome,
        /// What came.
        seen: Seen,
    },
    /// A choice that was not the datapath's to make.
    Choice {
        /// What was chosen and what was allowed.
        what: String,
        /// What came.
        seen: Seen,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outcome { expected, seen } if expected.verdict != seen.verdict => {
                write!(f, "{} instead of {}", seen.verdict.name(), expected.verdict.name())
            }
            Self::Outcome { expected, seen } => {
                let wanted = expected.frame.as_deref().unwrap_or_default();
                let at = wanted.iter().zip(&seen.frame).position(|(a, b)| a != b);
                let at = at.unwrap_or(wanted.len().min(seen.frame.len()));
                let verdict = seen.verdict.name();
                write!(f, "{verdict}, returned {}, and another packet from byte {at} on", seen.action)
            }
            Self::Choice { what, seen } => write!(f, "{}: {what}", seen.verdict.name()),
        }
    }
}

/// A node as the contract has it: its tables, and what it remembers.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Its tables; to be changed as the kernel's are.
    pub cluster: Cluster,
    connections: Connections,
    affinity: HashMap<(IpAddr, u32), Affinity>,
    picks: Picks,
    fragments: HashMap<FragmentOf, (u16, u16)>,
    /// Whoever was ever a frontend or a backend.
    known: HashSet<SocketAddr>,
    /// Seconds.
    now: u64,
}

/// What all fragments of a datagram share.
type FragmentOf = (Direction, IpAddr, IpAddr, u32, u8);

/// A packet's way through the model: where it is, and what the kernel made of it.
struct Case<'a> {
    place: Place,
    frame: &'a [u8],
    packet: Packet,
    seen: &'a Seen,
}

type Verdicts = Result<Outcome, Difference>;

impl Model {
    /// A node that has seen nothing yet.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        let mut model = Self { cluster, ..Self::default() };
        model.tables_changed();
        model
    }

    /// To be told after each change of the tables.
    pub fn tables_changed(&mut self) {
        for service in &self.cluster.services {
            self.known.extend(service.frontends.iter().map(|frontend| frontend.address));
            self.known.extend(service.backends.iter().map(|backend| backend.address));
        }
    }

    /// Lets time pass.
    pub fn wait(&mut self, seconds: u64) {
        self.now += seconds;
    }

    /// The connections that it knows, oldest first.
    pub fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.connections.all()
    }

    /// The tuples that they hold.
    pub fn tuples(&self) -> impl Iterator<Item = &(Direction, u8, SocketAddr, SocketAddr)> {
        self.connections.tuples()
    }

    /// Judges what the kernel made of `frame` at `place`.
    ///
    /// # Errors
    /// Where that is not what the contract says.
    pub fn judge(&mut self, place: Place, frame: &[u8], seen: &Seen) -> Result<(), Difference> {
        let expected = match Packet::read(frame, place.ethernet) {
            Ok(packet) => self.ours(Case { place, frame, packet, seen })?,
            Err(stranger) => Outcome { verdict: left_alone(stranger, seen), frame: Some(frame.to_vec()) },
        };
        let expected = if self.goes_to_nobody(place, frame, expected.verdict) {
            Case::dropped(Verdict::DroppedNoService)
        } else {
            expected
        };
        let action = match expected.verdict.action() {
            Action::Pass => -1,
            Action::Drop => 2,
            Action::Answer => 7,
        };
        let same = expected.verdict == seen.verdict
            && action == seen.action
            && expected.frame.as_ref().is_none_or(|frame| *frame == seen.frame);
        if same { Ok(()) } else { Err(Difference::Outcome { expected, seen: seen.clone() }) }
    }

    /// Does a packet leave the node as it came, for an address that a Service may have and none has (C34)? Whatever it
    /// is, but for one so malformed that nobody knows where to.
    fn goes_to_nobody(&self, place: Place, frame: &[u8], verdict: Verdict) -> bool {
        let leaves = place.direction == Direction::Egress && !place.inside;
        let as_it_came =
            matches!(verdict, Verdict::NotTranslated | Verdict::NotTransport | Verdict::PassedFragment);
        leaves
            && as_it_came
            && packet::goes_to(frame, place.ethernet).is_some_and(|to| self.cluster.is_unheld(to))
    }

    /// A packet of a protocol that services have, or an ICMP message.
    fn ours(&mut self, mut case: Case<'_>) -> Verdicts {
        let packet = &mut case.packet;
        let direction = case.place.direction;
        let datagram = |id| (direction, packet.src, packet.dst, id, packet.protocol);
        // C40: later fragments have the ports of the first.
        match packet.fragment {
            Fragment::Whole => {}
            Fragment::First(id) => {
                self.fragments.insert(datagram(id), packet.ports);
            }
            Fragment::Later(id) => match self.fragments.get(&datagram(id)) {
                Some(ports) => packet.ports = *ports,
                None => return Ok(case.untouched(Verdict::PassedFragment)),
            },
        }
        if case.packet.is_icmp() {
            return Ok(self.icmp(&case));
        }
        match direction {
            Direction::Ingress => self.ingress(&case),
            Direction::Egress => self.egress(&case),
        }
    }
}

/// The verdict on a packet that is left alone. Where nobody is at either end, nobody need notice that it is malformed.
fn left_alone(stranger: Stranger, seen: &Seen) -> Verdict {
    match (stranger, seen.verdict) {
        (Stranger::Malformed, verdict @ (Verdict::NotService | Verdict::NotTranslated)) => verdict,
        (Stranger::Malformed, Verdict::DroppedNoService) => Verdict::NotTranslated,
        _ => stranger.verdict(),
    }
}

impl Case<'_> {
    /// C44: the packet goes on as it came.
    fn untouched(&self, verdict: Verdict) -> Outcome {
        Outcome { verdict, frame: Some(self.frame.to_vec()) }
    }

    /// The packet goes nowhere.
    fn dropped(verdict: Verdict) -> Outcome {
        Outcome { verdict, frame: None }
    }

    /// The packet goes on with other ends.
    fn with_ends(&self, verdict: Verdict, ends: (SocketAddr, SocketAddr)) -> Outcome {
        match rewrite::with_ends(self.frame, &self.packet, ends) {
            Some(frame) => Outcome { verdict, frame: Some(frame) },
            None => Self::dropped(Verdict::DroppedRewriteFailed),
        }
    }

    /// The ends of the packet that the kernel made of this one. A later fragment shows no ports: they are 0.
    fn seen_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        Packet::read(&self.seen.frame, self.place.ethernet).ok().map(|packet| packet.ends())
    }

    fn wrong_choice<T>(&self, what: String) -> Result<T, Difference> {
        Err(Difference::Choice { what, seen: self.seen.clone() })
    }
}
