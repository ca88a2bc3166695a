//! How full a pinned map is, whatever its rows are.
//!
//! Decides how rows are counted: by a walk in batches, of which one is held at a time. Must not know what rows mean.
//! Invariant: costs no more than the map has rows (a quarter of a microsecond each), and no memory that grows.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::Context as _;
use aya::maps::{MapData, MapType};
use lb_common::abi::MapName;

use super::pins::Pins;
use super::syscall::{self, BATCH, Cursor};

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Rows in use; `None`: an array, every row of which is there always.
    pub rows: Option<u64>,
    /// Rows that fit.
    pub capacity: u32,
    /// Does it push old rows out by itself?
    pub evicts: bool,
}

/// Counts the rows of a pinned map. While others write, a row may be counted twice or not at all.
///
/// # Errors
/// Where the map is not there or cannot be read.
pub fn count(pins: &Pins, map: MapName) -> anyhow::Result<Fill> {
    let doing = || format!("counting the rows of the map {}", map.name);
    let data = MapData::from_pin(pins.map(map)).with_context(doing)?;
    let info = data.info().with_context(doing)?;
    let capacity = info.max_entries();
    let evicts = matches!(info.map_type(), Ok(MapType::LruHash));
    let hash = matches!(info.map_type(), Ok(MapType::Hash | MapType::LruHash | MapType::LpmTrie));
    let rows = if hash {
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        Some(walk(&data, key, value).with_context(doing)?)
    } else {
        None
    };
    Ok(Fill { rows, capacity, evicts })
}

/// Bytes of memory that the kernel holds for a pinned map, as it tells whoever has it open (proc(5), `fdinfo`).
///
/// # Errors
/// Where the map is not there, or the kernel does not say.
pub fn memory(pins: &Pins, map: MapName) -> anyhow::Result<u64> {
    let doing = || format!("asking how much memory the map {} takes", map.name);
    let data = MapData::from_pin(pins.map(map)).with_context(doing)?;
    let info = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(info).with_context(doing)?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).with_context(doing)
}

fn walk(data: &MapData, key: usize, value: usize) -> std::io::Result<u64> {
    // The kernel rounds a row's value up to eight bytes only where it is per CPU, which none of these is.
    let (mut keys, mut values) = (vec![0; key * BATCH], vec![0; value * BATCH]);
    let mut from: Option<Cursor> = None;
    let mut rows = 0;
    loop {
        let mut next: Cursor = [0; size_of::<Cursor>()];
        let count = u32::try_from(BATCH).unwrap_or(u32::MAX);
        let step = syscall::lookup_batch(
            data.fd().as_fd(),
            from.as_ref(),
            &mut next,
            &mut keys,
            &mut values,
            count,
        )?;
        rows += step.count as u64;
        if step.last {
            return Ok(rows);
        }
        from = Some(next);
    }
}
