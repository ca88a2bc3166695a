//! Things by id, where ids are given from the lowest on.
//!
//! Decides how they are kept: in a list, in which each has the place of its id. A tree would take twice the room, its
//! nodes being half empty once they were filled in order. Must not know what an id is of. Invariant: none but those that
//! were put in are found.

/// Things by id.
#[derive(Clone, Debug)]
pub(super) struct ById<T>(Vec<Option<T>>);

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> ById<T> {
    /// That of an id.
    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.0.get(id as usize)?.as_ref()
    }

    /// That of an id, to be changed.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.0.get_mut(id as usize)?.as_mut()
    }

    /// That of an id; made, where there is none.
    pub(super) fn get_or_insert_with(&mut self, id: u32, make: impl FnOnce() -> T) -> &mut T {
        let place = id as usize;
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place].get_or_insert_with(make)
    }

    /// Takes that of an id out.
    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        self.0.get_mut(id as usize)?.take()
    }

    /// All ids that have one, from the lowest on.
    pub(super) fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.0).filter_map(|(id, thing)| thing.as_ref().map(|_| id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_is_found_no_more() {
        let mut things = ById::default();
        assert_eq!(*things.get_or_insert_with(3, || "c"), "c");
        assert_eq!(*things.get_or_insert_with(3, || "d"), "c");
        things.get_or_insert_with(1, || "a");
        assert_eq!((things.get(2), things.get(9), things.ids().collect()), (None, None, vec![1, 3]));
        assert_eq!((things.remove(3), things.remove(3), things.remove(9)), (Some("c"), None, None));
        assert_eq!(things.get_mut(1).map(|thing| std::mem::replace(thing, "b")), Some("a"));
        assert_eq!(things.get(1), Some(&"b"));
    }
}
