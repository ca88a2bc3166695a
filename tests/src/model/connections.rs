//! Who talks to whom through this node, and what each side has said.
//!
//! Decides which connection a packet belongs to, and when one is dead, so that another may have its tuple (C38). Must
//! not know packets' bytes or services. Invariant: no two connections have the same tuple at the same kind of hook.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Direction;
use super::packet::Says;
use super::protocol;

/// A part of a connection: a hook's kind and a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Client to frontend, at ingress.
    Request,
    /// Client to backend, at egress, where its source becomes the node's.
    Out,
    /// Backend to node, at ingress, where its destination becomes the client again.
    Back,
    /// Backend to client, at egress.
    Reply,
}

impl Part {
    const ALL: [Self; 4] = [Self::Request, Self::Out, Self::Back, Self::Reply];

    /// The part that the other side's packets take where this one's ends are as they are now.
    fn partner(self) -> Self {
        match self {
            Self::Request => Self::Reply,
            Self::Reply => Self::Request,
            Self::Out => Self::Back,
            Self::Back => Self::Out,
        }
    }

    fn direction(self) -> Direction {
        match self {
            Self::Request | Self::Back => Direction::Ingress,
            Self::Out | Self::Reply => Direction::Egress,
        }
    }
}

/// What becomes of a connection's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// It stays.
    No,
    /// It will be the node's, with the address of the device it leaves by.
    Pending,
    /// It is this.
    As(SocketAddr),
}

/// What one side has said last of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    Something,
    Fin,
    Rst,
}

impl Said {
    fn and(self, says: Says) -> Self {
        match self {
            _ if says.rst => Self::Rst,
            Self::Fin => Self::Fin,
            _ if says.fin => Self::Fin,
            // A reset that something follows was not believed by its receiver.
            _ if says.ack => Self::Something,
            before => before,
        }
    }
}

/// A connection, or what stands for one in UDP.
#[derive(Clone, Debug)]
pub struct Connection {
    /// [`protocol`].
    pub protocol: u8,
    /// Who opened it.
    pub client: SocketAddr,
    /// What it dialled.
    pub dialled: SocketAddr,
    /// The client's port as the backend's side sees it (C27).
    pub source_port: u16,
    /// Who serves it.
    pub backend: SocketAddr,
    /// Service port, backend and its generation; none where no service chose.
    pub chosen: Option<(u32, u32, u32)>,
    /// What becomes of its source.
    pub masquerade: Masquerade,
    /// The node's own, from a port for masqueraded connections.
    pub own: bool,
    /// Has the other side answered, or that of the connection whose place it took?
    pub settled: bool,
    since: u64,
    said: [Said; 4],
    last: [u64; 4],
}

type Tuple = (Direction, u8, SocketAddr, SocketAddr);

impl Connection {
    /// A new one, of which nothing is known but its ends.
    pub(super) fn new(protocol: u8, client: SocketAddr, dialled: SocketAddr, backend: SocketAddr) -> Self {
        Self {
            protocol,
            client,
            dialled,
            source_port: client.port(),
            backend,
            chosen: None,
            masquerade: Masquerade::No,
            own: false,
            settled: false,
            since: 0,
            said: [Said::default(); 4],
            last: [0; 4],
        }
    }

    /// The client as the backend's side of ingress sees it.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        SocketAddr::new(self.client.ip(), self.source_port)
    }

    /// The ends of a part's packets as they come; `None` where it has no such part (yet).
    #[must_use]
    pub fn comes(&self, part: Part) -> Option<(SocketAddr, SocketAddr)> {
        match (part, self.masquerade) {
            (Part::Request, _) => Some((self.client, self.dialled)),
            (Part::Reply, _) => Some((self.backend, self.source())),
            (Part::Out, Masquerade::Pending | Masquerade::As(_)) => Some((self.source(), self.backend)),
            (Part::Back, Masquerade::As(node)) => Some((self.backend, node)),
            _ => None,
        }
    }

    /// The ends of a part's packets as they leave.
    #[must_use]
    pub fn leaves(&self, part: Part) -> (SocketAddr, SocketAddr) {
        match (part, self.masquerade) {
            (Part::Out, Masquerade::As(node)) => (node, self.backend),
            (Part::Request | Part::Out, _) => (self.source(), self.backend),
            (Part::Back, _) => (self.backend, self.source()),
            (Part::Reply, _) => (self.dialled, self.client),
        }
    }

    fn tuple(&self, part: Part) -> Option<Tuple> {
        self.comes(part).map(|(from, to)| (part.direction(), self.protocol, from, to))
    }

    fn connects(&self) -> bool {
        self.protocol != protocol::UDP
    }
}

/// A connection's number.
pub(super) type Id = usize;

/// All connections, by their parts' tuples.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    all: Vec<Connection>,
    tuples: HashMap<Tuple, (Id, Part)>,
}

impl Connections {
    /// Those that have a part left, oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Connection> {
        self.all.iter().enumerate().filter(|(id, _)| self.has_any(*id)).map(|(_, connection)| connection)
    }

    pub(super) fn tuples(&self) -> impl Iterator<Item = &Tuple> {
        self.tuples.keys()
    }

    fn has_any(&self, id: Id) -> bool {
        Part::ALL.into_iter().any(|part| self.has(id, part))
    }

    pub(super) fn get(&self, id: Id) -> &Connection {
        &self.all[id]
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Connection {
        &mut self.all[id]
    }

    /// Whose packet that is.
    pub(super) fn find(
        &self,
        direction: Direction,
        protocol: u8,
        (from, to): (SocketAddr, SocketAddr),
    ) -> Option<(Id, Part)> {
        self.tuples.get(&(direction, protocol, from, to)).copied()
    }

    /// Does it still have that part, so that its packets are known?
    pub(super) fn has(&self, id: Id, part: Part) -> bool {
        let tuple = self.all[id].tuple(part);
        tuple.is_some_and(|tuple| self.tuples.get(&tuple) == Some(&(id, part)))
    }

    /// Are packets of this part and their answers both known?
    pub(super) fn is_whole(&self, id: Id, part: Part) -> bool {
        self.has(id, part) && self.has(id, part.partner())
    }

    /// The other side has answered, or never will. What has not left the node is not answered, and a connection that
    /// another has taken a part of is none to be kept.
    pub(super) fn settle(&mut self, id: Id) {
        let connection = &self.all[id];
        let of_another = |part: Part| {
            let owner = connection.tuple(part).and_then(|tuple| self.tuples.get(&tuple));
            owner.is_some_and(|(owner, _)| *owner != id)
        };
        if connection.masquerade != Masquerade::Pending && !Part::ALL.into_iter().any(of_another) {
            self.all[id].settled = true;
        }
    }

    /// Notes a packet that passed.
    pub(super) fn hear(&mut self, (id, part): (Id, Part), says: Says, now: u64) {
        let connection = &mut self.all[id];
        connection.said[part as usize] = connection.said[part as usize].and(says);
        connection.last[part as usize] = now;
    }

    /// How long it is known.
    pub(super) fn age(&self, id: Id, now: u64) -> u64 {
        now - self.all[id].since
    }

    /// Has whoever sends that part's packets said something, and nothing of an end?
    pub(super) fn is_open(&self, id: Id, part: Part) -> bool {
        let connection = &self.all[id];
        !connection.connects() || connection.said[part as usize] == Said::Something
    }

    /// Have both sides finished, or has one reset it?
    pub(super) fn is_over(&self, id: Id, part: Part) -> bool {
        let said = &self.all[id].said;
        let sides = [said[part as usize], said[part.partner() as usize]];
        sides.contains(&Said::Rst) || sides == [Said::Fin; 2] || !self.has(id, part.partner())
    }

    /// Is that tuple a live connection's? A dead one's part gives way (C38).
    pub(super) fn is_held(
        &mut self,
        direction: Direction,
        protocol: u8,
        ends: (SocketAddr, SocketAddr),
        (now, timeout): (u64, u64),
    ) -> bool {
        let Some((id, part)) = self.find(direction, protocol, ends) else { return false };
        let connection = &self.all[id];
        let waiting = part == Part::Out && connection.masquerade == Masquerade::Pending;
        let over = connection.connects() && !waiting && self.is_over(id, part);
        let unanswered = !connection.settled && now - connection.last[part as usize] > timeout;
        if over || unanswered {
            self.remove(id, part);
            if direction == Direction::Egress {
                // Or the new one's packets would find the dead one's other part.
                self.remove(id, Part::Out);
                self.remove(id, Part::Reply);
            }
        }
        !(over || unanswered)
    }

    /// Adds a connection with these parts.
    pub(super) fn add(&mut self, mut connection: Connection, parts: &[Part], now: u64) -> Id {
        let id = self.all.len();
        (connection.since, connection.last) = (now, [now; 4]);
        self.all.push(connection);
        for part in parts {
            self.add_part(id, *part, now);
        }
        id
    }

    /// Adds a part whose tuple is free.
    pub(super) fn add_part(&mut self, id: Id, part: Part, now: u64) {
        let tuple = self.all[id].tuple(part).unwrap_or_else(|| panic!("{part:?} of {:?}", self.all[id]));
        self.all[id].last[part as usize] = now;
        let before = self.tuples.insert(tuple, (id, part));
        assert_eq!(before, None, "{tuple:?} is given to two connections");
    }

    /// Forgets a connection. What waits for an answer to its last packet may stay: it counts for nothing.
    pub(super) fn forget(&mut self, id: Id) {
        for part in [Part::Request, Part::Out, Part::Reply] {
            self.remove(id, part);
        }
    }

    /// Forgets a part, if it has it.
    pub(super) fn remove(&mut self, id: Id, part: Part) {
        if self.has(id, part)
            && let Some(tuple) = self.all[id].tuple(part)
        {
            self.tuples.remove(&tuple);
        }
    }
}
