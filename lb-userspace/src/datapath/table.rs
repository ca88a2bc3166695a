//! A pinned map with typed rows.
//!
//! Decides when a pin is not the map it should be: other key, value or size. Must not know what rows
//! mean. Invariant: rows cross as the bytes that `lb_common` laid out, checked by size on opening.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, bail};
use aya::maps::MapData;
use bytemuck::Pod;

use super::syscall::{self, BATCH, Cursor};

/// A map of `K` to `V`.
#[derive(Debug)]
pub struct Table<K, V> {
    data: MapData,
    name: String,
    rows: u32,
    _types: PhantomData<(K, V)>,
}

/// A walk over a table, and the rows that its last step read.
#[derive(Debug)]
pub struct Walk<K, V> {
    from: Option<Cursor>,
    ended: bool,
    keys: Vec<K>,
    values: Vec<V>,
    count: usize,
}

impl<K, V> Default for Walk<K, V> {
    fn default() -> Self {
        Self { from: None, ended: false, keys: Vec::new(), values: Vec::new(), count: 0 }
    }
}

impl<K: Copy, V: Copy> Walk<K, V> {
    /// What the last step read.
    pub fn rows(&self) -> impl Iterator<Item = (K, V)> + '_ {
        self.keys.iter().copied().zip(self.values.iter().copied()).take(self.count)
    }
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Opens the map pinned at `path`.
    ///
    /// # Errors
    /// Where there is none, rights are missing, or its rows have other sizes.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let data = MapData::from_pin(path).with_context(|| format!("opening the map {}", path.display()))?;
        let info = data.info().with_context(|| format!("asking about the map {}", path.display()))?;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        if key != size_of::<K>() || value != size_of::<V>() {
            bail!(
                "the map {} has rows of {key} + {value} bytes where this version has {} + {}; \
                 it was made by another version: run that version's `switchboard cleanup` first",
                path.display(),
                size_of::<K>(),
                size_of::<V>(),
            );
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { data, name, rows: info.max_entries(), _types: PhantomData })
    }

    /// The map's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many rows it can hold.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.rows
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    /// The row of that key.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        let mut value = V::zeroed();
        let found = syscall::lookup(self.fd(), bytemuck::bytes_of(key), bytemuck::bytes_of_mut(&mut value))?;
        Ok(found.then_some(value))
    }

    /// Writes a row.
    ///
    /// # Errors
    /// What bpf(2) says; `E2BIG` where the map is full.
    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        syscall::update(self.fd(), bytemuck::bytes_of(key), bytemuck::bytes_of(value), false)
    }

    /// Removes a row; `false` where there is none.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn delete(&self, key: &K) -> io::Result<bool> {
        syscall::delete(self.fd(), bytemuck::bytes_of(key))
    }

    /// Writes rows in order; says how many were written and why no more.
    pub fn put_all(&self, keys: &[K], values: &[V]) -> (usize, io::Result<()>) {
        let mut done = 0;
        for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
            let count = u32::try_from(keys.len()).unwrap_or(0);
            let keys = bytemuck::cast_slice(keys);
            let (written, result) =
                syscall::update_batch(self.fd(), keys, bytemuck::cast_slice(values), count);
            done += written;
            if result.is_err() {
                return (done, result);
            }
        }
        (done, Ok(()))
    }

    /// Reads every row. While others write, a row may be seen twice or, if its bucket moves, not at all.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn rows(&self) -> io::Result<Vec<(K, V)>> {
        self.first_rows(usize::MAX)
    }

    /// Reads the first rows, at least `enough` of them if there are as many. An array gives them in order.
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn first_rows(&self, enough: usize) -> io::Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        let mut walk = Walk::default();
        while all.len() < enough && self.step(&mut walk, BATCH)? {
            all.extend(walk.rows());
        }
        Ok(all)
    }

    /// Shows every row to `see`, holding a batch of them at a time; as for the rest, like [`Self::rows`].
    ///
    /// # Errors
    /// What bpf(2) says.
    pub fn each(&self, mut see: impl FnMut(&K, &V)) -> io::Result<()> {
        let mut walk = Walk::default();
        while self.step(&mut walk, BATCH)? {
            walk.rows().for_each(|(key, value)| see(&key, &value));
        }
        Ok(())
    }

    /// Reads the next rows of a walk, about `rows` of them; `false`: that was the end, and there are no more.
    ///
    /// # Errors
    /// What bpf(2) says; `ENOSPC` where a bucket of a hash holds more than `rows`.
    pub fn step(&self, walk: &mut Walk<K, V>, rows: usize) -> io::Result<bool> {
        walk.count = 0;
        if walk.ended {
            return Ok(false);
        }
        walk.keys.resize(rows, K::zeroed());
        walk.values.resize(rows, V::zeroed());
        let mut next: Cursor = [0; size_of::<Cursor>()];
        let step = syscall::lookup_batch(
            self.fd(),
            walk.from.as_ref(),
            &mut next,
            bytemuck::cast_slice_mut(&mut walk.keys),
            bytemuck::cast_slice_mut(&mut walk.values),
            u32::try_from(rows).unwrap_or(u32::MAX),
        )?;
        (walk.from, walk.ended, walk.count) = (Some(next), step.last, step.count);
        Ok(true)
    }
}
