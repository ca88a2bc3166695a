//! Sets that mostly have few things in them.
//!
//! Decides how they are kept: in a sorted list without room to spare, and in a tree where they are many. A tree has room
//! for eleven in its smallest node, and a cluster has a hundred thousand sets of one to ten. Must not know what is in
//! them. Invariant: in order, and each thing once.

use std::collections::BTreeSet;

/// A list longer than this becomes a tree: each change of a list costs its length.
const MANY: usize = 256;

/// A set.
#[derive(Clone, Debug)]
pub(super) enum Few<T> {
    /// Sorted.
    List(Box<[T]>),
    /// Many.
    #[expect(clippy::box_collection, reason = "the few take no room for it")]
    Tree(Box<BTreeSet<T>>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Few<T> {
    /// Nothing.
    pub(super) fn new() -> Self {
        Self::List(Box::default())
    }

    /// Is there nothing in it?
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::List(list) => list.is_empty(),
            Self::Tree(tree) => tree.is_empty(),
        }
    }

    /// All, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        let (list, tree) = match self {
            Self::List(list) => (&**list, None),
            Self::Tree(tree) => (&[][..], Some(tree.iter())),
        };
        list.iter().chain(tree.into_iter().flatten())
    }
}

impl<T: Ord> Few<T> {
    /// Puts it in; says whether it was not in it.
    pub(super) fn insert(&mut self, thing: T) -> bool {
        match self {
            Self::List(list) => {
                let Err(place) = list.binary_search(&thing) else { return false };
                let mut more = std::mem::take(list).into_vec();
                more.reserve_exact(1);
                more.insert(place, thing);
                *self = Self::of_sorted(more);
                true
            }
            Self::Tree(tree) => tree.insert(thing),
        }
    }

    /// Takes it out; says whether it was in it.
    pub(super) fn remove(&mut self, thing: &T) -> bool {
        match self {
            Self::List(list) => {
                let Ok(place) = list.binary_search(thing) else { return false };
                let mut fewer = std::mem::take(list).into_vec();
                fewer.remove(place);
                *list = fewer.into_boxed_slice();
                true
            }
            Self::Tree(tree) => tree.remove(thing),
        }
    }

    /// Puts all of them in.
    pub(super) fn extend(&mut self, things: impl IntoIterator<Item = T>) {
        for thing in things {
            self.insert(thing);
        }
    }

    fn of_sorted(list: Vec<T>) -> Self {
        if list.len() > MANY {
            Self::Tree(Box::new(list.into_iter().collect()))
        } else {
            Self::List(list.into_boxed_slice())
        }
    }
}

impl<T: Ord> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<T: Ord> Eq for Few<T> {}

impl<T: Ord> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(things: I) -> Self {
        let mut list: Vec<T> = things.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self::of_sorted(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_in_it_once_and_in_order() {
        let mut few: Few<u8> = [5, 3, 5, 9].into_iter().collect();
        assert!(few.insert(4) && !few.insert(3) && few.remove(&9) && !few.remove(&9));
        assert_eq!(few.iter().copied().collect::<Vec<_>>(), [3, 4, 5]);
        assert!(!few.is_empty());
        few.extend([7, 4]);
        assert_eq!(few, [3, 4, 5, 7].into_iter().collect());
    }

    #[test]
    fn it_takes_no_more_room_than_a_list() {
        assert_eq!(size_of::<Few<u32>>(), size_of::<Box<[u32]>>());
    }

    #[test]
    fn many_are_the_same_set_however_they_came() {
        let all = 0..1_000u32;
        let mut one: Few<u32> = Few::new();
        assert!(all.clone().rev().all(|thing| one.insert(thing)));
        let mut other: Few<u32> = all.clone().collect();
        assert_eq!(one, other);
        assert!(all.clone().skip(3).all(|thing| one.remove(&thing) && other.remove(&thing)));
        assert_eq!(one, [2, 0, 1].into_iter().collect());
        assert!(!one.insert(2) && (0..3).all(|thing| one.remove(&thing)) && one.is_empty());
    }
}
