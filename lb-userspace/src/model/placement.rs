//! Where an endpoint runs, and who should use it.
//!
//! Decides what is kept of that. Must not know addresses, nor who shares a placement. Invariant: a placement says
//! something; an endpoint of which nothing is said has none.

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
