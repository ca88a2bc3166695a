//! What may happen to a node, one thing after the other.
//!
//! Decides nothing; steps name connections by their age, so that they mean something whatever the kernel chose.
//! Invariant: a step can be left out of a sequence, and the rest still means something.

use std::net::{IpAddr, SocketAddr};

use super::frames::{Shape, Talk};
use crate::model::Part;

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// A packet from somebody to somebody.
    Send {
        /// Index in [`crate::model::Place::ALL`].
        place: usize,
        /// [`crate::model::protocol`].
        protocol: u8,
        /// Source.
        from: SocketAddr,
        /// Destination.
        to: SocketAddr,
        /// What it says.
        talk: Talk,
        /// How it is wrapped.
        shape: Shape,
    },
    /// A packet of a known connection.
    Follow {
        /// Counted back from the latest.
        which: usize,
        /// Of which part.
        part: Part,
        /// Index in [`crate::model::Place::ALL`], taken as far as the part allows.
        place: usize,
        /// What it says.
        talk: Talk,
        /// How it is wrapped.
        shape: Shape,
    },
    /// An ICMP error about a known connection.
    Error {
        /// Counted back from the latest.
        which: usize,
        /// About the packets that answer this part's.
        part: Part,
        /// As in [`Step::Follow`].
        place: usize,
        /// The ICMP type.
        kind: u8,
        /// Who says so: this router, else the packet's receiver.
        router: Option<IpAddr>,
        /// Whom it tells, if not the packet's sender.
        astray: Option<IpAddr>,
        /// Bytes of the packet that it quotes.
        quote: usize,
        /// How that was wrapped.
        shape: Shape,
    },
    /// Ways out of the node become known for all connections.
    Ways,
    /// Time passes: an even number of seconds, since timeouts here are odd.
    Wait(u64),
    /// The tables change.
    Change(Change),
}

/// A change of the tables.
#[derive(Clone, Debug)]
pub enum Change {
    /// A backend stops serving, or serves again: the service port's and the backend's index.
    Serving(usize, usize),
    /// A backend leaves the cluster set or comes back.
    ClusterSet(usize, usize),
    /// A backend leaves the local set or comes back.
    LocalSet(usize, usize),
    /// A backend vanishes, or comes back.
    Vanished(usize, usize),
    /// A backend's number gets a new owner, with the next free port.
    Recycled(usize, usize),
    /// The interface loses its addresses, or gets them.
    NodeAddresses(Vec<IpAddr>),
}
