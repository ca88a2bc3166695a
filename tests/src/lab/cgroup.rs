//! A cgroup for the threads that play a node's own processes.
//!
//! Decides where it is: below this process's own cgroup, as a threaded one (cgroups(7)), so that single threads can
//! join it. Must not know what hangs on it. Invariant: nothing outside of it is touched, so that an agent under test
//! can hang programs on it that no other process of the machine runs through.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Makes the cgroup of that name; `None` on a machine without a unified hierarchy.
pub(super) fn make(name: &str) -> Result<Option<PathBuf>> {
    let Some(parent) = parent() else { return Ok(None) };
    let folder = parent.join(name);
    fs::create_dir(&folder).with_context(|| format!("make the cgroup {}", folder.display()))?;
    fs::write(folder.join("cgroup.type"), "threaded")
        .with_context(|| format!("make the cgroup {} a threaded one", folder.display()))?;
    Ok(Some(folder))
}

/// Moves the calling thread there.
pub(super) fn join(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.threads"), "0")
}

/// Removes the cgroups that are chosen by their names. One that still has threads stays, until a lab is built after
/// their end.
pub(super) fn remove(chosen: &dyn Fn(&str) -> bool) -> Result<()> {
    let Some(parent) = parent() else { return Ok(()) };
    let entries =
        fs::read_dir(&parent).with_context(|| format!("list the cgroups in {}", parent.display()))?;
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(chosen) {
            continue;
        }
        match fs::remove_dir(entry.path()) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ResourceBusy) => {
                return Err(error).with_context(|| format!("remove the cgroup {}", entry.path().display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// This process's own cgroup of the unified hierarchy.
fn parent() -> Option<PathBuf> {
    let root = lb_userspace::datapath::cgroup::root().ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(root.join(path))
}
