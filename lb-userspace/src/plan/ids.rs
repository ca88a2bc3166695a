//! Numbers for things: which service port, which backend has which id.
//!
//! Decides which id an owner gets. Must not know what an owner is or where ids are written.
//! Invariant: an owner has one id and an id one owner, until it was released, its grace period
//! is over and it was reclaimed; then it belongs to nobody, and its generation tells its next
//! owner from all before.

use std::collections::{BTreeMap, BTreeSet};

use super::grace::{Epoch, Full, Grace, Limit};

/// Hands out the ids from 1 to a limit; 0 stays free, so that a row never written names nothing.
#[derive(Debug)]
pub struct Ids<O> {
    limit: Limit,
    last: u32,
    by_owner: BTreeMap<O, u32>,
    entries: BTreeMap<u32, Entry<O>>,
    free: BTreeSet<u32>,
    next: u32,
    grace: Grace<u32>,
    journal: Vec<Claim>,
}

/// An id that was in use at least once.
#[derive(Debug)]
struct Entry<O> {
    owner: Option<O>,
    generation: u32,
    /// When its owner let go of it; `None` while it is held, or free.
    released: Option<Epoch>,
}

/// A claim that can still be taken back.
#[derive(Debug)]
enum Claim {
    /// The id was free.
    Fresh(u32),
    /// The owner came back to its id within the grace period.
    Returned(u32, Epoch),
}

/// An id and which of its owners, counted from 1, holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The id.
    pub id: u32,
    /// Goes up by one with each new owner.
    pub generation: u32,
}

impl<O: Ord + Clone> Ids<O> {
    /// Ids from 1 to `last`, itself included.
    #[must_use]
    pub fn new(limit: Limit, last: u32) -> Self {
        Self {
            limit,
            last,
            by_owner: BTreeMap::new(),
            entries: BTreeMap::new(),
            free: BTreeSet::new(),
            next: 1,
            grace: Grace::default(),
            journal: Vec::new(),
        }
    }

    /// The id of `owner`: the one it has or had, else the lowest free one.
    ///
    /// # Errors
    /// When all ids have other owners.
    pub fn claim(&mut self, owner: &O) -> Result<Held, Full> {
        if let Some(&id) = self.by_owner.get(owner) {
            let entry = self.entries.get_mut(&id).ok_or(Full(self.limit))?;
            if let Some(at) = entry.released.take() {
                self.journal.push(Claim::Returned(id, at));
            }
            return Ok(Held { id, generation: entry.generation });
        }
        let id = match self.free.pop_first() {
            Some(id) => id,
            None if self.next <= self.last => {
                self.next += 1;
                self.next - 1
            }
            None => return Err(Full(self.limit)),
        };
        self.by_owner.insert(owner.clone(), id);
        let entry = self.entries.entry(id).or_insert(Entry { owner: None, generation: 0, released: None });
        entry.owner = Some(owner.clone());
        entry.generation = entry.generation.wrapping_add(1);
        self.journal.push(Claim::Fresh(id));
        Ok(Held { id, generation: entry.generation })
    }

    /// Makes the claims since the last commit final.
    pub fn commit(&mut self) {
        self.journal.clear();
    }

    /// Takes the claims since the last commit back, as if they had not been made.
    pub fn roll_back(&mut self) {
        while let Some(claim) = self.journal.pop() {
            match claim {
                Claim::Fresh(id) => {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.generation = entry.generation.wrapping_sub(1);
                    }
                    self.vacate(id);
                }
                Claim::Returned(id, at) => {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.released = Some(at);
                    }
                }
            }
        }
    }

    /// The owner needs its id no longer, since `at`. It still owns it until [`Self::reclaim`].
    pub fn release(&mut self, id: u32, at: Epoch) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.owner.is_some()) {
            entry.released = Some(at);
            self.grace.release(id, at);
        }
    }

    /// Frees what was released at `until` or before and not claimed again since; says which ids.
    pub fn reclaim(&mut self, until: Epoch) -> Vec<Held> {
        let mut freed = Vec::new();
        for (at, id) in self.grace.expire(until) {
            let Some(entry) = self.entries.get(&id).filter(|entry| entry.released == Some(at)) else {
                continue;
            };
            freed.push(Held { id, generation: entry.generation });
            self.vacate(id);
        }
        freed
    }

    /// Takes over what a previous process left: `id` belongs to `owner`. `false`, and nothing
    /// happens, where that cannot be: out of range, or either of them has another partner.
    pub fn restore(&mut self, held: Held, owner: &O) -> bool {
        let taken = self.entries.get(&held.id).is_some_and(|entry| entry.owner.is_some());
        if taken || self.by_owner.contains_key(owner) || !self.restore_free(held) {
            return false;
        }
        self.free.remove(&held.id);
        self.by_owner.insert(owner.clone(), held.id);
        if let Some(entry) = self.entries.get_mut(&held.id) {
            entry.owner = Some(owner.clone());
        }
        true
    }

    /// Takes over what a previous process left: the generation of a free id. `false` where the id is
    /// out of range.
    pub fn restore_free(&mut self, held: Held) -> bool {
        if held.id == 0 || held.id > self.last {
            return false;
        }
        self.free.extend(self.next..=held.id);
        self.next = self.next.max(held.id + 1);
        self.entries.insert(held.id, Entry { owner: None, generation: held.generation, released: None });
        true
    }

    /// When the oldest release that waits for its grace period was.
    #[must_use]
    pub fn oldest_release(&self) -> Option<Epoch> {
        self.grace.oldest()
    }

    /// Every id that has an owner, also within its grace period, with that owner.
    pub fn owners(&self) -> impl Iterator<Item = (u32, &O)> {
        self.by_owner.iter().map(|(owner, &id)| (id, owner))
    }

    fn vacate(&mut self, id: u32) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.released = None;
        if let Some(owner) = entry.owner.take() {
            self.by_owner.remove(&owner);
        }
        self.free.insert(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(last: u32) -> Ids<&'static str> {
        Ids::new(Limit { table: "things", rows: last, option: "--max-things" }, last)
    }

    fn at(seconds: u64) -> Epoch {
        Epoch::from_secs(seconds)
    }

    #[test]
    fn an_id_gets_a_new_owner_only_after_its_grace_period_and_a_new_generation_with_it() {
        let mut ids = ids(1);
        assert_eq!(ids.claim(&"a"), Ok(Held { id: 1, generation: 1 }));
        ids.release(1, at(5));
        assert!(ids.claim(&"b").is_err());
        assert_eq!(ids.reclaim(at(4)), []);
        assert!(ids.claim(&"b").is_err());
        assert_eq!(ids.reclaim(at(5)), [Held { id: 1, generation: 1 }]);
        assert_eq!(ids.claim(&"b"), Ok(Held { id: 1, generation: 2 }));
    }

    #[test]
    fn an_owner_that_returns_in_time_finds_its_id_and_generation() {
        let mut ids = ids(4);
        ids.claim(&"a").unwrap();
        ids.release(1, at(5));
        assert_eq!(ids.claim(&"a"), Ok(Held { id: 1, generation: 1 }));
        assert_eq!(ids.reclaim(at(9)), [], "what was claimed again is not freed");
        assert_eq!(ids.claim(&"b"), Ok(Held { id: 2, generation: 1 }));
    }

    #[test]
    fn a_claim_that_is_rolled_back_leaves_no_trace() {
        let mut ids = ids(2);
        ids.claim(&"a").unwrap();
        ids.commit();
        ids.release(1, at(5));
        ids.claim(&"a").unwrap();
        ids.claim(&"b").unwrap();
        assert!(ids.claim(&"c").is_err());
        ids.roll_back();
        assert_eq!(ids.owners().collect::<Vec<_>>(), [(1, &"a")]);
        assert_eq!(ids.reclaim(at(5)), [Held { id: 1, generation: 1 }]);
        assert_eq!(ids.claim(&"c"), Ok(Held { id: 1, generation: 2 }));
        assert_eq!(ids.claim(&"d"), Ok(Held { id: 2, generation: 1 }));
    }

    #[test]
    fn restored_ids_keep_owner_and_generation_and_leave_the_gaps_free() {
        let mut ids = ids(4);
        assert!(ids.restore(Held { id: 3, generation: 7 }, &"c"));
        assert!(ids.restore_free(Held { id: 1, generation: 2 }));
        assert!(!ids.restore(Held { id: 3, generation: 7 }, &"x"), "one id, one owner");
        assert!(!ids.restore(Held { id: 4, generation: 1 }, &"c"), "one owner, one id");
        assert!(!ids.restore(Held { id: 5, generation: 1 }, &"x"), "out of range");
        assert!(!ids.restore(Held { id: 0, generation: 1 }, &"x"), "0 is nobody's");
        assert_eq!(ids.claim(&"c"), Ok(Held { id: 3, generation: 7 }));
        assert_eq!(ids.claim(&"a"), Ok(Held { id: 1, generation: 3 }));
        assert_eq!(ids.claim(&"b"), Ok(Held { id: 2, generation: 1 }));
        assert_eq!(ids.claim(&"d"), Ok(Held { id: 4, generation: 1 }));
        let full = ids.claim(&"e").unwrap_err().to_string();
        assert!(
            full.contains("things") && full.contains("4 rows") && full.contains("--max-things"),
            "{full}"
        );
    }
}
