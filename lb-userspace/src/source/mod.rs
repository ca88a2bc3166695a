//! Where objects come from: their types turned into the model's.
//!
//! Decides what of an object is usable and reports the rest, field by field. The only room that
//! knows Kubernetes' types. Invariant: bad input costs the field, endpoint or object that it is
//! in, never its neighbours.

pub mod file;
mod finding;
pub mod kube;
pub mod kubernetes;

use std::time::Instant;

pub use finding::{Finding, Severity};

use crate::model::{Change, ObjectKey};

/// What a source says, all at once, since it was last asked.
#[derive(Clone, Debug)]
pub struct Update {
    /// What happened to the objects, in this order.
    pub changes: Vec<Change>,
    /// What is to be told that was not told before.
    pub findings: Vec<Finding>,
    /// When the first of the changes was received.
    pub received: Instant,
}

/// Something in an object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field}: {reason}")]
pub struct Rejected {
    /// The object.
    pub object: ObjectKey,
    /// Where in it.
    pub field: FieldPath,
    /// What is wrong with it, what became of it, and what to write instead.
    pub reason: String,
}

/// The way to a field inside an object, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldPath(pub Vec<Step>);

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// To a field.
    Key(String),
    /// To an item of a list, from 0.
    Index(usize),
}

impl FieldPath {
    /// A path of field names, as `spec.clusterIP`; list items follow by [`FieldPath::item`].
    #[must_use]
    pub fn of(dotted: &str) -> Self {
        Self::default().key(dotted)
    }

    /// Further, to a field; dots separate several.
    #[must_use]
    pub fn key(mut self, dotted: &str) -> Self {
        self.0.extend(dotted.split('.').map(|name| Step::Key(name.to_owned())));
        self
    }

    /// Further, to an item of the list.
    #[must_use]
    pub fn item(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }
}

impl std::fmt::Display for FieldPath {
    /// `spec.ports[0].nodePort`; `object` for the object as a whole.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("object");
        }
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(name) if position == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
