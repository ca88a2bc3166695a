//! What happened to the objects.
//!
//! Decides what a source can say. Must not know sources. Invariant: a relist is one change, so that
//! nobody sees half of it.

use super::{Kind, Object, ObjectKey, State};

/// Something that happened to the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An object is new or different.
    Apply(Object),
    /// An object is gone.
    Delete(ObjectKey),
    /// These are all objects of a kind.
    Relist(Kind, Vec<Object>),
    /// These are all objects.
    RelistAll(Vec<Object>),
}

impl Change {
    /// Does it say what all objects are, or all of a kind?
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self, Self::Relist(..) | Self::RelistAll(_))
    }
}

impl State {
    /// Takes in a change; says whether anything is different now.
    pub fn take_in(&mut self, change: Change) -> bool {
        let relisted = match change {
            Change::Apply(object) => return self.apply(object),
            Change::Delete(key) => return self.delete(&key),
            Change::Relist(kind, objects) => self.replace_kind(kind, objects),
            Change::RelistAll(objects) => self.replace_all(objects),
        };
        relisted.changed + relisted.deleted > 0
    }
}
