//! What many slices say alike.
//!
//! Decides that what is the same is kept once: there may be hundreds of thousands of endpoints on few nodes, in fewer
//! zones, and most slices have the same ports. Must not know what the things mean. Invariant: what nobody has any longer
//! is not kept for ever.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{EndpointPort, Placement};

/// Things that are in use, each once.
#[derive(Debug)]
pub(super) struct Shared<T: ?Sized>(BTreeSet<Arc<T>>);

impl<T: ?Sized + Ord> Shared<T> {
    /// Replaces a thing by an equal one that is known already.
    pub(super) fn share(&mut self, thing: &mut Arc<T>) {
        match self.0.get(&**thing) {
            Some(known) => *thing = known.clone(),
            None => {
                if self.0.len().is_power_of_two() {
                    self.0.retain(|known| Arc::strong_count(known) > 1);
                }
                self.0.insert(thing.clone());
            }
        }
    }

    /// How many are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<T: ?Sized> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

/// The parts of slices that are known already.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub(super) placements: Shared<Placement>,
    pub(super) ports: Shared<[EndpointPort]>,
}
