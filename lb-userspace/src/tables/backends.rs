//! The rows of an array of backends.
//!
//! Decides how they are kept: by id, without gaps, since ids are given from the lowest on. There may be hundreds of
//! thousands, and a tree would take them twice the room. Must not know who owns a row. Invariant: a row without a
//! generation was never given to anybody, and is none.

use std::ops::Index;

use bytemuck::Zeroable as _;
use lb_common::abi::{BackendId, BackendRow};
use lb_common::address::Address;

/// Backends by id.
#[derive(Clone, Debug)]
pub struct Backends<A: Address> {
    /// Those without a generation are not there.
    rows: Vec<BackendRow<A>>,
    count: usize,
}

impl<A: Address> Default for Backends<A> {
    fn default() -> Self {
        Self { rows: Vec::new(), count: 0 }
    }
}

impl<A: Address> Backends<A> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The row of an id.
    #[must_use]
    pub fn get(&self, id: &BackendId) -> Option<&BackendRow<A>> {
        self.rows.get(id.0 as usize).filter(|row| row.generation != 0)
    }

    /// Is there a row of that id?
    #[must_use]
    pub fn contains_key(&self, id: &BackendId) -> bool {
        self.get(id).is_some()
    }

    /// Puts a row in the place of what is there; one without a generation takes it out.
    pub fn insert(&mut self, id: BackendId, row: BackendRow<A>) {
        let place = id.0 as usize;
        if self.rows.len() <= place {
            if row.generation == 0 {
                return;
            }
            self.rows.resize(place + 1, BackendRow::zeroed());
        }
        self.count -= usize::from(self.rows[place].generation != 0);
        self.count += usize::from(row.generation != 0);
        self.rows[place] = row;
    }

    /// Takes a row out.
    pub fn remove(&mut self, id: &BackendId) {
        self.insert(*id, BackendRow::zeroed());
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (BackendId, &BackendRow<A>)> + '_ {
        (0..).map(BackendId).zip(&self.rows).filter(|(_, row)| row.generation != 0)
    }

    /// The rows of all, by id.
    pub fn values(&self) -> impl Iterator<Item = &BackendRow<A>> + '_ {
        self.iter().map(|(_, row)| row)
    }

    /// Takes out all but those that `stays` wants.
    pub fn retain(&mut self, mut stays: impl FnMut(BackendId, &BackendRow<A>) -> bool) {
        let gone: Vec<BackendId> =
            self.iter().filter(|(id, row)| !stays(*id, row)).map(|(id, _)| id).collect();
        gone.iter().for_each(|id| self.remove(id));
    }
}

impl<A: Address> PartialEq for Backends<A> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<A: Address> Eq for Backends<A> {}

impl<A: Address> Index<&BackendId> for Backends<A> {
    type Output = BackendRow<A>;

    /// The row of an id that has one.
    fn index(&self, id: &BackendId) -> &BackendRow<A> {
        &self.rows[id.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use lb_common::address::V4;

    use super::*;

    #[test]
    fn what_is_taken_out_leaves_no_trace() {
        let row = BackendRow::<V4> { generation: 1, ..BackendRow::zeroed() };
        let mut backends = Backends::default();
        backends.insert(BackendId(2), row);
        let before = backends.clone();
        backends.insert(BackendId(7), row);
        assert_eq!((backends.len(), backends.iter().map(|(id, _)| id.0).collect()), (2, vec![2, 7]));
        backends.insert(BackendId(7), BackendRow::zeroed());
        backends.remove(&BackendId(900));
        assert_eq!((backends.len(), backends.contains_key(&BackendId(7))), (1, false));
        assert_eq!(backends, before);
        backends.retain(|id, _| id.0 != 2);
        assert!(backends.is_empty() && backends.get(&BackendId(2)).is_none());
    }
}
