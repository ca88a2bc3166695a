//! Numbers for things: which service port, which backend has which id.
//!
//! Decides which id an owner gets. Must not know what an owner is or where ids are written.
//! Invariant: an owner has one id and an id one owner, until it was released, its grace period
//! is over and it was reclaimed; then it belongs to nobody, and its generation tells its next
//! owner from all before.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher, Hash};

use hashbrown::HashTable;

use super::grace::{Epoch, Full, Grace, Limit};

/// Hands out the ids from 1 to a limit; 0 stays free, so that a row never written names nothing.
#[derive(Debug)]
pub struct Ids<O> {
    limit: Limit,
    last: u32,
    /// The ids that have owners, to be found by them: the owners themselves stand in the entries alone, since there
    /// may be hundreds of thousands. No order is ever taken from it.
    by_owner: HashTable<u32>,
    /// By id, from 1 on: all below `next`.
    entries: Vec<Entry<O>>,
    /// When the owner of an id let go of it; not of those that are held, or free.
    released: BTreeMap<u32, Epoch>,
    free: BTreeSet<u32>,
    next: u32,
    grace: Grace<u32>,
    journal: Vec<Claim>,
}

/// An id, and how often it had an owner.
#[derive(Debug)]
struct Entry<O> {
    owner: Option<O>,
    generation: u32,
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

impl<O: Eq + Hash + Clone> Ids<O> {
    /// Ids from 1 to `last`, itself included.
    #[must_use]
    pub fn new(limit: Limit, last: u32) -> Self {
        Self {
            limit,
            last,
            by_owner: HashTable::new(),
            entries: Vec::new(),
            released: BTreeMap::new(),
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
        if let Some(id) = self.id_of(owner) {
            if let Some(at) = self.released.remove(&id) {
                self.journal.push(Claim::Returned(id, at));
            }
            return self.held(id).ok_or(Full(self.limit));
        }
        let id = match self.free.pop_first() {
            Some(id) => id,
            None if self.next <= self.last => {
                self.reach(self.next);
                self.next - 1
            }
            None => return Err(Full(self.limit)),
        };
        self.give(id, owner);
        if let Some(entry) = self.entry_mut(id) {
            entry.generation = entry.generation.wrapping_add(1);
        }
        self.journal.push(Claim::Fresh(id));
        self.held(id).ok_or(Full(self.limit))
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
                    if let Some(entry) = self.entry_mut(id) {
                        entry.generation = entry.generation.wrapping_sub(1);
                    }
                    self.vacate(id);
                }
                Claim::Returned(id, at) => {
                    self.released.insert(id, at);
                }
            }
        }
    }

    /// The owner needs its id no longer, since `at`. It still owns it until [`Self::reclaim`].
    pub fn release(&mut self, id: u32, at: Epoch) {
        if self.entry(id).is_some_and(|entry| entry.owner.is_some()) {
            self.released.insert(id, at);
            self.grace.release(id, at);
        }
    }

    /// Was it released, and not claimed again since?
    #[must_use]
    pub fn rests(&self, id: u32) -> bool {
        self.released.contains_key(&id)
    }

    /// Frees what was released at `until` or before and not claimed again since; says which ids.
    pub fn reclaim(&mut self, until: Epoch) -> Vec<Held> {
        let mut freed = Vec::new();
        for (at, id) in self.grace.expire(until) {
            if self.released.get(&id) == Some(&at) {
                freed.extend(self.held(id));
                self.vacate(id);
            }
        }
        freed
    }

    /// Takes over what a previous process left: `id` belongs to `owner`. `false`, and nothing
    /// happens, where that cannot be: out of range, or either of them has another partner.
    pub fn restore(&mut self, held: Held, owner: &O) -> bool {
        let taken = self.entry(held.id).is_some_and(|entry| entry.owner.is_some());
        if taken || self.id_of(owner).is_some() || !self.restore_free(held) {
            return false;
        }
        self.free.remove(&held.id);
        self.give(held.id, owner);
        true
    }

    /// Takes over what a previous process left: the generation of a free id. `false` where the id is
    /// out of range.
    pub fn restore_free(&mut self, held: Held) -> bool {
        if held.id == 0 || held.id > self.last {
            return false;
        }
        self.free.extend(self.next..=held.id);
        self.reach(held.id);
        self.vacate(held.id);
        if let Some(entry) = self.entry_mut(held.id) {
            entry.generation = held.generation;
        }
        true
    }

    /// When the oldest release that waits for its grace period was.
    #[must_use]
    pub fn oldest_release(&self) -> Option<Epoch> {
        self.grace.oldest()
    }

    /// Every id that has an owner, also within its grace period, with that owner.
    pub fn owners(&self) -> impl Iterator<Item = (u32, &O)> {
        (1..).zip(&self.entries).filter_map(|(id, entry)| Some((id, entry.owner.as_ref()?)))
    }

    fn entry(&self, id: u32) -> Option<&Entry<O>> {
        self.entries.get((id as usize).checked_sub(1)?)
    }

    fn entry_mut(&mut self, id: u32) -> Option<&mut Entry<O>> {
        self.entries.get_mut((id as usize).checked_sub(1)?)
    }

    fn held(&self, id: u32) -> Option<Held> {
        self.entry(id).map(|entry| Held { id, generation: entry.generation })
    }

    fn id_of(&self, owner: &O) -> Option<u32> {
        let is_its = |id: &u32| self.entry(*id).is_some_and(|entry| entry.owner.as_ref() == Some(owner));
        self.by_owner.find(hash(owner), is_its).copied()
    }

    /// Makes entries for all ids up to `id`.
    fn reach(&mut self, id: u32) {
        self.next = self.next.max(id + 1);
        let entries = self.entries.len().max(id as usize);
        self.entries.resize_with(entries, || Entry { owner: None, generation: 0 });
    }

    /// Gives a free id an owner.
    fn give(&mut self, id: u32, owner: &O) {
        if let Some(entry) = self.entry_mut(id) {
            entry.owner = Some(owner.clone());
        }
        let entries = &self.entries;
        let owner_of = |id: &u32| entries.get(*id as usize - 1).and_then(|entry| entry.owner.as_ref());
        self.by_owner.insert_unique(hash(owner), id, |id| owner_of(id).map_or(0, hash));
    }

    fn vacate(&mut self, id: u32) {
        self.released.remove(&id);
        if let Some(owner) = self.entry_mut(id).and_then(|entry| entry.owner.take())
            && let Ok(found) = self.by_owner.find_entry(hash(&owner), |known| *known == id)
        {
            found.remove();
        }
        self.free.insert(id);
    }
}

/// The same in every process: nothing is drawn by lot here.
fn hash<O: Hash>(owner: &O) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(owner)
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
