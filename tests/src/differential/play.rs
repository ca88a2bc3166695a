//! A world, played: each step becomes packets or a change, on both sides.
//!
//! Decides what a step means in the state that the play is in. Must not know what ought to come out. Invariant: both
//! sides see the same, in the same order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use lb_common::abi::Verdict;
use lb_userspace::datapath::object;

use super::frames::{self, Shape, Sketch};
use super::kernel::{Subject, Tuple};
use super::step::{Change, Step};
use super::ways::WAY;
use super::world::World;
use crate::model::{Connection, Difference, Direction, Model, Packet, Part, Place, Seen};
use crate::packets::checksums_hold;

/// How much was played.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Packets that were judged.
    pub packets: u64,
    /// How many of them ended in each verdict.
    pub verdicts: BTreeMap<Verdict, u64>,
}

impl Played {
    /// Adds what another world had.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        for (verdict, times) in &other.verdicts {
            *self.verdicts.entry(*verdict).or_default() += times;
        }
    }

    fn count(&mut self, verdict: Verdict) {
        self.packets += 1;
        *self.verdicts.entry(verdict).or_default() += 1;
    }
}

/// What kind of disagreement it is.
#[derive(Clone, Debug)]
pub enum Reason {
    /// About a packet.
    Packet {
        /// The program.
        program: &'static str,
        /// What it was given.
        frame: Vec<u8>,
        /// The disagreement.
        difference: Difference,
    },
    /// A checksum that held does not hold any more.
    Checksum {
        /// The program.
        program: &'static str,
        /// What it was given.
        frame: Vec<u8>,
        /// What it made of it.
        seen: Seen,
        /// Which.
        why: String,
    },
    /// The rows at the end are not those of the connections that there are.
    Rows {
        /// Rows of no connection.
        extra: BTreeSet<Tuple>,
        /// Connections without a row.
        missing: BTreeSet<Tuple>,
    },
    /// The kernel did not play along.
    Kernel(String),
}

/// A disagreement, and what led to it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The step that it happened at.
    pub step: usize,
    /// What it is.
    pub reason: Reason,
    /// What was sent before, and what became of it.
    pub history: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Packet { program, difference, .. } => write!(f, "{program}: {difference}"),
            Reason::Checksum { program, why, .. } => write!(f, "{program}: a checksum broke: {why}"),
            Reason::Rows { extra, missing } => {
                write!(
                    f,
                    "{} rows of no connection, {} connections' rows missing",
                    extra.len(),
                    missing.len()
                )
            }
            Reason::Kernel(why) => f.write_str(why),
        }
    }
}

impl Failure {
    /// The packets in bytes, or the rows.
    #[must_use]
    pub fn details(&self) -> String {
        let hex = |frame: &[u8]| {
            let bytes: Vec<String> = frame.iter().map(|byte| format!("{byte:02x}")).collect();
            bytes.join(" ")
        };
        match &self.reason {
            Reason::Packet { frame, difference, .. } => {
                let (expected, seen) = match difference {
                    Difference::Outcome { expected, seen } => (expected.frame.clone(), seen),
                    Difference::Choice { seen, .. } => (None, seen),
                };
                let expected = expected.map_or_else(|| "none told".to_owned(), |frame| hex(&frame));
                format!("given:    {}\nexpected: {expected}\ncame:     {}", hex(frame), hex(&seen.frame))
            }
            Reason::Checksum { frame, seen, .. } => {
                format!("given:    {}\ncame:     {}", hex(frame), hex(&seen.frame))
            }
            Reason::Rows { extra, missing } => format!("of no connection: {extra:#?}\nmissing: {missing:#?}"),
            Reason::Kernel(_) => String::new(),
        }
    }

    /// Is it the same disagreement, though perhaps about another packet?
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let kind = |failure: &Self| match &failure.reason {
            Reason::Packet { program, difference: Difference::Outcome { expected, seen }, .. } => {
                Some((*program, Some(expected.verdict), seen.verdict))
            }
            Reason::Packet { program, difference: Difference::Choice { seen, .. }, .. }
            | Reason::Checksum { program, seen, .. } => Some((*program, None, seen.verdict)),
            Reason::Rows { .. } | Reason::Kernel(_) => None,
        };
        kind(self) == kind(other)
            && std::mem::discriminant(&self.reason) == std::mem::discriminant(&other.reason)
    }
}

/// When rows are compared with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// At the end.
    Last,
    /// After each step, to see which one did it.
    Always,
}

/// Plays a world.
///
/// # Errors
/// At the first disagreement.
pub fn play(subject: &mut Subject, world: &World, compare: Compare) -> Result<Played, Box<Failure>> {
    let mut stage = Stage {
        model: Model::new(world.cluster.clone()),
        subject,
        played: Played::default(),
        history: Vec::new(),
    };
    let begun = stage.subject.begin(&world.cluster);
    let mut result = begun.map_err(|error| Reason::Kernel(format!("{error:#}")));
    let mut step = 0;
    while result.is_ok() && step < world.steps.len() {
        result = stage.step(&world.steps[step]);
        if compare == Compare::Always {
            result = result.and_then(|()| stage.compare_rows());
        }
        step += 1;
    }
    let result = result.and_then(|()| stage.compare_rows());
    match result {
        Ok(()) => Ok(stage.played),
        Err(reason) => Err(Box::new(Failure { step, reason, history: stage.history })),
    }
}

/// Both sides.
struct Stage<'a> {
    model: Model,
    subject: &'a mut Subject,
    played: Played,
    history: Vec<String>,
}

impl Stage<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Reason> {
        let kernel = |error: anyhow::Error| Reason::Kernel(format!("{error:#}"));
        match step {
            Step::Send { place, protocol, from, to, talk, shape } => {
                let sketch = Sketch {
                    protocol: *protocol,
                    from: *from,
                    to: *to,
                    talk: *talk,
                    shape: shape.clone(),
                    ethernet: true,
                };
                self.send(*place, sketch)
            }
            Step::Follow { which, part, place, talk, shape } => {
                let Some((connection, ends)) = self.connection(*which, *part) else { return Ok(()) };
                let (protocol, from, to) = (connection.protocol, ends.0, ends.1);
                let place = place_for(*part, *place);
                self.send(
                    place,
                    Sketch { protocol, from, to, talk: *talk, shape: shape.clone(), ethernet: true },
                )
            }
            Step::Error { .. } => self.error(step),
            Step::Ways => self.subject.give_ways().map_err(kernel),
            Step::Wait(seconds) => {
                self.history.push(format!("{seconds} s pass"));
                self.model.wait(*seconds);
                self.subject.wait(*seconds).map_err(kernel)
            }
            Step::Change(change) => {
                self.history.push(format!("{change:?}"));
                apply(change, &mut self.model);
                self.model.tables_changed();
                self.subject.publish(&self.model.cluster).map_err(kernel)
            }
        }
    }

    /// A connection, counted back from the latest, and the ends of a part of it.
    fn connection(&self, which: usize, part: Part) -> Option<(Connection, (SocketAddr, SocketAddr))> {
        let all: Vec<&Connection> = self.model.connections().collect();
        let connection = all.get(all.len().checked_sub(which + 1)?)?;
        Some(((*connection).clone(), connection.comes(part)?))
    }

    fn send(&mut self, place: usize, sketch: Sketch) -> Result<(), Reason> {
        let (program, place) = Place::ALL[place];
        let sketch = Sketch { ethernet: place.ethernet, ..sketch };
        let said = format!("{} {} -> {} {:?}", sketch.protocol, sketch.from, sketch.to, sketch.talk);
        let shape = if sketch.shape == (Shape { payload: sketch.shape.payload, ..Shape::default() }) {
            String::new()
        } else {
            format!(" {:?}", sketch.shape)
        };
        for frame in sketch.build() {
            self.judge(program, place, &frame, &format!("{said}{shape}"))?;
        }
        Ok(())
    }

    fn error(&mut self, step: &Step) -> Result<(), Reason> {
        let Step::Error { which, part, place, kind, router, astray, quote, shape } = step else {
            return Ok(());
        };
        let Some((connection, (to, from))) = self.connection(*which, *part) else { return Ok(()) };
        let (program, place) = Place::ALL[place_for(*part, *place)];
        let of_family = |ip: &std::net::IpAddr| ip.is_ipv4() == from.is_ipv4();
        let shape = Shape { tagged: false, ..shape.clone() };
        let talk = frames::Talk::Data;
        let about = Sketch { protocol: connection.protocol, from, to, talk, shape, ethernet: false };
        let Some(about) = about.build().into_iter().next() else { return Ok(()) };
        let head = if from.is_ipv4() { 20 } else { 40 };
        let about = &about[..about.len().min(head + quote)];
        let sender = router.filter(of_family).unwrap_or(to.ip());
        let told = astray.filter(of_family).unwrap_or(from.ip());
        let frame = frames::icmp((sender, told), *kind, about, place.ethernet);
        let said = format!("ICMP {kind} {sender} -> {told} about {} {from} -> {to}", connection.protocol);
        self.judge(program, place, &frame, &said)
    }

    fn judge(&mut self, program: &'static str, place: Place, frame: &[u8], said: &str) -> Result<(), Reason> {
        if program == "net_ingress" {
            self.judge_early(frame)?;
        }
        let seen = self.subject.run(program, frame).map_err(|error| Reason::Kernel(format!("{error:#}")))?;
        let became = Packet::read(&seen.frame, place.ethernet)
            .map_or_else(|_| String::new(), |packet| format!(" {} -> {}", packet.ends().0, packet.ends().1));
        self.history.push(format!("{program}: {said} => {}{became}", seen.verdict.name()));
        self.played.count(seen.verdict);
        if let Err(difference) = self.model.judge(place, frame, &seen) {
            return Err(Reason::Packet { program, frame: frame.to_vec(), difference });
        }
        if place.ethernet && seen.action != 2 && checksums_hold(frame).is_ok() {
            checksums_hold(&seen.frame).map_err(|why| {
                let (frame, seen) = (frame.to_vec(), seen.clone());
                Reason::Checksum { program, frame, seen, why }
            })?;
        }
        Ok(())
    }

    /// What comes in from outside passes another program first.
    fn judge_early(&mut self, frame: &[u8]) -> Result<(), Reason> {
        let program = object::XDP_PROGRAM;
        let seen = self.subject.run(program, frame).map_err(|error| Reason::Kernel(format!("{error:#}")))?;
        self.played.count(seen.verdict);
        let judged = self.model.judge_early(frame, &seen, &WAY);
        judged.map_err(|difference| Reason::Packet { program, frame: frame.to_vec(), difference })
    }

    /// Every row is a connection's part, and every part has its row.
    fn compare_rows(&self) -> Result<(), Reason> {
        let rows = self.subject.tuples().map_err(|error| Reason::Kernel(format!("{error:#}")))?;
        let parts: BTreeSet<Tuple> = self.model.tuples().copied().collect();
        if rows == parts {
            return Ok(());
        }
        let extra = rows.difference(&parts).copied().collect();
        Err(Reason::Rows { extra, missing: parts.difference(&rows).copied().collect() })
    }
}

/// A hook where that part's packets pass.
fn place_for(part: Part, place: usize) -> usize {
    let direction = match part {
        Part::Request | Part::Back => Direction::Ingress,
        Part::Out | Part::Reply => Direction::Egress,
    };
    if Place::ALL[place].1.direction == direction { place } else { place ^ 1 }
}

fn apply(change: &Change, model: &mut Model) {
    let cluster = &mut model.cluster;
    let (service, index) = match change {
        Change::NodeAddresses(addresses) => return cluster.node.clone_from(addresses),
        Change::Serving(service, index)
        | Change::ClusterSet(service, index)
        | Change::LocalSet(service, index)
        | Change::Vanished(service, index)
        | Change::Recycled(service, index) => (*service, *index),
    };
    let Some(backend) = cluster.services.get_mut(service).and_then(|one| one.backends.get_mut(index)) else {
        return;
    };
    match change {
        Change::Serving(..) => {
            backend.serving = !backend.serving;
            backend.vanished = false;
            backend.in_cluster_set = backend.serving;
            backend.in_local_set = backend.serving && backend.here;
        }
        Change::ClusterSet(..) => backend.in_cluster_set = backend.serving && !backend.in_cluster_set,
        Change::LocalSet(..) => {
            backend.in_local_set = backend.serving && backend.here && !backend.in_local_set;
        }
        Change::Vanished(..) => {
            backend.vanished = !backend.vanished;
            backend.serving = !backend.vanished;
            backend.in_cluster_set = backend.serving;
            backend.in_local_set = backend.serving && backend.here;
        }
        Change::Recycled(..) => {
            backend.generation += 1;
            backend.address.set_port(backend.address.port() + 1);
        }
        Change::NodeAddresses(_) => {}
    }
}
