//! The host's interfaces, addresses and routes, by netlink.
//!
//! Decides what an interface is. Must not know Services or programs. Invariant: a change that is missed is
//! found at the next look, which comes in any case.

pub mod accept;
mod batch;
pub mod conntrack;
pub mod hold;
pub mod links;
mod netlink;
pub mod programs;
pub mod role;
pub mod rules;
pub mod sockets;
pub mod window;
