//! Objects from a folder of manifests.
//!
//! Decides which files are read (`*.yaml`, `*.yml` and `*.json` in the folder itself, names that
//! start with a dot left out; folders inside it are not entered), what stays in force while
//! something is broken, and when the folder is read again. Must not know what objects are used for.
//! Invariant: a file that does not parse keeps its last good objects; a folder that is gone keeps
//! them all.

mod folder;
mod host;
mod objects;
mod tree;
mod typed;
mod watch;

pub use super::finding::{Finding, Severity};
pub use folder::{Folder, Snapshot, read_once};
pub use host::{Host, host_addresses, host_name};
pub use tree::Place;
pub use watch::FileSource;

/// Why a folder or file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableFolder {
    /// There is nothing of that name.
    #[error("{} does not exist; create the folder, or give the right one with --path", .0.display())]
    Missing(std::path::PathBuf),
    /// A file cannot be watched.
    #[error("{} is a file; give the folder that it is in", .0.display())]
    NotAFolder(std::path::PathBuf),
    /// The system refuses.
    #[error("reading {} failed: {reason}; check the permissions", path.display())]
    Refused {
        /// What was to be read.
        path: std::path::PathBuf,
        /// The system's words.
        reason: String,
    },
}
