//! Connections that netfilter translates, from before Switchboard took the node over.
//!
//! Decides nothing but the row. The key is the [`super::FlowKey`] of the original direction, client to frontend, as
//! ingress sees it. Invariant: the agent alone writes the table; a packet of such a connection is left to netfilter,
//! but for one that opens a connection, which is Switchboard's.

use bytemuck::{Pod, Zeroable};

/// A connection that netfilter translates.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ForeignRow {
    /// Ticks, low 32 bits, when the agent last found it in netfilter's table.
    pub last_seen: u32,
}
