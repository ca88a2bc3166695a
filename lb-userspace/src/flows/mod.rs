//! The flows that the datapath has recorded: which are over, and how they read to people.
//!
//! Must not know services. Invariant: a flow's rows go together.

pub mod foreign;
pub mod sockets;
pub mod sweep;
pub mod view;
