//! What is to be told about the input.
//!
//! Decides how a finding reads: one line, place first, as compilers do it. Invariant: it says what
//! is wrong, what became of it, and what to do.

use std::path::PathBuf;

use super::Rejected;
use super::file::Place;
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
    /// The file or folder; `None` where it came from an API server.
    pub file: Option<PathBuf>,
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
            file: Some(file.into()),
            at: None,
            object: None,
            message: message.into(),
        }
    }

    /// A note about a file as a whole.
    pub(super) fn note(file: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::problem(file, message) }
    }

    /// A problem with a field of an object that came from an API server.
    pub(super) fn rejected(rejected: &Rejected) -> Self {
        let message = format!("{}: {}", rejected.field, rejected.reason);
        Self::about_object(Severity::Problem, rejected.object.clone(), message)
    }

    /// Something about an object that came from an API server, or should have.
    pub(super) fn about_object(severity: Severity, object: ObjectKey, message: impl Into<String>) -> Self {
        Self { severity, file: None, at: None, object: Some(object), message: message.into() }
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
    /// `path:line:column: Service namespace/name: message`, the place only where there is a file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(at) = self.at {
                write!(f, ":{at}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}
