//! Where an endpoint runs, and who should use it.
//!
//! Decides that what is the same is kept once: there may be hundreds of thousands of endpoints, on few nodes, in fewer
//! zones. Must not know addresses. Invariant: a placement that nobody has any longer is not kept for ever.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What is said of an endpoint's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placement {
    /// The node it runs on.
    pub node: Option<Box<str>>,
    /// Zones whose nodes should use it (C13).
    pub for_zones: Box<[String]>,
    /// Nodes that should use it (C13).
    pub for_nodes: Box<[String]>,
}

impl Placement {
    /// On that node, with those hints; `None` where all of that says nothing.
    #[must_use]
    pub fn of(
        node: Option<&str>,
        for_zones: impl IntoIterator<Item = String>,
        for_nodes: impl IntoIterator<Item = String>,
    ) -> Option<Arc<Self>> {
        let placement = Self {
            node: node.map(Into::into),
            for_zones: for_zones.into_iter().collect(),
            for_nodes: for_nodes.into_iter().collect(),
        };
        (placement != Self::default()).then(|| Arc::new(placement))
    }

    /// On that node, without hints.
    #[must_use]
    pub fn on(node: &str) -> Option<Arc<Self>> {
        Self::of(Some(node), None, None)
    }
}

/// Placements that are in use, each once.
#[derive(Clone, Debug, Default)]
pub struct Placements(BTreeSet<Arc<Placement>>);

impl Placements {
    /// Replaces a placement by an equal one that is known already.
    pub fn share(&mut self, placement: &mut Arc<Placement>) {
        match self.0.get(placement) {
            Some(known) => *placement = known.clone(),
            None => {
                if self.0.len().is_power_of_two() {
                    self.0.retain(|known| Arc::strong_count(known) > 1);
                }
                self.0.insert(placement.clone());
            }
        }
    }

    /// How many are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
