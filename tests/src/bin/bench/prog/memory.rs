//! What a connection takes of memory: rows that it was seen to make, by what the kernel counts for a row.
//!
//! Decides which connections are counted. Must not know rows' contents. Invariant: a table's memory is asked of the
//! kernel, buckets included, at the size that an agent gives it unless it is told otherwise.

use anyhow::{Result, ensure};
use lb_common::abi;
use lb_common::address::Protocol;
use lb_userspace::datapath::object::Sizes;

use super::FAMILIES;
use super::ground::{Ground, Wishes, side_by_side};
use super::paths;
use crate::figures::{Cell, Spread, Table};
use crate::process;

/// Connections that are made and counted.
const CONNECTIONS: u32 = 1 << 10;

/// Measures.
pub(super) fn measure() -> Result<Table> {
    let columns = [
        "family",
        "connection",
        "rows",
        "bytes a row",
        "bytes",
        "connections in a table of the default size",
    ];
    let mut table = Table::new("What a connection takes of the kernel's memory", &columns);
    table.rows = side_by_side(FAMILIES, |(ipv6, family)| of_family(ipv6, family))?.concat();
    Ok(table)
}

fn of_family(ipv6: bool, family: &str) -> Result<Vec<Vec<Cell>>> {
    let map = if ipv6 { abi::FLOWS_V6 } else { abi::FLOWS_V4 };
    let mut ground = Ground::lay(Wishes { flows: CONNECTIONS, ..Wishes::plain(ipv6, Protocol::TCP) })?;
    ground.populate(CONNECTIONS)?;
    let settled = ground.datapath.row_counts()?.0;
    ensure!(
        settled % CONNECTIONS as usize == 0,
        "{CONNECTIONS} connections made {settled} rows: not the same number each"
    );
    let plain = settled / CONNECTIONS as usize;
    paths::from_outside(&mut ground)?;
    let masqueraded = ground.datapath.row_counts()?.0 - settled;
    let each = bytes_a_row(map)?;
    let rows = [("translated", plain), ("masqueraded too", masqueraded)].map(|(name, rows)| {
        #[expect(clippy::cast_precision_loss, reason = "a few rows")]
        let count = rows as f64;
        let (whole, fit) = (count * each, f64::from(map.default_rows) / count);
        vec![
            Cell::text(family),
            Cell::text(name),
            Cell::Count(rows as u64),
            Cell::Figure(Spread::of(&[each])),
            Cell::Figure(Spread::of(&[whole])),
            Cell::Figure(Spread::of(&[fit])),
        ]
    });
    Ok(rows.to_vec())
}

/// Of a table of the default size.
fn bytes_a_row(map: abi::MapName) -> Result<f64> {
    let sizes = Sizes::from([(map.name, map.default_rows)]);
    let datapath = lb_tests::packets::Datapath::load_sized(&sizes)?;
    Ok(process::map_memory(&datapath.pin(map))? / f64::from(map.default_rows))
}
