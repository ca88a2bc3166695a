//! Trees in no more room than they need.
//!
//! Decides nothing but how. Must not know what is in a tree. Invariant: what is in it stays as it is.

use std::collections::BTreeMap;

/// Lays a tree out anew: the nodes of one that was filled in order are half empty. For after a list, since what changes
/// later seldom has a key that was not there.
pub(crate) fn pack<K: Ord, V>(tree: &mut BTreeMap<K, V>) {
    *tree = std::mem::take(tree).into_iter().collect();
}
