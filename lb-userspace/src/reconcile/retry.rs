//! When what failed is tried again.
//!
//! Decides the back-off: a second after the first failure, twice as long after each further one, a
//! minute at most. Must not know what failed. Invariant: whatever failed is due again at some time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::plan::grace::Epoch;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Service ports that could not be written.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<u32, Retry>);

#[derive(Debug)]
struct Retry {
    wait: Duration,
    due: Epoch,
}

impl Retries {
    /// May it be tried now?
    pub(super) fn is_due(&self, owner: u32, now: Epoch) -> bool {
        self.0.get(&owner).is_none_or(|retry| retry.due <= now)
    }

    /// It failed, at `now`.
    pub(super) fn failed(&mut self, owner: u32, now: Epoch) {
        let wait = self.0.get(&owner).map_or(FIRST, |retry| (retry.wait * 2).min(LONGEST));
        self.0.insert(owner, Retry { wait, due: now + wait });
    }

    /// It was written, or there was nothing to write.
    pub(super) fn succeeded(&mut self, owner: u32) {
        self.0.remove(&owner);
    }

    /// Forgets all but these.
    pub(super) fn keep_only(&mut self, owners: &BTreeSet<u32>) {
        self.0.retain(|owner, _| owners.contains(owner));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Epoch> {
        self.0.values().map(|retry| retry.due).min()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_the_wait_up_to_a_minute() {
        let mut retries = Retries::default();
        let mut now = Duration::ZERO;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(retries.is_due(7, now));
            retries.failed(7, now);
            assert!(!retries.is_due(7, now));
            assert_eq!(retries.next(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        retries.succeeded(7);
        assert_eq!((retries.next(), retries.len()), (None, 0));
    }
}
