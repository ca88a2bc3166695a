//! When the folder is read again.
//!
//! Decides that a change counts once its writer has closed the file or put it in place, so that a
//! half-written file is not taken for the whole. Must not know what files hold. Invariant: the
//! latest state of the folder is read in the end, also where events are lost: the folder is looked
//! at every few seconds anyway.
//!
//! There is no fixed delay. Only a removal waits a moment, to see whether the whole folder is going:
//! then everything stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::UnreadableFolder;
use super::folder::{Folder, Snapshot};
use super::host::Host;
use crate::source::finding::Finding;

/// How long after a removal the next one is awaited, and how often at most.
const REMOVAL_SETTLES: Duration = Duration::from_millis(50);
const REMOVALS_AWAITED: u32 = 20;
/// How often the folder is looked at without an event; file systems without events need it.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long a file may stay open for writing before it is read all the same.
const UNFINISHED_AT_MOST: Duration = Duration::from_secs(2);

/// A folder of manifests that is watched.
pub struct FileSource {
    folder: Folder,
    path: PathBuf,
    host: Host,
    last: Snapshot,
    /// Which file system and folder the watch is on.
    watched: Option<(u64, u64)>,
    looks: BTreeMap<PathBuf, Look>,
    watcher: Option<RecommendedWatcher>,
    pending: Arc<Shared>,
}

/// What a file looks like from outside.
type Look = (u64, u64, i64, i64);

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Notify,
}

/// What events have said since the folder was last read.
#[derive(Default)]
struct Pending {
    read: bool,
    removals: u64,
    unfinished: BTreeMap<PathBuf, Instant>,
}

impl FileSource {
    /// Starts to watch a folder and reads it for the first time. Where it has no Node of
    /// `host.name`, one is made of `host` (contract C4).
    ///
    /// # Errors
    /// If the folder is not there or may not be read.
    pub fn open(path: &Path, host: Host) -> Result<Self, UnreadableFolder> {
        if path.is_file() {
            return Err(UnreadableFolder::NotAFolder(path.to_owned()));
        }
        let mut source = Self {
            folder: Folder::new(path),
            path: path.to_owned(),
            host,
            last: Snapshot::default(),
            watched: None,
            looks: BTreeMap::new(),
            watcher: None,
            pending: Arc::default(),
        };
        source.watch();
        source.looks = looks(path);
        source.last = source.folder.read(&BTreeSet::new())?.with_node(&source.host, path);
        Ok(source)
    }

    /// What the folder last said.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.last
    }

    /// Waits until the folder says something else, and returns that. Reading is blocking I/O, and
    /// short. Cancel safe: what is dropped here is found by the next call.
    pub async fn changed(&mut self) -> &Snapshot {
        loop {
            self.wait().await;
            if let Some(next) = self.look()
                && next != self.last
            {
                self.last = next;
                return &self.last;
            }
        }
    }

    /// Waits for an event or a while, then for removals to settle.
    async fn wait(&self) {
        if !self.lock().read {
            // A time-out is as good as an event: the folder is looked at.
            let _ = timeout(LOOK_AGAIN, self.pending.wake.notified()).await;
        }
        let mut removals = 0;
        for _ in 0..REMOVALS_AWAITED {
            let so_far = self.lock().removals;
            if so_far == removals {
                break;
            }
            removals = so_far;
            sleep(REMOVAL_SETTLES).await;
        }
    }

    /// Reads the folder if anything tells that it changed.
    fn look(&mut self) -> Option<Snapshot> {
        let now = Instant::now();
        let (asked, unfinished) = {
            let mut pending = self.lock();
            pending.unfinished.retain(|_, since| now.duration_since(*since) < UNFINISHED_AT_MOST);
            let asked = std::mem::take(&mut pending.read);
            pending.removals = 0;
            (asked, pending.unfinished.keys().cloned().collect::<BTreeSet<_>>())
        };
        let moved = identity(&self.path) != self.watched;
        if moved {
            self.watch();
        }
        let looks = looks(&self.path);
        if !asked && !moved && looks == self.looks {
            return None;
        }
        let read = self.folder.read(&unfinished);
        // A file that was passed over is to be found different next time.
        self.looks = looks.into_iter().filter(|(path, _)| !unfinished.contains(path)).collect();
        Some(match read {
            Ok(next) => next.with_node(&self.host, &self.path),
            Err(error) => {
                let message = format!("{error}; its last state stays in force until it is back");
                let finding = Finding::problem(&self.path, message);
                Snapshot { findings: vec![finding], ..self.last.clone() }
            }
        })
    }

    /// Watches the folder of that name as it is now, and the folder around it for its coming and
    /// going. Without a watch, looking every few seconds remains.
    fn watch(&mut self) {
        self.watcher = None;
        self.watched = identity(&self.path);
        let shared = Arc::clone(&self.pending);
        let path = self.path.clone();
        let handler = move |event: notify::Result<Event>| shared.take(&path, event);
        let mut watcher = match notify::recommended_watcher(handler) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "no watch; looking every 2 s instead");
                return;
            }
        };
        let around =
            self.path.parent().map(|parent| if parent == Path::new("") { Path::new(".") } else { parent });
        for folder in [Some(self.path.as_path()), around].into_iter().flatten() {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::debug!(path = %folder.display(), %error, "not watched");
            }
        }
        self.watcher = Some(watcher);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Takes in an event, on notify's own thread.
    fn take(&self, folder: &Path, event: notify::Result<Event>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) => {
                let name = folder.file_name();
                let concerns = |path: &PathBuf| path.starts_with(folder) || path.file_name() == name;
                if !event.need_rescan() && !event.paths.iter().any(concerns) {
                    return;
                }
                match event.kind {
                    EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
                        let now = Instant::now();
                        for path in event.paths {
                            pending.unfinished.entry(path).or_insert(now);
                        }
                        return;
                    }
                    EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
                    EventKind::Access(_) => return,
                    EventKind::Remove(_) => pending.removals += 1,
                    _ => {}
                }
                for path in &event.paths {
                    pending.unfinished.remove(path);
                }
            }
            Err(error) => tracing::debug!(%error, "a watch failed; the folder is read again"),
        }
        pending.read = true;
        drop(pending);
        self.wake.notify_one();
    }
}

/// Which folder a path leads to, links followed; `None` where there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let meta = path.metadata().ok()?;
    Some((meta.dev(), meta.ino()))
}

/// What the files of a folder look like from outside, links followed.
fn looks(path: &Path) -> BTreeMap<PathBuf, Look> {
    let entries = path.read_dir().into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let meta = entry.path().metadata().ok()?;
            Some((entry.path(), (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())))
        })
        .collect()
}
