//! Ways out of the node, which a test run has no routes to find.
//!
//! Decides that every connection that may take the shortcut has one, the same. Must not know packets. Invariant: what a
//! row's shortcut says of the other end is what the other end's row says.

use anyhow::Result;
use lb_common::abi::{FlowEntry, FlowFlags, Hook, Macs, Shortcut};
use lb_common::address::Address;
use lb_userspace::datapath::kernel::FlowTables;

use crate::model::Way;

/// The way of all connections, short enough that some packets do not fit.
pub(super) const WAY: Way = Way { to: [2, 0, 0, 0, 0, 0x77], from: [2, 0, 0, 0, 0, 0x66], mtu: 100 };
/// The interface that test runs come in by.
const LOOPBACK: u32 = 1;

/// Gives a way to every settled, masqueraded flow of a family, as if it had been asked for at `made`.
pub(super) fn give<A: Address>(tables: &FlowTables<A>, made: u32) -> Result<()> {
    for (key, entry) in tables.settled.rows()? {
        let row = entry.row;
        let FlowFlags(flags) = row.flags;
        let masqueraded = flags & !FlowFlags::FORWARD == FlowFlags::MASQUERADED;
        let out = key.rewritten(&row).at(Hook::EGRESS);
        let Some(other) = tables.settled.get(&out)? else { continue };
        if !masqueraded || key.hook != Hook::INGRESS || other.row.flags.has(FlowFlags::PENDING) {
            continue;
        }
        let shortcut = Shortcut {
            route_generation: 0,
            made,
            addr: other.row.addr,
            port: other.row.port,
            other_port: other.row.other_port,
            mtu: u32::try_from(WAY.mtu)?,
            ifindex: LOOPBACK,
            macs: Macs::new(bytemuck::cast(WAY.to), bytemuck::cast(WAY.from)),
        };
        tables.settled.put(&key, &FlowEntry { shortcut, ..entry })?;
    }
    Ok(())
}
