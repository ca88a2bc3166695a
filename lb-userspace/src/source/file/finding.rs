//! What is to be told about the input.
//!
//! Decides how a finding reads: one line, place first, as compilers do it. Invariant: it says what
//! is wrong, what became of it, and what to do.

use std::path::PathBuf;

use super::tree::Place;
use crate::model::ObjectKey;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something that was written is not in force.
    Problem,
    /// Good to know.
    Note,
}

/// Something to be told about the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file or folder.
    pub file: PathBuf,
    /// Where in the file.
    pub at: Option<Place>,
    /// The object.
    pub object: Option<ObjectKey>,
    /// What is wrong, what became of it, what to do.
    pub message: String,
}

impl Finding {
    /// A problem with a file as a whole.
    pub(super) fn problem(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Problem,
            file: file.into(),
            at: None,
            object: None,
            message: message.into(),
        }
    }

    /// A note about a file as a whole.
    pub(super) fn note(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::problem(file, message) }
    }

    pub(super) fn at(mut self, at: Place) -> Self {
        self.at = Some(at);
        self
    }

    pub(super) fn about(mut self, object: ObjectKey) -> Self {
        self.object = Some(object);
        self
    }
}

impl std::fmt::Display for Finding {
    /// `path:line:column: Service namespace/name: message`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, ":{at}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        write!(f, ": {}", self.message)
    }
}
