//! A pinned map whose rows are bytes.
//!
//! Decides how rows are copied from one map to another. Must not know what they mean. Invariant: a row that is copied
//! without [`Existing::Replaced`] takes nobody's place.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, ensure};
use aya::maps::{MapData, MapType};

use super::syscall::{self, BATCH, Cursor};

/// A map as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes of a key.
    pub(super) key: u32,
    /// Bytes of a value.
    pub(super) value: u32,
    /// Room for rows.
    pub(super) rows: u32,
}

/// What becomes of rows that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// The copy takes their place.
    Replaced,
    /// They stay.
    Kept,
}

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copied {
    /// Rows written.
    pub(super) rows: usize,
    /// Rows there was no room for.
    pub(super) lost: usize,
}

/// A map.
#[derive(Debug)]
pub(super) struct RawMap {
    data: MapData,
    name: String,
    shape: Shape,
    id: u32,
    kind: MapType,
}

impl RawMap {
    /// Opens the map pinned at `path`.
    ///
    /// # Errors
    /// Where there is none or rights are missing.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let data = MapData::from_pin(path).with_context(|| format!("opening the map {}", path.display()))?;
        let info = data.info().with_context(|| format!("asking about the map {}", path.display()))?;
        let shape = Shape { key: info.key_size(), value: info.value_size(), rows: info.max_entries() };
        let kind = info.map_type().with_context(|| format!("asking about the map {}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { id: info.id(), kind, shape, name, data })
    }

    /// The kernel's number of it.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Its sizes.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// Where that one is taken, or rights are missing.
    pub(super) fn pin(&self, path: &Path) -> anyhow::Result<()> {
        self.data.pin(path).with_context(|| format!("pinning the map {}", path.display()))
    }

    /// Has it rows that a map of `rows` rows would have no room for? One that forgets by itself never has.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub(super) fn exceeds(&self, rows: u32) -> anyhow::Result<bool> {
        match self.kind {
            MapType::LruHash => Ok(false),
            MapType::Array => {
                let mut beyond = false;
                self.each(|key, value| {
                    beyond |= index(key) >= rows && value.iter().any(|byte| *byte != 0);
                    Ok(())
                })?;
                Ok(beyond)
            }
            _ => {
                let mut count = 0_u32;
                self.each(|_, _| {
                    count += 1;
                    Ok(())
                })?;
                Ok(count > rows)
            }
        }
    }

    /// Copies all rows into `to`; an array's zeros are no rows.
    ///
    /// # Errors
    /// What bpf(2) says, but for want of room, which is counted.
    pub(super) fn copy_to(&self, to: &Self, existing: Existing) -> anyhow::Result<Copied> {
        let (ours, theirs) = (self.shape, to.shape);
        ensure!(
            (ours.key, ours.value) == (theirs.key, theirs.value),
            "the rows of the map {} are of {} + {} bytes, and were of {} + {}",
            to.name,
            theirs.key,
            theirs.value,
            ours.key,
            ours.value
        );
        let mut copied = Copied::default();
        self.each(|key, value| {
            if self.kind == MapType::Array && value.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            match syscall::update(to.fd(), key, value, existing == Existing::Kept) {
                Ok(()) => copied.rows += 1,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EEXIST) => {}
                    Some(libc::E2BIG) => copied.lost += 1,
                    _ => return Err(error).with_context(|| format!("writing the map {}", to.name)),
                },
            }
            Ok(())
        })?;
        Ok(copied)
    }

    fn each(&self, mut see: impl FnMut(&[u8], &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (key, value) = (self.shape.key as usize, self.shape.value as usize);
        let (mut keys, mut values) = (vec![0; BATCH * key], vec![0; BATCH * value]);
        let (mut from, mut next): (Option<Cursor>, Cursor) = (None, [0; size_of::<Cursor>()]);
        loop {
            let count = u32::try_from(BATCH).unwrap_or(u32::MAX);
            let step =
                syscall::lookup_batch(self.fd(), from.as_ref(), &mut next, &mut keys, &mut values, count)
                    .with_context(|| format!("reading the map {}", self.name))?;
            let rows = keys.chunks_exact(key).zip(values.chunks_exact(value)).take(step.count);
            rows.into_iter().try_for_each(|(key, value)| see(key, value))?;
            if step.last {
                return Ok(());
            }
            from = Some(next);
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }
}

/// An array's key.
fn index(key: &[u8]) -> u32 {
    key.try_into().map_or(u32::MAX, u32::from_ne_bytes)
}
