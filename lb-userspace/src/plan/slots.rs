//! Room for backend sets: which consecutive slots are whose.
//!
//! Decides where in the array of slots a set lies. Must not know backends. Invariant: ranges that
//! were handed out never overlap, and a released one is not handed out again before it was
//! reclaimed.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::SlotRange;

use super::grace::{Epoch, Full, Grace, Limit};

/// The free and the released ranges of an array of slots.
#[derive(Debug)]
pub struct Slots {
    limit: Limit,
    /// Start to length; neighbours are always joined.
    free: BTreeMap<u32, u32>,
    /// The same, by length and start: the first that is long enough fits best.
    by_length: BTreeSet<(u32, u32)>,
    /// How many are free, all together.
    room: u32,
    grace: Grace<SlotRange>,
    journal: Vec<SlotRange>,
}

impl Slots {
    /// All slots of an array of `limit.rows`, free.
    #[must_use]
    pub fn new(limit: Limit) -> Self {
        let mut slots = Self {
            limit,
            free: BTreeMap::new(),
            by_length: BTreeSet::new(),
            room: 0,
            grace: Grace::default(),
            journal: Vec::new(),
        };
        slots.put_free(SlotRange { start: 0, len: limit.rows });
        slots
    }

    /// A range of `len` slots: the start of the smallest free range that has room; the first of equals.
    ///
    /// # Errors
    /// When no free range is long enough.
    pub fn allocate(&mut self, len: u32) -> Result<SlotRange, Full> {
        if len == 0 {
            return Ok(SlotRange::default());
        }
        let &(room, start) = self.by_length.range((len, 0)..).next().ok_or(Full(self.limit))?;
        self.cut(SlotRange { start, len: room }, SlotRange { start, len });
        let range = SlotRange { start, len };
        self.journal.push(range);
        Ok(range)
    }

    /// A range of `len` slots, unless that would leave less than a quarter of all slots free: for what can do
    /// with fewer, so that it keeps nothing out that cannot.
    pub fn allocate_sparingly(&mut self, len: u32) -> Option<SlotRange> {
        if self.may_spare(len) { self.allocate(len).ok() } else { None }
    }

    /// Would a quarter of all slots be free without `len` of those that are?
    pub fn may_spare(&self, len: u32) -> bool {
        self.room.checked_sub(len).is_some_and(|left| left >= self.limit.rows / 4)
    }

    /// Makes the allocations since the last commit final.
    pub fn commit(&mut self) {
        self.journal.clear();
    }

    /// Takes the allocations since the last commit back; nobody has seen them.
    pub fn roll_back(&mut self) {
        while let Some(range) = self.journal.pop() {
            self.put_free(range);
        }
    }

    /// No frontend names `range` any longer, since `at`; a reader may still hold it.
    pub fn release(&mut self, range: SlotRange, at: Epoch) {
        if range.len > 0 {
            self.grace.release(range, at);
        }
    }

    /// Frees the ranges that were released at `until` or before; says how many.
    pub fn reclaim(&mut self, until: Epoch) -> usize {
        let expired = self.grace.expire(until);
        for (_, range) in &expired {
            self.put_free(*range);
        }
        expired.len()
    }

    /// When the oldest release that waits for its grace period was.
    #[must_use]
    pub fn oldest_release(&self) -> Option<Epoch> {
        self.grace.oldest()
    }

    /// Takes over a range that a previous process left in use. `false`, and nothing happens, where
    /// not all of it is free.
    pub fn restore(&mut self, range: SlotRange) -> bool {
        let Some((&start, &len)) = self.free.range(..=range.start).next_back() else { return false };
        let end = u64::from(range.start) + u64::from(range.len);
        if range.len == 0 || end > u64::from(start) + u64::from(len) {
            return false;
        }
        self.cut(SlotRange { start, len }, range);
        true
    }

    /// Takes `used` out of the free range `room`, which contains it.
    fn cut(&mut self, room: SlotRange, used: SlotRange) {
        self.free.remove(&room.start);
        self.by_length.remove(&(room.len, room.start));
        self.room -= room.len;
        let after = used.start + used.len;
        self.put_free(SlotRange { start: room.start, len: used.start - room.start });
        self.put_free(SlotRange { start: after, len: room.start + room.len - after });
    }

    /// Makes a range free and joins it with its free neighbours.
    fn put_free(&mut self, mut range: SlotRange) {
        if range.len == 0 {
            return;
        }
        self.room += range.len;
        if let Some((&start, &len)) = self.free.range(..range.start).next_back()
            && start + len == range.start
        {
            self.by_length.remove(&(len, start));
            range = SlotRange { start, len: len + range.len };
        }
        if let Some(len) = self.free.remove(&(range.start + range.len)) {
            self.by_length.remove(&(len, range.start + range.len));
            range.len += len;
        }
        self.free.insert(range.start, range.len);
        self.by_length.insert((range.len, range.start));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots(rows: u32) -> Slots {
        Slots::new(Limit { table: "slots", rows, option: "--max-slots" })
    }

    fn range(start: u32, len: u32) -> SlotRange {
        SlotRange { start, len }
    }

    #[test]
    fn the_smallest_gap_that_has_room_is_taken() {
        let mut slots = slots(100);
        for used in [range(10, 10), range(23, 57)] {
            assert!(slots.restore(used));
        }
        assert_eq!(slots.allocate(3), Ok(range(20, 3)));
        assert_eq!(slots.allocate(4), Ok(range(0, 4)));
        assert_eq!(slots.allocate(20), Ok(range(80, 20)));
        assert!(slots.allocate(7).is_err());
        assert_eq!(slots.allocate(6), Ok(range(4, 6)));
        assert!(slots.allocate(1).is_err());
    }

    #[test]
    fn what_can_do_with_fewer_leaves_a_quarter_of_all_slots() {
        let mut slots = slots(100);
        assert_eq!(slots.allocate_sparingly(50), Some(range(0, 50)));
        assert_eq!(slots.allocate_sparingly(26), None);
        assert_eq!(slots.allocate_sparingly(25), Some(range(50, 25)));
        assert_eq!(slots.allocate_sparingly(1), None);
        assert_eq!(slots.allocate(25), Ok(range(75, 25)));
    }

    #[test]
    fn a_range_that_is_partly_taken_or_out_of_bounds_is_not_restored() {
        let mut slots = slots(100);
        assert!(slots.restore(range(10, 10)));
        for wrong in [range(10, 10), range(5, 6), range(19, 1), range(95, 6), range(u32::MAX, 2), range(1, 0)]
        {
            assert!(!slots.restore(wrong), "{wrong:?}");
        }
        assert!(slots.restore(range(20, 80)));
    }

    #[test]
    fn what_is_rolled_back_is_whole_again() {
        let mut slots = slots(10);
        slots.allocate(3).unwrap();
        slots.allocate(7).unwrap();
        slots.roll_back();
        assert_eq!(slots.allocate(10), Ok(range(0, 10)));
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_within_their_grace_period_and_all_room_comes_back(
            steps in prop::collection::vec((1u32..12, any::<bool>()), 1..300),
        ) {
            let mut slots = slots(200);
            // What is in use, and what was released and when.
            let mut live: Vec<SlotRange> = Vec::new();
            let mut waiting: Vec<(u64, SlotRange)> = Vec::new();
            for (now, (len, give_back)) in (0u64..).zip(steps) {
                if give_back && !live.is_empty() {
                    let range = live.swap_remove(len as usize % live.len());
                    slots.release(range, Epoch::from_secs(now));
                    waiting.push((now, range));
                } else if let Ok(new) = slots.allocate(len) {
                    let taken = live.iter().chain(waiting.iter().map(|(_, range)| range));
                    for old in taken {
                        prop_assert!(new.start + new.len <= old.start || old.start + old.len <= new.start);
                    }
                    live.push(new);
                }
                if let Some(until) = now.checked_sub(10) {
                    slots.reclaim(Epoch::from_secs(until));
                    waiting.retain(|(at, _)| *at > until);
                }
            }
            for range in live {
                slots.release(range, Epoch::MAX);
            }
            slots.reclaim(Epoch::MAX);
            slots.commit();
            prop_assert_eq!(slots.room, 200);
            prop_assert_eq!(slots.allocate(200), Ok(range(0, 200)));
            prop_assert_eq!(slots.room, 0);
        }
    }
}
