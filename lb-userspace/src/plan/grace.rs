//! What was given back and may not be used again yet.
//!
//! Decides nothing but the order in which things become free. The time of a release is a value that
//! the caller hands in, never a clock read here. Invariant: nothing comes out before the time
//! that the caller asks for has reached the time of its release.

use std::collections::BTreeMap;
use std::time::Duration;

/// A time on the caller's clock, counted from any fixed point; it must not run backwards.
pub type Epoch = Duration;

/// The table that is too small, and how to make it larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The table, in words.
    pub table: &'static str,
    /// Its size, in rows.
    pub rows: u32,
    /// The option that sets the size.
    pub option: &'static str,
}

/// No row is free. What waits for its grace period, or a deletion, may free some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the table of {} is full ({} rows): raise {} or delete Services; tried again when rows become free",
    .0.table, .0.rows, .0.option
)]
pub struct Full(pub Limit);

/// Things that were released, by when.
#[derive(Debug)]
pub(super) struct Grace<T>(BTreeMap<Epoch, Vec<T>>);

impl<T> Default for Grace<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Grace<T> {
    /// Remembers that `thing` was released at `at`.
    pub(super) fn release(&mut self, thing: T, at: Epoch) {
        self.0.entry(at).or_default().push(thing);
    }

    /// When the oldest release was.
    pub(super) fn oldest(&self) -> Option<Epoch> {
        self.0.first_key_value().map(|(at, _)| *at)
    }

    /// Hands over what was released at `until` or before it, with its time, oldest first.
    pub(super) fn expire(&mut self, until: Epoch) -> Vec<(Epoch, T)> {
        let mut expired = Vec::new();
        while let Some(oldest) = self.0.first_entry().filter(|oldest| *oldest.key() <= until) {
            let (at, things) = oldest.remove_entry();
            expired.extend(things.into_iter().map(|thing| (at, thing)));
        }
        expired
    }
}
